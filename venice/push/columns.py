"""Avro types against DuckDB types: which columns fit which fields, and what they are cast to.

A column fits where no value can change its meaning: any integer type fits int and long (the range is checked row by row),
any number fits float and double (and is rounded to it), text fits string and enum. Text is never taken for a number, nor
a number for text: a query (`--sql`) that casts says so in its own words. In CSV everything is text and the field says how
to read it; in JSON what looks like a date may be text as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from venice.schema.types import Array, EnumType, Field, Fixed, Logical, MapType, Primitive, Record, Ref, Schema, Type, Union

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType

INTEGERS: Final = frozenset(f"{sign}{size}" for sign in ("", "u") for size in ("tinyint", "smallint", "integer", "bigint", "hugeint"))
_NUMBERS: Final = INTEGERS | {"float", "double", "decimal"}
_TEXTS: Final = frozenset(("varchar", "enum", "uuid"))
TIMESTAMPS: Final = frozenset(("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"))
_TIMES: Final = frozenset(("time", "time_ns", "time with time zone"))
_JSON_TEXTS: Final = _TEXTS | TIMESTAMPS | _TIMES | {"date"}

_PRIMITIVES: Final[dict[str, tuple[str, frozenset[str]]]] = {
    "boolean": ("BOOLEAN", frozenset(("boolean",))),
    "int": ("INTEGER", INTEGERS),
    "long": ("BIGINT", INTEGERS),
    "float": ("FLOAT", _NUMBERS),
    "double": ("DOUBLE", _NUMBERS),
    "bytes": ("BLOB", frozenset(("blob",))),
    "string": ("VARCHAR", _TEXTS),
}
_LOGICAL: Final[dict[str, tuple[str, frozenset[str]]]] = {
    "date": ("DATE", frozenset(("date",))),
    "time-millis": ("TIME", _TIMES),
    "time-micros": ("TIME", _TIMES),
    # Without a zone in all four cases: the session's zone is UTC, so the wall time of an instant is its UTC time. In
    # microseconds in all four: DuckDB would round to milliseconds, and the encoder refuses what would be lost.
    "timestamp-millis": ("TIMESTAMP", TIMESTAMPS),
    "timestamp-micros": ("TIMESTAMP", TIMESTAMPS),
    "local-timestamp-millis": ("TIMESTAMP", TIMESTAMPS),
    "local-timestamp-micros": ("TIMESTAMP", TIMESTAMPS),
    "uuid": ("VARCHAR", _TEXTS),
}
_INSTANTS: Final = frozenset(("timestamp-millis", "timestamp-micros"))
_DECIMAL_PRECISION_MAX: Final = 38


def is_nullable(schema: Schema, node: Type) -> bool:
    """Whether null is a value of the type."""
    node = schema.resolve(node)
    return _is_null(node) or (isinstance(node, Union) and any(_is_null(branch) for branch in node.branches))


def _is_null(node: Type) -> bool:
    return isinstance(node, Primitive) and node.kind == "null"


def _only_branch(union: Union) -> Type | None:
    """The type of a union that is one type or null."""
    rest = [branch for branch in union.branches if not _is_null(branch)]
    return rest[0] if len(rest) == 1 else None


def is_integer(schema: Schema, node: Type) -> bool:
    """Whether the values are plain integers, or those and null."""
    node = schema.resolve(node)
    if isinstance(node, Union):
        only = _only_branch(node)
        return only is not None and is_integer(schema, only)
    return isinstance(node, Primitive) and node.kind in ("int", "long") and node.logical is None


def has_instants(schema: Schema, node: Type, within: frozenset[str] = frozenset()) -> bool:
    """Whether the values are timestamps that count from UTC, or have some within them."""
    if isinstance(node, Ref) and node.name in within:
        return False
    node = schema.resolve(node)
    match node:
        case Primitive(_, Logical(name)):
            return name in _INSTANTS
        case Array(inner) | MapType(inner):
            return has_instants(schema, inner, within)
        case Record(name, fields):
            return any(has_instants(schema, field.type, within | {name}) for field in fields)
        case Union(branches):
            return any(has_instants(schema, branch, within) for branch in branches)
    return False


def sql_type(
    schema: Schema, node: Type, within: frozenset[str] = frozenset(), *, text: bool = False, decimal: str | None = None
) -> str | None:
    """The DuckDB type that holds the values of an Avro type, or None where none does: such a column is passed as it is.

    Args:
        text: The type to read text as: made a TIMESTAMP, text would lose its offset from UTC.
        decimal: The type to have instead of those of decimals: made one of them, text would be rounded.
    """
    if isinstance(node, Ref) and node.name in within:
        return None  # A type within itself has no finite column type.
    node = schema.resolve(node)
    match node:
        case Primitive(_, Logical("decimal", precision, scale)) | Fixed(_, _, _, Logical("decimal", precision, scale)):
            return decimal or (f"DECIMAL({precision},{scale})" if precision <= _DECIMAL_PRECISION_MAX else None)
        case Primitive(_, Logical(name)) if text and name in _INSTANTS:
            return "TIMESTAMPTZ"
        case Primitive(kind, logical):
            found = _LOGICAL.get(logical.name) if logical else _PRIMITIVES.get(kind)
            return found[0] if found else None
        case Fixed():
            return "BLOB"
        case EnumType():
            return "VARCHAR"
        case Array(items):
            inner = sql_type(schema, items, within, text=text, decimal=decimal)
            return f"{inner}[]" if inner else None
        case MapType(values):
            inner = sql_type(schema, values, within, text=text, decimal=decimal)
            return f"MAP(VARCHAR, {inner})" if inner else None
        case Record(name, fields):
            inners = [(field.name, sql_type(schema, field.type, within | {name}, text=text, decimal=decimal)) for field in fields]
            if not inners or any(inner is None for _, inner in inners):
                return None
            return "STRUCT(" + ", ".join(f"{quote(field)} {inner}" for field, inner in inners) + ")"
        case Union():
            only = _only_branch(node)
            return sql_type(schema, only, within, text=text, decimal=decimal) if only is not None else None


class Fit:
    """Whether columns fit fields.

    Args:
        schema: The Avro schema the fields are of.
        json: The column types were guessed from JSON documents.
    """

    def __init__(self, schema: Schema, *, json: bool = False) -> None:
        self._schema = schema
        self._json = json

    def misfit(self, node: Type, column: DuckDBPyType, path: str = "") -> str:
        """Empty if the column may feed the field; otherwise the path of the part that does not fit, `.` for all of it."""
        node = self._schema.resolve(node)
        if isinstance(node, Union):
            only = _only_branch(node)
            return self.misfit(only, column, path) if only is not None else ""
        if self._json and str(column) == "JSON":
            return ""  # All null, or of several kinds: each row is looked at when it is read.
        here = path or "."
        match node:
            case Array(items):
                return self.misfit(items, _children(column)[0][1], f"{path}[]") if column.id in ("list", "array") else here
            case MapType(values):
                return self._map(values, column, path)
            case Record(_, fields):
                return self._record(fields, column, path)
            case _:
                accepted = self._accepted(node)
                return "" if accepted is None or column.id in accepted else here

    def _accepted(self, node: Type) -> frozenset[str] | None:
        match node:
            case Primitive(_, Logical("decimal")) | Fixed(_, _, _, Logical("decimal")):
                # In JSON also as text: its numbers have the precision of a double.
                accepted = _NUMBERS | {"varchar"} if self._json else INTEGERS | {"decimal"}
            case Fixed():
                accepted = frozenset(("blob",))
            case EnumType():
                accepted = _TEXTS
            case Primitive(kind, logical):
                found = _LOGICAL.get(logical.name) if logical else _PRIMITIVES.get(kind)
                if found is None:
                    return None
                accepted = found[1]
            case _:
                return None
        textual = not accepted <= _NUMBERS and "boolean" not in accepted
        return accepted | _JSON_TEXTS if self._json and textual else accepted

    def _map(self, values: Type, column: DuckDBPyType, path: str) -> str:
        if self._json and column.id == "struct":
            return ""
        if column.id != "map":
            return path or "."
        (_, key_type), (_, value_type) = _children(column)
        return self.misfit(values, value_type, f"{path}[]") if key_type.id in _TEXTS else path or "."

    def _record(self, fields: tuple[Field, ...], column: DuckDBPyType, path: str) -> str:
        if self._json and column.id == "map":
            return ""
        if column.id != "struct":
            return path or "."
        children = dict(_children(column))
        for field in fields:
            inner = f"{path}.{field.name}"
            if field.name not in children:
                if self._json and is_nullable(self._schema, field.type):
                    continue
                return inner
            found = self.misfit(field.type, children[field.name], inner)
            if found:
                return found
        return ""


def _children(column: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    # Typed more loosely than it is: only enums and decimals have children that are no types.
    return cast("list[tuple[str, DuckDBPyType]]", column.children)


def quote(name: str) -> str:
    """A column's name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
