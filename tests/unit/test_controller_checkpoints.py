"""Checkpoints at the controller: recorded once they are sound, kept two, and topics trimmed below the older one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random, SystemRandom

import pytest
from checkpoint_kit import MARGIN_S, REWIND_S, Hybrid
from control_fixtures import log
from control_kit import push

from venice.clock import ManualClock, SystemClock
from venice.control.catalog import CatalogReader
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog
from venice.model import Checkpoint, ReplicaReport, ReplicaState, VersionStatus
from venice.naming import checkpoint_name
from venice.storage.manifest import MANIFEST_NAME
from venice.storage.snapshot import verify

__all__ = ["log"]  # Fixtures: pytest finds them by their names here.

TESTS = Path(__file__).resolve().parent.parent


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


def test_a_version_being_pushed_holds_the_real_time_topic_back(hybrid: Hybrid, clock: ManualClock) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.fill("s_rt", 40)
    hybrid.report(hybrid.write(10, 40))
    hybrid.report(hybrid.write(20, 40))
    clock.advance(REWIND_S - 1)
    grant = hybrid.controller.create_version("s", push_id="p2")
    (start,) = hybrid.controller.get_version("s", grant.number).version.start_offsets
    for _ in range(20):
        clock.advance(10)
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


def test_they_go_with_their_version(hybrid: Hybrid, clock: ManualClock) -> None:
    hybrid.fill("s_v1", 40)
    hybrid.report(hybrid.write(10, 0))
    push(hybrid.controller, hybrid.workers, "s", "p2")
    assert hybrid.controller.catalog.stores["s"].current == 2
    assert hybrid.controller.catalog.checkpoints == {}
    hybrid.report(hybrid.write(20, 0, version=2), version=2)
    assert len(hybrid.kept(2)) == 1
    clock.advance(11)
    hybrid.controller.tick()
    assert not (Path(hybrid.policy.blobs_url) / "s" / "s_v1").exists()
    assert hybrid.controller.get_version("s", 2).version.status is VersionStatus.ONLINE
    hybrid.controller.delete_store("s")
    assert hybrid.controller.catalog.checkpoints == {}


def test_a_worker_that_is_silent_is_not_listened_to(hybrid: Hybrid, clock: ManualClock) -> None:
    hybrid.fill("s_v1", 40)
    one = hybrid.write(10, 0)
    replica = ReplicaReport(store="s", version=1, partition=0, state=ReplicaState.READY, checkpoint=one)
    hybrid.workers.send(hybrid.workers.workers["a-0"], (replica,))
    hybrid.controller._advance(hybrid.controller._reports.poll(), due=True)
    clock.advance(6)
    hybrid.controller.tick()
    assert hybrid.kept() == ()


def test_a_controller_killed_at_any_moment_counts_on_nothing_that_is_not_there(tmp_path: Path) -> None:
    seed = SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = Random(seed)
    recorded = 0
    for life in range(5):
        arguments = [sys.executable, str(TESTS / "control_checkpoint_child.py"), str(tmp_path), str(rng.getrandbits(32))]
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(rng.randint(1, 40)):
            recorded = max(recorded, int(child.stdout.readline()))
        time.sleep(rng.uniform(0, 0.05))  # so that it is killed at a random moment: nothing is waited for
        child.kill()
        recorded = max([recorded, *(int(line) for line in child.stdout if line.endswith("\n"))])
        child.wait()
        child.stdout.close()
        log = SqliteLog(tmp_path / "log", SystemClock())
        reader = CatalogReader(log)
        kept = reader.catch_up().kept("s", 1, 0)
        assert kept[0].next_offset >= recorded, life
        assert [verify(one.snapshot).position.next_offset for one in kept] == [one.next_offset for one in kept]
        assert log.start_offset("s_v1", 0) <= kept[-1].next_offset
        assert log.start_offset("s_rt", 0) <= min(at.next_offset for at in kept[-1].vector)
        reader.close()
        log.close()
    log = SqliteLog(tmp_path / "log", SystemClock())
    last = Hybrid(tmp_path, log, SystemClock(), seed=rng.getrandbits(32), margin_s=0, grace_s=0)
    last.report(last.write(last.fill("s_v1"), 10**6))
    last.tick(1)
    assert last.starts()[0] > 0, "topics were trimmed"
    assert last.folders() == {name(one) for one in last.kept()}
    last.controller.close()
    log.close()
