"""Records a second through a leader: real-time topic → merge → version topic → fold, in one worker.

    python tests/bench/bench_leader.py [--kafka HOST:PORT] [--records 200000] [--rounds 5] [--partitions 8] [--keys 100000]

Values of 250 bytes, put one by one and each later than the last, so that every one of them stands. They are in the real-time
topic before the worker starts; it runs its whole dataflow in one process. Time counts from the first records folded on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from worker_kit import HybridVersion, LocalWorker, append_all, keys_by_partition, make_version

from venice.clock import SystemClock
from venice.log import Log
from venice.log.open import open_log
from venice.record import Kind, Origin, Record, encode

VALUE = b"\x80\x04" + b"x" * 248


def fill(log: Log, version: HybridVersion, keys: Sequence[Sequence[bytes]], records: int) -> None:
    """Append what producers would."""
    for partition, own in enumerate(keys):
        payloads = [
            encode(Record(Kind.PUT, key=own[number % len(own)], value=VALUE, schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=number + 1))
            for number in range(records // len(keys))
        ]
        append_all(log, version.site.topic, partition, payloads)


def lead(url: str, log: Log, partitions: int, keys: Sequence[Sequence[bytes]], records: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        version = make_version(log, url, Path(folder), partitions)
        fill(log, version, keys, records)
        worker = LocalWorker(url, Path(folder))
        rates: list[float] = []
        version.hold(worker.id, lead=True)
        entries = records // partitions * partitions
        worker.run_beside(lambda worker: rates.append(worker.until_folded(partitions, entries)))
        version.remove()
        return rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--keys", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"kafka:{options.kafka}" if options.kafka else f"sqlite:{folder}/log"
        log = open_log(url, SystemClock())
        keys = keys_by_partition(options.keys, options.partitions)
        rates = [lead(url, log, options.partitions, keys, options.records) for _ in range(options.rounds)]
        print(f"  {url.partition(':')[0]:8} {statistics.median(rates):>10,.0f}/s   ({min(rates):,.0f} – {max(rates):,.0f})")
        log.close()


if __name__ == "__main__":
    main()
