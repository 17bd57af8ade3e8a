"""Bytewax sources and sinks over stores: what `venice.operators` offers, behind its functions.

Building one opens nothing. Bytewax opens the parts when the dataflow runs, and closes them when its sources end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from venice.client.changes import Change, ChangeFeed, ChangeReader, Cursor, Delete, Put, Start, check_start, key_text
from venice.client.producer import Producer
from venice.clock import Clock, SystemClock
from venice.config import Settings, load
from venice.errors import InvalidRequest

AnySettings = Settings | Path | str

STOPPING = threading.Event()
"""Set by a signal, which is the process's: every source of it ends, so that the sinks are closed and the flow is over."""

PAUSE_S = 0.01
"""How long a source that found nothing is left alone."""


def opened(settings: AnySettings) -> Settings:
    """The settings that a step was given, read when it begins to run."""
    return settings if isinstance(settings, Settings) else load(settings)


class ChangeSource(FixedPartitionedSource[tuple[str, Change], Cursor | None]):
    """The changes of a store. It has as many parts as the store's real-time topic has partitions, which never change."""

    def __init__(self, settings: AnySettings, store: str, start: Start) -> None:
        check_start(start)
        self._settings = settings
        self._store = store
        self._start = start
        self._lock = threading.Lock()
        self._feed: ChangeFeed | None = None
        self._users = 0

    def list_parts(self) -> list[str]:
        feed = self._take_feed()
        try:
            return [f"{part:06d}" for part in range(feed.parts)]
        finally:
            self._release_feed()

    def build_part(self, step_id: str, for_part: str, resume_state: Cursor | None) -> _ChangePart:
        feed = self._take_feed()
        return _ChangePart(ChangeReader(feed, int(for_part), resume_state, self._start), feed.clock, self._release_feed)

    def _take_feed(self) -> ChangeFeed:
        """One for all parts of this process, whichever of its workers they belong to."""
        with self._lock:
            if self._feed is None:
                self._feed = ChangeFeed(opened(self._settings).log_url, self._store, SystemClock())
            self._users += 1
            return self._feed

    def _release_feed(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._feed is not None:
                self._feed.close()
                self._feed = None


class _ChangePart(StatefulSourcePartition[tuple[str, Change], Cursor | None]):
    def __init__(self, reader: ChangeReader, clock: Clock, release: Callable[[], None]) -> None:
        self._reader = reader
        self._clock = clock
        self._release = release
        self._idle = False

    def next_batch(self) -> Iterable[tuple[str, Change]]:
        if STOPPING.is_set():
            raise StopIteration
        changes = self._reader.read()
        self._idle = not changes
        return [(key_text(change.key), change) for change in changes]

    def next_awake(self) -> datetime | None:
        return awake_after(self._clock) if self._idle else None

    def snapshot(self) -> Cursor | None:
        return self._reader.cursor

    def close(self) -> None:
        self._reader.close()
        self._release()


class WriteSink(DynamicSink[tuple[str, Put | Delete]]):
    """Writes to a store's real-time topic, with a producer for each Bytewax worker."""

    def __init__(self, settings: AnySettings, store: str) -> None:
        self._settings = settings
        self._store = store

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _WritePart:
        return _WritePart(step_id, Producer(opened(self._settings), self._store))


class _WritePart(StatelessSinkPartition[tuple[str, Put | Delete]]):
    def __init__(self, step_id: str, producer: Producer) -> None:
        self._step_id = step_id
        self._producer = producer

    def write_batch(self, items: list[tuple[str, Put | Delete]]) -> None:
        done = [self._write(item) for _, item in items]
        self._producer.flush()
        for future in done:
            future.result()

    def close(self) -> None:
        self._producer.close()

    def _write(self, item: Put | Delete) -> Future[Any]:
        try:
            if isinstance(item, Put):
                return self._producer.put(item.key, item.value, item.timestamp_ms)
            return self._producer.delete(item.key, item.timestamp_ms)
        except InvalidRequest as error:
            raise InvalidRequest(f"{self._step_id} cannot write key {item.key!r}: {error.message}", hint=error.hint) from error


def awake_after(clock: Clock) -> datetime:
    """When a source that found nothing looks again."""
    return datetime.fromtimestamp(clock.now_ms() / 1000 + PAUSE_S, tz=UTC)
