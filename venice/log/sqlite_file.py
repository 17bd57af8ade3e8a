"""The files of the embedded log: what one connection to one of them can do, and the doorbell beside them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from venice.clock import Clock
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log.file_watch import FileWatch, watch_file

T = TypeVar("T")

FORMAT_VERSION = 1
APPLICATION_ID = 0x564E4C47  # "VNLG" in the file's header: tells our files from other people's SQLite files.

# A record's row id is partition ‖ offset, so that a partition lies together and in order and needs no second index.
OFFSET_BITS = 44

BUSY_S = 10.0  # How long to wait for another process's transaction; those take milliseconds.
BUSY_POLL_S = 0.0005
DELETE_ROWS = 10_000  # Rows deleted per transaction: keeps appends waiting for some 10 ms at most.

BELL_SLOTS = 512
BELL_BYTES = 8

_TOPIC_TABLES = """
CREATE TABLE partition (
  number INTEGER PRIMARY KEY, start_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL);
CREATE TABLE record (id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, payload BLOB NOT NULL);
"""
_STATE = "SELECT start_offset, next_offset, timestamp_ms FROM partition WHERE number = ?"


class Gone(Exception):
    """The topic of the file was deleted. Never leaves the package: whoever catches it knows whether that is an error."""


class SqliteFile:
    """A SQLite file of ours behind one connection; threads that share it take `lock` around each call.

    Args:
        path: The file.
        clock: Waits for other processes' transactions.
        create: Tables to make if the file is missing or empty; without them it must be there.
        write_ahead_log: Of a file being created: readers then never wait for writers.
        busy_s: How long to wait for another process's transaction.
    """

    def __init__(self, path: Path, clock: Clock, *, create: str = "", write_ahead_log: bool = False, busy_s: float = BUSY_S) -> None:
        self.path = path
        self.lock = threading.Lock()
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        try:
            self._db = apsw.Connection(str(path), flags=flags)
        except apsw.Error as error:
            raise _translated(error, path, 0) from error
        try:
            self._db.set_busy_handler(_busy_handler(clock, busy_s))
            try:
                self._db.pragma("synchronous", "FULL")
                if write_ahead_log:
                    self._db.pragma("journal_mode", "WAL")
            except apsw.Error as error:
                raise _translated(error, path, self._db.system_errno) from error
            if create:
                self.run("BEGIN IMMEDIATE", lambda db: _make_tables(db, create))
            self.run("BEGIN", lambda db: _check_format(db, path))
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        with self.lock:
            self._db.close()

    def run(self, begin: str, operate: Callable[[apsw.Connection], T]) -> T:
        """`operate` within a transaction, rolled back if it raises.

        Raises:
            Full, Corrupt, Unavailable, InvalidRequest: What SQLite said, in our terms, naming the file.
            Gone: The connection was closed meanwhile.
        """
        db = self._db
        try:
            db.execute(begin)
            try:
                result = operate(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            return result
        except apsw.ConnectionClosedError:
            raise Gone from None
        except apsw.Error as error:
            raise _translated(error, self.path, db.system_errno) from error


class TopicFile(SqliteFile):
    """The records of one topic. Every call raises Gone once the topic is deleted: one that exists has partitions."""

    def __init__(self, topic: str, path: Path, clock: Clock, *, busy_s: float = BUSY_S) -> None:
        super().__init__(path, clock, busy_s=busy_s)
        try:
            # Also opens the write-ahead log now, while the path certainly belongs to this topic.
            self.partitions = self.run("BEGIN", lambda db: len(db.execute("SELECT number FROM partition").fetchall()))
            if not self.partitions:
                raise Gone
        except BaseException:
            self.close()
            raise
        self.topic = topic

    def append(self, partition: int, payloads: Sequence[bytes], now_ms: int) -> list[int]:
        base = self._base(partition)

        def insert(db: apsw.Connection) -> list[int]:
            _, start, timestamp_ms = _state(db, partition)
            end = start + len(payloads)
            timestamp_ms = max(timestamp_ms, now_ms)
            rows = zip(range(base + start, base + end), itertools.repeat(timestamp_ms), payloads, strict=False)
            db.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
            db.execute("UPDATE partition SET next_offset = ?, timestamp_ms = ? WHERE number = ?", (end, timestamp_ms, partition))
            return list(range(start, end))

        return self.run("BEGIN IMMEDIATE", insert)

    def range(self, partition: int) -> tuple[int, int]:
        """(start, end) offset."""
        self._base(partition)
        return self.run("BEGIN", lambda db: _state(db, partition)[:2])

    def ends(self) -> dict[int, int]:
        """The end offset of every partition."""

        def look(db: apsw.Connection) -> dict[int, int]:
            found: Any = db.execute("SELECT number, next_offset FROM partition")
            ends = dict(found)
            if not ends:
                raise Gone
            return ends

        return self.run("BEGIN", look)

    def offset_for_time(self, partition: int, timestamp_ms: int) -> int:
        base = self._base(partition)

        def search(db: apsw.Connection) -> int:
            # Timestamps never decrease within a partition, so a bisection needs no index on them.
            low, high, _ = _state(db, partition)
            while low < high:
                middle = (low + high) // 2
                sql = "SELECT id, timestamp_ms FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT 1"
                row: Any = db.execute(sql, (base + middle, base + high)).fetchone()
                if row is None or row[1] >= timestamp_ms:
                    high = middle
                else:
                    low = row[0] - base + 1
            return low

        return self.run("BEGIN", search)

    def move_start(self, partition: int, before_offset: int) -> None:
        """Hide the records before `before_offset`; `delete_some` then removes them bit by bit."""
        self._base(partition)

        def move(db: apsw.Connection) -> None:
            start, end, _ = _state(db, partition)
            if before_offset > end:
                raise InvalidRequest(
                    f"cannot delete records before {before_offset} of {self.topic}[{partition}], which ends at {end}",
                    hint="name an offset up to its end",
                )
            if before_offset > start:
                db.execute("UPDATE partition SET start_offset = ? WHERE number = ?", (before_offset, partition))

        self.run("BEGIN IMMEDIATE", move)

    def delete_some(self, partition: int) -> bool:
        """Delete some of the rows before the start offset; whether there may be more."""
        base = self._base(partition)

        def delete(db: apsw.Connection) -> bool:
            start = _state(db, partition)[0]
            sql = "DELETE FROM record WHERE id IN (SELECT id FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)"
            db.execute(sql, (base, base + start, DELETE_ROWS))
            return db.changes() == DELETE_ROWS

        return self.run("BEGIN IMMEDIATE", delete)

    def mark_deleted(self) -> None:
        """Tell everybody who has the file open that the topic is no more."""
        self.run("BEGIN IMMEDIATE", lambda db: db.execute("DELETE FROM partition"))

    def read(self, partitions: Sequence[int], take: Callable[[dict[int, tuple[int, int]], RowSource], T]) -> T:
        """`take` with the (start, end) of each partition and a source of their rows, all as of one moment."""

        def snapshot(db: apsw.Connection) -> T:
            if len(partitions) <= 4:
                ranges = {partition: _state(db, partition)[:2] for partition in partitions}
            else:
                rows: Any = db.execute("SELECT number, start_offset, next_offset FROM partition")
                everyone = {number: (start, end) for number, start, end in rows}
                if not everyone:
                    raise Gone
                ranges = {partition: everyone[partition] for partition in partitions}
            return take(ranges, RowSource(db))

        return self.run("BEGIN", snapshot)

    def _base(self, partition: int) -> int:
        if not 0 <= partition < self.partitions:
            raise NotFound(
                f"topic {self.topic!r} has no partition {partition}", hint=f"it has {self.partitions}, counted from 0", topic=self.topic
            )
        return partition << OFFSET_BITS


class RowSource:
    """Rows of a topic's file, within the transaction of `TopicFile.read`."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def rows(self, partition: int, start: int, end: int, limit: int) -> Any:
        """Iterator of (offset, timestamp_ms, payload) with start ≤ offset < end, ascending."""
        base = partition << OFFSET_BITS
        sql = "SELECT id - ?, timestamp_ms, payload FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        return self._db.execute(sql, (base, base + start, base + end, limit))


class Doorbell:
    """A file of slots that appenders write to and readers compare; a topic has a slot, which it may share.

    Every ring writes a number that was not there before, so a change is never missed by who looks before it reads.
    The file is read with `pread`, not mapped: on a full disk a mapped hole would kill the process.
    """

    def __init__(self, path: Path, seed: str) -> None:
        self._path = path
        self._seed = seed
        self._numbers = itertools.count(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=BELL_BYTES).digest()))
        self._lock = threading.Lock()
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def again(self) -> Doorbell:
        """The same bell through a file descriptor of its own."""
        return Doorbell(self._path, self._seed)

    def slot(self, topic: str) -> slice:
        """Where to find the topic in what `rings` returns."""
        start = zlib.crc32(topic.encode()) % BELL_SLOTS * BELL_BYTES
        return slice(start, start + BELL_BYTES)

    def ring(self, topic: str) -> None:
        number = (next(self._numbers) & ((1 << 8 * BELL_BYTES) - 1)).to_bytes(BELL_BYTES)
        # The lock keeps a descriptor that `close` has given back from being written to. A failed ring (a full disk) only
        # makes readers find the record at their next unprompted look.
        with self._lock, suppress(OSError):
            if self._file is not None:
                os.pwrite(self._file, number, self.slot(topic).start)

    def watch(self) -> FileWatch | None:
        """Tells when any topic's bell rings, where the system can."""
        return watch_file(self._path)

    def rings(self) -> bytes:
        assert self._file is not None, "the doorbell is closed"
        return os.pread(self._file, BELL_SLOTS * BELL_BYTES, 0)

    def close(self) -> None:
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)


def create_topic_file(path: Path, partitions: int, clock: Clock) -> None:
    """A new, closed file of an empty topic, safely on disk. Nothing is left behind if that fails."""
    try:
        file = SqliteFile(path, clock, create=_TOPIC_TABLES, write_ahead_log=True)
        try:
            numbers = [(number,) for number in range(partitions)]
            file.run("BEGIN IMMEDIATE", lambda db: db.executemany("INSERT INTO partition VALUES (?, 0, 0, 0)", numbers))
        finally:
            file.close()
        sync_folder(path.parent)
    except BaseException:
        remove_file(path)
        raise


def remove_file(path: Path) -> None:
    """Remove a SQLite file and what SQLite keeps beside it."""
    for suffix in ("-journal", "-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def os_error(error: OSError, path: Path) -> VeniceError:
    """What the operating system said of `path`, in our terms."""
    if error.errno in _FULL:
        return Full(f"no space left for {path}", hint="free some, then try again")
    return InvalidRequest(f"cannot use {path}: {error.strerror}", hint="check the path and its permissions")


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _translated(error: apsw.Error, path: Path, system_errno: int) -> VeniceError:
    match error:
        case apsw.CorruptError() | apsw.NotADBError() | apsw.SQLError() | apsw.FormatError():
            return Corrupt(f"{path} is damaged or not a file of the Venice log: {error}", hint="restore it from a copy")
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable(f"{path} is held by another process for too long", hint="find the process that is stopped")
        case apsw.FullError():
            return Full(f"no space left for {path}", hint="free some, then try again")
        case apsw.IOError() if system_errno in _FULL:
            return Full(f"no space left for {path}", hint="free some, then try again")
        case apsw.TooBigError():
            return InvalidRequest(f"a record for {path} is too large", hint="split it")
    return Unavailable(f"cannot use {path}: {error}", hint="check the disk, the permissions and the limit of open files")


def _busy_handler(clock: Clock, busy_s: float) -> Callable[[int], bool]:
    """Waits in short even steps: SQLite's own handler grows them to 100 ms, which starves some of several appenders."""
    since_s = 0.0

    def wait(calls: int) -> bool:
        nonlocal since_s
        if calls == 0:
            since_s = clock.monotonic_s()
        elif clock.monotonic_s() - since_s > busy_s:
            return False
        clock.sleep(BUSY_POLL_S)
        return True

    return wait


def _make_tables(db: apsw.Connection, tables: str) -> None:
    if db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None:
        db.execute(f"{tables}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT_VERSION}")


def _check_format(db: apsw.Connection, path: Path) -> None:
    application, version = db.pragma("application_id"), db.pragma("user_version")
    if application != APPLICATION_ID:
        raise Corrupt(f"{path} is not a file of the Venice log", hint="restore it from a copy")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InvalidRequest(
            f"{path} has format version {version}; this Venice reads up to {FORMAT_VERSION}", hint="upgrade Venice on this machine"
        )


def _state(db: apsw.Connection, partition: int) -> tuple[int, int, int]:
    """(start offset, next offset, last timestamp)."""
    row: tuple[int, int, int] | None = db.execute(_STATE, (partition,)).fetchone()
    if row is None:
        raise Gone
    return row
