"""The future of a write: done when the log has acknowledged it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple

_new = tuple.__new__


class Accepted(NamedTuple):
    """Where the log keeps a write: it survives the death of any process. A tuple, because each write gets one."""

    partition: int
    offset: int


class Acknowledgement(Future[Accepted]):
    """A `concurrent.futures.Future` that makes its lock when somebody waits for it, which for most writes nobody does.

    That halves the cost of a write. It cannot be cancelled: the write is on its way.

    Args:
        lock: One for all futures of a producer. Held while a future gets its condition, and while those without one are
            finished: the two must not cross.
    """

    # Slots, also for what Future keeps: an instance without a dictionary, and little for the garbage collector to walk.
    __slots__ = ("_condition", "_done_callbacks", "_exception", "_lock", "_result", "_state", "_waiters", "_watched")

    def __init__(self, lock: threading.Lock) -> None:
        # What Future.__init__ sets, without what belongs to the condition; the state is that of a call which has begun.
        self._lock = lock
        self._watched = False
        self._state: str = RUNNING
        self._result: Any = None
        self._exception: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        # Reached for an attribute that is not there: the condition, when somebody first waits or is to be called.
        if name != "_condition":
            raise AttributeError(name)
        with self._lock:
            if not self._watched:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Any] = []
                self._condition = threading.Condition()
                self._watched = True
        return self._condition

    def done(self) -> bool:
        return self._state == FINISHED or super().done()

    def result(self, timeout: float | None = None) -> Accepted:
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]  # a field of the class below, which has no types
        return super().result(timeout)


def accept(futures: Sequence[Acknowledgement], partition: int, offsets: Sequence[int], lock: threading.Lock) -> None:
    """Give each future its offset; callbacks run in this thread. `lock` is the one that the futures were made with."""
    watched: list[tuple[Acknowledgement, Accepted]] = []
    with lock:
        for future, offset in zip(futures, offsets, strict=True):
            accepted: Accepted = _new(Accepted, (partition, offset))
            if future._watched:
                watched.append((future, accepted))
            else:
                future._result = accepted
                future._state = FINISHED  # last: `result` looks at it without a lock
    for future, accepted in watched:
        future.set_result(accepted)
