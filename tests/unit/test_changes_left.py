"""When a change reader leaves a version for the next one: once it has read what that one's leaders will not deliver again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
from waiting import eventually

from venice.client.changes import Change, ChangeFeed, ChangeReader
from venice.clock import SystemClock
from venice.control.session import Session
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig, StartOffset, Store, StoreConfig, ValueSchema, Version, VersionStatus
from venice.naming import version_topic
from venice.record import Kind, Origin, Record, encode
from venice.schema.codec import Codec, key_codec

CLOCK = SystemClock()
KEY, VALUE = key_codec('"long"'), Codec('"long"')


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with closing(SqliteLog(tmp_path, CLOCK)) as opened:
        yield opened


def at(offset: int) -> tuple[StartOffset, ...]:
    return (StartOffset(region=0, partition=0, next_offset=offset),)


class Leader:
    """Of one partition of the first version: what it merged, as its records say, up to an offset of the only real-time partition."""

    def __init__(self, log: SqliteLog, partition: int) -> None:
        self._log = log
        self._partition = partition
        self._sequence = 0
        self._append(Record(Kind.DECLARE_LEADERSHIP, term=1, session=7))

    def put(self, key: int, offset: int) -> None:
        self._say(Kind.PUT, offset, KEY.encode(key), VALUE.encode(offset))

    def progress(self, offset: int) -> None:
        self._say(Kind.PROGRESS, offset)

    def _say(self, kind: Kind, offset: int, key: bytes = b"", value: bytes = b"") -> None:
        self._sequence += 1
        self._append(
            Record(
                kind, key, value, schema_id=1 if value else 0, origin=Origin.REAL_TIME, timestamp_ms=1, region=0, term=1, session=7,
                sequence=self._sequence, vector=((0, 0, offset),),
            )
        )  # fmt: skip

    def _append(self, record: Record) -> None:
        self._log.append("rows_v1", self._partition, [encode(record)])


@pytest.mark.parametrize(("start", "held"), [(3, 9), (9, 0)])
def test_a_reader_leaves_once_it_has_read_what_the_rows_of_the_next_version_hold(
    log: SqliteLog, tmp_path: Path, start: int, held: int
) -> None:
    """A repush read partition 0 up to offset 9 and partition 1 up to 3, or a push replays from 9 on. The reader has not got all of the
    first version yet, which Kafka fetches in its own time; the second one's leaders find nothing new in it, or begin behind it."""
    version = Version(
        number=1, push_id="one", status=VersionStatus.ONLINE, partition_count=2, replication_factor=1, created_ms=1, status_ms=1,
        topic_id=log.create_topic(version_topic("rows", 1), 2), hybrid=HybridConfig(), real_time_partitions=1, start_offsets=at(0),
    )  # fmt: skip
    store = Store(
        name="rows", owner="me", key_schema='"long"', value_schemas=(ValueSchema(id=1, text='"long"'),), config=StoreConfig(),
        versions=(version,), current=1, largest_version=1, hybrid=HybridConfig(), real_time_partitions=1,
    )  # fmt: skip
    leaders = [Leader(log, 0), Leader(log, 1)]
    with closing(Session(log, CLOCK, Random(1))) as session:
        session.begin()
        session.write([store])
        with closing(ChangeFeed(f"sqlite:{tmp_path}", "rows", CLOCK)) as feed, closing(ChangeReader(feed, 0, None, "beginning")) as reader:
            leaders[0].put(10, 4)
            leaders[1].progress(4)
            assert [change.value for change in read(reader)] == [4]
            topic_id = log.create_topic(version_topic("rows", 2), 2)
            second = replace(
                version, number=2, push_id="two", topic_id=topic_id, start_offsets=at(start), held_offsets=at(held) if held else ()
            )
            session.write([replace(store, versions=(version, second), current=2, largest_version=2)])
            eventually(lambda: feed.store().current == 2, feed.store, timeout_s=30)
            assert read(reader) == []
            assert version_of(reader) == 1, "it has not read up to where the rows of the next one go"
            for offset in range(5, 10):
                leaders[0].put(10, offset)
            assert [change.value for change in read(reader)] == [5, 6, 7, 8, 9]
            assert version_of(reader) == 1, "partition 1 is not as far"
            leaders[1].progress(9)
            eventually(partial(has_left, reader), lambda: reader.cursor, timeout_s=30)


def read(reader: ChangeReader) -> list[Change]:
    return [change for _ in range(3) for change in reader.read()]


def version_of(reader: ChangeReader) -> int:
    assert reader.cursor is not None
    return reader.cursor.version


def has_left(reader: ChangeReader) -> bool:
    assert reader.read() == []
    return version_of(reader) == 2
