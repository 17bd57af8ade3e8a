"""Leaders over a real log: real-time writes reach every replica, whoever leads, and a hybrid version becomes ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from replica_bench import PARTITIONS, Bench

from venice.clock import SystemClock
from venice.leaders import LeaderSet, Led
from venice.log import PAYLOAD_BYTES_MAX
from venice.model import HybridConfig, ReplicaState, StartOffset, Version, VersionStatus
from venice.naming import dead_letter_topic, real_time_topic
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.storage.format import decode_value

KEYS = [b"key %d" % i for i in range(20)]
_SESSIONS = count(1)


class Worker:
    """A process's replicas and leaders, driven in turns."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.leaders = LeaderSet(bench.replicas, bench.log, clock=SystemClock(), sessions=lambda: next(_SESSIONS))

    def lead(self, version: Version, term: int) -> None:
        self.leaders.want([Led("s", version, partition, term, 0) for partition in range(PARTITIONS)])

    def step(self) -> None:
        for name, entries in self.bench.replicas.poll(timeout_s=0.001):
            self.bench.replicas.fold(name, entries)
        merged = [self.leaders.merge(name, region, entries) for name, region, entries in self.leaders.poll()]
        for one in merged:
            if one is not None:
                self.leaders.append(one)

    def get(self, number: int, key: bytes) -> bytes | None:
        storage = self.bench.replicas.open["s", number][partition_of(key, PARTITIONS)]
        stored = storage.get(key)
        return None if stored is None else stored[decode_value(stored).offset :]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "one")
    made.log.create_topic(real_time_topic("s"), PARTITIONS)
    yield made
    made.replicas.close()
    made.log.close()


def write(bench: Bench, key: bytes, value: bytes | None, at_ms: int) -> None:
    record = Record(
        Kind.DELETE if value is None else Kind.PUT,
        key=key,
        value=value or b"",
        schema_id=1,
        origin=Origin.REAL_TIME,
        timestamp_ms=at_ms,
    )
    bench.log.append(real_time_topic("s"), partition_of(key, PARTITIONS), [encode(record)])


def hybrid(bench: Bench, number: int, rows: dict[bytes, bytes], start: int = 0) -> Version:
    version = bench.version(number, rows, HybridConfig(lag_records_max=0))
    return replace(version, start_offsets=tuple(StartOffset(region=0, partition=p, next_offset=start) for p in range(PARTITIONS)))


def until(holds: Callable[[], bool], *workers: Worker) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, [worker.bench.replicas.reports() for worker in workers]
        for worker in workers:
            worker.step()


def test_a_hybrid_version_is_ready_when_its_leader_has_caught_up(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {b"batch": b"row"})
    bench.want(version)
    until(lambda: {report.state for report in bench.replicas.reports()} == {ReplicaState.FOLLOWING}, worker)
    assert bench.replicas.open == {}
    worker.lead(version, term=1)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)


def test_real_time_writes_are_merged_over_the_snapshot(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, dict.fromkeys(KEYS, b"batch"))
    bench.want(version)
    worker.lead(version, term=1)
    for key in KEYS[:10]:
        write(bench, key, b"new", 100)
        write(bench, key, b"late", 50)
    write(bench, KEYS[0], None, 200)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    assert worker.get(1, KEYS[0]) is None
    assert [worker.get(1, key) for key in KEYS[1:10]] == [b"new"] * 9
    assert [worker.get(1, key) for key in KEYS[10:]] == [b"batch"] * 10


def test_a_new_version_replays_the_stream_from_its_start_offsets(bench: Bench) -> None:
    worker = Worker(bench)
    first, second = hybrid(bench, 1, {}), hybrid(bench, 2, dict.fromkeys(KEYS, b"second"))
    bench.want(first, second)
    for key in KEYS:
        write(bench, key, b"streamed", 100)
    worker.leaders.want([Led("s", version, partition, 1, 0) for version in (first, second) for partition in range(PARTITIONS)])
    until(lambda: {len(bench.replicas.open.get(("s", n), {})) for n in (1, 2)} == {PARTITIONS}, worker)
    for number in (1, 2):
        assert [worker.get(number, key) for key in KEYS] == [b"streamed"] * len(KEYS)


def test_leadership_moves_between_processes_and_nothing_is_lost(bench: Bench, tmp_path: Path) -> None:
    other_bench = Bench(tmp_path / "one", replicas=tmp_path / "other")
    one, other = Worker(bench), Worker(other_bench)
    version = hybrid(bench, 1, {})
    for each in (bench, other_bench):
        each.want(version)
    expected: dict[bytes, bytes] = {}
    for term in range(1, 7):
        (one if term % 2 else other).lead(version, term)
        (other if term % 2 else one).leaders.want([])
        for index, key in enumerate(KEYS):
            value = b"%d.%d" % (term, index)
            write(bench, key, value, term * 100 + index)
            expected[key] = value
        # The one that was replaced is not told at once: it lingers and what it appends is dropped.
        for _ in range(term):
            one.step()
            other.step()
    write(bench, b"last", b"last", 10_000)
    last_at = partition_of(b"last", PARTITIONS)

    def folded(worker: Worker) -> bool:
        opened = worker.bench.replicas.open.get(("s", 1), {})
        return len(opened) == PARTITIONS and all(worker.get(1, key) == value for key, value in {**expected, b"last": b"last"}.items())

    until(lambda: folded(one) and folded(other), one, other)
    ours, theirs = (each.replicas.open["s", 1][last_at] for each in (bench, other_bench))
    assert list(ours.scan()) == list(theirs.scan())
    other_bench.replicas.close()
    other_bench.log.close()


def test_a_restarted_leader_goes_on_from_the_folded_vector(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    write(bench, KEYS[0], b"1", 100)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and worker.get(1, KEYS[0]) == b"1", worker)
    bench.replicas.close()
    write(bench, KEYS[0], b"2", 200)
    bench.replicas = bench.open()
    bench.want(version)
    again = Worker(bench)
    again.lead(version, term=1)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and again.get(1, KEYS[0]) == b"2", again)


def test_a_record_that_cannot_be_read_is_set_aside_and_the_others_go_on(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    partition = partition_of(KEYS[0], PARTITIONS)
    bench.log.append(real_time_topic("s"), partition, [b"poison"])
    write(bench, KEYS[0], b"1", 100)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and worker.get(1, KEYS[0]) == b"1", worker)
    kept = bench.log.reader({(dead_letter_topic("s"), 0): 0})
    assert [entry.payload for entry in kept.poll(timeout_s=5)] == [b"poison"]
    kept.close()


def test_a_write_that_the_version_topic_could_not_take_is_set_aside(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {KEYS[0]: b"row"})
    bench.want(version)
    worker.lead(version, term=1)
    bare = len(encode(Record(Kind.PUT, key=KEYS[0], schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=1)))
    write(bench, KEYS[0], bytes(PAYLOAD_BYTES_MAX - bare), 100)
    write(bench, KEYS[1], b"1", 100)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and worker.get(1, KEYS[1]) == b"1", worker)
    until(lambda: dead_letter_topic("s") in bench.log.topics(), worker)
    assert bench.log.end_offset(dead_letter_topic("s"), 0) == 1
    assert worker.get(1, KEYS[0]) == b"row"


def test_a_version_whose_status_changes_is_led_by_the_same_session(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    before = [storage.position.session for storage in bench.replicas.open["s", 1].values()]
    worker.lead(replace(version, status=VersionStatus.ONLINE, status_ms=1), term=1)
    write(bench, KEYS[0], b"1", 100)
    until(lambda: worker.get(1, KEYS[0]) == b"1", worker)
    assert [storage.position.session for storage in bench.replicas.open["s", 1].values()] == before
