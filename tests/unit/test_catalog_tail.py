"""The catalog's tail: the latest catalog in a thread, for whoever waits for it or wants to be called."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from venice.clock import SystemClock
from venice.control.catalog import Catalog, CatalogReader, CatalogTail
from venice.control.session import Session
from venice.errors import Corrupt, Unavailable
from venice.log.sqlite import SqliteLog
from venice.model import Region
from venice.naming import CATALOG_TOPIC

CLOCK = SystemClock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path, CLOCK)
    yield opened
    opened.close()


@pytest.fixture
def session(log: SqliteLog) -> Iterator[Session]:
    begun = Session(log, CLOCK, Random(1))
    begun.begin()
    yield begun
    begun.close()


def test_it_begins_with_what_is_there_and_follows(log: SqliteLog, session: Session) -> None:
    session.write([Region(id=0, name="east")])
    tail = CatalogTail(log, CLOCK)
    seen: list[Catalog] = []
    tail.subscribe(seen.append)
    tail.start()
    assert tail.catalog == session.catalog
    written = session.write([Region(id=1, name="west")])
    assert tail.wait_for(written.sequence, 20) == written
    tail.close()
    assert seen[-1] == written, "subscribers are called before the tail goes on"
    assert tail.error is None


def test_waiting_for_what_does_not_come(log: SqliteLog, session: Session) -> None:
    tail = CatalogTail(log, CLOCK)
    tail.start()
    with pytest.raises(Unavailable, match=r"catalog has reached sequence 1, not 2, within 0\.05 s"):
        tail.wait_for(2, 0.05)
    tail.close()


def test_a_record_that_cannot_be_read_stops_it_at_the_last_good_catalog(log: SqliteLog, session: Session) -> None:
    tail = CatalogTail(log, CLOCK)
    tail.start()
    good = tail.catalog
    log.append(CATALOG_TOPIC, 0, [b"garbage"])
    with pytest.raises(Corrupt, match="catalog record 1"):
        tail.wait_for(2, 20)
    assert tail.catalog == good
    assert isinstance(tail.error, Corrupt)
    tail.close()
    late = CatalogTail(log, CLOCK)
    with pytest.raises(Corrupt, match="catalog record 1"):
        late.start()
    late.close()


def test_many_threads_wait_at_once(log: SqliteLog, session: Session) -> None:
    tail = CatalogTail(log, CLOCK)
    tail.start()
    reached: list[int] = []
    waiting = [threading.Thread(target=lambda n=n: reached.append(tail.wait_for(n, 20).sequence)) for n in range(2, 7)]
    for thread in waiting:
        thread.start()
    for number in range(5):
        session.write([Region(id=number, name=f"r{number}")])
    for thread in waiting:
        thread.join()
    assert len(reached) == 5
    tail.close()


def test_a_reader_folds_what_was_there_when_it_was_asked(log: SqliteLog, session: Session) -> None:
    reader = CatalogReader(log)
    assert reader.catalog == Catalog()
    assert reader.catch_up() == session.catalog
    session.write([Region(id=0, name="east")])
    assert reader.catch_up() == session.catalog
    deadline = time.monotonic() + 5
    assert not reader.poll(timeout_s=0.0)
    assert time.monotonic() < deadline
    reader.close()
