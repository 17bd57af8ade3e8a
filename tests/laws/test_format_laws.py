"""Laws of the disk format: what was written is read, and anything else gives `Corrupt` and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.errors import Corrupt, InvalidRequest
from venice.record import Vector
from venice.storage import Identity, Position
from venice.storage.format import (
    PREFIX_SIZE,
    StoredValue,
    Tombstone,
    decode_identity,
    decode_position,
    decode_tombstone,
    decode_value,
    encode_identity,
    encode_position,
    encode_tombstone,
    encode_value,
    real_time_ms,
    value_prefix,
)
from venice.storage.manifest import FileKind, Manifest, PartitionFile, decode_manifest, encode_manifest, file_name

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
regions = st.integers(-(2**15), 2**15 - 1)
counts = st.integers(0, 2**63)
names = st.text(max_size=20)


def as_vector(offsets: dict[tuple[int, int], int]) -> Vector:
    return tuple((region, partition, offset) for (region, partition), offset in sorted(offsets.items()))


positions = st.builds(
    Position,
    next_offset=u64,
    vector=st.dictionaries(st.tuples(regions, u32), u64, max_size=4).map(as_vector),
    term=u64,
    session=u64,
    sequence=u64,
    caught_up_session=u64,
)
identities = st.builds(Identity, store=names, version=counts, partition=counts, topic_id=names, incarnation=names, snapshot_sha256=names)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    partition_count = draw(st.integers(1, 5))
    partition = draw(st.none() | st.integers(0, partition_count - 1))
    held = range(partition_count) if partition is None else [partition]
    files = []
    for at in held:
        for kind in (FileKind.METADATA, FileKind.VALUES):
            if draw(st.booleans()):
                low, high = sorted((draw(st.binary(max_size=9)), draw(st.binary(max_size=9))))
                files.append(
                    PartitionFile(
                        partition=at,
                        kind=kind,
                        name=file_name(at, kind),
                        rows=draw(st.integers(1, 10**12)),
                        size=draw(counts),
                        sha256=draw(st.binary(min_size=32, max_size=32)).hex(),
                        piece_bytes=draw(counts),
                        min_key=low,
                        max_key=high,
                    )
                )
    return Manifest(
        store=draw(names),
        version=draw(counts),
        partition_count=partition_count,
        created_ms=draw(counts),
        value_schema_id=draw(counts),
        dictionary=draw(st.binary(max_size=9)),
        files=tuple(files),
        partition=partition,
        topic_id=draw(names),
        position=draw(positions),
    )


@given(u32, st.binary(max_size=50), st.none() | i64, st.none() | regions)
def test_a_stored_value_is_read(schema_id: int, payload: bytes, timestamp_ms: int | None, region: int | None) -> None:
    if timestamp_ms is None:
        region = None
    stored = encode_value(schema_id, payload, timestamp_ms, region)
    found = decode_value(stored)
    assert found == StoredValue(schema_id, timestamp_ms, region, found.offset)
    assert stored[found.offset :] == payload
    assert stored.startswith(value_prefix(schema_id, timestamp_ms, region))
    assert (stored[0] == 0) == (timestamp_ms is None)
    if stored[0] == 0:
        assert found.offset == PREFIX_SIZE


@given(i64, regions)
def test_a_tombstone_is_read(timestamp_ms: int, region: int) -> None:
    assert decode_tombstone(encode_tombstone(timestamp_ms, region)) == Tombstone(timestamp_ms, region)


@given(positions)
def test_a_position_is_read(position: Position) -> None:
    assert decode_position(encode_position(position)) == position


@given(identities)
def test_an_identity_is_read(identity: Identity) -> None:
    assert decode_identity(encode_identity(identity)) == identity


@given(manifests())
def test_a_manifest_is_read(manifest: Manifest) -> None:
    data = encode_manifest(manifest)
    assert decode_manifest(data) == manifest
    assert manifest.rows == sum(file.rows for file in manifest.files if file.kind is FileKind.VALUES)
    members = json.loads(data)
    members["of a later release"] = {"anything": [1, 2]}
    assert decode_manifest(json.dumps(members).encode()) == manifest


DECODERS: list[Callable[[bytes], Any]] = [decode_value, decode_tombstone, decode_position, decode_identity, decode_manifest]
ENCODERS: dict[Callable[[bytes], Any], Callable[[Any], bytes]] = {
    decode_value: lambda value: value_prefix(value.schema_id, value.timestamp_ms, value.region),
    decode_tombstone: lambda tombstone: encode_tombstone(*tombstone),
    decode_position: encode_position,
    decode_identity: encode_identity,
    decode_manifest: encode_manifest,
}


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=80))
def test_garbage_is_corrupt(decode: Callable[[bytes], Any], data: bytes) -> None:
    try:
        found = decode(data)
    except Corrupt:
        return
    assert data.startswith(ENCODERS[decode](found))


@given(st.binary(max_size=20) | st.binary(max_size=19).map(lambda rest: b"\x03" + rest))
def test_the_time_of_a_stored_value_is_that_of_its_prefix_or_corrupt(data: bytes) -> None:
    try:
        value = decode_value(data)
    except Corrupt:
        with pytest.raises(Corrupt):
            real_time_ms(data)
    else:
        assert real_time_ms(data) == (0 if value.region is None else value.timestamp_ms)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(manifests(), st.data())
def test_a_manifest_with_a_wrong_member_is_corrupt_or_a_manifest(manifest: Manifest, data: st.DataObject) -> None:
    members = json.loads(encode_manifest(manifest))
    place = members
    if members["files"] and data.draw(st.booleans()):
        place = data.draw(st.sampled_from(members["files"]))
    elif data.draw(st.booleans()):
        place = members["position"]
    name = data.draw(st.sampled_from(sorted(place)))
    if data.draw(st.booleans()):
        del place[name]
    else:
        place[name] = data.draw(json_values)
    try:
        found = decode_manifest(json.dumps(members).encode())
    except Corrupt:
        return
    assert decode_manifest(encode_manifest(found)) == found


@given(manifests(), st.data())
def test_a_cut_manifest_is_corrupt(manifest: Manifest, data: st.DataObject) -> None:
    whole = encode_manifest(manifest)
    with pytest.raises(Corrupt):
        decode_manifest(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_newer_format_is_refused_by_its_number() -> None:
    manifest = Manifest(store="s", version=1, partition_count=1, created_ms=1, value_schema_id=1)
    identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i")
    for decode, data, what, newest in (
        (decode_manifest, encode_manifest(manifest), "manifest", 2),
        (decode_identity, encode_identity(identity), "replica identity", 1),
    ):
        said = b'"format":%d' % newest
        assert said in data
        with pytest.raises(Corrupt, match=rf"{what} format {newest + 1} is newer than this release reads \({newest}\)"):
            decode(data.replace(said, b'"format":%d' % (newest + 1)))
        for wrong in (b'"format":0', b'"format":-1', b'"format":true', b'"format":"1"', b'"other":1'):
            with pytest.raises(Corrupt, match="no format that exists"):
                decode(data.replace(said, wrong))
    with pytest.raises(Corrupt, match="position format 7 is newer"):
        decode_position(b"\x07" + encode_position(Position())[1:])


FILE = PartitionFile(partition=0, name=file_name(0), rows=1, size=9, sha256="ab" * 32, min_key=b"a", max_key=b"b")
GOOD = Manifest(store="s", version=1, partition_count=2, created_ms=1, value_schema_id=1, files=(FILE,))


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (replace(GOOD, partition_count=0, files=()), "no partitions"),
        (replace(GOOD, partition=2, files=()), "partition 2 of 2"),
        (replace(GOOD, partition=1), "does not hold"),
        (replace(GOOD, files=(replace(FILE, partition=2),)), "does not hold"),
        (replace(GOOD, files=(replace(FILE, partition=1), FILE)), "out of order"),
        (replace(GOOD, files=(FILE, FILE)), "twice"),
        (replace(GOOD, files=(FILE, replace(FILE, partition=1))), "one name"),
        (replace(GOOD, files=(replace(FILE, sha256="AB" * 32),)), "SHA-256"),
        (replace(GOOD, files=(replace(FILE, name="../a.sst"),)), "no name"),
        (replace(GOOD, files=(replace(FILE, rows=0),)), "without rows"),
        (replace(GOOD, files=(replace(FILE, min_key=b"c"),)), "reversed"),
        (replace(GOOD, version=-1), "version"),
        (replace(GOOD, position=Position(session=2**64)), "position"),
    ],
)
def test_a_manifest_that_contradicts_itself_cannot_be_written(wrong: Manifest, because: str) -> None:
    encode_manifest(GOOD)
    with pytest.raises(InvalidRequest, match=because):
        encode_manifest(wrong)


def test_a_manifest_names_only_partitions_it_holds() -> None:
    assert GOOD.of(0) == (FILE,)
    assert GOOD.of(1) == ()
    for partition in (-1, 2):
        with pytest.raises(InvalidRequest, match="does not hold"):
            GOOD.of(partition)


@pytest.mark.parametrize(
    "encode",
    [
        lambda: value_prefix(-1),
        lambda: value_prefix(2**32),
        lambda: value_prefix(1, 2**63),
        lambda: value_prefix(1, 0, 2**15),
        lambda: encode_tombstone(2**63, 0),
        lambda: encode_position(Position(next_offset=-1)),
        lambda: encode_position(Position(vector=((2**15, 0, 0),))),
    ],
)
def test_what_does_not_fit_is_refused(encode: Callable[[], bytes]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        encode()
