"""Nodes that are lost, come back, are drained or removed: where their replicas go, and that nobody is left without one meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from control_fixtures import controller, log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push, seal_push

from venice.clock import ManualClock
from venice.control.answers import NodeChange
from venice.control.controller import Controller
from venice.errors import Conflict, NotFound, Unavailable
from venice.log.sqlite import SqliteLog
from venice.model import ReplicaState, StoreConfig

__all__ = ["controller", "log"]  # Fixtures: pytest finds them by their names here.

PARTITIONS = 4
LOST_S = 31


def rows(controller: Controller) -> tuple[tuple[str, ...], ...]:
    return controller.catalog.assignments["s", 1].replicas


def begin(controller: Controller, workers: Workers, *there: str, copies: int) -> None:
    """A store with a version that serves from these workers."""
    config = StoreConfig(partition_count=PARTITIONS, replication_factor=copies)
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
    workers.report(controller, *there)
    controller.tick()
    seal_push(controller, controller.create_version("s", push_id="p"))
    workers.report(controller, *there)
    controller.tick()
    assert controller.get_store("s").current == 1


def lose(controller: Controller, workers: Workers, clock: ManualClock, *left: str, state: ReplicaState = ReplicaState.READY) -> None:
    """So much time passes that whoever is not `left` is lost."""
    clock.advance(LOST_S)
    workers.report(controller, *left, state=state)
    controller.tick()


@pytest.fixture
def workers(log: SqliteLog, clock: ManualClock) -> Workers:
    return Workers(log, clock, "a-0", "b-0", "c-0")


def test_where_nobody_can_take_over_a_lost_node_keeps_its_replicas(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    begin(controller, workers, "a-0", "b-0", copies=2)
    lose(controller, workers, clock, "a-0")
    assert controller.catalog.nodes["b"].workers == (), "nobody is sent there"
    assert {frozenset(row) for row in rows(controller)} == {frozenset({"a-0", "b-0"})}, "there is nowhere else to make them"
    assert {row[0] for row in rows(controller)} == {"a-0"}
    sequence = controller.catalog.sequence
    controller.tick()
    assert controller.catalog.sequence == sequence, "nothing new, nothing written"
    workers.report(controller, "a-0", "b-0")
    controller.tick()
    assert controller.get_version("s", 1).ready_replicas == 2 * PARTITIONS, "back with what it had"


def test_replicas_of_a_lost_node_are_made_on_a_third_and_those_it_comes_back_with_are_dropped(
    controller: Controller, workers: Workers, clock: ManualClock
) -> None:
    begin(controller, workers, "a-0", "b-0", "c-0", copies=2)
    before = rows(controller)
    clock.advance(20)
    workers.report(controller, "a-0", "b-0")
    controller.tick()
    assert rows(controller) == before, "the delay is not over"
    workers.report(controller, "c-0")
    controller.tick()
    assert rows(controller) == before, "back within the delay: it keeps what it has"
    lose(controller, workers, clock, "a-0", "b-0")
    assert {frozenset(row) for row in rows(controller)} == {frozenset({"a-0", "b-0"})}
    workers.report(controller)
    controller.tick()
    assert {frozenset(row) for row in rows(controller)} == {frozenset({"a-0", "b-0"})}, "what it still holds is too much"
    assert controller.catalog.nodes["c"].workers == (workers.workers["c-0"],)


def test_copies_that_lack_a_node_are_made_when_one_joins(controller: Controller, workers: Workers) -> None:
    begin(controller, workers, "a-0", copies=3)
    info = controller.get_version("s", 1)
    assert (info.ready_replicas, info.ready_partitions) == (PARTITIONS, PARTITIONS)
    for joined in ("b-0", "c-0"):
        workers.report(controller, joined)
        controller.tick()
    assert {frozenset(row) for row in rows(controller)} == {frozenset({"a-0", "b-0", "c-0"})}
    workers.report(controller)
    controller.tick()
    assert controller.get_version("s", 1).ready_replicas == 3 * PARTITIONS


def test_a_push_does_not_wait_for_a_node_that_is_lost(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    config = StoreConfig(partition_count=PARTITIONS, replication_factor=3)
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
    workers.report(controller)
    controller.tick()
    seal_push(controller, controller.create_version("s", push_id="p"))
    lose(controller, workers, clock, "a-0")
    workers.report(controller, "a-0")
    controller.tick()
    assert controller.get_store("s").current == 1


def test_a_drained_node_serves_until_others_are_ready(controller: Controller, workers: Workers) -> None:
    begin(controller, workers, "a-0", copies=1)
    workers.report(controller, "b-0")
    controller.tick()
    assert controller.change_node("a", NodeChange.DRAIN).node.draining
    assert rows(controller) == (("b-0", "a-0"),) * PARTITIONS
    workers.report(controller, "b-0", state=ReplicaState.ATTACHING)
    workers.report(controller, "a-0")
    controller.tick()
    assert rows(controller) == (("b-0", "a-0"),) * PARTITIONS
    assert controller.get_version("s", 1).ready_partitions == PARTITIONS
    workers.report(controller, "a-0", "b-0")
    controller.tick()
    assert rows(controller) == (("b-0",),) * PARTITIONS
    (a, b) = controller.nodes()
    assert (a.assigned, b.assigned) == (0, PARTITIONS)
    push(controller, workers, "s", "q")
    assert set(controller.catalog.assignments["s", 2].replicas) == {("b-0",)}, "and it is given no more"
    assert not controller.change_node("a", NodeChange.UNDRAIN).node.draining


def test_a_version_that_failed_keeps_no_node_from_being_empty(controller: Controller, workers: Workers) -> None:
    begin(controller, workers, "a-0", "b-0", copies=1)
    grant = controller.create_version("s", push_id="q")
    seal_push(controller, grant)
    controller.kill("s", grant.number, "wrong table")
    controller.change_node("a", NodeChange.DRAIN)
    for _ in range(2):
        workers.report(controller, "a-0", "b-0")
        controller.tick()
    assert [info.assigned for info in controller.nodes()] == [0, PARTITIONS]


def test_the_last_node_is_not_drained(controller: Controller, workers: Workers) -> None:
    begin(controller, workers, "a-0", "b-0", copies=1)
    controller.change_node("a", NodeChange.DRAIN)
    with pytest.raises(Conflict, match="no other node could take the replicas of b"):
        controller.change_node("b", NodeChange.DRAIN)
    with pytest.raises(NotFound, match="no node 'x'"):
        controller.change_node("x", NodeChange.DRAIN)


def test_a_node_that_is_gone_is_removed_without_the_delay(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    begin(controller, workers, "a-0", "b-0", copies=1)
    with pytest.raises(Conflict, match="node b lives"):
        controller.change_node("b", NodeChange.REMOVE)
    clock.advance(6)
    workers.report(controller, "a-0")
    controller.tick()
    assert controller.change_node("b", NodeChange.REMOVE).workers == ()
    assert set(rows(controller)) == {("a-0",)}
    workers.report(controller, "a-0")
    controller.tick()
    assert not controller.catalog.nodes["b"].workers, "what it said last does not bring it back"
    workers.report(controller, "b-0")
    controller.tick()
    assert controller.catalog.nodes["b"].workers == (workers.workers["b-0"],), "it may join again"


def test_a_controller_that_has_just_started_removes_nobody(
    controller: Controller, workers: Workers, log: SqliteLog, clock: ManualClock, tmp_path: Path
) -> None:
    begin(controller, workers, "a-0", "b-0", copies=1)
    again = open_controller(log, clock, make_policy(tmp_path), seed=2)
    with pytest.raises(Unavailable, match="has just started"):
        again.change_node("b", NodeChange.REMOVE)
    again.close()
