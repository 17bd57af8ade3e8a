"""What a Da Vinci client says of its replicas: lag, freshness and faulty records, folded in a thread or in a process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hybrid_kit import PARTITIONS, World, hybrid_world
from waiting import eventually

from venice.client.davinci import DaVinciClient
from venice.model import Fault, ReplicaReport, ReplicaState
from venice.record import Kind, Origin, Record
from venice.rules.partitioning import partition_of
from venice.schema.codec import key_codec
from venice.telemetry import Metrics

TIMEOUT_S = 60.0


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}"
    with hybrid_world(url, tmp_path) as made:
        made.lead()
        made.write("user 1", {"page": "written", "n": 1})
        made.catch_up()
        yield made


@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
def test_lag_and_faulty_records_are_told_by_partition(world: World, process: bool) -> None:
    raw = next(key for key in map(key_codec('"string"').encode, map(str, range(100))) if partition_of(key, PARTITIONS) == 1)
    put = Record(Kind.PUT, key=raw, value=b"\0", schema_id=9, origin=Origin.REAL_TIME, timestamp_ms=5, region=0, term=1)
    with DaVinciClient(world.settings, world.name, process=process) as davinci:
        metrics = Metrics()
        davinci.measure(metrics)

        def of(partition: int) -> ReplicaReport:
            return davinci.reports()[partition]

        def met(partition: int) -> dict[Fault, int]:
            return {one.fault: one.count for one in of(partition).faults if one.topic == "version"}

        assert [(one.version, one.partition, one.state) for one in davinci.reports()] == [(1, p, ReplicaState.READY) for p in range(2)]
        assert met(0) == met(1) == {}

        world.log.append(world.topic, 1, [b"not a record"])
        eventually(lambda: met(1) == {Fault.CORRUPT: 1}, davinci.reports, timeout_s=TIMEOUT_S)
        world.append(1, put)
        eventually(lambda: met(1).get(Fault.UNREGISTERED) == 1, davinci.reports, timeout_s=TIMEOUT_S)
        world.append(1, Record(Kind.HEARTBEAT, timestamp_ms=int(time.time() * 1000), term=1))
        end = world.log.end_offset(world.topic, 1)
        eventually(lambda: (of(1).next_offset, of(1).lag_records) == (end, 0), davinci.reports, timeout_s=TIMEOUT_S)
        assert of(1).fresh_ms > 0

        # After a hole nothing counts: the replica is behind, the longer the more.
        world.append(1, put, skipped=1)
        eventually(lambda: met(1).get(Fault.MISSING) == 1 and of(1).lag_s > 1, davinci.reports, timeout_s=TIMEOUT_S)
        assert of(1).lag_records >= 1
        assert (met(0), of(0).lag_records, of(0).lag_s) == ({}, 0, 0.0), "the other partition has nothing of it"

        shown = metrics.exposition().decode()
        place = f'partition="1",store="{world.name}"'
        assert f'venice_faulty_records_total{{fault="missing",{place},topic="version",version="1"}} 1.0' in shown
        assert f"venice_replica_lag_records{{{place}" in shown
        assert f"venice_replica_freshness_seconds{{{place}" in shown
    assert davinci.reports() == (), "a closed client holds nothing"
