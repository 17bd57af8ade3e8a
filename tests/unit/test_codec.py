"""The codec: what values it takes, what it says of others, and how readers and writers of different schemas meet."""

from __future__ import annotations

import array
import datetime as dt
import decimal
import json
import pickle
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pytest

from venice.errors import Corrupt, Incompatible, InvalidRequest
from venice.schema.codec import Codec, copier, key_codec, reader

DECIMAL = '{"type": "bytes", "logicalType": "decimal", "precision": 5, "scale": 2}'
NODE = '{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}'


def record(record_name: str = "R", /, **fields: Any) -> str:
    return json.dumps({"type": "record", "name": record_name, "fields": [{"name": n, **_field(f)} for n, f in fields.items()]})


def _field(kind: Any) -> dict[str, Any]:
    return kind if isinstance(kind, dict) and "default" in kind and "symbols" not in kind else {"type": kind}


def logical(kind: str, name: str) -> str:
    return json.dumps({"type": kind, "logicalType": name})


@pytest.mark.parametrize(
    ("schema", "value", "data"),
    [
        ("null", None, b""),
        ("boolean", True, b"\x01"),
        ("int", -64, b"\x7f"),
        ("int", 64, b"\x80\x01"),
        ("long", -(1 << 63), b"\xff" * 9 + b"\x01"),
        ("float", 1.0, b"\x00\x00\x80?"),
        ("string", "é", b"\x04\xc3\xa9"),
        ("bytes", b"ab", b"\x04ab"),
        ('["null", "long"]', 5, b"\x02\x0a"),
        ('{"type": "array", "items": "long"}', [1, 2], b"\x04\x02\x04\x00"),
        ('{"type": "map", "values": "long"}', {"a": 1}, b"\x02\x02a\x02\x00"),
    ],
)
def test_bytes_are_those_of_the_specification(schema: str, value: Any, data: bytes) -> None:
    assert Codec(schema).encode(value) == data
    assert Codec(schema).decode(data) == value


@pytest.mark.parametrize(
    ("schema", "value", "same_as"),
    [
        ("long", np.int64(5), 5),
        ("int", np.int8(5), 5),
        ("double", 5, 5.0),
        ("double", np.float32(0.5), 0.5),
        ("float", np.float64(0.5), 0.5),
        ("bytes", bytearray(b"ab"), b"ab"),
        ("bytes", memoryview(b"ab"), b"ab"),
        ('{"type": "array", "items": "float"}', np.array([1, 2], np.float32), [1.0, 2.0]),
        ('{"type": "array", "items": "float"}', (1, 2.0), [1.0, 2.0]),
        ('{"type": "array", "items": "double"}', array.array("d", [1, 2]), [1.0, 2.0]),
        ('{"type": "array", "items": "long"}', np.array([1, 2]), [1, 2]),
        ('["null", "long"]', ("long", 5), 5),
        ('["null", "double", "long"]', 5, 5),
        ('["float", "double"]', 0.1, 0.1),
        (logical("string", "uuid"), "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678123456781234567812345678")),
        (logical("int", "date"), 1, dt.date(1970, 1, 2)),
        (DECIMAL, 7, decimal.Decimal("7.00")),
        (DECIMAL, decimal.Decimal("1.5"), decimal.Decimal("1.50")),
        (DECIMAL, decimal.Decimal("1.500"), decimal.Decimal("1.50")),
        (DECIMAL, decimal.Decimal("1E+2"), decimal.Decimal("100.00")),
    ],
)
def test_other_classes_of_the_same_value_are_taken(schema: str, value: Any, same_as: Any) -> None:
    decoded = Codec(schema).decode(Codec(schema).encode(value))
    assert decoded == same_as
    assert type(decoded) is type(same_as)


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ("int", True, "expected int, got bool True"),
        ("int", 1 << 31, "outside the 32-bit range"),
        ("long", 1 << 63, "outside the 64-bit range"),
        pytest.param("long", 10**10_000, "outside the 64-bit range", id="more digits than Python prints"),
        ("long", 1.0, "got float"),
        ("long", "1", "got str '1'"),
        ("double", "NaN", "got str"),
        ("double", (1 << 53) + 1, "got int"),
        ("float", (1 << 24) + 1, "got int"),
        ("float", 1e300, "beyond the range of 32 bits"),
        ("double", decimal.Decimal(1), "got Decimal"),
        ("string", b"x", "got bytes"),
        ("string", "\ud800", "surrogates not allowed"),
        ("bytes", "x", "got str"),
        ("boolean", 1, "got int"),
        ("null", 0, "got int"),
        ('{"type": "array", "items": "int"}', "12", "got str"),
        ('{"type": "array", "items": "int"}', [1, None], "at [1]: expected int"),
        ('{"type": "array", "items": "float"}', [1.0, True], "at [1]: expected float"),
        ('{"type": "array", "items": "null"}', [None] * 65, "at most 64"),
        ('{"type": "map", "values": "int"}', {"a": "x"}, "at ['a']"),
        ('{"type": "map", "values": "int"}', {1: 1}, "is no text"),
        ('{"type": "enum", "name": "E", "symbols": ["A"]}', "B", "the symbols are A"),
        ('{"type": "fixed", "name": "F", "size": 2}', b"abc", "it has 3 bytes"),
        ('["null", "int"]', "x", "expected int, got str"),
        ('["null", "int", "boolean"]', "x", "expected null | int | boolean"),
        (record(a="int", b={"type": "int", "default": 1}), {"a": 1, "c": 2}, "has no field 'c'"),
        (record(a="int"), {}, "at a: missing"),
        (record(a={"type": "array", "items": json.loads(record("I", x="int"))}), {"a": [{"x": 1}, {"x": None}]}, "at a[1].x: expected int"),
        (NODE, [], "expected record Node"),
        (logical("int", "date"), dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "time of day would be lost"),
        (logical("int", "date"), 1 << 30, "outside"),
        (logical("long", "timestamp-millis"), dt.datetime(2020, 1, 1), "no time zone"),  # noqa: DTZ001 - that is what is refused
        (logical("long", "timestamp-millis"), dt.datetime(2020, 1, 1, microsecond=1, tzinfo=dt.UTC), "has microseconds"),
        (logical("long", "local-timestamp-micros"), dt.datetime(2020, 1, 1, tzinfo=dt.UTC), "zone would be lost"),
        (logical("int", "time-millis"), dt.time(1, tzinfo=dt.UTC), "zone would be lost"),
        (logical("int", "time-millis"), 86_400_000, "outside"),
        (logical("string", "uuid"), "not one", "badly formed"),
        (logical("string", "uuid"), 5, "expected uuid"),
        (DECIMAL, decimal.Decimal("1.001"), "digits after the point"),
        (DECIMAL, decimal.Decimal("1000"), "more than 5 digits"),
        (DECIMAL, decimal.Decimal("1e999999"), "more than 5 digits"),
        (DECIMAL, decimal.Decimal("NaN"), "not a finite number"),
        (DECIMAL, 1.5, "got float"),
    ],
)
def test_what_would_lose_something_is_refused_with_its_path(schema: str, value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        Codec(schema).encode(value)
    assert said in str(refusal.value)


def test_foreign_classes_that_raise_are_refused() -> None:
    class Odd:
        def __index__(self) -> int:
            raise RuntimeError("broken")

    with pytest.raises(InvalidRequest, match="RuntimeError: broken"):
        Codec("long").encode(Odd())


def test_a_missing_field_takes_its_default() -> None:
    codec = Codec(record(a="int", b={"type": ["null", "string"], "default": None}, c={"type": "bytes", "default": "\u00ff"}))
    assert codec.decode(codec.encode({"a": 1})) == {"a": 1, "b": None, "c": b"\xff"}
    assert codec.encode({"a": 1}) == codec.encode({"c": b"\xff", "b": None, "a": 1})


def test_a_union_takes_the_branch_that_keeps_the_value() -> None:
    low, high = json.loads(record("Low", x="int")), json.loads(record("High", x="int", y={"type": "int", "default": 0}))
    codec = Codec(json.dumps([low, high, {"type": "map", "values": "int"}]))
    assert codec.encode({"x": 1})[0] == 0
    assert codec.encode({"x": 1, "y": 0})[0] == 2
    assert codec.encode({"z": 1})[0] == 4
    assert codec.encode(("High", {"x": 1}))[0] == 2


def test_keys_with_maps_are_the_same_bytes_in_any_order() -> None:
    schema = '{"type": "map", "values": "int"}'
    assert key_codec(schema).encode({"b": 1, "a": 2}) == key_codec(schema).encode({"a": 2, "b": 1})
    assert Codec(schema).encode({"b": 1, "a": 2}) != Codec(schema).encode({"a": 2, "b": 1})


@pytest.mark.parametrize(
    ("schema", "data"),
    [
        ("boolean", b"\x02"),
        ("int", b""),
        ("int", b"\x80"),
        ("int", b"\x80\x80\x80\x80\x10"),
        ("long", b"\xff" * 9 + b"\x02"),
        ("long", b"\xff" * 1000),
        ("long", b"\x02\x02"),
        ("double", b"\x00" * 7),
        ("string", b"\x01"),
        ("string", b"\x06ab"),
        ("string", b"\x02\xff"),
        ("string", b"\xfe" + b"\xff" * 7 + b"\x7f"),
        ('["null", "int"]', b"\x04"),
        ('["null", "int"]', b"\x01"),
        ('{"type": "enum", "name": "E", "symbols": ["A"]}', b"\x02"),
        ('{"type": "fixed", "name": "F", "size": 2147483647}', b"ab"),
        ('{"type": "array", "items": "float"}', b"\xfe\xff\xff\xff\x0f" + b"\x00" * 9),
        ('{"type": "array", "items": "null"}', b"\xfe\xff\xff\xff\x0f\x00"),
        ('{"type": "array", "items": "null"}', b"\x7e\x7e\x00"),
        ('{"type": "array", "items": "int"}', b"\x80\x00\x00"),
        ('{"type": "map", "values": "null"}', b"\xfe\xff\xff\xff\x0f\x00"),
        (NODE, b"\x02" * 100_000),
        (logical("int", "date"), b"\xfe\xff\xff\xff\x0f"),
        (logical("long", "timestamp-micros"), b"\xfe" + b"\xff" * 8 + b"\x01"),
        (logical("int", "time-millis"), b"\x01"),
        (logical("string", "uuid"), b"\x02a"),
        (DECIMAL, b"\x06\x7f\xff\xff"),
    ],
)
def test_damaged_bytes_are_corrupt(schema: str, data: bytes) -> None:
    with pytest.raises(Corrupt):
        Codec(schema).decode(data)
    with pytest.raises(Corrupt):
        reader(schema, schema)(data)


def test_values_one_after_the_other() -> None:
    codec = Codec(record(a="string", b="long"))
    first, second = {"a": "x", "b": 1}, {"a": "y" * 100, "b": -(1 << 60)}
    data = codec.encode(first) + codec.encode(second)
    value, end = codec.decode_from(data)
    assert value == first
    assert codec.decode_from(data, end) == (second, len(data))
    assert codec.decode(data, end) == second
    with pytest.raises(Corrupt):
        codec.decode_from(data, end + 1)


def test_blocks_with_their_size_in_bytes_are_read() -> None:
    # Other writers split arrays into blocks and say how long each is, for readers that skip.
    floats = Codec('{"type": "array", "items": "float"}')
    assert floats.decode(b"\x01\x08" + b"\x00\x00\x80?" + b"\x04" + b"\x00\x00\x80?" * 2 + b"\x00") == [1.0, 1.0, 1.0]
    assert Codec('{"type": "array", "items": "int"}').decode(b"\x01\x02\x02\x02\x04\x00") == [1, 2]
    assert Codec('{"type": "map", "values": "int"}').decode(b"\x01\x06\x02a\x02\x02\x02b\x04\x00") == {"a": 1, "b": 2}


OLD: dict[str, Any] = {"a": "int", "b": "string", "c": ["null", "int"], "d": {"type": "enum", "name": "E", "symbols": ["X", "Y"]}}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ({"a": "long"}, {"a": 7}),
        ({"a": "double"}, {"a": 7.0}),
        ({"a": ["null", "string", "long"]}, {"a": 7}),
        ({"b": "bytes"}, {"b": b"text"}),
        ({"c": "int"}, {"c": 5}),
        ({"c": ["int", "null"]}, {"c": 5}),
        ({"renamed": {"type": "string", "default": "", "aliases": ["b"]}}, {"renamed": "text"}),
        ({"more": {"type": {"type": "map", "values": "int"}, "default": {"k": 1}}}, {"more": {"k": 1}}),
        ({"d": {"type": "enum", "name": "E", "symbols": ["X", "Z"], "default": "Z"}}, {"d": "Z"}),
        ({}, {}),
    ],
)
def test_a_reader_sees_what_was_written_with_another_schema(new: dict[str, Any], expected: dict[str, Any]) -> None:
    data = Codec(record(**OLD)).encode({"a": 7, "b": "text", "c": 5, "d": "Y"})
    value = reader(record(**OLD), record(**new))(b"\x00\x00" + data, 2)
    assert value == expected
    with pytest.raises(Corrupt):
        reader(record(**OLD), record(**new))(data + b"\x00")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"a": "string"}, "at a: int cannot be read as string"),
        ({"x": "int"}, "at x"),
        ({"b": {"type": "fixed", "name": "F", "size": 2}}, "at b"),
    ],
)
def test_schemas_that_never_meet_are_refused(new: dict[str, Any], said: str) -> None:
    with pytest.raises(Incompatible) as refusal:
        reader(record(**OLD), record(**new))
    assert said in str(refusal.value)


def test_values_that_the_reader_has_no_place_for_are_refused_one_by_one() -> None:
    codec = Codec(record(**OLD))
    read = reader(record(**OLD), record(c="int", d={"type": "enum", "name": "E", "symbols": ["X"]}))
    row = {"a": 7, "b": "", "c": 5, "d": "X"}
    assert read(codec.encode(row)) == {"c": 5, "d": "X"}
    for odd in ({**row, "c": None}, {**row, "d": "Y"}):
        with pytest.raises(Incompatible, match="record R"):
            read(codec.encode(odd))


def test_recursive_types_are_read_by_older_and_newer_readers() -> None:
    new = record("Node", value={"type": "int", "default": 3}, next={"type": ["null", "Node"], "default": None})
    value = {"next": {"next": None}}
    data = Codec(NODE).encode(value)
    assert reader(NODE, new)(data) == {"value": 3, "next": {"value": 3, "next": None}}
    assert reader(new, NODE)(Codec(new).encode({"value": 1, "next": None})) == {"next": None}


def test_what_is_done_to_a_copy_does_not_reach_the_original() -> None:
    inner = json.loads(record("I", tags={"type": "array", "items": "string"}))
    schema = record(a="int", i=["null", inner], many={"type": "array", "items": "I"}, m={"type": "map", "values": "int"})
    value = {"a": 1, "i": {"tags": ["x"]}, "many": [{"tags": []}], "m": {"k": 1}}
    copy = copier(schema)(value)
    assert copy == value
    copy["a"], copy["i"]["tags"], copy["m"]["k"] = 2, None, 5
    copy["many"][0]["tags"].append("y")
    assert value == {"a": 1, "i": {"tags": ["x"]}, "many": [{"tags": []}], "m": {"k": 1}}


def test_types_used_a_million_ways_compile_in_a_moment() -> None:
    nested: Any = json.loads(record("A0", x="int"))
    for i in range(1, 28):
        nested = json.loads(record(f"A{i}", a=nested, b=f"A{i - 1}"))
    codec = Codec(json.dumps(nested))
    with pytest.raises(Corrupt):
        codec.decode(b"")
    with pytest.raises(InvalidRequest):
        codec.encode({})


def test_a_codec_survives_a_process_pool() -> None:
    codec = pickle.loads(pickle.dumps(key_codec("long")))
    assert codec.decode(codec.encode(5)) == 5
    assert repr(codec) == "Codec('long')"


def test_names_from_a_schema_never_become_code() -> None:
    name = "__import__"
    schema = record(**{name: "int", "def": "int", "b": "int", "o": "int", "v": "int", "None": "int"})
    value = {name: 1, "def": 2, "b": 3, "o": 4, "v": 5, "None": 6}
    assert Codec(schema).decode(Codec(schema).encode(value)) == value


def test_importing_the_codec_is_light() -> None:
    code = "import sys, venice.schema.codec; print([m for m in ('numpy', 'fastavro', 'avro', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
