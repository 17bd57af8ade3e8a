"""The replicas one process holds: opened, attached, folded and retired until they match what is wanted of it.

Write path: push → snapshot → **attach** → ingest → storage. A worker and a Da Vinci client drive the same `ReplicaSet`:
somebody says what is wanted (`want`), one thread calls `poll` and `fold`, any thread reads `open`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from venice.attaching import Attacher
from venice.clock import Clock
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.ingest import ReplicaFold
from venice.log import Entry, Log
from venice.model import Checkpoint, ReplicaReport, ReplicaState, Version
from venice.naming import replica_name, replica_of_topic, version_topic
from venice.storage import PartitionStorage
from venice.telemetry import log_event

OpenVersions = Mapping[tuple[str, int], Mapping[int, PartitionStorage]]
"""(store, version) → partition → storage: what can be read now."""

RETRY_S = 5.0
"""Pause before a replica that failed to attach is tried again, as long as it is wanted."""

FOLD_RECORDS_MAX = 200
"""Records folded at a time: bounds how long a read waits for the interpreter while a write batch is applied."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A replica this process should hold."""

    store: str
    version: Version
    partition: int
    checkpoints: tuple[Checkpoint, ...] = ()
    """Of the partition, newest first: what a new replica of a hybrid version is made of rather than of the version's snapshot."""

    @property
    def name(self) -> str:
        return replica_name(self.store, self.version.number, self.partition)


@dataclass(slots=True)
class _Replica:
    wanted: Wanted
    state: ReplicaState = ReplicaState.ATTACHING
    attaching: Future[PartitionStorage] | None = None
    fold: ReplicaFold | None = None
    target: int = 0
    """Version-topic offset to fold up to before a replica of a hybrid version is ready: where the topic ended when it was opened."""
    error: str = ""
    retry_at_s: float = 0.0
    retire_at_s: float | None = None


class ReplicaSet:
    """All replicas of one process below one folder, which nobody else may open.

    Args:
        folder: Replica directories live below it; made if missing.
        log: Where the version topics are.
        clock: For grace and retries.
        ids: Makes a new, never repeated incarnation name at each call.
        grace_s: How long a replica that is no longer wanted stays open for the reads under way.
        attachers: Snapshots attached at the same time.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        *,
        clock: Clock,
        ids: Callable[[], str],
        grace_s: float = 5.0,
        attachers: int = 2,
    ) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._reader = log.reader()
        self._clock = clock
        self._grace_s = grace_s
        self._attachers = ThreadPoolExecutor(attachers, thread_name_prefix="attach")
        self._attacher = Attacher(folder, log, ids)
        self._replicas: dict[str, _Replica] = {}
        self._lock = Lock()
        self._wanted: Mapping[str, Wanted] | None = None
        self._wanted_seen: Mapping[str, Wanted] | None = None
        self.open: OpenVersions = MappingProxyType({})
        """Versions that can be read; replaced as a whole, never changed."""
        self.generation = 0
        """Grows whenever `reports` would answer something new about a state."""

    def want(self, wanted: Iterable[Wanted]) -> None:
        """From now on, hold exactly these replicas. From any thread; takes effect at the next `poll`."""
        self._wanted = {one.name: one for one in wanted}

    def condemn(self, store: str, version: int, partition: int) -> None:
        """Replace a replica whose bytes turned out to be corrupt by a fresh attachment. From any thread."""
        with self._lock:
            replica = self._replicas.get(replica_name(store, version, partition))
            if replica is None or replica.fold is None:
                return
            condemned = replica.fold.storage
            self._close(replica)
            replica.state, replica.error = ReplicaState.ERROR, "a corrupt block was read; attaching afresh"
            replica.retry_at_s = 0.0
            shutil.rmtree(self._folder / replica.wanted.name / condemned.identity.incarnation, ignore_errors=True)
            self._publish()

    def poll(self, *, timeout_s: float) -> list[tuple[str, list[Entry]]]:
        """Bring the replicas one step nearer to what is wanted, then wait for entries to fold.

        Returns:
            (replica name, its next entries), at most `FOLD_RECORDS_MAX` entries in all; empty after `timeout_s`.
        """
        with self._lock:
            self._reconcile()
        try:
            entries = self._reader.poll(records_max=FOLD_RECORDS_MAX, timeout_s=timeout_s)
        except NotFound:
            self._drop_deleted_topics()
            return []
        except InvalidRequest as error:
            self._replace_overtaken(error)
            return []
        except Unavailable:
            # Positions are kept, and what is open goes on being read: all that is missing is what is new.
            self._clock.sleep(timeout_s)
            return []
        by_replica: dict[str, list[Entry]] = {}
        for entry in entries:
            by_replica.setdefault(replica_of_topic(entry.topic, entry.partition), []).append(entry)
        return list(by_replica.items())

    def fold(self, name: str, entries: list[Entry]) -> int:
        """Fold entries that `poll` returned; those of a replica retired meanwhile are left. Returns the records applied."""
        with self._lock:
            replica = self._replicas.get(name)
            if replica is None or replica.fold is None:
                return 0
            applied = replica.fold.fold(entries)
            if replica.state is ReplicaState.FOLLOWING and _is_ready(replica, replica.fold):
                replica.state = ReplicaState.READY
                self._publish()
            return applied

    def fold_of(self, name: str) -> ReplicaFold | None:
        """The fold of a replica that is attached, ready or not. For the thread that polls and folds."""
        replica = self._replicas.get(name)
        return replica.fold if replica is not None and replica.retire_at_s is None else None

    def storage_of(self, name: str) -> PartitionStorage | None:
        """The storage of a replica that is attached, ready or not. From any thread: it may be closed at any moment."""
        with self._lock:
            fold = self.fold_of(name)
            return fold.storage if fold is not None else None

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The state of every wanted replica. From any thread."""
        with self._lock:
            return tuple(_report(replica) for replica in self._replicas.values() if replica.retire_at_s is None)

    def close(self) -> None:
        """Close all replicas; their directories stay."""
        self._attachers.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self.open = MappingProxyType({})
            for replica in self._replicas.values():
                attached = replica.attaching
                if attached is not None and not attached.cancelled() and attached.exception() is None:
                    attached.result().close()
                self._close(replica)
            self._replicas.clear()
        self._reader.close()

    def _reconcile(self) -> None:
        wanted = self._wanted
        if wanted is None:
            return
        now_s = self._clock.monotonic_s()
        if wanted is not self._wanted_seen:
            if self._wanted_seen is None:
                self._delete_strangers(wanted)
            self._wanted_seen = wanted
            self._follow(wanted, now_s)
        changed = False
        for name, replica in list(self._replicas.items()):
            if replica.retire_at_s is not None:
                if now_s >= replica.retire_at_s and self._retire(name, replica):
                    del self._replicas[name]
            elif replica.attaching is not None and replica.attaching.done():
                self._finish(replica, replica.attaching, now_s)
                changed = True
            elif replica.fold is None and replica.attaching is None and now_s >= replica.retry_at_s:
                self._start(replica)
        if changed:
            self._publish()

    def _follow(self, wanted: Mapping[str, Wanted], now_s: float) -> None:
        for name, replica in self._replicas.items():
            if name not in wanted:
                if replica.retire_at_s is None:
                    replica.retire_at_s = now_s + self._grace_s
            else:
                replica.retire_at_s = None
                replica.wanted = wanted[name]
        for name, one in wanted.items():
            if name not in self._replicas:
                self._replicas[name] = replica = _Replica(one)
                self._start(replica)
        self._publish()

    def _start(self, replica: _Replica) -> None:
        replica.state, replica.error = ReplicaState.ATTACHING, ""
        wanted = replica.wanted
        replica.attaching = self._attachers.submit(
            self._attacher.open_or_attach, wanted.store, wanted.version, wanted.partition, wanted.checkpoints
        )

    def _finish(self, replica: _Replica, attached: Future[PartitionStorage], now_s: float) -> None:
        replica.attaching = None
        topic = version_topic(replica.wanted.store, replica.wanted.version.number)
        try:
            storage = attached.result()
            replica.fold = ReplicaFold(storage)
            if self._log.topic_id(topic) != replica.wanted.version.topic_id:
                raise Corrupt(f"topic {topic} is not the one version {replica.wanted.version.number} was created with")
            replica.target = self._log.end_offset(topic, replica.wanted.partition)
            self._reader.assign(topic, replica.wanted.partition, replica.fold.next_offset)
        except Unavailable as error:
            # Not the replica's fault, so a version that is being pushed must not fail of it.
            self._fail(replica, str(error), now_s, ReplicaState.ATTACHING)
        except VeniceError as error:
            self._fail(replica, str(error), now_s)
        except Exception as error:  # noqa: BLE001 - whatever ails one replica must not stop the others of this process
            self._fail(replica, f"{type(error).__name__}: {error}", now_s)
        else:
            replica.state = ReplicaState.READY if _is_ready(replica, replica.fold) else ReplicaState.FOLLOWING
            log_event("replica_ready", replica=replica.wanted.name, rows=storage.row_count)

    def _fail(self, replica: _Replica, error: str, now_s: float, state: ReplicaState = ReplicaState.ERROR) -> None:
        self._close(replica)
        replica.state, replica.error, replica.retry_at_s = state, error, now_s + RETRY_S
        log_event("replica_failed", replica=replica.wanted.name, reason=error)

    def _publish(self) -> None:
        versions: dict[tuple[str, int], dict[int, PartitionStorage]] = {}
        for replica in self._replicas.values():
            if replica.state is ReplicaState.READY and replica.retire_at_s is None and replica.fold is not None:
                key = (replica.wanted.store, replica.wanted.version.number)
                versions.setdefault(key, {})[replica.wanted.partition] = replica.fold.storage
        self.open = MappingProxyType(versions)
        self.generation += 1

    def _retire(self, name: str, replica: _Replica) -> bool:
        """Close and delete a replica whose grace is over; False while it is still being attached."""
        if replica.attaching is not None:
            if not replica.attaching.done():
                return False
            if not replica.attaching.cancelled() and replica.attaching.exception() is None:
                replica.attaching.result().close()
        self._close(replica)
        shutil.rmtree(self._folder / name, ignore_errors=True)
        log_event("replica_retired", replica=name)
        return True

    def _close(self, replica: _Replica) -> None:
        if replica.fold is not None:
            wanted = replica.wanted
            self._reader.unassign(version_topic(wanted.store, wanted.version.number), wanted.partition)
            replica.fold.storage.close()
            replica.fold = None

    def _replace_overtaken(self, error: InvalidRequest) -> None:
        """Make a replica anew whose next records were deleted unread: a checkpoint covers them, and what it holds is old."""
        with self._lock:
            for replica in self._replicas.values():
                wanted = replica.wanted
                topic = version_topic(wanted.store, wanted.version.number)
                if replica.fold is None or (topic, wanted.partition) != (error.data.get("topic"), error.data.get("partition")):
                    continue
                if replica.retire_at_s is not None:
                    self._reader.unassign(topic, wanted.partition)
                    return
                log_event("replica_overtaken", replica=wanted.name, next_offset=replica.fold.next_offset)
                self._close(replica)
                self._start(replica)
                self._publish()
                return
        raise error

    def _drop_deleted_topics(self) -> None:
        """Stop reading topics that were deleted with their version; the catalog retires their replicas soon."""
        with self._lock, suppress(Unavailable):
            existing = set(self._log.topics())
            for replica in self._replicas.values():
                topic = version_topic(replica.wanted.store, replica.wanted.version.number)
                if topic not in existing:
                    self._reader.unassign(topic, replica.wanted.partition)

    def _delete_strangers(self, wanted: Mapping[str, Wanted]) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)


def _is_ready(replica: _Replica, fold: ReplicaFold) -> bool:
    """Whether a replica may serve: a batch replica once it is attached; a hybrid one once a leader has said it caught up and the
    replica has folded what was there when it was opened. Ready once is ready for the replica's life: a new leader's catching up
    delays freshness, not reads."""
    hybrid = replica.wanted.version.hybrid
    if hybrid is None:
        return True
    position = fold.storage.position
    return position.caught_up_session != 0 and position.next_offset >= replica.target - hybrid.lag_records_max


def _report(replica: _Replica) -> ReplicaReport:
    storage = replica.fold.storage if replica.fold is not None else None
    return ReplicaReport(
        store=replica.wanted.store,
        version=replica.wanted.version.number,
        partition=replica.wanted.partition,
        state=replica.state,
        next_offset=storage.position.next_offset if storage else 0,
        row_count=storage.row_count if storage else 0,
        error=replica.error,
        lag_records=max(0, replica.target - storage.position.next_offset) if storage else 0,
    )
