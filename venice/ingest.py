"""The fold of one replica: version-topic records in, storage mutations out. Knows no driver.

Write path: push → snapshot → attach → **ingest** → storage.

A replica changes only here, so leaders, followers and Da Vinci clients that folded the same offsets hold the same bytes.
Which records count follows from the log alone: a leader is a (term, session); `DECLARE_LEADERSHIP` is accepted when its
term is not smaller than the replica's; after it only records of that session count, in dense sequence. Everything else is
dropped by every replica alike, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from venice import record as log_record
from venice.errors import Corrupt
from venice.log import Entry
from venice.record import Kind, Origin, Record
from venice.storage import Mutation, PartitionStorage, Position
from venice.storage.format import encode_value


@dataclass(slots=True)
class FoldCounts:
    """What became of the records a replica has read, since its process started."""

    applied: int = 0
    """Data records written to storage."""
    control: int = 0
    """Declarations, progress and other marks that were accepted."""
    fenced: int = 0
    """Records of a session that had been superseded (or never declared)."""
    duplicate: int = 0
    """Records whose sequence the session had passed already."""
    missing: int = 0
    """Records after a hole in their session's sequence: refused until a new session declares itself."""
    corrupt: int = 0
    """Payloads that could not be decoded."""


class ReplicaFold:
    """Folds the entries of one version-topic partition into one storage. One thread at a time."""

    def __init__(self, storage: PartitionStorage) -> None:
        self.storage = storage
        self.counts = FoldCounts()

    @property
    def next_offset(self) -> int:
        """Offset of the entry to fold next."""
        return self.storage.position.next_offset

    def fold(self, entries: Sequence[Entry]) -> int:
        """Fold entries in offset order, in one atomic write; entries folded before are skipped.

        Returns:
            How many data records were applied.

        Raises:
            Full: The disk is full; nothing of the batch was applied.
        """
        before = self.storage.position
        after = before
        mutations: list[Mutation] = []
        for entry in entries:
            if entry.offset < after.next_offset:
                continue
            after = replace(self._accept(entry, after, mutations), next_offset=entry.offset + 1)
        if after != before:
            self.storage.apply(mutations, after)
        self.counts.applied += len(mutations)
        return len(mutations)

    def _accept(self, entry: Entry, position: Position, mutations: list[Mutation]) -> Position:
        try:
            record = log_record.decode(entry.payload)
        except Corrupt:
            self.counts.corrupt += 1
            return position
        after = accept(record, position, self.counts)
        if after is None:
            return position
        if record.kind is Kind.PUT:
            mutations.append(Mutation(record.key, _stored(record), record.metadata or None))
        elif record.kind is Kind.DELETE:
            mutations.append(Mutation(record.key, None, record.metadata or None))
        return after


def accept(record: Record, position: Position, counts: FoldCounts) -> Position | None:
    """The position of a reader that stood at `position` after this record, its offset aside; None if the record does not count.

    Everybody who reads a version topic asks here, so all drop the same records.
    """
    if record.kind is Kind.START_OF_VERSION:
        counts.control += 1
        return position
    if record.kind is Kind.DECLARE_LEADERSHIP:
        return _declare(record, position, counts)
    if not _in_sequence(record, position, counts):
        return None
    caught_up = position.caught_up_session
    if record.kind is Kind.CAUGHT_UP:
        caught_up = record.session
    if record.kind not in (Kind.PUT, Kind.DELETE):
        counts.control += 1
    return replace(position, sequence=record.sequence, vector=record.vector or position.vector, caught_up_session=caught_up)


def _declare(record: Record, position: Position, counts: FoldCounts) -> Position | None:
    if record.term < position.term:
        counts.fenced += 1
        return None
    counts.control += 1
    return replace(position, term=record.term, session=record.session, sequence=0)


def _in_sequence(record: Record, position: Position, counts: FoldCounts) -> bool:
    if (record.term, record.session) != (position.term, position.session):
        counts.fenced += 1
    elif record.sequence <= position.sequence:
        counts.duplicate += 1
    elif record.sequence != position.sequence + 1:
        counts.missing += 1
    else:
        return True
    return False


def _stored(record: Record) -> bytes:
    if record.origin is Origin.REAL_TIME:
        return encode_value(record.schema_id, record.value, record.timestamp_ms, record.region)
    return encode_value(record.schema_id, record.value, record.timestamp_ms or None)
