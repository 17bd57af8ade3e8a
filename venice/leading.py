"""One session of leadership as a process drives it: what it reads, when its marks are due, how far it is behind.

Write path: producer → real-time topic → **leader** → version topic → ingest → storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from venice.lag import Ends, Lag, LagMeter
from venice.leader import Leader, Standing, real_time_partitions
from venice.model import Version
from venice.naming import real_time_topic, replica_name

LAG_S = 0.1
"""How often the lag of a leader that has not caught up is looked at."""

PROGRESS_S = 1.0
"""Between the marks of a leader that merges: heartbeats, and what covers inputs that changed nothing."""


@dataclass(frozen=True, slots=True)
class Led:
    """A partition this process should lead, in its own region."""

    store: str
    version: Version
    partition: int
    term: int
    region: int

    @property
    def name(self) -> str:
        return replica_name(self.store, self.version.number, self.partition)

    @property
    def real_time_partitions(self) -> Sequence[int]:
        """Those that can hold the partition's keys."""
        return real_time_partitions(self.partition, self.version.partition_count, self.version.real_time_partitions)


@dataclass(slots=True)
class Leading:
    """A session. Driven by one thread; `look` may be called from another one."""

    led: Led
    leader: Leader
    number: int
    meter: LagMeter
    reading: bool = False
    caught_up: bool = False
    due_s: float = 0.0
    """When marks are due."""
    lag: Lag | None = None
    """As of the last look."""
    read_ms: dict[tuple[str, int], int] = field(default_factory=dict)
    """By real-time partition: when the log took the newest record that was merged."""
    _beat_ms: int = 0
    """What the last heartbeat said."""
    _pause_s: float = PROGRESS_S
    """From the last heartbeat to the next; doubles as long as nothing is merged."""
    _busy: bool = False
    """Whether anything was merged since the last heartbeat."""

    @property
    def sources(self) -> list[tuple[str, int]]:
        """(topic, partition) of what it merges."""
        topic = real_time_topic(self.led.store)
        return [(topic, partition) for partition in self.led.real_time_partitions]

    def records_left(self, ends: Ends) -> int | None:
        """Records left to merge; None if `ends` does not tell."""
        offsets = self._offsets()
        return sum(max(0, ends[at] - offset) for at, offset in offsets.items()) if ends.keys() >= offsets.keys() else None

    def look(self, now_ms: int, ends: Ends) -> None:
        """Take note of the lag, for reports and the next heartbeat; a session that is over is brought up at once.

        Args:
            now_ms: A moment before `ends` was asked for.
            ends: Of all partitions it merges, and any others.
        """
        offsets = self._offsets()
        if not ends.keys() >= offsets.keys():
            return
        self.lag = self.meter.look(now_ms, {at: ends[at] for at in offsets}, offsets, self.read_ms)
        if self.leader.standing is not Standing.LEADING:
            self.due_s = 0.0

    def marks(self, now_s: float, now_ms: int, *, busy: bool, pause_max_s: float, ends: Callable[[], Ends]) -> list[bytes]:
        """Payloads to append after what was merged: a heartbeat, what covers inputs that changed nothing, that it has caught up.

        Args:
            now_s: Monotonic time.
            now_ms: Wall time.
            busy: Whether anything is appended besides.
            pause_max_s: Between two heartbeats while nothing is merged.
            ends: Asks for the ends of what it merges; only called until it has caught up, because that takes its time.
        """
        self._busy |= busy
        if self._busy or not self.leader.is_covered:
            self.due_s = min(self.due_s, now_s + PROGRESS_S)
        if now_s < self.due_s:
            return []
        beat = self._heartbeat(pause_max_s)
        marks = beat or self.leader.progress(now_ms)
        if not self.caught_up:
            hybrid = self.led.version.hybrid
            assert hybrid is not None, "only hybrid versions have leaders"
            left = self.records_left(ends())
            if left is not None and left <= hybrid.lag_records_max:
                self.caught_up = True
                marks += self.leader.caught_up(now_ms)
        self.due_s = now_s + (LAG_S if not self.caught_up else self._pause_s if beat else PROGRESS_S)
        return marks

    def _heartbeat(self, pause_max_s: float) -> list[bytes]:
        fresh_ms = self.meter.fresh_ms
        if self.lag is None or fresh_ms <= self._beat_ms:
            return []
        self._pause_s = PROGRESS_S if self._busy else min(2 * self._pause_s, max(pause_max_s, PROGRESS_S))
        self._beat_ms, self._busy = fresh_ms, False
        return self.leader.heartbeat(fresh_ms)

    def _offsets(self) -> dict[tuple[str, int], int]:
        offsets, region = self.leader.offsets, self.led.region
        return {at: offsets.get((region, at[1]), 0) for at in self.sources}
