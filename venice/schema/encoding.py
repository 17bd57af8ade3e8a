"""What Python value each Avro type takes, and the bytes it becomes: the definition, by walking the schema.

| Avro | Python |
|---|---|
| null, boolean, string | `None`, `bool`, `str` |
| int, long | `int` (or anything with `__index__`) in range; never `bool` |
| float, double | `float`, or an integer it holds exactly; a float is rounded to 32 bits, but never to infinity |
| bytes, fixed | `bytes`, `bytearray`, `memoryview` |
| enum | `str`, one of the symbols |
| array | `list`, `tuple`, `array.array`, one-dimensional NumPy array |
| map, record | any `Mapping`; a missing field takes its default, an unknown one is refused |
| union | the branch that holds the value best, or `(branch name, value)` |

and `venice/schema/logical.py` for logical types. `fast_encoding.py` generates code that writes the same bytes for the
ordinary Python classes and hands everything else to this module, which also finds the words for what is wrong.
"""

from __future__ import annotations

import array
import reprlib
import struct
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final, NoReturn

from venice.errors import InvalidRequest
from venice.schema.defaults import default_bytes
from venice.schema.logical import to_avro
from venice.schema.types import (
    ZERO_WIDTH_ITEMS_MAX,
    Array,
    EnumType,
    Field,
    Fixed,
    Logical,
    MapType,
    Primitive,
    Record,
    Schema,
    Type,
    Union,
    describe,
    is_zero_width,
    short_name,
    union_tag,
)
from venice.schema.varint import encode_int, encode_long

FLOAT_INTEGER_MAX: Final = 1 << 24
"""Beyond it a 32-bit float skips integers."""
DOUBLE_INTEGER_MAX: Final = 1 << 53
"""Beyond it a 64-bit float skips integers."""
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class Unfit(Exception):
    """A value does not fit its type; `path` grows from the inside out while the exception rises."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""


def encode(schema: Schema, value: Any, *, sort_maps: bool = False) -> bytes:
    """The Avro bytes of `value`.

    Args:
        sort_maps: Write the entries of maps by key, so that equal values have equal bytes.

    Raises:
        InvalidRequest: The value does not fit; the message names the path within it.
    """
    try:
        return _Walk(schema, sort_maps=sort_maps).encode(schema.root, value)
    except Unfit as error:
        where = f" at {error.path.lstrip('.')}" if error.path else ""
        raise InvalidRequest(
            f"value does not fit {describe(schema.root)}{where}: {error.reason}",
            hint="correct the value, or register a schema that takes it",
            path=error.path.lstrip("."),
            reason=error.reason,
        ) from error
    except RecursionError as error:
        raise InvalidRequest(f"value of {describe(schema.root)} is nested too deeply", hint="flatten the value") from error
    except Exception as error:  # whatever the methods of a foreign class raise
        raise InvalidRequest(
            f"value of {describe(schema.root)} cannot be looked at: {type(error).__name__}: {error}",
            hint="pass plain Python values: dict, list, str, int, float, bytes",
        ) from error


def choose_branch(schema: Schema, union: Union, value: Any) -> tuple[int, Any]:
    """(index, value without its branch name) of the branch that holds `value` best.

    Raises:
        Unfit: None holds it.
    """
    return _Walk(schema, sort_maps=False).choose(union, value)


def _reject(node: Type, value: Any, reason: str = "") -> NoReturn:
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits, which Python refuses to print
        text = ""
    raise Unfit(f"expected {describe(node)}, got {type(value).__name__} {text}".rstrip() + (f": {reason}" if reason else ""))


class _Walk:
    def __init__(self, schema: Schema, *, sort_maps: bool) -> None:
        self._schema = schema
        self._sort_maps = sort_maps

    def encode(self, node: Type, value: Any) -> bytes:
        node = self._schema.resolve(node)
        match node:
            case Primitive(kind, logical):
                return _primitive(node, kind, value if logical is None else _to_avro(node, value))
            case Fixed(_, size, _, logical):
                data = _bytes(node, value if logical is None else _to_avro(node, value, size))
                return data if len(data) == size else _reject(node, value, f"it has {len(data)} bytes")
            case EnumType(_, symbols):
                if not isinstance(value, str) or value not in symbols:
                    _reject(node, value, f"the symbols are {', '.join(symbols)}"[:200])
                return encode_long(symbols.index(value))
            case Array(items):
                return self._array(node, items, value)
            case MapType(values):
                return self._map(node, values, value)
            case Union():
                index, value = self.choose(node, value)
                return encode_long(index) + self.encode(node.branches[index], value)
            case Record(_, fields):
                return self._record(node, fields, value)

    def _array(self, node: Array, items: Type, value: Any) -> bytes:
        values = sequence(value)
        if values is None:
            _reject(node, value)
        if len(values) > ZERO_WIDTH_ITEMS_MAX and is_zero_width(self._schema, items):
            _reject(node, value, f"an array whose items take no bytes has at most {ZERO_WIDTH_ITEMS_MAX}")
        parts = []
        for index, item in enumerate(values):
            try:
                parts.append(self.encode(items, item))
            except Unfit as error:
                error.path = f"[{index}]{error.path}"
                raise
        return encode_long(len(parts)) + b"".join(parts) + b"\x00" if parts else b"\x00"

    def _map(self, node: MapType, values: Type, value: Any) -> bytes:
        if not isinstance(value, Mapping):
            _reject(node, value)
        parts = []
        entries = list(value.items())
        for key, _ in entries:
            if not isinstance(key, str):
                _reject(node, value, f"its key {key!r} is no text")
        for key, item in sorted(entries, key=itemgetter(0)) if self._sort_maps else entries:
            try:
                parts.append(_primitive(_STRING, "string", key) + self.encode(values, item))
            except Unfit as error:
                error.path = f"[{key!r}]{error.path}"
                raise
        return encode_long(len(parts)) + b"".join(parts) + b"\x00" if parts else b"\x00"

    def _record(self, node: Record, fields: tuple[Field, ...], value: Any) -> bytes:
        if not isinstance(value, Mapping):
            _reject(node, value)
        unknown = [key for key in value if key not in {field.name for field in fields}]
        if unknown:
            raise Unfit(f"{describe(node)} has no field {', '.join(map(repr, unknown[:5]))}")
        parts = []
        for field in fields:
            try:
                if field.name in value:
                    parts.append(self.encode(field.type, value[field.name]))
                elif field.default is not None:
                    parts.append(default_bytes(self._schema, node, field))
                else:
                    raise Unfit(f"missing, and {describe(node)} gives it no default")
            except Unfit as error:
                error.path = f".{field.name}{error.path}"
                raise
        return b"".join(parts)

    def choose(self, union: Union, value: Any) -> tuple[int, Any]:
        """(index, value) of the branch that holds the value best; the first of equals."""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            for index, branch in enumerate(union.branches):
                if value[0] in (union_tag(branch), short_name(union_tag(branch))):
                    return index, value[1]
        best: tuple[int, int] | None = None
        problems: list[Unfit] = []
        for index, branch in enumerate(union.branches):
            try:
                self.encode(branch, value)
            except Unfit as error:
                problems.append(error)
                continue
            rank = self._rank(branch, value)
            if best is None or rank < best[0]:
                best = (rank, index)
        if best is None:
            if len(union.branches) == 2 and Primitive("null") in union.branches and value is not None:
                raise problems[1 - union.branches.index(Primitive("null"))]
            _reject(union, value)
        return best[1], value

    def _rank(self, branch: Type, value: Any) -> int:
        """The worst of what is inside; `value` is known to fit."""
        branch = self._schema.resolve(branch)
        match branch:
            case Record(_, fields):
                inner = [self._rank(field.type, value[field.name]) for field in fields if field.name in value]
                return max(inner, default=0) + 3 * (len(fields) - len(value))
            case Array(items):
                return max((self._rank(items, item) for item in sequence(value) or ()), default=0)
            case MapType(values):
                return max((self._rank(values, item) for item in value.values()), default=0)
            case Union():
                index, value = self.choose(branch, value)
                return self._rank(branch.branches[index], value)
        return class_rank(branch, type(value))


def class_rank(branch: Type, kind: type) -> int:
    """How far a branch (no record) is from the values of a class; 0 = reading back gives the value itself."""
    match branch:
        case Primitive("float"):
            return 1 if issubclass(kind, float) else 2
        case Primitive("double"):
            return 0 if issubclass(kind, float) else 2
        case Primitive(_, Logical()) | Fixed(_, _, _, Logical()):
            return 1 if issubclass(kind, (int, str)) else 0
    return 0


_STRING = Primitive("string")


def _to_avro(node: Primitive | Fixed, value: Any, size: int | None = None) -> Any:
    assert node.logical is not None
    try:
        return to_avro(node.logical, value, size)
    except TypeError:
        _reject(node, value)
    except (ValueError, OverflowError) as error:
        _reject(node, value, str(error))


def _primitive(node: Primitive, kind: str, value: Any) -> bytes:
    match kind:
        case "null":
            return b"" if value is None else _reject(node, value)
        case "boolean":
            return (b"\x01" if value else b"\x00") if isinstance(value, bool) else _reject(node, value)
        case "int" | "long":
            return _integer(node, kind, value)
        case "float":
            return _float(node, floating(value, FLOAT_INTEGER_MAX), value)
        case "double":
            number = floating(value, DOUBLE_INTEGER_MAX)
            return _reject(node, value) if number is None else struct.pack("<d", number)
        case "bytes":
            data = _bytes(node, value)
            return encode_long(len(data)) + data
        case _:
            if not isinstance(value, str):
                _reject(node, value)
            try:
                data = value.encode()
            except UnicodeEncodeError as error:
                _reject(node, value, error.reason)
            return encode_long(len(data)) + data


def _integer(node: Type, kind: str, value: Any) -> bytes:
    number = integer(value)
    if number is None:
        _reject(node, value)
    try:
        return encode_int(number) if kind == "int" else encode_long(number)
    except OverflowError as error:
        _reject(node, value, str(error))


def _float(node: Type, number: float | None, value: Any) -> bytes:
    if number is None:
        _reject(node, value)
    try:
        return struct.pack("<f", number)
    except OverflowError:
        _reject(node, value, "beyond the range of 32 bits")


def _bytes(node: Type, value: Any) -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else _reject(node, value)


def integer(value: Any) -> int | None:
    """`value` as an `int` if it is an integer of any class but `bool`."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:  # a NumPy array of many numbers has the method too
        return None


def floating(value: Any, integer_max: int) -> float | None:
    """`value` as a `float` if it is one of any width, or an integer of at most `integer_max`."""
    if isinstance(value, float):
        return float(value)
    number = integer(value)
    if number is not None:
        return float(number) if -integer_max <= number <= integer_max else None
    # NumPy's narrow floats are not Python floats; text and decimals convert as well but are no floats.
    return float(value) if getattr(getattr(value, "dtype", None), "kind", "") == "f" and getattr(value, "ndim", 1) == 0 else None


def sequence(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """`value` as a list or tuple if it is an array of any class; text and bytes are none."""
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, array.array) or getattr(value, "ndim", 0) == 1:
        return list(value.tolist())
    return None
