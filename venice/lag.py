"""How far a reader of the log is behind, in records and in seconds.

Somebody asks the log for the ends of all partitions once a second; the readers themselves are not slowed. A reader that has
reached an end which was asked for at a time has read everything the log took before that time: so the seconds of lag are true
to about a second, with records coming or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Ends = Mapping[tuple[str, int], int]
"""(topic, partition) → end offset."""


class Lag(NamedTuple):
    """How far behind."""

    records: int
    """Left to read."""
    seconds: float
    """Since the log took the oldest of them, or a little more; 0 if there is none."""


NO_LAG = Lag(0, 0.0)


class LagMeter:
    """The lag of one reader of some partitions. One thread at a time looks.

    Args:
        since_ms: Everything the log took before then is certainly read.
    """

    def __init__(self, since_ms: int) -> None:
        self.fresh_ms = since_ms
        """Everything that the log took before then is read."""
        self._asked: tuple[int, Ends] = (since_ms, {})

    def look(self, now_ms: int, ends: Ends, offsets: Ends, read_ms: Mapping[tuple[str, int], int]) -> Lag:
        """What the lag is.

        Args:
            now_ms: A moment before `ends` was asked for.
            ends: Of the partitions read.
            offsets: What the reader reads next in each.
            read_ms: When the log took the newest record that was read of each; of those with records left at least.
        """
        left = {at: end - offsets.get(at, 0) for at, end in ends.items() if end > offsets.get(at, 0)}
        asked_ms, asked = self._asked
        if not left:
            self.fresh_ms = now_ms
            return NO_LAG
        if all(offsets.get(at, 0) >= end for at, end in asked.items()):
            self.fresh_ms = max(self.fresh_ms, asked_ms)
            self._asked = (now_ms, ends)
        fresh_ms = max(self.fresh_ms, min(read_ms.get(at, 0) for at in left))
        return Lag(sum(left.values()), max(0, now_ms - fresh_ms) / 1000)
