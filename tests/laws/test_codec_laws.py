"""Laws of the codec: it is fastavro's equal on every schema and value, and garbage is `Corrupt` and nothing else."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
from avro_strategies import same, schemas, values
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from venice.errors import Corrupt, Incompatible, InvalidRequest
from venice.schema.codec import Codec, copier, key_codec, lookup, reader
from venice.schema.encoding import encode as encode_by_walking

LAWS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
GARBAGE = settings(LAWS, max_examples=150)

ODD = [object(), {1: 2}, {None}, "\ud800", float("inf"), 1 << 80, b"", [], {}, (), ("long", 5)]


@st.composite
def cases(draw: st.DrawFn, unions: str = "any") -> tuple[Any, Any]:
    """(schema, value of it)."""
    schema = draw(schemas(unions=unions))
    return schema, draw(values(schema))


def fastavro_read(schema: Any, data: bytes) -> tuple[Any, int]:
    source = io.BytesIO(data)
    return fastavro.schemaless_reader(source, fastavro.parse_schema(schema), None), source.tell()


def fastavro_write(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


@LAWS
@given(cases())
def test_a_value_comes_back_as_it_was(case: tuple[Any, Any]) -> None:
    schema, value = case
    codec = Codec(json.dumps(schema))
    data = codec.encode(value)
    assert same(codec.decode(data), value)


@LAWS
@given(cases())
def test_the_generated_decoder_reads_what_fastavro_reads(case: tuple[Any, Any]) -> None:
    schema, value = case
    codec = Codec(json.dumps(schema))
    data = codec.encode(value)
    expected, end = fastavro_read(schema, data)
    assert end == len(data)
    assert same(codec.decode(data), expected)
    assert same(codec.decode(b"\x80prefix" + data, 7), expected)
    shifted, after = codec.decode_from(data + b"\x00\x01", 0)
    assert same(shifted, expected)
    assert after == len(data)


@LAWS
@given(cases(unions="nullable"))
def test_encoded_bytes_are_fastavros(case: tuple[Any, Any]) -> None:
    schema, value = case
    assert Codec(json.dumps(schema)).encode(value) == fastavro_write(schema, value)


@LAWS
@given(cases())
def test_the_generated_encoder_writes_what_walking_the_schema_writes(case: tuple[Any, Any]) -> None:
    schema, value = case
    for codec, sort_maps in ((Codec(json.dumps(schema)), False), (key_codec(json.dumps(schema)), True)):
        assert codec.encode(value) == encode_by_walking(codec.schema, value, sort_maps=sort_maps)


@LAWS
@given(schemas(), st.data())
def test_any_value_at_all_is_encoded_or_refused(schema: Any, data: st.DataObject) -> None:
    other = data.draw(schemas(depth=2))
    value = data.draw(
        st.one_of(values(other), st.sampled_from([object(), {1: 2}, {None}, "\ud800", float("inf"), 1 << 80, b"", [], {}, ()]))
    )
    codec = Codec(json.dumps(schema))
    try:
        encoded = codec.encode(value)
    except InvalidRequest:
        return
    codec.decode(encoded)


@GARBAGE
@given(schemas(), st.binary(max_size=60))
def test_garbage_is_corrupt_or_what_fastavro_reads(schema: Any, data: bytes) -> None:
    codec = Codec(json.dumps(schema))
    try:
        value = codec.decode(data)
    except Corrupt:
        return
    expected, end = fastavro_read(schema, data)
    assert end == len(data)
    assert same(value, expected)


@GARBAGE
@given(cases(), st.data())
def test_damaged_bytes_are_corrupt_or_a_value(case: tuple[Any, Any], data: st.DataObject) -> None:
    schema, value = case
    codec = Codec(json.dumps(schema))
    encoded = codec.encode(value)
    for cut in range(len(encoded)):
        try:
            codec.decode(encoded[:cut])
        except Corrupt:
            continue
    if encoded:
        position = data.draw(st.integers(0, len(encoded) - 1))
        flipped = bytearray(encoded)
        flipped[position] ^= 1 << data.draw(st.integers(0, 7))
        try:
            again = codec.decode(bytes(flipped))
        except Corrupt:
            return
        codec.encode(again)


@LAWS
@given(cases())
def test_truncation_and_trailing_bytes_are_corrupt(case: tuple[Any, Any]) -> None:
    schema, value = case
    codec = Codec(json.dumps(schema))
    encoded = codec.encode(value)
    for data in (encoded + b"\x00", encoded[:-1]):
        if data == encoded:  # the empty value has nothing to cut off
            continue
        try:
            codec.decode(data)
        except Corrupt:
            continue
        raise AssertionError(f"{data!r} was read as a value")


@LAWS
@given(cases())
def test_a_copy_shares_nothing_that_can_change(case: tuple[Any, Any]) -> None:
    schema, value = case
    codec = Codec(json.dumps(schema))
    original = codec.decode(codec.encode(value))
    looked_up = lookup(json.dumps(schema), {7: original}, int, lambda key: ("not kept", key))
    for copy in (copier(json.dumps(schema))(original), looked_up(7)):
        assert same(copy, original)
        assert not mutable_ids(copy) & mutable_ids(original)
    for key in (8, True, 7.0, [7]):
        assert looked_up(key) == ("not kept", key)


def mutable_ids(value: Any) -> set[int]:
    if isinstance(value, dict):
        return {id(value)}.union(*(mutable_ids(item) for item in value.values()))
    if isinstance(value, list):
        return {id(value)}.union(*(mutable_ids(item) for item in value))
    return set()


@LAWS
@given(cases(), st.data())
def test_a_projection_keeps_the_chosen_fields(case: tuple[Any, Any], data: st.DataObject) -> None:
    schema, value = case
    if not isinstance(schema, dict) or schema["type"] != "record" or '"next"' in json.dumps(schema):
        return
    text = json.dumps(schema)
    chosen = [field for field in schema["fields"] if data.draw(st.booleans())]
    definitions = json.dumps(chosen)
    wanted = {
        **schema,
        "fields": [*reversed(chosen), {"name": "added", "type": {"type": "array", "items": "bytes"}, "default": ["\u00ff"]}],
    }
    try:
        read = reader(text, json.dumps(wanted))
    except InvalidRequest:
        assert "R" in definitions or "E" in definitions or "F" in definitions or "D" in definitions  # a definition was left out
        return
    decoded = Codec(text).decode(Codec(text).encode(value))
    first = read(Codec(text).encode(value))
    assert same({k: v for k, v in first.items() if k != "added"}, {field["name"]: decoded[field["name"]] for field in chosen})
    assert first["added"] == [b"\xff"]
    first["added"].append(b"changed")
    assert read(Codec(text).encode(value))["added"] == [b"\xff"]


@GARBAGE
@given(schemas(), schemas(), st.binary(max_size=40))
def test_any_pair_of_schemas_reads_or_says_why_not(writer: Any, wanted: Any, data: bytes) -> None:
    try:
        read = reader(json.dumps(writer), json.dumps(wanted))
        read(data)
    except (Corrupt, Incompatible):
        return
