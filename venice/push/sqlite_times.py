"""Times in SQLite, which has no type for them: DuckDB reads text as one, and passes over the offset from UTC that the text names.

Write path: **read** → encode → partition → sort → seal. Where that would shift an instant the push is refused before a row is read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

import duckdb

from venice.errors import InvalidRequest
from venice.push.columns import quote, quote_text
from venice.push.databases import SOURCE_NAME, Database
from venice.push.sources import read_error

_SHIFTED: Final = frozenset(("timestamp", "date"))
_SELECT: Final = re.compile(r"\bselect\b", re.IGNORECASE)
_ALL_COLUMNS: Final = re.compile(r"\*|\bcolumns\s*\(", re.IGNORECASE)


def refuse_offsets(connection: duckdb.DuckDBPyConnection, database: Database, query: str, instants: Collection[str]) -> None:
    """Look through the times that a query reads as such.

    Args:
        database: Attached to the connection, whose zone is UTC.
        query: Asked of it.
        instants: The columns of the query that are read as instants.

    Raises:
        InvalidRequest: One names an offset other than zero; table, column and time are named.
    """
    try:
        tables = connection.get_table_names(query)  # Not those within `sqlite_query`, which returns text.
        names = tables | _views(connection, query) if tables else set()
    except duckdb.Error:
        return  # Whoever runs it says what is wrong with it.
    for name in sorted(names):
        try:
            found = connection.sql(f"FROM {SOURCE_NAME}.main.{quote(name)} LIMIT 0")
        except duckdb.Error:
            continue  # A name that the query itself gives to something.
        for column, kind in zip(found.columns, found.types, strict=True):
            if kind.id in _SHIFTED and _reads(query, column, instants):
                _look(connection, database, name, column)


def _views(connection: duckdb.DuckDBPyConnection, query: str) -> set[str]:
    """Views that a query names: DuckDB tells of the tables behind them, where columns may have other names."""
    told = f"SELECT view_name FROM duckdb_views() WHERE database_name = {quote_text(SOURCE_NAME)} AND NOT internal"
    return {name for (name,) in connection.execute(told).fetchall() if name.lower() in query.lower()}


def _reads(query: str, column: str, instants: Collection[str]) -> bool:
    """Whether a query makes instants of a column, as far as its text tells."""
    if not _SELECT.search(query):
        return column in instants  # A whole table.
    return _ALL_COLUMNS.search(query) is not None or column.lower() in query.lower()


def _look(connection: duckdb.DuckDBPyConnection, database: Database, table: str, column: str) -> None:
    name = quote(column)
    # What SQLite finds is few rows, or none: an offset follows a date of ten letters.
    asked = f"SELECT {name} AS said FROM {quote(table)} WHERE typeof({name}) = 'text' AND substr({name}, 11) GLOB '*[0-9]*[+-][0-9]*'"
    told = "TRY_CAST(said AS TIMESTAMPTZ) <> CAST(TRY_CAST(said AS TIMESTAMP) AS TIMESTAMPTZ)"
    try:
        shifted = connection.execute(
            f"SELECT said FROM sqlite_query({quote_text(SOURCE_NAME)}, {quote_text(asked)}) WHERE {told} LIMIT 1"
        ).fetchone()
    except duckdb.Error as error:
        raise read_error(error, f"table {table} of {database}") from error
    if shifted is not None:
        raise InvalidRequest(
            f"column {column!r} of table {table} of {database} has times with an offset from UTC, such as {shifted[0]!r}, "
            "which would be passed over",
            hint=f"store them in UTC, or have every column read as text: --sql \"SELECT … FROM sqlite_query('{SOURCE_NAME}', 'SELECT …')\"",
            table=table, column=column,
        )  # fmt: skip
