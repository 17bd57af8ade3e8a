"""The tailing reader of the embedded log: polls cheaply, skips nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from venice.clock import Clock
from venice.errors import Corrupt, InvalidRequest, NotFound, VeniceError
from venice.log import Entry, by_partition
from venice.log.sqlite_file import Doorbell, Gone, RowSource, TopicFile

# A reader looks at the doorbell every millisecond while records come, so that many come at a time. In a silence the kernel
# wakes it when the bell rings. Where it cannot, and while only other topics' records come, the reader looks the less often
# the longer none came: waking up 50 times a second keeps an idle one under 1 % of a core.
POLL_S = 0.001
BUSY_S = 0.005  # A silence shorter than this is none.
IDLE_POLL_S = 0.02
SILENCE_SHARE = 0.005  # Of the silence so far: what looking less often may add to it.
CHECK_ALL_S = 1.0  # Readers look without a ring so often, for an appender killed between its commit and its ring.
POLL_BYTES_MAX = 32 * 1024 * 1024  # A poll of large records stops here rather than fill the memory.


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
        self._watch = bell.watch()

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
            self._wait(now_s - self._active_s, deadline_s - now_s)

    def poll_runs(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> dict[tuple[str, int], list[Entry]]:
        return by_partition(self.poll(records_max=records_max, timeout_s=timeout_s))

    def close(self) -> None:
        tails, self._tails = self._tails, {}
        for tail in tails.values():
            tail.file.close()
        self._bell.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def _wait(self, silence_s: float, left_s: float) -> None:
        """Let time pass, at most `left_s`, until there may be something to read."""
        pause_s = min(max(silence_s * SILENCE_SHARE, POLL_S), IDLE_POLL_S, left_s)
        if self._watch is None or silence_s < BUSY_S:
            self._clock.sleep(pause_s)
            return
        unprompted_s = max(self._check_all_s - self._clock.monotonic_s(), 0.0)
        if self._clock.wait_readable(self._watch.descriptor, min(left_s, unprompted_s)):
            self._watch.drain()
            rings = self._bell.rings()
            if all(rings[tail.slot] == self._rings[tail.slot] for tail in self._tails.values()):
                self._clock.sleep(pause_s)

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
