"""The catalog: all metadata of a cluster, as the fold of one log. Every process folds the same records to the same value.

Control path: command → controller → log → **catalog** → every process.

A record is an entity's whole state, written in a session of a controller. The fold takes it only if
1. its (term, session) is the one declared last: a declaration with a higher term ends all earlier sessions;
2. its sequence follows the session's last accepted record: what a session wrote is taken as a prefix, without holes;
3. its vector names the position of the entity's last accepted record: it was made from what it replaces.
Everything else leaves the catalog as it was, in every process alike.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from venice.clock import Clock
from venice.control.encoding import from_json, to_json
from venice.errors import Corrupt, Unavailable, VeniceError
from venice.log import Entry, Log, Reader
from venice.model import Assignment, Checkpoint, EntityKind, Graveyard, Node, PartitionCheckpoints, Region, Store, Worker
from venice.naming import CATALOG_TOPIC, replica_name, version_topic
from venice.record import Kind, Record, decode, encode

Entity = Store | Assignment | Node | Region | Graveyard | PartitionCheckpoints

_CLASSES: dict[str, type[Entity]] = {
    EntityKind.STORE.value: Store,
    EntityKind.ASSIGNMENT.value: Assignment,
    EntityKind.NODE.value: Node,
    EntityKind.REGION.value: Region,
    EntityKind.GRAVEYARD.value: Graveyard,
    EntityKind.CHECKPOINT.value: PartitionCheckpoints,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """The state of a cluster at one position of the catalog log. Never changed, safe to share."""

    sequence: int = 0
    """Offset of the next catalog record to fold: two catalogs of equal sequence are equal."""
    stores: Mapping[str, Store] = field(default_factory=dict)
    assignments: Mapping[tuple[str, int], Assignment] = field(default_factory=dict)
    """By (store, version); a version without one has not been placed yet."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    regions: Mapping[str, Region] = field(default_factory=dict)
    graveyards: Mapping[str, Graveyard] = field(default_factory=dict)
    """By store name; kept when the name is used again."""
    checkpoints: Mapping[tuple[str, int, int], PartitionCheckpoints] = field(default_factory=dict)
    """By (store, version, partition); none until the first was recorded."""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """By id, of all nodes."""
    positions: Mapping[str, int] = field(default_factory=dict)
    """Entity key → the catalog's sequence just after its last accepted record."""
    term: int = 0
    session: int = 0
    """Of the controller that declared itself last; 0 before the first."""
    session_sequence: int = 0
    """Sequence of the session's last accepted record."""

    def worker(self, worker_id: str) -> Worker | None:
        return self.workers.get(worker_id)

    def kept(self, store: str, version: int, partition: int) -> tuple[Checkpoint, ...]:
        """A partition's checkpoints, newest first."""
        found = self.checkpoints.get((store, version, partition))
        return found.kept if found is not None else ()

    def position(self, key: str) -> int:
        """What a record that replaces the entity must name; 0 if there is none."""
        return self.positions.get(key, 0)


def entity_key(entity: Entity) -> str:
    """`kind/name`: under what the entity stands in the catalog log."""
    match entity:
        case Store():
            return f"{EntityKind.STORE.value}/{entity.name}"
        case Assignment():
            return f"{EntityKind.ASSIGNMENT.value}/{version_topic(entity.store, entity.version)}"
        case Node():
            return f"{EntityKind.NODE.value}/{entity.id}"
        case Region():
            return f"{EntityKind.REGION.value}/{entity.name}"
        case Graveyard():
            return f"{EntityKind.GRAVEYARD.value}/{entity.name}"
        case PartitionCheckpoints():
            return f"{EntityKind.CHECKPOINT.value}/{replica_name(entity.store, entity.version, entity.partition)}"


def encode_entity(entity: Entity, *, term: int, session: int, sequence: int, position: int, now_ms: int) -> bytes:
    """The catalog payload that sets `entity`, made from the catalog in which it stood at `position`."""
    return encode(
        Record(
            Kind.ENTITY,
            key=entity_key(entity).encode(),
            value=to_json(entity),
            timestamp_ms=now_ms,
            term=term,
            session=session,
            sequence=sequence,
            # The catalog is the input this record was made from; no region's real-time topic is.
            vector=((-1, 0, position),),
        )
    )


def encode_declaration(*, term: int, session: int, now_ms: int) -> bytes:
    """The catalog payload by which a controller's session begins."""
    return encode(Record(Kind.DECLARE_CONTROLLER, timestamp_ms=now_ms, term=term, session=session))


def fold(catalog: Catalog, entry: Entry) -> Catalog:
    """The catalog after one more record. Pure.

    Raises:
        Corrupt: The payload is no record, or an accepted record holds no entity; names the offset.
    """
    return fold_all(catalog, (entry,))


def fold_all(catalog: Catalog, entries: Iterable[Entry]) -> Catalog:
    """The catalog after `entries`, in order; the same as folding one by one, with one copy for all of them."""
    building = _Fold(catalog)
    for entry in entries:
        assert entry.offset >= building.sequence, "catalog records are folded once, in order"
        try:
            building.take(decode(entry.payload), entry.offset + 1)
        except Corrupt as error:
            raise Corrupt(f"catalog record {entry.offset}: {error.message}", hint=error.hint, offset=entry.offset) from error
        building.sequence = entry.offset + 1
    return building.catalog()


class _Fold:
    """A catalog being changed by a run of records."""

    def __init__(self, base: Catalog) -> None:
        self.sequence = base.sequence
        self._stores = dict(base.stores)
        self._assignments = dict(base.assignments)
        self._nodes = dict(base.nodes)
        self._regions = dict(base.regions)
        self._graveyards = dict(base.graveyards)
        self._checkpoints = dict(base.checkpoints)
        self._positions = dict(base.positions)
        self._term = base.term
        self._session = base.session
        self._session_sequence = base.session_sequence

    def take(self, record: Record, position: int) -> None:
        if record.kind is Kind.DECLARE_CONTROLLER:
            if record.term > self._term:
                self._term, self._session, self._session_sequence = record.term, record.session, 0
        elif record.kind is Kind.ENTITY and self._fits(record):
            key = record.key.decode()
            entity = _parse(key, record.value)
            if self._set(entity):
                self._positions[key] = position
                self._session_sequence = record.sequence

    def _fits(self, record: Record) -> bool:
        try:
            expected = self._positions.get(record.key.decode(), 0)
        except UnicodeDecodeError as error:
            raise Corrupt(f"entity key {record.key!r} is not UTF-8", hint="inspect the catalog topic") from error
        return (
            record.session != 0
            and (record.term, record.session) == (self._term, self._session)
            and record.sequence == self._session_sequence + 1
            and record.vector == ((-1, 0, expected),)
        )

    def _set(self, entity: Entity) -> bool:
        match entity:
            case Store():
                self._stores[entity.name] = entity
                self._drop_hanging(entity.name, {version.number for version in entity.versions})
            case Assignment() | PartitionCheckpoints():
                store = self._stores.get(entity.store)
                if store is None or store.version(entity.version) is None:
                    return False
                if isinstance(entity, Assignment):
                    self._assignments[entity.store, entity.version] = entity
                else:
                    self._checkpoints[entity.store, entity.version, entity.partition] = entity
            case Node():
                self._nodes[entity.id] = entity
            case Region():
                self._regions[entity.name] = entity
            case Graveyard():
                # One record buries the store and all that hangs on it: a crash leaves no half of it.
                self._graveyards[entity.name] = entity
                if self._stores.pop(entity.name, None) is not None:
                    self._positions.pop(f"{EntityKind.STORE.value}/{entity.name}")
                self._drop_hanging(entity.name, set())
        return True

    def _drop_hanging(self, store: str, kept: set[int]) -> None:
        """What hangs on a version goes with it."""
        for name, version in [key for key in self._assignments if key[0] == store and key[1] not in kept]:
            self._positions.pop(entity_key(self._assignments.pop((name, version))))
        for key in [key for key in self._checkpoints if key[0] == store and key[1] not in kept]:
            self._positions.pop(entity_key(self._checkpoints.pop(key)))

    def catalog(self) -> Catalog:
        return Catalog(
            sequence=self.sequence,
            stores=self._stores,
            assignments=self._assignments,
            nodes=self._nodes,
            regions=self._regions,
            graveyards=self._graveyards,
            checkpoints=self._checkpoints,
            workers={worker.id: worker for node in self._nodes.values() for worker in node.workers},
            positions=self._positions,
            term=self._term,
            session=self._session,
            session_sequence=self._session_sequence,
        )


def _parse(key: str, value: bytes) -> Entity:
    kind = key.partition("/")[0]
    cls = _CLASSES.get(kind)
    if cls is None:
        raise Corrupt(f"entity {key!r} is of unknown kind {kind!r}", hint="it was written by a newer release: upgrade this process")
    entity = from_json(cls, value, f"entity {key!r}")
    if entity_key(entity) != key:
        raise Corrupt(f"entity {key!r} holds {entity_key(entity)!r}", hint="inspect the catalog topic")
    return entity


class CatalogReader:
    """Folds the catalog log on demand. One thread at a time; `catalog` may be read from any."""

    def __init__(self, log: Log) -> None:
        log.create_topic(CATALOG_TOPIC, 1)
        self._log = log
        self._catalog = Catalog()
        self._reader: Reader = log.reader({(CATALOG_TOPIC, 0): 0})

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    def catch_up(self) -> Catalog:
        """Fold up to what was the log's end when this was called. Raises Corrupt, Unavailable."""
        end = self._log.end_offset(CATALOG_TOPIC, 0)
        while self._reader.position(CATALOG_TOPIC, 0) < end:
            if not self.poll(timeout_s=1.0):
                break
        return self._catalog

    def poll(self, timeout_s: float) -> bool:
        """Fold what is there, or what comes within `timeout_s`; whether there was anything."""
        entries = self._reader.poll(timeout_s=timeout_s)
        if entries:
            self._catalog = fold_all(self._catalog, entries)
        return bool(entries)

    def close(self) -> None:
        self._reader.close()


class CatalogTail:
    """The latest catalog, kept so by a thread. `catalog`, `wait_for` and `subscribe` are safe from any thread.

    A record that cannot be read stops the tail: the last good catalog stays, `error` and `wait_for` say why.
    """

    def __init__(self, log: Log, clock: Clock, poll_s: float = 0.1) -> None:
        self._reader = CatalogReader(log)
        self._clock = clock
        self._poll_s = poll_s
        self._changed = threading.Condition()
        self._subscribers: list[Callable[[Catalog], None]] = []
        self._closing = False
        self._error: VeniceError | None = None
        self._thread = threading.Thread(target=self._run, name="catalog-tail", daemon=True)

    def start(self) -> None:
        """Fold the log as it is now, then go on in a thread. Raises Corrupt, Unavailable."""
        self._reader.catch_up()
        self._thread.start()

    @property
    def catalog(self) -> Catalog:
        """The latest; costs an attribute read."""
        return self._reader.catalog

    @property
    def error(self) -> VeniceError | None:
        """Why the tail stopped, None while it runs."""
        return self._error

    def wait_for(self, sequence: int, timeout_s: float) -> Catalog:
        """A catalog of at least `sequence`.

        Raises:
            Unavailable: It did not come within `timeout_s`.
            Corrupt: The tail has stopped at a record before it.
        """
        deadline = self._clock.monotonic_s() + timeout_s
        with self._changed:
            while self.catalog.sequence < sequence:
                if self._error is not None:
                    raise self._error
                left = deadline - self._clock.monotonic_s()
                if left <= 0 or self._closing:
                    raise Unavailable(
                        f"catalog has reached sequence {self.catalog.sequence}, not {sequence}, within {timeout_s} s",
                        hint="the log is slow or cannot be reached; try again",
                    )
                self._changed.wait(min(left, 0.05))
        return self.catalog

    def subscribe(self, callback: Callable[[Catalog], None]) -> None:
        """Call `callback(catalog)` in the tail's thread after each change; it must not block."""
        with self._changed:
            self._subscribers.append(callback)

    def close(self) -> None:
        """Stop the thread. Not from a callback."""
        self._closing = True
        if self._thread.is_alive():
            self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._step()
        except VeniceError as error:
            self._stop(error)
        except BaseException:
            self._stop(VeniceError("the catalog's tail died", hint="its trace is on stderr"))
            raise

    def _stop(self, error: VeniceError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _step(self) -> None:
        try:
            changed = self._reader.poll(timeout_s=self._poll_s)
        except Unavailable:
            self._clock.sleep(self._poll_s)
            return
        if changed:
            with self._changed:
                self._changed.notify_all()
                subscribers = tuple(self._subscribers)
            for callback in subscribers:
                callback(self.catalog)
