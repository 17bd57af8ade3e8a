"""Quix Streams as `bench_fold.py` runs it, under an interpreter that has it: keys and values of a topic into its state.

    PYTHON quix_fold.py HOST:PORT TOPIC RECORDS FOLDER

Prints records per second. No changelog topic, the values as they come: the least that Quix can be asked to do.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from quixstreams import Application  # type: ignore[import-not-found]  # installed beside, never with Venice


def main() -> None:
    servers, topic, records, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    application = Application(
        broker_address=servers,
        consumer_group=f"bench-{time.time_ns()}",
        auto_offset_reset="earliest",
        state_dir=folder,
        use_changelog_topics=False,
        loglevel="ERROR",
    )
    times: list[float] = []

    def keep(value: bytes, state: Any) -> None:
        state.set_bytes("value", value)
        times.append(time.perf_counter())

    messages = application.topic(topic, key_deserializer="bytes", value_deserializer="bytes")
    frame = application.dataframe(messages)
    frame.update(keep, stateful=True)
    application.run(count=records, timeout=60)
    print((len(times) - 1) / (times[-1] - times[0]))


if __name__ == "__main__":
    main()
