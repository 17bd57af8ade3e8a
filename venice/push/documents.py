"""Cells of JSON files that DuckDB would not read as they are meant: bytes, which JSON has as base64, and values of one of several types.

Write path: **read** → encode → partition → sort → seal. Such columns are read as JSON text, and each value as HTTP takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from venice.errors import InvalidRequest
from venice.schema.arrow_rows import to_columns
from venice.schema.arrow_types import arrow_type, only_branch
from venice.schema.encoding import Unfit
from venice.schema.json_values import from_json
from venice.schema.types import Array, Fixed, MapType, Primitive, Record, Schema, Type, Union


def is_read_as_text(schema: Schema, node: Type) -> bool:
    """Whether a column of this type is read as JSON text: one with bytes or unions of several types in it."""
    try:
        arrow_type(schema, node)
    except InvalidRequest:
        return False  # A type within itself, or of more digits than a column holds.
    return _has_such(schema, node)


def _has_such(schema: Schema, node: Type) -> bool:
    node = schema.resolve(node)
    match node:
        case Primitive(kind, logical):
            return kind == "bytes" and logical is None
        case Fixed(logical=logical):
            return logical is None
        case Array(inner) | MapType(inner):
            return _has_such(schema, inner)
        case Record(_, fields):
            return any(_has_such(schema, field.type) for field in fields)
        case Union():
            only = only_branch(node)
            return only is None or _has_such(schema, only)
    return False


class Cells:
    """Columns of JSON text → columns of `type`."""

    def __init__(self, schema: Schema, node: Type) -> None:
        self.type = arrow_type(schema, node)
        self._schema = schema
        self._node = node
        self._convert: Callable[[Any], Any] = to_columns(schema, node) or (lambda value: value)

    def read(self, name: str, texts: pa.Array) -> pa.Array:
        """Raises InvalidRequest, naming the column and the row of a value that is none."""
        values = [None if text is None else self._value(name, row, text) for row, text in enumerate(texts.to_pylist())]
        try:
            return pa.array(values, self.type)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            row, reason = self._first_wrong(values)
            raise _refusal(name, row, reason) from None

    def _value(self, name: str, row: int, text: str) -> Any:
        try:
            return self._convert(from_json(self._schema, self._node, json.loads(text)))
        except (InvalidRequest, Unfit) as error:
            raise _refusal(name, row, error.message if isinstance(error, InvalidRequest) else error.reason) from error

    def _first_wrong(self, values: list[Any]) -> tuple[int, str]:
        for row, value in enumerate(values):
            try:
                pa.array([value], self.type)
            except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
                return row, str(error)
        raise AssertionError("what fails together fails alone")


def _refusal(name: str, row: int, reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"column {name!r} does not fit its field in row {row}: {reason}",
        hint="correct or drop that row; docs/formats/wire.md lists how types look in JSON", column=name, row=row,
    )  # fmt: skip
