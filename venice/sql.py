"""DuckDB over stores: query them as tables, export a version to a file.

Read path beside the servers: catalog → sealed snapshot → **Arrow → DuckDB**. No process of the cluster takes part: the catalog
is read from the log, and the snapshot's partitions are attached, by links, as replicas of our own that live as long as the call.

A store's columns are the fields of its key, then of its value; a key or value that is no record is the column `key` or
`value`. A value field named as a key field is `value_<name>`. Times are in UTC. Of a hybrid store these are the rows that were
pushed: what was written in real time since is not among them.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import duckdb
import pyarrow as pa

from venice.config import Settings
from venice.control.reading import read_catalog
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, VeniceError
from venice.model import SnapshotRef, Store, Version
from venice.naming import replica_name
from venice.schema.columnar import ColumnDecoder
from venice.schema.parsing import parse
from venice.schema.types import Record, Schema
from venice.storage import Identity, PartitionStorage
from venice.storage.format import decode_value, value_prefix
from venice.storage.snapshot import attach, read_manifest

T = TypeVar("T")

BATCH_ROWS: Final = 16_384
KEY_COLUMN: Final = "key"
FORMATS: Final = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER", ".duckdb": ""}
_TRIES: Final = 3


def query(settings: Settings, sql: str) -> pa.Table:
    """The result of a query in DuckDB's SQL; the stores that it names are read as of now.

    Raises:
        NotFound: A table is no store, or a store has no version that serves.
        InvalidRequest: DuckDB cannot parse or run the query.
        Corrupt: A snapshot is damaged.
    """
    stores = read_catalog(settings).stores
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name in _mentioned(connection, sql, stores):
            connection.register(name, _retried(settings, name, None, lambda rows: rows.read_all()))
        try:
            return connection.execute(sql).to_arrow_table()
        except duckdb.CatalogException as error:
            raise NotFound(_first_line(error), hint=f"stores: {', '.join(sorted(stores)) or 'none yet'}") from error
        except duckdb.Error as error:
            raise InvalidRequest(_first_line(error), hint="mend the query; it is SQL of DuckDB") from error


def export(settings: Settings, store: str, *, to: Path | str, version: int | None = None) -> int:
    """Write all rows of a version to a file and return how many they are.

    Args:
        store: Its name.
        to: `.parquet` and `.csv` are overwritten; in a `.duckdb` file the table named as the store is replaced. Whatever goes wrong, what
            was there before stays.
        version: Default: the one that serves.

    Raises:
        NotFound: No such store or version, or it has none that serves; or no such folder to write to.
        InvalidRequest: The file's ending says no format.
        Full: The disk is full.
        Corrupt: The snapshot is damaged.
    """
    target = Path(to)
    if target.suffix not in FORMATS:
        raise InvalidRequest(f"{target} has no ending that says how to write it", hint=f"use one of {', '.join(FORMATS)}")
    if not target.absolute().parent.is_dir():
        raise NotFound(f"no folder {target.absolute().parent}", hint="make it first")
    write = _to_database if target.suffix == ".duckdb" else _to_file
    return _retried(settings, store, version, lambda rows: write(rows, target, store))


class Rows:
    """The rows of one version, read once, from replicas that exist inside `with`.

    Args:
        store: The store.
        version: One of its versions that has a snapshot.
        ref: That snapshot.
        folder: Where to attach it, on the snapshot's disk if possible.
    """

    def __init__(self, store: Store, version: Version, ref: SnapshotRef, folder: Path) -> None:
        self._store = store
        self._version = version
        self._ref = ref
        self._folder = folder
        self._manifest = read_manifest(ref)
        value_schema = next((schema.text for schema in store.value_schemas if schema.id == version.value_schema_id), None)
        if value_schema is None:
            raise Corrupt(
                f"{store.name} version {version.number} is of value schema {version.value_schema_id}, which the store lacks",
                hint="inspect the catalog",
            )
        self._key = ColumnDecoder(store.key_schema)
        self._value = ColumnDecoder(value_schema)
        self._prefix = value_prefix(version.value_schema_id)
        self.schema = pa.schema(_columns(parse(store.key_schema), self._key.arrow_schema, self._value.arrow_schema))
        self.failure: VeniceError | None = None
        """Why reading broke off: DuckDB tells only that it did."""

    def reader(self) -> pa.RecordBatchReader:
        """The rows as a stream of record batches, by partition and key."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def read_all(self) -> pa.Table:
        """All rows in memory."""
        return pa.Table.from_batches(self._batches(), self.schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for partition in range(self._manifest.partition_count):
                if self._manifest.of(partition):
                    with self._attached(partition) as storage:
                        yield from self._decoded(storage.scan())
        except VeniceError as error:
            self.failure = error
            raise

    @contextmanager
    def _attached(self, partition: int) -> Iterator[PartitionStorage]:
        name = replica_name(self._store.name, self._version.number, partition)
        identity = Identity(
            store=self._store.name,
            version=self._version.number,
            partition=partition,
            topic_id=self._version.topic_id,
            incarnation="sql",
            snapshot_sha256=self._ref.sha256,
        )
        storage = attach(self._ref, self._manifest, identity, self._folder / name)
        try:
            yield storage
        finally:
            storage.close()

    def _decoded(self, pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[pa.RecordBatch]:
        prefix, size = self._prefix, len(self._prefix)
        while chunk := list(islice(pairs, BATCH_ROWS)):
            keys, values = zip(*chunk, strict=True)
            yield self._batch(keys, [stored[size:] if stored[:size] == prefix else self._payload(stored) for stored in values])

    def _payload(self, stored: bytes) -> bytes:
        """The Avro bytes of a stored value that has a time of its own."""
        found = decode_value(stored)
        if found.schema_id != self._version.value_schema_id:
            raise Corrupt(
                f"a value of {self._store.name} version {self._version.number} is of schema {found.schema_id}, "
                f"not {self._version.value_schema_id}",
                hint="'venice inspect snapshot --check' looks for damage",
            )
        return stored[found.offset :]

    def _batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> pa.RecordBatch:
        columns = [*self._key.decode(keys).columns, *self._value.decode(values).columns]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def _retried(settings: Settings, name: str, number: int | None, use: Callable[[Rows], T]) -> T:
    """`use` of a version's rows; anew if the version was retired, and its snapshot deleted, while they were read."""
    for attempt in range(_TRIES):
        store, version, ref = _sealed(read_catalog(settings).stores, name, number)
        with tempfile.TemporaryDirectory(prefix=".sql-", dir=settings.data if settings.data.is_dir() else None) as folder:
            try:
                return use(Rows(store, version, ref, Path(folder)))
            except (NotFound, Corrupt):
                current = read_catalog(settings).stores.get(name)
                if attempt == _TRIES - 1 or (current is not None and current.version(version.number) is not None):
                    raise
    raise AssertionError("the last try returns or raises")


def _sealed(stores: Mapping[str, Store], name: str, number: int | None) -> tuple[Store, Version, SnapshotRef]:
    store = stores.get(name)
    if store is None:
        raise NotFound(f"no store {name!r}", hint=f"stores: {', '.join(sorted(stores)) or 'none yet'}")
    version = store.version(store.current if number is None else number)
    if version is None or version.snapshot is None:
        if number is None:
            raise NotFound(f"store {name!r} has no version that serves", hint=f"'venice push {name}' makes one")
        there = ", ".join(str(version.number) for version in store.versions if version.snapshot is not None)
        raise NotFound(f"store {name!r} has no version {number}", hint=f"versions with rows: {there or 'none'}")
    return store, version, version.snapshot


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
    table = '"' + store.replace('"', '""') + '"'
    try:
        with _told_by(rows, target), duckdb.connect(target) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("version of the store", rows.reader())
            # One statement is one transaction: the table that was there stays until the new one is whole.
            connection.execute(f'CREATE OR REPLACE TABLE {table} AS FROM "version of the store"')
            counted = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    except VeniceError:
        if not was_there:
            target.unlink(missing_ok=True)
        raise
    assert counted is not None, "a count is one row"
    return int(counted[0])


@contextmanager
def _told_by(rows: Rows, target: Path) -> Iterator[None]:
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


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
