"""The log: appends singly and in batches, polling, what an idle reader costs, and append → poll between two processes.

    python tests/bench/bench_log.py [--kafka HOST:PORT] [--records 200000] [--rounds 5]

Beside the embedded log stands a bare apsw loop that appends the same batches, beside Kafka a bare consume loop of its client
library: ratios are taken within a round, printed are medians and the spread over the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw
from confluent_kafka import Consumer, TopicPartition

from venice.clock import SystemClock
from venice.log import Log
from venice.log.open import open_log

PAYLOAD = b"x" * 250
BATCH = 100
PARTITIONS = 8
SINGLES = 500
LATENCIES = 300
IDLE_S = 5.0

Results = dict[str, list[float]]


def timed(work: Callable[[], int]) -> float:
    """Records per second."""
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def append_batches(log: Log, topic: str, records: int) -> int:
    for number in range(records // BATCH):
        log.append(topic, number % PARTITIONS, [PAYLOAD] * BATCH)
    return records


def append_singly(log: Log, topic: str) -> list[float]:
    """Milliseconds of each append."""
    took = []
    for _ in range(SINGLES):
        start = time.perf_counter()
        log.append(topic, 0, [PAYLOAD])
        took.append((time.perf_counter() - start) * 1000)
    return took


def poll_all(log: Log, topic: str, records: int) -> int:
    reader = log.reader({(topic, partition): 0 for partition in range(PARTITIONS)})
    count = 0
    while count < records:
        count += len(reader.poll(timeout_s=1.0))
    reader.close()
    return count


def bare_apsw(folder: Path, records: int) -> int:
    """The same appends without a log around them."""
    db = apsw.Connection(str(folder / "bare.db"))
    db.pragma("journal_mode", "WAL")
    db.pragma("synchronous", "FULL")
    db.execute("CREATE TABLE IF NOT EXISTS record (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, payload BLOB NOT NULL)")
    for _ in range(records // BATCH):
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO record VALUES (NULL, ?, ?)", [(0, PAYLOAD)] * BATCH)
        db.execute("COMMIT")
    db.close()
    return records


def bare_consume(servers: str, topic: str, records: int) -> int:
    """What the client library gives to a loop that only looks at the values."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False, "fetch.queue.backoff.ms": 2})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    count = size = 0
    while count < records:
        for message in consumer.consume(1000, 0.05):
            if message.error() is None:
                size += len(message.value() or b"")
                count += 1
    consumer.close()
    return count


def append_times(url: str, topic: str) -> None:
    log = open_log(url, SystemClock())
    for _ in range(LATENCIES):
        time.sleep(0.004)  # the reader waits for each record, as for a lone write
        log.append(topic, 0, [b"%d" % time.perf_counter_ns()])
    log.close()


def latencies(log: Log, url: str, topic: str) -> list[float]:
    """Milliseconds from before the append in one process to after the poll in another; their clock is the machine's."""
    reader = log.reader({(topic, 0): log.end_offset(topic, 0)})
    process = multiprocessing.get_context("spawn").Process(target=append_times, args=(url, topic))
    process.start()
    took: list[float] = []
    while len(took) < LATENCIES:
        took += [(time.perf_counter_ns() - int(entry.payload)) / 1e6 for entry in reader.poll(timeout_s=1.0)]
    process.join()
    reader.close()
    return took


def idle_cost(log: Log, topics: list[str], partitions: int) -> float:
    """Percent of a core."""
    reader = log.reader({(topic, partition): log.end_offset(topic, partition) for topic in topics for partition in range(partitions)})
    reader.poll(timeout_s=IDLE_S)
    before = time.process_time()
    reader.poll(timeout_s=IDLE_S)
    reader.close()
    return (time.process_time() - before) / IDLE_S * 100


def show(what: str, values: list[float], unit: str) -> None:
    values = sorted(values)
    print(f"  {what:<42} {statistics.median(values):>12,.2f} {unit}   ({values[0]:,.2f} – {values[-1]:,.2f})", flush=True)


def measure(url: str, records: int, rounds: int, bare: Callable[[str], int], bare_beside: str) -> None:
    log = open_log(url, SystemClock())
    results: Results = {}
    for number in range(rounds):
        topic = f"bench_{time.time_ns()}"
        log.create_topic(topic, PARTITIONS)
        found = {"append": timed(partial(append_batches, log, topic, records))}
        found["poll"] = timed(partial(poll_all, log, topic, records))
        found["bare"] = timed(partial(bare, topic))
        found["single"] = statistics.median(append_singly(log, topic))
        found["latency"] = statistics.median(latencies(log, url, topic))
        for name, value in found.items():
            results.setdefault(name, []).append(value)
        results.setdefault("ratio", []).append(found[bare_beside] / found["bare"])
        if number == rounds - 1:
            results["idle one"] = [idle_cost(log, [topic], PARTITIONS)]
        log.delete_topic(topic)
    print(url.partition(":")[0])
    show(f"appends in batches of {BATCH}", results["append"], "records/s")
    show("appends singly, p50", results["single"], "ms")
    show("polls", results["poll"], "records/s")
    show(f"the same {bare_beside}s, bare", results["bare"], "records/s")
    show("ratio to that", results["ratio"], "×")
    show("append → poll in another process, p50", results["latency"], "ms")
    show(f"idle reader, {PARTITIONS} partitions", results["idle one"], "% of a core")
    topics = [f"bench_{time.time_ns()}_{number}" for number in range(100)]
    for topic in topics:
        log.create_topic(topic, 1)
    show("idle reader, 100 topics", [idle_cost(log, topics, 1)], "% of a core")
    for topic in topics:
        log.delete_topic(topic)
    log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", help="HOST:PORT of a broker; without it only the embedded log is measured")
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    records = arguments.records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure(f"sqlite:{folder / 'log'}", records, arguments.rounds, lambda _: bare_apsw(folder, records), "append")
    if arguments.kafka:
        measure(f"kafka:{arguments.kafka}", records, arguments.rounds, lambda topic: bare_consume(arguments.kafka, topic, records), "poll")


if __name__ == "__main__":
    main()
