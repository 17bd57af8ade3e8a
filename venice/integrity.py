"""What is looked after around the folds of a process: records that seem to be missing, faulty ones, values of unknown schemas.

Write path: push → snapshot → attaching → ingest → storage. All of it is off the way of the records that are as they should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from venice.clock import Clock
from venice.errors import Unavailable
from venice.faults import FaultLedger
from venice.ingest import Met, ReplicaFold
from venice.log import Entry, Log
from venice.model import Fault
from venice.naming import replica_of_topic
from venice.storage import PartitionStorage

REREAD_S = 10.0
"""How long reading again may take without anything coming."""

STRANGE_S = 2.0
"""A value of an unknown schema is counted so long after it was folded: the catalog may tell of the schema a little later."""

_POLL_S = 0.1


class Integrity:
    """Makes the folds of a process, and tells what they have met. The thread that folds drives it."""

    def __init__(self, log: Log, clock: Clock, faults: FaultLedger) -> None:
        self._log = log
        self._clock = clock
        self._faults = faults
        self._strange_s: dict[tuple[str, int], float] = {}
        """(replica, schema id) → when values of it were first seen."""

    def fold(self, storage: PartitionStorage, topic: str, partition: int, schemas: frozenset[int] | None) -> ReplicaFold:
        """A fold of a partition of a version topic, which reads again what seems to be missing.

        Args:
            schemas: Value schemas that are registered; None: not looked at.
        """
        return ReplicaFold(storage, reread=partial(self._reread, topic, partition), schemas=schemas)

    def tell(self, fold: ReplicaFold, topic: str, partition: int) -> None:
        """Count the faulty records that a fold has met."""
        met, fold.met = fold.met, {}
        for fault, found in met.items():
            self._add(fault, found, topic, partition)

    def judge(self, fold: ReplicaFold, topic: str, partition: int, schemas: frozenset[int]) -> None:
        """Whether the schemas of values that were strange to a fold are registered by now."""
        assert fold.schemas is not None, "a fold that knows no schemas finds none strange"
        now_s = self._clock.monotonic_s()
        for schema_id, found in list(fold.strange.items()):
            key = replica_of_topic(topic, partition), schema_id
            if schema_id in schemas:
                fold.schemas.add(schema_id)
                del fold.strange[schema_id]
                self._strange_s.pop(key, None)
            elif found.count and now_s >= self._strange_s.setdefault(key, now_s) + STRANGE_S:
                self._add(Fault.UNREGISTERED, found, topic, partition)
                found.count = 0

    def _add(self, fault: Fault, found: Met, topic: str, partition: int) -> None:
        replica = replica_of_topic(topic, partition)
        self._faults.add(replica, "version", fault, topic=topic, partition=partition, offset=found.offset, count=found.count)

    def _reread(self, topic: str, partition: int, first: int, end: int) -> Iterator[Entry]:
        """What the log holds from `first` up to `end`, by a reader that has not read it before."""
        reader = self._log.reader({(topic, partition): max(first, self._log.start_offset(topic, partition))})
        deadline_s = self._clock.monotonic_s() + REREAD_S
        try:
            while reader.position(topic, partition) < end:
                entries = reader.poll(timeout_s=_POLL_S)
                if entries:
                    deadline_s = self._clock.monotonic_s() + REREAD_S
                elif self._clock.monotonic_s() >= deadline_s:
                    raise Unavailable(f"{topic}[{partition}] cannot be read again from offset {first}", hint="is the log reachable?")
                yield from (entry for entry in entries if entry.offset < end)
        finally:
            reader.close()
