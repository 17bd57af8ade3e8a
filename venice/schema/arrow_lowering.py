"""Columns of an Avro type → columns of a plainer type with the same Avro bytes, and back.

The Rust encoder (`pyruhvro`) is fast and knows booleans, numbers, text, lists, maps, structs and null; on anything else it
panics. But Avro writes a date as an int, an enum as the int of its symbol, bytes like text, a decimal like bytes: so most
types are lowered to those it knows, at the price of a reinterpreted buffer. What cannot be lowered goes row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from venice.schema.arrow_buffers import number_column
from venice.schema.arrow_casting import check_times, map_entries, map_list, map_struct
from venice.schema.arrow_types import DECIMAL128_PRECISION_MAX, LOGICAL, only_branch
from venice.schema.types import (
    Array,
    EnumType,
    MapType,
    Primitive,
    Record,
    Ref,
    Schema,
    Type,
    Union,
    is_zero_width,
)
from venice.schema.varint import encode_long

Convert = Callable[[pa.Array], pa.Array]

LIST_ITEMS_MIN: Final = 16
"""From here on copying a list is cheaper than visiting its items, although the parts of a row are then joined."""

_PLAIN: Final = frozenset(("boolean", "int", "long", "float", "double", "string"))
_WIDTHS: Final = {"int": pa.int32(), "long": pa.int64()}


class Unraisable(Exception):
    """A lowered column holds what no value of the type is lowered to: the bytes it came from need a closer look."""


class Lowered(NamedTuple):
    """How a type is lowered. `down` takes columns as `arrow_casting.normalize` gives them; None = as they are."""

    document: Any
    """The plainer Avro type, as JSON."""
    down: Convert | None = None
    up: Convert | None = None


def lower(schema: Schema, node: Type) -> Lowered | None:
    """How to lower an Avro type, or None where it cannot be."""
    return _Lowering(schema).lower(node, frozenset())


class _Lowering:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._records = 0

    def lower(self, node: Type, within: frozenset[str]) -> Lowered | None:
        if isinstance(node, Ref) and node.name in within:
            return None
        node = self._schema.resolve(node)
        match node:
            case Primitive(kind, logical):
                return _scalar(kind, logical.name if logical else "", node)
            case EnumType(_, symbols):
                return Lowered("int", lambda array: _indices(symbols, array), lambda array: _symbols(symbols, array))
            case Array(items):
                return None if is_zero_width(self._schema, items) else self._array(items, within)
            case MapType(values):
                return self._map(values, within)
            case Record(name):
                return self._record(node, within | {name})
            case Union():
                return self._union(node, within)
        return None

    def _array(self, items: Type, within: frozenset[str]) -> Lowered | None:
        inner = self.lower(items, within)
        if inner is None:
            return None
        document = {"type": "array", "items": inner.document}
        if inner.down is None or inner.up is None:
            return Lowered(document)
        down, up = inner.down, inner.up
        return Lowered(document, lambda array: map_list(array, "[]", down), lambda array: map_list(array, "[]", up))

    def _map(self, values: Type, within: frozenset[str]) -> Lowered | None:
        inner = self.lower(values, within)
        if inner is None:
            return None
        document = {"type": "map", "values": inner.document}
        if inner.down is None or inner.up is None:
            return Lowered(document)
        down, up = inner.down, inner.up
        return Lowered(document, lambda array: map_entries(array, _same, down), lambda array: map_entries(array, _same, up))

    def _record(self, node: Record, within: frozenset[str]) -> Lowered | None:
        if not node.fields:
            return None
        self._records += 1
        name = f"R{self._records}"
        inners: dict[str, Lowered] = {}
        for field in node.fields:
            inner = self.lower(field.type, within)
            if inner is None:
                return None
            inners[field.name] = inner
        fields = [{"name": field, "type": inner.document} for field, inner in inners.items()]
        document = {"type": "record", "name": name, "fields": fields}
        if all(inner.down is None for inner in inners.values()):
            return Lowered(document)
        names = list(inners)
        return Lowered(
            document,
            lambda array: map_struct(array, names, lambda field, child: (inners[field].down or _same)(child)),
            lambda array: map_struct(array, names, lambda field, child: (inners[field].up or _same)(child)),
        )

    def _union(self, node: Union, within: frozenset[str]) -> Lowered | None:
        only = only_branch(node)
        if only is None or len(node.branches) != 2:
            return None
        inner = self.lower(only, within)
        if inner is None:
            return None
        null_first = node.branches[0] == Primitive("null")
        return inner._replace(document=["null", inner.document] if null_first else [inner.document, "null"])


def _same(array: pa.Array) -> pa.Array:
    return array


def _scalar(kind: str, logical: str, node: Primitive) -> Lowered | None:
    if logical == "decimal":
        assert node.logical is not None
        precision, scale = node.logical.precision, node.logical.scale
        if precision > DECIMAL128_PRECISION_MAX:
            return None
        return Lowered("string", lambda array: as_text(decimal_bytes(array)), lambda array: _decimals(array, precision, scale))
    if kind == "bytes":
        return Lowered("string", as_text, as_binary)
    if logical and kind in _WIDTHS:
        return Lowered(kind, lambda array: array.view(_WIDTHS[kind]), _raise_time(logical))
    return Lowered(kind) if kind in _PLAIN else None


def _raise_time(logical: str) -> Convert:
    kind = LOGICAL[logical]
    return lambda array: check_times(logical, array.view(kind))


def as_text(array: pa.Array) -> pa.Array:
    """Binary read as text without looking at it: Avro writes both alike, and the encoder only copies the bytes."""
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers(), offset=array.offset)


def as_binary(array: pa.Array) -> pa.Array:
    """The reverse of `as_text`."""
    return pa.Array.from_buffers(pa.binary(), len(array), array.buffers(), offset=array.offset)


def _indices(symbols: tuple[str, ...], array: pa.Array) -> pa.Array:
    return pc.index_in(array, value_set=pa.array(symbols, pa.string()))


def _symbols(symbols: tuple[str, ...], array: pa.Array) -> pa.Array:
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is not None and not 0 <= bounds["min"] <= bounds["max"] < len(symbols):
        raise Unraisable
    return pa.array(symbols, pa.string()).take(array)


def list_bytes(array: pa.Array) -> pa.Array | None:
    """Lists of floats or doubles as Avro bytes, if they are long and all of one length, as embeddings are; otherwise None."""
    width = {pa.float32(): 4, pa.float64(): 8}.get(array.type.value_type)
    if width is None or not len(array) or array.null_count:
        return None
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    count = int(offsets[1] - offsets[0])
    if count < LIST_ITEMS_MIN or (np.diff(offsets) != count).any():
        return None
    values = array.values.slice(int(offsets[0]), len(array) * count)
    items = np.frombuffer(values.buffers()[1], np.uint8, len(values) * width, values.offset * width).reshape(len(array), count * width)
    head = np.frombuffer(encode_long(count), np.uint8)
    rows = np.zeros((len(array), len(head) + count * width + 1), np.uint8)
    rows[:, : len(head)] = head
    rows[:, len(head) : -1] = items
    ends = np.arange(len(array) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    return pa.Array.from_buffers(pa.binary(), len(array), [None, pa.py_buffer(ends), pa.py_buffer(rows)])


def constant_columns(data: bytes, rows: int) -> list[tuple[Any, pa.Array]] | None:
    """(lowered type, column) pairs whose Avro bytes are `data` in every row; None where there are none.

    Four bytes are the bits of a float, a byte below 128 is an int.
    """
    whole = len(data) // 4 * 4
    if any(byte > 127 for byte in data[whole:]):
        return None
    floats = [data[start : start + 4] for start in range(0, whole, 4)]
    integers = [(byte >> 1) ^ -(byte & 1) for byte in data[whole:]]
    return [
        *(("float", number_column(np.frombuffer(bits * rows, np.float32))) for bits in floats),
        *(("int", number_column(np.full(rows, value, np.int32))) for value in integers),
    ]


def decimal_bytes(array: pa.Array) -> pa.Array:
    """Decimals (128 bits) as Avro's bytes: big-endian two's complement, as few bytes as fastavro writes."""
    if not len(array):
        return pa.array([], pa.binary())
    words = np.frombuffer(array.buffers()[1], np.uint64, 2 * len(array), 16 * array.offset).reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    negative = high >> np.uint64(63) == 1
    # The magnitude, of which the length is taken: -x = ~x + 1, with a carry into the high word where the low one is 0.
    plus_low = np.where(negative, ~low + np.uint64(1), low)
    plus_high = np.where(negative, ~high + (low == 0), high)
    lengths = np.ones(len(array), np.int64)
    for bits in range(7, 127, 8):
        reached = (plus_high > 0) | (plus_low >> np.uint64(bits) > 0) if bits < 64 else plus_high >> np.uint64(bits - 64) > 0
        lengths += reached
    if array.null_count:
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
    digits = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 16)[:, ::-1]
    data = digits[np.arange(16) >= 16 - lengths[:, None]]
    offsets = np.zeros(len(array) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    mask = pa.array(array.is_valid()).buffers()[1] if array.null_count else None
    return pa.Array.from_buffers(pa.binary(), len(array), [mask, pa.py_buffer(offsets), pa.py_buffer(data)])


def _decimals(array: pa.Array, precision: int, scale: int) -> pa.Array:
    """Avro's bytes (as text) as decimals."""
    if not len(array):
        return pa.array([], pa.decimal128(precision, scale))
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset).astype(np.int64)
    lengths = np.diff(offsets)
    nulls = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else np.zeros(len(array), np.bool_)
    if ((lengths > 16) | ((lengths == 0) & ~nulls)).any():
        raise Unraisable
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    starts = offsets[:-1] - offsets[0]
    negative = np.zeros(len(array), np.bool_)
    filled = lengths > 0
    negative[filled] = data[starts[filled]] >= 128
    digits = np.where(negative[:, None], np.uint8(255), np.uint8(0)).repeat(16, axis=1)
    digits[np.arange(16) >= 16 - lengths[:, None]] = data
    buffer = pa.py_buffer(np.ascontiguousarray(digits[:, ::-1]))
    mask = pa.array(~nulls).buffers()[1] if nulls.any() else None
    result = pa.Array.from_buffers(pa.decimal128(precision, scale), len(array), [mask, buffer])
    try:
        result.validate(full=True)
    except pa.ArrowInvalid as error:
        raise Unraisable from error
    return result
