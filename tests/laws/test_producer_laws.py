"""Laws of writes: whatever two producers do, and however it travels, the write that stands is what every replica ends with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from producer_kit import Site, make_site
from replica_bench import PARTITIONS, Bench

from venice.client.producer import Producer
from venice.clock import SystemClock
from venice.leaders import LeaderSet
from venice.leading import Led
from venice.log.open import open_log
from venice.model import HybridConfig, StartOffset
from venice.naming import real_time_topic, version_topic
from venice.rules.merge import Write, stands
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec
from venice.storage.format import decode_value

DEADLINE_S = 60.0
STRING = '"string"'
_string = Codec(STRING)
_SESSIONS = count(1)


class HandClock(SystemClock):
    """A clock whose wall time moves only when told to; it waits like any other."""

    def __init__(self) -> None:
        # A leader cuts times far ahead of the log's own, so these lie just behind it.
        self.at_ms = SystemClock().now_ms() - 10_000

    def now_ms(self) -> int:
        return self.at_ms


class KafkaBench(Bench):
    """The bench over Kafka. Its topics have fixed names and may be there from a run before."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.replicas_folder = folder / "replicas"
        self.log = open_log(url, SystemClock())  # type: ignore[assignment]  # the laws use what all logs have
        self.log.delete_topic(real_time_topic("s"))
        self.log.delete_topic(version_topic("s", 1))
        self.incarnations = count()
        self.replicas = self.open()


class World:
    """Two producers, one hybrid version, its leader: driven in turns."""

    def __init__(self, bench: Bench, url: str) -> None:
        self.bench = bench
        self.clock = HandClock()
        self.site: Site = make_site(bench.log, url, name="s", partitions=PARTITIONS, value_schema=STRING)
        self.producers = [Producer(url, "s", clock=self.clock) for _ in range(2)]
        self.leaders = LeaderSet(bench.replicas, bench.log, clock=SystemClock(), sessions=lambda: next(_SESSIONS))
        version = bench.version(1, {}, HybridConfig(lag_records_max=0))
        start = tuple(StartOffset(region=0, partition=p, next_offset=bench.log.end_offset(self.site.topic, p)) for p in range(PARTITIONS))
        version = replace(version, start_offsets=start)
        bench.want(version)
        self.leaders.want([Led("s", version, partition, 1, 0) for partition in range(PARTITIONS)])
        self.names = count()
        self.until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS)

    def step(self) -> None:
        for name, entries in self.bench.replicas.poll(timeout_s=0.001):
            self.bench.replicas.fold(name, entries)
        for merged in [self.leaders.merge(name, region, entries) for name, region, entries in self.leaders.poll()]:
            if merged is not None:
                self.leaders.append([merged])

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, self.bench.replicas.reports()
            self.step()

    def read(self, key: str) -> bytes | None:
        raw = _string.encode(key)
        stored = self.bench.replicas.open["s", 1][partition_of(raw, PARTITIONS)].get(raw)
        return None if stored is None else stored[decode_value(stored).offset :]

    def _shows(self, key: str) -> bool:
        return self.read(key) == _string.encode(key)

    def settle(self) -> None:
        """Until everything written so far is merged and folded: one more write in each partition comes through."""
        for producer in self.producers:
            producer.flush()
        missing = set(range(PARTITIONS))
        while missing:
            key = f"mark {next(self.names)}"
            partition = partition_of(_string.encode(key), PARTITIONS)
            if partition in missing:
                missing.discard(partition)
                self.producers[0].put(key, key).result(DEADLINE_S)
                self.until(partial(self._shows, key))

    def repeat(self, records: int) -> None:
        """Append the last records of every partition again, as a producer does that was not told they are there."""
        for producer in self.producers:
            producer.flush()
        for partition in range(PARTITIONS):
            end = self.bench.log.end_offset(self.site.topic, partition)
            start = max(self.bench.log.start_offset(self.site.topic, partition), end - records)
            reader = self.bench.log.reader({(self.site.topic, partition): start})
            payloads: list[bytes] = []
            while reader.position(self.site.topic, partition) < end:
                payloads += [entry.payload for entry in reader.poll(timeout_s=1.0)]
            reader.close()
            self.bench.log.append(self.site.topic, partition, payloads)

    def close(self) -> None:
        for producer in self.producers:
            producer.close()
        self.leaders.close()
        self.bench.replicas.close()
        self.site.remove()
        self.bench.log.delete_topic(version_topic("s", 1))
        self.bench.log.close()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    if request.param == "sqlite":
        made = World(Bench(folder), f"sqlite:{folder / 'log'}")
    else:
        url = request.getfixturevalue("kafka_url")
        made = World(KafkaBench(folder, url), url)
    yield made
    made.close()


class Op(NamedTuple):
    """A write of one of the producers, and what happens after it."""

    producer: int
    key: int
    value: str | None
    """None: a delete."""
    logical_ms: int | None
    """Relative to the clock at the start of the example; None: now."""
    ticks: int
    """Milliseconds that pass."""
    steps: int
    """Turns that the leader and the replicas get."""
    repeat: int
    """Records at the end of each partition that are appended once more."""


OPS = st.lists(
    st.builds(
        Op,
        producer=st.integers(0, 1),
        key=st.integers(0, 3),
        value=st.none() | st.sampled_from(["", "a", "b", "c"]),
        logical_ms=st.none() | st.integers(-3, 5),
        ticks=st.sampled_from([0, 0, 0, 1, 3]),
        steps=st.sampled_from([0, 0, 0, 1, 2]),
        repeat=st.sampled_from([0] * 9 + [5]),
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(ops=OPS)
def test_the_write_that_stands_is_what_replicas_end_with(world: World, ops: list[Op]) -> None:
    names = [f"{next(world.names)} {key}" for key in range(4)]
    start_ms = world.clock.at_ms
    stamped: dict[tuple[int, int], int] = {}
    model: dict[int, Write] = {}
    for op in ops:
        producer = world.producers[op.producer]
        given_ms = None if op.logical_ms is None else start_ms + op.logical_ms
        if op.value is None:
            producer.delete(names[op.key], given_ms)
        else:
            producer.put(names[op.key], op.value, given_ms)
        if given_ms is None:
            given_ms = max(world.clock.at_ms, stamped.get((op.producer, op.key), 0) + 1)
            stamped[op.producer, op.key] = given_ms
        write = Write(given_ms, 0, 1 if op.value is not None else 0, None if op.value is None else _string.encode(op.value))
        if stands(write, model.get(op.key)):
            model[op.key] = write
        world.clock.at_ms += op.ticks
        for _ in range(op.steps):
            world.step()
        if op.repeat:
            world.repeat(op.repeat)
    world.settle()
    assert [world.read(name) for name in names] == [model[key].payload if key in model else None for key in range(4)]


@settings(max_examples=15)
@given(writes=st.lists(st.tuples(st.integers(0, 2), st.none() | st.text(max_size=3)), max_size=60), repeat=st.integers(0, 60))
def test_the_last_write_of_a_producer_stands_though_its_clock_stands_still(
    world: World, writes: list[tuple[int, str | None]], repeat: int
) -> None:
    names = [f"{next(world.names)} {key}" for key in range(3)]
    last: dict[int, bytes | None] = {}
    for key, value in writes:
        if value is None:
            world.producers[0].delete(names[key])
        else:
            world.producers[0].put(names[key], value)
        last[key] = None if value is None else _string.encode(value)
    world.repeat(repeat)
    world.settle()
    assert [world.read(name) for name in names] == [last.get(key) for key in range(3)]
