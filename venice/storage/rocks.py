"""A replica in a RocksDB directory, tuned for reads of what fits in memory.

Read path: client → router → server → **storage**. Write path: push → snapshot → attach → ingest → **storage**.

One process owns the directory for its life; a second opener gets `Conflict`. A write survives SIGKILL once `apply` has
returned (the write-ahead log is on) and a power failure from the next flush on: a fold repeats what was lost, because
the position is written in the same batch as the records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Event, Lock
from typing import Any, cast
from weakref import WeakSet

from rocksdict import ColumnFamily, Rdict, WriteBatch

from venice.errors import Corrupt, NotFound, Unavailable
from venice.storage import Change, Identity, Image, Position
from venice.storage.format import IDENTITY_KEY, META, METADATA, POSITION_KEY, decode_identity, decode_position, encode_position
from venice.storage.tuning import open_rocks, translated

_CHUNK_ROWS = 256
"""Rows a scan reads at a time: as many may still be returned after `close`."""

_RELEASE_S = 0.001
"""Between tries to close what is being read: the longest reads take milliseconds."""


class RocksStorage:
    """One replica's storage. `venice.storage.snapshot.attach` makes one, `open_replica` opens it again."""

    def __init__(self, folder: Path) -> None:
        """Open a replica directory.

        Raises:
            NotFound: No such directory.
            Corrupt: It is not a replica, or RocksDB refuses what it finds.
            Conflict: It is open already, here or in another process.
        """
        if not folder.is_dir():
            raise NotFound(f"no replica at {folder}")
        self.folder = folder
        self._lock = Lock()
        self._applying = Lock()
        self._cursors: WeakSet[_Cursor] = WeakSet()
        self._closed = False
        self._rocks = open_rocks(folder)
        # Objects of column families keep the directory locked: `close` must drop every one of them.
        self._metadata: Rdict | None = None
        self._handles: tuple[ColumnFamily, ColumnFamily] | None = None
        try:
            self._metadata = self._rocks.get_column_family(METADATA)
            self._handles = (self._rocks.get_column_family_handle(METADATA), self._rocks.get_column_family_handle(META))
            self._has_metadata = next(iter(self._metadata.keys()), None) is not None
            self._identity, self._position = read_meta(self._rocks, folder)
        except Exception as error:
            self.close()
            raise translated(error, folder) from error

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def position(self) -> Position:
        return self._position

    @property
    def row_count(self) -> int:
        try:
            return self._rocks.property_int_value("rocksdb.estimate-num-keys") or 0
        except Exception as error:
            raise translated(error, self.folder) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._rocks.get(key)
        except Exception as error:
            raise translated(error, self.folder) from error

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]:
        return self._rocks.get

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            found: list[bytes | None] = self._rocks.get(keys if isinstance(keys, list) else list(keys))  # type: ignore[assignment]  # typed for one key
            return found
        except Exception as error:
            raise translated(error, self.folder) from error

    def get_metadata(self, key: bytes) -> bytes | None:
        if not self._has_metadata and not self._closed:
            return None
        try:
            return self._metadata_rocks().get(key)
        except Exception as error:
            raise translated(error, self.folder) from error

    def scan(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self._rocks, start)

    def scan_metadata(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._scan(self._metadata_rocks(), start)

    def image(self) -> Image:
        with self._applying:
            return Image(self._position, self.scan(), self.scan_metadata())

    def apply(self, mutations: Sequence[Change], position: Position) -> None:
        handles = self._handles
        if handles is None:
            raise _closed(self.folder)
        metadata_handle, meta_handle = handles
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value, metadata in mutations:
            if value is None:
                delete(key)
            else:
                put(key, value)
            if metadata is not None:
                put(key, metadata, metadata_handle)
                self._has_metadata = True
            elif self._has_metadata:  # most stores have none: removing nothing would double what they write
                delete(key, metadata_handle)
        put(POSITION_KEY, encode_position(position), meta_handle)
        with self._applying:
            try:
                self._rocks.write(batch)
            except Exception as error:
                raise translated(error, self.folder) from error
            self._position = position

    def flush(self) -> None:
        """Write what is in memory to files, so that who opens the directory beside this process has no log to go through."""
        meta = self._rocks.get_column_family(META)
        try:
            for family in (self._rocks, self._metadata_rocks(), meta):
                family.flush()
        except Exception as error:
            raise translated(error, self.folder) from error
        finally:
            meta.close()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            cursors = list(self._cursors)
        for cursor in cursors:
            cursor.drop()
        metadata, self._metadata, self._handles = self._metadata, None, None
        # From here on no read begins; those that have begun are waited for.
        rocks, self._rocks = self._rocks, cast(Rdict, _Closed(self.folder))
        if metadata is not None:
            _release(metadata)
        _release(rocks)

    def _metadata_rocks(self) -> Rdict:
        metadata = self._metadata
        if metadata is None:
            raise _closed(self.folder)
        return metadata

    def _scan(self, rocks: Rdict, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            if self._closed:
                raise _closed(self.folder)
            cursor = _Cursor(rocks, start, self.folder)
            self._cursors.add(cursor)
        return _rows(cursor)


class _Closed:
    """What stands in the place of a database that was closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        raise _closed(self._folder)


def _release(rocks: Rdict) -> None:
    """Close, as soon as no other thread is in the middle of a read: until then rocksdict refuses to."""
    while True:
        try:
            return rocks.close()
        except RuntimeError:
            Event().wait(_RELEASE_S)
        except Exception:  # noqa: BLE001 - of any kind: RocksDB repeats here the error that stopped its background work
            # Whoever wrote or read got it already, and the directory is released all the same.
            return None


class _Cursor:
    """Where a scan stands. The storage knows its cursors, because an open iterator keeps a closed directory locked."""

    def __init__(self, rocks: Rdict, start: bytes, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._last = start
        try:
            snapshot = rocks.snapshot()
            # `items` stops at an unreadable block as if the rows ended there; only `check`, asked afterwards, tells.
            self._open: tuple[Any, Any] | None = (snapshot.items(from_key=start), snapshot.iter())
        except Exception as error:
            raise translated(error, folder) from error

    def take(self) -> list[tuple[bytes, bytes]]:
        """The next rows; empty at the end. Raises Corrupt, Unavailable."""
        with self._lock:
            if self._open is None:
                raise _closed(self._folder)
            items, check = self._open
            try:
                rows = list(islice(items, _CHUNK_ROWS))
                if len(rows) < _CHUNK_ROWS:
                    last = rows[-1][0] if rows else self._last
                    check.seek(last)
                    if check.valid() and check.key() == last:
                        check.next()
                    check.status()
            except Exception as error:
                raise translated(error, self._folder) from error
            if check.valid() and len(rows) < _CHUNK_ROWS:
                raise Corrupt(f"scan of replica {self._folder} ended before its rows", hint="replace the replica by a fresh one")
            if rows:
                self._last = rows[-1][0]
            return rows

    def drop(self) -> None:
        with self._lock:
            self._open = None


def _rows(cursor: _Cursor) -> Iterator[tuple[bytes, bytes]]:
    while rows := cursor.take():
        yield from rows
    cursor.drop()


def read_meta(rocks: Rdict, folder: Path) -> tuple[Identity, Position]:
    """Which replica an open directory is, and how far it is folded. Raises Corrupt."""
    meta = rocks.get_column_family(META)
    try:
        identity, position = meta.get(IDENTITY_KEY), meta.get(POSITION_KEY)
    finally:
        meta.close()
    if identity is None or position is None:
        raise Corrupt(f"{folder} does not say which replica it is", hint="replace the replica by a fresh one")
    return decode_identity(identity), decode_position(position)


def _closed(folder: Path) -> Unavailable:
    return Unavailable(f"replica {folder} is closed", hint="look it up again")
