"""Replicas over a real log and real snapshots, driven by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from venice.clock import SystemClock
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig, Version, VersionStatus
from venice.naming import version_topic
from venice.replica import Wanted
from venice.replicas import ReplicaSet
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.sealed import PartitionWriter, seal

PARTITIONS = 2
GRACE_S = 0.2


class Bench:
    """A log, a blob folder and one ReplicaSet at a time over the same directory."""

    def __init__(self, folder: Path, *, replicas: Path | None = None) -> None:
        self.folder = folder
        self.replicas_folder = replicas or folder / "replicas"
        self.log = SqliteLog(folder / "log", SystemClock())
        self.incarnations = count()
        self.replicas = self.open()

    @classmethod
    def beside(cls, other: Bench, folder: Path) -> Bench:
        """Another process over the same log and blobs; close only its replicas."""
        made = cls.__new__(cls)
        made.folder, made.replicas_folder, made.log = other.folder, folder, other.log
        made.incarnations = count(1000)
        made.replicas = made.open()
        return made

    def open(self) -> ReplicaSet:
        return ReplicaSet(
            self.replicas_folder,
            self.log,
            clock=SystemClock(),
            ids=lambda: f"i{next(self.incarnations)}",
            grace_s=GRACE_S,
        )

    def version(self, number: int, rows: dict[bytes, bytes], hybrid: HybridConfig | None = None) -> Version:
        """A sealed version that holds the same rows in each partition."""
        topic_id = self.log.create_topic(version_topic("s", number), PARTITIONS)
        folder = self.folder / "blobs" / str(number)
        folder.mkdir(parents=True)
        files = []
        for partition in range(PARTITIONS if rows else 0):
            writer = PartitionWriter(folder / file_name(partition))
            for key, value in sorted(rows.items()):
                writer.put(key, encode_value(1, value))
            files.append(writer.finish(partition))
        manifest = Manifest(store="s", version=number, partition_count=PARTITIONS, created_ms=1, value_schema_id=1, files=tuple(files))
        return Version(
            number=number,
            push_id=f"p{number}",
            status=VersionStatus.STARTED,
            partition_count=PARTITIONS,
            replication_factor=1,
            topic_id=topic_id,
            created_ms=1,
            status_ms=1,
            snapshot=seal(folder, manifest),
            hybrid=hybrid,
            real_time_partitions=PARTITIONS if hybrid is not None else 0,
        )

    def want(self, *versions: Version) -> None:
        self.replicas.want([Wanted("s", version, partition) for version in versions for partition in range(PARTITIONS)])

    def poll_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, self.replicas.reports()
            for name, entries in self.replicas.poll(timeout_s=0.01):
                self.replicas.fold(name, entries)

    def poll_until_open(self, *numbers: int) -> None:
        self.poll_until(lambda: {n for (_, n), ps in self.replicas.open.items() if len(ps) == PARTITIONS} == set(numbers))

    def get(self, number: int, key: bytes) -> bytes | None:
        return self.replicas.open["s", number][0].get(key)

    def directories(self) -> set[str]:
        return {folder.name for folder in self.replicas_folder.iterdir()}
