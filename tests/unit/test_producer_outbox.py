"""The outbox by itself: order, slow and failing partitions, the bound on what waits, the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import waiting

from venice.client import outbox
from venice.client.outbox import BATCH_RECORDS_MAX, WRITE_BYTES, Outbox
from venice.clock import SystemClock
from venice.errors import Full, InvalidRequest, Unavailable

DEADLINE_S = 20.0
eventually = partial(waiting.eventually, timeout_s=DEADLINE_S)
DELIVERY_S = 60.0


class Settled:
    """What was said of the writes; `then` is called with each, in the outbox's thread."""

    def __init__(self) -> None:
        self.accepted_: list[Any] = []
        self.failed_: list[tuple[Any, Exception]] = []
        self.then: Callable[[Any], None] = lambda done: None

    def accepted(self, partition: int, offsets: Sequence[int], dones: Sequence[Any]) -> None:
        assert len(offsets) == len(dones)
        for done in dones:
            self.accepted_.append(done)
            self.then(done)

    def failed(self, error: Exception, dones: Sequence[Any]) -> None:
        for done in dones:
            self.failed_.append((done, error))
            self.then(done)


class Place:
    """Where writes are appended; a partition can be blocked or refuse."""

    def __init__(self, lanes: int = 4) -> None:
        self.appended: list[list[bytes]] = [[] for _ in range(lanes)]
        self.open = [threading.Event() for _ in range(lanes)]
        self.entered = [threading.Event() for _ in range(lanes)]
        self.errors: dict[int, list[Exception]] = {}
        self.calls: list[int] = []
        for event in self.open:
            event.set()

    def append(self, partition: int, payloads: list[bytes]) -> list[int]:
        self.entered[partition].set()
        assert self.open[partition].wait(DEADLINE_S)
        if self.errors.get(partition):
            raise self.errors[partition].pop(0)
        assert len(payloads) <= BATCH_RECORDS_MAX
        self.calls.append(len(payloads))
        start = len(self.appended[partition])
        self.appended[partition] += payloads
        return list(range(start, start + len(payloads)))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    for event in made.open:
        event.set()


@pytest.fixture
def settled() -> Settled:
    return Settled()


@pytest.fixture
def make(place: Place, settled: Settled) -> Iterator[Callable[..., Outbox[Any]]]:
    made: list[Outbox[Any]] = []

    def make_one(buffer_bytes: int = 1_000_000, delivery_s: float = DELIVERY_S) -> Outbox[Any]:
        box: Outbox[Any] = Outbox(
            place.append, settled, name="s", lanes=4, buffer_bytes=buffer_bytes, delivery_s=delivery_s, clock=SystemClock()
        )
        made.append(box)
        return box

    yield make_one
    for event in place.open:
        event.set()
    for box in made:
        box.close(0)


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"%d" % number for number in range(start, stop)]


def test_a_lane_keeps_its_order(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make()
    for number in range(5000):
        box.put(number % 3, b"%d" % number, number)
    box.flush()
    for lane in range(3):
        assert place.appended[lane] == [b"%d" % number for number in range(lane, 5000, 3)]
        assert [done for done in settled.accepted_ if done % 3 == lane] == list(range(lane, 5000, 3))


def test_a_slow_partition_does_not_stall_the_others(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make()
    for slow in (0, 1, 2):
        place.open[slow].clear()
        box.put(slow, b"slow", None)
        assert place.entered[slow].wait(DEADLINE_S)
        time.sleep(outbox.SLOW_S * 1.5)  # what makes it slow
    for number in range(100):
        box.put(3, b"%d" % number, None)
    eventually(lambda: place.appended[3] == numbered(0, 100))
    assert place.appended[:3] == [[], [], []]


def test_under_load_batches_grow(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make(buffer_bytes=10_000_000)
    place.open[0].clear()
    box.put(0, b"0", None)
    assert place.entered[0].wait(DEADLINE_S)
    for number in range(1, 2 * BATCH_RECORDS_MAX + 1):
        box.put(0, b"%d" % number, None)
    place.open[0].set()
    box.flush()
    assert place.calls == [1, BATCH_RECORDS_MAX, BATCH_RECORDS_MAX]
    assert place.appended[0] == numbered(0, 2 * BATCH_RECORDS_MAX + 1)


def test_what_the_log_did_not_take_is_tried_again_in_order(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make()
    place.errors[0] = [Unavailable("away"), Unavailable("still away")]
    for number in range(10):
        box.put(0, b"%d" % number, number)
    box.flush()
    assert place.appended[0] == numbered(0, 10)
    assert settled.accepted_ == list(range(10))
    assert settled.failed_ == []


def test_writes_fail_when_their_time_is_over(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make(delivery_s=0.3)
    place.errors[0] = [Unavailable(f"away {n}") for n in range(1000)]
    for number in range(3 * BATCH_RECORDS_MAX):
        box.put(0, b"%d" % number, number)
    box.put(1, b"other", "other")
    box.flush(DEADLINE_S)
    assert settled.accepted_ == ["other"]
    assert [done for done, _ in settled.failed_] == list(range(3 * BATCH_RECORDS_MAX))
    assert all(isinstance(error, Unavailable) and "away" in error.message for _, error in settled.failed_)
    assert len(place.errors[0]) > 990, "the log is not asked once for each batch of those that are too late"
    place.errors.clear()
    box.put(0, b"again", "again")
    box.flush()
    assert place.appended[0] == [b"again"]


@pytest.mark.parametrize("error", [Full("no space"), ValueError("a bug")])
def test_what_cannot_succeed_fails_at_once_and_the_lane_goes_on(
    make: Callable[..., Outbox[Any]], place: Place, settled: Settled, error: Exception
) -> None:
    box = make()
    place.errors[0] = [error]
    box.put(0, b"0", 0)
    box.flush()
    assert settled.failed_ == [(0, error)]
    box.put(0, b"1", 1)
    box.flush()
    assert place.appended[0] == [b"1"]


def test_a_writer_waits_for_room(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make(buffer_bytes=3 * WRITE_BYTES)
    place.open[0].clear()
    taken: list[int] = []

    def write() -> None:
        for number in range(50):
            box.put(0, b"%d" % number, number)
            taken.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: len(taken) == 3)
    writer.join(0.1)
    assert len(taken) == 3
    place.open[0].set()
    writer.join(DEADLINE_S)
    box.flush()
    assert place.appended[0] == numbered(0, 50)


def test_a_write_larger_than_the_buffer_goes_through(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make(buffer_bytes=10)
    for _ in range(3):
        box.put(0, b"x" * 5000, None)
    box.flush()
    assert len(place.appended[0]) == 3


def test_closing_wakes_a_blocked_writer_and_settles_the_rest(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make(buffer_bytes=2 * WRITE_BYTES)
    place.open[0].clear()
    refused: list[BaseException] = []
    taken: list[int] = []

    def write() -> None:
        try:
            for number in range(50):
                box.put(0, b"%d" % number, number)
                taken.append(number)
        except Unavailable as error:
            refused.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    eventually(lambda: len(taken) == 2)
    closer = threading.Thread(target=box.close)
    closer.start()
    writer.join(DEADLINE_S)
    assert not writer.is_alive()
    assert "closed" in str(refused[0])
    assert closer.is_alive()
    place.open[0].set()
    closer.join(DEADLINE_S)
    assert settled.accepted_ == taken
    box.close()
    with pytest.raises(Unavailable, match="closed"):
        box.put(0, b"late", None)


def test_closing_with_a_timeout_gives_up_on_a_dead_log(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make()
    place.errors[0] = [Unavailable("away") for _ in range(1000)]
    for number in range(10):
        box.put(0, b"%d" % number, number)
    box.close(timeout_s=0.1)
    assert [done for done, _ in settled.failed_] == list(range(10))


def test_flush_waits_for_what_was_there_and_for_no_more(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            box.put(1, b"more", None)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        box.put(0, b"mine", None)
        for _ in range(5):
            box.flush(DEADLINE_S)
        assert place.appended[0] == [b"mine"]
    finally:
        stop.set()
        writer.join()


def test_flush_says_so_when_the_log_takes_too_long(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make()
    place.open[0].clear()
    box.put(0, b"0", None)
    with pytest.raises(Unavailable, match=r"'s' within 0\.05 s"):
        box.flush(0.05)


def test_who_settles_may_write_again_but_not_wait(make: Callable[..., Outbox[Any]], place: Place, settled: Settled) -> None:
    box = make(buffer_bytes=WRITE_BYTES)
    refused: list[str] = []

    def again(done: int) -> None:
        if done < 20:
            box.put(0, b"%d" % (done + 1), done + 1)
        for wait in (box.flush, box.close):
            try:
                wait()
            except InvalidRequest as error:
                refused.append(error.message)

    settled.then = again
    box.put(0, b"0", 0)
    eventually(lambda: len(settled.accepted_) == 21)
    box.flush()
    assert place.appended[0] == numbered(0, 21)
    assert len(refused) == 42


def test_an_offer_does_not_wait(make: Callable[..., Outbox[Any]], place: Place) -> None:
    box = make(buffer_bytes=WRITE_BYTES)
    place.open[0].clear()
    woken = threading.Event()
    assert box.offer(0, b"0", None, woken.set)
    assert not box.offer(0, b"1", None, woken.set)
    place.open[0].set()
    assert woken.wait(DEADLINE_S)
    assert box.offer(0, b"1", None, woken.set)
    box.flush()
    assert place.appended[0] == numbered(0, 2)
