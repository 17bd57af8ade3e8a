"""Time as a component: everything that asks what time it is, or waits, takes a `Clock`."""

from __future__ import annotations

import select
import time
from typing import Protocol


class Clock(Protocol):
    """What time it is and how to wait. Safe to share between threads."""

    def now_ms(self) -> int:
        """Wall time in milliseconds since the Unix epoch; may step backwards."""
        ...

    def monotonic_s(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait at least `seconds`."""
        ...

    def wait_readable(self, descriptor: int, seconds: float) -> bool:
        """Wait until a file descriptor has something to read, at most `seconds`; whether it has."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # all others ask a clock

    def wait_readable(self, descriptor: int, seconds: float) -> bool:
        poller = select.poll()  # select.select takes no descriptor above 1023
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(seconds * 1000))


class ManualClock:
    """A clock that moves only when told to; `sleep` moves it. For tests and simulation."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        return int(self._now_ms)

    def monotonic_s(self) -> float:
        return self._monotonic_s

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def wait_readable(self, descriptor: int, seconds: float) -> bool:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(0):
            self.sleep(seconds)
        return bool(poller.poll(0))

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, "a manual clock only moves forward"
        self._now_ms += seconds * 1000
        self._monotonic_s += seconds
