"""The bytes of the disk format, version by version. They are never edited: replicas and sealed folders of a release hold them.

python tests/golden/disk/test_golden_disk.py        writes the file of an example that was added
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from venice.storage import Identity, Position
from venice.storage.format import (
    StoredValue,
    Tombstone,
    decode_identity,
    decode_position,
    decode_tombstone,
    decode_value,
    encode_identity,
    encode_position,
    encode_tombstone,
    value_prefix,
)
from venice.storage.manifest import FileKind, Manifest, PartitionFile, decode_manifest, encode_manifest

HERE = Path(__file__).parent

POSITION = Position(next_offset=4096, vector=((0, 2, 17), (1, 2, 2**32)), term=7, session=2**64 - 1, sequence=5, caught_up_session=9)
IDENTITY = Identity(store="flights", version=3, partition=1, topic_id="topic-1", incarnation="life-1", snapshot_sha256="ab" * 32)
VALUES = PartitionFile(partition=1, name="000001.values.sst", rows=2, size=1459, sha256="cd" * 32, min_key=b"\x02", max_key=b"\xff\x01")
METADATA = PartitionFile(
    partition=1, kind=FileKind.METADATA, name="000001.metadata.sst", rows=1, size=900, sha256="ef" * 32, min_key=b"", max_key=b""
)
PUSH = Manifest(store="flights", version=3, partition_count=2, created_ms=1_700_000_000_000, value_schema_id=1, files=(VALUES,))
CHECKPOINT = Manifest(
    store="flights",
    version=3,
    partition_count=2,
    created_ms=1_700_000_000_000,
    value_schema_id=0,
    dictionary=b"\x00\x01",
    files=(METADATA, VALUES),
    partition=1,
    topic_id="topic-1",
    position=POSITION,
)


def in_pieces(manifest: Manifest) -> Manifest:
    return replace(manifest, files=tuple(replace(file, piece_bytes=16 * 1024 * 1024) for file in manifest.files))


BYTES: dict[str, tuple[bytes, Callable[[bytes], Any], Any]] = {
    "value_prefix": (value_prefix(258), decode_value, StoredValue(258, None, None, 5)),
    "value_prefix_with_its_own_time": (
        value_prefix(1, 1_700_000_000_000),
        decode_value,
        StoredValue(1, 1_700_000_000_000, None, 13),
    ),
    "value_prefix_of_a_real_time_write": (value_prefix(1, -2, 3), decode_value, StoredValue(1, -2, 3, 15)),
    "tombstone": (encode_tombstone(1_700_000_000_000, 3), decode_tombstone, Tombstone(1_700_000_000_000, 3)),
    "position": (encode_position(POSITION), decode_position, POSITION),
    "position_at_the_start": (encode_position(Position()), decode_position, Position()),
}
TEXTS: dict[str, tuple[bytes, Callable[[bytes], Any], Any]] = {
    "identity.v1": (encode_identity(IDENTITY), decode_identity, IDENTITY),
    "manifest_of_a_push.v2": (encode_manifest(in_pieces(PUSH)), decode_manifest, in_pieces(PUSH)),
    "manifest_of_a_checkpoint.v2": (encode_manifest(in_pieces(CHECKPOINT)), decode_manifest, in_pieces(CHECKPOINT)),
}
OLDER: dict[str, Manifest] = {"manifest_of_a_push.v1": PUSH, "manifest_of_a_checkpoint.v1": CHECKPOINT}
"""What this release reads and does not write any more."""


def path_of(name: str) -> Path:
    return HERE / (f"{name}.v1.hex" if name in BYTES else f"{name}.json")


@pytest.mark.parametrize("name", BYTES)
def test_bytes_are_those_of_version_1(name: str) -> None:
    encoded, decode, decoded = BYTES[name]
    golden = bytes.fromhex(path_of(name).read_text())
    assert encoded.hex() == golden.hex()
    assert decode(golden) == decoded


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_those_of_their_version(name: str) -> None:
    encoded, decode, decoded = TEXTS[name]
    golden = path_of(name).read_bytes()
    assert encoded == golden
    assert decode(golden) == decoded


@pytest.mark.parametrize("name", OLDER)
def test_older_texts_are_read(name: str) -> None:
    assert decode_manifest(path_of(name).read_bytes()) == OLDER[name]


if __name__ == "__main__":
    for name, (encoded, _, _) in (BYTES | TEXTS).items():
        if not path_of(name).exists():
            path_of(name).write_bytes(encoded if name in TEXTS else encoded.hex(" ").encode() + b"\n")
