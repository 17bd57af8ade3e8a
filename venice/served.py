"""A version as it is served, for who reads all of it once: each partition in turn, as a replica that lives as long as it is read.

Read path: checkpoint or snapshot, and version topic → `venice/attaching.py` → fold → **served** → SQL and export. What was written to a
hybrid version is folded up to where its topic ended when the reading began, by the fold of every other replica: so the rows are those
that replicas of these offsets serve. Memory holds none of it; the replica is on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from venice.attaching import Attacher
from venice.clock import Clock
from venice.errors import InvalidRequest, Unavailable
from venice.faults import FaultLedger
from venice.integrity import Integrity
from venice.log import Log
from venice.model import Checkpoint, Version
from venice.naming import replica_name, version_topic
from venice.storage import PartitionStorage
from venice.storage.snapshot import read_manifest

FOLD_RECORDS: Final = 5_000

SILENT_S: Final = 10.0
"""The log has records that were asked for, and none came for so long: it cannot be reached."""


class ServedVersion:
    """One sealed version, as of now.

    Args:
        store: Its store's name.
        version: The version.
        checkpoints: By partition, newest first; empty for a batch version.
        log: Where its topic is.
        clock: For deadlines.
        folder: For replicas; best on the disk of the snapshots, whose files are then linked. Nobody else may use it.

    Raises:
        NotFound: The snapshot is gone, or the topic.
        Corrupt: The snapshot's manifest is not what was sealed.
        Unavailable: The log cannot be reached.
    """

    def __init__(
        self, store: str, version: Version, checkpoints: Sequence[Sequence[Checkpoint]], log: Log, clock: Clock, folder: Path
    ) -> None:
        assert version.snapshot is not None, "only sealed versions are read"
        self._store = store
        self._version = version
        self._checkpoints = checkpoints
        self._log = log
        self._clock = clock
        self._folder = folder
        self._topic = version_topic(store, version.number)
        self._attacher = Attacher(folder, log, lambda: "read")
        self._integrity = Integrity(log, clock, FaultLedger(clock))
        partitions = range(version.partition_count)
        self.ends: tuple[int, ...] = ()
        """Of a hybrid version, by partition: the offset of the version topic up to which what was written is read."""
        if version.hybrid is not None:
            self.ends = tuple(log.end_offset(self._topic, partition) for partition in partitions)
            self.partitions: Sequence[int] = partitions
            """Those that may have rows."""
        else:
            manifest = read_manifest(version.snapshot)
            self.partitions = [partition for partition in partitions if manifest.of(partition)]

    @contextmanager
    def partition(self, partition: int) -> Iterator[PartitionStorage]:
        """A partition's replica, folded up to its end; deleted afterwards.

        Raises:
            NotFound, Corrupt: None of what it can be made of is there as it was sealed; or the version was deleted meanwhile.
            Full: The disk is full.
            Unavailable: The log cannot be reached; or the topic was trimmed meanwhile, and a newer catalog knows the checkpoint.
        """
        checkpoints = self._checkpoints[partition] if self._checkpoints else ()
        storage = self._attacher.open_or_attach(self._store, self._version, partition, checkpoints)
        try:
            if self._version.hybrid is not None:
                self._fold(storage, partition)
            yield storage
        finally:
            storage.close()
            shutil.rmtree(self._folder / replica_name(self._store, self._version.number, partition), ignore_errors=True)

    def _fold(self, storage: PartitionStorage, partition: int) -> None:
        place, end = (self._topic, partition), self.ends[partition]
        fold = self._integrity.fold(storage, *place, None)
        reader = self._log.reader()
        try:
            reader.assign(*place, fold.next_offset)
            heard_s = self._clock.monotonic_s()
            while reader.position(*place) < end:
                entries = reader.poll(records_max=FOLD_RECORDS, timeout_s=0.1)
                if entries:
                    fold.fold([entry for entry in entries if entry.offset < end])
                    heard_s = self._clock.monotonic_s()
                elif self._clock.monotonic_s() - heard_s > SILENT_S:
                    raise Unavailable(f"{self._topic}[{partition}] sends nothing of what it has up to offset {end}", hint="is the log up?")
        except InvalidRequest as error:
            raise Unavailable(f"{self._topic}[{partition}] was trimmed while it was read", hint="try again") from error
        finally:
            reader.close()
