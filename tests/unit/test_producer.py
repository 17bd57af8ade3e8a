"""The producer over a real log: what it writes, when it refuses, what its futures say."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
import waiting
from kafka_broker import run_broker
from producer_kit import VALUE_SCHEMA, Site, make_site

from venice.client.acknowledgement import Accepted, Acknowledgement
from venice.client.producer import AsyncProducer, Producer
from venice.client.target import CLOCK_STEP_MS_MAX, RECENT_KEYS_MAX
from venice.clock import ManualClock, SystemClock
from venice.config import load
from venice.errors import Conflict, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log.open import open_log
from venice.model import HybridConfig, Region, ValueSchema
from venice.record import Kind, Origin, Record
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec

DEADLINE_S = 60.0
eventually = partial(waiting.eventually, timeout_s=DEADLINE_S)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}"
    log = open_log(url, SystemClock())
    made = make_site(log, url)
    yield made
    made.remove()
    log.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Site]:
    url = f"sqlite:{tmp_path / 'log'}"
    log = open_log(url, SystemClock())
    yield make_site(log, url)
    log.close()


def click(n: int) -> dict[str, Any]:
    return {"page": "home", "n": n}


def value_of(record: Record) -> Any:
    return Codec(VALUE_SCHEMA).decode(record.value)


@contextmanager
def suspended(site: Site) -> Iterator[None]:
    """An embedded log whose real-time topic somebody holds and does not let go."""
    (file,) = Path(site.url.removeprefix("sqlite:")).glob(f"{site.topic}@*.db")
    holder = apsw.Connection(str(file))
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


# What is written


def test_writes_are_real_time_records_where_their_futures_say(site: Site) -> None:
    with Producer(site.url, site.store.name) as producer:
        before_ms = SystemClock().now_ms()
        put = producer.put("ann", click(7)).result(DEADLINE_S)
        deleted = producer.delete("ann").result(DEADLINE_S)
    key = Codec(site.store.key_schema).encode("ann")
    assert put.partition == deleted.partition == partition_of(key, site.store.real_time_partitions)
    first, second = site.records(put.partition)
    assert (first.kind, first.key, first.origin, first.schema_id, value_of(first)) == (Kind.PUT, key, Origin.REAL_TIME, 1, click(7))
    assert (second.kind, second.key, second.value, second.schema_id) == (Kind.DELETE, key, b"", 0)
    assert before_ms <= first.timestamp_ms < second.timestamp_ms <= SystemClock().now_ms() + 1
    assert put.offset < deleted.offset == site.log.end_offset(site.topic, put.partition) - 1


def test_many_writes_arrive_once_and_in_order(site: Site) -> None:
    with Producer(site.url, site.store.name, buffer_bytes=200_000) as producer:
        futures = [producer.put(f"user {n % 7}", click(n)) for n in range(3000)]
        producer.flush()
        assert all(future.done() for future in futures)
        places = {(at.partition, at.offset) for at in (future.result() for future in futures)}
        assert len(places) == 3000
    by_key: dict[bytes, list[tuple[int, int]]] = {}
    for record in site.records():
        by_key.setdefault(record.key, []).append((value_of(record)["n"], record.timestamp_ms))
    assert sorted(n for writes in by_key.values() for n, _ in writes) == list(range(3000))
    for writes in by_key.values():
        assert writes == sorted(writes)
        assert len({at for _, at in writes}) == len(writes)


def test_threads_share_a_producer(site: Site) -> None:
    def write(thread: int) -> None:
        for n in range(300):
            producer.put(f"user {n % 3}", {"page": str(thread), "n": n})

    with Producer(site.url, site.store.name, buffer_bytes=50_000) as producer:
        threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = [(value_of(record)["page"], value_of(record)["n"], record) for record in site.records()]
    assert sorted((page, n) for page, n, _ in written) == sorted((str(thread), n) for thread in range(4) for n in range(300))
    times: dict[tuple[str, bytes], list[int]] = {}
    for page, _, record in sorted(written, key=lambda one: one[1]):
        times.setdefault((page, record.key), []).append(record.timestamp_ms)
    assert all(of_one == sorted(set(of_one)) for of_one in times.values())


# Time


class SetClock(SystemClock):
    """A machine's clock that says what it is set to."""

    def __init__(self) -> None:
        self.at_ms = 1_700_000_000_000

    def now_ms(self) -> int:
        return self.at_ms


def test_writes_of_a_key_within_a_millisecond_keep_their_order(embedded: Site) -> None:
    clock = SetClock()
    start = clock.at_ms
    with Producer(embedded.url, embedded.store.name, clock=clock) as producer:
        for n in range(3):
            producer.put("ann", click(n))
        producer.put("bob", click(0))
        producer.delete("ann")
        clock.at_ms += 1000
        producer.put("ann", click(3))
    ann, bob = (Codec(embedded.store.key_schema).encode(name) for name in ("ann", "bob"))
    times = {key: [record.timestamp_ms for record in embedded.records() if record.key == key] for key in (ann, bob)}
    assert times == {ann: [start, start + 1, start + 2, start + 3, start + 1000], bob: [start]}


def test_a_clock_set_back_does_not_turn_the_order_around(embedded: Site) -> None:
    clock = SetClock()
    start = clock.at_ms
    with Producer(embedded.url, embedded.store.name, clock=clock) as producer:
        for n in range(3 * RECENT_KEYS_MAX):
            producer.put(f"user {n}", click(n))
        clock.at_ms = start - CLOCK_STEP_MS_MAX // 2
        for n in range(3 * RECENT_KEYS_MAX):
            producer.put(f"user {n}", click(-n))
        clock.at_ms = start - 3 * CLOCK_STEP_MS_MAX
        late = producer.put("late", click(0)).result(DEADLINE_S)
    last: dict[bytes, int] = {}
    for record in embedded.records():
        assert record.timestamp_ms > last.get(record.key, 0)
        last[record.key] = record.timestamp_ms
    assert next(r for r in embedded.records(late.partition) if r.key == Codec('"string"').encode("late")).timestamp_ms < start


def test_logical_timestamps_are_the_callers(embedded: Site) -> None:
    with Producer(embedded.url, embedded.store.name) as producer:
        producer.put("ann", click(1), timestamp_ms=1000)
        producer.delete("ann", timestamp_ms=500)
        for wrong in (0, -1, 2**63, 1.5, True, "1000"):
            with pytest.raises(InvalidRequest, match="milliseconds"):
                producer.put("ann", click(1), timestamp_ms=wrong)  # type: ignore[arg-type]  # wrong on purpose
    assert [record.timestamp_ms for record in embedded.records()] == [1000, 500]


# What is refused


def test_what_does_not_fit_is_refused_before_it_is_written(embedded: Site) -> None:
    embedded.change(config=replace(embedded.store.config, record_bytes_max=100))
    with Producer(embedded.url, embedded.store.name) as producer:
        for key, value in ((7, click(1)), ("ann", {"page": 1}), ("ann", None), ("ann", {"page": "home", "n": 2**64})):
            with pytest.raises(InvalidRequest):
                producer.put(key, value)
        with pytest.raises(InvalidRequest, match=r"value of 503 bytes for key 'ann'.* takes 100"):
            producer.put("ann", {"page": "x" * 500, "n": 1})
        with pytest.raises(InvalidRequest, match="the log takes"):
            producer.delete("x" * 17_000_000)
        producer.flush()
    assert embedded.records() == []


def test_only_a_hybrid_store_in_a_known_region_is_written(embedded: Site, tmp_path: Path) -> None:
    name = embedded.store.name
    with pytest.raises(NotFound, match="no store 'other'") as missing:
        Producer(embedded.url, "other")
    assert name in missing.value.hint
    with pytest.raises(NotFound, match="no region 'mars'"):
        Producer(embedded.url, name, "mars")
    with pytest.raises(InvalidRequest):
        Producer(embedded.url, "no such/name")
    with pytest.raises(NotFound, match="no settings file"):
        Producer(tmp_path / "nowhere.toml", name)
    empty = f"sqlite:{tmp_path / 'empty'}"
    with pytest.raises(NotFound, match="no catalog"):
        Producer(empty, name)
    embedded.change(hybrid=None)
    with pytest.raises(Conflict, match="no real-time writes") as batch:
        Producer(embedded.url, name)
    assert "--hybrid" in batch.value.hint


def test_a_log_of_several_regions_needs_one_named(embedded: Site) -> None:
    embedded.write(Region(id=1, name="far"))
    with pytest.raises(InvalidRequest, match="region") as error:
        Producer(embedded.url, embedded.store.name)
    assert "far, local" in error.value.hint
    Producer(embedded.url, embedded.store.name, "far").close()


def test_settings_and_their_file_say_where_the_log_is(embedded: Site, tmp_path: Path) -> None:
    (tmp_path / "venice.toml").write_text(f'log = "{embedded.url}"\n')
    for settings in (load(log=embedded.url), tmp_path / "venice.toml", str(tmp_path / "venice.toml")):
        with Producer(settings, embedded.store.name) as producer:
            producer.put("ann", click(1))
    assert len(embedded.records()) == 3


# What changes while it is open


def refusal(producer: Producer, kind: type[VeniceError]) -> VeniceError:
    found: list[VeniceError] = []

    def refused() -> bool:
        try:
            producer.put("ann", click(1)).result(DEADLINE_S)
        except kind as error:
            found.append(error)
        return bool(found)

    eventually(refused)
    return found[0]


def test_a_store_that_takes_no_more_writes_is_noticed(site: Site) -> None:
    with Producer(site.url, site.store.name) as producer:
        producer.put("ann", click(1)).result(DEADLINE_S)
        site.change(hybrid=None)
        refusal(producer, Conflict)
        site.change(hybrid=HybridConfig())

        def accepted() -> bool:
            try:
                return producer.put("ann", click(2)).result(DEADLINE_S).offset > 0
            except Conflict:
                return False

        eventually(accepted)
        site.change(created_ms=site.store.created_ms + 1)
        assert "made anew" in refusal(producer, NotFound).message


def test_a_raised_limit_is_noticed_and_a_newer_schema_is_not_used(embedded: Site) -> None:
    embedded.change(config=replace(embedded.store.config, record_bytes_max=50))
    newer = json.loads(VALUE_SCHEMA)
    newer["fields"].append({"name": "agent", "type": "string", "default": ""})
    with Producer(embedded.url, embedded.store.name) as producer:
        embedded.change(
            config=replace(embedded.store.config, record_bytes_max=5000),
            value_schemas=(*embedded.store.value_schemas, ValueSchema(id=2, text=json.dumps(newer))),
        )

        def written() -> bool:
            try:
                producer.put("ann", {"page": "x" * 200, "n": 1})
            except InvalidRequest:
                return False
            return True

        eventually(written)
    with Producer(embedded.url, embedded.store.name) as producer:
        producer.put("ann", {"page": "home", "n": 2, "agent": "curl"})
    assert [record.schema_id for record in embedded.records()] == [1, 2]


# A log that does not answer


def test_no_future_is_done_while_the_log_is_suspended(embedded: Site) -> None:
    with Producer(embedded.url, embedded.store.name) as producer:
        with suspended(embedded):
            futures = [producer.put(f"user {n}", click(n)) for n in range(100)]
            done, _ = concurrent.futures.wait(futures, timeout=0.3)
            assert not done
            with pytest.raises(Unavailable, match=r"0\.05 s"):
                producer.flush(0.05)
        assert len({future.result(DEADLINE_S) for future in futures}) == 100
    assert len(embedded.records()) == 100


def test_after_its_time_a_write_is_unavailable(embedded: Site) -> None:
    clock = ManualClock()
    with suspended(embedded):
        producer = Producer(embedded.url, embedded.store.name, delivery_s=30, clock=clock)
        future = producer.put("ann", click(1))

        def failed() -> bool:
            clock.advance(0.5)
            return future.done()

        eventually(failed)
        with pytest.raises(Unavailable, match="held by another process") as error:
            future.result()
        assert "may be in the log" in error.value.hint
        # The clock stands again: what is left is given up by the end.
        producer.put("ann", click(2))
        closer = threading.Thread(target=producer.close, args=(1.0,))
        closer.start()

        def closed() -> bool:
            clock.advance(0.5)
            return not closer.is_alive()

        eventually(closed)
    assert embedded.records() == []


@pytest.mark.kafka
def test_a_suspended_broker_acknowledges_nothing_and_goes_on(tmp_path: Path, kafka_url: str) -> None:
    started = run_broker("start", tmp_path)
    assert started.returncode == 0, started.stderr
    broker = int((tmp_path / "broker.pid").read_text())
    try:
        log = open_log(started.stdout.strip(), SystemClock())
        site = make_site(log, started.stdout.strip())
        with Producer(site.url, site.store.name) as producer:
            producer.put("first", click(0)).result(DEADLINE_S)
            waiting.suspend(broker, timeout_s=DEADLINE_S)
            futures = [producer.put(f"user {n % 10}", click(n)) for n in range(500)]
            done, _ = concurrent.futures.wait(futures, timeout=1.0)
            assert not done
            os.kill(broker, signal.SIGKILL)
            eventually(lambda: run_broker("start", tmp_path).returncode == 0)
            assert len({future.result(DEADLINE_S) for future in futures}) == 500
        written = {value_of(record)["n"] for record in site.records() if value_of(record)["n"]}
        assert written == set(range(1, 500))
        log.close()
    finally:
        run_broker("stop", tmp_path)


# Its end


def test_closing_while_writes_are_pending_completes_them(site: Site) -> None:
    producer = Producer(site.url, site.store.name)
    futures = [producer.put(f"user {n}", click(n)) for n in range(1000)]
    producer.close()
    assert all(future.done() for future in futures)
    assert len(site.records()) == 1000
    producer.close()
    with pytest.raises(Unavailable, match="closed"):
        producer.put("ann", click(1))


def test_a_callback_may_write_again_however_full_the_buffer_is(site: Site) -> None:
    written = threading.Event()
    waits: list[str] = []

    def again(n: int) -> None:
        if n == 40:
            written.set()
            return
        producer.put("ann", click(n)).add_done_callback(lambda _: again(n + 1))
        for call in (producer.flush, producer.close):
            try:
                call()
            except InvalidRequest as error:
                waits.append(error.message)

    with Producer(site.url, site.store.name, buffer_bytes=1) as producer:
        producer.put("ann", click(0)).add_done_callback(lambda _: again(1))
        assert written.wait(DEADLINE_S)
    assert len(site.records()) == 40
    assert len(waits) == 78


def test_a_forked_child_must_open_its_own(embedded: Site) -> None:
    producer = Producer(embedded.url, embedded.store.name)
    producer.put("ann", click(1)).result(DEADLINE_S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Newer Pythons warn of a fork with threads: just what is tried.
        child = os.fork()
    if child == 0:
        code = 1
        try:
            producer.put("ann", click(2))
        except InvalidRequest as error:
            producer.close()
            code = 0 if "fork" in error.message else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    producer.close()
    assert len(embedded.records()) == 1


CHILD = """
import sys
from venice.client.producer import Producer

producer = Producer(sys.argv[1], sys.argv[2])
def say(n):
    def done(future):
        sys.stdout.write(f"{n} {future.result().partition} {future.result().offset}\\n")
        sys.stdout.flush()
    return done
for n in range(10**9):
    producer.put(f"user {n % 50}", {"page": "home", "n": n}).add_done_callback(say(n))
"""


def test_what_a_killed_producer_was_told_is_there(site: Site) -> None:
    for acknowledged in (1, 700):
        start = {partition: site.log.end_offset(site.topic, partition) for partition in range(site.store.real_time_partitions)}
        with subprocess.Popen([sys.executable, "-c", CHILD, site.url, site.store.name], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(acknowledged)]
            child.kill()
            lines += child.stdout.readlines()
        told = {int(n): (int(partition), int(offset)) for n, partition, offset in map(str.split, lines[:-1])}
        assert len(told) >= acknowledged - 1
        found = {(partition, offset): value_of(record)["n"] for partition, offset, record in site.entries(start)}
        assert {n: at for n, at in told.items() if found.get(at) != n} == {}
        by_key: dict[int, list[int]] = {}
        for _, _, record in site.entries(start):
            by_key.setdefault(value_of(record)["n"] % 50, []).append(value_of(record)["n"])
        assert all(ns == list(range(ns[0], ns[0] + 50 * len(ns), 50)) for ns in by_key.values())


# Futures


def test_a_future_is_a_future() -> None:
    lock = threading.Lock()
    one, other, failing = (Acknowledgement(lock) for _ in range(3))
    assert isinstance(one, Future)
    assert not one.done()
    assert one.running()
    assert not one.cancel()
    assert not one.cancelled()
    with pytest.raises(TimeoutError):
        one.result(0.001)
    called: list[Accepted] = []
    other.add_done_callback(lambda future: called.append(future.result()))
    one.set_result(Accepted(0, 1))
    other.set_result(Accepted(0, 2))
    failing.set_exception(Unavailable("away"))
    assert called == [Accepted(0, 2)]
    assert one.exception(0) is None
    assert concurrent.futures.wait([one, other, failing], 0).not_done == set()
    assert {id(future) for future in concurrent.futures.as_completed([one, failing], 0)} == {id(one), id(failing)}
    with pytest.raises(Unavailable, match="away"):
        failing.result()
    with pytest.raises(AttributeError):
        _ = one.nothing
    assert "finished" in repr(one)


def test_a_future_wakes_all_who_wait(embedded: Site) -> None:
    with Producer(embedded.url, embedded.store.name) as producer:
        for _ in range(50):
            future = producer.put("ann", click(1))
            results: list[Accepted] = []
            waiting = [
                threading.Thread(target=lambda future=future, into=results: into.append(future.result(DEADLINE_S))) for _ in range(3)
            ]
            for thread in waiting:
                thread.start()
            for thread in waiting:
                thread.join()
            assert len(set(results)) == 1
            assert len(results) == 3


# The async twin


def test_async_writes_are_acknowledged(site: Site) -> None:
    async def write() -> None:
        async with AsyncProducer(site.url, site.store.name, buffer_bytes=100_000) as producer:
            before = [await producer.put(f"user {n % 7}", click(n)) for n in range(1000)]
            places = await asyncio.gather(*before)
            assert len(set(places)) == 1000
            deleted = await producer.delete("user 0")
            await producer.flush()
            assert deleted.done()
            with pytest.raises(InvalidRequest):
                await producer.put("ann", None)
            pending = await producer.put("last", click(1))
        assert (await pending).offset >= 0
        with pytest.raises(Unavailable, match="closed"):
            await producer.put("ann", click(1))
        await producer.close()

    asyncio.run(write())
    assert len(site.records()) == 1002


def test_async_writers_wait_for_room_without_holding_the_loop(embedded: Site) -> None:
    async def write() -> None:
        async with AsyncProducer(embedded.url, embedded.store.name, buffer_bytes=5000) as producer:
            taken: list[int] = []

            async def many(task: int) -> None:
                for n in range(50):
                    await producer.put(f"user {task}", click(n))
                    taken.append(n)

            with suspended(embedded):
                tasks = [asyncio.create_task(many(task)) for task in range(4)]
                await asyncio.sleep(0.1)  # nothing may happen meanwhile, so there is nothing to wait for
                assert 0 < len(taken) < 20
            await asyncio.gather(*tasks)

    asyncio.run(write())
    by_key: dict[bytes, list[int]] = {}
    for record in embedded.records():
        by_key.setdefault(record.key, []).append(value_of(record)["n"])
    assert list(by_key.values()) == [list(range(50))] * 4


def test_an_async_producer_must_be_opened(embedded: Site) -> None:
    async def write() -> None:
        producer = AsyncProducer(embedded.url, embedded.store.name)
        with pytest.raises(InvalidRequest, match="async with"):
            await producer.put("ann", click(1))
        await producer.close()
        with pytest.raises(NotFound):
            async with AsyncProducer(embedded.url, "other"):
                pass

    asyncio.run(write())
