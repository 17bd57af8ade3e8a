"""The value schema that an input asks for: the store's newest one and a field for every column that it lacks.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

import duckdb

from venice.errors import InvalidRequest
from venice.push.csv_types import csv_types
from venice.push.plan import DEFAULT_KEY
from venice.push.sources import Format, Source, read_error
from venice.schema.arrow_types import avro_schema_from_arrow
from venice.schema.parsing import load_json, parse
from venice.schema.types import Record


def grown_schema(
    connection: duckdb.DuckDBPyConnection, source: Source, *, store: str, newest: str | None, fed: Collection[str]
) -> str | None:
    """Avro JSON of the value schema with all columns of `source`; None if `newest` has a field for each.

    A field that joins others may be null, with null as default, unless the input is Avro and gives it a default: so every value can
    be read with either schema. Fields that are there already stay as they are.

    Args:
        newest: The newest value schema of the store; None if it has none.
        fed: Columns that are not the value's: they feed the key, the time, or a field of another name.

    Raises:
        InvalidRequest: The value is no record, or a column has a type that Avro lacks, or the input cannot be read.
    """
    document: dict[str, Any] = {"type": "record", "name": re.sub(r"\W", "_", f"{store}_value"), "fields": []}
    if newest is not None:
        schema = parse(newest)
        if not isinstance(schema.resolve(schema.root), Record):
            raise InvalidRequest(f"the value of store {store!r} is no record, so no field can be added", hint="leave --register-schema out")
        document = dict(load_json(newest))
    known = {field["name"] for field in document["fields"]} | set(fed)
    added = [field for field in _fields(connection, source, document["name"]) if field["name"] not in known]
    if not added:
        return None
    if newest is not None:
        added = [field if "default" in field else _optional(field) for field in added]
    text = json.dumps({**document, "fields": [*document["fields"], *added]})
    parse(text)
    return text


def fed_elsewhere(key_schema: str, key: str | None, renames: Mapping[str, str], timestamp: str | None) -> set[str]:
    """Columns that a push does not need value fields of their own names for: those of the key, of the time and of renamed fields."""
    schema = parse(key_schema)
    root = schema.resolve(schema.root)
    names = [field.name for field in root.fields] if isinstance(root, Record) and key is None else []
    keys = {renames.get(f"key.{name}") or renames.get(name) or name for name in names} or {key or DEFAULT_KEY}
    return keys | set(renames.values()) | ({timestamp} if timestamp is not None else set())


def _optional(field: dict[str, Any]) -> dict[str, Any]:
    kind = field["type"]
    branches = kind if isinstance(kind, list) else [kind]
    return {**field, "type": ["null", *(branch for branch in branches if branch != "null")], "default": None}


def _fields(connection: duckdb.DuckDBPyConnection, source: Source, name: str) -> list[dict[str, Any]]:
    if source.avro is not None:
        found: list[dict[str, Any]] = load_json(source.avro.schema)["fields"]
        return found
    if source.format is Format.CSV:
        columns = csv_types(connection, source)
    else:
        try:
            columns = connection.execute(f"SELECT * FROM {source.relation({})} AS source LIMIT 0").to_arrow_table().schema
        except duckdb.Error as error:
            raise read_error(error, str(source)) from error
    fields: list[dict[str, Any]] = json.loads(avro_schema_from_arrow(columns, name))["fields"]
    return fields
