"""Leaders over a real log: real-time writes reach every replica, whoever leads, and a hybrid version becomes ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from replica_bench import PARTITIONS, Bench

from venice.clock import SystemClock
from venice.dead_letter import DeadLetter, decode_letters
from venice.faults import FaultLedger
from venice.leaders import LeaderSet, Merged
from venice.leading import Led
from venice.log import PAYLOAD_BYTES_MAX, Entry
from venice.model import Fault, HybridConfig, ReplicaState, StartOffset, Version, VersionStatus
from venice.naming import dead_letter_topic, real_time_topic, replica_name
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.storage.format import decode_value

KEYS = [b"key %d" % i for i in range(20)]
_SESSIONS = count(1)


class Worker:
    """A process's replicas and leaders, driven in turns."""

    def __init__(self, bench: Bench, registered: Collection[int] | None = None) -> None:
        self.bench = bench
        self.faults = FaultLedger(SystemClock())
        self.asked: list[int] = []
        self.leaders = LeaderSet(
            bench.replicas,
            bench.log,
            clock=SystemClock(),
            sessions=lambda: next(_SESSIONS),
            faults=self.faults,
            is_registered=self._is_registered,
            value_bytes_max=lambda store: self.value_bytes_max,
        )
        self.value_bytes_max = PAYLOAD_BYTES_MAX
        self._registered = registered

    def _is_registered(self, store: str, schema_id: int) -> bool:
        self.asked.append(schema_id)
        return self._registered is None or schema_id in self._registered

    def lead(self, version: Version, term: int) -> None:
        self.leaders.want([Led("s", version, partition, term, 0) for partition in range(PARTITIONS)])

    def step(self) -> None:
        for name, entries in self.bench.replicas.poll(timeout_s=0.001):
            self.bench.replicas.fold(name, entries)
        for one in self.merged():
            self.leaders.append([one])

    def merged(self) -> list[Merged]:
        merged = [self.leaders.merge(name, region, entries) for name, region, entries in self.leaders.poll()]
        return [one for one in merged if one is not None]

    def look(self) -> None:
        now_ms = SystemClock().now_ms()
        self.leaders.look(now_ms, self.bench.log.end_offsets(self.leaders.sources()))

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
    (letter,) = letters(bench)
    assert (letter.topic, letter.partition, letter.offset, letter.payload) == (real_time_topic("s"), partition, 0, b"poison")
    assert letter.fault is Fault.CORRUPT
    assert "checksum" in letter.reason


def letters(bench: Bench) -> list[DeadLetter]:
    topic = dead_letter_topic("s")
    reader = bench.log.reader({(topic, 0): 0})
    entries: list[Entry] = []
    while len(entries) < bench.log.end_offset(topic, 0):
        entries += reader.poll(timeout_s=1)
    reader.close()
    return [letter for _, letter in decode_letters(entries)]


def faults(worker: Worker, partition: int) -> dict[tuple[str, Fault], int]:
    return {(found.topic, found.fault): found.count for found in worker.faults.of(replica_name("s", 1, partition))}


def test_every_kind_of_poison_is_set_aside_and_counted(bench: Bench) -> None:
    worker = Worker(bench, registered={1})
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    partition = partition_of(KEYS[0], PARTITIONS)
    poison = [
        b"garbage",
        encode(Record(Kind.PUT, key=KEYS[0], value=b"x", schema_id=7, origin=Origin.REAL_TIME, timestamp_ms=900)),
        encode(Record(Kind.UPDATE, key=KEYS[0], value=b"x", schema_id=1, update_schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=900)),
    ]
    marks = [encode(Record(Kind.HEARTBEAT, timestamp_ms=5)), encode(Record(Kind.END_OF_PUSH))]
    bench.log.append(real_time_topic("s"), partition, [*poison, *marks])
    write(bench, KEYS[0], b"1", 100)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and worker.get(1, KEYS[0]) == b"1", worker)
    found = letters(bench)
    assert [letter.payload for letter in found] == poison
    assert [letter.fault for letter in found] == [Fault.CORRUPT, Fault.UNREGISTERED, Fault.UNSUPPORTED]
    assert faults(worker, partition) == {("real_time", letter.fault): 1 for letter in found}
    assert worker.asked == [1, 7] or worker.asked == [7, 1], "a schema that the store has is asked for once"


def test_a_record_is_set_aside_once_by_all_leaders_of_a_process(bench: Bench) -> None:
    worker = Worker(bench)
    first, second = hybrid(bench, 1, {}), hybrid(bench, 2, {})
    bench.want(first, second)
    bench.log.append(real_time_topic("s"), 0, [b"poison"])
    worker.leaders.want([Led("s", version, partition, 1, 0) for version in (first, second) for partition in range(PARTITIONS)])
    until(lambda: {len(bench.replicas.open.get(("s", n), {})) for n in (1, 2)} == {PARTITIONS}, worker)
    until(lambda: len(list(worker.faults.all())) == 2, worker)
    assert len(letters(bench)) == 1


def test_nothing_goes_on_while_poison_cannot_be_set_aside(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    bench.log.create_topic(dead_letter_topic("s"), 2)  # not as the leader needs it
    partition = partition_of(KEYS[0], PARTITIONS)
    bench.log.append(real_time_topic("s"), partition, [b"poison"])
    write(bench, KEYS[0], b"1", 100)
    worker.lead(version, term=1)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS - 1, worker)
    for _ in range(50):
        worker.step()
    assert bench.replicas.open["s", 1].keys() == {1 - partition}
    bench.log.delete_topic(dead_letter_topic("s"))
    until(lambda: len(bench.replicas.open["s", 1]) == PARTITIONS and worker.get(1, KEYS[0]) == b"1", worker)
    assert len(letters(bench)) == 1


def test_a_damaged_record_of_a_session_is_merged_again_by_the_next(bench: Bench, tmp_path: Path) -> None:
    other_bench = Bench(tmp_path / "one", replicas=tmp_path / "other")
    worker, follower = Worker(bench), Worker(other_bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    other_bench.want(version)
    worker.lead(version, term=1)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    partition = partition_of(KEYS[0], PARTITIONS)
    before = bench.replicas.open["s", 1][partition].position.session
    write(bench, KEYS[0], b"1", 100)
    damaged = None
    while damaged is None:
        damaged = next((one for one in worker.merged() if one.name == replica_name("s", 1, partition)), None)
    bench.log.append(damaged.topic, damaged.partition, [b"damaged on its way" for _ in damaged.payloads])
    write(bench, KEYS[0], b"2", 200)

    def healed(each: Worker) -> bool:
        opened = each.bench.replicas.open.get(("s", 1), {})
        return len(opened) == PARTITIONS and each.get(1, KEYS[0]) == b"2"

    until(lambda: healed(worker) and healed(follower), worker, follower)
    ours, theirs = (each.replicas.open["s", 1][partition] for each in (bench, other_bench))
    assert ours.position.session != before
    assert list(ours.scan()) == list(theirs.scan())
    other_bench.replicas.close()
    other_bench.log.close()


def test_an_idle_leader_beats_less_and_less_often_and_lag_is_seen(bench: Bench) -> None:
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    partition = partition_of(KEYS[0], PARTITIONS)
    name = replica_name("s", 1, partition)

    def fresh_ms() -> int:
        fold = bench.replicas.fold_of(name)
        return fold.fresh_ms if fold is not None else 0

    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    assert worker.leaders.lag(name) is None
    write(bench, KEYS[0], b"1", 100)
    worker.look()
    lag = worker.leaders.lag(name)
    assert lag is not None
    assert lag.records == 1
    until(lambda: worker.get(1, KEYS[0]) == b"1", worker)
    worker.look()
    assert worker.leaders.lag(name) == (0, 0.0)
    looked_ms = SystemClock().now_ms()
    worker.look()
    until(lambda: fresh_ms() >= looked_ms, worker)


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
    (letter,) = letters(bench)
    assert (letter.fault, len(letter.payload)) == (Fault.OVERSIZED, PAYLOAD_BYTES_MAX)
    assert bench.log.end_offset(dead_letter_topic("s"), 0) == 2, "with a letter around it, it is larger than a log takes"
    assert worker.get(1, KEYS[0]) == b"row"


def test_a_value_larger_than_the_store_takes_now_is_set_aside(bench: Bench) -> None:
    """The producer checked it against the limit it knew; the leader has the newest."""
    worker = Worker(bench)
    version = hybrid(bench, 1, {KEYS[0]: b"row"})
    bench.want(version)
    worker.lead(version, term=1)
    worker.value_bytes_max = 5
    write(bench, KEYS[0], b"123456", 100)
    write(bench, KEYS[1], b"12345", 100)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS and worker.get(1, KEYS[1]) == b"12345", worker)
    until(lambda: dead_letter_topic("s") in bench.log.topics(), worker)
    (letter,) = letters(bench)
    assert (letter.fault, worker.get(1, KEYS[0])) == (Fault.OVERSIZED, b"row")
    assert letter.reason == f"the value of key {KEYS[0].hex()} has 6 bytes, and values of this store may have 5"
    worker.value_bytes_max = 6
    write(bench, KEYS[0], b"123456", 200)
    until(lambda: worker.get(1, KEYS[0]) == b"123456", worker)


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
