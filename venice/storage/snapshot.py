"""Snapshots become replicas and replicas snapshots: attach, open again, checkpoint.

Write path: push → **snapshot** → ingest → storage. What a sealed folder is stands in `venice/storage/sealed.py`, whose
functions are used from here, too. A replica may share a sealed file by a hard link: RocksDB only reads it and, when it
has compacted it away, unlinks it.

    <blobs>/…/<attempt>/manifest.json, 000000.values.sst, …      sealed folder
    <replicas>/<replica name>/<incarnation>/                     replica, never reused
    <replicas>/<replica name>/.tmp-<incarnation>/                replica being attached; deleted when found
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from rocksdict import IngestExternalFileOptions, Rdict, WriteBatch, WriteOptions

from venice.errors import Conflict, Corrupt, InvalidRequest
from venice.model import Checkpoint, Compression, SnapshotRef, StartOffset
from venice.naming import parse_replica_name
from venice.storage import Identity, Image, PartitionStorage
from venice.storage.cached_file import write_all
from venice.storage.format import IDENTITY_KEY, META, METADATA, POSITION_KEY, encode_identity, encode_position
from venice.storage.manifest import FileKind, Manifest, PartitionFile, file_name
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import PartitionWriter, check_file, disk_errors, read_manifest, seal, sealed_file, sync, verify
from venice.storage.tuning import open_rocks, translated

__all__ = [
    "FileKind",
    "Manifest",
    "PartitionFile",
    "PartitionWriter",
    "attach",
    "checkpoint",
    "described",
    "file_name",
    "open_replica",
    "read_manifest",
    "seal",
    "verify",
]

_TEMPORARY = ".tmp-"
_INCOMING = "incoming"
_CHUNK_ROWS = 256
"""Written at a time: less than a millisecond, after which whoever writes a checkpoint beside other work gives way."""


def attach(ref: SnapshotRef, manifest: Manifest, identity: Identity, replica_folder: Path) -> RocksStorage:
    """Make a replica of a sealed folder's partition. Until it is complete and on disk to stay, it cannot be opened.

    Args:
        manifest: What `read_manifest(ref)` returned.
        identity: What it will be; its incarnation names its directory and was never used before.
        replica_folder: `<replicas>/<replica name>`; made if missing.

    Raises:
        Corrupt: A file is missing, cut or changed: what was sealed cannot be had from there.
        Conflict: The folder holds a replica already.
        InvalidRequest: The snapshot is not of that store, version, partition or topic.
        Full: The disk is full.
    """
    files = manifest.of(identity.partition)
    _check_identity(ref, manifest, identity)
    folder = replica_folder / identity.incarnation
    temporary = replica_folder / f"{_TEMPORARY}{identity.incarnation}"
    with disk_errors(replica_folder):
        replica_folder.mkdir(parents=True, exist_ok=True)
        if found := _incarnations(replica_folder):
            raise Conflict(f"{replica_folder} holds incarnation {found[0].name} already", hint="close and delete it first")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            (temporary / _INCOMING).mkdir(parents=True)
            for file in files:
                _fetch(sealed_file(ref, file), temporary / _INCOMING / file.name, file)
            _fill(temporary, files, identity, manifest)
            (temporary / _INCOMING).rmdir()
            for path in temporary.iterdir():
                sync(path)
            sync(temporary)
            temporary.rename(folder)
            sync(replica_folder)
            sync(replica_folder.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return RocksStorage(folder)


def open_replica(replica_folder: Path) -> RocksStorage | None:
    """The replica that was attached there, or None. What an interrupted attachment left is deleted.

    Raises:
        Corrupt: What is there is damaged or another replica: delete the folder and attach afresh.
        Conflict: The replica is open already.
    """
    with disk_errors(replica_folder):
        if not replica_folder.is_dir():
            return None
        for path in replica_folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path)
        found = _incarnations(replica_folder)
    if not found:
        return None
    if len(found) > 1:
        raise Corrupt(f"{replica_folder} holds {len(found)} incarnations", hint="delete it and attach afresh")
    storage = RocksStorage(found[0])
    identity = storage.identity
    named = (*(parse_replica_name(replica_folder.name) or ()), found[0].name)
    if (identity.store, identity.version, identity.partition, identity.incarnation) != named:
        storage.close()
        raise Corrupt(f"{found[0]} holds another replica: {identity}", hint="delete it and attach afresh")
    return storage


def checkpoint(
    storage: PartitionStorage,
    folder: Path,
    *,
    partition_count: int,
    created_ms: int,
    compression: Compression = Compression.NONE,
    dictionary: bytes = b"",
    image: Image | None = None,
    pace: Callable[[], None] = lambda: None,
) -> SnapshotRef:
    """Seal what a replica holds: values, metadata, tombstones and position, all of the moment of the call.

    Safe in any thread, also while records are applied. `attach` makes a replica of it that goes on from its position.

    Args:
        folder: Made if missing; must be empty.
        partition_count: Of the version.
        created_ms: Now.
        compression: Of the version's values, with their `dictionary`.
        image: What to seal, if that was taken before.
        pace: Called again and again while rows are written, to give way to others or, by raising, to give up.

    Raises:
        Conflict: The folder is not empty.
        Corrupt: The replica is damaged.
        Full: The disk is full.
        Unavailable: The replica was closed.
    """
    image = image if image is not None else storage.image()
    identity = storage.identity
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty", hint="every checkpoint has a folder of its own")
    kinds = ((FileKind.METADATA, image.metadata), (FileKind.VALUES, image.values))
    files = [_write_file(folder, identity.partition, kind, rows, pace) for kind, rows in kinds]
    manifest = Manifest(
        store=identity.store,
        version=identity.version,
        partition_count=partition_count,
        created_ms=created_ms,
        value_schema_id=0,
        compression=compression,
        dictionary=dictionary,
        files=tuple(file for file in files if file is not None),
        partition=identity.partition,
        topic_id=identity.topic_id,
        position=image.position,
    )
    return seal(folder, manifest)


def described(ref: SnapshotRef, manifest: Manifest) -> Checkpoint:
    """A checkpoint as the catalog names it. `manifest` is what `read_manifest(ref)` returned."""
    position = manifest.position
    return Checkpoint(
        snapshot=ref,
        next_offset=position.next_offset,
        vector=tuple(StartOffset(region=region, partition=partition, next_offset=offset) for region, partition, offset in position.vector),
        row_count=manifest.rows,
        byte_count=manifest.bytes,
        created_ms=manifest.created_ms,
    )


def _write_file(
    folder: Path, partition: int, kind: FileKind, rows: Iterator[tuple[bytes, bytes]], pace: Callable[[], None]
) -> PartitionFile | None:
    writer: PartitionWriter | None = None
    try:
        while chunk := list(islice(rows, _CHUNK_ROWS)):
            writer = writer or PartitionWriter(folder / file_name(partition, kind))
            writer.put_all([key for key, _ in chunk], [value for _, value in chunk])
            pace()
        return writer.finish(partition, kind) if writer else None
    except BaseException:
        if writer:
            writer.abort()
        raise


def _check_identity(ref: SnapshotRef, manifest: Manifest, identity: Identity) -> None:
    if (identity.store, identity.version) != (manifest.store, manifest.version):
        raise InvalidRequest(f"snapshot of {manifest.store!r} version {manifest.version} cannot become {identity}")
    if manifest.topic_id not in ("", identity.topic_id):
        raise InvalidRequest(f"checkpoint of topic {manifest.topic_id} cannot become a replica of topic {identity.topic_id}")
    if identity.snapshot_sha256 != ref.sha256:
        raise InvalidRequest(f"replica of snapshot {identity.snapshot_sha256!r} cannot be made of snapshot {ref.sha256!r}")
    if not identity.incarnation or identity.incarnation.startswith(".") or Path(identity.incarnation).name != identity.incarnation:
        raise InvalidRequest(f"incarnation {identity.incarnation!r} cannot name a directory")


def _fetch(source: Path, target: Path, file: PartitionFile) -> None:
    """Bring a sealed file to `target`: linked where the file system can, else copied; verified in both cases."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
            raise
        with target.open("wb", buffering=0) as copy:
            check_file(source, file, lambda data, offset: write_all(copy.fileno(), data, offset))
    else:
        check_file(target, file)


def _fill(folder: Path, files: Sequence[PartitionFile], identity: Identity, manifest: Manifest) -> None:
    rocks = open_rocks(folder, create=True)
    families = {FileKind.VALUES: rocks, FileKind.METADATA: rocks.get_column_family(METADATA)}
    meta = rocks.get_column_family(META)
    try:
        for file in files:
            _ingest(families[file.kind], folder / _INCOMING / file.name, file)
        batch = WriteBatch(raw_mode=True)
        handle = rocks.get_column_family_handle(META)
        batch.put(IDENTITY_KEY, encode_identity(identity), handle)
        batch.put(POSITION_KEY, encode_position(manifest.position), handle)
        del handle  # it would keep the directory locked
        options = WriteOptions()
        options.sync = True
        rocks.write(batch, options)
        meta.flush()
    except Exception as error:
        raise translated(error, folder) from error
    finally:
        for family in (meta, families.pop(FileKind.METADATA), rocks):
            family.close()


def _ingest(family: Rdict, path: Path, file: PartitionFile) -> None:
    options = IngestExternalFileOptions()
    options.set_move_files(True)
    # A sequence number would be written into the file, which a sealed folder may share: refuse rather than write.
    options.set_allow_global_seqno(False)
    family.ingest_external_file([str(path)], options)
    rows = family.property_int_value("rocksdb.estimate-num-keys")
    if rows != file.rows:
        raise Corrupt(f"{file.name} holds {rows} rows, its manifest says {file.rows}", hint="push again")


def _incarnations(replica_folder: Path) -> list[Path]:
    return sorted(path for path in replica_folder.iterdir() if path.is_dir() and not path.name.startswith(_TEMPORARY))
