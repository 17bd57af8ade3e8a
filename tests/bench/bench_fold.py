"""Records a second from Kafka into replicas: a worker's fold, a plain loop, and Quix Streams into its own state.

    python tests/bench/bench_fold.py --kafka HOST:PORT [--records 400000] [--rounds 5] [--partitions 8] [--keys 100000]
        [--quix PYTHON]
    python tests/bench/bench_fold.py --kafka HOST:PORT --cells 1x10000,8x10000,64x10000,1x1000,1x1000000 [--records 400000]

Values of 250 bytes. The fold is the whole dataflow of one worker, reading what a leader appended. Two loops as anybody would
write them consume, put into a batch of 1000 and write it with where it ends into one RocksDB, its log on:
"loop" has the very topic of the fold, the reader's Kafka settings and a replica's RocksDB options; it decodes nothing: the value is
the whole record, the key a slice at a fixed place. "plain" has the same keys and values as Kafka messages of its own, 85 bytes
smaller, and RocksDB's defaults. Quix (an interpreter that has `quixstreams`) sets the latter as state. Each round runs all of them
one after the other; ratios are taken within a round. Time counts from the first records on.

With `--cells` only the fold is measured, for PARTITIONSxKEYS: so many partitions whose snapshots hold so many small rows each, of
which random ones are written. Ratios are to the first cell.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from confluent_kafka import Consumer, Producer, TopicPartition
from rocksdict import Options, Rdict, WriteBatch
from worker_kit import HybridVersion, LocalWorker, append_all, keys_by_partition, leader_records, make_version

from venice.clock import SystemClock
from venice.log import Log
from venice.log.open import open_log
from venice.storage.tuning import open_rocks

VALUE = b"\x80\x04" + b"x" * 248
PLAIN_BATCH = 1000
KEY_AT, KEY_END = 66, 81
"""Where the keys of `keys_by_partition` stand in a leader's records."""
QUIX_FOLD = Path(__file__).resolve().parent / "quix_fold.py"


def fill(log: Log, version: HybridVersion, keys: Sequence[Sequence[bytes]], records: int) -> int:
    """Append what leaders would; returns how many entries the topic holds."""
    for partition, own in enumerate(keys):
        append_all(log, version.topic, partition, leader_records(partition, own, VALUE, records // len(keys)))
    return (records // len(keys) + 2) * len(keys)


def fill_plain(log: Log, servers: str, topic: str, keys: Sequence[Sequence[bytes]], records: int) -> None:
    """As many keys and values, as anybody's Kafka messages."""
    log.create_topic(topic, len(keys))
    producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
    for partition, own in enumerate(keys):
        for number in range(records // len(keys)):
            while True:
                try:
                    producer.produce(topic, VALUE, own[number % len(own)], partition)
                    break
                except BufferError:
                    producer.poll(0.1)
    producer.flush()


def fold(url: str, version: HybridVersion, entries: int) -> float:
    """The dataflow of one worker, its endpoint, catalog and reports included."""
    with tempfile.TemporaryDirectory() as folder:
        worker = LocalWorker(url, Path(folder))
        rates: list[float] = []
        version.hold(worker.id, lead=False)
        worker.run_beside(lambda worker: rates.append(worker.until_folded(version.version.partition_count, entries)))
        return rates[0]


def plain(servers: str, topic: str, partitions: int, records: int, *, as_replica: bool = False) -> float:
    """Consume, put into a batch, write the batch with where it ends."""
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False, "fetch.queue.backoff.ms": 2}
        | ({"check.crcs": True, "enable.auto.offset.store": False, "auto.offset.reset": "error"} if as_replica else {})
    )
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
    with tempfile.TemporaryDirectory() as folder:
        rocks = open_rocks(Path(folder), create=True) if as_replica else Rdict(folder, Options(raw_mode=True))
        count, first = 0, None
        while count < records:
            messages = consumer.consume(PLAIN_BATCH, 0.05)
            if not messages:
                continue
            first = first or (time.perf_counter(), len(messages))
            batch = WriteBatch(raw_mode=True)
            ends = {}
            if as_replica:
                for message in messages:
                    payload = message.value() or b""
                    batch.put(payload[KEY_AT:KEY_END], payload)
                    ends[message.partition()] = message.offset()
            else:
                for message in messages:
                    batch.put(message.key() or b"", message.value() or b"")
                    ends[message.partition()] = message.offset()
            batch.put(b"ends", repr(ends).encode())
            rocks.write(batch)
            count += len(messages)
        assert first is not None
        rate = (count - first[1]) / (time.perf_counter() - first[0])
        rocks.close()
    consumer.close()
    return rate


def quix(python: str, servers: str, topic: str, records: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, str(QUIX_FOLD), servers, topic, str(records), folder], capture_output=True, text=True, check=True, timeout=200
        )
    return float(done.stdout)


def cells(log: Log, url: str, shapes: Sequence[tuple[int, int]], records: int, rounds: int) -> None:
    """The fold alone, for each (partitions, keys of each)."""
    rng = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        versions = []
        for partitions, count in shapes:
            rows = [b"\x1cuser %09d" % number for number in range(count)]
            version = make_version(log, url, Path(folder), partitions, rows)
            drawn = [rng.choices(rows, k=records // partitions) for _ in range(partitions)]
            versions.append((version, fill(log, version, drawn, records)))
        found: list[list[float]] = [[] for _ in shapes]
        for _ in range(rounds):
            for (version, entries), rates in zip(versions, found, strict=True):
                rates.append(fold(url, version, entries))
        for (partitions, count), rates in zip(shapes, found, strict=True):
            ratios = [one / first for one, first in zip(rates, found[0], strict=True)]
            print(
                f"  {partitions:3} x {count:>10,} keys {statistics.median(rates):>10,.0f}/s   ({min(rates):,.0f} – {max(rates):,.0f})"
                f"   to the first {statistics.median(ratios):5.2f}   ({min(ratios):.2f} – {max(ratios):.2f})",
                flush=True,
            )
        for version, _ in versions:
            version.remove()


def show(found: dict[str, list[float]]) -> None:
    for way, rates in found.items():
        ratios = [ours / theirs for ours, theirs in zip(found["fold"], rates, strict=True)]
        against = "" if way == "fold" else f"   fold / {way} {statistics.median(ratios):5.2f}   ({min(ratios):.2f} – {max(ratios):.2f})"
        print(f"  {way:8} {statistics.median(rates):>10,.0f}/s   ({min(rates):,.0f} – {max(rates):,.0f}){against}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", required=True)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--only-fold", action="store_true")
    parser.add_argument("--cells", metavar="PARTITIONSxKEYS,...", default="")
    parser.add_argument("--quix", metavar="PYTHON")
    options = parser.parse_args()
    url = f"kafka:{options.kafka}"
    log = open_log(url, SystemClock())
    if options.cells:
        shapes = [(int(partitions), int(count)) for partitions, count in (cell.split("x") for cell in options.cells.split(","))]
        cells(log, url, shapes, options.records, options.rounds)
    else:
        against(log, url, options)
    log.close()


def against(log: Log, url: str, options: argparse.Namespace) -> None:
    """The fold and what it is compared with, round by round."""
    with tempfile.TemporaryDirectory() as folder:
        version = make_version(log, url, Path(folder), options.partitions)
        keys = keys_by_partition(options.keys, options.partitions)
        entries = fill(log, version, keys, options.records)
        records = options.records // options.partitions * options.partitions
        plain_topic = f"plain_{version.site.store.name}"
        ways: dict[str, Callable[[], float]] = {"fold": lambda: fold(url, version, entries)}
        if not options.only_fold:
            fill_plain(log, options.kafka, plain_topic, keys, options.records)
            ways["loop"] = lambda: plain(options.kafka, version.topic, options.partitions, records, as_replica=True)
            ways["plain"] = lambda: plain(options.kafka, plain_topic, options.partitions, records)
        if options.quix:
            ways["quix"] = lambda: quix(options.quix, options.kafka, plain_topic, records // 4)
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, measure in ways.items():
                found[way].append(measure())
        show(found)
        version.remove()
        log.delete_topic(plain_topic)


if __name__ == "__main__":
    main()
