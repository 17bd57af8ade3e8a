"""Checkpoints, as a worker writes them: what a replica it leads holds, sealed beside the version's snapshot.

Write path: replica → **checkpoints** → blob folder → a replica made later. A thread of its own writes one at a time and gives
way after each chunk of rows; folding and serving go on. A checkpoint counts when the catalog names it: until then the worker
reports it, and writes no other one of the partition.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from venice.clock import Clock
from venice.errors import Corrupt, Unavailable, VeniceError
from venice.model import Checkpoint
from venice.naming import checkpoint_name, parse_checkpoint_name, snapshot_folder
from venice.replica import Wanted
from venice.replicas import ReplicaSet
from venice.rules.trimming import is_due
from venice.storage import Image, PartitionStorage
from venice.storage.manifest import MANIFEST_NAME
from venice.storage.packed import dictionary_of
from venice.storage.sealed import disk_errors
from venice.storage.snapshot import checkpoint, described, read_manifest
from venice.telemetry import log_event

LOOK_S = 1.0
"""How often the replicas are looked at."""

RETRY_S = 60.0
"""Pause of a partition whose checkpoint failed."""

SHARE = 0.1
"""Of the thread's time that goes into writing rows; the rest is left to those who fold and serve."""


@dataclass(slots=True)
class _Written:
    checkpoint: Checkpoint
    at_s: float
    """When it was last seen to be there."""


class Checkpointer:
    """Writes the checkpoints of the partitions that a worker leads.

    Args:
        replicas: The worker's.
        blobs: Folder of sealed snapshots, the versions' own among them.
        worker: Id of the worker: no other process has it.
        clock: For pauses, and the times of checkpoints.
        ids: Makes a name of hexadecimal digits at each call, never repeated.
        records: Version-topic records after which a partition may have its next checkpoint; 0: none are written.
        pause_s: Between two checkpoints of a partition at least.
        on_written: Called after each, in the thread that wrote it.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        blobs: Path,
        worker: str,
        *,
        clock: Clock,
        ids: Callable[[], str],
        records: int,
        pause_s: float,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        self._replicas = replicas
        self._blobs = blobs
        self._writer = sha256(worker.encode()).hexdigest()[:8]
        self._clock = clock
        self._ids = ids
        self._records = records
        self._pause_s = pause_s
        self._on_written = on_written
        self._led: tuple[Wanted, ...] = ()
        self._written: dict[str, _Written] = {}
        self._not_before_s: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def want(self, led: Iterable[Wanted]) -> None:
        """These are the replicas that lead, with the checkpoints the catalog has of them. From any thread."""
        self._led = tuple(led)

    def written(self, name: str) -> Checkpoint | None:
        """The checkpoint of a replica that the catalog does not name yet. From any thread."""
        found = self._written.get(name)
        return found.checkpoint if found is not None else None

    def start(self) -> None:
        """Begin to look, in a thread; not needed by whoever calls `step`."""
        self._thread.start()

    def close(self) -> None:
        """Stop, giving up what is being written."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self) -> None:
        """Look at each replica once, and write the checkpoints that are due."""
        led = self._led
        names = {one.name for one in led}
        for name in [name for name in self._written if name not in names]:
            del self._written[name]
        for one in led:
            if self._stopping.is_set():
                return
            self._settle(one)
            now_s = self._clock.monotonic_s()
            if one.name in self._written or now_s < self._not_before_s.get(one.name, 0.0):
                continue
            storage = self._replicas.storage_of(one.name)
            newest = one.checkpoints[0] if one.checkpoints else None
            if storage is not None and is_due(storage.position.next_offset, newest, one.version, self._records):
                self._try(one, storage)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            self.step()

    def _settle(self, one: Wanted) -> None:
        """Stop reporting a checkpoint that the catalog has, or has a newer one than, or that somebody has deleted."""
        mine = self._written.get(one.name)
        if mine is None:
            return
        recorded = bool(one.checkpoints) and one.checkpoints[0].next_offset >= mine.checkpoint.next_offset
        now_s = self._clock.monotonic_s()
        if not recorded and now_s - mine.at_s >= RETRY_S:
            mine.at_s = now_s
            try:
                read_manifest(mine.checkpoint.snapshot)
            except VeniceError as error:
                log_event("checkpoint_failed", replica=one.name, reason=str(error))
                recorded = True
        if recorded:
            del self._written[one.name]

    def _try(self, one: Wanted, storage: PartitionStorage) -> None:
        began_s = self._clock.monotonic_s()
        try:
            made = self._write(one, storage)
        except Corrupt as error:
            log_event("checkpoint_failed", replica=one.name, reason=str(error))
            self._replicas.condemn(one.store, one.version.number, one.partition)
            return
        except Exception as error:  # noqa: BLE001 - whatever ails one checkpoint, the others and the worker go on
            if self._stopping.is_set() or self._replicas.storage_of(one.name) is not storage:
                return  # closed under our hands: the process ends, or the replica moves away
            log_event("checkpoint_failed", replica=one.name, reason=str(error) or type(error).__name__)
            self._not_before_s[one.name] = self._clock.monotonic_s() + RETRY_S
            return
        now_s = self._clock.monotonic_s()
        self._written[one.name] = _Written(made, now_s)
        self._not_before_s[one.name] = now_s + self._pause_s
        log_event(
            "checkpoint_written", replica=one.name, next_offset=made.next_offset, rows=made.row_count, seconds=round(now_s - began_s, 3)
        )
        self._on_written()

    def _write(self, one: Wanted, storage: PartitionStorage) -> Checkpoint:
        image = storage.image()
        store, number, partition = one.store, one.version.number, one.partition
        name = checkpoint_name(partition, image.position.next_offset, self._writer, self._ids())
        folder = self._blobs / snapshot_folder(store, number, name)
        self._delete_unfinished(folder.parent, partition)
        with disk_errors(folder):
            folder.mkdir(parents=True)  # never somebody else's: what fails from here on is deleted
        try:
            return self._seal(one, storage, image, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _seal(self, one: Wanted, storage: PartitionStorage, image: Image, folder: Path) -> Checkpoint:
        worked_s = self._clock.monotonic_s()

        def pace() -> None:
            nonlocal worked_s
            self._clock.sleep((self._clock.monotonic_s() - worked_s) * (1 / SHARE - 1))
            if self._stopping.is_set():
                raise Unavailable("the worker is stopping")
            worked_s = self._clock.monotonic_s()

        ref = checkpoint(
            storage,
            folder,
            partition_count=one.version.partition_count,
            created_ms=self._clock.now_ms(),
            compression=one.version.compression,
            dictionary=dictionary_of(one.version),
            image=image,
            pace=pace,
        )
        return described(ref, read_manifest(ref))

    def _delete_unfinished(self, parent: Path, partition: int) -> None:
        """What an earlier life of this worker began and nobody goes on with. A sealed one is the controller's to judge."""
        with suppress(OSError):
            for folder in parent.iterdir():
                parsed = parse_checkpoint_name(folder.name)
                mine = parsed is not None and (parsed[0], parsed[2]) == (partition, self._writer)
                if mine and not (folder / MANIFEST_NAME).exists():
                    shutil.rmtree(folder, ignore_errors=True)
