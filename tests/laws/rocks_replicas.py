"""Replicas in RocksDB directories, made of sealed rows, flushed and compacted at will: what the laws of storage share."""

from __future__ import annotations

from pathlib import Path

from rocksdict import BottommostLevelCompaction, CompactOptions

from venice.model import SnapshotRef
from venice.naming import replica_name
from venice.storage import Identity
from venice.storage.manifest import Manifest, PartitionFile, file_name
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import PartitionWriter, read_manifest, seal
from venice.storage.snapshot import attach


def make(folder: Path, rows: dict[bytes, bytes]) -> RocksStorage:
    (folder / "sealed").mkdir(parents=True)
    files: tuple[PartitionFile, ...] = ()
    if rows:
        writer = PartitionWriter(folder / "sealed" / file_name(0))
        ordered = sorted(rows.items())
        writer.put_all([key for key, _ in ordered], [value for _, value in ordered])
        files = (writer.finish(0),)
    manifest = Manifest(store="s", version=1, partition_count=1, created_ms=1, value_schema_id=1, files=files)
    return attach_to(seal(folder / "sealed", manifest), folder)


def attach_to(ref: SnapshotRef, folder: Path) -> RocksStorage:
    identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="life", snapshot_sha256=ref.sha256)
    return attach(ref, read_manifest(ref), identity, folder / replica_name("s", 1, 0))


def compact(storage: RocksStorage) -> None:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    for rocks in (storage._rocks, storage._metadata_rocks()):
        rocks.compact_range(None, None, options)


def flush(storage: RocksStorage) -> None:
    for rocks in (storage._rocks, storage._metadata_rocks()):
        rocks.flush()
