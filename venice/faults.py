"""Faulty records, counted per replica and told of once: what was missing, repeated, damaged or refused, and where.

Whoever meets a faulty record in a topic adds it here, off the way of the good ones. The counts are since the process started;
metrics and reports read them from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from venice.clock import Clock
from venice.model import Fault, FaultCount
from venice.telemetry import log_event

Source = Literal["version", "real_time"]
"""Which topic of a store a record stood in."""

TOLD_S = 60.0
"""A fault of a replica is told at once, and then at most so often, with how many there have been."""


@dataclass(slots=True)
class _Tally:
    count: int = 0
    told_s: float = float("-inf")


class FaultLedger:
    """The faulty records that a process has met. Any thread may read, one at a time adds to a replica."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tallies: dict[str, dict[tuple[Source, Fault], _Tally]] = {}

    def add(self, replica: str, source: Source, fault: Fault, *, topic: str, partition: int, offset: int, count: int = 1) -> None:
        """So many more, the newest at `offset`."""
        tally = self._tallies.setdefault(replica, {}).setdefault((source, fault), _Tally())
        tally.count += count
        now_s = self._clock.monotonic_s()
        if now_s - tally.told_s >= TOLD_S:
            tally.told_s = now_s
            log_event(
                "record_faulty", replica=replica, fault=fault.value, topic=topic, partition=partition, offset=offset, count=tally.count
            )

    def of(self, replica: str) -> tuple[FaultCount, ...]:
        """The counts of a replica that are not zero."""
        tallies = dict(self._tallies.get(replica, {}))
        return tuple(FaultCount(topic=source, fault=fault, count=tally.count) for (source, fault), tally in tallies.items())

    def all(self) -> Iterator[tuple[str, FaultCount]]:
        """(replica, count) of all that are not zero."""
        for replica in list(self._tallies):
            for count in self.of(replica):
                yield replica, count
