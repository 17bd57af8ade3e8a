"""What the changelog delivers: what replicas fold, from where it was asked to, over version swaps, after restarts."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from venice.client.changes import Change, ChangeFeed, ChangeReader, Cursor
from venice.client.producer import Producer
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import Conflict, InvalidRequest, NotFound
from venice.log.open import open_log
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.record import Kind, Origin, Record, encode
from venice.supervisor import Cluster

SCHEMA = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}]})
EMPTY = "SELECT ''::VARCHAR AS key, 0::BIGINT AS n WHERE false"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def create(settings: Settings, hybrid: HybridConfig | None, partitions: int = 2) -> ControllerClient:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    config = StoreConfig(partition_count=partitions)
    controller.create_store("rows", key_schema='"string"', value_schema=SCHEMA, config=config, hybrid=hybrid)
    return controller


class Readers:
    """A reader for each part of a store."""

    def __init__(self, settings: Settings, start: str | int = "beginning", cursors: list[Cursor | None] | None = None) -> None:
        self.feed = ChangeFeed(settings.log_url, "rows", SystemClock())
        before = cursors or [None] * self.feed.parts
        self.readers = [ChangeReader(self.feed, part, before[part], start) for part in range(self.feed.parts)]

    def read(self, until: Callable[[list[Change]], bool], timeout_s: float = 60) -> list[Change]:
        found: list[Change] = []
        deadline = time.monotonic() + timeout_s
        while not until(found):
            assert time.monotonic() < deadline, found
            found += [change for reader in self.readers for change in reader.read(records_max=7)]
            time.sleep(0.005)  # what it reads is not there yet
        return found

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        self.feed.close()


def rows(changes: list[Change]) -> dict[str, int | None]:
    return {change.key: change.value and change.value["n"] for change in changes}


def write(settings: Settings, numbers: range, deleted: str = "") -> dict[str, int | None]:
    with Producer(settings, "rows") as producer:
        for number in numbers:
            producer.put(f"row {number % 20}", {"n": number})
        if deleted:
            producer.delete(deleted)
    written: dict[str, int | None] = {f"row {number % 20}": number for number in numbers}
    return {**written, deleted: None} if deleted else written


def test_from_where_it_is_asked_to_over_a_swap_and_a_restart(start_cluster: Callable[..., Cluster], stack: ExitStack) -> None:
    settings = start_cluster().settings
    create(settings, HybridConfig(lag_records_max=5))
    push(settings, "rows", sql=EMPTY)
    first = write(settings, range(100), deleted="row 3")
    beginning = Readers(settings)
    stack.callback(beginning.close)
    changes = beginning.read(lambda found: len(found) == 101)
    assert rows(changes) == first
    assert {change.version for change in changes} == {1}
    for partition in (0, 1):
        offsets = [change.offset for change in changes if change.partition == partition]
        assert offsets == sorted(set(offsets))
    assert [change.value["n"] for change in changes if change.key == "row 7"] == list(range(7, 100, 20)), "in order for each key"

    tail = Readers(settings, "tail")
    stack.callback(tail.close)
    accepted_ms = max(SystemClock().now_ms(), 1)
    second = write(settings, range(100, 110))
    assert rows(tail.read(lambda found: len(found) == 10)) == second
    since = Readers(settings, accepted_ms)
    stack.callback(since.close)
    assert rows(since.read(lambda found: len(found) == 10)) == second

    cursors = pickle.loads(pickle.dumps([reader.cursor for reader in beginning.readers]))
    resumed = Readers(settings, "tail", cursors)
    stack.callback(resumed.close)
    assert rows(resumed.read(lambda found: len(found) == 10)) == second, "a cursor wins over a start"

    assert push(settings, "rows", sql=EMPTY).version == 2
    third = write(settings, range(110, 120))
    expected = {key: value for key, value in {**first, **second, **third}.items() if value is not None}
    for readers in (resumed, tail):
        after = readers.read(lambda found: third.items() <= rows([one for one in found if one.version == 2]).items())
        assert rows([one for one in after if one.version == 2]).items() >= expected.items(), "what the push replays is delivered again"
    again = Readers(settings, cursors=[reader.cursor for reader in resumed.readers])
    stack.callback(again.close)
    fourth = write(settings, range(120, 125))
    assert rows(again.read(lambda found: len(found) == 5)) == fourth


def test_a_reader_that_was_behind_at_a_swap_misses_nothing(start_cluster: Callable[..., Cluster], stack: ExitStack) -> None:
    settings = start_cluster().settings
    controller = create(settings, HybridConfig(rewind_s=0))
    push(settings, "rows", sql=EMPTY)
    readers = Readers(settings)
    stack.callback(readers.close)
    first = write(settings, range(100))
    controller.update_store("rows", partition_count=3)
    second_ms = SystemClock().now_ms()
    while SystemClock().now_ms() <= second_ms:
        time.sleep(0.001)  # a rewind of nothing begins at the push's first millisecond
    assert push(settings, "rows", sql=EMPTY).version == 2
    second = write(settings, range(100, 120))
    found = readers.read(lambda found: second.items() <= rows([one for one in found if one.version == 2]).items())
    assert sorted(change.value["n"] for change in found if change.version == 1 and change.value["n"] < 100) == list(range(100))
    assert rows(found) == {**first, **second}


def test_it_drops_what_replicas_drop(start_cluster: Callable[..., Cluster], stack: ExitStack) -> None:
    settings = start_cluster().settings
    create(settings, HybridConfig(), partitions=1)
    push(settings, "rows", sql=EMPTY)
    expected = write(settings, range(10))
    readers = Readers(settings)
    stack.callback(readers.close)
    assert rows(readers.read(lambda found: len(found) == 10)) == expected
    log = open_log(settings.log_url, SystemClock())
    stack.callback(log.close)
    stray = Record(
        Kind.PUT, key=b"\x0cstray", value=b"\x02", schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=1, term=1, session=7, sequence=1
    )
    log.append("rows_v1", 0, [encode(stray), b"no record"])
    later = write(settings, range(10, 12))
    assert rows(readers.read(lambda found: len(found) == 2)) == later
    (counts,) = [reader.counts for reader in readers.readers]
    assert (counts.fenced, counts.corrupt, counts.missing) == (1, 1, 0)


def test_stores_without_changes_are_refused_and_wrong_starts_too(
    start_cluster: Callable[..., Cluster], tmp_path: Path, stack: ExitStack
) -> None:
    settings = start_cluster().settings
    with pytest.raises(NotFound, match="no store 'rows'"):
        ChangeFeed(settings.log_url, "rows", SystemClock())
    controller = create(settings, None)
    with pytest.raises(Conflict, match="has no changes to read"):
        ChangeFeed(settings.log_url, "rows", SystemClock())
    controller.update_store("rows", hybrid=HybridConfig())
    feed = ChangeFeed(settings.log_url, "rows", SystemClock())
    stack.callback(feed.close)
    for start in ("begin", True):
        with pytest.raises(InvalidRequest, match="nothing can be read from"):
            ChangeReader(feed, 0, None, start)
    reader = ChangeReader(feed, 0, None, "beginning")
    stack.callback(reader.close)
    assert (reader.read(), reader.cursor) == ([], None), "no version yet"
    controller.delete_store("rows")
    with pytest.raises(NotFound, match="no store 'rows'"):
        read_for_ever(reader)


def read_for_ever(reader: ChangeReader) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        reader.read()
