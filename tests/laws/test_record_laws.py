"""Laws of the log format: what was encoded is decoded, and anything else gives `Corrupt` and nothing else."""

from __future__ import annotations

from struct import pack
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.errors import Corrupt, InvalidRequest
from venice.record import Kind, Origin, Record, Vector, decode, decode_write, encode, encode_merged, encode_vector_entry

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
regions = st.integers(-(2**15), 2**15 - 1)


def as_vector(offsets: dict[tuple[int, int], int]) -> Vector:
    return tuple((region, partition, offset) for (region, partition), offset in sorted(offsets.items()))


vectors = st.dictionaries(st.tuples(regions, u32), u64, max_size=5).map(as_vector)
records = st.builds(
    Record,
    kind=st.sampled_from(Kind),
    key=st.binary(max_size=40),
    value=st.binary(max_size=300),
    schema_id=u32,
    update_schema_id=st.just(0) | u32,
    origin=st.sampled_from(Origin),
    timestamp_ms=i64,
    region=regions,
    metadata=st.binary(max_size=40),
    term=st.just(0) | u64,
    session=st.just(0) | u64,
    sequence=st.just(0) | u64,
    vector=vectors,
)


def with_crc(body: bytes) -> bytes:
    return body + pack("<I", crc32(body))


@given(records)
def test_what_was_encoded_is_decoded(record: Record) -> None:
    found = decode(encode(record))
    assert found == record
    assert type(found) is Record
    assert type(found.kind) is Kind
    assert type(found.origin) is Origin


@given(st.binary(max_size=200))
def test_garbage_is_corrupt(garbage: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(garbage)


@given(st.binary(max_size=200).map(lambda rest: with_crc(b"\x01" + rest)))
def test_garbage_with_a_right_checksum_is_a_record_or_corrupt(garbage: bytes) -> None:
    try:
        found = decode(garbage)
    except Corrupt:
        return
    assert encode(found) == garbage


@given(records, st.data())
def test_damage_with_a_right_checksum_is_a_record_or_corrupt(record: Record, data: st.DataObject) -> None:
    body = bytearray(encode(record)[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    garbage = with_crc(bytes(body))
    try:
        found = decode(garbage)
    except Corrupt:
        return
    assert encode(found) == garbage


@given(records, st.data())
def test_a_flipped_bit_is_corrupt(record: Record, data: st.DataObject) -> None:
    payload = bytearray(encode(record))
    bit = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Corrupt, match="checksum"):
        decode(bytes(payload))


@given(records, st.data())
def test_a_cut_or_grown_record_is_corrupt(record: Record, data: st.DataObject) -> None:
    payload = encode(record)
    with pytest.raises(Corrupt):
        decode(payload[: data.draw(st.integers(0, len(payload) - 1))])
    with pytest.raises(Corrupt):
        decode(payload + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.integers(2, 255), st.binary(min_size=40, max_size=60))
def test_a_newer_format_is_refused_by_its_number(format_: int, rest: bytes) -> None:
    with pytest.raises(Corrupt, match=rf"record format {format_} is newer than this release reads \(1\)") as caught:
        decode(with_crc(bytes([format_]) + rest))
    assert caught.value.data == {"format": format_}


@pytest.mark.parametrize(
    "record",
    [
        Record(Kind.PUT, session=2**64),
        Record(Kind.PUT, sequence=-1),
        Record(Kind.PUT, term=-1),
        Record(Kind.PUT, region=2**15),
        Record(Kind.PUT, schema_id=-1),
        Record(Kind.PUT, update_schema_id=2**32),
        Record(Kind.PUT, timestamp_ms=2**63),
        Record(Kind.PUT, vector=((0, 0, -1),)),
        Record(Kind.PUT, vector=((0, 1, 0), (0, 0, 0))),
        Record(Kind.PUT, vector=((0, 1, 0), (0, 1, 1))),
        Record(Kind.PUT, vector=((1, 0, 0), (0, 1, 0))),
    ],
)
def test_what_does_not_fit_is_refused(record: Record) -> None:
    with pytest.raises(InvalidRequest):
        encode(record)


def test_absent_parts_take_no_room() -> None:
    assert len(encode(Record(Kind.PUT, b"k", b"v"))) == 32 + 2
    assert len(encode(Record(Kind.PUT, b"k", b"v", session=1))) == 32 + 24 + 2
    assert len(encode(Record(Kind.PUT, b"k", b"v", session=1, vector=((0, 0, 1),)))) == 32 + 24 + 14 + 2


@given(
    kind=st.sampled_from([Kind.PUT, Kind.DELETE, Kind.PROGRESS]),
    strings=st.tuples(*[st.binary(max_size=20)] * 3),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
    standing=st.tuples(*[st.integers(0, 2**64 - 1)] * 3).filter(any),
    offsets=st.dictionaries(st.tuples(st.integers(-1, 9), st.integers(0, 9)), st.integers(0, 2**64 - 1), max_size=3),
)
def test_what_a_leader_encodes_is_the_record(
    kind: Kind, strings: tuple[bytes, ...], timestamp_ms: int, standing: tuple[int, ...], offsets: dict[tuple[int, int], int]
) -> None:
    key, value, metadata = strings
    term, session, sequence = standing
    vector = tuple((*source, offset) for source, offset in sorted(offsets.items()))
    entries = b"".join(encode_vector_entry(*entry) for entry in vector)
    assert decode(encode_merged(kind, key, value, 3, timestamp_ms, 1, metadata, term, session, sequence, entries)) == Record(
        kind, key, value, 3, 0, Origin.REAL_TIME, timestamp_ms, 1, metadata, term, session, sequence, vector
    )


@given(st.one_of(records.map(encode), st.binary(max_size=80), records.map(lambda record: encode(record)[:-1])))
def test_what_a_leader_reads_at_once_is_the_record_that_a_producer_wrote(payload: bytes) -> None:
    write = decode_write(payload)
    if write is None:
        return
    kind, key, value, schema_id, timestamp_ms = write
    found = decode(payload)
    assert found == Record(kind, key, value, schema_id, origin=Origin.REAL_TIME, timestamp_ms=timestamp_ms, region=found.region)


@given(st.sampled_from([Kind.PUT, Kind.DELETE]), st.binary(max_size=20), st.binary(max_size=20), u32, i64, regions)
def test_a_leader_reads_what_a_producer_writes_at_once(
    kind: Kind, key: bytes, value: bytes, schema_id: int, timestamp_ms: int, region: int
) -> None:
    record = Record(kind, key, value, schema_id, origin=Origin.REAL_TIME, timestamp_ms=timestamp_ms, region=region)
    assert decode_write(encode(record)) == (kind, key, value, schema_id, timestamp_ms)
    assert decode_write(encode(record._replace(sequence=1))) is None
    assert decode_write(encode(record._replace(metadata=b"m"))) is None
    assert decode_write(encode(record._replace(vector=((0, 0, 1),)))) is None
