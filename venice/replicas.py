"""The replicas one process holds: opened, attached, folded and retired until they match what is wanted of it.

Write path: push → snapshot → **attach** → ingest → storage. A worker and a Da Vinci client drive the same `ReplicaSet`:
somebody says what is wanted (`want`), one thread calls `poll` and `fold`, any thread reads `open`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from venice.attaching import Attacher
from venice.clock import Clock
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.faults import FaultLedger
from venice.ingest import ReplicaFold
from venice.integrity import Integrity
from venice.lag import Ends, LagMeter
from venice.log import Entry, Log
from venice.model import ReplicaReport, ReplicaState
from venice.naming import replica_name, replica_of_topic, version_topic
from venice.replica import Replica, Wanted
from venice.storage import PartitionStorage
from venice.telemetry import log_event

OpenVersions = Mapping[tuple[str, int], Mapping[int, PartitionStorage]]
"""(store, version) → partition → storage: what can be read now."""

RETRY_S = 5.0
"""Pause before a replica that failed to attach is tried again, as long as it is wanted."""

CONDEMNED = "a corrupt block was read; attaching afresh"

FOLD_RECORDS_MAX = 500
"""Records folded at a time: as many as are merged at a time, so that a leader's replica does not fall behind its leader."""


class ReplicaSet:
    """All replicas of one process below one folder, which nobody else may open.

    Args:
        folder: Replica directories live below it; made if missing.
        log: Where the version topics are.
        clock: For grace and retries.
        ids: Makes a new, never repeated incarnation name at each call.
        grace_s: How long a replica that is no longer wanted stays open for the reads under way.
        attachers: Snapshots attached at the same time.
        faults: Where faulty records are counted.
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
        faults: FaultLedger | None = None,
    ) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._reader = log.reader()
        self._clock = clock
        self._grace_s = grace_s
        self._faults = faults or FaultLedger(clock)
        self._integrity = Integrity(log, clock, self._faults)
        self._attachers = ThreadPoolExecutor(attachers, thread_name_prefix="attach")
        self._attacher = Attacher(folder, log, ids)
        self._replicas: dict[str, Replica] = {}
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

    def condemn(self, store: str, version: int, partition: int, storage: object | None = None) -> None:
        """Replace a replica whose bytes turned out to be corrupt by a fresh attachment. From any thread.

        Args:
            storage: In which they were found; if the replica has another one by now, nothing is to be done.
        """
        with self._lock:
            replica = self._replicas.get(replica_name(store, version, partition))
            if replica is None or replica.fold is None or storage not in (None, replica.fold.storage):
                return
            # Nobody reads it from now on. Closing it is for the thread that polls: the reader belongs to that one.
            replica.state, replica.error = ReplicaState.ERROR, CONDEMNED
            self._publish()

    def poll(self, *, timeout_s: float) -> list[tuple[str, Sequence[Entry]]]:
        """Bring the replicas one step nearer to what is wanted, then wait for entries to fold.

        Returns:
            (replica name, its next entries), at most `FOLD_RECORDS_MAX` entries in all; empty after `timeout_s`.
        """
        with self._lock:
            self._reconcile()
        try:
            runs = self._reader.poll_runs(records_max=FOLD_RECORDS_MAX, timeout_s=timeout_s)
        except NotFound:
            self._drop_deleted_topics()
            return []
        except InvalidRequest as error:
            self._replace_overtaken(error)
            return []
        except (Unavailable, Corrupt) as error:
            # Positions are kept, and what is open goes on being read: all that is missing is what is new.
            if isinstance(error, Corrupt):
                log_event("replica_failed", replica="", reason=str(error))
            self._clock.sleep(timeout_s)
            return []
        return [(replica_of_topic(*place), entries) for place, entries in runs.items()]

    def fold(self, name: str, entries: Sequence[Entry]) -> int:
        """Fold entries that `poll` returned; those of a replica retired meanwhile are left. Returns the records applied."""
        with self._lock:
            replica = self._replicas.get(name)
            if replica is None or replica.fold is None or replica.paused_until_s is not None or replica.error is CONDEMNED:
                return 0
            fold = replica.fold
            try:
                applied = fold.fold(entries)
            except Corrupt as error:
                self._replace(replica, fold, error)
                return 0
            except VeniceError as error:  # a full disk, a silent log, a topic that was just deleted or trimmed
                self._pause(replica, error)
                return 0
            finally:
                if fold.met:
                    self._integrity.tell(fold, *replica.wanted.source)
            if replica.state is ReplicaState.FOLLOWING and replica.is_ready(replica.fold):
                replica.state = ReplicaState.READY
                self._publish()
            return applied

    def fold_of(self, name: str) -> ReplicaFold | None:
        """The fold of a replica that is attached, ready or not, and not resting after a failure. For the thread that polls and folds.

        Nobody leads a replica that rests: what is merged and not folded would pile up.
        """
        replica = self._replicas.get(name)
        return replica.fold if replica is not None and replica.retire_at_s is None and replica.paused_until_s is None else None

    def storage_of(self, name: str) -> PartitionStorage | None:
        """The storage of a replica that is attached, ready or not. From any thread: it may be closed at any moment."""
        with self._lock:
            fold = self.fold_of(name)
            return fold.storage if fold is not None else None

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The state of every wanted replica. From any thread."""
        with self._lock:
            return tuple(replica.report(self._faults) for replica in self._replicas.values() if replica.retire_at_s is None)

    def sources(self) -> list[tuple[str, int]]:
        """(topic, partition) of everything that is folded here and may grow: what `look` wants the ends of. From any thread."""
        with self._lock:
            return [replica.wanted.source for replica in self._replicas.values() if replica.fold is not None and replica.meter is not None]

    def look(self, now_ms: int, ends: Ends) -> None:
        """Take note how far each replica is behind `ends`, which were asked for at `now_ms`. From any thread."""
        with self._lock:
            for replica in self._replicas.values():
                replica.look(now_ms, ends)

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
            elif replica.fold is not None and replica.error is CONDEMNED:
                self._replace(replica, replica.fold, Corrupt(CONDEMNED))
                replica.retry_at_s = now_s
            elif replica.paused_until_s is not None:
                self._go_on(replica, now_s)
            elif replica.fold is not None and replica.fold.strange and replica.wanted.schemas is not None:
                self._integrity.judge(replica.fold, *replica.wanted.source, replica.wanted.schemas)
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
                self._replicas[name] = replica = Replica(one)
                self._start(replica)
        self._publish()

    def _start(self, replica: Replica) -> None:
        replica.state, replica.error = ReplicaState.ATTACHING, ""
        wanted = replica.wanted
        replica.attaching = self._attachers.submit(
            self._attacher.open_or_attach, wanted.store, wanted.version, wanted.partition, wanted.checkpoints
        )

    def _finish(self, replica: Replica, attached: Future[PartitionStorage], now_s: float) -> None:
        replica.attaching = None
        topic = version_topic(replica.wanted.store, replica.wanted.version.number)
        try:
            storage = attached.result()
            replica.fold = self._integrity.fold(storage, *replica.wanted.source, replica.wanted.schemas)
            replica.meter = LagMeter(replica.wanted.version.created_ms) if replica.wanted.version.hybrid is not None else None
            replica.lag = replica.paused_until_s = None
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
            replica.state = ReplicaState.READY if replica.is_ready(replica.fold) else ReplicaState.FOLLOWING
            log_event("replica_ready", replica=replica.wanted.name, rows=storage.row_count)

    def _fail(self, replica: Replica, error: str, now_s: float, state: ReplicaState = ReplicaState.ERROR) -> None:
        self._close(replica)
        replica.state, replica.error, replica.retry_at_s = state, error, now_s + RETRY_S
        log_event("replica_failed", replica=replica.wanted.name, reason=error)

    def _pause(self, replica: Replica, error: VeniceError) -> None:
        """Fold nothing for a while, and then what was left: the replica is as it was, and goes on serving."""
        replica.error, replica.paused_until_s = str(error), self._clock.monotonic_s() + RETRY_S
        self._reader.unassign(*replica.wanted.source)
        log_event("replica_failed", replica=replica.wanted.name, reason=str(error))

    def _go_on(self, replica: Replica, now_s: float) -> None:
        if replica.fold is None or replica.paused_until_s is None or now_s < replica.paused_until_s:
            return
        try:
            self._reader.assign(*replica.wanted.source, replica.fold.next_offset)
        except InvalidRequest:  # While it rested its next records were deleted.
            self._renew(replica, replica.fold)
        except VeniceError as error:
            replica.error, replica.paused_until_s = str(error), now_s + RETRY_S
        else:
            replica.error, replica.paused_until_s = "", None

    def _replace(self, replica: Replica, fold: ReplicaFold, error: Corrupt) -> None:
        """Attach a replica afresh that cannot be right."""
        incarnation = fold.storage.identity.incarnation
        self._fail(replica, str(error), self._clock.monotonic_s())
        shutil.rmtree(self._folder / replica.wanted.name / incarnation, ignore_errors=True)
        self._publish()

    def _publish(self) -> None:
        versions: dict[tuple[str, int], dict[int, PartitionStorage]] = {}
        for replica in self._replicas.values():
            if replica.state is ReplicaState.READY and replica.retire_at_s is None and replica.fold is not None:
                key = (replica.wanted.store, replica.wanted.version.number)
                versions.setdefault(key, {})[replica.wanted.partition] = replica.fold.storage
        self.open = MappingProxyType(versions)
        self.generation += 1

    def _retire(self, name: str, replica: Replica) -> bool:
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

    def _close(self, replica: Replica) -> None:
        if replica.fold is not None:
            wanted = replica.wanted
            self._reader.unassign(version_topic(wanted.store, wanted.version.number), wanted.partition)
            replica.fold.storage.close()
            replica.fold = replica.paused_until_s = None

    def _renew(self, replica: Replica, fold: ReplicaFold) -> None:
        """Start over from the newest checkpoint: what comes next in the topic is no longer there."""
        log_event("replica_overtaken", replica=replica.wanted.name, next_offset=fold.next_offset)
        self._close(replica)
        self._start(replica)
        self._publish()

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
                self._renew(replica, replica.fold)
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
