"""Keys and values as JSON, wherever JSON is taken or given: HTTP, the command line, input files of a push.

Avro types that JSON lacks are strings: bytes and fixed are base64, decimals are digits, times are ISO 8601, a float that is
no number is "NaN", "Infinity" or "-Infinity". The value of a union is that of its first branch that takes it. Pure functions.
"""

from __future__ import annotations

import datetime as dt
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from decimal import Decimal, DecimalException
from typing import Any
from uuid import UUID

from venice.errors import InvalidRequest
from venice.schema.types import Array, EnumType, Fixed, MapType, Primitive, Record, Schema, Type, Union, describe


def to_json(value: Any) -> Any:
    """A decoded Avro value as JSON has it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _NOT_FINITE[str(value)]
        case bytes():
            return b64encode(value).decode()
        case Mapping():
            return {name: to_json(member) for name, member in value.items()}
        case Decimal():
            return format(value, "f")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case UUID():
            return str(value)
        case _:
            return [to_json(item) for item in value]


DOUBLE_DIGITS = 15
"""So many digits of a number come through a double as they were."""
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def from_json(schema: Schema, node: Type, value: Any) -> Any:
    """The value that `to_json` made `value` of, as far as its type can tell; the codec has the last word.

    Raises:
        InvalidRequest: It cannot be one of type `node`.
    """
    node = schema.resolve(node)
    try:
        match node:
            case Primitive(kind, logical):
                return _TIMES[logical.name](value) if logical and logical.name in _TIMES else _primitive(kind, value)
            case Fixed(logical=logical):
                return _decimal(value) if logical else b64decode(_expect(value, str), validate=True)
            case EnumType():
                return _expect(value, str)
            case Array(items):
                return [from_json(schema, items, item) for item in _expect(value, list)]
            case MapType(values):
                return {name: from_json(schema, values, member) for name, member in _expect(value, dict).items()}
            case Record(_, fields):
                members = _expect(value, dict)
                kinds = {field.name: field.type for field in fields}
                return {name: from_json(schema, kinds[name], member) for name, member in members.items()}
            case Union(branches):
                return _branch(schema, branches, value)
    except (ValueError, TypeError, KeyError, DecimalException, OverflowError, RecursionError) as error:
        text = repr(value)[:80]
        raise InvalidRequest(f"{text} is not {describe(node)} in JSON", hint="docs/formats/wire.md lists how types look in JSON") from error


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise TypeError
    return value


def _primitive(kind: str, value: Any) -> Any:
    match kind:
        case "bytes":
            return b64decode(_expect(value, str), validate=True)
        case "float" | "double":
            return float(value) if value in _NOT_FINITE.values() or type(value) is int else _expect(value, float)
        case "null":
            return _expect(value, type(None))
        case _:
            return _expect(value, {"string": str, "boolean": bool}.get(kind, int))


def _branch(schema: Schema, branches: tuple[Type, ...], value: Any) -> Any:
    rounded = None
    for branch in branches:
        try:
            found = from_json(schema, branch, value)
        except InvalidRequest:
            continue
        if type(value) is not int or type(found) is not float or int(found) == value:
            return found
        rounded = found if rounded is None else rounded  # A later branch may hold all its digits.
    if rounded is None:
        raise ValueError
    return rounded


def _decimal(value: Any) -> Decimal:
    if type(value) is not float:
        return Decimal(value if type(value) is int else _expect(value, str))
    number = Decimal(repr(value))
    if len(number.normalize().as_tuple().digits) > DOUBLE_DIGITS:
        raise ValueError("it may have been rounded")
    return number


_TIMES: dict[str, Callable[[Any], Any]] = {
    "date": lambda value: dt.date.fromisoformat(_expect(value, str)),
    "time-millis": lambda value: dt.time.fromisoformat(_expect(value, str)),
    "time-micros": lambda value: dt.time.fromisoformat(_expect(value, str)),
    "timestamp-millis": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "timestamp-micros": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "local-timestamp-millis": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "local-timestamp-micros": lambda value: dt.datetime.fromisoformat(_expect(value, str)),
    "decimal": _decimal,
    "uuid": lambda value: UUID(_expect(value, str)),
}
