"""Checkpoints at the controller: recorded once they are sound, kept two, and topics trimmed below the older one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog
from venice.model import Checkpoint, HybridConfig, ReplicaReport, ReplicaState, StoreConfig, VersionStatus
from venice.naming import checkpoint_name, snapshot_folder
from venice.storage import Identity, Mutation, Position
from venice.storage.manifest import MANIFEST_NAME
from venice.storage.memory import MemoryStorage
from venice.storage.snapshot import checkpoint, described, read_manifest

REWIND_S = 60
MARGIN_S = 30


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log", clock)
    yield opened
    opened.close()


class Hybrid:
    """A store of one partition with a version that serves, one worker, and its topics filled by hand."""

    def __init__(self, folder: Path, log: SqliteLog, clock: ManualClock) -> None:
        self.log, self.clock = log, clock
        self.policy = replace(make_policy(folder), topic_margin_s=MARGIN_S)
        self.controller = open_controller(log, clock, self.policy)
        self.workers = Workers(log, clock, "a-0")
        self.names = Random(1)
        self.workers.report(self.controller)
        self.controller.tick()
        self.controller.create_store(
            "s",
            key_schema=KEY_SCHEMA,
            value_schema=VALUE_SCHEMA,
            config=StoreConfig(partition_count=1, versions_preserved=1),
            hybrid=HybridConfig(rewind_s=REWIND_S),
        )
        push(self.controller, self.workers, "s", "p1")

    def restart(self, seed: int = 2) -> Controller:
        self.controller = open_controller(self.log, self.clock, self.policy, seed)
        return self.controller

    def fill(self, topic: str, count: int = 10) -> int:
        """Append, and say where the topic ends; the records are as old as they are when this is called."""
        self.log.append(topic, 0, [b"x"] * count)
        return self.log.end_offset(topic, 0)

    def write(self, next_offset: int, merged: int, version: int = 1) -> Checkpoint:
        """A checkpoint as a worker writes it, of a replica that was folded so far."""
        topic_id = self.controller.catalog.stores["s"].version(version).topic_id  # type: ignore[union-attr]
        storage = MemoryStorage(Identity(store="s", version=version, partition=0, topic_id=topic_id, incarnation="i"))
        storage.apply([Mutation(b"k", b"\0\1\0\0\0v")], Position(next_offset=next_offset, vector=((0, 0, merged),), term=1, session=1))
        name = checkpoint_name(0, next_offset, "0" * 8, f"{self.names.getrandbits(32):x}")
        folder = Path(self.policy.blobs_url) / snapshot_folder("s", version, name)
        ref = checkpoint(storage, folder, partition_count=1, created_ms=self.clock.now_ms())
        return described(ref, read_manifest(ref))

    def report(self, one: Checkpoint | None, version: int = 1) -> None:
        """The worker reports, and the controller looks after things."""
        replica = ReplicaReport(store="s", version=version, partition=0, state=ReplicaState.READY, checkpoint=one)
        self.workers.send(self.workers.workers["a-0"], (replica,))
        self.controller.tick()

    def tick(self, seconds: float = 0) -> None:
        """Time passes, and the worker is heard."""
        self.clock.advance(seconds)
        self.report(None)

    def kept(self, version: int = 1) -> tuple[Checkpoint, ...]:
        return self.controller.catalog.kept("s", version, 0)

    def folders(self) -> set[str]:
        return {folder.name for folder in (Path(self.policy.blobs_url) / "s" / "s_v1").iterdir() if folder.name.startswith("checkpoint")}

    def starts(self) -> tuple[int, int]:
        """Where the version topic and the real-time topic begin."""
        return self.log.start_offset("s_v1", 0), self.log.start_offset("s_rt", 0)


@pytest.fixture
def hybrid(tmp_path: Path, log: SqliteLog, clock: ManualClock) -> Iterator[Hybrid]:
    made = Hybrid(tmp_path, log, clock)
    yield made
    made.controller.close()


def name(one: Checkpoint) -> str:
    return Path(one.snapshot.uri).name


def test_two_are_kept_and_the_older_ones_are_deleted_after_the_grace(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 30)
    made = []
    for offset in (10, 20, 30):
        made.append(hybrid.write(offset, 0))
        hybrid.report(made[-1])
        assert hybrid.kept() == tuple(reversed(made))[:2]
    assert hybrid.folders() == {name(one) for one in made}, "whoever attaches the oldest one goes on for the grace"
    hybrid.tick(11)
    assert hybrid.folders() == {name(one) for one in made[1:]}
    assert hybrid.restart().catalog.kept("s", 1, 0) == (made[2], made[1])


def test_what_is_reported_again_or_is_older_changes_nothing(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 30)
    older, newer = hybrid.write(10, 0), hybrid.write(20, 0)
    hybrid.report(newer)
    sequence = hybrid.controller.catalog.sequence
    for again in (newer, older, newer):
        hybrid.report(again)
    assert (hybrid.kept(), hybrid.controller.catalog.sequence) == ((newer,), sequence)
    hybrid.tick(11)
    assert hybrid.folders() == {name(newer)}, "one that came too late can be taken no more"


def test_only_what_is_there_and_is_what_it_says_is_recorded(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    lost, cut, other, elsewhere = (hybrid.write(offset, 0) for offset in (10, 11, 12, 13))
    shutil.rmtree(lost.snapshot.uri)
    file = next(Path(cut.snapshot.uri).glob("*.sst"))
    file.write_bytes(file.read_bytes()[:-1])
    renamed = Path(other.snapshot.uri).rename(Path(other.snapshot.uri).with_name(checkpoint_name(0, 99, "0" * 8, "1")))
    lying = replace(other, next_offset=99, snapshot=replace(other.snapshot, uri=str(renamed)))
    moved = Path(elsewhere.snapshot.uri).rename(Path(hybrid.policy.blobs_url) / name(elsewhere))
    strange = replace(elsewhere, snapshot=replace(elsewhere.snapshot, uri=str(moved)))
    unnamed = replace(hybrid.write(14, 0), next_offset=15)
    for one in (lost, cut, lying, strange, unnamed):
        hybrid.report(one)
        assert hybrid.kept() == ()
    for problem in (lost, cut, lying, strange):
        hybrid.report(problem)
        assert name(problem) in hybrid.controller.health().problems[-1]


def test_a_version_topic_is_trimmed_below_the_older_checkpoint_once_that_is_old_enough(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 20)
    hybrid.report(hybrid.write(10, 0))
    hybrid.tick(MARGIN_S + 1)
    assert hybrid.starts()[0] == 0, "one checkpoint alone has nothing to fall back on but the beginning"
    hybrid.fill("s_v1", 20)
    hybrid.report(hybrid.write(30, 0))
    hybrid.tick(2)
    assert hybrid.starts()[0] == 10
    hybrid.report(hybrid.write(35, 0))
    hybrid.tick(2)
    assert hybrid.starts()[0] == 21, "what came after the first 21 records is younger than the margin"
    hybrid.tick(MARGIN_S)
    assert hybrid.starts()[0] == 30


def test_nothing_is_trimmed_while_a_checkpoint_it_relies_on_is_not_sound(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 20)
    first, second = hybrid.write(10, 0), hybrid.write(20, 0)
    hybrid.report(first)
    hybrid.report(second)
    (Path(first.snapshot.uri) / MANIFEST_NAME).unlink()
    hybrid.tick(MARGIN_S + 1)
    assert hybrid.starts()[0] == 0
    assert "s_v1[0] is not trimmed" in hybrid.controller.health().problems[-1]
    hybrid.fill("s_v1", 20)
    hybrid.report(hybrid.write(30, 0))
    hybrid.tick(MARGIN_S + 1)
    assert hybrid.starts()[0] == 20, "two sound ones again"


def test_a_real_time_topic_keeps_what_a_version_may_merge_and_what_one_to_come_may_replay(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.fill("s_rt", 40)
    hybrid.report(hybrid.write(10, 20))
    hybrid.report(hybrid.write(20, 30))
    hybrid.tick(REWIND_S)
    assert hybrid.starts()[1] == 0, "a push that begins now replays them"
    hybrid.tick(MARGIN_S + 1)
    assert hybrid.starts()[1] == 20, "the older checkpoint goes on from there"
    hybrid.report(hybrid.write(30, 40))
    hybrid.tick(2)
    assert hybrid.starts()[1] == 30


def test_a_version_being_pushed_holds_the_real_time_topic_back(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.fill("s_rt", 40)
    hybrid.report(hybrid.write(10, 40))
    hybrid.report(hybrid.write(20, 40))
    hybrid.clock.advance(REWIND_S - 1)
    grant = hybrid.controller.create_version("s", push_id="p2")
    (start,) = hybrid.controller.get_version("s", grant.number).version.start_offsets
    for _ in range(20):
        hybrid.clock.advance(10)
        hybrid.controller.heartbeat("s", grant.number)
        hybrid.report(None)
    assert hybrid.starts()[1] == start.next_offset == 0
    hybrid.controller.kill("s", grant.number)
    hybrid.tick(2)
    assert hybrid.starts()[1] == 40


def test_with_another_region_no_real_time_record_is_deleted(hybrid: Hybrid, clock: ManualClock) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.fill("s_rt", 40)
    hybrid.report(hybrid.write(10, 40))
    hybrid.report(hybrid.write(20, 40))
    there = Controller(hybrid.log, clock, replace(hybrid.policy, region="there"), rng=Random(7))
    there.open()
    there.close()
    hybrid.restart()
    for _ in range(3):
        hybrid.tick(REWIND_S + MARGIN_S)
    assert hybrid.starts() == (10, 0)


def test_what_a_worker_left_unfinished_goes_when_it_can_become_nothing_any_more(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    unfinished, later = hybrid.write(10, 0), hybrid.write(30, 0)
    for one in (unfinished, later):
        (Path(one.snapshot.uri) / MANIFEST_NAME).unlink()
    hybrid.tick(11)
    hybrid.tick(11)
    assert hybrid.folders() == {name(unfinished), name(later)}, "they may be being written"
    recorded = hybrid.write(20, 0)
    hybrid.report(recorded)
    hybrid.tick(11)
    assert hybrid.folders() == {name(recorded), name(later)}


def test_they_go_with_their_version(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.report(hybrid.write(10, 0))
    push(hybrid.controller, hybrid.workers, "s", "p2")
    assert hybrid.controller.catalog.stores["s"].current == 2
    assert hybrid.controller.catalog.checkpoints == {}
    hybrid.report(hybrid.write(20, 0, version=2), version=2)
    assert len(hybrid.kept(2)) == 1
    hybrid.clock.advance(11)
    hybrid.controller.tick()
    assert not (Path(hybrid.policy.blobs_url) / "s" / "s_v1").exists()
    assert hybrid.controller.get_version("s", 2).version.status is VersionStatus.ONLINE
    hybrid.controller.delete_store("s")
    assert hybrid.controller.catalog.checkpoints == {}


def test_a_worker_that_is_silent_is_not_listened_to(hybrid: Hybrid) -> None:
    hybrid.fill("s_v1", 40)
    one = hybrid.write(10, 0)
    replica = ReplicaReport(store="s", version=1, partition=0, state=ReplicaState.READY, checkpoint=one)
    hybrid.workers.send(hybrid.workers.workers["a-0"], (replica,))
    hybrid.controller._advance(hybrid.controller._reports.poll(), due=True)
    hybrid.clock.advance(6)
    hybrid.controller.tick()
    assert hybrid.kept() == ()
