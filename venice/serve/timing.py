"""How many requests a server has answered, and how long some of them took."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from venice.clock import Clock

BOUNDS_S: Final = tuple(1e-6 * 2 ** (step / 2) for step in range(48))
"""From a microsecond to twelve seconds, each 1.4 times the one before."""

EVERY: Final = 8
"""One request of so many is timed: a reading of the clock costs a hundredth of a get. A power of two."""


class RequestTimes:
    """Of one server. The thread of its loop counts; any thread reads."""

    def __init__(self, clock: Clock) -> None:
        self._now_s = clock.monotonic_s
        self.answered = 0
        self.sum_s = 0.0
        """Of those that were timed."""
        self._counts = [0] * (len(BOUNDS_S) + 1)

    def began(self) -> float:
        """When the request that is answered next began, or 0.0: it is not timed."""
        return 0.0 if self.answered & (EVERY - 1) else self._now_s()

    def ended(self, began_s: float) -> None:
        """Count it."""
        self.answered += 1
        if began_s:
            took_s = self._now_s() - began_s
            self.sum_s += took_s
            self._counts[bisect_left(BOUNDS_S, took_s)] += 1

    def histogram(self) -> tuple[Sequence[float], Sequence[int], float]:
        """Upper bounds of all buckets but the last, which has none; how many requests each has; the sum of their seconds."""
        return BOUNDS_S, tuple(self._counts), self.sum_s
