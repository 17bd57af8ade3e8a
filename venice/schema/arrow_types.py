"""Avro schemas and Arrow types, each derived from the other.

| Avro | Arrow |
|---|---|
| boolean, int, long, float, double, string | bool, int32, int64, float32, float64, string |
| bytes, fixed | binary, fixed_size_binary |
| enum, uuid | string |
| date, time-millis, time-micros | date32, time32(ms), time64(us) |
| timestamp-*, local-timestamp-* | timestamp in UTC, timestamp without a zone |
| decimal | decimal128, beyond 38 digits decimal256 |
| array, map, record | list, map, struct |
| union with null | the other type, nullable |
| any other union | struct of nullable members `member0`, `member1`, … (all null where the value is null) |

A type within itself has no Arrow type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from typing import Any, Final

import pyarrow as pa

from venice.errors import InvalidRequest
from venice.schema.parsing import parse
from venice.schema.types import Array, EnumType, Fixed, Logical, MapType, Primitive, Record, Ref, Schema, Type, Union, describe

DECIMAL128_PRECISION_MAX: Final = 38
DECIMAL256_PRECISION_MAX: Final = 76
VALUE_COLUMN: Final = "value"
"""The one column of a schema that is no record."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRIMITIVES: Final = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
LOGICAL: Final = {
    "date": pa.date32(),
    "time-millis": pa.time32("ms"),
    "time-micros": pa.time64("us"),
    "timestamp-millis": pa.timestamp("ms", tz="UTC"),
    "timestamp-micros": pa.timestamp("us", tz="UTC"),
    "local-timestamp-millis": pa.timestamp("ms"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}


def arrow_schema_from_avro(schema_json: str) -> pa.Schema:
    """The Arrow schema of a record's columns; any other type is one column named `value`.

    Raises:
        InvalidRequest: Not an Avro schema, or one with a type that no column can hold.
    """
    schema = parse(schema_json)
    root = schema.resolve(schema.root)
    fields = [(field.name, field.type) for field in root.fields] if isinstance(root, Record) else [(VALUE_COLUMN, root)]
    return pa.schema([arrow_field(schema, name, node) for name, node in fields])


def arrow_field(schema: Schema, name: str, node: Type, within: frozenset[str] = frozenset()) -> pa.Field:
    """The Arrow field of an Avro field."""
    return pa.field(name, arrow_type(schema, node, within), nullable=is_nullable(schema, node))


def arrow_type(schema: Schema, node: Type, within: frozenset[str] = frozenset()) -> pa.DataType:
    """The Arrow type of an Avro type.

    Raises:
        InvalidRequest: The type holds itself, or is a decimal of more than 76 digits.
    """
    if isinstance(node, Ref) and node.name in within:
        raise InvalidRequest(f"{describe(node)} contains itself, and a column cannot", hint="read such values row by row")
    node = schema.resolve(node)
    match node:
        case Primitive(_, Logical("decimal", precision, scale)) | Fixed(_, _, _, Logical("decimal", precision, scale)):
            if precision > DECIMAL256_PRECISION_MAX:
                raise InvalidRequest(f"a decimal of {precision} digits has no column type", hint="read such values row by row")
            return pa.decimal128(precision, scale) if precision <= DECIMAL128_PRECISION_MAX else pa.decimal256(precision, scale)
        case Primitive(kind, logical):
            return LOGICAL[logical.name] if logical else _PRIMITIVES[kind]
        case Fixed(_, size):
            return pa.binary(size)
        case EnumType():
            return pa.string()
        case Array(items):
            return pa.list_(arrow_field(schema, "item", items, within))
        case MapType(values):
            return pa.map_(pa.string(), arrow_field(schema, "value", values, within))
        case Record(name, fields):
            return pa.struct([arrow_field(schema, field.name, field.type, within | {name}) for field in fields])
        case Union(branches):
            only = only_branch(node)
            if only is not None:
                return arrow_type(schema, only, within)
            members = [branch for branch in branches if branch != Primitive("null")]
            return pa.struct([pa.field(f"member{i}", arrow_type(schema, b, within)) for i, b in enumerate(members)])


def only_branch(node: Union) -> Type | None:
    """The type of a union that is one type, or one type and null; None for any other union."""
    rest = [branch for branch in node.branches if branch != Primitive("null")]
    if not rest:
        return Primitive("null")
    return rest[0] if len(rest) == 1 else None


def is_nullable(schema: Schema, node: Type) -> bool:
    """Whether null is a value of the type."""
    node = schema.resolve(node)
    return node == Primitive("null") or (isinstance(node, Union) and Primitive("null") in node.branches)


def avro_schema_from_arrow(schema: pa.Schema, name: str, *, nullable: Collection[str] | None = None) -> str:
    """The Avro record schema for rows of an Arrow schema, such as that of a query's result.

    A nullable column becomes `["null", type]` with default null; items of lists and values of maps are taken as never null.
    Decimals become `decimal`, timestamps without a zone local ones, and nanoseconds microseconds.

    Args:
        name: Name of the record.
        nullable: Columns that hold nulls. None: those the Arrow schema says may, which for a query is every column.

    Raises:
        InvalidRequest: A column has a name or a type that Avro lacks; the column is named.
    """
    fields = []
    for field in schema:
        may_be_null = field.nullable if nullable is None else field.name in nullable
        fields.append(_avro_field(field, f"{name}_{field.name}", may_be_null, f"column {field.name!r}"))
    document = {"type": "record", "name": name, "fields": fields}
    text = json.dumps(document)
    parse(text)
    return text


def key_and_value_schemas(schema: pa.Schema, name: str, key: Sequence[str], *, nullable: Collection[str] | None = None) -> tuple[str, str]:
    """(key schema, value schema) for rows of which the columns `key` are the key and all others the value.

    One key column gives its bare type, several a record named `<name>Key`. Key columns are never null.

    Raises:
        InvalidRequest: A key column is missing, or as `avro_schema_from_arrow`.
    """
    missing = [column for column in key if column not in schema.names]
    if missing or not key:
        raise InvalidRequest(
            f"no column {missing[0]!r} to be the key" if missing else "a key needs at least one column",
            hint=f"choose from {', '.join(schema.names)}",
        )
    keys = pa.schema([schema.field(column) for column in key])
    values = pa.schema([field for field in schema if field.name not in key])
    key_record = avro_schema_from_arrow(keys, f"{name}Key", nullable=())
    key_schema = json.dumps(json.loads(key_record)["fields"][0]["type"]) if len(key) == 1 else key_record
    return key_schema, avro_schema_from_arrow(values, name, nullable=nullable)


def _avro_field(field: pa.Field, path: str, nullable: bool, place: str) -> dict[str, Any]:
    if not _NAME.fullmatch(field.name):
        raise InvalidRequest(
            f"{place}: {field.name!r} is not a field name", hint="rename it to letters, digits and '_', not beginning with a digit"
        )
    kind = _avro_type(field.type, path, place)
    return {"name": field.name, "type": ["null", kind], "default": None} if nullable else {"name": field.name, "type": kind}


def _avro_type(kind: pa.DataType, path: str, place: str) -> Any:
    if pa.types.is_dictionary(kind):
        return _avro_type(kind.value_type, path, place)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return {"type": "array", "items": _avro_type(kind.value_type, path, place)}
    if pa.types.is_map(kind):
        if not is_text(kind.key_type):
            raise InvalidRequest(f"{place}: a map's keys must be text, not {kind.key_type}", hint="cast the keys to VARCHAR")
        return {"type": "map", "values": _avro_type(kind.item_type, path, place)}
    if pa.types.is_struct(kind):
        fields = [_avro_field(f, f"{path}_{f.name}", f.nullable, f"{place}, field {f.name!r}") for f in kind.fields]
        return {"type": "record", "name": path, "fields": fields}
    if pa.types.is_fixed_size_binary(kind):
        return {"type": "fixed", "name": path, "size": kind.byte_width}
    if pa.types.is_decimal(kind):
        if kind.scale < 0:
            raise InvalidRequest(f"{place}: {kind} has a negative scale", hint="cast it to a decimal with scale 0 or more")
        return {"type": "bytes", "logicalType": "decimal", "precision": kind.precision, "scale": kind.scale}
    if pa.types.is_timestamp(kind):
        unit = "millis" if kind.unit in ("s", "ms") else "micros"
        return {"type": "long", "logicalType": f"timestamp-{unit}" if kind.tz else f"local-timestamp-{unit}"}
    for fits, document in _SCALARS:
        if fits(kind):
            return document
    hint = "cast it to the type it should have" if pa.types.is_null(kind) else "cast it, or leave it out"
    raise InvalidRequest(f"{place}: no Avro type for Arrow {kind}", hint=hint)


def is_text(kind: pa.DataType) -> bool:
    """Any of Arrow's layouts of text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_int(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) and (kind.bit_width < 32 or pa.types.is_int32(kind)))


_SCALARS: Final[Sequence[tuple[Any, Any]]] = (
    (pa.types.is_boolean, "boolean"),
    (_is_int, "int"),
    (pa.types.is_integer, "long"),
    (pa.types.is_float64, "double"),
    (pa.types.is_floating, "float"),
    (is_text, "string"),
    (_is_binary, "bytes"),
    (pa.types.is_date, {"type": "int", "logicalType": "date"}),
    (pa.types.is_time, {"type": "long", "logicalType": "time-micros"}),
)
