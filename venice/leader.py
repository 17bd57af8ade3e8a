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
from venice.record import Kind, Origin, PlainWrite, Record, Vector, decode_write, encode_merged, encode_vector_entry
from venice.rules.merge import NO_REGION, Write, stands
from venice.rules.partitioning import partition_of
from venice.storage.format import decode_tombstone, decode_value, encode_tombstone, real_time_ms

CLOCK_SKEW_MS_MAX = 60_000
"""How far a producer's timestamp may lie ahead of the time at which the log took the record; a later one is taken as that.

The log's time, not this process's clock, so that every leader in every region caps alike.
"""

_KEY_SHOWN = 64
"""Bytes of a key that a reason names: it must fit into a record itself."""

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
        value_bytes_max: Largest value that the store takes now; asked once for each call of `merge`.
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
        value_bytes_max: Callable[[], int] = lambda: PAYLOAD_BYTES_MAX,
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
        self._ask_limit = value_bytes_max
        self._value_bytes_max = PAYLOAD_BYTES_MAX
        self._schemas: set[int] = set()
        self._sequence = 0
        self._vector: dict[tuple[int, int], int] = {}
        self._packed: dict[tuple[int, int], bytes] = {}
        """The entries of the vector as records carry them, in their order; that of the source that moves is behind."""
        self._moved: tuple[int, int] | None = None
        """The source that moves; None: none has."""
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
        self._value_bytes_max = self._ask_limit()
        out: list[bytes] = []
        source = NO_REGION, -1
        next_offset = 0
        for entry in entries:
            if entry.partition != source[1]:
                source = region, entry.partition
                next_offset = self._vector.get(source, 0)
            offset = entry.offset
            if offset < next_offset:
                continue
            next_offset = offset + 1
            self._move(source, next_offset)
            write = decode_write(entry.payload)
            if write is not None:
                self._merge_write(write, region, entry, out)
            else:
                self._merge_other(region, entry, out)
        return out

    def progress(self, now_ms: int) -> list[bytes]:
        """A mark that covers inputs which changed nothing; empty if the last record covers everything."""
        if self.is_covered:
            return []
        return [self._mark(Kind.PROGRESS, now_ms)]

    def caught_up(self, now_ms: int) -> list[bytes]:
        """The mark that the leader's lag is small enough for its session's replicas to serve."""
        return [self._mark(Kind.CAUGHT_UP, now_ms)]

    def heartbeat(self, fresh_ms: int) -> list[bytes]:
        """The mark that all writes which the log took before `fresh_ms` are merged; it covers inputs as `progress` does."""
        return [self._mark(Kind.HEARTBEAT, fresh_ms)]

    def _merge_other(self, region: int, entry: Entry, out: list[bytes]) -> None:
        """Merge, pass over or set aside what is not as producers write it."""
        try:
            record = log_record.decode(entry.payload)
        except Corrupt as error:
            self._set_aside(Fault.CORRUPT, error.message, region, entry)
            return
        if record.kind is Kind.PUT or record.kind is Kind.DELETE:
            self._merge_write((record.kind, record.key, record.value, record.schema_id, record.timestamp_ms), region, entry, out)
        elif record.kind not in _MARKS:
            self._set_aside(Fault.UNSUPPORTED, f"a record of kind {record.kind.name} is not merged", region, entry)

    def _merge_write(self, write: PlainWrite, region: int, entry: Entry, out: list[bytes]) -> None:
        kind, key, value, schema_id, timestamp_ms = write
        if partition_of(key, self._partition_count) != self._partition:
            return
        taken_ms = entry.timestamp_ms
        stamp = max(min(timestamp_ms or taken_ms, taken_ms + CLOCK_SKEW_MS_MAX), 1)
        if kind is _PUT:
            if schema_id not in self._schemas and not self._has_schema(schema_id):
                self._set_aside(Fault.UNREGISTERED, f"the store has no value schema {schema_id}", region, entry)
                return
            if len(value) > self._value_bytes_max:
                shown, limit = key[:_KEY_SHOWN].hex(), self._value_bytes_max
                reason = f"the value of key {shown} has {len(value)} bytes, and values of this store may have {limit}"
                self._set_aside(Fault.OVERSIZED, reason, region, entry)
                return
            incoming, metadata = _new(Write, (stamp, region, schema_id, value)), b""
        else:
            incoming, metadata = _new(Write, (stamp, region, 0, None)), encode_tombstone(stamp, region)
        if not self._stands(key, incoming):
            self.ignored += 1
            return
        size = len(entry.payload)
        if self._packing is not None and kind is _PUT:
            size -= len(value)
            value = self._packing.compress(value)
            size += len(value)
        if size + _ADDED_BYTES + _ENTRY_BYTES * len(self._vector) > PAYLOAD_BYTES_MAX:
            self._set_aside(Fault.OVERSIZED, f"merged it would be larger than {PAYLOAD_BYTES_MAX} bytes", region, entry)
            return
        out.append(self._next(kind, key, value, incoming.schema_id, stamp, region, metadata))
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

    def _stands(self, key: bytes, incoming: Write) -> bool:
        """Whether a write replaces what stands for its key: the image appended last, or else what the replica holds."""
        appended = self._overlay.get(key)
        if appended is not None:
            return stands(incoming, appended[1])
        stored = self._fold.storage.get(key)
        if stored is None:
            return stands(incoming, self._tombstone(key))
        stored_ms = real_time_ms(stored)
        if incoming.timestamp_ms != stored_ms:
            return incoming.timestamp_ms > stored_ms
        # Of equal times: only now what the value is matters.
        value = decode_value(stored)
        assert value.region is not None, "a write has a time, a row of a push has none"
        payload = stored[value.offset :]
        if self._packing is not None:
            payload = self._packing.decompress(payload)
        return stands(incoming, Write(stored_ms, value.region, value.schema_id, payload))

    def _tombstone(self, key: bytes) -> Write | None:
        metadata = self._fold.storage.get_metadata(key)
        if metadata is None:
            return None
        tombstone = decode_tombstone(metadata)
        return Write(tombstone.timestamp_ms, tombstone.region, 0, None)

    def _mark(self, kind: Kind, timestamp_ms: int) -> bytes:
        return self._next(kind, b"", b"", 0, timestamp_ms, NO_REGION, b"")

    def _next(self, kind: Kind, key: bytes, value: bytes, schema_id: int, timestamp_ms: int, region: int, metadata: bytes) -> bytes:
        self._sequence += 1
        self._is_covered = True
        if self._moved is not None:
            self._packed[self._moved] = encode_vector_entry(*self._moved, self._vector[self._moved])
        vector = b"".join(self._packed.values())
        return encode_merged(kind, key, value, schema_id, timestamp_ms, region, metadata, self._term, self._session, self._sequence, vector)

    def _move(self, source: tuple[int, int], offset: int) -> None:
        """Everything of the source before `offset` was merged."""
        if source is not self._moved:
            self._turn_to(source)
        self._vector[source] = offset
        self._is_covered = False

    def _turn_to(self, source: tuple[int, int]) -> None:
        """The source moves from here on: its entry is written when a record wants it, that of the one before once."""
        if self._moved is not None:
            self._packed[self._moved] = encode_vector_entry(*self._moved, self._vector[self._moved])
        if source not in self._packed:
            self._packed = {one: self._packed.get(one, b"") for one in sorted((*self._packed, source))}
        self._moved = source

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
