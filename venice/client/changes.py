"""The changes of a store, read from its version topics: what `venice.operators.changelog` is made of.

Read path: version topic → **changes** → dataflow. A record counts here exactly if it counts for a replica (`venice/ingest.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from venice import record as log_record
from venice.client.restoring import Restored, covering
from venice.clock import Clock
from venice.compression import Packing
from venice.control.catalog import CatalogTail
from venice.errors import Conflict, Corrupt, InvalidRequest, NotFound, Unavailable
from venice.ingest import FoldCounts, accept
from venice.leader import real_time_partitions
from venice.log import Entry, Log
from venice.log.open import open_log
from venice.model import NO_VERSION, Checkpoint, Store, Version
from venice.naming import version_topic
from venice.record import Kind, Record
from venice.schema.codec import Decode, key_codec, reader
from venice.storage import Position
from venice.storage.packed import packing_of

Start = str | int
"""`"beginning"`, `"tail"`, or milliseconds since the epoch: what the log accepted from then on."""

SCHEMA_S = 10.0
"""How long a value waits for its schema, which the catalog names before anybody writes with it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write that changed a store, with the whole value after it."""

    key: Any
    value: Any
    """Read with the store's newest value schema; None: the key was deleted."""
    timestamp_ms: int
    """When it was written, as the writer said."""
    version: int
    partition: int
    offset: int
    """Where it stands in the version's topic; of one that was taken from a checkpoint, where that one's last record stood."""


@dataclass(frozen=True, slots=True)
class PartitionCursor:
    """How far one partition of a version topic was read."""

    partition: int
    position: Position
    emit_from: int
    """Records before it are followed, to know which session leads, and not delivered."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a `ChangeReader` has read: a reader made with it delivers what comes next."""

    version: int
    topic_id: str
    partitions: tuple[PartitionCursor, ...]


class ChangeFeed:
    """A store as its change readers see it: log and catalog, opened once for all of them. Safe to share between threads.

    Raises:
        NotFound: No such store.
        Conflict: The store is not hybrid, and never was.
        Unavailable: The log cannot be reached.
    """

    def __init__(self, log_url: str, store: str, clock: Clock) -> None:
        self.clock = clock
        self._name = store
        self.log: Log = open_log(log_url, clock)
        try:
            self._tail = CatalogTail(self.log, clock)
        except BaseException:
            self.log.close()
            raise
        try:
            self._tail.start()
            found = self.store()
            if not found.real_time_partitions:
                raise Conflict(f"store {store!r} has no changes to read: nobody writes to it between pushes", hint="make it hybrid first")
            self.parts = found.real_time_partitions
        except BaseException:
            self.close()
            raise
        self._decode_key = key_codec(found.key_schema).decode
        self._readers: dict[int, Decode] = {}
        self._newest = 0

    def store(self) -> Store:
        """The store as it is now. Raises NotFound, and what stopped the catalog."""
        if self._tail.error is not None:
            raise self._tail.error
        stores = self._tail.catalog.stores
        store = stores.get(self._name)
        if store is None:
            raise NotFound(f"no store {self._name!r}", hint=f"stores there are: {', '.join(sorted(stores)) or 'none yet'}")
        return store

    def kept(self, version: int, partition: int) -> tuple[Checkpoint, ...]:
        """The checkpoints of a partition, newest first."""
        return self._tail.catalog.kept(self._name, version, partition)

    def change(self, record: Record, version: Version, entry: Entry, packing: Packing | None) -> Change:
        """The change that an accepted PUT or DELETE of a version's topic is. Raises Corrupt, naming topic and offset."""
        value = None
        try:
            key = self._decode_key(record.key)
            if record.kind is Kind.PUT:
                data = record.value if packing is None else packing.decompress(record.value)
                value = self._value_reader(record.schema_id)(data, 0)
        except Corrupt as error:
            raise Corrupt(f"{entry.topic}[{entry.partition}] offset {entry.offset}: {error.message}", hint=error.hint) from error
        return Change(key, value, record.timestamp_ms, version.number, entry.partition, entry.offset)

    def close(self) -> None:
        self._tail.close()
        self.log.close()

    def _value_reader(self, schema_id: int) -> Decode:
        found = self._readers.get(schema_id)
        if found is None:
            deadline_s = self.clock.monotonic_s() + SCHEMA_S
            while schema_id not in (schemas := {schema.id: schema.text for schema in self.store().value_schemas}):
                if self.clock.monotonic_s() > deadline_s:
                    raise Unavailable(f"value schema {schema_id} of {self._name!r} is not in the catalog", hint="try again")
                self.clock.sleep(0.01)
            found = self._readers[schema_id] = reader(schemas[schema_id], schemas[max(schemas)])
        return found


class ChangeReader:
    """Reads part `part` of `feed.parts` of a store's changes: partitions p ≡ part of each version. One thread at a time.

    When another version becomes current, the reader goes on with that one's topic from its beginning, once it has read as
    much of the old one as the new one does not replay. So every write that changed the store is delivered at least once,
    and what a push replays is delivered again. Of what was trimmed before it was read, the newest write of each key is
    delivered, as a checkpoint has it.

    Args:
        feed: Of the store.
        part: From 0.
        cursor: Where another reader of this part stopped; None: at `start`.
        start: Where to begin in the current version.

    Raises:
        InvalidRequest: There is no such start.
    """

    def __init__(self, feed: ChangeFeed, part: int, cursor: Cursor | None, start: Start) -> None:
        check_start(start)
        self._feed = feed
        self._part = part
        self._start = start
        self._reader = feed.log.reader()
        self._version: Version | None = None
        self._packing: Packing | None = None  # known before any values are taken from the log, which gives them once
        self._topic = ""
        self._cursors: dict[int, PartitionCursor] = {}
        self._overtaken: dict[int, float] = {}
        """Partition → when it was found that its topic does not reach back to its cursor."""
        self._restored: tuple[int, Restored] | None = None
        self.counts = FoldCounts()
        if cursor is not None and self._resume(cursor):
            return
        store = feed.store()
        current = store.version(store.current)
        if current is not None:
            self._begin(store, current, self._start if cursor is None else "beginning")

    @property
    def cursor(self) -> Cursor | None:
        """Where the reader stands; None before the store's first version."""
        if self._version is None:
            return None
        return Cursor(self._version.number, self._version.topic_id, tuple(self._cursors.values()))

    def read(self, records_max: int = 1000) -> list[Change]:
        """What comes next, in the order of the log within each partition; never waits.

        Raises:
            NotFound: The store was deleted.
            Corrupt: A change cannot be decoded; or records were trimmed, and no checkpoint that has them is as it was sealed.
            Unavailable: Records were trimmed, and the catalog names no checkpoint that has them.
        """
        store = self._feed.store()
        if self._version is None:
            current = store.version(store.current)
            if current is None:
                return []
            self._begin(store, current, "beginning")
        if self._overtaken:
            with suppress(NotFound):  # the topic is deleted with its version, which the catalog will say
                return self._restore(store, records_max)
            return []
        try:
            entries = self._reader.poll(records_max=records_max) if self._cursors else []
        except Unavailable:
            return []  # positions are kept
        except InvalidRequest as error:
            self._fall_behind(error)
            return []
        except NotFound:
            entries = []  # deleted with its version, which the catalog says, or will say
            self._cursors = {}
        if entries:
            return self._take(entries)
        if store.current not in (NO_VERSION, self._number) and self._may_leave(store):
            following = store.version(store.current)
            if following is not None:
                self._begin(store, following, "beginning")
        return []

    def close(self) -> None:
        self._drop_restored()
        self._reader.close()

    @property
    def _number(self) -> int:
        return self._version.number if self._version is not None else NO_VERSION

    def _take(self, entries: Sequence[Entry]) -> list[Change]:
        changes = []
        version = self._version
        assert version is not None, "entries are of a version"
        positions = {partition: cursor.position for partition, cursor in self._cursors.items()}
        last: dict[int, int] = {}
        for entry in entries:
            partition = entry.partition
            last[partition] = entry.offset
            try:
                record = log_record.decode(entry.payload)
            except Corrupt:
                self.counts.corrupt += 1
                continue
            after = accept(record, positions[partition], self.counts)
            if after is None:
                continue
            positions[partition] = after
            if record.kind in (Kind.PUT, Kind.DELETE) and entry.offset >= self._cursors[partition].emit_from:
                changes.append(self._feed.change(record, version, entry, self._packing))
        for partition, offset in last.items():
            position = replace(positions[partition], next_offset=offset + 1)
            self._cursors[partition] = replace(self._cursors[partition], position=position)
        self.counts.applied += len(changes)
        return changes

    def _resume(self, cursor: Cursor) -> bool:
        """Go on where a cursor says, if its version is still there."""
        store = self._feed.store()
        version = store.version(cursor.version)
        if version is None or version.topic_id != cursor.topic_id:
            return False
        self._packing = packing_of(version)
        self._version, self._topic = version, version_topic(store.name, version.number)
        try:
            for one in cursor.partitions:
                self._place(one)
        except NotFound:
            self._cursors = {}
        return True

    def _begin(self, store: Store, version: Version, start: Start) -> None:
        """Read a version's topic from its first record on, but deliver only what `start` asks for. Raises as `packing_of`."""
        self._packing = packing_of(version)
        for partition in self._cursors:
            self._reader.unassign(self._topic, partition)
        self._drop_restored()
        self._version, self._topic, self._cursors, self._overtaken = version, version_topic(store.name, version.number), {}, {}
        log = self._feed.log
        for partition in range(self._part, version.partition_count, self._feed.parts):
            emit_from = 0
            if start == "tail":
                emit_from = log.end_offset(self._topic, partition)
            elif isinstance(start, int):
                found = log.offset_for_time(self._topic, partition, start)
                # The first that is kept may not be the first that is asked for.
                emit_from = found if found > log.start_offset(self._topic, partition) else 0
            self._place(PartitionCursor(partition, Position(), emit_from))

    def _place(self, cursor: PartitionCursor) -> None:
        """Read a partition on from a cursor, or from a checkpoint if the topic does not reach back there."""
        self._cursors[cursor.partition] = cursor
        try:
            self._reader.assign(self._topic, cursor.partition, cursor.position.next_offset)
        except InvalidRequest as error:
            self._fall_behind(error)

    def _fall_behind(self, error: InvalidRequest) -> None:
        partition = error.data.get("partition")
        cursor = self._cursors.get(partition) if isinstance(partition, int) else None
        if cursor is None or cursor.position.next_offset >= self._feed.log.start_offset(self._topic, cursor.partition):
            raise error
        self._reader.unassign(self._topic, cursor.partition)
        self._overtaken[cursor.partition] = self._feed.clock.monotonic_s()

    def _restore(self, store: Store, records_max: int) -> list[Change]:
        """Deliver what was trimmed of one partition. Its cursor moves at the end: a reader made before begins this anew."""
        partition = next(iter(self._overtaken))
        if store.version(self._number) is None:
            self._drop_restored()
            self._cursors, self._overtaken = {}, {}
            return []
        if self._restored is None:
            found = self._source(store.name, self._cursors[partition])
            if found is None:
                return []
            if isinstance(found, Position):
                del self._overtaken[partition]
                self._place(replace(self._cursors[partition], position=found))
                return []
            self._restored = partition, found
        restored, version = self._restored[1], self._version
        assert version is not None, "what is restored is of a version"
        records = restored.take(records_max)
        position = restored.position
        if not records:
            self._drop_restored()
            del self._overtaken[partition]
            self._place(PartitionCursor(partition, position, position.next_offset))
        at = Entry(self._topic, partition, position.next_offset - 1, 0, b"")
        return [self._feed.change(record, version, at, self._packing) for record in records]

    def _source(self, store: str, cursor: PartitionCursor) -> Restored | Position | None:
        """As `covering`; None: the catalog may name one soon."""
        version, partition = self._version, cursor.partition
        assert version is not None, "only a reader that reads a version falls behind"
        first = self._feed.log.start_offset(self._topic, partition)
        found = covering(store, version, partition, self._feed.kept(version.number, partition), first, cursor.emit_from)
        if found is None and self._feed.clock.monotonic_s() - self._overtaken[partition] > SCHEMA_S:
            raise Unavailable(
                f"{self._topic}[{partition}] begins at offset {first}, and the catalog names no checkpoint that reaches it",
                hint="something else than Venice has deleted records of it: push the store anew",
            )
        return found

    def _drop_restored(self) -> None:
        restored, self._restored = self._restored, None
        if restored is not None:
            restored[1].close()

    def _may_leave(self, store: Store) -> bool:
        """Whether all that the current version does not replay was read from this one, or can be read no more."""
        version, following = self._version, store.version(store.current)
        assert version is not None, "only a reader that reads a version leaves it"
        if following is None or store.version(version.number) is None:
            return True
        if following.hybrid is None or version.hybrid is None:
            return all(cursor.position.next_offset >= self._feed.log.end_offset(self._topic, p) for p, cursor in self._cursors.items())
        # What the rows of the following version hold, its leaders pass over: only here it can be read.
        replayed = {(at.region, at.partition): at.next_offset for at in (*following.start_offsets, *following.held_offsets)}
        began = {(start.region, start.partition): start.next_offset for start in version.start_offsets}
        for partition, cursor in self._cursors.items():
            merged = began | {(region, p): offset for region, p, offset in cursor.position.vector}
            mine = real_time_partitions(partition, version.partition_count, version.real_time_partitions)
            if any(merged.get(at, 0) < offset for at, offset in replayed.items() if at[1] in mine):
                return False
        return True


def check_start(start: Start) -> None:
    """Raises InvalidRequest if nothing can start there."""
    if not (start in ("beginning", "tail") or (isinstance(start, int) and not isinstance(start, bool))):
        raise InvalidRequest(f"nothing can be read from {start!r} on", hint='say "beginning", "tail" or milliseconds since the epoch')


@dataclass(frozen=True, slots=True)
class Put:
    """A whole value to write."""

    key: Any
    value: Any
    timestamp_ms: int
    """When it happened, by any clock that is the same in a replay: of two writes of a key the later one stands."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A key to delete."""

    key: Any
    timestamp_ms: int
    """As for `Put`."""


def key_text(key: Any) -> str:
    """A key as text, to group by: a text itself, anything else as Python writes it."""
    return key if isinstance(key, str) else repr(key)
