"""The leader's merge of one partition: real-time records in, version-topic records out. Knows no driver.

Write path: producer → real-time topic → **leader** → version topic → ingest → storage.

A leader is a session of one process under a term that the controller gave out. It declares itself on the version topic,
and leads from the moment its own fold has accepted the declaration. From then on it reads the real-time topics from the
folded vector; so nothing is lost or merged twice whenever leaders change. What it appends counts only if it is folded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

from venice import record as log_record
from venice.compression import Packing
from venice.dead_letter import DeadLetter
from venice.errors import Corrupt
from venice.ingest import ReplicaFold
from venice.log import PAYLOAD_BYTES_MAX, Entry
from venice.model import Fault
from venice.record import Kind, Origin, Record, Vector, encode_merged, encode_vector_entry
from venice.rules.merge import BATCH_TIMESTAMP_MS, NO_REGION, Write, stands
from venice.rules.partitioning import partition_of
from venice.storage.format import decode_tombstone, decode_value, encode_tombstone

CLOCK_SKEW_MS_MAX = 60_000
"""How far a producer's timestamp may lie ahead of the time at which the log took the record; a later one is taken as that.

The log's time, not this process's clock, so that every leader in every region caps alike.
"""

_MARKS = frozenset({Kind.HEARTBEAT, Kind.END_OF_PUSH})
"""Records of a real-time topic that change nothing."""

_ADDED_BYTES = 64
_ENTRY_BYTES = 14
"""What a leader adds to a write at most: its session and a tombstone, and so much per entry of the vector."""


_PUT = Kind.PUT
_new = tuple.__new__


class Standing(Enum):
    """What a leader is to its partition at the moment."""

    DECLARED = "declared"
    """Its declaration is on the way through the log."""
    LEADING = "leading"
    FENCED = "fenced"
    """Another session was accepted after it, or a record of its own was refused: stop, or begin a new session."""


class Leader:
    """One session of leadership over one partition. One thread at a time, the one that folds the replica.

    Args:
        fold: The fold of the leader's own replica.
        partition_count: Of the version; records of other partitions in a shared real-time partition are passed over.
        term: Given out by the controller, one larger for each change of leader.
        session: New in each life of the process and each attempt, never 0.
        start: (region, real-time partition) → offset from which the version reads; used where the fold has no vector yet.
        is_registered: Whether the store has a value schema of an id; asked once for each that it has.
        packing: Of the version, if its values are compressed; those of the real-time topic are not.
    """

    def __init__(
        self,
        fold: ReplicaFold,
        *,
        partition_count: int,
        term: int,
        session: int,
        start: Mapping[tuple[int, int], int],
        is_registered: Callable[[int], bool] = lambda schema_id: True,
        packing: Packing | None = None,
    ) -> None:
        assert session > 0, "0 stands for no session"
        self._fold = fold
        self._partition_count = partition_count
        self._partition = fold.storage.identity.partition
        self._term = term
        self._session = session
        self._start = dict(start)
        self._is_registered = is_registered
        self._packing = packing
        self._schemas: set[int] = set()
        self._sequence = 0
        self._vector: dict[tuple[int, int], int] = {}
        self._packed: dict[tuple[int, int], bytes] = {}
        """The entries of the vector as records carry them, in their order."""
        self._folded_vector: Vector = ()
        """What the session began from."""
        self._is_covered = True
        self._declared = False
        self._overlay: dict[bytes, tuple[int, Write]] = {}
        """Images appended but not yet folded, with their sequence: the replica does not show them yet."""
        self._unfolded: deque[tuple[int, bytes]] = deque()
        self.poison: list[DeadLetter] = []
        """Records that cannot be merged; whoever drives takes them for the dead-letter topic before it appends anything."""
        self.ignored = 0
        """Writes that lost to what was there."""

    def declaration(self, now_ms: int) -> bytes:
        """The payload by which the session begins; append it once."""
        return log_record.encode(Record(Kind.DECLARE_LEADERSHIP, timestamp_ms=now_ms, term=self._term, session=self._session))

    @property
    def standing(self) -> Standing:
        """As the leader's own fold has it."""
        position = self._fold.storage.position
        if (position.term, position.session) == (self._term, self._session):
            if not self._declared:
                self._declared = True
                self._vector = {**self._start, **{(region, rt): offset for region, rt, offset in position.vector}}
                self._packed = {source: encode_vector_entry(*source, self._vector[source]) for source in sorted(self._vector)}
                self._folded_vector = position.vector
                self._is_covered = len(self._vector) == len(position.vector)
            # Its replica stands still at a hole in the session, as all do: another session goes on from what was folded.
            return Standing.LEADING if self._fold.stuck_at is None else Standing.FENCED
        return Standing.FENCED if self._declared or position.term > self._term else Standing.DECLARED

    @property
    def offsets(self) -> Mapping[tuple[int, int], int]:
        """(region, real-time partition) → offset to read next. Known while LEADING."""
        return self._vector

    @property
    def is_covered(self) -> bool:
        """Whether the last record of the session covers everything that was merged."""
        return self._is_covered

    def opening(self) -> list[bytes]:
        """What comes first in a session, once: how far its leader had folded. Who has folded less has missed something."""
        if self._sequence:
            return []
        self._sequence = 1
        folded = self._folded_vector
        record = Record(Kind.HEARTBEAT, origin=Origin.REAL_TIME, term=self._term, session=self._session, sequence=1, vector=folded)
        return [log_record.encode(record)]

    def merge(self, region: int, entries: Iterable[Entry]) -> list[bytes]:
        """Merge real-time entries of one region, in offset order; append what is returned, in order, before the next call.

        Entries read before are passed over. The vector of each record covers everything merged up to it.

        Raises:
            Corrupt: A block of the replica is damaged.
            Unavailable: The replica was closed, or nobody can say whether a schema is registered: the session is over.
        """
        assert self.standing is Standing.LEADING, "only a leader merges"
        self._forget_folded()
        out: list[bytes] = []
        for entry in entries:
            source = (region, entry.partition)
            if entry.offset < self._vector.get(source, 0):
                continue
            self._move(source, entry.offset + 1)
            try:
                record = log_record.decode(entry.payload)
            except Corrupt as error:
                self._set_aside(Fault.CORRUPT, error.message, region, entry)
                continue
            if record.kind is Kind.PUT or record.kind is Kind.DELETE:
                self._merge_write(record, region, entry, out)
            elif record.kind not in _MARKS:
                self._set_aside(Fault.UNSUPPORTED, f"a record of kind {record.kind.name} is not merged", region, entry)
        return out

    def progress(self, now_ms: int) -> list[bytes]:
        """A mark that covers inputs which changed nothing; empty if the last record covers everything."""
        if self.is_covered:
            return []
        return [self._next(Kind.PROGRESS, timestamp_ms=now_ms)]

    def caught_up(self, now_ms: int) -> list[bytes]:
        """The mark that the leader's lag is small enough for its session's replicas to serve."""
        return [self._next(Kind.CAUGHT_UP, timestamp_ms=now_ms)]

    def heartbeat(self, fresh_ms: int) -> list[bytes]:
        """The mark that all writes which the log took before `fresh_ms` are merged; it covers inputs as `progress` does."""
        return [self._next(Kind.HEARTBEAT, timestamp_ms=fresh_ms)]

    def _merge_write(self, record: Record, region: int, entry: Entry, out: list[bytes]) -> None:
        key = record.key
        if partition_of(key, self._partition_count) != self._partition:
            return
        stamp = min(record.timestamp_ms or entry.timestamp_ms, entry.timestamp_ms + CLOCK_SKEW_MS_MAX)
        payload = record.value if record.kind is _PUT else None
        if payload is not None and record.schema_id not in self._schemas and not self._has_schema(record.schema_id):
            self._set_aside(Fault.UNREGISTERED, f"the store has no value schema {record.schema_id}", region, entry)
            return
        incoming = _new(Write, (max(stamp, 1), region, record.schema_id if payload is not None else 0, payload))
        if not stands(incoming, self._state(key, incoming.timestamp_ms)):
            self.ignored += 1
            return
        value = record.value if payload is None or self._packing is None else self._packing.compress(payload)
        if len(entry.payload) + len(value) - len(record.value) + _ADDED_BYTES + _ENTRY_BYTES * len(self._vector) > PAYLOAD_BYTES_MAX:
            self._set_aside(Fault.OVERSIZED, f"merged it would be larger than {PAYLOAD_BYTES_MAX} bytes", region, entry)
            return
        out.append(
            self._next(
                record.kind,
                key=key,
                value=value,
                schema_id=incoming.schema_id,
                timestamp_ms=incoming.timestamp_ms,
                region=region,
                metadata=b"" if payload is not None else encode_tombstone(incoming.timestamp_ms, region),
            )
        )
        self._overlay[key] = (self._sequence, incoming)
        self._unfolded.append((self._sequence, key))

    def _has_schema(self, schema_id: int) -> bool:
        if not self._is_registered(schema_id):
            return False
        self._schemas.add(schema_id)
        return True

    def _set_aside(self, fault: Fault, reason: str, region: int, entry: Entry) -> None:
        letter = DeadLetter(
            topic=entry.topic, partition=entry.partition, offset=entry.offset, region=region, timestamp_ms=entry.timestamp_ms,
            fault=fault, reason=reason, payload=entry.payload,
        )  # fmt: skip
        self.poison.append(letter)

    def _state(self, key: bytes, rival_ms: int) -> Write | None:
        """What stands for a key, against a write of `rival_ms`: values are compared only where times are equal."""
        appended = self._overlay.get(key)
        if appended is not None:
            return appended[1]
        storage = self._fold.storage
        stored = storage.get(key)
        if stored is not None:
            value = decode_value(stored)
            if value.region is None:
                return Write(BATCH_TIMESTAMP_MS, NO_REGION, value.schema_id, stored[value.offset :])
            assert value.timestamp_ms is not None, "a real-time value says when it was written"
            payload = stored[value.offset :]
            if self._packing is not None and value.timestamp_ms == rival_ms:
                payload = self._packing.decompress(payload)
            return Write(value.timestamp_ms, value.region, value.schema_id, payload)
        metadata = storage.get_metadata(key)
        if metadata is None:
            return None
        tombstone = decode_tombstone(metadata)
        return Write(tombstone.timestamp_ms, tombstone.region, 0, None)

    def _next(
        self,
        kind: Kind,
        *,
        key: bytes = b"",
        value: bytes = b"",
        schema_id: int = 0,
        timestamp_ms: int = 0,
        region: int = NO_REGION,
        metadata: bytes = b"",
    ) -> bytes:
        self._sequence += 1
        self._is_covered = True
        vector = b"".join(self._packed.values())
        return encode_merged(kind, key, value, schema_id, timestamp_ms, region, metadata, self._term, self._session, self._sequence, vector)

    def _move(self, source: tuple[int, int], offset: int) -> None:
        """Everything of the source before `offset` was merged."""
        if source not in self._packed:
            self._packed = {one: self._packed.get(one, b"") for one in sorted((*self._packed, source))}
        self._vector[source] = offset
        self._packed[source] = encode_vector_entry(*source, offset)
        self._is_covered = False

    def _forget_folded(self) -> None:
        folded = self._fold.storage.position.sequence
        while self._unfolded and self._unfolded[0][0] <= folded:
            sequence, key = self._unfolded.popleft()
            appended = self._overlay.get(key)
            if appended is not None and appended[0] == sequence:
                del self._overlay[key]


def real_time_partitions(partition: int, partition_count: int, real_time_count: int) -> Sequence[int]:
    """Which of `real_time_count` real-time partitions hold keys of version partition `partition` of `partition_count`.

    Both are MD5 modulo a count, so a key of partition p lies in those r with r ≡ p modulo the greatest common divisor.
    """
    step = _gcd(partition_count, real_time_count)
    return range(partition % step, real_time_count, step)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
