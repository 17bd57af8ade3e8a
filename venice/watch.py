"""What a worker knows of its replicas besides serving them: lag, freshness and faults, for its reports and its metrics.

The log is asked once a second for the ends of everything that is folded and merged here, in one question.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from venice.clock import Clock
from venice.control.catalog import CatalogTail
from venice.errors import VeniceError
from venice.faults import FaultLedger
from venice.leaders import LeaderSet
from venice.log import PAYLOAD_BYTES_MAX, Log
from venice.lookout import LOOK_S, Sample, labels, measure
from venice.model import ReplicaReport, Store
from venice.naming import CATALOG_TOPIC, parse_replica_name, replica_name
from venice.replicas import ReplicaSet
from venice.telemetry import (
    APPLIED_RECORDS_TOTAL,
    FAULTY_RECORDS_TOTAL,
    LEADER_LAG_RECORDS,
    LEADER_LAG_SECONDS,
    Metrics,
)

CATALOG_S = 5.0
"""How long merging waits for the catalog, where a value has a schema that it does not name."""


class Watch:
    """Looks after the replicas and leaders of one worker.

    Args:
        log: Is asked for the ends of topics.
        replicas: The worker's.
        leaders: The worker's.
        faults: Where both count faulty records.
        clock: For pauses, and what is now.
    """

    def __init__(self, log: Log, replicas: ReplicaSet, leaders: LeaderSet, faults: FaultLedger, clock: Clock) -> None:
        self._log = log
        self._replicas = replicas
        self._leaders = leaders
        self._faults = faults
        self._clock = clock
        self._looked_s = float("-inf")

    def look(self) -> None:
        """Ask the log how far it goes, if it was not asked lately. One thread at a time."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        if now_s < self._looked_s + LOOK_S:
            return
        self._looked_s = now_s
        sources = {*self._leaders.sources(), *self._replicas.sources()}
        with suppress(VeniceError):  # Without an answer the lag is as old as the last one; that the log is away is said elsewhere.
            ends = self._log.end_offsets(sources) if sources else {}
            self._leaders.look(now_ms, ends)
            self._replicas.look(now_ms, ends)

    def completed(self, report: ReplicaReport) -> ReplicaReport:
        """A replica's report; of one that leads it says what is left to merge."""
        lag = self._leaders.lag(replica_name(report.store, report.version, report.partition))
        return report if lag is None else replace(report, leads=True, lag_records=lag.records, lag_s=round(lag.seconds, 1))

    def measure(self, metrics: Metrics) -> None:
        """Have `metrics` show it all."""
        measure(metrics, self._replicas.reports, self._clock)
        metrics.watch_all(APPLIED_RECORDS_TOTAL, self._applied)
        metrics.watch_all(LEADER_LAG_RECORDS, lambda: ((labels(one), one.lag_records) for one in self._led()))
        metrics.watch_all(LEADER_LAG_SECONDS, lambda: ((labels(one), one.lag_s) for one in self._led()))
        metrics.watch_all(FAULTY_RECORDS_TOTAL, self._faulty)

    def _led(self) -> Iterator[ReplicaReport]:
        return (one for one in map(self.completed, self._replicas.reports()) if one.leads)

    def _applied(self) -> Iterator[Sample]:
        for one in self._replicas.reports():
            fold = self._replicas.fold_of(replica_name(one.store, one.version, one.partition))
            if fold is not None:
                yield labels(one), fold.counts.applied

    def _faulty(self) -> Iterator[Sample]:
        for name, found in self._faults.all():
            parsed = parse_replica_name(name)
            assert parsed is not None, "faults are counted by replica"
            yield (*map(str, parsed), found.topic, found.fault.value), found.count


class Registered:
    """Whether a store has a value schema, as the newest catalog says: whoever wrote a value had heard of its schema before."""

    def __init__(self, tail: CatalogTail, log: Log) -> None:
        self._tail = tail
        self._log = log

    def __call__(self, store: str, schema_id: int) -> bool:
        """Raises Unavailable if the catalog cannot be read up to now."""
        if schema_id in schemas_of(self._tail.catalog.stores.get(store)):
            return True
        catalog = self._tail.wait_for(self._log.end_offset(CATALOG_TOPIC, 0), CATALOG_S)
        return schema_id in schemas_of(catalog.stores.get(store))


class ValueLimit:
    """The largest value that a store takes, as the newest catalog here says."""

    def __init__(self, tail: CatalogTail) -> None:
        self._tail = tail

    def __call__(self, store: str) -> int:
        found = self._tail.catalog.stores.get(store)
        return found.config.record_bytes_max if found is not None else PAYLOAD_BYTES_MAX


def schemas_of(store: Store | None) -> frozenset[int]:
    """Ids of a store's value schemas."""
    return frozenset(schema.id for schema in store.value_schemas) if store is not None else frozenset()
