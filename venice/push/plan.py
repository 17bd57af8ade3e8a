"""Which columns feed which fields: checked before a single row is read, so that a wrong input costs no time.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import duckdb

from venice.errors import InvalidRequest
from venice.push.columns import Fit, has_instants, is_integer, is_nullable, quote, quote_text, sql_type
from venice.push.digits import has_decimals
from venice.push.documents import is_read_as_text
from venice.push.sources import Columns, Format, Source
from venice.push.sqlite_times import refuse_offsets
from venice.push.times import time_expression
from venice.schema.parsing import load_json, parse
from venice.schema.types import Record, Schema, Type, describe

DEFAULT_KEY: Final = "key"
DEFAULT_VALUE: Final = "value"
TIMESTAMP: Final = "timestamp"
"""Name of the last column of the rows that are read, if they have times."""
_JSON: Final = "JSON"
"""DuckDB's type of text that is JSON: the text of a string has its quotes."""
_UNCAST: Final = frozenset(("decimal", "timestamp_ns"))
"""Column types that DuckDB's cast would round: the encoder takes them as they are, and refuses what would be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column of the input and the field that it feeds."""

    column: str
    """Name in the input."""
    output: str
    """Name in the rows that are read."""
    nullable: bool
    type: Type
    is_text: bool = False
    """It comes as JSON text, which `documents.Cells` reads."""
    has_digits: bool = False
    """It comes with text in the place of decimals, which `digits.Digits` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The key or the value of a row, as a record of columns.

    A record of one field has the bytes of that field: so a key that is no record is encoded as a record of one.
    """

    name: str
    """`key` or `value`, for messages."""
    schema: Schema
    fields: tuple[Field, ...]
    defaulted: tuple[str, ...]
    """Fields that have no column, and take their defaults."""
    row_schema: str
    """Avro JSON of a record with these fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked push: what is read, and how it becomes keys and values."""

    source: Source
    key: Side
    value: Side
    types: dict[str, str]
    """Column types that CSV and JSON are read with."""
    columns: str
    """SQL of the columns that are read: the outputs of `key`, then of `value`, then the time if rows have one."""
    columns_ignored: tuple[str, ...]
    """Columns that feed nothing."""
    timestamp: str | None = None
    """Column of each row's own time."""

    @property
    def select(self) -> str:
        """SQL of all rows."""
        return f"SELECT {self.columns} FROM {self.source.relation(self.types)} AS source"

    def select_from(self, files: tuple[str, ...]) -> str:
        """SQL of the rows of some of the files."""
        return f"SELECT {self.columns} FROM {replace(self.source, files=files).relation(self.types)} AS source"

    def rows_where(self, condition: str) -> str:
        """SQL: (file or name of the query, rows) where an SQL condition on input columns holds, most rows first."""
        if self.source.format is Format.SQL:
            return f"SELECT {quote_text(self.source.query_name)}, count(*) FROM {self.source.relation({})} AS source WHERE {condition}"
        relation = self.source.relation(self.types, with_file=True)
        return f"SELECT {self.source.file_column}, count(*) AS n FROM {relation} WHERE {condition} GROUP BY ALL ORDER BY n DESC"


def make_plan(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    *,
    key_schema: str,
    value_schema: str,
    key: str | None = None,
    value: str | None = None,
    renames: Mapping[str, str] | None = None,
    timestamp: str | None = None,
) -> Plan:
    """Match the columns of `source` with the fields of a store's schemas.

    Args:
        key: Column of the key; default: for a record, a column per field; otherwise the column `key`, or the only column
            that is not a value field.
        value: Column of the whole value; default: for a record, a column per field; otherwise the column `value`, or the
            only column that is not the key.
        renames: Columns of fields that have another name, by field; `key.FIELD` and `value.FIELD` where both have it.
        timestamp: Column of each row's own time; see `time_expression`.

    Raises:
        InvalidRequest: A column or a field is missing, ambiguous or of a type that does not fit; file, column and types are named.
    """
    described = source.describe(connection)
    present = _in_all(described)
    keys, values = parse(key_schema), parse(value_schema)
    names = _Names(renames or {}, {"key": keys, "value": values})
    value_root = values.resolve(values.root)
    value_names = (
        {names.column("value", f.name) for f in value_root.fields} if isinstance(value_root, Record) and value is None else {value}
    )
    unclaimed, nothing = [name for name in present if name not in value_names and name != timestamp], not any(described.values())
    key_side = _side("key", keys, key_schema, key, _Guess(DEFAULT_KEY, unclaimed, nothing), names, source, described)
    taken = {timestamp, *(field.column for field in key_side.fields)}
    guess = _Guess(DEFAULT_VALUE, [name for name in present if name not in taken], nothing)
    value_side = _side("value", values, value_schema, value, guess, names, source, described)
    for side in (key_side, value_side):
        _check(side, described, source)
    instants = {field.column for side in (key_side, value_side) for field in side.fields if has_instants(side.schema, field.type)}
    instants |= {timestamp} if timestamp is not None else set()
    if instants and source.database is not None and source.database.kind == "sqlite":
        refuse_offsets(connection, source.database, source.query, instants)
    used = {timestamp, *(field.column for side in (key_side, value_side) for field in side.fields)}
    types = _read_types(source, (key_side, value_side))
    chosen = ", ".join(_expression(side, field, source, described, types) for side in (key_side, value_side) for field in side.fields)
    if timestamp is not None:
        chosen += f", {time_expression(source, described, timestamp)} AS {TIMESTAMP}"
        if source.format in (Format.CSV, Format.JSON):
            types.setdefault(timestamp, "VARCHAR")
    return Plan(
        source=source,
        key=key_side,
        value=value_side,
        types=types,
        columns=chosen,
        columns_ignored=tuple(name for name in present if name not in used),
        timestamp=timestamp,
    )


class _Names:
    """Which column has which field's values.

    Raises:
        InvalidRequest: There is no such field.
    """

    def __init__(self, renames: Mapping[str, str], schemas: Mapping[str, Schema]) -> None:
        self._renames = renames
        known: list[str] = []
        for side, schema in schemas.items():
            root = schema.resolve(schema.root)
            known += [f"{side}.{field.name}" for field in root.fields] if isinstance(root, Record) else []
        for name in renames:
            if name not in known and not any(field.partition(".")[2] == name for field in known):
                raise InvalidRequest(
                    f"there is no field {name!r} to rename a column to", hint=f"the fields are {', '.join(known) or 'none'}"
                )

    def column(self, side: str, field: str) -> str:
        return self._renames.get(f"{side}.{field}") or self._renames.get(field) or field


@dataclass(frozen=True, slots=True)
class _Guess:
    """How to find the column of a side that is one column."""

    default: str
    free: list[str]
    """Columns that nothing else claims."""
    nothing_there: bool
    """All files are empty, so that it does not matter."""

    def column(self, given: str | None, side: str, source: Source) -> str:
        if given is not None:
            return given
        if self.default in self.free or self.nothing_there:
            return self.default
        if len(self.free) == 1:
            return self.free[0]
        raise InvalidRequest(
            f"which column of {source} holds the {side} is not clear: there is none called {self.default!r}, "
            f"and {len(self.free)} could be it ({', '.join(self.free) or 'none'})",
            hint=f"name it (--{side} COLUMN)",
        )


def _in_all(described: dict[str, Columns]) -> list[str]:
    """Columns that every file has, in the order of the first."""
    first, *others = [columns for columns in described.values() if columns] or [{}]
    return [name for name in first if all(name in columns for columns in others)]


def _side(
    name: str, schema: Schema, text: str, given: str | None, guess: _Guess, names: _Names, source: Source, described: dict[str, Columns]
) -> Side:
    root = schema.resolve(schema.root)
    if isinstance(root, Record) and given is None:
        defaulted = _defaulted(name, schema, root, names, described, source)
        fields = tuple(
            _field(schema, names.column(name, f.name), f"{name}.{f.name}", f.type, source) for f in root.fields if f.name not in defaulted
        )
        return Side(name=name, schema=schema, fields=fields, defaulted=defaulted, row_schema=text)
    column = guess.column(given, name, source)
    field = _field(schema, column, f"{name}.{name}", schema.root, source)
    row = {"type": "record", "name": f"VenicePush_{name}", "fields": [{"name": name, "type": load_json(text)}]}
    return Side(name=name, schema=schema, fields=(field,), defaulted=(), row_schema=json.dumps(row))


def _field(schema: Schema, column: str, output: str, node: Type, source: Source) -> Field:
    is_text = source.format is Format.JSON and is_read_as_text(schema, node)
    has_digits = source.format in (Format.CSV, Format.JSON) and not is_text and has_decimals(schema, node)
    return Field(column=column, output=output, nullable=is_nullable(schema, node), type=node, is_text=is_text, has_digits=has_digits)


def _defaulted(side: str, schema: Schema, record: Record, names: _Names, described: dict[str, Columns], source: Source) -> tuple[str, ...]:
    """Value fields that no file has a column for and whose default stands in: so a schema may grow before its input does.

    Not where a name differs in case only (that is a mistake), nor where no field at all would have a column.
    """
    if side == "key":
        return ()
    named = {name.lower() for columns in described.values() for name in columns}
    found = [f for f in record.fields if f.default is not None and f.name.lower() not in named and names.column(side, f.name) == f.name]
    if source.format is Format.JSON:
        found = [f for f in found if not is_nullable(schema, f.type)]  # JSON leaves nulls out.
    return tuple(f.name for f in found) if len(found) < len(record.fields) else ()


def _check(side: Side, described: dict[str, Columns], source: Source) -> None:
    fit = Fit(side.schema, json=source.format is Format.JSON)
    for file, columns in described.items():
        for field in side.fields:
            column = columns.get(field.column)
            if column is None:
                if source.format is Format.JSON and (field.nullable or not columns):
                    continue  # JSON leaves nulls out, and an empty file all of it.
                raise _missing(side, field, file, columns)
            path = "" if source.format is Format.CSV else fit.misfit(field.type, column)
            if path:
                where = f"{field.column!r}" if path == "." else f"{field.column + path!r}"
                raise InvalidRequest(
                    f"column {where} of {file} is {column}, and the {side.name} field {field.output.partition('.')[2]!r} "
                    f"is {describe(field.type)}",
                    hint="change the column's type where the file is written, or cast it in a query (--sql)",
                    file=file, column=field.column, column_type=str(column), field_type=describe(field.type),
                )  # fmt: skip


def _missing(side: Side, field: Field, file: str, columns: Columns) -> InvalidRequest:
    alike = [name for name in columns if name.lower() == field.column.lower()]
    hint = f"it has {alike[0]!r}: names must be equal, case included" if alike else f"it has: {', '.join(columns) or 'none'}"
    return InvalidRequest(
        f"{file} has no column {field.column!r} for the {side.name} field {field.output.partition('.')[2]!r} ({describe(field.type)})",
        hint=hint, file=file, column=field.column,
    )  # fmt: skip


def _read_types(source: Source, sides: Iterable[Side]) -> dict[str, str]:
    """Column types to read with, where the file has none of its own."""
    if source.format not in (Format.CSV, Format.JSON):
        return {}
    types: dict[str, str] = {}
    fields = [(side, field) for side in sides for field in side.fields]
    # A column may feed several fields: as decimals are read, all others can be.
    for side, field in sorted(fields, key=lambda one: not one[1].has_digits):
        if field.is_text:
            types[field.column] = _JSON
        elif is_integer(side.schema, field.type):
            types[field.column] = "VARCHAR"  # Read as text: DuckDB would round 1.7 to 2; see `_expression`.
        else:
            # Of JSON's own type: so a text is told from a number, which has gone through a double.
            decimal = None if not field.has_digits else _JSON if source.format is Format.JSON else "VARCHAR"
            types.setdefault(field.column, sql_type(side.schema, field.type, text=True, decimal=decimal) or "VARCHAR")
    return types


def _expression(side: Side, field: Field, source: Source, described: dict[str, Columns], types: Mapping[str, str]) -> str:
    column, decimal = quote(field.column), "VARCHAR" if field.has_digits else None
    if types.get(field.column) == _JSON and not (field.is_text or field.has_digits):
        column = f"({column} ->> '$')"  # Of a column that another field needs as JSON has it: text without quotes.
    target = "VARCHAR" if field.is_text else sql_type(side.schema, field.type, decimal=decimal)
    if any(field.column in columns and columns[field.column].id in _UNCAST for columns in described.values()):
        target = None
    expression = f"CAST({column} AS {target})" if target else column
    if source.format in (Format.CSV, Format.JSON) and is_integer(side.schema, field.type):
        complaint = f"{quote_text(f'column {field.column!r}: ')} || {column} || ' is not a whole number'"
        whole = f"regexp_full_match(trim({column}), '[+-]?[0-9]+')"
        expression = f"CASE WHEN {column} IS NULL THEN NULL WHEN {whole} THEN {expression} ELSE error({complaint}) END"
    return f"{expression} AS {quote(field.output)}"
