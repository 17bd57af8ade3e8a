"""Arrow columns as they come → columns of exactly the Arrow type of an Avro type, with nothing changed in silence.

`check_type` looks at types once; `normalize` looks at the values of a batch: nulls, ranges, precision, symbols. Both say
where: the path within the column, and for values the rows.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as at

from venice.errors import InvalidRequest
from venice.schema.arrow_types import arrow_type, is_nullable, is_text, only_branch
from venice.schema.logical import DAY_MILLIS, DAYS_MAX, DAYS_MIN, MICROS_MAX, MICROS_MIN
from venice.schema.types import Array, EnumType, Fixed, Logical, MapType, Primitive, Record, Schema, Type, Union, describe

_UUID: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


class WrongType(Exception):
    """A column's type can never feed the Avro type; `path` is the part of the column."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(path, expected, found)
        self.path = path
        self.expected = expected
        self.found = found


class WrongValues(Exception):
    """Some values do not fit; `rows` are their rows, ascending, and the path grows from the inside out."""

    def __init__(self, reason: str, rows: np.ndarray[Any, Any]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = rows
        self.path = ""


def _is_binary(kind: pa.DataType) -> bool:
    return bool(at.is_binary(kind) or at.is_large_binary(kind) or at.is_binary_view(kind) or at.is_fixed_size_binary(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(at.is_integer(kind) or at.is_floating(kind) or at.is_decimal(kind))


def _is_whole(kind: pa.DataType) -> bool:
    return bool(at.is_integer(kind) or (at.is_decimal(kind) and kind.scale == 0))


def _is_local_timestamp(kind: pa.DataType) -> bool:
    return bool(at.is_timestamp(kind) and kind.tz is None)


_FITS: Final[dict[str, Callable[[pa.DataType], bool]]] = {
    "boolean": at.is_boolean,
    "int": _is_whole,
    "long": _is_whole,
    "float": _is_number,
    "double": _is_number,
    "bytes": _is_binary,
    "string": is_text,
    "null": at.is_null,
    "date": at.is_date,
    "time-millis": at.is_time,
    "time-micros": at.is_time,
    "timestamp-millis": at.is_timestamp,
    "timestamp-micros": at.is_timestamp,
    "local-timestamp-millis": _is_local_timestamp,
    "local-timestamp-micros": _is_local_timestamp,
    "decimal": lambda kind: bool(at.is_integer(kind) or at.is_decimal(kind)),
    "uuid": is_text,
}


def check_type(schema: Schema, node: Type, kind: pa.DataType, path: str = "") -> None:
    """Refuse an Arrow type that cannot feed an Avro type.

    Raises:
        WrongType: Naming the part that does not fit.
    """
    node = schema.resolve(node)
    if at.is_dictionary(kind):
        kind = kind.value_type
    if at.is_null(kind):
        return  # All rows are null; whether they may be is looked at row by row.
    match node:
        case Union():
            only = only_branch(node)
            if only is not None:
                check_type(schema, only, kind, path)
        case Array(items) if at.is_list(kind) or at.is_large_list(kind) or at.is_fixed_size_list(kind):
            check_type(schema, items, kind.value_type, f"{path}[]")
        case MapType(values) if at.is_map(kind) and is_text(kind.key_type):
            check_type(schema, values, kind.item_type, f"{path}{{}}")
        case Record() if at.is_struct(kind):
            _check_struct(schema, node, kind, path)
        case _ if not _fits(node, kind):
            raise WrongType(path, describe(node), str(kind))


def _fits(node: Type, kind: pa.DataType) -> bool:
    match node:
        case Primitive(_, Logical(name)) | Fixed(_, _, _, Logical(name)):
            return _FITS[name](kind)
        case Primitive(name):
            return _FITS[name](kind)
        case Fixed(_, size):
            return _is_binary(kind) and (not at.is_fixed_size_binary(kind) or kind.byte_width == size)
        case EnumType():
            return is_text(kind)
    return False


def _check_struct(schema: Schema, node: Record, kind: pa.DataType, path: str) -> None:
    children = {child.name: child.type for child in kind.fields}
    if len(children) != kind.num_fields:
        raise WrongType(path, describe(node), f"{kind}, in which a field stands twice")
    for field in node.fields:
        if field.name in children:
            check_type(schema, field.type, children.pop(field.name), f"{path}.{field.name}")
        elif field.default is None:
            raise WrongType(f"{path}.{field.name}", describe(field.type), "no such field")
    if children:
        raise WrongType(f"{path}.{next(iter(children))}", f"no such field in {describe(node)}", str(next(iter(children.values()))))


def is_normalizable(schema: Schema, node: Type, kind: pa.DataType) -> bool:
    """Whether `normalize` takes the pair: no type within itself, no union but with null, no struct with a member missing."""
    try:
        arrow_type(schema, node)
    except InvalidRequest:
        return False
    return _is_complete(schema, node, kind)


def _is_complete(schema: Schema, node: Type, kind: pa.DataType) -> bool:
    node = schema.resolve(node)
    match node:
        case Union():
            only = only_branch(node)
            return only is not None and _is_complete(schema, only, kind)
        case Array(inner) | MapType(inner):
            return at.is_null(kind) or _is_complete(schema, inner, kind.item_type if at.is_map(kind) else kind.value_type)
        case Record(_, fields):
            if at.is_null(kind):
                return True
            types = {child.name: child.type for child in kind.fields}
            return all(field.name in types and _is_complete(schema, field.type, types[field.name]) for field in fields)
    return True


def normalize(schema: Schema, node: Type, array: pa.Array, present: pa.Array | None = None) -> pa.Array:
    """The column as `arrow_type(schema, node)`.

    Only for pairs of types that `is_normalizable`.

    Args:
        present: Booleans: rows in which the struct around the column is there; elsewhere nulls do not matter.

    Raises:
        WrongValues: Naming the part and the rows that do not fit.
    """
    nullable = is_nullable(schema, node)
    node = schema.resolve(node)
    if isinstance(node, Union):
        only = only_branch(node)
        assert only is not None
        node = schema.resolve(only)
    if not nullable:
        _check_nulls(array, present)
    if at.is_null(array.type):
        return pa.nulls(len(array), arrow_type(schema, node))
    if at.is_dictionary(array.type):
        array = _cast(array, array.type.value_type)
    match node:
        case Array(items):
            return _list(schema, items, array)
        case MapType(values):
            return _map(schema, values, array)
        case Record():
            return _struct(schema, node, array)
        case _:
            return _scalar(node, arrow_type(schema, node), array)


def _check_nulls(array: pa.Array, present: pa.Array | None) -> None:
    if array.null_count == 0:
        return
    wrong = array.is_null()
    if present is not None:
        wrong = pc.and_(wrong, present)
    _refuse("null, and the field is not nullable", wrong)


def _refuse(reason: str, wrong: pa.Array) -> None:
    """Raise for the rows where `wrong` is true, if there are any."""
    rows = np.flatnonzero(wrong.fill_null(False).to_numpy(zero_copy_only=False))
    if len(rows):
        raise WrongValues(reason, rows)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowInvalid as error:
        raise WrongValues(str(error).split("\n")[0], np.array([_first_failure(array, kind)])) from error


def _first_failure(array: pa.Array, kind: pa.DataType) -> int:
    """The first row whose cast fails, by bisection: Arrow does not tell it."""
    good, bad = 0, len(array)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            array.slice(good, middle - good).cast(kind)
            good = middle
        except pa.ArrowInvalid:
            bad = middle
    return good


def _scalar(node: Type, kind: pa.DataType, array: pa.Array) -> pa.Array:
    match node:
        case Primitive(_, Logical("decimal")) | Fixed(_, _, _, Logical("decimal")):
            # Integers are widened first: their cast asks for room for every integer of their width.
            return _cast(_cast(array, pa.decimal256(76, kind.scale)) if at.is_integer(array.type) else array, kind)
        case Primitive(_, Logical("uuid")):
            return _uuids(_cast(array, kind))
        case Primitive(_, Logical(name)):
            return check_times(name, _cast(array, kind))
        case Primitive("float"):
            return _floats(array, kind)
        case Fixed(_, size) if not at.is_fixed_size_binary(array.type):
            array = _cast(array, pa.binary())
            _refuse(f"not {size} bytes", pc.not_equal(pc.binary_length(array), size))
            return _cast(array, kind)
        case EnumType(_, symbols):
            array = _cast(array, kind)
            known = pc.is_in(array, value_set=pa.array(symbols, pa.string()))
            _refuse(f"not one of the symbols {', '.join(symbols)}"[:200], pc.and_(pc.invert(known), array.is_valid()))
            return array
    return _cast(array, kind)


def _floats(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if array.type == kind:
        return array
    if at.is_decimal(array.type):
        array = _cast(array, pa.float64())
    result = _cast(array, kind)
    if at.is_float64(array.type):
        _refuse("beyond the range of 32 bits", pc.and_(pc.is_inf(result), pc.invert(pc.is_inf(array))))
    return result


def check_times(name: str, array: pa.Array) -> pa.Array:
    """Times the codec can give back: Python has the years 1 to 9999 and days of 24 hours."""
    unit = 1000 if name.endswith("millis") else 1
    low, high = MICROS_MIN // unit, MICROS_MAX // unit
    if name == "date":
        low, high = DAYS_MIN, DAYS_MAX
    elif name.startswith("time-"):
        low, high = 0, DAY_MILLIS * 1000 // unit - 1
    numbers = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
    bounds = pc.min_max(numbers).as_py()
    if bounds["min"] is not None and (bounds["min"] < low or bounds["max"] > high):
        _refuse("outside what a date or time of the years 1 to 9999 can be", pc.or_(pc.less(numbers, low), pc.greater(numbers, high)))
    return array


def _uuids(array: pa.Array) -> pa.Array:
    """UUIDs in their canonical form, in which the codec writes them."""
    odd = pc.and_(pc.invert(pc.match_substring_regex(array, _UUID)), array.is_valid())
    if not pc.any(odd).as_py():
        return array
    values = array.to_pylist()
    for row in np.flatnonzero(odd.to_numpy(zero_copy_only=False)):
        try:
            values[row] = str(uuid.UUID(values[row]))
        except ValueError as error:
            raise WrongValues(str(error), np.array([row])) from error
    return pa.array(values, array.type)


def _list(schema: Schema, items: Type, array: pa.Array) -> pa.Array:
    if not at.is_list(array.type):
        array = _cast(array, pa.list_(array.type.value_type))
    kind = arrow_type(schema, items)
    plain = isinstance(schema.resolve(items), Primitive) and array.type.value_type == kind and array.values.null_count == 0
    if plain and not (at.is_temporal(kind) or getattr(schema.resolve(items), "logical", None)):
        return array
    return map_list(array, "[]", lambda flat: normalize(schema, items, flat))


def _map(schema: Schema, values: Type, array: pa.Array) -> pa.Array:
    return map_entries(array, lambda keys: _cast(keys, pa.string()), lambda flat: normalize(schema, values, flat))


def _struct(schema: Schema, node: Record, array: pa.Array) -> pa.Array:
    valid = array.is_valid() if array.null_count else None
    types = {field.name: field.type for field in node.fields}
    return map_struct(array, [f.name for f in node.fields], lambda name, child: normalize(schema, types[name], child, valid))


def map_list(array: pa.Array, step: str, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A list column with its items converted all at once; rows of `WrongValues` become rows of the column."""
    lengths, flat = _flatten(array)
    with _rows_of_items(step, lengths):
        items = convert(flat)
    return pa.ListArray.from_arrays(_offsets(lengths), items, mask=array.is_null() if array.null_count else None)


def map_entries(array: pa.Array, keys: Callable[[pa.Array], pa.Array], values: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A map column with its keys and its values converted all at once."""
    lengths, flat = _flatten(array)
    # Not `array.keys` and `array.items`: they overlook where a slice of the entries begins.
    flat_keys, flat_values = flat.flatten()
    with _rows_of_items("{}", lengths):
        new_keys, new_values = keys(flat_keys), values(flat_values)
    return pa.MapArray.from_arrays(_offsets(lengths), new_keys, new_values, mask=array.is_null() if array.null_count else None)


def _flatten(array: pa.Array) -> tuple[np.ndarray[Any, Any], pa.Array]:
    """(items in each row, all of them in one array): `Array.flatten`, which Arrow has for lists but not for maps."""
    if not len(array):
        return np.zeros(0, np.int32), array.values.slice(0, 0)
    offsets = np.frombuffer(array.buffers()[1], np.int32, len(array) + 1, 4 * array.offset)
    lengths = np.diff(offsets)
    if array.null_count:
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
    first, count = int(offsets[0]), int(lengths.sum())
    if count == offsets[-1] - first:
        return lengths, array.values.slice(first, count)
    # Null rows with items behind them: only the others' items are taken.
    starts = np.repeat(offsets[:-1] - np.cumsum(lengths) + lengths, lengths)
    return lengths, array.values.take(pa.array(starts + np.arange(count)))


def _offsets(lengths: np.ndarray[Any, Any]) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.array(offsets)


@contextmanager
def _rows_of_items(step: str, lengths: np.ndarray[Any, Any]) -> Iterator[None]:
    try:
        yield
    except WrongValues as error:
        error.path = step + error.path
        error.rows = np.unique(np.repeat(np.arange(len(lengths)), lengths)[error.rows])
        raise


def map_struct(array: pa.Array, names: list[str], convert: Callable[[str, pa.Array], pa.Array]) -> pa.Array:
    """A struct column with the named children, converted, in that order; nulls of the struct stand in its children too."""
    if not names:
        return array  # Arrow counts a struct's rows in its children
    children = dict(zip((field.name for field in array.type.fields), array.flatten(), strict=True))
    converted = []
    for name in names:
        try:
            converted.append(convert(name, children[name]))
        except WrongValues as error:
            error.path = f".{name}{error.path}"
            raise
    fields = [pa.field(name, child.type) for name, child in zip(names, converted, strict=True)]
    return pa.StructArray.from_arrays(converted, fields=fields, mask=array.is_null() if array.null_count else None)
