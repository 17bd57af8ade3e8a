"""The replicas of a process follow what is wanted of it: attached, served, replaced, retired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from replica_bench import Bench

from venice.model import ReplicaState, SnapshotRef, Version
from venice.naming import version_topic
from venice.record import Kind, Origin, Record, encode
from venice.replica import Wanted
from venice.storage.format import encode_value
from venice.storage.manifest import file_name


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.replicas.close()
    made.log.close()


def test_wanted_replicas_are_attached_and_readable(bench: Bench) -> None:
    bench.want(bench.version(1, {b"a": b"1"}))
    bench.poll_until_open(1)
    assert bench.get(1, b"a") == encode_value(1, b"1")
    assert {report.state for report in bench.replicas.reports()} == {ReplicaState.READY}
    assert {report.row_count for report in bench.replicas.reports()} == {1}


def test_unwanted_replicas_stop_serving_at_once_and_are_deleted_after_the_grace(bench: Bench) -> None:
    first, second = bench.version(1, {b"a": b"1"}), bench.version(2, {b"a": b"2"})
    bench.want(first, second)
    bench.poll_until_open(1, 2)
    held = bench.replicas.open["s", 1][0]
    bench.want(second)
    bench.poll_until_open(2)
    assert held.get(b"a") is not None, "reads under way go on during the grace"
    bench.poll_until(lambda: bench.directories() == {"s_v2.000000", "s_v2.000001"})


def test_a_replica_wanted_again_during_its_grace_stays(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1"})
    bench.want(version)
    bench.poll_until_open(1)
    held = bench.replicas.open["s", 1][0]
    bench.want()
    bench.poll_until_open()
    bench.want(version)
    bench.poll_until_open(1)
    assert bench.replicas.open["s", 1][0] is held


def test_a_restart_opens_what_is_there_and_deletes_strangers(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1"})
    bench.want(version)
    bench.poll_until_open(1)
    incarnation = bench.replicas.open["s", 1][0].identity.incarnation
    bench.replicas.close()
    (bench.folder / "replicas" / "s_v9.000000").mkdir()
    bench.replicas = bench.open()
    bench.want(version)
    bench.poll_until_open(1)
    assert bench.replicas.open["s", 1][0].identity.incarnation == incarnation
    assert bench.directories() == {"s_v1.000000", "s_v1.000001"}


def test_records_of_the_version_topic_are_folded_once_across_a_restart(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1"})
    payloads = [
        encode(Record(Kind.DECLARE_LEADERSHIP, term=1, session=7)),
        encode(
            Record(
                Kind.PUT,
                key=b"a",
                value=b"2",
                schema_id=1,
                origin=Origin.REAL_TIME,
                timestamp_ms=5,
                region=0,
                term=1,
                session=7,
                sequence=1,
            )
        ),
    ]
    bench.log.append(version_topic("s", 1), 0, payloads)
    bench.want(version)
    bench.poll_until_open(1)
    bench.poll_until(lambda: bench.replicas.open["s", 1][0].position.next_offset == 2)
    assert bench.get(1, b"a") != encode_value(1, b"1")
    bench.replicas.close()
    bench.replicas = bench.open()
    bench.want(version)
    bench.poll_until_open(1)
    assert bench.replicas.open["s", 1][0].position.next_offset == 2


def test_a_damaged_snapshot_is_reported_and_not_served(bench: Bench) -> None:
    good, bad = bench.version(1, {b"a": b"1"}), bench.version(2, {b"a": b"2"})
    file = bench.folder / "blobs" / "2" / file_name(1)
    file.write_bytes(file.read_bytes()[:-1])
    bench.want(good, bad)
    bench.poll_until(lambda: any(report.state is ReplicaState.ERROR for report in bench.replicas.reports()))
    bench.poll_until(lambda: 1 not in bench.replicas.open.get(("s", 2), {}))
    failed = [report for report in bench.replicas.reports() if report.state is ReplicaState.ERROR]
    assert [(report.version, report.partition) for report in failed] == [(2, 1)]
    assert file_name(1) in failed[0].error
    assert bench.get(1, b"a") == encode_value(1, b"1")


def test_a_missing_snapshot_is_an_error_that_names_it(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1"})
    lost = SnapshotRef(uri=str(bench.folder / "nowhere"), sha256="0" * 64)
    bench.replicas.want([Wanted("s", _with_snapshot(version, lost), 0)])
    bench.poll_until(lambda: any(report.state is ReplicaState.ERROR for report in bench.replicas.reports()))
    assert "nowhere" in bench.replicas.reports()[0].error


def test_a_condemned_replica_is_attached_afresh(bench: Bench) -> None:
    bench.want(bench.version(1, {b"a": b"1"}))
    bench.poll_until_open(1)
    condemned = bench.replicas.open["s", 1][0].identity.incarnation
    bench.replicas.condemn("s", 1, 0)
    assert 0 not in bench.replicas.open["s", 1]
    bench.poll_until_open(1)
    assert bench.replicas.open["s", 1][0].identity.incarnation != condemned
    assert bench.get(1, b"a") == encode_value(1, b"1")


def test_a_topic_deleted_under_the_reader_stops_nothing_else(bench: Bench) -> None:
    first, second = bench.version(1, {b"a": b"1"}), bench.version(2, {b"a": b"2"})
    bench.want(first, second)
    bench.poll_until_open(1, 2)
    bench.log.delete_topic(version_topic("s", 1))
    bench.log.append(version_topic("s", 2), 0, [encode(Record(Kind.DECLARE_LEADERSHIP, term=1, session=7))])
    bench.poll_until(lambda: bench.replicas.open["s", 2][0].position.next_offset == 1)


def _with_snapshot(version: Version, snapshot: SnapshotRef) -> Version:
    return replace(version, snapshot=snapshot)
