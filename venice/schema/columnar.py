"""Arrow columns ⇄ Avro bytes, a batch at a time.

Write path: read → **encode** → partition → sort → seal. Export and SQL: scan → **decode** → Arrow.

Columns whose types can be lowered (`arrow_lowering.py`) are written by `pyruhvro`, which releases the GIL; others go
through the codec row by row and are joined to them. The bytes are the codec's either way. `pyruhvro` panics, and a panic is no
`Exception`: what it cannot do is not given to it, and if it fails nevertheless the codec takes over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from venice.errors import InvalidRequest
from venice.schema.arrow_casting import WrongType, WrongValues, check_type, is_normalizable, normalize
from venice.schema.arrow_lowering import Lowered, Unraisable, lower
from venice.schema.arrow_rows import from_columns, to_columns
from venice.schema.arrow_types import VALUE_COLUMN, arrow_schema_from_avro
from venice.schema.codec import Codec
from venice.schema.defaults import default_bytes
from venice.schema.fast_encoding import generate_encoder
from venice.schema.types import Field, Fixed, Record, Schema, Type, describe

CHUNK_BYTES_MAX: Final = 128 << 20
"""Most Arrow bytes encoded at once: an offset has 31 bits, and a bit in Arrow can be a byte in Avro."""
_OFFSET_MAX: Final = (1 << 31) - 1
_WRAPPED: Final = "Row"


class _Column(NamedTuple):
    field: Field
    position: int | None
    """In the batch; None: the field's default stands for all rows."""
    lowered: Lowered | None
    normalized: bool


class ColumnEncoder:
    """Encodes the rows of Arrow record batches. Immutable, safe to share between threads.

    Args:
        schema_json: The Avro schema. A record takes its fields from the columns of the same names; any other type takes
            the only column, whatever its name.
        arrow_schema: Names and types of the batches' columns. A field with a default may lack its column.
        key: The bytes are keys: maps are written by key, so that equal keys are equal bytes.

    Raises:
        InvalidRequest: A column is missing, left over, or of a type that cannot feed its field; it is named with both types.
    """

    def __init__(self, schema_json: str, arrow_schema: pa.Schema, *, key: bool = False) -> None:
        self._schema = schema = Codec(schema_json).schema
        self._sort_maps = key
        self._arrow_schema = arrow_schema
        root = schema.resolve(schema.root)
        self._record = root if isinstance(root, Record) else Record(_WRAPPED, (Field(VALUE_COLUMN, schema.root),))
        self._columns = _match_columns(schema, self._record, root, arrow_schema, key)
        self._parts = self._plan()

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        """One Avro value per row: a BinaryArray, or a LargeBinaryArray if they have 2 GiB or more.

        Raises:
            InvalidRequest: Values do not fit (nulls, range, precision, symbols): the column, the number of such rows and the
                first of them, counted from 0 in the batch, are named.
        """
        if batch.schema.names != self._arrow_schema.names or batch.schema.types != self._arrow_schema.types:
            raise InvalidRequest(
                f"the batch has columns {batch.schema.to_string()!r}, not those of the encoder", hint="make an encoder for each schema"
            )
        try:
            batch.validate()
        except pa.ArrowInvalid as error:
            raise InvalidRequest(f"the batch is not valid Arrow: {error}", hint="make it anew from its source") from error
        chunks = [self._encode(chunk) for chunk in _split(batch)]
        if len(chunks) == 1:
            return chunks[0]
        if sum(_data_bytes(chunk) for chunk in chunks) > _OFFSET_MAX:
            chunks = [chunk.cast(pa.large_binary()) for chunk in chunks]
        return pa.concat_arrays(chunks)

    def _plan(self) -> list[Callable[[pa.RecordBatch], pa.Array]]:
        parts: list[Callable[[pa.RecordBatch], pa.Array]] = []
        for fast, group in groupby(self._columns, lambda column: column.lowered is not None and column.position is not None):
            columns = list(group)
            if fast:
                parts.append(_Fast(self._schema, columns, self._sort_maps).encode)
            else:
                parts += [_part(self._schema, self._record, column, self._sort_maps) for column in columns]
        return parts

    def _encode(self, batch: pa.RecordBatch) -> pa.Array:
        if not self._parts:
            return pa.array([b""] * batch.num_rows, pa.binary())
        parts = [part(batch) for part in self._parts]
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, b"")


def _match_columns(schema: Schema, record: Record, root: Type, arrow: pa.Schema, key: bool) -> list[_Column]:
    names = list(arrow.names)
    if not isinstance(root, Record) and len(names) != 1:
        raise InvalidRequest(f"{describe(root)} takes one column, and there are {len(names)}", hint="select the one column")
    if len(set(names)) != len(names):
        raise InvalidRequest(f"two columns have one name: {', '.join(names)}", hint="give each column a name of its own")
    columns = []
    for field in record.fields:
        name = field.name if isinstance(root, Record) else names[0]
        position = names.index(name) if name in names else None
        if position is None:
            if field.default is None:
                raise InvalidRequest(
                    f"no column {name!r} for the field {describe(record)}.{name} ({describe(field.type)})",
                    hint=f"the columns are {', '.join(names)}; rename or add one, or give the field a default", column=name,
                )  # fmt: skip
            columns.append(_Column(field, None, None, False))
            continue
        kind = arrow.field(position).type
        _check(schema, field, name, kind)
        normalized = is_normalizable(schema, field.type, kind)
        lowered = lower(schema, field.type) if normalized and not (key and _has_map(kind)) else None
        columns.append(_Column(field, position, lowered, normalized))
    if isinstance(root, Record):
        left = [name for name in names if name not in {field.name for field in record.fields}]
        if left:
            raise InvalidRequest(f"no field of {describe(record)} takes column {left[0]!r}", hint="leave the column out", column=left[0])
    return columns


def _check(schema: Schema, field: Field, name: str, kind: pa.DataType) -> None:
    try:
        check_type(schema, field.type, kind)
    except WrongType as error:
        raise InvalidRequest(
            f"column {name + error.path!r} is {error.found} (Arrow), and its field is {error.expected} (Avro)",
            hint="cast the column, or register a schema that takes it", column=name, found=error.found, expected=error.expected,
        ) from error  # fmt: skip


def _has_map(kind: pa.DataType) -> bool:
    return pa.types.is_map(kind) or any(_has_map(kind.field(i).type) for i in range(kind.num_fields))


def _split(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    if batch.nbytes <= CHUNK_BYTES_MAX or batch.num_rows <= 1:
        return [batch]
    rows = max(batch.num_rows * CHUNK_BYTES_MAX // (2 * batch.nbytes), 1)
    chunks = [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]
    return [part for chunk in chunks for part in (_split(chunk) if chunk.num_rows < batch.num_rows else [chunk])]


def _data_bytes(array: pa.Array) -> int:
    return int(pc.sum(pc.binary_length(array)).as_py() or 0)


def _refusal(name: str, error: WrongValues) -> InvalidRequest:
    count, first = len(error.rows), int(error.rows[0])
    rows = f"row {first}" if count == 1 else f"{count} rows, the first is row {first}"
    return InvalidRequest(
        f"column {name + error.path!r} does not fit its field in {rows}: {error.reason}",
        hint="correct or drop those rows, or register a schema that takes them", column=name, row=first, rows=count,
    )  # fmt: skip


def _column(schema: Schema, column: _Column, batch: pa.RecordBatch) -> pa.Array:
    assert column.position is not None
    array = batch.column(column.position)
    if not column.normalized:
        return array
    try:
        return normalize(schema, column.field.type, array)
    except WrongValues as error:
        raise _refusal(batch.schema.names[column.position], error) from error


def _part(schema: Schema, record: Record, column: _Column, sort_maps: bool) -> Callable[[pa.RecordBatch], pa.Array]:
    """How the bytes of one column come about that cannot be lowered."""
    if column.position is None:
        constant = pa.scalar(default_bytes(schema, record, column.field), pa.binary())
        return lambda batch: pa.repeat(constant, batch.num_rows)
    node = schema.resolve(column.field.type)
    if isinstance(node, Fixed) and node.logical is None and node.size:
        return lambda batch: _column(schema, column, batch).cast(pa.binary())
    return _Rows(schema, column, sort_maps).encode


class _Rows:
    """A column through the codec, value by value."""

    def __init__(self, schema: Schema, column: _Column, sort_maps: bool) -> None:
        self._schema = schema
        self._column = column
        self._convert = from_columns(schema, column.field.type)
        self._encode = generate_encoder(Schema(column.field.type, schema.names), sort_maps=sort_maps)

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        values = _column(self._schema, self._column, batch).to_pylist(maps_as_pydicts="strict")
        out = []
        for row, value in enumerate(values):
            try:
                out.append(self._encode(value if self._convert is None else self._convert(value)))
            except InvalidRequest as error:
                assert self._column.position is not None
                wrong = WrongValues(error.data.get("reason", error.message), np.array([row]))
                path = error.data.get("path", "")
                wrong.path = path if path.startswith("[") or not path else f".{path}"
                raise _refusal(batch.schema.names[self._column.position], wrong) from error
        return pa.array(out, pa.binary())


class _Fast:
    """Columns next to one another that are lowered, encoded at once as a record: its bytes are theirs, one after the other."""

    def __init__(self, schema: Schema, columns: Sequence[_Column], sort_maps: bool) -> None:
        self._schema = schema
        self._columns = columns
        self._sort_maps = sort_maps
        documents = [{"name": f"f{i}", "type": column.lowered.document} for i, column in enumerate(columns) if column.lowered]
        self._names = [document["name"] for document in documents]
        self._text = json.dumps({"type": "record", "name": _WRAPPED, "fields": documents})

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        arrays = []
        for column in self._columns:
            array = _column(self._schema, column, batch)
            assert column.lowered is not None
            arrays.append(array if column.lowered.down is None else column.lowered.down(array))
        try:
            return _serialize(pa.RecordBatch.from_arrays(arrays, names=self._names), self._text)
        except _RustError:
            rows = [_Rows(self._schema, column, self._sort_maps).encode(batch) for column in self._columns]
            return pc.binary_join_element_wise(*rows, b"")


class _RustError(Exception):
    """The Rust library failed or panicked."""


def _call_rust(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic is a BaseException, which no caller would expect
        raise _RustError(str(error)) from error


def _serialize(batch: pa.RecordBatch, schema_json: str) -> pa.Array:
    """The rows of a batch of lowered columns as Avro bytes."""
    if batch.num_rows == 0:
        return pa.array([], pa.binary())
    return _call_rust(pyruhvro.serialize_record_batch, batch, schema_json, 1)[0]


class ColumnDecoder:
    """Decodes Avro values into Arrow record batches. Immutable, safe to share between threads.

    Args:
        schema_json: The Avro schema; a type that is no record becomes the one column `value`.

    Raises:
        InvalidRequest: Not an Avro schema, or a type that no column can hold.
    """

    def __init__(self, schema_json: str) -> None:
        self.arrow_schema = arrow_schema_from_avro(schema_json)
        self._codec = Codec(schema_json)
        schema = self._codec.schema
        root = schema.resolve(schema.root)
        self._is_record = isinstance(root, Record)
        self._fields = root.fields if isinstance(root, Record) else (Field(VALUE_COLUMN, schema.root),)
        self._converts = [to_columns(schema, field.type) for field in self._fields]
        lowered = [lower(schema, field.type) for field in self._fields]
        self._lowered = [item for item in lowered if item is not None]
        self._fast = bool(lowered) and len(self._lowered) == len(lowered)
        documents = [{"name": f"f{i}", "type": item.document} for i, item in enumerate(self._lowered)]
        self._text = json.dumps({"type": "record", "name": _WRAPPED, "fields": documents})

    def decode(self, values: Sequence[bytes] | pa.Array) -> pa.RecordBatch:
        """The values as rows of `arrow_schema`, in their order.

        Raises:
            Corrupt: One of them is not a value of the schema.
        """
        data = values.to_pylist() if isinstance(values, pa.Array) else list(values)
        if self._fast and data:
            batch = self._decode_fast(data)
            if batch is not None:
                return batch
        return self._decode_rows(data)

    def _decode_fast(self, data: list[bytes]) -> pa.RecordBatch | None:
        """None where anything is odd: then the codec reads the rows, and says what is wrong with which."""
        try:
            lowered = _call_rust(pyruhvro.deserialize_array, data, self._text)
            # What is written back is what was read, or the reader has passed over something: bytes after the end, or a
            # number cut to 32 bits.
            if not _serialize(lowered, self._text).equals(pa.array(data, pa.binary())):
                return None
            columns = [array if item.up is None else item.up(array) for item, array in zip(self._lowered, lowered.columns, strict=True)]
            batch = pa.RecordBatch.from_arrays(
                [c.cast(f.type) for c, f in zip(columns, self.arrow_schema, strict=True)], schema=self.arrow_schema
            )
            batch.validate(full=True)
        except (_RustError, Unraisable, WrongValues, pa.ArrowInvalid):
            return None
        return batch

    def _decode_rows(self, data: list[bytes]) -> pa.RecordBatch:
        rows = [self._codec.decode(value) for value in data]
        if not self._fields:  # a batch without columns takes its length from a struct without members
            return pa.RecordBatch.from_struct_array(pa.array(rows, pa.struct([])))
        arrays = []
        for field, convert, target in zip(self._fields, self._converts, self.arrow_schema, strict=True):
            values = [row[field.name] for row in rows] if self._is_record else rows
            arrays.append(pa.array(values if convert is None else [convert(value) for value in values], target.type))
        return pa.RecordBatch.from_arrays(arrays, schema=self.arrow_schema)
