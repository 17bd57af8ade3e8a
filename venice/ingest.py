"""The fold of one replica: version-topic records in, storage mutations out. Knows no driver.

Write path: push → snapshot → attach → **ingest** → storage.

A replica changes only here, so leaders, followers and Da Vinci clients that folded the same offsets hold the same bytes.
Which records count follows from the log alone: a leader is a (term, session); `DECLARE_LEADERSHIP` is accepted when its
term is not smaller than the replica's; after it only records of that session count, in dense sequence. Everything else is
dropped by every replica alike, and counted.

A replica never goes past a hole in a session: it stands still there until another session declares itself, which goes on
from what was folded. So a record that is missing makes a replica late, and never wrong. Whether the hole is in the log or
only in what this process has read of it is looked up once, and so is a gap between the offsets that were read; and each
session opens with how far its leader had come, so that a replica which lacks something its leader has folded finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from venice import record as log_record
from venice.errors import Corrupt
from venice.log import Entry, payloads
from venice.model import Fault
from venice.record import Kind, Origin, Record, Vector
from venice.storage import Change, Mutation, PartitionStorage, Position
from venice.storage.format import encode_value
from venice.storage.leader_run import leader_run

Reread = Callable[[int, int], Iterable[Entry]]
"""(first offset, offset after the last) → what the log holds there, read anew."""


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

    def add(self, fault: Fault) -> None:
        """One more record with this fault."""
        setattr(self, fault.value, getattr(self, fault.value) + 1)


@dataclass(slots=True)
class Met:
    """Records of a kind, and the offset of the newest."""

    count: int = 0
    offset: int = 0

    def add(self, offset: int) -> None:
        self.count += 1
        self.offset = offset


@dataclass(slots=True)
class _Refusals:
    """Refused records since one was accepted."""

    after: tuple[int, int, int] = (-1, -1, -1)
    """Term, session and sequence of the one that was accepted."""
    since: int = 0
    """Offset of what follows it."""
    looked_up: set[tuple[int, int, int]] = field(default_factory=set)
    """What was read anew already: by (term, session) of the record, and where in the session the hole is; -1 in another session."""


class ReplicaFold:
    """Folds the entries of one version-topic partition into one storage. One thread at a time.

    Args:
        storage: The replica.
        reread: Reads the partition anew where something seems to be missing; without it the first reading is believed.
        schemas: Ids of value schemas known to be registered; None: not looked at.
    """

    def __init__(
        self,
        storage: PartitionStorage,
        *,
        reread: Reread | None = None,
        schemas: Iterable[int] | None = None,
    ) -> None:
        self.storage = storage
        self.counts = FoldCounts()
        self.met: dict[Fault, Met] = {}
        """Faulty records; whoever tells of them takes them out."""
        self.schemas = set(schemas) if schemas is not None else None
        self.strange: dict[int, Met] = {}
        """By schema id, values whose schema was not known to be registered; whoever knows the catalog judges them, and adds to
        `schemas`, in the thread that folds."""
        self.folded_ms = 0
        """When the log took the newest entry folded."""
        self.fresh_ms = 0
        """All writes that the log took before then are folded, as the newest heartbeat says; 0: none was folded yet."""
        self._reread = reread
        self._refusals = _Refusals()
        self._broken: tuple[int, int, int] | None = None
        """Term, session and sequence of the record before a hole that is in the log."""

    @property
    def next_offset(self) -> int:
        """Offset of the entry to fold next."""
        return self.storage.position.next_offset

    @property
    def stuck_at(self) -> int | None:
        """Offset of the hole at which the replica stands still until a new session begins; None if there is none."""
        position = self.storage.position
        return self._refusals.since if self._broken == (position.term, position.session, position.sequence) else None

    def fold(self, entries: Sequence[Entry]) -> int:
        """Fold entries in offset order, in one atomic write; entries folded before are skipped.

        Returns:
            How many data records were applied.

        Raises:
            Full: The disk is full; nothing of the batch was applied.
            Corrupt: The replica lacks what its leader has folded: it must be made anew.
            Unavailable: Something seems to be missing and the log cannot be asked; nothing of the batch was applied.
        """
        before = self.storage.position
        after = before
        mutations: list[Change] = []
        left = entries if entries and entries[0].offset >= before.next_offset else [e for e in entries if e.offset >= before.next_offset]
        if left and left[-1].offset - before.next_offset >= len(left):
            left = self._whole(left, before)
        carried = payloads(left)
        at = 0
        while at < len(left):
            run = leader_run(carried[at:] if at else carried, after, self.schemas)
            count = len(run.mutations)
            if count:
                mutations += run.mutations
                at += count
                after = replace(after, next_offset=left[at - 1].offset + 1, sequence=after.sequence + count, vector=run.vector)
            else:
                after = replace(self._accept(left[at], after, mutations), next_offset=left[at].offset + 1)
                at += 1
        if after != before:
            self.storage.apply(mutations, after)
            self.folded_ms = entries[-1].timestamp_ms
        self.counts.applied += len(mutations)
        return len(mutations)

    def _whole(self, entries: Sequence[Entry], position: Position) -> Sequence[Entry]:
        """Entries with what lies between them, and before them, in the log, although the reader passed it over.

        A log may leave offsets out, so the log is asked. Without this, who passes over a declaration goes on with a session
        that counts no more, and finds out when a leader has gone on from there.
        """
        if self._reread is None:
            return entries
        whole = list(self._reread(position.next_offset, entries[-1].offset + 1))
        if len(whole) <= len(entries):
            return entries
        self._refuse(Fault.MISSING, entries[0], position)
        return whole

    def _accept(self, entry: Entry, position: Position, mutations: list[Change]) -> Position:
        """The position after an entry, its offset aside; `position` is as of the entry before, its offset included."""
        try:
            record = log_record.decode(entry.payload)
        except Corrupt:
            self._refuse(Fault.CORRUPT, entry, position)
            return position
        after = judge(record, position)
        if isinstance(after, Fault):
            self._refuse(after, entry, position)
            return self._look_up(entry, record, position, mutations)
        self._take(record, entry, position, mutations)
        return after

    def _take(self, record: Record, entry: Entry, position: Position, mutations: list[Change]) -> None:
        """What a record that counts does."""
        if record.kind is Kind.PUT:
            if self.schemas is not None and record.schema_id not in self.schemas:
                self.strange.setdefault(record.schema_id, Met()).add(entry.offset)
            mutations.append(Mutation(record.key, _stored(record), record.metadata or None))
            return
        if record.kind is Kind.DELETE:
            mutations.append(Mutation(record.key, None, record.metadata or None))
            return
        self.counts.control += 1
        if record.kind is Kind.HEARTBEAT:
            if record.sequence == 1 and _lacks(position.vector, record.vector):
                self._refuse(Fault.MISSING, entry, position)
                raise Corrupt(
                    f"the replica was folded up to {position.vector}, its leader up to {record.vector}: records between were never read",
                    hint="it is attached afresh; if it fails again, the log has lost records: push the store anew",
                )
            self.fresh_ms = max(self.fresh_ms, record.timestamp_ms)

    def _refuse(self, fault: Fault, entry: Entry, position: Position) -> None:
        self.counts.add(fault)
        self.met.setdefault(fault, Met()).add(entry.offset)
        accepted = (position.term, position.session, position.sequence)
        if self._refusals.after != accepted:
            self._refusals.after, self._refusals.since = accepted, position.next_offset

    def _look_up(self, entry: Entry, record: Record, position: Position, mutations: list[Change]) -> Position:
        """Whether the log itself lacks what seems to be missing before `record`: what it says when it is read again counts."""
        theirs, ours = (record.term, record.session), (position.term, position.session)
        if record.term < position.term or (theirs == ours and record.sequence <= position.sequence):
            return position
        hole = (*theirs, position.sequence if theirs == ours else -1)
        if self._reread is None or hole in self._refusals.looked_up:
            self._broken = hole if theirs == ours else self._broken
            return position
        for again in self._reread(self._refusals.since, entry.offset + 1):
            try:
                found = log_record.decode(again.payload)
            except Corrupt:
                continue  # counted when it was first read
            after = judge(found, position)
            if not isinstance(after, Fault):
                self._take(found, again, position, mutations)
                position = after
        if (position.term, position.session, position.sequence) != (*theirs, record.sequence):
            self._refusals.looked_up.add(hole)  # Only now: a log that could not be asked is asked again.
            if theirs == (position.term, position.session):
                self._broken = (*theirs, position.sequence)
        return position


def accept(record: Record, position: Position, counts: FoldCounts) -> Position | None:
    """As `judge`, and counted; None if the record does not count."""
    after = judge(record, position)
    if isinstance(after, Fault):
        counts.add(after)
        return None
    if record.kind not in (Kind.PUT, Kind.DELETE):
        counts.control += 1
    return after


def judge(record: Record, position: Position) -> Position | Fault:
    """The position of a reader that stood at `position` after this record, its offset aside, or why the record does not count.

    Everybody who reads a version topic asks here, so all drop the same records.
    """
    if record.kind is Kind.START_OF_VERSION:
        return position
    if record.kind is Kind.DECLARE_LEADERSHIP:
        if record.term < position.term:
            return Fault.FENCED
        return replace(position, term=record.term, session=record.session, sequence=0)
    if (record.term, record.session) != (position.term, position.session):
        return Fault.FENCED
    if record.sequence <= position.sequence:
        return Fault.DUPLICATE
    if record.sequence != position.sequence + 1:
        return Fault.MISSING
    caught_up = record.session if record.kind is Kind.CAUGHT_UP else position.caught_up_session
    return replace(position, sequence=record.sequence, vector=record.vector or position.vector, caught_up_session=caught_up)


def _lacks(ours: Vector, theirs: Vector) -> bool:
    """Whether they have read something that we have not."""
    read = {(region, partition): offset for region, partition, offset in ours}
    return any(read.get((region, partition), -1) < offset for region, partition, offset in theirs)


def _stored(record: Record) -> bytes:
    if record.origin is Origin.REAL_TIME:
        return encode_value(record.schema_id, record.value, record.timestamp_ms, record.region)
    return encode_value(record.schema_id, record.value, record.timestamp_ms or None)
