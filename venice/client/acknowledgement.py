"""The future of a write: done when the log has acknowledged it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where the log keeps a write: it survives the death of any process."""

    partition: int
    offset: int


class Acknowledgement(Future[Accepted]):
    """A `concurrent.futures.Future` that makes its lock when somebody waits for it, which for most writes nobody does.

    That halves the cost of a write. It cannot be cancelled: the write is on its way.

    Args:
        lock: One for all futures of a producer. Held while a future gets its condition, and while those without one are
            finished: the two must not cross.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        # What Future.__init__ sets, without the condition; the state is that of a call which has begun.
        self._state: str = RUNNING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        # Reached for an attribute that is not there: the condition, when it is first used.
        if name != "_condition":
            raise AttributeError(name)
        with self._lock:
            return self.__dict__.setdefault("_condition", threading.Condition())

    def done(self) -> bool:
        return self._state == FINISHED or super().done()

    def result(self, timeout: float | None = None) -> Accepted:
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[no-any-return]
        return super().result(timeout)


def accept(futures: Sequence[Acknowledgement], partition: int, offsets: Sequence[int], lock: threading.Lock) -> None:
    """Give each future its offset; callbacks run in this thread. `lock` is the one that the futures were made with."""
    watched = []
    with lock:
        for future, offset in zip(futures, offsets, strict=True):
            if "_condition" in future.__dict__:
                watched.append((future, offset))
            else:
                future._result = Accepted(partition, offset)
                future._state = FINISHED  # last: `result` looks at it without a lock
    for future, offset in watched:
        future.set_result(Accepted(partition, offset))
