"""Arrow columns ⇄ Avro bytes, a batch at a time.

Write path: read → **encode** → partition → sort → seal. Export and SQL: scan → **decode** → Arrow.

Columns whose types can be lowered (`arrow_lowering.py`) are written together by a Rust encoder, long lists of floats by
NumPy, and others by the codec, row by row; then the parts of each row are joined. The bytes are the codec's in every case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from venice.errors import InvalidRequest
from venice.schema.arrow_buffers import binary_scalar
from venice.schema.arrow_casting import WrongValues, normalize
from venice.schema.arrow_lowering import Unraisable, constant_columns, list_bytes, lower
from venice.schema.arrow_rows import from_columns, to_columns
from venice.schema.arrow_rust import RustError, deserialize, record_text, serialize
from venice.schema.arrow_types import arrow_schema_from_avro
from venice.schema.codec import Codec
from venice.schema.column_match import Column, as_record, match_columns, refusal
from venice.schema.defaults import default_bytes
from venice.schema.fast_encoding import generate_encoder
from venice.schema.types import Array, Fixed, Primitive, Record, Schema

CHUNK_BYTES_MAX: Final = 128 << 20
"""Most Arrow bytes encoded at once: an offset has 31 bits, and a bit in Arrow can be a byte in Avro."""
_OFFSET_MAX: Final = (1 << 31) - 1
_NOTHING: Final = binary_scalar(b"")


class ColumnEncoder:
    """Encodes the rows of Arrow record batches. Immutable, safe to share between threads.

    Args:
        schema_json: The Avro schema. A record takes its fields from the columns of the same names; any other type takes
            the only column, whatever its name.
        arrow_schema: Names and types of the batches' columns. A field with a default may lack its column.
        key: The bytes are keys: maps are written by key, so that equal keys are equal bytes.
        prefix: Bytes to begin every value with.

    Raises:
        InvalidRequest: A column is missing, left over, or of a type that cannot feed its field; it is named with both types.
    """

    def __init__(self, schema_json: str, arrow_schema: pa.Schema, *, key: bool = False, prefix: bytes = b"") -> None:
        self._schema = schema = Codec(schema_json).schema
        self._arrow_schema = arrow_schema
        self._prefix = prefix
        self._columns = match_columns(schema, arrow_schema, sort_maps=key)
        record = as_record(schema)
        self._encode_rows: dict[str, Callable[[pa.RecordBatch], pa.Array]] = {
            column.name: _Default(default_bytes(schema, record, column.field)).encode
            if column.position is None
            else _Rows(schema, column, sort_maps=key).encode
            for column in self._columns
        }

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

    def _encode(self, batch: pa.RecordBatch) -> pa.Array:
        try:
            parts = self._encode_columns(batch)
        except RustError:
            parts = [binary_scalar(self._prefix), *(encode(batch) for encode in self._encode_rows.values())]
        if not any(isinstance(part, pa.Array) for part in parts):
            return pa.repeat(binary_scalar(self._prefix), batch.num_rows)
        return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, _NOTHING)

    def _encode_columns(self, batch: pa.RecordBatch) -> list[Any]:
        """The parts of the values in order; each is an array with a part of every row, or a scalar for all."""
        group = _Group(self._prefix, batch.num_rows)
        parts = group.parts
        for column in self._columns:
            if column.lowered is None:
                group.close()
                parts.append(self._encode_alone(column, batch))
                continue
            array = normal_column(self._schema, column, batch)
            node = self._schema.resolve(column.field.type)
            long_lists = list_bytes(array) if isinstance(node, Array) and isinstance(node.items, Primitive) else None
            if long_lists is not None:
                group.close()
                parts.append(long_lists)
            else:
                group.add(column.lowered.document, array if column.lowered.down is None else column.lowered.down(array))
        group.close()
        return parts

    def _encode_alone(self, column: Column, batch: pa.RecordBatch) -> pa.Array:
        node = self._schema.resolve(column.field.type)
        if column.position is not None and isinstance(node, Fixed) and node.logical is None and node.size:
            return normal_column(self._schema, column, batch).cast(pa.binary())
        return self._encode_rows[column.name](batch)


class _Group:
    """Columns next to one another that are lowered, encoded at once as a record: its bytes are theirs, one after the other."""

    def __init__(self, prefix: bytes, rows: int) -> None:
        self.parts: list[Any] = []
        constants = constant_columns(prefix, rows)
        if constants is None:
            self.parts.append(binary_scalar(prefix))
        self._members: list[tuple[Any, pa.Array]] = constants or []

    def add(self, document: Any, array: pa.Array) -> None:
        self._members.append((document, array))

    def close(self) -> None:
        """Encode what was added since the last time."""
        if self._members:
            self.parts.append(serialize([array for _, array in self._members], record_text([document for document, _ in self._members])))
        self._members = []


def normal_column(schema: Schema, column: Column, batch: pa.RecordBatch) -> pa.Array:
    """The column of a field, checked and cast to the Arrow type of the field, if its type allows."""
    assert column.position is not None
    array = batch.column(column.position)
    if not column.normalized:
        return array
    try:
        return normalize(schema, column.field.type, array)
    except WrongValues as error:
        raise refusal(column.name, error) from error


class _Default:
    """A field without a column."""

    def __init__(self, data: bytes) -> None:
        self._data = binary_scalar(data)

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        return pa.repeat(self._data, batch.num_rows)


class _Rows:
    """A column through the codec, value by value."""

    def __init__(self, schema: Schema, column: Column, *, sort_maps: bool) -> None:
        self._schema = schema
        self._column = column
        self._convert = from_columns(schema, column.field.type)
        self._encode = generate_encoder(Schema(column.field.type, schema.names), sort_maps=sort_maps)

    def encode(self, batch: pa.RecordBatch) -> pa.Array:
        values = normal_column(self._schema, self._column, batch).to_pylist(maps_as_pydicts="strict")
        out = []
        for row, value in enumerate(values):
            try:
                out.append(self._encode(value if self._convert is None else self._convert(value)))
            except InvalidRequest as error:
                wrong = WrongValues(error.data.get("reason", error.message), np.array([row]))
                path = error.data.get("path", "")
                wrong.path = path if path.startswith("[") or not path else f".{path}"
                raise refusal(self._column.name, wrong) from error
        return pa.array(out, pa.binary())


def _split(batch: pa.RecordBatch) -> list[pa.RecordBatch]:
    if batch.nbytes <= CHUNK_BYTES_MAX or batch.num_rows <= 1:
        return [batch]
    rows = max(batch.num_rows * CHUNK_BYTES_MAX // (2 * batch.nbytes), 1)
    chunks = [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)]
    return [part for chunk in chunks for part in (_split(chunk) if chunk.num_rows < batch.num_rows else [chunk])]


def _data_bytes(array: pa.Array) -> int:
    return int(pc.sum(pc.binary_length(array)).as_py() or 0)


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
        self._is_record = isinstance(schema.resolve(schema.root), Record)
        self._fields = as_record(schema).fields
        self._converts = [to_columns(schema, field.type) for field in self._fields]
        lowered = [lower(schema, field.type) for field in self._fields]
        self._lowered = [item for item in lowered if item is not None]
        self._fast = bool(lowered) and len(self._lowered) == len(lowered)
        self._text = record_text([item.document for item in self._lowered])

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
            lowered = deserialize(data, self._text)
            # What is written back is what was read, or the reader has passed over something: bytes after the end, or a
            # number cut to 32 bits.
            if not serialize(lowered, self._text).equals(pa.array(data, pa.binary())):
                return None
            raised = [array if item.up is None else item.up(array) for item, array in zip(self._lowered, lowered, strict=True)]
            columns = [array.cast(field.type) for array, field in zip(raised, self.arrow_schema, strict=True)]
            batch = pa.RecordBatch.from_arrays(columns, schema=self.arrow_schema)
            batch.validate(full=True)
        except (RustError, Unraisable, WrongValues, pa.ArrowInvalid):
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
