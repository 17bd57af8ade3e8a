"""Versions that go to some nodes first: placed there alone, waiting there, and then everywhere before they serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_fixtures import log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push, seal_push

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.errors import Conflict, InvalidRequest, NotFound, Unavailable
from venice.log.sqlite import SqliteLog
from venice.model import ReplicaState, Rollout, StoreConfig, Version, VersionStatus

__all__ = ["log"]  # Fixtures: pytest finds them by their names here.

S = VersionStatus


@pytest.fixture
def controller(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> Iterator[Controller]:
    opened = open_controller(log, clock, make_policy(tmp_path))
    config = StoreConfig(partition_count=3, replication_factor=2)
    opened.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
    yield opened
    opened.close()


@pytest.fixture
def workers(log: SqliteLog, clock: ManualClock, controller: Controller) -> Workers:
    """Three live workers of three nodes."""
    made = Workers(log, clock, "a-0", "b-0", "c-0")
    made.report(controller)
    controller.tick()
    return made


def newest(controller: Controller) -> Version:
    return controller.get_store("s").versions[-1]


def holders(controller: Controller, number: int) -> set[str]:
    return {worker for row in controller.catalog.assignments["s", number].replicas for worker in row}


def first(controller: Controller, workers: Workers, push_id: str, rollout: Rollout) -> Version:
    """A push that is ready on its first nodes."""
    seal_push(controller, controller.create_version("s", push_id=push_id, rollout=rollout))
    workers.report(controller)
    controller.tick()
    return newest(controller)


def turn(controller: Controller, workers: Workers, *only: str, state: ReplicaState = ReplicaState.READY) -> None:
    workers.report(controller, *only, state=state)
    controller.tick()


def test_it_waits_on_its_nodes_and_then_goes_to_all(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "one")
    waiting = first(controller, workers, "two", Rollout(nodes=("b",)))
    assert (waiting.status, holders(controller, 2), controller.get_store("s").current) == (S.PUSHED, {"b-0"}, 1)
    # Time alone changes nothing, and reports neither.
    turn(controller, workers)
    assert newest(controller) == waiting
    assert controller.create_version("s", push_id="two").sealed, "the same push finds it"

    rolling = controller.roll_forward("s")
    assert (rolling.current, rolling.versions[-1].status) == (1, S.STARTED)
    assert controller.catalog.stores["s"].versions[-1].rollout == Rollout(nodes=())
    with pytest.raises(Conflict, match="being pushed"):
        controller.create_version("s", push_id="three")
    controller.tick()
    assert holders(controller, 2) == {"a-0", "b-0", "c-0"}
    assert controller.get_store("s").current == 1, "those it was given to now must be ready as well"
    turn(controller, workers, "a-0")
    assert controller.get_store("s").current == 1
    turn(controller, workers, "c-0")
    assert (controller.get_store("s").current, newest(controller).status) == (2, S.ONLINE)
    assert all(len(row) == 2 for row in controller.catalog.assignments["s", 2].replicas)
    assert controller.rollback("s").current == 1


def test_it_goes_on_by_itself_after_a_while(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    assert first(controller, workers, "one", Rollout(nodes=("a",), after_s=600)).status is S.PUSHED
    clock.advance(599)
    turn(controller, workers)
    assert (newest(controller).status, controller.get_store("s").current) == (S.PUSHED, 0)
    clock.advance(2)
    turn(controller, workers)
    assert newest(controller).status is S.STARTED
    for _ in range(2):
        turn(controller, workers)
    assert controller.get_store("s").current == 1


def test_nodes_that_fail_do_not_hold_it_up_for_ever(controller: Controller, workers: Workers) -> None:
    first(controller, workers, "one", Rollout(nodes=("a",)))
    controller.roll_forward("s")
    controller.tick()
    turn(controller, workers, "b-0", state=ReplicaState.ERROR)
    assert controller.get_store("s").current == 0
    turn(controller, workers, "c-0")
    assert controller.get_store("s").current == 1, "each partition has all but one of its replicas"


def test_a_broken_first_node_fails_it_before_it_spreads(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "one")
    seal_push(controller, controller.create_version("s", push_id="two", rollout=Rollout(nodes=("c",))))
    turn(controller, workers, "c-0", state=ReplicaState.ERROR)
    assert (newest(controller).status, controller.get_store("s").current) == (S.ERROR, 1)
    assert holders(controller, 1) != {"c-0"}


def test_it_can_be_killed_or_replaced_while_it_waits(controller: Controller, workers: Workers) -> None:
    push(controller, workers, "s", "one")
    first(controller, workers, "two", Rollout(nodes=("a",)))
    assert controller.kill("s", 2).version.status is S.KILLED
    first(controller, workers, "three", Rollout(nodes=("a",)))
    push(controller, workers, "s", "four")
    assert [version.number for version in controller.get_store("s").versions] == [1, 4]


def test_shares_and_wrong_nodes(controller: Controller, workers: Workers) -> None:
    one = first(controller, workers, "one", Rollout(nodes=("1%",))).rollout
    assert one is not None
    assert len(one.nodes) == 1
    assert len(holders(controller, 1)) == 1
    two = first(controller, workers, "two", Rollout(nodes=("50%", one.nodes[0]))).rollout
    assert two is not None
    assert len(two.nodes) == 2
    assert set(one.nodes) < set(two.nodes), "a larger share has the nodes of a smaller one"
    for nodes, error in (
        ((), InvalidRequest),
        (("0%",), InvalidRequest),
        (("x%",), InvalidRequest),
        (("9" * 5000 + "%",), InvalidRequest),
        (("a", "nobody"), NotFound),
    ):
        with pytest.raises(error):
            controller.create_version("s", push_id="wrong", rollout=Rollout(nodes=nodes))
    assert newest(controller).number == 2


def test_first_nodes_that_are_down(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    clock.advance(10)
    turn(controller, workers, "a-0", "b-0")
    with pytest.raises(Unavailable, match="none of c takes replicas now"):
        controller.create_version("s", push_id="one", rollout=Rollout(nodes=("c",)))
