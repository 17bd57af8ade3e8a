"""How far replicas are behind their topics, looked at once a second, and shown as metrics: for whoever holds replicas and leads none.

A worker, which also leads, has `venice/watch.py`, whose metrics of replicas are these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from venice.clock import Clock
from venice.errors import VeniceError
from venice.log import Log
from venice.model import ReplicaReport
from venice.replicas import ReplicaSet
from venice.telemetry import (
    FAULTY_RECORDS_TOTAL,
    REPLICA_FRESHNESS_SECONDS,
    REPLICA_LAG_RECORDS,
    REPLICA_LAG_SECONDS,
    Metrics,
)

LOOK_S = 1.0
"""How often the log is asked."""

Reports = Callable[[], Iterable[ReplicaReport]]

Sample = tuple[tuple[str, ...], float]
"""Values of a metric's labels, and what it measures."""


class Lookout:
    """Asks the log for the ends of everything that a set of replicas folds. One thread at a time."""

    def __init__(self, log: Log, replicas: ReplicaSet, clock: Clock) -> None:
        self._log = log
        self._replicas = replicas
        self._clock = clock
        self._looked_s = float("-inf")

    def look(self) -> bool:
        """Ask, if the log was not asked lately; whether it was the time to."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if now_s < self._looked_s + LOOK_S:
            return False
        self._looked_s = now_s
        sources = self._replicas.sources()
        with suppress(VeniceError):  # Without an answer the lag is what it was; that the log is away is told by `poll`.
            self._replicas.look(now_ms, self._log.end_offsets(sources) if sources else {})
        return True


def measure(metrics: Metrics, reports: Reports, clock: Clock) -> None:
    """Have `metrics` show lag and freshness of each replica."""
    metrics.watch_all(REPLICA_LAG_RECORDS, lambda: ((labels(one), one.lag_records) for one in reports()))
    metrics.watch_all(REPLICA_LAG_SECONDS, lambda: ((labels(one), one.lag_s) for one in reports()))
    metrics.watch_all(REPLICA_FRESHNESS_SECONDS, lambda: _freshness(reports, clock))


def measure_faults(metrics: Metrics, reports: Reports) -> None:
    """Have `metrics` show the faulty records that each replica has met."""
    metrics.watch_all(
        FAULTY_RECORDS_TOTAL,
        lambda: (((*labels(one), found.topic, found.fault.value), found.count) for one in reports() for found in one.faults),
    )


def labels(report: ReplicaReport) -> tuple[str, ...]:
    """Store, version, partition."""
    return report.store, str(report.version), str(report.partition)


def _freshness(reports: Reports, clock: Clock) -> Iterator[Sample]:
    now_ms = clock.now_ms()
    for one in reports():
        if one.fresh_ms:
            yield labels(one), max(0, now_ms - one.fresh_ms) / 1000
