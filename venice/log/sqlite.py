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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from venice.clock import Clock
from venice.errors import Conflict, Corrupt, InvalidRequest, NotFound, VeniceError
from venice.log import PARTITIONS_MAX, PAYLOAD_BYTES_MAX, Entry
from venice.log.sqlite_file import Doorbell, Gone, RowSource, SqliteFile, TopicFile, create_topic_file, os_error, remove_file, sync_folder
from venice.naming import check_topic_name

T = TypeVar("T")

POLL_S = 0.001  # Between looks at the doorbell while records keep coming …
IDLE_POLL_S = 0.005  # … and when none has come for a second: under 1 % of a core.
IDLE_AFTER_S = 1.0
CHECK_ALL_S = 0.2  # Readers look without a ring so often, for appenders killed between their commit and their ring.
POLL_BYTES_MAX = 32 * 1024 * 1024  # A poll of large records stops here rather than fill the memory.

_INDEX_TABLES = "CREATE TABLE topic (name TEXT PRIMARY KEY, id TEXT NOT NULL, partitions INTEGER NOT NULL) WITHOUT ROWID"


def _random_id() -> str:
    return secrets.token_hex(16)


class SqliteLog:
    """The `Log` of one folder; threads may share it, every process opens its own.

    A process that forks must open the log again in the child: SQLite's locks do not survive a fork.

    Args:
        folder: Made if it is missing.
        clock: Gives records their timestamps; used for all waiting.
        new_id: Makes the ids of topics: unique for ever, letters and digits, at most 32.
    """

    def __init__(self, folder: Path, clock: Clock, *, new_id: Callable[[], str] = _random_id) -> None:
        self._folder = folder
        self._clock = clock
        self._new_id = new_id
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._files: dict[str, TopicFile] = {}
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._bell = Doorbell(folder / "doorbell", new_id())
            self._index = SqliteFile(folder / "topics.db", clock, create=_INDEX_TABLES)
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

    def start_offset(self, topic: str, partition: int) -> int:
        return self._on_topic(topic, lambda file: file.range(partition)[0])

    def end_offset(self, topic: str, partition: int) -> int:
        return self._on_topic(topic, lambda file: file.range(partition)[1])

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
                    return TopicFile(topic, path, self._clock)
            elif self._find(topic)[0] == topic_id:
                raise Corrupt(
                    f"{path} is missing, although topics.db lists the topic {topic!r}",
                    hint="put the file back, or delete the topic if its records can be made again",
                )

    def _find(self, topic: str) -> tuple[str, int]:
        found = self._on_index("BEGIN", lambda index: _lookup(index, topic))
        if found is None:
            raise NotFound(f"there is no topic {topic!r} in {self._folder}", hint="create it first", topic=topic)
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
                file = TopicFile(topic, path, self._clock)
                try:
                    file.mark_deleted()
                finally:
                    file.close()
            remove_file(path)


class SqliteReader:
    """The `Reader` of a `SqliteLog`, through connections of its own.

    Args:
        open_file: Opens a topic's file.
        bell: Closed with the reader.
        clock: Used for waiting.
    """

    def __init__(self, open_file: Callable[[str], TopicFile], bell: Doorbell, clock: Clock) -> None:
        self._open_file = open_file
        self._bell = bell
        self._clock = clock
        self._process = os.getpid()
        self._tails: dict[str, _Tail] = {}
        self._turn = 0
        self._rings = b""
        self._check_all_s = clock.monotonic_s()
        self._active_s = clock.monotonic_s()

    def assign(self, topic: str, partition: int, offset: int) -> None:
        tail = self._tails.get(topic) or _Tail(self._open_file(topic), self._bell.slot(topic))
        try:
            tail.assign(partition, offset)
        except BaseException:
            if topic not in self._tails:
                tail.file.close()
            raise
        self._tails[topic] = tail

    def unassign(self, topic: str, partition: int) -> None:
        tail = self._tails.get(topic)
        if tail is not None and tail.positions.pop(partition, None) is not None and not tail.positions:
            self._tails.pop(topic).file.close()

    def position(self, topic: str, partition: int) -> int:
        tail = self._tails.get(topic)
        if tail is None or partition not in tail.positions:
            raise NotFound(f"{topic}[{partition}] is not assigned to this reader", hint="assign it first", topic=topic)
        return tail.positions[partition]

    def poll(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> list[Entry]:
        assert records_max > 0, "a poll takes at least one record"
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            entries = self._take(records_max)
            now_s = self._clock.monotonic_s()
            if entries:
                self._active_s = now_s
                return entries
            if now_s >= deadline_s:
                return entries
            wait_s = IDLE_POLL_S if now_s - self._active_s > IDLE_AFTER_S else POLL_S
            self._clock.sleep(min(wait_s, deadline_s - now_s))

    def close(self) -> None:
        tails, self._tails = self._tails, {}
        for tail in tails.values():
            tail.file.close()
        self._bell.close()

    def _take(self, records_max: int) -> list[Entry]:
        if os.getpid() != self._process:
            raise InvalidRequest("this reader was opened before a fork", hint="open the log again in the child process")
        self._listen()
        stale = [tail for tail in self._tails.values() if tail.stale]
        batch = _Batch(records_max)
        if stale:
            self._turn += 1
            first = self._turn % len(stale)
            for tail in stale[first:] + stale[:first]:
                try:
                    tail.take(batch, self._turn)
                except VeniceError:
                    if batch.entries:
                        break  # What was read is handed out; the error is raised by a later call that reads nothing else.
                    raise
                if batch.full:
                    break
        return batch.entries

    def _listen(self) -> None:
        """Mark as stale the topics whose bell rang since the last look, or all of them when it is time to."""
        rings = self._bell.rings()
        now_s = self._clock.monotonic_s()
        check_all = now_s >= self._check_all_s
        if check_all:
            self._check_all_s = now_s + CHECK_ALL_S
        elif rings == self._rings:
            return
        for tail in self._tails.values():
            if check_all or rings[tail.slot] != self._rings[tail.slot]:
                tail.stale = True
        self._rings = rings


class _Tail:
    """How far a reader has read the partitions of one topic."""

    def __init__(self, file: TopicFile, slot: slice) -> None:
        self.file = file
        self.slot = slot
        self.positions: dict[int, int] = {}
        self.stale = True
        """Whether there may be something to read."""

    def assign(self, partition: int, offset: int) -> None:
        try:
            start, end = self.file.range(partition)
        except Gone:
            raise self._deleted() from None
        if not start <= offset <= end:
            raise InvalidRequest(
                f"{self.file.topic}[{partition}] cannot be read from offset {offset}: it has {start} to {end}",
                hint="start from its start offset, its end offset or one in between",
                topic=self.file.topic,
                partition=partition,
                start=start,
                end=end,
            )
        self.positions[partition] = offset
        self.stale = True

    def take(self, batch: _Batch, turn: int) -> None:
        """Fill the batch and move the positions along."""
        try:
            self.file.read(tuple(self.positions), lambda ranges, source: self._take(ranges, source, batch, turn))
        except Gone:
            raise self._deleted() from None

    def _take(self, ranges: dict[int, tuple[int, int]], source: RowSource, batch: _Batch, turn: int) -> None:
        for partition, (start, _) in ranges.items():
            if self.positions[partition] < start:
                raise InvalidRequest(
                    f"the records of {self.file.topic}[{partition}] from {self.positions[partition]} to {start} were deleted unread",
                    hint="restore a newer snapshot, which covers them, and continue from there",
                    topic=self.file.topic,
                    partition=partition,
                    start=start,
                )
        behind = [partition for partition, (_, end) in ranges.items() if self.positions[partition] < end]
        first = turn % len(behind) if behind else 0
        for partition in behind[first:] + behind[:first]:
            position, end = self.positions[partition], ranges[partition][1]
            self.positions[partition] = batch.add(self.file, partition, source.rows(partition, position, end, batch.room), position)
            if batch.full:
                return
        self.stale = False

    def _deleted(self) -> NotFound:
        return NotFound(f"topic {self.file.topic!r} was deleted", hint="unassign its partitions from this reader", topic=self.file.topic)


class _Batch:
    """What a poll is about to return."""

    def __init__(self, records_max: int) -> None:
        self.entries: list[Entry] = []
        self._records_max = records_max
        self._bytes = 0

    @property
    def room(self) -> int:
        return self._records_max - len(self.entries)

    @property
    def full(self) -> bool:
        return self.room <= 0 or self._bytes > POLL_BYTES_MAX

    def add(self, file: TopicFile, partition: int, rows: Any, position: int) -> int:
        """Add the rows, which begin at `position`, and return where the next poll goes on.

        Raises:
            Corrupt: A record is missing; nothing was added.
        """
        entries: list[Entry] = []
        size = self._bytes
        for offset, timestamp_ms, payload in rows:
            entries.append(Entry(file.topic, partition, offset, timestamp_ms, payload))
            size += len(payload)
            if size > POLL_BYTES_MAX:
                break
        if not entries or entries[-1].offset != position + len(entries) - 1:
            raise Corrupt(f"{file.path} lacks records of partition {partition} from offset {position} on", hint="restore it from a copy")
        self.entries += entries
        self._bytes = size
        return position + len(entries)


def _lookup(index: apsw.Connection, topic: str) -> tuple[str, int] | None:
    """(id, partitions) of a topic."""
    row: Any = index.execute("SELECT id, partitions FROM topic WHERE name = ?", (topic,)).fetchone()
    return row  # type: ignore[no-any-return]
