"""Writes per second through the producer, sync and async, beside encoding alone and appending alone.

    python tests/bench/bench_producer.py [--kafka HOST:PORT] [--writes 30000] [--rounds 5]

Values of 250 bytes, 8 partitions. Each round runs all of them one after the other; printed are medians and the best round. What
a producer could reach is 1 / (1 / encode + 1 / append): both need the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from producer_kit import make_site

from venice.client.producer import AsyncProducer, Producer
from venice.client.target import Target
from venice.clock import SystemClock
from venice.log.open import open_log

PARTITIONS = 8
KEYS = 20_000
BATCH = 1000
PAGE = "x" * 240


def rates(url: str, writes: int, rounds: int) -> dict[str, list[float]]:
    """Writes per second of each way, by round."""
    log = open_log(url, SystemClock())
    site = make_site(log, url, partitions=PARTITIONS)
    target = Target(url, site.store.name, None, clock=SystemClock(), timeout_s=30.0)

    def encode() -> list[list[bytes]]:
        payloads: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        for n in range(writes):
            partition, payload = target.put(f"user {n % KEYS}", {"page": PAGE, "n": n}, None)
            payloads[partition].append(payload)
        return payloads

    encoded = encode()

    def append() -> None:
        for partition, payloads in enumerate(encoded):
            for start in range(0, len(payloads), BATCH):
                log.append(site.topic, partition, payloads[start : start + BATCH])

    def put() -> None:
        for n in range(writes):
            producer.put(f"user {n % KEYS}", {"page": PAGE, "n": n})
        producer.flush()

    async def put_async() -> None:
        async with AsyncProducer(url, site.store.name) as producer:
            for n in range(writes):
                await producer.put(f"user {n % KEYS}", {"page": PAGE, "n": n})
            await producer.flush()

    ways: dict[str, Callable[[], object]] = {
        "encode": encode,
        "append": append,
        "producer": put,
        "async producer": lambda: asyncio.run(put_async()),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    with Producer(url, site.store.name) as producer:
        for _ in range(rounds):
            for way, run in ways.items():
                start = time.perf_counter()
                run()
                found[way].append(writes / (time.perf_counter() - start))
    target.close()
    site.remove()
    log.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT")
    parser.add_argument("--writes", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for url in [f"sqlite:{folder}/log", *([f"kafka:{options.kafka}"] if options.kafka else [])]:
            print(url.partition(":")[0])
            for way, found in rates(url, options.writes, options.rounds).items():
                print(f"  {way:15} {statistics.median(found):>10,.0f}/s   best {max(found):>10,.0f}/s")


if __name__ == "__main__":
    main()
