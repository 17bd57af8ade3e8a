"""One replica that a process holds: what it is wanted as, how far it is, and what is said of it.

Write path: push → snapshot → attaching → ingest → storage. `venice/replicas.py` looks after all of them.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from venice.faults import FaultLedger
from venice.ingest import ReplicaFold
from venice.lag import Ends, Lag, LagMeter
from venice.model import Checkpoint, ReplicaReport, ReplicaState, Version
from venice.naming import replica_name, version_topic
from venice.storage import PartitionStorage


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replica this process should hold."""

    store: str
    version: Version
    partition: int
    checkpoints: tuple[Checkpoint, ...] = ()
    """Of the partition, newest first: what a new replica of a hybrid version is made of rather than of the version's snapshot."""
    schemas: frozenset[int] | None = None
    """Ids of the store's value schemas; None: whatever is folded is not compared with them."""

    @property
    def name(self) -> str:
        return replica_name(self.store, self.version.number, self.partition)

    @property
    def source(self) -> tuple[str, int]:
        """(topic, partition) that is folded."""
        return version_topic(self.store, self.version.number), self.partition


@dataclass(slots=True)
class Replica:
    """A replica of a `ReplicaSet`, which changes it under its lock."""

    wanted: Wanted
    state: ReplicaState = ReplicaState.ATTACHING
    attaching: Future[PartitionStorage] | None = None
    fold: ReplicaFold | None = None
    target: int = 0
    """Version-topic offset to fold up to before a replica of a hybrid version is ready: where the topic ended when it was opened."""
    error: str = ""
    meter: LagMeter | None = None
    lag: Lag | None = None
    """How far behind its topic, as of the last look; None before the first, and for a batch version, which has nothing to fold."""
    paused_until_s: float | None = None
    """While it is not None the replica is as it was, and folds nothing."""
    retry_at_s: float = 0.0
    retire_at_s: float | None = None

    def is_ready(self, fold: ReplicaFold) -> bool:
        """Whether a replica may serve: a batch replica once it is attached; a hybrid one once a leader has said it caught up and
        the replica has folded what was there when it was opened. Ready once is ready for the replica's life: a new leader's
        catching up delays freshness, not reads."""
        hybrid = self.wanted.version.hybrid
        if hybrid is None:
            return True
        position = fold.storage.position
        return position.caught_up_session != 0 and position.next_offset >= self.target - hybrid.lag_records_max

    def look(self, now_ms: int, ends: Ends) -> None:
        """Take note how far behind `ends` it is, which were asked for at `now_ms`."""
        fold, at = self.fold, self.wanted.source
        if fold is None or self.meter is None or at not in ends:
            return
        # Nothing after a hole counts, so all of that is left to come.
        reached = fold.next_offset if fold.stuck_at is None else fold.stuck_at
        self.lag = self.meter.look(now_ms, {at: ends[at]}, {at: reached}, {at: fold.folded_ms})

    def report(self, faults: FaultLedger) -> ReplicaReport:
        """What a worker says of it, if it does not lead."""
        storage = self.fold.storage if self.fold is not None else None
        left = max(0, self.target - storage.position.next_offset) if storage else 0
        return ReplicaReport(
            store=self.wanted.store,
            version=self.wanted.version.number,
            partition=self.wanted.partition,
            state=self.state,
            next_offset=storage.position.next_offset if storage else 0,
            row_count=storage.row_count if storage else 0,
            error=self.error,
            lag_records=left if self.lag is None else self.lag.records,
            lag_s=0.0 if self.lag is None else round(self.lag.seconds, 1),
            fresh_ms=self.fold.fresh_ms if self.fold is not None else 0,
            faults=faults.of(self.wanted.name),
        )
