"""What every driver of the log must do. A driver joins by a parameter of `site`: all the suite needs is its URL."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import pytest

from venice.clock import SystemClock
from venice.errors import Conflict, InvalidRequest, NotFound
from venice.log import PAYLOAD_BYTES_MAX, Batch, Entry, Log, Reader
from venice.log import payloads as log_payloads
from venice.log.open import open_log

DEADLINE_S = 60.0
SPAWN = multiprocessing.get_context("spawn")


class Site:
    """A place that holds a log."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[Log] = []

    def open(self) -> Log:
        log = open_log(self.url, SystemClock())
        self._opened.append(log)
        return log

    def close(self) -> None:
        for log in self._opened:
            log.close()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}")
    yield site
    site.close()


@pytest.fixture
def log(site: Site) -> Log:
    return site.open()


@pytest.fixture
def topic(site: Site) -> str:
    """A name that no other test uses, for drivers whose place outlives the test."""
    return f"flights_{os.urandom(6).hex()}_v1"


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [f"record {number}".encode() for number in range(start, start + count)]


def read(reader: Reader, count: int, *, records_max: int = 1000) -> list[Entry]:
    """The next `count` entries, however many polls it takes; fails when they do not come."""
    entries: list[Entry] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(entries) < count and time.monotonic() < deadline:
        entries += reader.poll(records_max=min(records_max, count - len(entries)), timeout_s=0.5)
    assert len(entries) == count
    return entries


def payloads(entries: list[Entry]) -> list[bytes]:
    return [entry.payload for entry in entries]


# Topics


def test_a_created_topic_is_listed(log: Log, topic: str) -> None:
    topic_id = log.create_topic(topic, 3)
    assert topic_id
    assert log.topic_id(topic) == topic_id
    assert log.partitions(topic) == 3
    assert topic in log.topics()
    assert log.topics() == sorted(log.topics())


def test_creating_a_topic_again_changes_nothing(log: Log, topic: str) -> None:
    topic_id = log.create_topic(topic, 2)
    log.append(topic, 1, numbered(3))
    assert log.create_topic(topic, 2) == topic_id
    assert log.end_offset(topic, 1) > log.start_offset(topic, 1)


def test_a_topic_keeps_its_number_of_partitions(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    with pytest.raises(Conflict, match=topic):
        log.create_topic(topic, 3)
    assert log.partitions(topic) == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "a/b", "a\0b", "a b", "ä", "-a", "a@b", "a*", "a" * 201, "a\n"])
def test_a_name_that_could_leave_the_folder_is_refused(log: Log, name: str) -> None:
    for call in (lambda: log.create_topic(name, 1), lambda: log.delete_topic(name)):
        with pytest.raises(InvalidRequest, match="topic name"):
            call()


def test_the_ends_of_many_partitions_are_found_at_once(log: Log, topic: str) -> None:
    other = f"{topic}_other"
    for name in (topic, other):
        log.create_topic(name, 3)
    log.append(topic, 1, numbered(4))
    log.append(other, 2, numbered(1))
    asked = [(name, partition) for name in (topic, other) for partition in range(3)]
    assert log.end_offsets(asked) == {at: log.end_offset(*at) for at in asked}
    assert log.end_offsets([]) == {}


def test_the_ends_of_what_is_not_there_are_left_out(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    gone = f"{topic}_gone"
    log.create_topic(gone, 1)
    log.append(gone, 0, [b"x"])
    assert log.end_offsets([(gone, 0)]) == {(gone, 0): log.end_offset(gone, 0)}
    log.delete_topic(gone)
    asked = [(topic, 0), (topic, 2), (topic, -1), (gone, 0), (f"{topic}_never", 0)]
    assert log.end_offsets(asked) == {(topic, 0): log.end_offset(topic, 0)}


def test_a_long_name_with_every_kind_of_character_works(log: Log, topic: str) -> None:
    name = (topic + ".A-z_9" * 40)[:200]
    log.create_topic(name, 1)
    assert len(log.append(name, 0, [b"x"])) == 1
    log.delete_topic(name)


@pytest.mark.parametrize("partitions", [0, -1, 1_000_000])
def test_a_senseless_number_of_partitions_is_refused(log: Log, topic: str, partitions: int) -> None:
    with pytest.raises(InvalidRequest, match=str(partitions)):
        log.create_topic(topic, partitions)


def test_what_is_not_there_is_named(log: Log, topic: str) -> None:
    def calls(partition: int) -> Iterator[Any]:
        yield lambda: log.append(topic, partition, [b"x"])
        yield lambda: log.start_offset(topic, partition)
        yield lambda: log.end_offset(topic, partition)
        yield lambda: log.offset_for_time(topic, partition, 0)
        yield lambda: log.delete_prefix(topic, partition, 0)
        yield lambda: log.reader({(topic, partition): 0})

    for call in (*calls(0), lambda: log.topic_id(topic), lambda: log.partitions(topic)):
        with pytest.raises(NotFound, match=topic):
            call()
    log.create_topic(topic, 2)
    for call in (*calls(2), *calls(-1)):
        with pytest.raises(NotFound, match=topic):
            call()
    log.delete_topic(f"{topic}_missing")


def test_a_topic_created_again_is_another_one(site: Site, log: Log, topic: str) -> None:
    other = site.open()
    first = log.create_topic(topic, 1)
    log.append(topic, 0, numbered(5))
    other.append(topic, 0, numbered(5))
    log.delete_topic(topic)
    assert topic not in log.topics()
    for call in (lambda: log.append(topic, 0, [b"x"]), lambda: other.append(topic, 0, [b"x"]), lambda: other.end_offset(topic, 0)):
        with pytest.raises(NotFound, match=topic):
            call()
    second = log.create_topic(topic, 1)
    assert second != first
    assert log.topic_id(topic) == other.topic_id(topic) == second
    assert log.end_offset(topic, 0) == other.end_offset(topic, 0) == 0
    offsets = other.append(topic, 0, [b"new"])
    assert payloads(read(log.reader({(topic, 0): 0}), 1)) == [b"new"]
    assert offsets == [0]


def test_a_deleted_topic_is_gone_for_open_readers(site: Site, log: Log, topic: str) -> None:
    kept = f"{topic}_kept"
    log.create_topic(topic, 2)
    log.create_topic(kept, 1)
    log.append(topic, 0, numbered(3))
    reader = site.open().reader({(topic, 0): 0, (topic, 1): 0, (kept, 0): 0})
    read(reader, 3)
    log.delete_topic(topic)
    until_raises(NotFound, reader, topic)
    with pytest.raises(NotFound, match=topic):
        reader.assign(topic, 0, 0)
    reader.unassign(topic, 0)
    reader.unassign(topic, 1)
    log.create_topic(topic, 1)
    log.append(topic, 0, [b"another"])
    reader.assign(topic, 0, 0)
    log.append(kept, 0, [b"kept"])
    assert {entry.payload for entry in read(reader, 2)} == {b"another", b"kept"}


def test_a_topic_deleted_and_created_again_does_not_fool_an_open_reader(site: Site, log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    log.append(topic, 0, numbered(3))
    reader = site.open().reader({(topic, 0): 2})
    read(reader, 1)
    log.delete_topic(topic)
    log.create_topic(topic, 1)
    log.append(topic, 0, numbered(10))
    until_raises(NotFound, reader, topic)


def until_raises(error: type[Exception], reader: Reader, match: str) -> None:
    """Poll until the error comes; no entry may come before it."""
    deadline = time.monotonic() + DEADLINE_S
    with pytest.raises(error, match=match):
        poll_in_vain(reader, deadline)


def poll_in_vain(reader: Reader, deadline: float) -> None:
    while time.monotonic() < deadline:
        assert reader.poll(timeout_s=0.2) == []


# Appending and reading


def test_records_come_back_in_order_with_their_offsets(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    before = time.time_ns() // 1_000_000 - 1000
    first = log.append(topic, 0, numbered(10))
    second = log.append(topic, 0, numbered(10, 10))
    other = log.append(topic, 1, [b"other"])
    assert first == sorted(set(first))
    assert second[0] > first[-1]
    assert log.end_offset(topic, 0) == second[-1] + 1
    entries = read(log.reader({(topic, 0): 0, (topic, 1): 0}), 21)
    mine = [entry for entry in entries if entry.partition == 0]
    assert payloads(mine) == numbered(20)
    assert [entry.offset for entry in mine] == first + second
    assert [entry.offset for entry in entries if entry.partition == 1] == other
    assert {entry.topic for entry in entries} == {topic}
    times = [entry.timestamp_ms for entry in mine]
    assert times == sorted(times)
    assert before < times[0] <= times[-1] < before + 600_000


def test_batches_are_appended_in_their_order_and_refused_one_by_one(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    first = Batch(topic, 0, numbered(300))
    missing = Batch(f"{topic}0", 0, [b"lost"])
    large = Batch(topic, 1, [bytes(PAYLOAD_BYTES_MAX + 1)])
    batches = [first, missing, large, Batch(topic, 1, []), Batch(topic, 1, numbered(2)), Batch(topic, 0, [b"last"])]
    appending = log.append_batches(batches)
    refusals = appending.refusals()
    assert appending.is_done
    assert [type(refusal) for refusal in refusals] == [type(None), NotFound, InvalidRequest, type(None), type(None), type(None)]
    reader = log.reader({(topic, 0): 0, (topic, 1): 0})
    entries = read(reader, 303)
    reader.close()
    assert payloads([entry for entry in entries if entry.partition == 0]) == [*numbered(300), b"last"]
    assert payloads([entry for entry in entries if entry.partition == 1]) == numbered(2)


def test_appending_nothing_does_nothing(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    assert log.append(topic, 0, []) == []
    assert log.start_offset(topic, 0) == log.end_offset(topic, 0) == 0


def test_a_payload_is_any_bytes(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    sent = [b"", bytes(range(256)), "Zürich → 東京 🛫".encode(), b"\x00", b"", random.Random(7).randbytes(5_000_000), b"end"]
    log.append(topic, 0, sent)
    assert payloads(read(log.reader({(topic, 0): 0}), len(sent))) == sent


def test_a_payload_of_the_largest_size_fits_and_a_larger_one_does_not(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    largest = random.Random(7).randbytes(PAYLOAD_BYTES_MAX)
    log.append(topic, 0, [largest])
    end = log.end_offset(topic, 0)
    with pytest.raises(InvalidRequest, match=topic):
        log.append(topic, 0, [b"small", largest + b"x"])
    assert log.end_offset(topic, 0) == end
    assert payloads(read(log.reader({(topic, 0): 0}), 1)) == [largest]


def test_a_poll_returns_no_more_than_asked(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    log.append(topic, 0, numbered(10))
    reader = log.reader({(topic, 0): 0})
    polled: list[Entry] = []
    while len(polled) < 10:
        batch = reader.poll(records_max=3, timeout_s=DEADLINE_S)
        assert 1 <= len(batch) <= 3
        polled += batch
        assert reader.position(topic, 0) == polled[-1].offset + 1
    assert payloads(polled) == numbered(10)


def test_runs_are_the_same_entries_by_partition(log: Log, topic: str) -> None:
    places = [(name, partition) for name in (topic, f"{topic}0") for partition in range(3)]
    for name in (topic, f"{topic}0"):
        log.create_topic(name, 3)
    for name, partition in places:
        for start in (0, 40):
            log.append(name, partition, [b"%d " % partition + payload for payload in numbered(40, start)])
    expected = {place: read(log.reader({place: 0}), 80) for place in places}
    reader = log.reader(dict.fromkeys(places, 0))
    found: dict[tuple[str, int], list[Entry]] = {place: [] for place in places}
    deadline = time.monotonic() + DEADLINE_S
    while found != expected and time.monotonic() < deadline:
        for place, run in reader.poll_runs(records_max=50, timeout_s=0.5).items():
            assert run[-1].offset + 1 == reader.position(*place)
            assert list(run[1:]) == list(run)[1:] == [run[at] for at in range(1, len(run))]
            assert log_payloads(run) == payloads(list(run))
            assert log_payloads(run[:-1]) == payloads(list(run)[:-1])
            found[place] += run
    assert found == expected
    assert not reader.poll_runs()


def test_partitions_are_served_in_turn(log: Log, topic: str) -> None:
    log.create_topic(topic, 4)
    for partition in range(4):
        log.append(topic, partition, numbered(300))
    reader = log.reader({(topic, partition): 0 for partition in range(4)})
    seen = {entry.partition for entry in read(reader, 800, records_max=100)}
    assert len(seen) > 1, "a backlog in one partition must not keep the others waiting for ever"
    read(reader, 400)


def test_a_reader_without_news_returns_after_its_timeout(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    reader = log.reader({(topic, 0): 0})
    started = time.monotonic()
    assert reader.poll() == []
    assert reader.poll(timeout_s=0.2) == []
    assert time.monotonic() - started >= 0.2
    assert reader.position(topic, 0) == 0
    assert log.reader().poll(timeout_s=0.01) == []


def test_a_waiting_reader_gets_what_is_appended_meanwhile(site: Site, log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    reader = site.open().reader({(topic, 0): 0})
    for number in range(20):
        thread = threading.Thread(target=log.append, args=(topic, 0, [b"%d" % number]))
        thread.start()
        assert payloads(read(reader, 1)) == [b"%d" % number]
        thread.join()


def test_a_reader_seeks(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    offsets = log.append(topic, 0, numbered(10))
    log.append(topic, 1, [b"other"])
    reader = log.reader({(topic, 0): offsets[4], (topic, 1): 0})
    read(reader, 7)
    for start in (9, 0, 5):
        reader.assign(topic, 0, offsets[start])
        assert reader.position(topic, 0) == offsets[start]
        assert payloads(read(reader, 10 - start)) == numbered(10 - start, start)
    reader.assign(topic, 0, log.end_offset(topic, 0))
    assert reader.poll(timeout_s=0.1) == []
    log.append(topic, 0, [b"later"])
    assert payloads(read(reader, 1)) == [b"later"]


def test_an_unassigned_partition_is_not_read(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    reader = log.reader({(topic, 0): 0, (topic, 1): 0})
    reader.unassign(topic, 0)
    reader.unassign(topic, 0)
    reader.unassign(topic, 7)
    reader.unassign("no_such_topic", 0)
    with pytest.raises(NotFound, match=topic):
        reader.position(topic, 0)
    log.append(topic, 0, [b"unseen"])
    log.append(topic, 1, [b"seen"])
    assert payloads(read(reader, 1)) == [b"seen"]
    assert reader.poll(timeout_s=0.1) == []
    reader.assign(topic, 0, 0)
    assert payloads(read(reader, 1)) == [b"unseen"]


def test_an_offset_that_is_not_there_is_refused(log: Log, topic: str) -> None:
    log.create_topic(topic, 1)
    offsets = log.append(topic, 0, numbered(5))
    log.delete_prefix(topic, 0, offsets[2])
    reader = log.reader({(topic, 0): offsets[3]})
    for offset in (offsets[1], offsets[4] + 2, -1):
        with pytest.raises(InvalidRequest, match=topic):
            reader.assign(topic, 0, offset)
    assert payloads(read(reader, 2)) == numbered(2, 3), "a refused seek moves nothing"


def test_threads_share_a_log(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    acknowledged: dict[int, list[int]] = {}

    def append(thread: int) -> None:
        offsets: list[int] = []
        for number in range(40):
            offsets += log.append(topic, thread % 2, [b"%d:%d" % (thread, number)])
        acknowledged[thread] = offsets

    threads = [threading.Thread(target=append, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = read(log.reader({(topic, 0): 0, (topic, 1): 0}), 160)
    for number, offsets in acknowledged.items():
        mine = [entry for entry in entries if entry.payload.startswith(b"%d:" % number)]
        assert [entry.offset for entry in mine] == offsets
        assert payloads(mine) == [b"%d:%d" % (number, index) for index in range(40)]


# Time, prefixes, restarts


def test_the_offset_for_a_time(log: Log, topic: str) -> None:
    log.create_topic(topic, 2)
    assert log.offset_for_time(topic, 0, 0) == 0
    groups: list[list[int]] = []
    for _ in range(4):
        groups.append(log.append(topic, 0, numbered(5)))
        wait_for_next_millisecond()
    starts = [group[0] for group in groups]
    times = {entry.offset: entry.timestamp_ms for entry in read(log.reader({(topic, 0): 0}), 20)}
    for start in starts:
        assert log.offset_for_time(topic, 0, times[start]) == start
    for before, after in itertools.pairwise(starts):
        assert log.offset_for_time(topic, 0, times[before] + 1) in range(before + 1, after + 1)
    assert log.offset_for_time(topic, 0, 0) == log.start_offset(topic, 0)
    assert log.offset_for_time(topic, 0, times[starts[-1]] + 3_600_000) == log.end_offset(topic, 0)
    log.delete_prefix(topic, 0, starts[2])
    assert log.offset_for_time(topic, 0, 0) == starts[2]
    assert log.offset_for_time(topic, 0, times[starts[3]]) == starts[3]


def wait_for_next_millisecond() -> None:
    now = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 <= now + 1:
        time.sleep(0.001)  # records of one millisecond cannot be told apart by time, and Kafka's times are its own clock's


def test_a_deleted_prefix_is_gone_and_its_offsets_are_not_reused(site: Site, topic: str) -> None:
    log = site.open()
    log.create_topic(topic, 2)
    offsets = log.append(topic, 0, numbered(10))
    log.append(topic, 1, numbered(10))
    for before in (offsets[4], offsets[4], offsets[2], 0):
        log.delete_prefix(topic, 0, before)
        assert log.start_offset(topic, 0) == offsets[4]
    assert log.start_offset(topic, 1) == 0
    assert payloads(read(log.reader({(topic, 0): offsets[4]}), 6)) == numbered(6, 4)
    end = log.end_offset(topic, 0)
    with pytest.raises(InvalidRequest, match=topic):
        log.delete_prefix(topic, 0, end + 1)
    log.delete_prefix(topic, 0, end)
    assert log.start_offset(topic, 0) == log.end_offset(topic, 0) == end
    again = site.open()
    assert again.start_offset(topic, 0) == again.end_offset(topic, 0) == end
    assert again.append(topic, 0, [b"next"]) == [end]
    assert payloads(read(again.reader({(topic, 0): end}), 1)) == [b"next"]


def test_a_reader_overtaken_by_a_deletion_never_skips(site: Site, log: Log, topic: str) -> None:
    """It may still hand out what it had fetched; then it goes on without a gap, or says that it cannot."""
    log.create_topic(topic, 1)
    offsets = log.append(topic, 0, numbered(10))
    reader = site.open().reader({(topic, 0): offsets[2]})
    log.delete_prefix(topic, 0, offsets[5])
    seen: list[Entry] = []
    try:
        seen = read(reader, 8)
    except InvalidRequest as error:
        assert topic in str(error)  # noqa: PT017 - raising is one of two right answers, so it cannot be demanded
    assert payloads(seen) == numbered(len(seen), 2)
    reader.assign(topic, 0, offsets[5])
    assert payloads(read(reader, 5)) == numbered(5, 5)


def test_everything_is_there_after_a_restart(site: Site, topic: str) -> None:
    log = site.open()
    topic_id = log.create_topic(topic, 2)
    offsets = log.append(topic, 1, numbered(50))
    log.delete_prefix(topic, 1, offsets[10])
    log.close()
    log.close()
    with pytest.raises(InvalidRequest, match="closed"):
        log.append(topic, 1, [b"x"])
    again = site.open()
    assert (again.topic_id(topic), again.partitions(topic)) == (topic_id, 2)
    assert (again.start_offset(topic, 1), again.end_offset(topic, 1)) == (offsets[10], offsets[-1] + 1)
    assert payloads(read(again.reader({(topic, 1): offsets[10]}), 40)) == numbered(40, 10)
    assert again.append(topic, 1, [b"next"])[0] > offsets[-1]


# Several processes


class Queue(Protocol):
    """What the tests use of a multiprocessing queue."""

    def put(self, item: Any) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    """Processes started here are killed when the test ends, however it ends."""
    started: list[BaseProcess] = []
    yield started
    for process in started:
        process.kill()
        process.join()


def start(processes: list[BaseProcess], target: Any, *args: Any) -> BaseProcess:
    process = SPAWN.Process(target=target, args=args)
    processes.append(process)
    process.start()
    return process


def append_in_batches(url: str, topic: str, appender: int, batches: int) -> None:
    log = open_log(url, SystemClock())
    number = 0
    for batch in range(batches):
        size = 1 + batch % 5
        log.append(topic, batch % 2, [b"%d:%d" % (appender, number + index) for index in range(size)])
        number += size
    log.close()


def tail(url: str, topic: str, count: int, results: Queue) -> None:
    log = open_log(url, SystemClock())
    reader = log.reader({(topic, 0): 0, (topic, 1): 0})
    entries = read(reader, count)
    results.put([(entry.partition, entry.offset, entry.payload) for entry in entries])
    reader.close()
    log.close()


def test_processes_append_and_tail_at_the_same_time(site: Site, log: Log, topic: str, processes: list[BaseProcess]) -> None:
    appenders, batches = 3, 60
    count = sum(1 + batch % 5 for batch in range(batches))
    log.create_topic(topic, 2)
    results: Queue = SPAWN.Queue()
    for _ in range(2):
        start(processes, tail, site.url, topic, appenders * count, results)
    for appender in range(appenders):
        start(processes, append_in_batches, site.url, topic, appender, batches)
    seen = [results.get(timeout=DEADLINE_S) for _ in range(2)]
    for partition in range(2):
        first, second = ([row for row in rows if row[0] == partition] for rows in seen)
        assert first == second, "every reader sees the same records in the same order"
        offsets = [offset for _, offset, _ in first]
        assert offsets == sorted(set(offsets))
        for appender in range(appenders):
            mine = [int(payload.partition(b":")[2]) for _, _, payload in first if payload.startswith(b"%d:" % appender)]
            assert mine == sorted(mine), "an appender's records keep their order"
    assert len({row[2] for row in seen[0]}) == appenders * count


def create(url: str, topic: str, partitions: int, ready: Any, results: Queue) -> None:
    log = open_log(url, SystemClock())
    ready.wait()
    try:
        results.put(log.create_topic(topic, partitions))
    except Conflict:
        results.put("conflict")
    log.close()


def test_processes_that_create_the_same_topic_get_one(site: Site, topic: str, processes: list[BaseProcess]) -> None:
    ready = SPAWN.Barrier(4)
    results: Queue = SPAWN.Queue()
    for index in range(4):
        start(processes, create, site.url, topic, 2 + (index == 3), ready, results)
    answers = [results.get(timeout=DEADLINE_S) for _ in range(4)]
    log = site.open()
    ids = set(answers) - {"conflict"}
    assert ids == {log.topic_id(topic)}
    assert answers.count("conflict") == (1 if log.partitions(topic) == 2 else 3)


def append_until_killed(url: str, topic: str, first: int, acknowledged: str) -> None:
    log = open_log(url, SystemClock())
    number = first
    with open(acknowledged, "ab", buffering=0) as notes:
        while True:
            offsets = log.append(topic, 0, numbered(7, number))
            notes.write(b"%d %d\n" % (number, offsets[0]))
            number += 7


def test_what_was_acknowledged_survives_a_sigkill(site: Site, log: Log, topic: str, processes: list[BaseProcess], tmp_path: Path) -> None:
    log.create_topic(topic, 1)
    notes = tmp_path / "acknowledged"
    notes.touch()
    rng = random.Random(11)
    for life in range(4):
        size = notes.stat().st_size
        process = start(processes, append_until_killed, site.url, topic, life * 1_000_000, str(notes))
        deadline = time.monotonic() + DEADLINE_S
        while notes.stat().st_size < size + 200 + rng.randrange(1000) and time.monotonic() < deadline:
            time.sleep(0.001)  # the process notes what was acknowledged, and is killed at any moment of it
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    lines = [tuple(map(int, line.split())) for line in notes.read_bytes().splitlines() if line]
    assert len(lines) > 40
    end = log.append(topic, 0, [b"after"])[0]
    entries = read_to(log.reader({(topic, 0): log.start_offset(topic, 0)}), topic, end)
    at = {entry.offset: index for index, entry in enumerate(entries)}
    for number, offset in lines:
        index = at[offset]
        assert payloads(entries[index : index + 7]) == numbered(7, number), "an acknowledged batch is there, whole and in order"
    found = [int(entry.payload.split()[1]) for entry in entries[:-1]]
    assert found == sorted(set(found)), "nothing twice, nothing out of order"
    assert entries[-1].payload == b"after"


def read_to(reader: Reader, topic: str, offset: int) -> list[Entry]:
    """Everything up to and including the entry at `offset` of partition 0."""
    entries: list[Entry] = []
    deadline = time.monotonic() + DEADLINE_S
    while reader.position(topic, 0) <= offset and time.monotonic() < deadline:
        entries += reader.poll(timeout_s=0.5)
    assert entries[-1].offset == offset
    return entries
