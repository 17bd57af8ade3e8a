"""Columns to Avro bytes and back: which columns a schema takes, and what is said of those and of rows that do not fit."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from venice.errors import Corrupt, InvalidRequest
from venice.schema import columnar
from venice.schema.arrow_types import arrow_schema_from_avro, avro_schema_from_arrow, key_and_value_schemas
from venice.schema.codec import Codec, key_codec
from venice.schema.columnar import ColumnDecoder, ColumnEncoder

DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
ENUM = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}
POINT = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": ["null", "int"]}]}


def logical(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "logicalType": name}


def record(*fields: Any) -> str:
    return json.dumps({"type": "record", "name": "R", "fields": [{"name": name, "type": kind} for name, kind in fields]})


def encode(schema: str, **columns: Any) -> list[bytes]:
    batch = pa.record_batch(columns)
    return list(ColumnEncoder(schema, batch.schema).encode(batch).to_pylist())


@pytest.mark.parametrize(
    ("kind", "column", "expected"),
    [
        ("int", pa.array([1, 2], pa.uint8()), [1, 2]),
        ("int", pa.array([1, -2], pa.int64()), [1, -2]),
        ("int", pa.array([Decimal(7)], pa.decimal128(38, 0)), [7]),
        ("long", pa.array([1 << 40], pa.uint64()), [1 << 40]),
        ("float", pa.array([0.5, float("inf")], pa.float64()), [0.5, float("inf")]),
        ("float", pa.array([0.5], pa.float16()), [0.5]),
        ("double", pa.array([3], pa.int32()), [3.0]),
        ("double", pa.array([Decimal("1.5")], pa.decimal128(3, 1)), [1.5]),
        ("string", pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        ("string", pa.array(["a"], pa.large_string()), ["a"]),
        ("bytes", pa.array([b"\xff\x00"], pa.large_binary()), [b"\xff\x00"]),
        ("bytes", pa.array([b"ab"], pa.binary(2)), [b"ab"]),
        (FIXED, pa.array([b"ab"], pa.binary()), [b"ab"]),
        (FIXED, pa.array([b"ab"], pa.binary(2)), [b"ab"]),
        (["null", "string"], pa.array(["a", None]), ["a", None]),
        (["string", "null"], pa.array(["a", None]), ["a", None]),
        (["null", "int"], pa.nulls(2), [None, None]),
        (["null", POINT], pa.array([{"x": 1, "y": None}, None]), [{"x": 1, "y": None}, None]),
        (["int", "string", "null"], pa.array(["a", None]), ["a", None]),
        (["null", FIXED], pa.array([b"ab", None], pa.binary(2)), [b"ab", None]),
        (ENUM, pa.array(["B", "A"]), ["B", "A"]),
        (logical("int", "date"), pa.array([dt.date(2020, 1, 1)]), [dt.date(2020, 1, 1)]),
        (logical("int", "time-millis"), pa.array([dt.time(1, 2, 3, 4000)]), [dt.time(1, 2, 3, 4000)]),
        (logical("long", "time-micros"), pa.array([dt.time(1, 2, 3, 4)]), [dt.time(1, 2, 3, 4)]),
        (
            logical("long", "timestamp-millis"),
            pa.array([1_000_000], pa.timestamp("ns", tz="Europe/Berlin")),
            [dt.datetime(1970, 1, 1, microsecond=1000, tzinfo=dt.UTC)],
        ),
        (logical("long", "timestamp-micros"), pa.array([1], pa.timestamp("s")), [dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)]),
        (logical("string", "uuid"), pa.array(["{12345678-1234-5678-1234-56781234ABCD}"]), None),
        (DECIMAL, pa.array([-5, 700], pa.int64()), [Decimal("-5.00"), Decimal("700.00")]),
        (DECIMAL, pa.array([Decimal("1.5"), Decimal("-1.28")], pa.decimal128(5, 2)), [Decimal("1.50"), Decimal("-1.28")]),
        ({"type": "array", "items": "float"}, pa.array([[1, 2], []], pa.large_list(pa.float64())), [[1.0, 2.0], []]),
        ({"type": "array", "items": "float"}, pa.array([[1, 2]], pa.list_(pa.float32(), 2)), [[1.0, 2.0]]),
        ({"type": "array", "items": ["null", ENUM]}, pa.array([["A", None], []]), [["A", None], []]),
        ({"type": "array", "items": POINT}, pa.array([[{"x": 1, "y": 2}]]), [[{"x": 1, "y": 2}]]),
        ({"type": "map", "values": logical("int", "date")}, None, [{"k": dt.date(2020, 1, 1)}, {}]),
    ],
)
def test_columns_of_many_types_feed_a_field(kind: Any, column: pa.Array, expected: list[Any] | None) -> None:
    if column is None:
        column = pa.array([[("k", dt.date(2020, 1, 1))], []], pa.map_(pa.string(), pa.date32()))
    if expected is None:
        expected = Codec(json.dumps(kind)).decode(Codec(json.dumps(kind)).encode("12345678-1234-5678-1234-56781234abcd"))
        expected = [expected]
    schema = record(("a", kind))
    encoded = encode(schema, a=column)
    assert encoded == [Codec(schema).encode({"a": value}) for value in expected]
    assert [Codec(schema).decode(value)["a"] for value in encoded] == expected


@pytest.mark.parametrize(
    ("kind", "column", "said"),
    [
        ("int", pa.array(["1"]), "column 'a' is string (Arrow), and its field is int (Avro)"),
        ("int", pa.array([1.0]), "is double (Arrow)"),
        ("string", pa.array([1]), "is int64 (Arrow), and its field is string"),
        ("bytes", pa.array(["x"]), "is string (Arrow), and its field is bytes"),
        ("boolean", pa.array([1]), "and its field is boolean"),
        (FIXED, pa.array([b"abc"], pa.binary(3)), "fixed F (2 bytes)"),
        (ENUM, pa.array([1]), "and its field is enum E"),
        (logical("int", "date"), pa.array([1]), "and its field is date (int)"),
        (logical("long", "local-timestamp-micros"), pa.array([1], pa.timestamp("us", tz="UTC")), "local-timestamp-micros (long)"),
        ({"type": "array", "items": "float"}, pa.array([["x"]]), "column 'a[]' is string (Arrow), and its field is float"),
        ({"type": "array", "items": "float"}, pa.array([1.0]), "array<float>"),
        ({"type": "map", "values": "int"}, pa.array([[(1, 1)]], pa.map_(pa.int64(), pa.int64())), "map<int>"),
        (POINT, pa.array([{"x": 1}]), "column 'a.y' is no such field (Arrow)"),
        (POINT, pa.array([{"x": 1, "y": 1, "z": 1}]), "column 'a.z'"),
        (POINT, pa.array([{"x": "1", "y": 1}]), "column 'a.x' is string"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused_before_any_row(kind: Any, column: pa.Array, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ColumnEncoder(record(("a", kind)), pa.schema([("a", column.type)]))
    assert said in str(refusal.value)
    assert refusal.value.data["column"] == "a"


@pytest.mark.parametrize(
    ("kind", "column", "said"),
    [
        ("int", pa.array([1, None, None]), "column 'a' does not fit its field in 2 rows, the first is row 1: null"),
        ("int", pa.array([1, 2, 1 << 40]), "in row 2: Integer value 1099511627776 not in range"),
        ("long", pa.array([1, 1 << 63], pa.uint64()), "in row 1"),
        ("double", pa.array([(1 << 53) + 1]), "in row 0"),
        ("float", pa.array([0.0, 1e300]), "in row 1: beyond the range of 32 bits"),
        (FIXED, pa.array([b"ab", b"abc"]), "in row 1: not 2 bytes"),
        (ENUM, pa.array(["A", "C"]), "in row 1: not one of the symbols A, B"),
        (logical("int", "date"), pa.array([0, 1 << 30], pa.int32()).cast(pa.date32()), "in row 1: outside"),
        (logical("int", "time-millis"), pa.array([dt.time(microsecond=1)]), "would lose data"),
        (logical("long", "timestamp-millis"), pa.array([0, 1], pa.timestamp("us")), "in row 1"),
        (logical("string", "uuid"), pa.array(["x"]), "in row 0: badly formed"),
        (DECIMAL, pa.array([Decimal("1.5"), Decimal("1.001")]), "in row 1"),
        (DECIMAL, pa.array([10**8]), "in row 0"),
        ({"type": "array", "items": "float"}, pa.array([[1.0], [1.0, None], []]), "column 'a[]' does not fit its field in row 1: null"),
        ({"type": "array", "items": "int"}, pa.array([[1], [], [1 << 40, 1 << 41]]), "column 'a[]' does not fit its field in row 2"),
        ({"type": "array", "items": ENUM}, pa.array([["A"], ["A", "C"]]), "column 'a[]' does not fit its field in row 1"),
        (POINT, pa.array([{"x": 1, "y": 1}, {"x": None, "y": 1}]), "column 'a.x' does not fit its field in row 1: null"),
        (["null", POINT], pa.array([None, {"x": None, "y": 1}]), "column 'a.x' does not fit its field in row 1: null"),
        (["int", "string"], pa.array(["a", None]), "in row 1: expected int | string"),
        ({"type": "array", "items": "null"}, pa.array([[None] * 65]), "at most 64"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_number(kind: Any, column: pa.Array, said: str) -> None:
    for start in (0, 3):  # slices count from their own beginning
        padded = pa.concat_arrays([pa.nulls(start, column.type), column]).slice(start)
        batch = pa.RecordBatch.from_arrays([padded], names=["a"])
        with pytest.raises(InvalidRequest) as refusal:
            ColumnEncoder(record(("a", kind)), batch.schema).encode(batch)
        assert said in str(refusal.value)


def test_nulls_inside_a_null_struct_do_not_matter() -> None:
    struct = pa.StructArray.from_arrays([pa.array([1, None]), pa.array([1, None])], names=["x", "y"], mask=pa.array([False, True]))
    assert encode(record(("a", ["null", POINT])), a=struct) == [b"\x02\x02\x02\x02", b"\x00"]


def test_items_behind_a_null_list_are_not_written() -> None:
    lists = pa.Array.from_buffers(
        pa.list_(pa.int64()), 3, [pa.py_buffer(b"\x05"), pa.py_buffer(np.array([0, 1, 3, 4], np.int32))], children=[pa.array([1, 2, 3, 4])]
    )
    assert lists.to_pylist() == [[1], None, [4]]
    schema = record(("a", ["null", {"type": "array", "items": "int"}]))
    assert encode(schema, a=lists) == [Codec(schema).encode({"a": value}) for value in ([1], None, [4])]


def test_missing_and_extra_columns_are_named() -> None:
    schema = record(("a", "int"), ("b", "int"))
    with pytest.raises(InvalidRequest, match=r"no column 'b' for the field record R\.b"):
        ColumnEncoder(schema, pa.schema([("a", pa.int32())]))
    with pytest.raises(InvalidRequest, match="takes column 'c'"):
        ColumnEncoder(schema, pa.schema([("a", pa.int32()), ("b", pa.int32()), ("c", pa.int32())]))
    with pytest.raises(InvalidRequest, match="two columns have one name"):
        ColumnEncoder(schema, pa.schema([("a", pa.int32()), ("a", pa.int32())]))
    with pytest.raises(InvalidRequest, match="takes one column, and there are 2"):
        ColumnEncoder("long", pa.schema([("a", pa.int32()), ("b", pa.int32())]))
    with pytest.raises(InvalidRequest, match="not those of the encoder"):
        ColumnEncoder("long", pa.schema([("a", pa.int64())])).encode(pa.record_batch({"a": ["x"]}))


def test_a_missing_column_takes_the_default_of_its_field() -> None:
    fields = [
        {"name": "a", "type": "int"},
        {"name": "b", "type": {"type": "array", "items": "string"}, "default": ["x"]},
        {"name": "c", "type": "double"},
    ]
    schema = json.dumps({"type": "record", "name": "R", "fields": fields})
    encoded = encode(schema, c=pa.array([0.5, 1.5]), a=pa.array([1, 2]))
    assert encoded == [Codec(schema).encode({"a": 1, "c": 0.5}), Codec(schema).encode({"a": 2, "c": 1.5})]


def test_safe_and_unsafe_columns_stand_side_by_side() -> None:
    schema = record(("a", "int"), ("f", FIXED), ("u", ["int", "string"]), ("d", DECIMAL), ("n", "null"), ("z", "string"))
    row = {"a": 1, "f": b"ab", "u": "x", "d": Decimal("1.25"), "n": None, "z": "end"}
    encoded = encode(
        schema,
        **{key: [value] for key, value in row.items() if key not in ("f", "n")},
        f=pa.array([b"ab"], pa.binary(2)),
        n=pa.nulls(1),
    )
    assert encoded == [Codec(schema).encode(row)]


@pytest.mark.parametrize(
    ("schema", "column"),
    [
        ("long", pa.array([0, -1, 1 << 62, -(1 << 63)])),
        ("int", pa.array([0, -64, 64, (1 << 31) - 1], pa.int32())),
        ("string", pa.array(["", "a", "é" * 100])),
        ("bytes", pa.array([b"", b"\xff" * 100])),
        (json.dumps(FIXED), pa.array([b"ab", b"\x00\xff"], pa.binary(2))),
    ],
)
def test_one_column_is_a_key(schema: str, column: pa.Array) -> None:
    batch = pa.record_batch({"whatever": column})
    keys = ColumnEncoder(schema, batch.schema, key=True).encode(batch)
    assert keys.to_pylist() == [key_codec(schema).encode(value) for value in column.to_pylist()]


def test_keys_with_maps_are_sorted() -> None:
    schema = record(("m", {"type": "map", "values": "int"}))
    kind = pa.map_(pa.string(), pa.int64())
    batch = pa.record_batch({"m": pa.array([[("b", 1), ("a", 2)], [("a", 2), ("b", 1)]], kind)})
    first, second = ColumnEncoder(schema, batch.schema, key=True).encode(batch).to_pylist()
    assert first == second == key_codec(schema).encode({"m": {"b": 1, "a": 2}})


def test_large_batches_are_encoded_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "CHUNK_BYTES_MAX", 1000)
    texts = ["x" * (i % 400) for i in range(200)]
    assert encode("string", a=texts) == [Codec("string").encode(text) for text in texts]
    monkeypatch.setattr(columnar, "_OFFSET_MAX", 1000)
    batch = pa.record_batch({"a": texts})
    encoded = ColumnEncoder("string", batch.schema).encode(batch)
    assert encoded.type == pa.large_binary()
    assert encoded.to_pylist() == [Codec("string").encode(text) for text in texts]


def test_a_failing_library_gives_the_rows_to_the_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: Any) -> Any:
        raise PanicException("index out of bounds")

    schema = record(("a", "int"), ("b", ["null", DECIMAL]))
    rows = [{"a": 1, "b": None}, {"a": 2, "b": Decimal("0.01")}]
    batch = pa.record_batch({"a": [1, 2], "b": pa.array([None, Decimal("0.01")])})
    encoder, expected = ColumnEncoder(schema, batch.schema), [Codec(schema).encode(row) for row in rows]
    monkeypatch.setattr("pyruhvro.serialize_record_batch", panic)
    assert encoder.encode(batch).to_pylist() == expected
    monkeypatch.setattr("pyruhvro.deserialize_array", panic)
    assert ColumnDecoder(schema).decode(expected).to_pylist() == rows


def test_an_empty_batch_is_an_empty_array() -> None:
    for kind in ("int", FIXED, DECIMAL, ["null", ENUM], {"type": "array", "items": DECIMAL}, {"type": "map", "values": ENUM}):
        schema = record(("a", kind))
        arrow = arrow_schema_from_avro(schema)
        encoded = ColumnEncoder(schema, arrow).encode(pa.RecordBatch.from_pylist([], schema=arrow))
        assert (len(encoded), encoded.type) == (0, pa.binary())
        assert ColumnDecoder(schema).decode(encoded).num_rows == 0


def test_encoding_works_from_many_threads() -> None:
    batch = pa.record_batch({"a": list(range(1000)), "b": [str(i) for i in range(1000)]})
    encoder = ColumnEncoder(record(("a", "long"), ("b", "string")), batch.schema)
    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(encoder.encode, [batch] * 8)
    assert all(other.equals(first) for other in others)


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x02", b"\x02\x02a", b"\x02\x02a\x02\x00", b"\x02\x02\xff\x02", b"\x02\x02a\x06", b"\xff\xff\xff\xff\xff\x01\x02a\x02"],
)
def test_damaged_values_are_corrupt(damage: bytes) -> None:
    schema = record(("a", "int"), ("b", "string"), ("c", ENUM))
    good = Codec(schema).encode({"a": 1, "b": "a", "c": "B"})
    assert good == b"\x02\x02a\x02"
    with pytest.raises(Corrupt):
        ColumnDecoder(schema).decode([good, damage, good])


def test_values_of_other_writers_are_read() -> None:
    # An array in two blocks is no other value than the same array in one.
    schema = record(("a", {"type": "array", "items": "int"}))
    assert ColumnDecoder(schema).decode([b"\x02\x02\x02\x04\x00", b"\x04\x02\x04\x00"]).to_pylist() == [{"a": [1, 2]}] * 2


def test_columns_of_a_decoded_batch_have_the_types_of_the_schema() -> None:
    schema = record(("d", logical("int", "date")), ("t", ["null", logical("long", "timestamp-micros")]), ("e", ENUM), ("x", DECIMAL))
    value = {"d": dt.date(2020, 1, 1), "t": None, "e": "B", "x": Decimal("-1.28")}
    batch = ColumnDecoder(schema).decode([Codec(schema).encode(value)])
    assert batch.schema.types == [pa.date32(), pa.timestamp("us", tz="UTC"), pa.string(), pa.decimal128(9, 2)]
    assert [field.nullable for field in batch.schema] == [False, True, False, False]
    assert batch.to_pylist() == [value]
    assert ColumnDecoder("long").decode([b"\x02"]).to_pylist() == [{"value": 1}]


def test_a_union_becomes_a_struct_of_its_branches() -> None:
    schema = record(("u", ["null", "int", "string"]))
    values = [{"u": None}, {"u": 1}, {"u": "x"}]
    encoded = [Codec(schema).encode(value) for value in values]
    batch = ColumnDecoder(schema).decode(encoded)
    members = [None, {"member0": 1, "member1": None}, {"member0": None, "member1": "x"}]
    assert batch.column("u").to_pylist() == members
    assert ColumnEncoder(schema, batch.schema).encode(batch).to_pylist() == encoded


def test_what_has_no_column_is_refused() -> None:
    node = '{"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}'
    with pytest.raises(InvalidRequest, match="contains itself"):
        ColumnDecoder(node)
    with pytest.raises(InvalidRequest, match="100 digits"):
        ColumnDecoder('{"type": "bytes", "logicalType": "decimal", "precision": 100}')
    assert encode(node, next=pa.array([None, {"next": {"next": None}}])) == [b"\x00", b"\x02\x02\x00"]


def test_a_query_result_becomes_a_schema() -> None:
    arrow = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("small", pa.int16(), nullable=False),
            pa.field("name", pa.large_string()),
            pa.field("price", pa.decimal128(18, 3), nullable=False),
            pa.field("day", pa.date32(), nullable=False),
            pa.field("seen", pa.timestamp("ns", tz="UTC"), nullable=False),
            pa.field("local", pa.timestamp("ms"), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), 4), nullable=False),
            pa.field("tags", pa.map_(pa.string(), pa.int8()), nullable=False),
            pa.field("point", pa.struct([pa.field("x", pa.float64(), nullable=False)]), nullable=False),
        ]
    )
    document = json.loads(avro_schema_from_arrow(arrow, "Row"))
    assert {field["name"]: field["type"] for field in document["fields"]} == {
        "id": "long",
        "small": "int",
        "name": ["null", "string"],
        "price": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 3},
        "day": logical("int", "date"),
        "seen": logical("long", "timestamp-micros"),
        "local": logical("long", "local-timestamp-millis"),
        "vector": {"type": "array", "items": "float"},
        "tags": {"type": "map", "values": "int"},
        "point": {"type": "record", "name": "Row_point", "fields": [{"name": "x", "type": "double"}]},
    }
    assert document["fields"][2]["default"] is None
    plain = json.loads(avro_schema_from_arrow(arrow, "Row", nullable=()))
    assert plain["fields"][2] == {"name": "name", "type": "string"}


def test_key_columns_become_the_key_schema() -> None:
    arrow = pa.schema([("carrier", pa.string()), ("flight", pa.int32()), ("delay", pa.float64())])
    key, value = key_and_value_schemas(arrow, "Flight", ["flight"])
    assert json.loads(key) == "int"
    assert [field["name"] for field in json.loads(value)["fields"]] == ["carrier", "delay"]
    key, value = key_and_value_schemas(arrow, "Flight", ["flight", "carrier"], nullable=["delay"])
    assert json.loads(key)["name"] == "FlightKey"
    assert [field["name"] for field in json.loads(key)["fields"]] == ["flight", "carrier"]
    assert json.loads(value)["fields"] == [{"name": "delay", "type": ["null", "double"], "default": None}]
    with pytest.raises(InvalidRequest, match="no column 'id'"):
        key_and_value_schemas(arrow, "Flight", ["id"])
    with pytest.raises(InvalidRequest, match="at least one"):
        key_and_value_schemas(arrow, "Flight", [])


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("dep delay", pa.int32(), "is not a field name"),
        ("nothing", pa.null(), "no Avro type for Arrow null"),
        ("wait", pa.duration("s"), "no Avro type for Arrow duration"),
        ("m", pa.map_(pa.int32(), pa.int32()), "keys must be text"),
        ("p", pa.struct([("a b", pa.int32())]), "column 'p', field 'a b'"),
    ],
)
def test_columns_without_an_avro_type_are_named(name: str, kind: pa.DataType, said: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        avro_schema_from_arrow(pa.schema([(name, kind)]), "Row")
    assert said in str(refusal.value)
    assert f"column {name!r}" in str(refusal.value)
