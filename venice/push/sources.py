"""What a push reads: files of one format, a table, or a query; found, described and made into SQL for DuckDB.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from venice.errors import Full, InvalidRequest, Unavailable, VeniceError
from venice.push.avro_files import MAGIC, AvroFiles, carried_error, read_headers
from venice.push.columns import quote, quote_text
from venice.push.databases import Database, database_of
from venice.push.files import expand, file_system, first_bytes, protocol_of, size_of
from venice.push.masking import mask

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType


class Format(StrEnum):
    """How rows are stored where they are read from."""

    PARQUET = "parquet"
    CSV = "csv"
    JSON = "json"
    AVRO = "avro"
    SQL = "sql"


_SUFFIXES: Final = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".json": Format.JSON,
    ".jsonl": Format.JSON,
    ".ndjson": Format.JSON,
    ".avro": Format.AVRO,
}
_COMPRESSED: Final = frozenset((".gz", ".zst"))
_UNPACKED: Final = 1.5
"""How much larger rows are than their Parquet file, at a guess."""
_CSV_OPTIONS: Final = (
    # Everything is text but what `types` says. An empty cell is null, a quoted empty one an empty string.
    *("all_varchar = true", "allow_quoted_nulls = false"),
    # Only the delimiter is guessed: a guess at the rest takes a damaged file for one in another dialect.
    *("header = true", "skip = 0", "quote = '\"'", "escape = '\"'", "comment = ''"),
)
_SAID_MAX: Final = 600
_QUOTED: Final = re.compile(r"LINE (\d+):\s*(.*)")
_FILE_COLUMN: Final = "venice push file"
_AVRO: Final = "venice push avro"
_AVRO_WITH_FILE: Final = "venice push avro with file"
_MAGICS: Final = {MAGIC: Format.AVRO, b"PAR1": Format.PARQUET}

Columns = dict[str, "DuckDBPyType"]
"""Column types by name, in the order of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is known of the rows before they are read; None = only reading tells."""

    rows: int | None
    row_bytes: float | None
    """About how many bytes a row has in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Files in the order they are read, or a query."""

    format: Format
    files: tuple[str, ...] = ()
    query: str = ""
    query_name: str = "the query"
    """What messages call the rows of `query`."""
    avro: AvroFiles | None = None
    """What reads the files, if they are Avro."""
    database: Database | None = None
    """What the query is asked of, besides DuckDB itself."""

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Once for each connection and each cursor, before a relation is used there: DuckDB reads not all of it by itself.

        Raises:
            NotFound, InvalidRequest, Unavailable: As `Database.attach` and `file_system`.
        """
        if self.database is not None:
            self.database.attach(connection)
        if self.avro is not None:
            avro = self.avro.only(self.files)
            connection.register(_AVRO, avro)
            connection.register(_AVRO_WITH_FILE, replace(avro, file_column=_FILE_COLUMN))
        elif self.files and protocol_of(self.files[0]):
            system = file_system(self.files[0])
            protocols = (system.protocol,) if isinstance(system.protocol, str) else system.protocol
            if not any(protocol in connection.list_filesystems() for protocol in protocols):
                connection.register_filesystem(system)

    def __str__(self) -> str:
        if self.format is Format.SQL:
            return self.query_name
        first = mask(self.files[0])
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more files"

    def hide(self, text: str) -> str:
        """A text, such as an error's, without the passwords of the source."""
        return self.database.hide(text) if self.database is not None else mask(text)

    def describe(self, connection: duckdb.DuckDBPyConnection) -> dict[str, Columns]:
        """Columns per file; those of a query under its name.

        Raises:
            InvalidRequest: A file is not of its format, or the query is wrong.
        """
        if self.format in (Format.SQL, Format.AVRO):
            return {str(self): _columns(connection, self.relation({}), self)}
        return {mask(file): self._describe_file(connection, file) for file in self.files}

    def _describe_file(self, connection: duckdb.DuckDBPyConnection, file: str) -> Columns:
        if self.format is not Format.PARQUET and size_of(file) == 0:
            if self.format is Format.JSON:
                return {}  # No documents are a valid JSON Lines file; DuckDB makes a column up.
            raise InvalidRequest(f"{mask(file)} is empty", hint="a CSV file begins with a line of column names, also when it has no rows")
        return _columns(connection, self._relation((file,), {}, ""), replace(self, files=(file,)))

    def relation(self, types: dict[str, str], *, with_file: bool = False) -> str:
        """SQL that stands for all rows.

        Args:
            types: Column types to read CSV and JSON with, as far as they are known.
            with_file: Have the file's name in a column (see `file_column`); not for queries.
        """
        if self.format is Format.SQL:
            return f"(\n{self.query}\n)"
        if self.format is Format.AVRO:
            return quote(_AVRO_WITH_FILE if with_file else _AVRO)
        return self._relation(self.files, types, _FILE_COLUMN if with_file else "")

    def _relation(self, files: Sequence[str], types: dict[str, str], file_column: str) -> str:
        listed = "[" + ", ".join(quote_text(file) for file in files) + "]"
        typed = "{" + ", ".join(f"{quote_text(name)}: {quote_text(kind)}" for name, kind in types.items()) + "}"
        options = [listed]
        if file_column:
            options.append(f"filename = {quote_text(file_column)}")
        match self.format:
            case Format.PARQUET:
                options += ["union_by_name = true"] if len(files) > 1 else []
            case Format.CSV:
                options += _CSV_OPTIONS
                options += ["union_by_name = true"] if len(files) > 1 else []
                options += [f"types = {typed}"] if types else []
            case _:
                options += [f"columns = {typed}"] if types else []
        return f"read_{self.format.value}({', '.join(options)})"

    @property
    def file_column(self) -> str:
        """The column that holds the file's name where a relation was asked to have it, as SQL."""
        return quote(_FILE_COLUMN)

    def measure(self, connection: duckdb.DuckDBPyConnection) -> Size:
        """What can be said of the rows without reading them.

        Raises:
            InvalidRequest: A file is not of its format.
            Corrupt: An Avro file is cut off or damaged.
        """
        if self.avro is not None and not any(map(protocol_of, self.files)):
            rows, size = self.avro.count(), sum(map(size_of, self.files))
            return Size(rows=rows, row_bytes=_UNPACKED * size / rows if rows else None)
        if self.format is not Format.PARQUET:
            return Size(rows=None, row_bytes=None)
        listed = ", ".join(quote_text(file) for file in self.files)
        try:
            found = connection.execute(f"SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata([{listed}])").fetchone()
        except duckdb.Error as error:
            raise read_error(error, str(self), self.hide) from error
        rows = int(found[0]) if found and found[0] is not None else 0
        size = sum(map(size_of, self.files))
        return Size(rows=rows, row_bytes=_UNPACKED * size / rows if rows else None)


def locate(inputs: Sequence[str | Path]) -> Source:
    """The files that paths, URLs, globs and folders name: in the order given, each glob and folder sorted by name.

    Raises:
        NotFound: Nothing is there.
        InvalidRequest: Files of several formats, or of none that is known; or a URL that cannot be read.
        Incompatible: Avro files whose schemas do not fit each other.
        Unavailable: An object store does not answer.
    """
    files = list(dict.fromkeys(file for given in inputs for file in expand(str(given))))
    formats = {_format(file) for file in files}
    if len(formats) > 1:
        names = " and ".join(sorted(found.value for found in formats))
        raise InvalidRequest(f"the inputs are {names} files", hint="push files of one format, or read them with a query (--sql)")
    if not formats:
        raise InvalidRequest("nothing to push", hint="name input files, or a query (--sql)")
    if len({protocol_of(file) for file in files}) > 1:
        raise InvalidRequest("the inputs are of several file systems", hint="push files of one, or copy them to one")
    found = formats.pop()
    return Source(format=found, files=tuple(files), avro=read_headers(files) if found is Format.AVRO else None)


def locate_any(
    connection: duckdb.DuckDBPyConnection, inputs: Sequence[str | Path], table: str | None = None, sql: str | None = None
) -> Source:
    """What the arguments of a push name: files; a table of a database; a query, asked of a database if there is one.

    Raises:
        NotFound, InvalidRequest, Incompatible, Unavailable: As `locate` and `Database.attach`.
    """
    query = sql.strip().rstrip(";") if sql is not None else ""
    databases = [found for given in inputs if (found := database_of(str(given))) is not None]
    if not databases:
        if table is not None:
            raise InvalidRequest(f"table {table!r} of what?", hint="--input names a DuckDB or SQLite file, or a postgresql:// URL")
        if sql is not None and inputs:
            raise InvalidRequest("a query names its files itself", hint="leave --input out, or let it name a database")
        source = Source(format=Format.SQL, query=query) if sql is not None else locate(inputs)
        source.prepare(connection)
        return source
    database = databases[0]
    if len(inputs) > 1:
        raise InvalidRequest(f"{database} is one source, and {len(inputs)} are given", hint="push one database at a time")
    if (table is None) == (sql is None):
        raise InvalidRequest(f"{database} is a database: a table or a query says what to read", hint="give --table TABLE or --sql QUERY")
    name = f"table {table} of {database}" if table is not None else f"the query of {database}"
    text = database.table(connection, table) if table is not None else query
    database.attach(connection)
    return Source(format=Format.SQL, query=text, query_name=name, database=database)


def _format(file: str) -> Format:
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    found = found or _MAGICS.get(first_bytes(file, len(MAGIC)))  # Hadoop calls its files part-m-00000.
    if found is None:
        raise InvalidRequest(f"{mask(file)} is of no format that can be pushed", hint=f"rename it to end in one of {', '.join(_SUFFIXES)}")
    return found


def _columns(connection: duckdb.DuckDBPyConnection, relation: str, source: Source) -> Columns:
    try:
        found = connection.sql(f"SELECT * FROM {relation} AS source")
        return dict(zip(found.columns, found.types, strict=True))
    except duckdb.Error as error:
        raise read_error(error, str(source), source.hide) from error


def read_error(error: Exception, name: str, hide: Callable[[str], str] = mask) -> VeniceError:
    """DuckDB's error in reading `name` as one of ours; its own words, less what `hide` takes out, say which column, row and value."""
    name, text = hide(name), hide(str(error)).strip()
    carried = carried_error(text)
    if carried is not None:
        return carried
    if isinstance(error, duckdb.InterruptException):
        return Unavailable(f"reading {name} was stopped", hint="push again")
    if isinstance(error, duckdb.OutOfMemoryException):
        return Full(f"reading {name} needs more memory than it may have: {text.splitlines()[0]}", hint="raise --memory-limit")
    if "No space left" in text:
        return Full(f"no room left for reading {name}: {text.splitlines()[0]}", hint="free some space and push again")
    lines = [_line(line.strip()) for line in text.splitlines()]
    said = " · ".join(line for line in lines if line and not line.startswith("^"))
    wrong_query = isinstance(error, duckdb.ParserException | duckdb.CatalogException | duckdb.BinderException)
    hint = "mend the query; it is SQL of DuckDB" if wrong_query else "correct the input, or read it with a query (--sql) that does"
    return InvalidRequest(f"cannot read {name}: {said[:_SAID_MAX]}", hint=hint)


def _line(line: str) -> str:
    """A line of DuckDB's words; where it quotes the SQL, the user's own query begins in line 2 and the rest is ours."""
    quoted = _QUOTED.match(line)
    if quoted is None:
        return line
    number = int(quoted[1])
    return f"line {number - 1}: {quoted[2]}" if number > 1 and not quoted[2].startswith(")") else ""
