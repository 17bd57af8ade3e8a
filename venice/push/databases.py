"""Tables of other databases as sources: DuckDB and SQLite files, PostgreSQL. DuckDB attaches them, for reading only.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from venice.errors import InvalidRequest, NotFound, Unavailable, VeniceError
from venice.push.columns import quote, quote_text
from venice.push.masking import hide

SOURCE_NAME: Final = "venice_source"
"""What a database is called in queries."""
_KINDS: Final = {".duckdb": "duckdb", ".ddb": "duckdb", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite"}
_EXTENSIONS: Final = {"sqlite": "sqlite_scanner", "postgres": "postgres_scanner"}
_POSTGRES: Final = ("postgresql://", "postgres://")
_OF_THE_SERVER: Final = frozenset(("information_schema", "pg_catalog", "pg_toast"))
_AWAY: Final = re.compile(r"Connection refused|could not translate|timeout|No route|starting up|too many clients", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Database:
    """A database that queries are asked of."""

    kind: str
    where: str
    """File, or URL."""

    def __str__(self) -> str:
        return self.hide(self.where)

    def hide(self, text: str) -> str:
        """A text without the password."""
        return hide(text, self.where) if self.kind == "postgres" else text

    def attach(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have the tables in reach, and be where names are looked up first. Does nothing the second time.

        Raises:
            NotFound: No such file, or no such database.
            InvalidRequest: Not such a database, or the credentials are wrong, or the extension is not installed.
            Unavailable: The server does not answer.
        """
        if self.kind != "postgres" and not Path(self.where).is_file():
            raise NotFound(f"no file at {self.where}", hint="check the path; a relative one is looked up from the working folder")
        load_extension(connection, self.kind)
        kind = "" if self.kind == "duckdb" else f"TYPE {self.kind}, "
        try:
            connection.execute(f"ATTACH IF NOT EXISTS {quote_text(self.where)} AS {SOURCE_NAME} ({kind}READ_ONLY)")
            if self.kind == "sqlite":  # It opens a file only when it is asked for something in it.
                connection.execute(f"SELECT count(*) FROM duckdb_tables() WHERE database_name = {quote_text(SOURCE_NAME)}")
            connection.execute(f"USE {SOURCE_NAME}")
        except duckdb.Error as error:
            raise self._refusal(error) from error

    def _refusal(self, error: duckdb.Error) -> VeniceError:
        said = " ".join(self.hide(str(error)).split())[:400]
        if self.kind != "postgres":
            hint = f"check that it is a {'DuckDB' if self.kind == 'duckdb' else 'SQLite'} file, and that nobody has it open for writing"
            return InvalidRequest(f"cannot read {self}: {said}", hint=hint)
        if _AWAY.search(said):
            return Unavailable(f"{self} does not answer: {said}", hint="check host and port, and that the server runs")
        if "does not exist" in said and "database" in said:
            return NotFound(f"{self}: {said}", hint="check the name of the database")
        return InvalidRequest(f"cannot connect to {self}: {said}", hint="check user, password (PGPASSWORD, ~/.pgpass) and database")

    def table(self, connection: duckdb.DuckDBPyConnection, name: str) -> str:
        """SQL of a table's rows; it may be named with its schema.

        Raises:
            NotFound: No such table; the message names those that are there.
        """
        self.attach(connection)
        try:
            there = f"WHERE database_name = {quote_text(SOURCE_NAME)} AND NOT internal"
            found = connection.execute(
                f"SELECT schema_name, table_name FROM duckdb_tables() {there} "
                f"UNION ALL SELECT schema_name, view_name FROM duckdb_views() {there} "
                "ORDER BY ALL"
            ).fetchall()
        except duckdb.Error as error:
            raise self._refusal(error) from error
        found = [pair for pair in found if pair[0] not in _OF_THE_SERVER]
        matches = [pair for pair in found if name in (pair[1], ".".join(pair))]
        matches = [pair for pair in matches if pair[0] in ("main", "public")] or matches
        if not matches:
            names = [table if schema in ("main", "public") else f"{schema}.{table}" for schema, table in found]
            shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise NotFound(f"{self} has no table {name!r}", hint=f"it has {shown or 'none'}", table=name)
        if len(matches) > 1:
            raise InvalidRequest(f"{self} has several tables {name!r}", hint=f"name one of {', '.join('.'.join(pair) for pair in matches)}")
        return f"FROM {SOURCE_NAME}.{quote(matches[0][0])}.{quote(matches[0][1])}"


def database_of(given: str) -> Database | None:
    """The database that an input names; None if it names files."""
    if given.lower().startswith(_POSTGRES):
        return Database("postgres", given)
    kind = _KINDS.get(Path(given).suffix.lower())
    return Database(kind, given) if kind is not None else None


def load_extension(connection: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Load the extension of a kind of database from its Python package: nothing is downloaded. Raises InvalidRequest."""
    extension = _EXTENSIONS.get(kind)
    if extension is None:
        return
    package = f"duckdb-extension-{extension.replace('_', '-')}=={duckdb.__version__}"
    missing = InvalidRequest(f"DuckDB has no extension for {kind} here", hint=f"pip install {package}")
    found = importlib.util.find_spec(f"duckdb_extension_{extension}")
    if found is None or found.origin is None:
        raise missing
    file = Path(found.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{extension}.duckdb_extension"
    if not file.is_file():
        raise missing
    try:
        connection.execute(f"LOAD {quote_text(str(file))}")
    except duckdb.Error as error:
        raise InvalidRequest(f"DuckDB cannot load {file.name}: {error}", hint=f"pip install --force-reinstall {package}") from error
