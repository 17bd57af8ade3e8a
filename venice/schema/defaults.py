"""A field's default: from the JSON of the schema to the bytes a writer would have written."""

from __future__ import annotations

import math
import struct
from typing import Any

from venice.errors import InvalidRequest
from venice.schema.types import Array, EnumType, Field, Fixed, MapType, Primitive, Record, Schema, Type, Union, describe
from venice.schema.varint import encode_long

VALUES_MAX = 10_000
"""Most values inside one default: records with defaults inside records with defaults multiply."""

_INTEGER_BITS = {"int": 31, "long": 63}


class _Unfit(Exception):
    """The JSON value is no value of the type."""


def check_defaults(schema: Schema) -> None:
    """Refuse a schema with a default its own field could not hold.

    Raises:
        InvalidRequest: Naming record, field and default.
    """
    for named in schema.names.values():
        if isinstance(named, Record):
            for field in named.fields:
                if field.default is not None:
                    default_bytes(schema, named, field)


def default_bytes(schema: Schema, record: Record, field: Field) -> bytes:
    """The field's default as Avro bytes of the field's type (`field.default` must be there).

    Raises:
        InvalidRequest: The default is no value of the field's type.
    """
    assert field.default is not None
    try:
        return _Walk(schema).encode(field.type, field.default.json)
    except (_Unfit, RecursionError) as error:
        raise InvalidRequest(
            f"not an Avro schema: {record.name}.{field.name}: default {field.default.json!r} is not a value of {describe(field.type)}",
            hint="correct the default, or the field's type",
            place=f"{record.name}.{field.name}",
        ) from error


class _Walk:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._left = VALUES_MAX

    def encode(self, node: Type, value: Any) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise _Unfit
        node = self._schema.resolve(node)
        match node:
            case Primitive(kind):
                return _primitive(kind, value)
            case Fixed(_, size):
                data = _latin(value)
                if len(data) != size:
                    raise _Unfit
                return data
            case EnumType(_, symbols):
                if value not in symbols:
                    raise _Unfit
                return encode_long(symbols.index(value))
            case Array(items):
                if not isinstance(value, list):
                    raise _Unfit
                return _block([self.encode(items, item) for item in value])
            case MapType(values):
                if not isinstance(value, dict):
                    raise _Unfit
                return _block([_primitive("string", key) + self.encode(values, item) for key, item in value.items()])
            case Union(branches):
                return self._union(branches, value)
            case Record(_, fields):
                if not isinstance(value, dict) or value.keys() - {field.name for field in fields}:
                    raise _Unfit
                return b"".join(self._member(field, value) for field in fields)

    def _member(self, field: Field, values: dict[str, Any]) -> bytes:
        if field.name in values:
            return self.encode(field.type, values[field.name])
        if field.default is None:
            raise _Unfit
        return self.encode(field.type, field.default.json)

    def _union(self, branches: tuple[Type, ...], value: Any) -> bytes:
        # The first branch that holds the value: older versions of the specification allow only the first branch, newer any.
        for index, branch in enumerate(branches):
            try:
                return encode_long(index) + self.encode(branch, value)
            except _Unfit:
                continue
        raise _Unfit


def _primitive(kind: str, value: Any) -> bytes:
    if kind in _INTEGER_BITS:
        if type(value) is not int or not -1 << _INTEGER_BITS[kind] <= value < 1 << _INTEGER_BITS[kind]:
            raise _Unfit
        return encode_long(value)
    if kind in ("float", "double"):
        return _floating(kind, value)
    if kind == "null" and value is None:
        return b""
    if kind == "boolean" and type(value) is bool:
        return b"\x01" if value else b"\x00"
    if kind == "bytes":
        data = _latin(value)
        return encode_long(len(data)) + data
    if kind == "string" and type(value) is str:
        data = _utf8(value)
        return encode_long(len(data)) + data
    raise _Unfit


def _floating(kind: str, value: Any) -> bytes:
    try:
        number = float(value) if type(value) in (int, float) else math.nan
        if not math.isfinite(number):
            raise _Unfit
        return struct.pack("<f" if kind == "float" else "<d", number)
    except OverflowError as error:
        raise _Unfit from error


def _latin(value: Any) -> bytes:
    """Bytes stand in schema JSON as a string whose characters are the bytes."""
    if type(value) is not str:
        raise _Unfit
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise _Unfit from error


def _utf8(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise _Unfit from error


def _block(items: list[bytes]) -> bytes:
    return encode_long(len(items)) + b"".join(items) + b"\x00" if items else b"\x00"
