"""Laws of the columnar codec: its bytes are the codec's, for every schema, every layout of the columns and every slice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from avro_strategies import same, schemas, values
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from venice.errors import Corrupt, InvalidRequest, VeniceError
from venice.schema.arrow_rows import from_columns, to_columns
from venice.schema.arrow_types import VALUE_COLUMN, arrow_schema_from_avro, avro_schema_from_arrow
from venice.schema.codec import Codec, key_codec
from venice.schema.columnar import ColumnDecoder, ColumnEncoder

LAWS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def tables(draw: st.DrawFn, unions: str = "nullable") -> tuple[str, list[Any]]:
    """(schema, values of it), of schemas whose values fit in columns."""
    schema = draw(schemas(unions=unions, root=draw(st.sampled_from(("record", "record", "record", None)))))
    text = json.dumps(schema)
    assume('"next"' not in text)  # a type within itself has no columns
    return text, draw(st.lists(values(schema), max_size=6))


def batch_of(text: str, rows: list[Any]) -> pa.RecordBatch:
    schema = Codec(text).schema
    root = schema.resolve(schema.root)
    target = arrow_schema_from_avro(text)
    if hasattr(root, "fields"):
        columns = [(f.type, [row[f.name] for row in rows]) for f in root.fields]
    else:
        columns = [(root, rows)]
    arrays = []
    for (node, column), field in zip(columns, target, strict=True):
        convert = to_columns(schema, node)
        arrays.append(pa.array(column if convert is None else [convert(value) for value in column], field.type))
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=target)


@LAWS
@given(tables(unions="any"))
def test_columns_become_the_bytes_of_the_rows(table: tuple[str, list[Any]]) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    encoded = ColumnEncoder(text, batch.schema).encode(batch)
    assert encoded.type == pa.binary()
    assert encoded.to_pylist() == [Codec(text).encode(row) for row in rows]
    keys = ColumnEncoder(text, batch.schema, key=True).encode(batch)
    assert keys.to_pylist() == [key_codec(text).encode(row) for row in rows]


@LAWS
@given(tables(unions="any"), st.binary(max_size=10))
def test_a_prefix_stands_before_every_value(table: tuple[str, list[Any]], prefix: bytes) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    encoded = ColumnEncoder(text, batch.schema, prefix=prefix).encode(batch)
    assert encoded.to_pylist() == [prefix + Codec(text).encode(row) for row in rows]


@LAWS
@given(st.data(), st.sampled_from(("float", "double")), st.booleans())
def test_long_lists_of_one_length_are_copied_as_they_are(data: st.DataObject, kind: str, odd: bool) -> None:
    count = data.draw(st.integers(14, 70))
    floats = st.floats(width=32 if kind == "float" else 64)
    rows = data.draw(st.lists(st.fixed_dictionaries({"a": st.integers(0, 99), "v": st.lists(floats, min_size=count, max_size=count)})))
    if odd:
        rows.insert(data.draw(st.integers(0, len(rows))), {"a": 1, "v": [0.5] * data.draw(st.integers(0, 70))})
    fields = [
        {"name": "a", "type": "int"},
        {"name": "v", "type": {"type": "array", "items": kind}},
        {"name": "z", "type": "int", "default": 3},
    ]
    text = json.dumps({"type": "record", "name": "R", "fields": fields})
    batch = pa.RecordBatch.from_pylist(rows, schema=pa.schema([*arrow_schema_from_avro(text)][:2]))
    start = data.draw(st.integers(0, len(rows)))
    encoded = ColumnEncoder(text, batch.schema, prefix=b"\x00\x00\x00\x00\x01").encode(batch.slice(start))
    assert encoded.to_pylist() == [b"\x00\x00\x00\x00\x01" + Codec(text).encode(row) for row in rows[start:]]


@LAWS
@given(tables(), st.data())
def test_a_slice_is_the_slice_of_the_whole(table: tuple[str, list[Any]], data: st.DataObject) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    start = data.draw(st.integers(0, len(rows)))
    part = batch.slice(start, data.draw(st.integers(0, len(rows) - start)))
    encoded = ColumnEncoder(text, batch.schema).encode(part)
    assert encoded.to_pylist() == [Codec(text).encode(row) for row in rows[start : start + part.num_rows]]


def another_layout(kind: pa.DataType, draw: Callable[..., Any]) -> pa.DataType:
    """Another Arrow type that holds the same values."""
    if pa.types.is_list(kind):
        inner = another_layout(kind.value_type, draw)
        return draw(st.sampled_from((pa.list_(inner), pa.large_list(inner))))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, another_layout(f.type, draw)) for f in kind.fields])
    choices = {
        pa.string(): (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()),
        pa.binary(): (pa.large_binary(),),
        pa.int32(): (pa.int64(),),
        pa.int64(): (pa.decimal128(19, 0),),
        pa.float32(): (pa.float64(),),
        pa.date32(): (pa.date64(),),
        pa.time32("ms"): (pa.time64("us"), pa.time64("ns")),
        pa.timestamp("ms", tz="UTC"): (pa.timestamp("us", tz="UTC"), pa.timestamp("us", tz="+02:00"), pa.timestamp("us")),
        pa.timestamp("ms"): (pa.timestamp("us"),),
    }
    return draw(st.sampled_from((kind, *choices.get(kind, ()))))


@LAWS
@given(tables(), st.data())
def test_other_layouts_of_the_same_values_give_the_same_bytes(table: tuple[str, list[Any]], data: st.DataObject) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    arrays = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = another_layout(column.type, data.draw)
        try:
            arrays.append(column.cast(kind) if kind != column.type else column)
            arrays[-1].validate(full=True)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            arrays = [*arrays[: batch.schema.get_field_index(name)], column]  # Arrow cannot make this one
    assume(arrays)
    other = pa.RecordBatch.from_arrays(arrays, names=batch.schema.names)
    assert ColumnEncoder(text, other.schema).encode(other).to_pylist() == [Codec(text).encode(row) for row in rows]


@LAWS
@given(tables(unions="any"))
def test_rows_decode_to_the_columns_they_came_from(table: tuple[str, list[Any]]) -> None:
    text, rows = table
    encoded = [Codec(text).encode(row) for row in rows]
    decoder = ColumnDecoder(text)
    for data in (encoded, pa.array(encoded, pa.binary())):
        batch = decoder.decode(data)
        assert batch.schema == decoder.arrow_schema
        assert batch.num_rows == len(rows)
        batch.validate(full=True)
        if batch.num_columns:
            assert ColumnEncoder(text, batch.schema).encode(batch).to_pylist() == encoded
            assert same(python_rows(text, batch), [Codec(text).decode(value) for value in encoded])


def python_rows(text: str, batch: pa.RecordBatch) -> list[Any]:
    schema = Codec(text).schema
    rows = batch.to_pylist(maps_as_pydicts="strict")
    root = schema.resolve(schema.root)
    convert = from_columns(schema, root) or (lambda value: value)
    if not hasattr(root, "fields"):
        rows = [row[VALUE_COLUMN] for row in rows]
    return [Codec(text).decode(Codec(text).encode(convert(row))) for row in rows]


@LAWS
@given(schemas(unions="nullable"), st.lists(st.binary(max_size=30), min_size=1, max_size=4))
def test_garbage_is_corrupt_or_what_the_codec_reads(schema: Any, data: list[bytes]) -> None:
    text = json.dumps(schema)
    assume('"next"' not in text)
    decoder = ColumnDecoder(text)
    try:
        expected = [Codec(text).decode(value) for value in data]
    except Corrupt:
        expected = None
    try:
        batch = decoder.decode(data)
    except Corrupt:
        assert expected is None
        return
    assert expected is not None
    if batch.num_columns:
        assert [Codec(text).encode(row) for row in expected] == ColumnEncoder(text, batch.schema).encode(batch).to_pylist()


@LAWS
@given(tables(), schemas(unions="nullable", root="record"))
def test_columns_of_another_schema_are_refused_or_encoded(table: tuple[str, list[Any]], other: Any) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    try:
        encoder = ColumnEncoder(json.dumps(other), batch.schema)
        encoded = encoder.encode(batch)
    except InvalidRequest:
        return
    for value in encoded.to_pylist():
        Codec(json.dumps(other)).decode(value)


@LAWS
@given(tables())
def test_a_schema_derived_from_columns_takes_them(table: tuple[str, list[Any]]) -> None:
    text, rows = table
    batch = batch_of(text, rows)
    try:
        derived = avro_schema_from_arrow(batch.schema, "Derived")
        encoded = ColumnEncoder(derived, batch.schema).encode(batch)
    except VeniceError:
        return  # nulls inside lists and maps, and columns of nothing but null
    decoded = ColumnDecoder(derived).decode(encoded)
    assert decoded.to_pylist() == batch.to_pylist() or "NaN" in str(decoded.to_pylist()) or "nan" in str(decoded.to_pylist())
