"""Checkpoints that a worker writes, and replicas made of them: nothing is lost, whatever is missing or damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from replica_bench import PARTITIONS, Bench
from test_leaders import KEYS, Worker, hybrid, until, write

from venice.checkpoints import Checkpointer
from venice.clock import ManualClock
from venice.model import Checkpoint, ReplicaState, Version
from venice.naming import parse_checkpoint_name, real_time_topic, version_topic
from venice.replica import Wanted
from venice.storage.manifest import MANIFEST_NAME, file_name
from venice.storage.snapshot import read_manifest, verify

TOPIC = version_topic("s", 1)
_NAMES = count()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "one")
    made.log.create_topic(real_time_topic("s"), PARTITIONS)
    yield made
    made.replicas.close()
    made.log.close()


class Writer:
    """A checkpointer beside a worker, with the catalog played by hand: `record` is what the controller would do."""

    def __init__(self, bench: Bench, version: Version, *, records: int = 1, worker: str = "w") -> None:
        self.bench = bench
        self.version = version
        self.clock = ManualClock()
        self.kept: dict[int, tuple[Checkpoint, ...]] = {}
        self.made = Checkpointer(
            bench.replicas,
            bench.folder / "blobs",
            worker,
            clock=self.clock,
            ids=lambda: f"{next(_NAMES):x}",
            records=records,
            pause_s=10,
        )
        self.want()

    def wanted(self) -> list[Wanted]:
        return [Wanted("s", self.version, partition, self.kept.get(partition, ())) for partition in range(PARTITIONS)]

    def want(self) -> None:
        self.made.want(self.wanted())

    def step(self) -> dict[int, Checkpoint]:
        """What is written and not recorded yet, after one more look, by partition."""
        self.made.step()
        found = {one.partition: self.made.written(one.name) for one in self.wanted()}
        return {partition: checkpoint for partition, checkpoint in found.items() if checkpoint is not None}

    def record(self, wait_s: float = 10) -> dict[int, Checkpoint]:
        """The catalog takes what was written; the next look comes after the pause."""
        found = self.step()
        for partition, checkpoint in found.items():
            self.kept[partition] = (checkpoint, *self.kept.get(partition, ()))[:2]
        self.want()
        self.clock.advance(wait_s)
        return found

    def folders(self) -> list[Path]:
        return sorted((self.bench.folder / "blobs" / "s" / TOPIC).iterdir())


def stream(bench: Bench, worker: Worker, values: dict[bytes, bytes | None], at_ms: int) -> None:
    """Write, and wait until the served replicas have folded it."""
    for key, value in values.items():
        write(bench, key, value, at_ms)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    until(lambda: {key: worker.get(1, key) for key in values} == values, worker)


def led(bench: Bench) -> tuple[Version, Worker]:
    """A version with a leader, as its tests find it."""
    worker = Worker(bench)
    version = hybrid(bench, 1, {})
    bench.want(version)
    worker.lead(version, term=1)
    return version, worker


def lose_replicas(bench: Bench) -> None:
    """The disk of the process is gone, and so is the process."""
    bench.replicas.close()
    shutil.rmtree(bench.replicas_folder)
    bench.replicas = bench.open()


def lead_again(bench: Bench, version: Version) -> Worker:
    worker = Worker(bench)
    worker.lead(version, term=1)
    return worker


def trim(bench: Bench, kept: dict[int, tuple[Checkpoint, ...]]) -> None:
    for partition, checkpoints in kept.items():
        bench.log.delete_prefix(TOPIC, partition, checkpoints[-1].next_offset)


def test_a_checkpoint_is_written_when_due_and_once(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    assert Writer(bench, version, records=10**6).step() == {}
    assert Writer(bench, version, records=0).step() == {}
    writer = Writer(bench, version)
    written = writer.step()
    assert set(written) == set(range(PARTITIONS))
    for partition, checkpoint in written.items():
        manifest = verify(checkpoint.snapshot)
        storage = bench.replicas.open["s", 1][partition]
        assert (manifest.partition, manifest.topic_id, manifest.partition_count) == (partition, version.topic_id, PARTITIONS)
        assert (manifest.position, manifest.rows) == (storage.position, checkpoint.row_count)
        assert checkpoint.next_offset == storage.position.next_offset
        assert {(at.region, at.partition): at.next_offset for at in checkpoint.vector} == {
            (region, real_time): offset for region, real_time, offset in storage.position.vector
        }
        name = parse_checkpoint_name(Path(checkpoint.snapshot.uri).name)
        assert name is not None
        assert name[:2] == (partition, checkpoint.next_offset)
    writer.clock.advance(3600)
    assert writer.step() == written, "it is reported, and no other one written, until the catalog names it"
    assert len(writer.folders()) == PARTITIONS
    writer.record()
    assert writer.step() == {}, "recorded, and nothing new was folded"


def test_the_pause_between_two_checkpoints_is_kept(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer = Writer(bench, version)
    writer.record(wait_s=9)
    stream(bench, worker, dict.fromkeys(KEYS, b"two"), 200)
    assert writer.step() == {}, "too soon after the last one"
    writer.clock.advance(1)
    assert set(writer.step()) == set(range(PARTITIONS))


def test_a_replica_that_is_lost_comes_back_from_the_newest_checkpoint_although_the_topic_was_trimmed(bench: Bench) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer.record()
    stream(bench, worker, {**dict.fromkeys(KEYS, b"two"), **dict.fromkeys(KEYS[10:12], None)}, 200)
    writer.record()
    stream(bench, worker, dict.fromkeys(KEYS[:5], b"three"), 300)
    before = {p: storage.position.next_offset for p, storage in bench.replicas.open["s", 1].items()}
    trim(bench, writer.kept)
    lose_replicas(bench)
    bench.replicas.want(writer.wanted())
    expected: dict[bytes, bytes | None] = {
        **dict.fromkeys(KEYS, b"two"),
        **dict.fromkeys(KEYS[10:12], None),
        **dict.fromkeys(KEYS[:5], b"three"),
    }
    again = Worker(bench)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, again)
    until(lambda: {p: s.position.next_offset for p, s in bench.replicas.open["s", 1].items()} == before, again)
    assert {key: again.get(1, key) for key in KEYS} == expected
    for partition, storage in bench.replicas.open["s", 1].items():
        assert storage.identity.snapshot_sha256 == writer.kept[partition][0].snapshot.sha256
    # Tombstones came along: a late write that is older than the delete still loses.
    write(bench, KEYS[10], b"late", 150)
    stream(bench, lead_again(bench, version), {KEYS[0]: b"four"}, 400)
    assert again.get(1, KEYS[10]) is None


def test_a_replica_made_of_a_checkpoint_is_opened_again_as_it_is(bench: Bench) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer.record()
    lose_replicas(bench)
    for _ in range(2):
        bench.replicas.want(writer.wanted())
        bench.poll_until_open(1)
        incarnations = {storage.identity.incarnation for storage in bench.replicas.open["s", 1].values()}
        bench.replicas.close()
        bench.replicas = bench.open()
    bench.replicas.want(writer.wanted())
    bench.poll_until_open(1)
    assert {storage.identity.incarnation for storage in bench.replicas.open["s", 1].values()} == incarnations


def test_a_replica_that_is_overtaken_while_it_runs_is_made_anew(bench: Bench, tmp_path: Path) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    behind = Bench.beside(bench, tmp_path / "two")
    behind.want(version)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    behind.poll_until_open(1)
    for at_ms, value in ((200, b"two"), (300, b"three")):
        stream(bench, worker, dict.fromkeys(KEYS, value), at_ms)
        writer.record()
    trim(bench, writer.kept)
    behind.replicas.want(writer.wanted())
    behind.poll_until(
        lambda: all(
            (found := behind.replicas.open.get(("s", 1), {}).get(p)) is not None
            and found.identity.snapshot_sha256 == writer.kept[p][0].snapshot.sha256
            for p in range(PARTITIONS)
        )
    )
    behind.poll_until(
        lambda: all(behind.replicas.open["s", 1][p].position == bench.replicas.open["s", 1][p].position for p in range(PARTITIONS))
    )
    behind.replicas.close()


def test_a_replica_that_was_away_for_too_long_is_made_anew(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    bench.replicas.close()
    away = bench.replicas_folder.rename(bench.folder / "away")
    bench.replicas = bench.open()
    bench.want(version)
    worker = lead_again(bench, version)
    writer = Writer(bench, version)
    for at_ms, value in ((200, b"two"), (300, b"three")):
        stream(bench, worker, dict.fromkeys(KEYS, value), at_ms)
        writer.record()
    trim(bench, writer.kept)
    bench.replicas.close()
    shutil.rmtree(bench.replicas_folder)
    away.rename(bench.replicas_folder)
    bench.replicas = bench.open()
    bench.replicas.want(writer.wanted())
    bench.poll_until_open(1)
    for partition, storage in bench.replicas.open["s", 1].items():
        assert storage.identity.snapshot_sha256 == writer.kept[partition][0].snapshot.sha256


def record_two(bench: Bench, worker: Worker, writer: Writer) -> None:
    """Two checkpoints of each partition; the rows are those of the later one."""
    for at_ms, value in ((100, b"one"), (200, b"two")):
        stream(bench, worker, dict.fromkeys(KEYS, value), at_ms)
        writer.record()


def damage(folder: Path) -> None:
    for path in folder.glob("*.values.sst"):
        path.write_bytes(path.read_bytes()[:-1])


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def unseal(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()


@pytest.mark.parametrize("spoil", [damage, remove, unseal])
def test_a_spoilt_checkpoint_is_passed_over_for_the_one_before_it(bench: Bench, spoil: Callable[[Path], None]) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    record_two(bench, worker, writer)
    trim(bench, writer.kept)
    for checkpoints in writer.kept.values():
        spoil(Path(checkpoints[0].snapshot.uri))
    lose_replicas(bench)
    bench.replicas.want(writer.wanted())
    worker = Worker(bench)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    until(lambda: {worker.get(1, key) for key in KEYS} == {b"two"}, worker)
    for partition, storage in bench.replicas.open["s", 1].items():
        assert storage.identity.snapshot_sha256 == writer.kept[partition][1].snapshot.sha256


def test_without_any_checkpoint_that_can_be_read_the_snapshot_serves_as_long_as_the_topic_is_whole(bench: Bench) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    record_two(bench, worker, writer)
    for checkpoints in writer.kept.values():
        for checkpoint in checkpoints:
            damage(Path(checkpoint.snapshot.uri))
    lose_replicas(bench)
    bench.replicas.want(writer.wanted())
    worker = Worker(bench)
    until(lambda: len(bench.replicas.open.get(("s", 1), {})) == PARTITIONS, worker)
    until(lambda: {worker.get(1, key) for key in KEYS} == {b"two"}, worker)
    assert version.snapshot is not None
    assert {storage.identity.snapshot_sha256 for storage in bench.replicas.open["s", 1].values()} == {version.snapshot.sha256}


def test_with_nothing_left_to_be_made_of_a_replica_says_what_is_wrong(bench: Bench) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    record_two(bench, worker, writer)
    trim(bench, writer.kept)
    for checkpoints in writer.kept.values():
        for checkpoint in checkpoints:
            damage(Path(checkpoint.snapshot.uri))
    lose_replicas(bench)
    bench.replicas.want(writer.wanted())
    bench.poll_until(lambda: {report.state for report in bench.replicas.reports()} == {ReplicaState.ERROR})
    for report in bench.replicas.reports():
        first = writer.kept[report.partition][1].next_offset
        assert f"its topic begins at offset {first}" in report.error
        assert file_name(report.partition) in report.error


def test_a_process_that_has_not_heard_of_the_checkpoint_yet_waits_for_it(bench: Bench) -> None:
    version, worker = led(bench)
    writer = Writer(bench, version)
    record_two(bench, worker, writer)
    trim(bench, writer.kept)
    lose_replicas(bench)
    bench.want(version)
    bench.poll_until(lambda: ["begins at offset" in report.error for report in bench.replicas.reports()] == [True] * PARTITIONS)
    assert {report.state for report in bench.replicas.reports()} == {ReplicaState.ATTACHING}, "no error of the version"
    bench.replicas.want(writer.wanted())
    bench.poll_until_open(1)


def test_what_an_earlier_life_left_unfinished_goes_and_nothing_else(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    first = Writer(bench, version)
    sealed = first.step()
    other = Writer(bench, version, worker="another")
    theirs = other.step()
    for path in (sealed[0], theirs[0]):
        copy = Path(path.snapshot.uri)
        unfinished = copy.with_name(copy.name + "f")
        shutil.copytree(copy, unfinished)
        unseal(unfinished)
    Writer(bench, version).step()
    names = {folder.name for folder in first.folders()}
    assert {Path(one.snapshot.uri).name for one in (*sealed.values(), *theirs.values())} <= names
    assert [name for name in names if name.endswith("f") and name[:-1] in names] == [Path(theirs[0].snapshot.uri).name + "f"]


def test_a_checkpoint_that_was_deleted_unrecorded_is_given_up(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer = Writer(bench, version)
    for checkpoint in writer.step().values():
        shutil.rmtree(checkpoint.snapshot.uri)
    stream(bench, worker, dict.fromkeys(KEYS, b"two"), 200)
    writer.clock.advance(61)
    for partition, checkpoint in writer.step().items():
        assert read_manifest(checkpoint.snapshot).position == bench.replicas.open["s", 1][partition].position


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_and_is_tried_again(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer = Writer(bench, version)
    blocked = bench.folder / "blobs" / "s"
    blocked.write_text("in the way")
    assert writer.step() == {}
    blocked.unlink()
    assert writer.step() == {}, "not at once"
    writer.clock.advance(61)
    assert set(writer.step()) == set(range(PARTITIONS))


def test_a_partition_that_is_led_no_more_is_forgotten(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer = Writer(bench, version)
    assert writer.step()
    writer.made.want([])
    assert writer.step() == {}


def test_a_stopped_writer_gives_up_what_it_is_at(bench: Bench) -> None:
    version, worker = led(bench)
    stream(bench, worker, dict.fromkeys(KEYS, b"one"), 100)
    writer = Writer(bench, version)
    writer.clock.sleep = lambda seconds: writer.made.close()  # type: ignore[method-assign]  # its pause is where it is stopped
    assert writer.step() == {}
    assert writer.folders() == []
