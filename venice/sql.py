"""DuckDB over stores: query them as tables, export a version to a file.

Read path beside the servers: catalog → snapshot and version topic → `venice/served.py` → **Arrow → DuckDB**. No process of the
cluster takes part: the catalog is read from the log, and partitions are replicas of our own that live as long as they are read.

A store's columns are the fields of its key, then of its value; a key or value that is no record is the column `key` or
`value`. A value field named as a key field is `value_<name>`. Times are in UTC. Of a batch version these are the rows that were
pushed, in the schema they were pushed with. Of a hybrid version they are what its replicas serve: pushed rows, and what was
written since, up to where the version topic ended when the reading began, in the store's newest schema.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import duckdb
import pyarrow as pa

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.catalog import Catalog
from venice.control.reading import open_existing_log, read_catalog
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.model import Store, Version
from venice.schema.codec import Codec, reader
from venice.schema.columnar import ColumnDecoder
from venice.schema.parsing import parse
from venice.schema.types import Record, Schema
from venice.served import ServedVersion
from venice.storage.format import decode_value, value_prefix
from venice.storage.packed import unpacker_of

T = TypeVar("T")

BATCH_ROWS: Final = 16_384
KEY_COLUMN: Final = "key"
FORMATS: Final = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER", ".duckdb": ""}
_TRIES: Final = 3
_CHANGES: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE_INTO", "DROP", "ALTER"})
"""Kinds of statements that would change what was read, which goes when the query ends."""


@dataclass(frozen=True, slots=True)
class AsOf:
    """What was read of a store."""

    store: str
    version: int
    offsets: tuple[int, ...]
    """Of a hybrid version, by partition: what was written is in the rows up to before this offset of the version topic."""


def query(settings: Settings, sql: str, *, on_read: Callable[[AsOf], None] = lambda _: None) -> pa.Table:
    """The result of a query in DuckDB's SQL; the stores that it names are read as of now, into files that memory need not hold.

    Args:
        sql: One statement or several; the result of the last is returned.
        on_read: Called for each store that was read.

    Raises:
        NotFound: A table is no store, or a store has no version that serves.
        InvalidRequest: DuckDB cannot parse or run the query, or its last statement changes tables.
        Corrupt: A snapshot is damaged.
        Full: There is no room for the stores that are read.
        Unavailable: The log cannot be reached.
    """
    stores = read_catalog(settings).stores
    with _scratch(settings) as folder, duckdb.connect(Path(folder) / "stores.duckdb") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in _mentioned(connection, sql, stores):
            on_read(_retried(settings, name, None, lambda rows: _load(rows, connection, name))[1])  # noqa: B023 - called at once
        try:
            _check(connection.extract_statements(sql))
            return connection.execute(sql).to_arrow_table()
        except duckdb.CatalogException as error:
            raise NotFound(_first_line(error), hint=f"stores: {', '.join(sorted(stores)) or 'none yet'}") from error
        except duckdb.Error as error:
            raise InvalidRequest(_first_line(error), hint="mend the query; it is SQL of DuckDB") from error


def _check(statements: Sequence[duckdb.Statement]) -> None:
    """Refuse what has no result, or would tell of changes that no store has seen."""
    if not statements:
        raise InvalidRequest("the query is empty", hint="write a statement, such as SELECT * FROM a_store LIMIT 10")
    kind = statements[-1].type.name
    if kind in _CHANGES:
        raise InvalidRequest(
            f"{kind.replace('_', ' ')} changes no store: SQL reads them, as tables that go when the query ends",
            hint="end with a SELECT; 'venice push', 'venice put' and 'venice delete' change a store",
        )


def export(
    settings: Settings, store: str, *, to: Path | str, version: int | None = None, on_read: Callable[[AsOf], None] = lambda _: None
) -> int:
    """Write all rows of a version to a file and return how many they are.

    Args:
        store: Its name.
        to: `.parquet` and `.csv` are overwritten; in a `.duckdb` file the table named as the store is replaced. Whatever goes wrong, what
            was there before stays.
        version: Default: the one that serves.
        on_read: Called at the end.

    Raises:
        NotFound: No such store or version, or it has none that serves; or no such folder to write to.
        InvalidRequest: The file's ending says no format.
        Full: The disk is full.
        Corrupt: The snapshot is damaged.
        Unavailable: The log cannot be reached.
    """
    target = Path(to)
    if target.suffix not in FORMATS:
        raise InvalidRequest(f"{target} has no ending that says how to write it", hint=f"use one of {', '.join(FORMATS)}")
    if not target.absolute().parent.is_dir():
        raise NotFound(f"no folder {target.absolute().parent}", hint="make it first")
    if target.is_dir():
        raise InvalidRequest(f"{target} is a folder", hint="name a file that is not there yet, or one to replace")
    write = _to_database if target.suffix == ".duckdb" else _to_file
    count, read = _retried(settings, store, version, lambda rows: write(rows, target, store))
    on_read(read)
    return count


class Rows:
    """The rows of one version, read once.

    Args:
        store: The store.
        version: One of its versions that has a snapshot.
        served: That version, as replicas of our own.
    """

    def __init__(self, store: Store, version: Version, served: ServedVersion) -> None:
        self._served = served
        self._of = f"{store.name} version {version.number}"
        schemas = {schema.id: schema.text for schema in store.value_schemas}
        self._schema_id = version.value_schema_id if version.hybrid is None else max(schemas, default=0)
        if self._schema_id not in schemas:
            raise Corrupt(f"{self._of} is of value schema {self._schema_id}, which the store lacks", hint="inspect the catalog")
        self._schemas = schemas
        wanted = self._wanted = schemas[self._schema_id]
        self._key = ColumnDecoder(store.key_schema)
        self._value = ColumnDecoder(wanted)
        self._encode = Codec(wanted).encode
        self._prefix = value_prefix(self._schema_id)
        self._unpack = unpacker_of(version)
        self.schema = pa.schema(_columns(parse(store.key_schema), self._key.arrow_schema, self._value.arrow_schema))
        self.as_of = AsOf(store.name, version.number, served.ends)
        self.failure: VeniceError | None = None
        """Why reading broke off: DuckDB tells only that it did."""

    def reader(self) -> pa.RecordBatchReader:
        """The rows as a stream of record batches, by partition and key."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for partition in self._served.partitions:
                with self._served.partition(partition) as storage:
                    yield from self._decoded(storage.scan())
        except VeniceError as error:
            self.failure = error
            raise

    def _decoded(self, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[pa.RecordBatch]:
        prefix, size = self._prefix, len(self._prefix)
        while chunk := list(islice(pairs, BATCH_ROWS)):
            keys, values = zip(*chunk, strict=True)
            unpack = self._unpack
            if unpack is None:
                yield self._batch(keys, [stored[size:] if stored[:size] == prefix else self._payload(stored) for stored in values])
            else:
                yield self._batch(keys, [unpack(stored[size:]) if stored[:size] == prefix else self._payload(stored) for stored in values])

    def _payload(self, stored: bytes) -> bytes:
        """The Avro bytes, in the schema of the columns, of a stored value that has a time of its own or was written in another one."""
        found = decode_value(stored)
        data = stored[found.offset :]
        payload = data if self._unpack is None else self._unpack(data)
        if found.schema_id == self._schema_id:
            return payload
        written = self._schemas.get(found.schema_id)
        if written is None:
            raise Corrupt(
                f"a value of {self._of} is of schema {found.schema_id}, not {', '.join(map(str, self._schemas))}",
                hint="'venice inspect snapshot --check' looks for damage, 'venice inspect lag' for values of unregistered schemas",
            )
        # Asked for here, because most versions hold values of one schema, and kept there: a lookup in a cache is little beside it.
        return self._encode(reader(written, self._wanted)(payload, 0))

    def _batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> pa.RecordBatch:
        columns = [*self._key.decode(keys).columns, *self._value.decode(values).columns]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _retried(settings: Settings, name: str, number: int | None, use: Callable[[Rows], T]) -> tuple[T, AsOf]:
    """`use` of a version's rows, and what they are as of; anew if what they are made of went while they were read: the version was
    retired, or a newer checkpoint took the place of one and its topic was trimmed."""
    clock = SystemClock()
    for attempt in range(_TRIES):
        catalog = read_catalog(settings)
        store, version = _sealed(catalog, name, number)
        with _scratch(settings) as folder, closing(open_existing_log(settings)) as log:
            try:
                checkpoints = [catalog.kept(name, version.number, partition) for partition in range(version.partition_count)]
                rows = Rows(store, version, ServedVersion(name, version, checkpoints, log, clock, Path(folder)))
                return use(rows), rows.as_of
            except (NotFound, Corrupt, Unavailable):
                current = read_catalog(settings).stores.get(name)
                there = current is not None and current.version(version.number) is not None
                if attempt == _TRIES - 1 or (there and version.hybrid is None):
                    raise
    raise AssertionError("the last try returns or raises")


def _sealed(catalog: Catalog, name: str, number: int | None) -> tuple[Store, Version]:
    store = catalog.stores.get(name)
    if store is None:
        raise NotFound(f"no store {name!r}", hint=f"stores: {', '.join(sorted(catalog.stores)) or 'none yet'}")
    version = store.version(store.current if number is None else number)
    if version is None or version.snapshot is None:
        if number is None:
            raise NotFound(f"store {name!r} has no version that serves", hint=f"'venice push {name}' makes one")
        there = ", ".join(str(version.number) for version in store.versions if version.snapshot is not None)
        raise NotFound(f"store {name!r} has no version {number}", hint=f"versions with rows: {there or 'none'}")
    return store, version


def _scratch(settings: Settings) -> tempfile.TemporaryDirectory[str]:
    """A folder for the time of a call, on the disk of the data."""
    return tempfile.TemporaryDirectory(prefix=".sql-", dir=settings.data if settings.data.is_dir() else None)


def _load(rows: Rows, connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Make the rows a table of the name of their store."""
    with _told_by(rows, f"the table {name}"):
        connection.register("rows of the store", rows.reader())
        connection.execute(f'CREATE OR REPLACE TABLE {_identifier(name)} AS FROM "rows of the store"')
        connection.unregister("rows of the store")


def _mentioned(connection: duckdb.DuckDBPyConnection, sql: str, stores: Mapping[str, Store]) -> list[str]:
    """The stores whose rows a query may need."""
    try:
        named = {name.lower() for name in connection.get_table_names(sql)}
    except duckdb.Error:
        # Not a single SELECT (PIVOT, several statements), or wrong: then every store whose name stands in it.
        return [name for name in stores if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sql, re.IGNORECASE)]
    return [name for name in stores if name.lower() in named]


def _to_file(rows: Rows, target: Path, store: str) -> int:
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with duckdb.connect() as connection, _told_by(rows, target):
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("version", rows.reader())
            copied = connection.execute(f"COPY version TO {_quoted(unfinished)} ({FORMATS[target.suffix]})").fetchone()
        os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    assert copied is not None, "COPY answers how many rows it wrote"
    return int(copied[0])


def _to_database(rows: Rows, target: Path, store: str) -> int:
    was_there = target.exists()
    try:
        with _told_by(rows, target), duckdb.connect(target) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("version of the store", rows.reader())
            # One statement is one transaction: the table that was there stays until the new one is whole.
            connection.execute(f'CREATE OR REPLACE TABLE {_identifier(store)} AS FROM "version of the store"')
            counted = connection.execute(f"SELECT count(*) FROM {_identifier(store)}").fetchone()
    except VeniceError:
        if not was_there:
            target.unlink(missing_ok=True)
        raise
    assert counted is not None, "a count is one row"
    return int(counted[0])


@contextmanager
def _told_by(rows: Rows, target: Path | str) -> Iterator[None]:
    """Errors of DuckDB while it writes `rows`, as ours."""
    try:
        yield
    except duckdb.Error as error:
        if rows.failure is not None:
            raise rows.failure from error
        if "No space left" in str(error) or isinstance(error, duckdb.OutOfMemoryException):
            raise Full(f"{target} could not be written: {_first_line(error)}", hint="make room, or export elsewhere") from error
        raise InvalidRequest(f"{target} could not be written: {_first_line(error)}", hint="choose another file") from error


def _columns(key: Schema, keys: pa.Schema, values: pa.Schema) -> list[pa.Field]:
    # What is no record decodes to one column `value`, on either side.
    named = list(keys) if isinstance(key.resolve(key.root), Record) else [keys.field(0).with_name(KEY_COLUMN)]
    taken = {field.name for field in named}
    return [*named, *(field.with_name(f"value_{field.name}") if field.name in taken else field for field in values)]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
