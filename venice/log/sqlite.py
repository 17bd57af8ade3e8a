"""The embedded log: topics as SQLite files in one folder, shared by all processes of one machine.

`topics.db` says which topics there are; `<topic>@<id>.db` holds the records of one. Every append is one transaction
that ends in an fsync, so an acknowledged record survives a SIGKILL (and a power loss, if the disk keeps its word).
Readers learn of appends from a third file, `doorbell`, which costs them one small `pread` however many topics they
tail. `docs/decisions/0002-embedded-log.md` says why it is built so.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from venice.clock import Clock
from venice.errors import Conflict, Corrupt, InvalidRequest, NotFound, VeniceError
from venice.log import PARTITIONS_MAX, PAYLOAD_BYTES_MAX, Batch
from venice.log.sqlite_file import BUSY_S, Doorbell, Gone, SqliteFile, TopicFile, create_topic_file, os_error, remove_file, sync_folder
from venice.log.sqlite_reader import SqliteReader
from venice.naming import check_topic_name

T = TypeVar("T")

_INDEX_TABLES = "CREATE TABLE topic (name TEXT PRIMARY KEY, id TEXT NOT NULL, partitions INTEGER NOT NULL) WITHOUT ROWID"


class Appended:
    """Batches that were appended, or refused, already."""

    is_done = True

    def __init__(self, refusals: list[VeniceError | None]) -> None:
        self._refusals = refusals

    def refusals(self) -> list[VeniceError | None]:
        return self._refusals


def _random_id() -> str:
    return secrets.token_hex(16)


class SqliteLog:
    """The `Log` of one folder; threads may share it, every process opens its own.

    A process that forks must open the log again in the child: SQLite's locks do not survive a fork.

    Args:
        folder: Made if it is missing.
        clock: Gives records their timestamps; used for all waiting.
        new_id: Makes the ids of topics: unique for ever, letters and digits, at most 32.
        busy_s: How long a call waits for a process that holds a file before it is Unavailable.
    """

    def __init__(self, folder: Path, clock: Clock, *, new_id: Callable[[], str] = _random_id, busy_s: float = BUSY_S) -> None:
        self._folder = folder
        self._busy_s = busy_s
        self._clock = clock
        self._new_id = new_id
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[str, TopicFile] = {}
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._bell = Doorbell(folder / "doorbell", new_id())
            self._index = SqliteFile(folder / "topics.db", clock, create=_INDEX_TABLES, busy_s=busy_s)
            sync_folder(folder)
        except OSError as error:
            raise os_error(error, folder) from error

    def create_topic(self, topic: str, partitions: int) -> str:
        check_topic_name(topic)
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise InvalidRequest(f"topic {topic!r} cannot have {partitions} partitions", hint=f"use 1 to {PARTITIONS_MAX}")

        def create(index: apsw.Connection) -> tuple[str, int]:
            found = _lookup(index, topic)
            if found is None:
                self._remove_unlisted(index, topic)
                found = self._new_id(), partitions
                create_topic_file(self._path(topic, found[0]), partitions, self._clock)
                index.execute("INSERT INTO topic VALUES (?, ?, ?)", (topic, *found))
            return found

        topic_id, existing = self._on_index("BEGIN", lambda index: _lookup(index, topic)) or self._on_index("BEGIN IMMEDIATE", create)
        if existing != partitions:
            raise Conflict(
                f"topic {topic!r} exists with {existing} partitions, not {partitions}",
                hint="a topic keeps its number of partitions: use another name, or delete it first",
                topic=topic,
            )
        return topic_id

    def delete_topic(self, topic: str) -> None:
        check_topic_name(topic)
        with self._lock:
            file = self._files.pop(topic, None)
        if file is not None:
            file.close()
        # The name goes first: were this process killed here, the next create or delete of the name would finish the
        # work. The other way round, a topic would be listed that cannot be opened.
        self._on_index("BEGIN IMMEDIATE", lambda index: index.execute("DELETE FROM topic WHERE name = ?", (topic,)))
        self._on_index("BEGIN IMMEDIATE", lambda index: self._remove_unlisted(index, topic))
        self._bell.ring(topic)

    def topics(self) -> list[str]:
        rows: list[Any] = self._on_index("BEGIN", lambda index: index.execute("SELECT name FROM topic ORDER BY name").fetchall())
        return [name for (name,) in rows]

    def topic_id(self, topic: str) -> str:
        return self._find(topic)[0]

    def partitions(self, topic: str) -> int:
        return self._find(topic)[1]

    def append(self, topic: str, partition: int, payloads: Sequence[bytes]) -> list[int]:
        for payload in payloads:
            if len(payload) > PAYLOAD_BYTES_MAX:
                raise InvalidRequest(
                    f"a record of {len(payload)} bytes for topic {topic!r} is too large", hint=f"the log takes {PAYLOAD_BYTES_MAX} bytes"
                )
        offsets = self._on_topic(topic, lambda file: file.append(partition, payloads, self._clock.now_ms()))
        if offsets:
            self._bell.ring(topic)
        return offsets

    def append_batches(self, batches: Sequence[Batch]) -> Appended:
        return Appended([self._refusal(batch) for batch in batches])

    def _refusal(self, batch: Batch) -> VeniceError | None:
        try:
            self.append(*batch)
        except VeniceError as error:
            return error
        return None

    def start_offset(self, topic: str, partition: int) -> int:
        return self._on_topic(topic, lambda file: file.range(partition)[0])

    def end_offset(self, topic: str, partition: int) -> int:
        return self._on_topic(topic, lambda file: file.range(partition)[1])

    def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        by_topic: dict[str, list[int]] = {}
        for topic, partition in partitions:
            by_topic.setdefault(topic, []).append(partition)
        ends: dict[tuple[str, int], int] = {}
        for topic, asked in by_topic.items():
            with suppress(NotFound):
                found = self._on_topic(topic, lambda file: file.ends())
                ends.update({(topic, partition): found[partition] for partition in asked if partition in found})
        return ends

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        return self._on_topic(topic, lambda file: file.offset_for_time(partition, timestamp_ms))

    def delete_prefix(self, topic: str, partition: int, before_offset: int) -> None:
        self._on_topic(topic, lambda file: file.move_start(partition, before_offset))
        while self._on_topic(topic, lambda file: file.delete_some(partition)):
            pass

    def reader(self, offsets: Mapping[tuple[str, int], int] | None = None) -> SqliteReader:
        self._check_usable()
        reader = SqliteReader(self._open_file, self._bell.again(), self._clock)
        try:
            for (topic, number), offset in (offsets or {}).items():
                reader.assign(topic, number, offset)
        except BaseException:
            reader.close()
            raise
        return reader

    def close(self) -> None:
        """Close the log; readers are closed by those who made them. Closing again does nothing."""
        with self._lock:
            self._closed = True
            files, self._files = self._files, {}
        for file in files.values():
            file.close()
        self._index.close()
        self._bell.close()

    def _open_file(self, topic: str) -> TopicFile:
        """The topic's file behind a new connection. Raises NotFound."""
        while True:
            self._check_usable()
            topic_id, _ = self._find(topic)
            path = self._path(topic, topic_id)
            if path.exists():
                with suppress(Gone):
                    return TopicFile(topic, path, self._clock, busy_s=self._busy_s)
            elif self._find(topic)[0] == topic_id:
                raise Corrupt(
                    f"{path} is missing, although topics.db lists the topic {topic!r}",
                    hint="put the file back, or delete the topic if its records can be made again",
                )

    def _find(self, topic: str) -> tuple[str, int]:
        found = self._on_index("BEGIN", lambda index: _lookup(index, topic))
        if found is None:
            hint = "'venice inspect topic' lists those that are there"
            raise NotFound(f"there is no topic {topic!r} in {self._folder}", hint=hint, topic=topic)
        return found

    def _on_topic(self, topic: str, operate: Callable[[TopicFile], T]) -> T:
        """`operate` on the topic's file; on the new one, if the topic was deleted and created again meanwhile."""
        while True:
            self._check_usable()
            file = self._files.get(topic) or self._cached(topic)
            try:
                with file.lock:
                    return operate(file)
            except Gone:
                with self._lock:
                    if self._files.get(topic) is file:
                        del self._files[topic]
                file.close()

    def _cached(self, topic: str) -> TopicFile:
        opened = self._open_file(topic)
        with self._lock:
            file = opened if self._closed else self._files.setdefault(topic, opened)
        if file is not opened or self._closed:
            opened.close()
        return file

    def _on_index(self, begin: str, operate: Callable[[apsw.Connection], T]) -> T:
        self._check_usable()
        try:
            with self._index.lock:
                return self._index.run(begin, operate)
        except Gone:
            self._check_usable()
            raise
        except OSError as error:
            raise os_error(error, self._folder) from error

    def _check_usable(self) -> None:
        if self._closed:
            raise InvalidRequest(f"the log in {self._folder} is closed", hint="open it again")
        if os.getpid() != self._process:
            raise InvalidRequest(f"the log in {self._folder} was opened before a fork", hint="open it again in the child process")

    def _path(self, topic: str, topic_id: str) -> Path:
        return self._folder / f"{topic}@{topic_id}.db"

    def _remove_unlisted(self, index: apsw.Connection, topic: str) -> None:
        """Remove the topic's files that the index does not list, and tell those who have them open."""
        listed = _lookup(index, topic)
        for path in self._folder.glob(f"{topic}@*.db"):
            if listed is not None and path == self._path(topic, listed[0]):
                continue
            # A damaged one goes all the same. One held by a process that is stopped must stay for now: unmarked, that
            # process would append to a file that nobody can find.
            with suppress(Gone, Corrupt):
                file = TopicFile(topic, path, self._clock, busy_s=self._busy_s)
                try:
                    file.mark_deleted()
                finally:
                    file.close()
            remove_file(path)


def _lookup(index: apsw.Connection, topic: str) -> tuple[str, int] | None:
    """(id, partitions) of a topic."""
    row: tuple[str, int] | None = index.execute("SELECT id, partitions FROM topic WHERE name = ?", (topic,)).fetchone()
    return row
