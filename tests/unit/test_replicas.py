"""The replicas of a process follow what is wanted of it: attached, served, replaced, retired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from replica_bench import Bench

from venice import replicas
from venice.clock import SystemClock
from venice.errors import Full
from venice.model import Fault, HybridConfig, ReplicaReport, ReplicaState, SnapshotRef, Version
from venice.naming import version_topic
from venice.record import Kind, Origin, Record, encode
from venice.replica import Wanted
from venice.storage import Change, Position
from venice.storage.format import encode_value
from venice.storage.manifest import file_name
from venice.storage.memory import MemoryStorage
from venice.storage.snapshot import read_manifest, seal
from venice.storage.tuning import open_rocks


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


def test_a_replica_that_lacks_rows_of_its_push_is_attached_afresh(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1", b"b": b"2"})
    bench.want(version)
    bench.poll_until_open(1)
    before = bench.replicas.open["s", 1][0].identity.incarnation
    bench.replicas.close()
    (folder,) = (bench.replicas_folder / "s_v1.000000").iterdir()
    rocks = open_rocks(folder)
    rocks.delete(b"b")
    rocks.close()
    bench.replicas = bench.open()
    bench.want(version)
    bench.poll_until_open(1)
    assert bench.replicas.open["s", 1][0].identity.incarnation != before
    assert bench.get(1, b"b") == encode_value(1, b"2")


def test_a_snapshot_with_other_rows_than_it_was_sealed_with_never_serves(bench: Bench) -> None:
    version = bench.version(1, {b"a": b"1", b"b": b"2"})
    assert version.snapshot is not None
    folder = Path(version.snapshot.uri)
    manifest = read_manifest(version.snapshot)
    files = tuple(replace(file, rows=file.rows + file.partition) for file in manifest.files)
    (folder / "manifest.json").unlink()
    bench.want(replace(version, snapshot=seal(folder, replace(manifest, files=files))))
    bench.poll_until(lambda: {r.state for r in bench.replicas.reports()} == {ReplicaState.READY, ReplicaState.ERROR})
    (failed,) = (report for report in bench.replicas.reports() if report.state is ReplicaState.ERROR)
    assert "holds 2 rows, its manifest says 3" in failed.error
    assert bench.replicas.open["s", 1].keys() == {0}


def led(bench: Bench, partition: int = 0) -> Version:
    """A hybrid version with a session that has written two records to one partition."""
    version = bench.version(1, {b"a": b"0"}, HybridConfig(lag_records_max=0))
    records = [
        Record(Kind.DECLARE_LEADERSHIP, term=1, session=7),
        Record(Kind.HEARTBEAT, term=1, session=7, sequence=1),
        write(1, 2, b"1"),
        Record(Kind.CAUGHT_UP, term=1, session=7, sequence=3, vector=((0, 0, 1),)),
    ]
    bench.log.append(version_topic("s", 1), partition, [encode(record) for record in records])
    return version


def write(next_offset: int, sequence: int, value: bytes, session: int = 7, schema_id: int = 1) -> Record:
    return Record(
        Kind.PUT, key=b"a", value=value, schema_id=schema_id, origin=Origin.REAL_TIME, timestamp_ms=5, region=0, term=1,
        session=session, sequence=sequence, vector=((0, 0, next_offset),),
    )  # fmt: skip


def want_one(bench: Bench, version: Version, schemas: frozenset[int] | None = None) -> None:
    bench.replicas.want([Wanted("s", version, 0, schemas=schemas)])


def look(bench: Bench) -> ReplicaReport:
    bench.replicas.look(SystemClock().now_ms(), bench.log.end_offsets(bench.replicas.sources()))
    (report,) = bench.replicas.reports()
    return report


def test_records_at_fault_are_counted_and_the_lag_shows_where_a_replica_stands_still(bench: Bench) -> None:
    version = led(bench)
    want_one(bench, version, frozenset({1}))
    bench.poll_until(lambda: ("s", 1) in bench.replicas.open)
    assert (look(bench).lag_records, look(bench).lag_s, look(bench).faults) == (0, 0.0, ())
    topic = version_topic("s", 1)
    planted = [b"garbage", encode(write(1, 2, b"9")), encode(write(2, 4, b"2", schema_id=8)), encode(write(4, 6, b"4"))]
    bench.log.append(topic, 0, planted)
    found = {(Fault.CORRUPT, 1), (Fault.DUPLICATE, 1), (Fault.MISSING, 1), (Fault.UNREGISTERED, 1)}
    bench.poll_until(lambda: {(count.fault, count.count) for count in look(bench).faults} == found)
    assert bench.get(1, b"a") == encode_value(8, b"2", 5, 0)
    report = look(bench)
    assert (report.state, report.lag_records) == (ReplicaState.READY, 1), "it serves, and says that it stands still"
    session = [Record(Kind.DECLARE_LEADERSHIP, term=1, session=8), Record(Kind.HEARTBEAT, term=1, session=8, sequence=1)]
    bench.log.append(topic, 0, [encode(record) for record in (*session, write(4, 2, b"4", session=8))])
    bench.poll_until(lambda: bench.get(1, b"a") == encode_value(1, b"4", 5, 0))
    assert look(bench).lag_records == 0


def test_a_replica_that_lacks_what_its_leader_has_stops_serving_and_is_made_anew(bench: Bench) -> None:
    version = led(bench)
    want_one(bench, version)
    bench.poll_until(lambda: ("s", 1) in bench.replicas.open)
    session = [
        Record(Kind.DECLARE_LEADERSHIP, term=1, session=8),
        Record(Kind.HEARTBEAT, term=1, session=8, sequence=1, vector=((0, 0, 9),)),
    ]
    before = bench.replicas.open["s", 1][0].identity.incarnation
    bench.log.append(version_topic("s", 1), 0, [encode(record) for record in session])
    bench.poll_until(lambda: ("s", 1) not in bench.replicas.open)
    (report,) = bench.replicas.reports()
    assert (report.state, {count.fault for count in report.faults}) == (ReplicaState.ERROR, {Fault.MISSING})
    assert "records between were never read" in report.error
    assert not (bench.replicas_folder / "s_v1.000000" / before).exists()


class FullOnce(MemoryStorage):
    """A disk that has no room at first."""

    full = True

    def apply(self, mutations: Sequence[Change], position: Position) -> None:
        if self.full:
            raise Full("no room", hint="make some")
        super().apply(mutations, position)


def test_a_replica_on_a_full_disk_serves_what_it_has_and_goes_on_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "RETRY_S", 0.2)
    version = led(bench)
    want_one(bench, version)
    bench.poll_until(lambda: ("s", 1) in bench.replicas.open)
    fold = bench.replicas.fold_of("s_v1.000000")
    assert fold is not None
    held, fold.storage = fold.storage, FullOnce(fold.storage.identity, position=fold.storage.position)
    bench.log.append(version_topic("s", 1), 0, [encode(write(2, 4, b"2"))])
    bench.poll_until(lambda: look(bench).error != "")
    assert look(bench).state is ReplicaState.READY
    assert bench.replicas.fold_of("s_v1.000000") is None, "nobody leads a replica that rests"
    fold.storage = held
    bench.poll_until(lambda: bench.get(1, b"a") == encode_value(1, b"2", 5, 0))
    assert look(bench).error == ""


def test_a_condemned_replica_on_a_full_disk_is_attached_afresh(bench: Bench) -> None:
    want_one(bench, led(bench))
    bench.poll_until(lambda: ("s", 1) in bench.replicas.open)
    fold = bench.replicas.fold_of("s_v1.000000")
    assert fold is not None
    held, fold.storage = fold.storage, FullOnce(fold.storage.identity, position=fold.storage.position)
    bench.log.append(version_topic("s", 1), 0, [encode(write(2, 4, b"2"))])
    bench.poll_until(lambda: look(bench).error != "")
    held.close()
    bench.replicas.condemn("s", 1, 0)
    bench.poll_until(lambda: ("s", 1) in bench.replicas.open and bench.get(1, b"a") == encode_value(1, b"2", 5, 0))
