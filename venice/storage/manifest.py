"""FORMAT of the manifest, which seals a folder of sorted files. The page is `docs/formats/disk.md`."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from venice.errors import Corrupt, InvalidRequest
from venice.model import Compression
from venice.record import Vector
from venice.storage import Position
from venice.storage.format import encode_position
from venice.storage.members import count, dump, items, load, parse, string

MANIFEST_NAME = "manifest.json"

FORMAT = 2
"""The format this release writes, and the newest it reads. Format 1 knew no pieces of files."""

START = Position()
"""Nothing folded yet: where a pushed version begins."""

_HINT = "take the snapshot from its source again, or push again"


class FileKind(StrEnum):
    """Which column family a file is for. DO NOT CHANGE THESE VALUES: they are written to manifests."""

    VALUES = "values"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFile:
    """One sorted file of a sealed folder. A partition without rows has none."""

    partition: int
    kind: FileKind = FileKind.VALUES
    name: str
    rows: int
    size: int
    """Bytes of the file."""
    sha256: str
    """Of the SHA-256s of its pieces, one after the other."""
    piece_bytes: int = 0
    """Size of every piece but the last; 0: `sha256` is that of the file itself."""
    min_key: bytes
    max_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a sealed folder holds: a pushed version (all partitions) or a checkpoint (one replica's partition)."""

    store: str
    version: int
    partition_count: int
    created_ms: int
    value_schema_id: int
    """Schema of every value of a push; 0 in a checkpoint, whose values may differ (each says its own)."""
    compression: Compression = Compression.NONE
    dictionary: bytes = b""
    """What `ZSTD_DICT` was trained to; empty if there was too little to learn from."""
    value_bytes: int = 0
    """Avro bytes of all values of a push, before they were compressed; 0 if they are not."""
    compressed_bytes: int = 0
    """What those were compressed to."""
    source_version: int = 0
    """The version whose rows these are; 0: they came from elsewhere."""
    start_offsets: Vector = ()
    """Of rows of a hybrid version: from where on real-time writes may not be among them."""
    held_offsets: Vector = ()
    """Of rows of a hybrid version: from where on no real-time write is among them."""
    files: tuple[PartitionFile, ...] = ()
    """Ascending by partition and kind."""
    partition: int | None = None
    """The only partition a checkpoint holds; None = the folder holds all."""
    topic_id: str = ""
    """Whose offsets `position` counts in; empty for a push."""
    position: Position = START

    @property
    def rows(self) -> int:
        """Keys with a value."""
        return sum(file.rows for file in self.files if file.kind is FileKind.VALUES)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)

    def of(self, partition: int) -> tuple[PartitionFile, ...]:
        """The files of one partition.

        Raises:
            InvalidRequest: The folder does not hold that partition.
        """
        if not 0 <= partition < self.partition_count or self.partition not in (None, partition):
            raise InvalidRequest(f"the snapshot of {self.store!r} version {self.version} does not hold partition {partition}")
        return tuple(file for file in self.files if file.partition == partition)


def file_name(partition: int, kind: FileKind = FileKind.VALUES) -> str:
    """Name of a partition's file in a sealed folder."""
    return f"{partition:06d}.{kind.value}.sst"


_FILE_NAME = re.compile(r"[0-9a-z][0-9a-z._-]{0,120}\.sst", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`. Equal manifests give equal bytes.

    Raises:
        InvalidRequest: What `decode_manifest` would refuse.
    """
    data = dump(
        {
            "format": FORMAT,
            **{name: getattr(manifest, name) for name in ("store", "version", "partition_count", "created_ms", "value_schema_id")},
            "compression": manifest.compression.value,
            "dictionary": manifest.dictionary.hex(),
            "files": [
                asdict(file) | {"kind": file.kind.value, "min_key": file.min_key.hex(), "max_key": file.max_key.hex()}
                for file in manifest.files
            ],
            "rows": manifest.rows,
            "bytes": manifest.bytes,
            "partition": manifest.partition,
            "topic_id": manifest.topic_id,
            "position": asdict(manifest.position),
            **({"value_bytes": manifest.value_bytes, "compressed_bytes": manifest.compressed_bytes} if manifest.value_bytes else {}),
            **{name: found for name in ("source_version", "start_offsets", "held_offsets") if (found := getattr(manifest, name))},
        }
    )
    try:
        read_back = decode_manifest(data)
    except Corrupt as error:
        raise InvalidRequest(f"snapshot cannot be sealed: {error.message}") from error
    assert read_back == manifest, "a manifest reads as it was written"
    return data


def decode_manifest(data: bytes) -> Manifest:
    """The manifest that `data` is; members this release does not know are ignored.

    Raises:
        Corrupt: It is not a manifest, contradicts itself, or its format is newer than this release reads.
    """
    members = load("manifest", data, FORMAT)
    manifest = parse("manifest", lambda: _manifest(members))
    problem = _contradiction(manifest, members)
    if problem:
        raise Corrupt(f"manifest {problem}", hint=_HINT)
    return manifest


def _manifest(members: dict[str, Any]) -> Manifest:
    partition = members["partition"]
    return Manifest(
        store=string(members, "store"),
        version=count(members, "version"),
        partition_count=count(members, "partition_count"),
        created_ms=count(members, "created_ms"),
        value_schema_id=count(members, "value_schema_id"),
        compression=Compression(string(members, "compression")),
        dictionary=bytes.fromhex(string(members, "dictionary")),
        value_bytes=count(members, "value_bytes") if "value_bytes" in members else 0,
        compressed_bytes=count(members, "compressed_bytes") if "compressed_bytes" in members else 0,
        source_version=count(members, "source_version") if "source_version" in members else 0,
        start_offsets=_vector(members, "start_offsets") if "start_offsets" in members else (),
        held_offsets=_vector(members, "held_offsets") if "held_offsets" in members else (),
        files=tuple(_file(file, pieces=members["format"] > 1) for file in items(members, "files")),
        partition=None if partition is None else count(members, "partition"),
        topic_id=string(members, "topic_id"),
        position=_position(members["position"]),
    )


def _file(members: dict[str, Any], *, pieces: bool) -> PartitionFile:
    return PartitionFile(
        partition=count(members, "partition"),
        kind=FileKind(string(members, "kind")),
        name=string(members, "name"),
        rows=count(members, "rows"),
        size=count(members, "size"),
        sha256=string(members, "sha256"),
        piece_bytes=count(members, "piece_bytes") if pieces else 0,
        min_key=bytes.fromhex(string(members, "min_key")),
        max_key=bytes.fromhex(string(members, "max_key")),
    )


def _position(members: dict[str, Any]) -> Position:
    numbers = {name: count(members, name) for name in ("next_offset", "term", "session", "sequence", "caught_up_session")}
    position = Position(vector=_vector(members, "vector"), **numbers)
    encode_position(position)  # the same limits as in a replica
    return position


def _vector(members: Any, name: str) -> Vector:
    vector = []
    for region, partition, next_offset in items(members, name):
        if not all(type(number) is int for number in (region, partition, next_offset)):
            raise ValueError(f"{name} holds something else than integers")
        vector.append((region, partition, next_offset))
    return tuple(vector)


def _contradiction(manifest: Manifest, members: dict[str, Any]) -> str:
    """What a manifest says that cannot be; empty if it may stand."""
    order = [(file.partition, file.kind.value) for file in manifest.files]
    if manifest.partition_count < 1:
        return "has no partitions"
    if manifest.partition is not None and manifest.partition >= manifest.partition_count:
        return f"holds partition {manifest.partition} of {manifest.partition_count}"
    if order != sorted(set(order)):
        return "lists its files out of order or twice"
    if len({file.name for file in manifest.files}) != len(order):
        return "lists two files of one name"
    for file in manifest.files:
        if not _FILE_NAME.fullmatch(file.name):
            return f"names a file {file.name!r}, which is no name of a sorted file"
        if not _SHA256.fullmatch(file.sha256):
            return f"has no SHA-256 for file {file.name}"
        if file.partition >= manifest.partition_count or manifest.partition not in (None, file.partition):
            return f"lists file {file.name} of partition {file.partition}, which it does not hold"
        if not file.rows or file.min_key > file.max_key:
            return f"lists file {file.name} without rows or with its keys reversed"
    said = (members.get("rows"), members.get("bytes"))
    if said != (manifest.rows, manifest.bytes):
        return f"says {said[0]} rows in {said[1]} bytes, its files {manifest.rows} in {manifest.bytes}"
    return ""
