"""Pushes as the controller sees them: from the grant to the swap, and everything that can come in between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_fixtures import log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push, seal_push, write_snapshot

from venice.clock import ManualClock
from venice.control import topics
from venice.control.controller import Controller
from venice.errors import Conflict, Corrupt, Fenced, InvalidRequest, NotFound, Unavailable
from venice.log.sqlite import SqliteLog
from venice.model import ReplicaState, StoreConfig, VersionStatus
from venice.naming import version_topic
from venice.record import Kind, decode
from venice.rules.lifecycle import Role

__all__ = ["log"]  # Fixtures: pytest finds them by their names here.

S = VersionStatus


@pytest.fixture
def controller(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> Iterator[Controller]:
    opened = open_controller(log, clock, make_policy(tmp_path))
    opened.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=StoreConfig(partition_count=3))
    yield opened
    opened.close()


@pytest.fixture
def workers(log: SqliteLog, clock: ManualClock, controller: Controller) -> Workers:
    """Two live workers of two nodes."""
    made = Workers(log, clock, "a-0", "b-0")
    made.report(controller)
    controller.tick()
    return made


def statuses(controller: Controller, store: str = "s") -> dict[int, VersionStatus]:
    return {version.number: version.status for version in controller.get_store(store).versions}


def test_a_push_from_grant_to_swap(controller: Controller, workers: Workers, log: SqliteLog) -> None:
    grant = controller.create_version("s", push_id="monday")
    assert (grant.number, grant.partition_count, grant.existing, grant.sealed, grant.status) == (1, 3, False, False, S.STARTED)
    assert log.partitions("s_v1") == 3
    assert controller.get_store("s").current == 0

    seal_push(controller, grant)
    sealed = controller.get_version("s", 1)
    assert sealed.placed
    assert (sealed.version.row_count, sealed.version.value_schema_id, sealed.role) == (20, 1, Role.FUTURE)
    assert {worker for row in controller.catalog.assignments["s", 1].replicas for worker in row} == {"a-0", "b-0"}
    (start,) = log.reader({("s_v1", 2): 0}).poll()
    assert decode(start.payload).kind is Kind.START_OF_VERSION

    workers.report(controller, "a-0")
    controller.tick()
    assert 0 < controller.get_version("s", 1).ready_partitions < 3
    assert controller.get_store("s").current == 0

    before = controller.catalog.sequence
    workers.report(controller, "b-0")
    controller.tick()
    assert (controller.get_store("s").current, statuses(controller)) == (1, {1: S.ONLINE})
    assert controller.catalog.sequence == before + 1, "a swap is one record"


def test_a_push_id_finds_its_version_again(controller: Controller, workers: Workers) -> None:
    first = controller.create_version("s", push_id="p")
    again = controller.create_version("s", push_id="p")
    assert (again.number, again.existing, again.sealed) == (1, True, False)
    assert again.folder != first.folder, "two attempts never write into one folder"
    seal_push(controller, again)
    assert controller.create_version("s", push_id="p").sealed
    workers.report(controller)
    controller.tick()
    done = controller.create_version("s", push_id="p")
    assert (done.number, done.existing, done.status) == (1, True, S.ONLINE)


def test_a_failed_push_may_try_again_under_its_id(controller: Controller, workers: Workers) -> None:
    controller.create_version("s", push_id="p")
    controller.fail("s", 1, "no space left")
    assert controller.get_version("s", 1).version.reason == "no space left"
    assert controller.create_version("s", push_id="p").number == 2


def test_a_second_push_is_told_who_is_first(controller: Controller, clock: ManualClock) -> None:
    controller.create_version("s", push_id="first")
    clock.advance(12)
    with pytest.raises(Conflict, match="store 's' is being pushed: version 1, push 'first', for 12 s") as caught:
        controller.create_version("s", push_id="second")
    assert caught.value.data == {"version": 1, "push_id": "first", "age_s": 12.0}
    with pytest.raises(Conflict, match="is being pushed"):
        controller.delete_store("s")


def test_a_silent_push_is_dead_and_the_next_goes_on(controller: Controller, clock: ManualClock) -> None:
    controller.create_version("s", push_id="first")
    clock.advance(14)
    controller.heartbeat("s", 1)
    clock.advance(13)
    controller.tick()
    with pytest.raises(Conflict):
        controller.create_version("s", push_id="second")
    clock.advance(3)
    assert controller.create_version("s", push_id="second").number == 2
    with pytest.raises(NotFound, match="version 1 of store 's' was deleted"):
        controller.heartbeat("s", 1)


def test_a_silent_push_is_dead_without_another(controller: Controller, clock: ManualClock) -> None:
    grant = controller.create_version("s", push_id="first")
    clock.advance(16)
    controller.tick()
    info = controller.heartbeat("s", 1)
    assert (info.status, info.version.reason) == ("ERROR", "the push was silent for 16 s and is taken for dead")
    with pytest.raises(Conflict, match="version 1 of store 's' is ERROR: the push was silent"):
        seal_push(controller, grant)


def test_a_sealed_push_needs_no_pusher(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    seal_push(controller, controller.create_version("s", push_id="p"))
    clock.advance(600)
    workers.report(controller)
    controller.tick()
    assert statuses(controller) == {1: S.ONLINE}


def test_a_sealed_version_that_never_becomes_ready_fails(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    seal_push(controller, controller.create_version("s", push_id="p"))
    clock.advance(24 * 3600 + 1)
    workers.report(controller, state=ReplicaState.ATTACHING)
    controller.tick()
    assert controller.get_version("s", 1).version.reason == "only 0 of 3 partitions were ready in time"


def test_without_workers_a_version_waits_to_be_placed(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    seal_push(controller, controller.create_version("s", push_id="p"))
    assert not controller.get_version("s", 1).placed
    late = Workers(log, clock, "c-0")
    late.report(controller)
    controller.tick()
    assert controller.get_version("s", 1).placed
    late.report(controller)
    controller.tick()
    assert statuses(controller) == {1: S.ONLINE}


def test_a_broken_replica_fails_the_future_version_only(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "good")
    seal_push(controller, controller.create_version("s", push_id="bad"))
    workers.report(controller, state=ReplicaState.ERROR, error="000001.values.sst: wrong SHA-256")
    controller.tick()
    assert (statuses(controller), controller.get_store("s").current) == ({1: S.ONLINE, 2: S.ERROR}, 1)
    assert controller.get_version("s", 2).version.reason == "partition 0 failed on worker " + (
        controller.catalog.assignments["s", 2].replicas[0][0] + ": 000001.values.sst: wrong SHA-256"
    )


def test_what_is_sealed_must_be_what_was_written(controller: Controller, workers: Workers, tmp_path: Path) -> None:
    grant = controller.create_version("s", push_id="p")
    ref, manifest = write_snapshot(grant)
    good: Any = {"uri": ref.uri, "sha256": ref.sha256, "rows": manifest.rows, "bytes_": manifest.bytes, "value_schema_id": 1}
    with pytest.raises(InvalidRequest, match="does not lie in"):
        controller.seal("s", 1, **{**good, "uri": str(tmp_path)})
    with pytest.raises(Corrupt):
        controller.seal("s", 1, **{**good, "sha256": "0" * 64})
    with pytest.raises(Corrupt, match=r"manifest of version 1 of store 's': rows is 20, not 21"):
        controller.seal("s", 1, **{**good, "rows": 21})
    with pytest.raises(InvalidRequest, match="store 's' has no value schema 2"):
        controller.seal("s", 1, **{**good, "value_schema_id": 2})
    with pytest.raises(NotFound):
        controller.seal("s", 2, **good)
    part = Path(ref.uri) / manifest.files[0].name
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(Corrupt, match=f"{part.name} has {len(whole) - 1} bytes, not {len(whole)}"):
        controller.seal("s", 1, **good)
    part.unlink()
    with pytest.raises(Corrupt, match=f"{part.name} cannot be read: No such file"):
        controller.seal("s", 1, **good)
    assert controller.get_version("s", 1).version.snapshot is None, "nothing half-done"
    part.write_bytes(whole)
    controller.seal("s", 1, **good)
    sequence = controller.catalog.sequence
    controller.seal("s", 1, **good)
    assert controller.catalog.sequence == sequence, "sealing it again does nothing"


def test_a_seal_repeated_after_a_crash_begins_each_topic_once(controller: Controller, workers: Workers, log: SqliteLog) -> None:
    grant = controller.create_version("s", push_id="p")
    # As a controller leaves it that dies between two appends of a seal.
    topics.begin(log, "s", controller.get_version("s", 1).version, 0)
    seal_push(controller, grant)
    assert [log.end_offset("s_v1", partition) for partition in range(3)] == [1, 1, 1]


def test_a_number_left_unused_by_a_crash_gets_an_empty_topic(controller: Controller, log: SqliteLog) -> None:
    left = log.create_topic("s_v1", 5)
    controller.create_version("s", push_id="p")
    assert (log.partitions("s_v1"), log.topic_id("s_v1") != left) == (3, True)
    controller.kill("s", 1)
    left = log.create_topic("s_v2", 3)
    log.append("s_v2", 0, [b"old"])
    controller.create_version("s", push_id="q")
    assert (log.end_offset("s_v2", 0), log.topic_id("s_v2") != left) == (0, True)


def test_the_slower_attempt_does_not_replace_the_sealed_one(controller: Controller, workers: Workers) -> None:
    slow, fast = controller.create_version("s", push_id="p"), controller.create_version("s", push_id="p")
    seal_push(controller, fast)
    with pytest.raises(Conflict, match="has a snapshot already"):
        seal_push(controller, slow)
    with pytest.raises(Conflict, match="version 1 of store 's' is sealed and completes by itself"):
        controller.fail("s", 1, "the slow one gives up")
    workers.report(controller)
    controller.tick()
    assert statuses(controller) == {1: S.ONLINE}


def test_a_killed_push_stays_killed(controller: Controller, workers: Workers) -> None:
    grant = controller.create_version("s", push_id="p")
    assert controller.kill("s", 1, "wrong table").status == "KILLED"
    assert controller.kill("s", 1).version.reason == "wrong table"
    assert controller.heartbeat("s", 1).status == "KILLED"
    with pytest.raises(Conflict, match="version 1 of store 's' is KILLED: wrong table"):
        seal_push(controller, grant)
    push(controller, workers, "s", "q")
    with pytest.raises(Conflict, match="version 2 of store 's' is serving"):
        controller.kill("s", 2)


def test_rolled_back_and_forward(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two")
    assert (controller.rollback("s").current, statuses(controller)) == (1, {1: S.ONLINE, 2: S.ROLLED_BACK})
    with pytest.raises(Conflict, match="no backup to roll back to"):
        controller.rollback("s")
    with pytest.raises(Conflict, match=r"was rolled back from version 2, which is kept for 24.0 h more"):
        controller.create_version("s", push_id="three")
    assert (controller.roll_forward("s").current, statuses(controller)) == (2, {1: S.ONLINE, 2: S.ONLINE})
    controller.rollback("s")
    clock.advance(24 * 3600 + 1)
    workers.report(controller)
    controller.tick()
    assert statuses(controller) == {1: S.ONLINE}
    assert controller.create_version("s", push_id="three").number == 3


def test_a_rolled_back_version_can_be_killed_to_push_at_once(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two")
    controller.rollback("s")
    controller.kill("s", 2)
    push(controller, workers, "s", "three")
    assert (statuses(controller), controller.get_store("s").current) == ({1: S.ONLINE, 3: S.ONLINE}, 3)


def test_rolling_waits_for_replicas(controller: Controller, workers: Workers, log: SqliteLog, clock: ManualClock, tmp_path: Path) -> None:
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two")
    restarted = open_controller(log, clock, make_policy(tmp_path), seed=2)
    with pytest.raises(Unavailable, match="version 1 of store 's' has partitions without a ready replica"):
        restarted.rollback("s")
    workers.report(restarted)
    restarted.tick()
    assert restarted.rollback("s").current == 1
    restarted.close()


def test_a_deferred_swap(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two", deferred_swap=True)
    assert (controller.get_store("s").current, statuses(controller)) == (1, {1: S.ONLINE, 2: S.PUSHED})
    assert controller.roll_forward("s").current == 2
    push(controller, workers, "s", "three", deferred_swap=True)
    push(controller, workers, "s", "four")
    assert statuses(controller) == {2: S.ONLINE, 4: S.ONLINE}, "the next push took the place of the one that waited"


def test_retention(controller: Controller, workers: Workers) -> None:
    controller.update_store("s", config={"versions_preserved": 3})
    for number in range(1, 6):
        push(controller, workers, "s", f"p{number}")
    assert statuses(controller) == {3: S.ONLINE, 4: S.ONLINE, 5: S.ONLINE}
    controller.create_version("s", push_id="p6")
    assert statuses(controller) == {4: S.ONLINE, 5: S.ONLINE, 6: S.STARTED}, "the new version needs a place"
    controller.fail("s", 6, "x")
    controller.update_store("s", config={"versions_preserved": 1})
    push(controller, workers, "s", "p7")
    assert statuses(controller) == {7: S.ONLINE}


def test_what_is_retired_is_deleted_after_a_grace(
    controller: Controller, workers: Workers, log: SqliteLog, clock: ManualClock, tmp_path: Path
) -> None:
    log.create_topic("s_v99", 1)
    log.create_topic("other_v1", 1)
    blobs = tmp_path / "blobs" / "s"
    lost = controller.create_version("s", push_id="p1").folder
    Path(lost).mkdir(parents=True)
    for number in (1, 2, 3):
        push(controller, workers, "s", f"p{number}")
    controller.tick()
    assert sorted(path.name for path in blobs.iterdir()) == ["s_v1", "s_v2", "s_v3"]
    clock.advance(9)
    controller.tick()
    assert version_topic("s", 1) in log.topics()
    clock.advance(2)
    controller.tick()
    assert sorted(path.name for path in blobs.iterdir()) == ["s_v2", "s_v3"]
    assert {"s_v1", "s_v2", "s_v3"} & set(log.topics()) == {"s_v2", "s_v3"}
    assert {"s_v99", "other_v1"} <= set(log.topics()), "only what this catalog has given out"
    controller.delete_store("s")
    controller.tick()
    clock.advance(11)
    controller.tick()
    assert not blobs.exists()
    assert not {"s_v1", "s_v2", "s_v3"} & set(log.topics())


def test_attempts_that_lost_are_deleted_and_running_ones_are_not(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    lost, won = controller.create_version("s", push_id="p"), controller.create_version("s", push_id="p")
    write_snapshot(lost)
    for _ in range(3):
        clock.advance(6)
        controller.heartbeat("s", 1)
        workers.report(controller)
        controller.tick()
    assert Path(lost.folder).exists()
    seal_push(controller, won)
    workers.report(controller)
    controller.tick()
    controller.tick()
    clock.advance(11)
    controller.tick()
    assert Path(won.folder).exists()
    assert not Path(lost.folder).exists()


def test_a_folder_that_cannot_be_deleted_is_told_and_tried_again(
    controller: Controller, workers: Workers, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        push(controller, workers, "s", f"p{number}")
    controller.tick()
    clock.advance(11)
    whole = shutil.rmtree

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    controller.tick()
    assert any("s_v1" in problem and "Permission denied" in problem for problem in controller.health().problems)
    monkeypatch.setattr(shutil, "rmtree", whole)
    controller.tick()
    assert controller.health().problems == ()


def test_a_deleted_store_gives_out_no_number_twice(controller: Controller, workers: Workers) -> None:
    record = '{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int", "default": 0}%s]}'
    controller.create_store("r", key_schema=KEY_SCHEMA, value_schema=record % "")
    assert controller.add_schema("r", record % ', {"name": "b", "type": "int", "default": 0}').id == 2
    controller.kill("r", controller.create_version("r", push_id="p1").number)
    push(controller, workers, "s", "p1")
    for store in ("r", "s"):
        controller.delete_store(store)
    with pytest.raises(NotFound, match="no store 's'"):
        controller.get_version("s", 1)
    assert controller.catalog.assignments == {}
    controller.create_store("r", key_schema=KEY_SCHEMA, value_schema='"bytes"')
    assert [schema.id for schema in controller.get_store("r").value_schemas] == [3]
    controller.create_store("s", key_schema=KEY_SCHEMA)
    assert controller.add_schema("s", '"bytes"').id == 2
    assert [controller.create_version(store, push_id="p1").number for store in ("r", "s")] == [2, 2]


def test_a_fenced_controller_changes_nothing(
    controller: Controller, workers: Workers, log: SqliteLog, clock: ManualClock, tmp_path: Path
) -> None:
    grant = controller.create_version("s", push_id="p")
    newer = open_controller(log, clock, make_policy(tmp_path), seed=2)
    for command in (
        lambda: controller.create_version("s", push_id="q"),
        lambda: controller.update_store("s", owner="me"),
        lambda: seal_push(controller, grant),
        lambda: controller.delete_store("s"),
        controller.tick,
    ):
        with pytest.raises(Fenced, match="a newer controller"):
            command()
    assert newer.catalog.stores == controller.catalog.stores
    newer.close()


def test_a_restarted_controller_goes_on_where_the_last_one_was(
    controller: Controller, workers: Workers, log: SqliteLog, clock: ManualClock, tmp_path: Path
) -> None:
    """In the middle of a push, sealed and not placed, placed and not swapped, retired and not deleted."""
    policy = make_policy(tmp_path)
    grant = controller.create_version("s", push_id="p")
    clock.advance(14)
    second = open_controller(log, clock, policy, seed=2)
    clock.advance(14)
    second.tick()
    assert second.heartbeat("s", 1).status == "STARTED", "a lease begins anew with its controller"
    seal_push(second, grant)
    third = open_controller(log, clock, policy, seed=3)
    workers.report(third)
    fourth = open_controller(log, clock, policy, seed=4)
    fourth.tick()
    assert fourth.get_store("s").current == 0, "reports from before its start do not count"
    workers.report(fourth)
    fourth.tick()
    assert fourth.get_store("s").current == 1
    push(fourth, workers, "s", "p2")
    push(fourth, workers, "s", "p3")
    fifth = open_controller(log, clock, policy, seed=5)
    fifth.tick()
    clock.advance(11)
    fifth.tick()
    assert "s_v1" not in log.topics()
    for older in (second, third, fourth, fifth):
        older.close()


@pytest.mark.parametrize("push_id", ["", "x" * 257, "a\nb"])
def test_push_ids(controller: Controller, push_id: str) -> None:
    with pytest.raises(InvalidRequest, match="push id"):
        controller.create_version("s", push_id=push_id)
