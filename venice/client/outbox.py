"""The outbox of a producer: writes on their way into the log, in order within each partition.

Write path: producer → **outbox** → real-time topic → leader → version topic → ingest → storage.

Each partition has a lane with at most one append under way, so its writes reach the log in the order they were put in. A
few threads serve the lanes that have something: while one waits for a slow partition the others go on. Under load a lane
fills while its last append is under way, so batches grow by themselves and nobody has to linger.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from venice.clock import Clock
from venice.errors import InvalidRequest, Unavailable, VeniceError

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)

BATCH_RECORDS_MAX = 1000
BATCH_BYTES_MAX = 1024 * 1024
THREADS_MAX = 8
SLOW_S = 0.02
"""Another thread is started when a lane has waited for longer, or all threads have been with the log for longer. Not sooner:
few threads make large batches."""
RETRY_S = 0.2
WRITE_BYTES = 1000
"""What a write weighs in memory besides its payload: future, queue entry, object headers."""


class Settle(Protocol[D_contra]):
    """Told, in a thread of the outbox, what became of writes; `dones` are what they were put in with, in order."""

    def accepted(self, partition: int, offsets: Sequence[int], dones: Sequence[D_contra]) -> None: ...

    def failed(self, error: Exception, dones: Sequence[D_contra]) -> None: ...


_Write = tuple[bytes, D, float]
"""(payload, done, deadline on the monotonic clock). A plain tuple: one is made for each write."""


@dataclass(slots=True)
class _Lane(Generic[D]):
    """One partition. Counters of writes only grow: put in, and settled."""

    partition: int
    waiting: deque[_Write[D]] = field(default_factory=deque)
    busy: bool = False
    """Ready for a thread, or with one."""
    ready_s: float = 0.0
    """Since when it waits for a thread."""
    made: int = 0
    settled: int = 0
    error: VeniceError | None = None
    """Why the last append failed; None if it did not."""
    retry_at_s: float = 0.0


class Outbox(Generic[D]):
    """Lanes, the threads that empty them, and a bound on what waits. Safe to share between threads.

    Args:
        append: (partition, payloads) → their offsets; raises VeniceError. A retryable one is tried again.
        settle: Told what became of the writes.
        name: Of whose writes they are, for errors.
        lanes: How many partitions there are.
        buffer_bytes: What may wait; beyond it `put` blocks until half of it is free.
        delivery_s: A write that the log has not taken after so long fails with Unavailable.
        clock: For deadlines.
    """

    def __init__(
        self,
        append: Callable[[int, list[bytes]], list[int]],
        settle: Settle[D],
        *,
        name: str,
        lanes: int,
        buffer_bytes: int,
        delivery_s: float,
        clock: Clock,
    ) -> None:
        self._append = append
        self._settle = settle
        self._name = name
        self._lanes: list[_Lane[D]] = [_Lane(partition) for partition in range(lanes)]
        self._buffer_bytes = buffer_bytes
        self._delivery_s = delivery_s
        self._clock = clock
        lock = threading.Lock()
        self._lock = lock
        self._room = threading.Condition(lock)
        self._work = threading.Condition(lock)
        self._settled = threading.Condition(lock)
        self._ready: deque[_Lane[D]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._begun_s = float("-inf")
        """When a thread last went to the log."""
        self._bytes = 0
        self._full = False
        self._room_wanted: list[Callable[[], None]] = []
        self._closing = False
        self._give_up_s = float("inf")

    def put(self, partition: int, payload: bytes, done: D) -> None:
        """Take a write, when there is room. Waits for none in the outbox's own threads, which have to make it.

        Raises:
            Unavailable: The outbox is closed, or was while this waited; the write was not taken.
        """
        with self._lock:
            if self._full and threading.current_thread() not in self._threads:
                self._room.wait_for(lambda: not self._full or self._closing)
            self._take(partition, payload, done)

    def offer(self, partition: int, payload: bytes, done: D, wake: Callable[[], None]) -> bool:
        """Take a write if there is room. If there is none, `wake` is called from a thread once trying again is worth it.

        Raises:
            Unavailable: The outbox is closed.
        """
        with self._lock:
            if self._full and not self._closing:
                self._room_wanted.append(wake)
                return False
            self._take(partition, payload, done)
            return True

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every write put in so far is settled.

        Raises:
            Unavailable: `timeout_s` passed first.
            InvalidRequest: Called where a write is being settled: it would wait for itself.
        """
        self._refuse_own_threads("flush")
        with self._lock:
            targets = [(lane, lane.made) for lane in self._lanes if lane.settled < lane.made]
            if not self._settled.wait_for(lambda: all(lane.settled >= made for lane, made in targets), timeout_s):
                raise Unavailable(f"the log has not taken all writes of {self._name!r} within {timeout_s:g} s", hint="try again")

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more writes, settle those that wait, stop the threads. Closing again waits for the same.

        Args:
            timeout_s: What is not in the log after so long fails with Unavailable; an append under way is waited for.

        Raises:
            InvalidRequest: Called where a write is being settled.
        """
        self._refuse_own_threads("close")
        with self._lock:
            self._closing = True
            if timeout_s is not None:
                self._give_up_s = min(self._give_up_s, self._clock.monotonic_s() + timeout_s)
            self._room.notify_all()
            self._work.notify_all()
            wanted, self._room_wanted = self._room_wanted, []
        for wake in wanted:
            wake()
        for thread in self._threads:
            thread.join()

    def _refuse_own_threads(self, call: str) -> None:
        if threading.current_thread() in self._threads:
            raise InvalidRequest(f"{call} of {self._name!r} within a callback of one of its writes", hint="call it from another thread")

    def _take(self, partition: int, payload: bytes, done: D) -> None:
        if self._closing:
            raise Unavailable(f"the producer of {self._name!r} is closed", hint="open a new one")
        lane = self._lanes[partition]
        now_s = self._clock.monotonic_s()
        lane.waiting.append((payload, done, now_s + self._delivery_s))
        lane.made += 1
        self._bytes += len(payload) + WRITE_BYTES
        if self._bytes > self._buffer_bytes:
            self._full = True
        if not lane.busy:
            lane.busy = True
            lane.ready_s = now_s
            self._ready.append(lane)
            self._work.notify()
        if not self._idle and self._ready and now_s - min(self._begun_s, self._ready[0].ready_s) > SLOW_S:
            self._add_thread(now_s)

    def _add_thread(self, now_s: float) -> None:
        if len(self._threads) < min(THREADS_MAX, len(self._lanes)):
            self._begun_s = now_s
            thread = threading.Thread(target=self._run, name=f"producer-{self._name}-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _run(self) -> None:
        while True:
            with self._lock:
                lane = self._next_lane()
                if lane is None:
                    return
                self._begun_s = self._clock.monotonic_s()
                expired = self._expired(lane)
                batch = expired or _batch(lane.waiting)
            if expired:
                self._settle.failed(self._too_late(lane), [done for _, done, _ in expired])
                self._finish(lane, expired)
            else:
                self._deliver(lane, batch)

    def _next_lane(self) -> _Lane[D] | None:
        """The lane that is due longest; None when the outbox is closed and nothing is left for this thread to do."""
        while True:
            now_s = self._clock.monotonic_s()
            for _ in range(len(self._ready)):
                lane = self._ready.popleft()
                if lane.retry_at_s <= now_s or self._give_up_s <= now_s:
                    return lane
                self._ready.append(lane)
            if self._closing and not self._ready:
                return None
            self._idle += 1
            self._work.wait(RETRY_S if self._ready else None)
            self._idle -= 1

    def _expired(self, lane: _Lane[D]) -> list[_Write[D]]:
        """Writes whose time is over, if the lane's last append failed: the log is not asked again for each batch of them."""
        if lane.error is None:
            return []
        now_s = self._clock.monotonic_s()
        expired = []
        while lane.waiting and (lane.waiting[0][2] <= now_s or self._give_up_s <= now_s):
            expired.append(lane.waiting.popleft())
        return expired

    def _too_late(self, lane: _Lane[D]) -> Unavailable:
        assert lane.error is not None, "a lane whose appends work has nothing that expired"
        return Unavailable(
            f"the log has not taken a write of {self._name!r} in time: {lane.error.message}",
            hint="it may be in the log all the same; write it again when the log is back",
        )

    def _deliver(self, lane: _Lane[D], batch: list[_Write[D]]) -> None:
        dones = [done for _, done, _ in batch]
        try:
            offsets = self._append(lane.partition, [payload for payload, _, _ in batch])
        except VeniceError as error:
            if error.retryable:
                self._try_again(lane, batch, error)
                return
            self._settle.failed(error, dones)
        except Exception as error:  # noqa: BLE001 - a bug must reach those who wait for the writes, not end the thread
            self._settle.failed(error, dones)
        else:
            lane.error = None
            self._settle.accepted(lane.partition, offsets, dones)
        self._finish(lane, batch)

    def _try_again(self, lane: _Lane[D], batch: list[_Write[D]], error: VeniceError) -> None:
        """Put the batch back at the head of its lane: what follows must not overtake it."""
        with self._lock:
            lane.waiting.extendleft(reversed(batch))
            lane.error = error
            lane.ready_s = lane.retry_at_s = self._clock.monotonic_s() + RETRY_S
            self._ready.append(lane)

    def _finish(self, lane: _Lane[D], writes: list[_Write[D]]) -> None:
        """Count settled writes, make room, and queue the lane again if it has more."""
        size = sum([len(payload) for payload, _, _ in writes]) + len(writes) * WRITE_BYTES
        wanted: list[Callable[[], None]] = []
        with self._lock:
            lane.settled += len(writes)
            self._bytes -= size
            if self._full and self._bytes <= self._buffer_bytes // 2:
                # Not at once when anything fits: writers and the threads that make room would fight over the interpreter.
                self._full = False
                self._room.notify_all()
                wanted, self._room_wanted = self._room_wanted, []
            self._settled.notify_all()
            if lane.waiting:
                lane.ready_s = self._clock.monotonic_s()
                self._ready.append(lane)
            else:
                lane.busy = False
        for wake in wanted:
            wake()


def _batch(waiting: deque[_Write[D]]) -> list[_Write[D]]:
    """The first writes that wait, as many as one append takes; at least one."""
    batch: list[_Write[D]] = []
    size = 0
    while waiting and len(batch) < BATCH_RECORDS_MAX and size < BATCH_BYTES_MAX:
        write = waiting.popleft()
        size += len(write[0])
        batch.append(write)
    return batch
