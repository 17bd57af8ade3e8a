"""Nodes as the controller keeps them: who is alive, where replicas go when one is lost, and the threads that look after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import waiting
from control_fixtures import controller, log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push, seal_push

from venice.clock import ManualClock, SystemClock
from venice.control.catalog import encode_declaration
from venice.control.controller import Controller
from venice.errors import Corrupt, Fenced, VeniceError
from venice.log.sqlite import SqliteLog
from venice.model import ReplicaReport, ReplicaState, StoreConfig, Worker
from venice.naming import CATALOG_TOPIC, REPORTS_TOPIC

__all__ = ["controller", "log"]  # Fixtures: pytest finds them by their names here.


def placed(controller: Controller, store: str, version: int) -> tuple[tuple[str, ...], ...]:
    return controller.catalog.assignments[store, version].replicas


def test_nodes_follow_the_reports(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    workers = Workers(log, clock, "a-0", "a-1", "b-0")
    workers.report(controller)
    controller.tick()
    assert {id_: [worker.id for worker in node.workers] for id_, node in controller.catalog.nodes.items()} == {
        "a": ["a-0", "a-1"],
        "b": ["b-0"],
    }
    assert controller.catalog.worker("a-1") == workers.workers["a-1"]
    sequence = controller.catalog.sequence
    workers.report(controller)
    controller.tick()
    assert controller.catalog.sequence == sequence, "nothing new, nothing written"
    workers.restart("a-1", life=2)
    workers.report(controller, "a-1")
    controller.tick()
    found = controller.catalog.worker("a-1")
    assert found is not None
    assert found.incarnation == "a-1-life-2"


def test_the_last_word_of_a_former_life_does_not_count(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    workers = Workers(log, clock, "a-0")
    former = workers.workers["a-0"]
    workers.report(controller)
    controller.tick()
    workers.restart("a-0", life=2)
    workers.report(controller)
    workers.send(former, ())
    controller.tick()
    found = controller.catalog.worker("a-0")
    assert found is not None
    assert found.incarnation == "a-0-life-2"


def test_a_silent_worker_is_not_ready_and_then_lost(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=StoreConfig(partition_count=4))
    workers = Workers(log, clock, "a-0", "b-0")
    workers.report(controller)
    controller.tick()
    push(controller, workers, "s", "p")
    before = placed(controller, "s", 1)
    assert {row[0] for row in before} == {"a-0", "b-0"}

    clock.advance(6)
    workers.report(controller, "a-0")
    controller.tick()
    info = {worker.worker.id: worker for node in controller.nodes() for worker in node.workers}
    assert (info["a-0"].live, info["b-0"].live, info["b-0"].silent_s) == (True, False, 6.0)
    assert controller.get_version("s", 1).ready_partitions == 2
    assert controller.health().workers_live == 1
    assert placed(controller, "s", 1) == before

    clock.advance(25)
    workers.report(controller, "a-0")
    controller.tick()
    assert controller.catalog.nodes["b"].workers == ()
    assert set(placed(controller, "s", 1)) == {("a-0",)}
    workers.report(controller, "a-0")
    controller.tick()
    assert controller.get_version("s", 1).ready_partitions == 4


def test_a_new_push_is_placed_on_live_workers_only(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=StoreConfig(partition_count=4))
    workers = Workers(log, clock, "a-0", "b-0")
    workers.report(controller)
    controller.tick()
    clock.advance(6)
    workers.report(controller, "b-0")
    controller.tick()
    seal_push(controller, controller.create_version("s", push_id="p"))
    assert set(placed(controller, "s", 1)) == {("b-0",)}


def test_when_nobody_speaks_nothing_is_moved(controller: Controller, log: SqliteLog, clock: ManualClock, tmp_path: Path) -> None:
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    workers = Workers(log, clock, "a-0", "b-0")
    workers.report(controller)
    controller.tick()
    push(controller, workers, "s", "p")
    before = controller.catalog
    clock.advance(3600)
    controller.tick()
    assert (controller.catalog.nodes, controller.catalog.assignments) == (before.nodes, before.assignments)
    restarted = open_controller(log, clock, make_policy(tmp_path), seed=2)
    restarted.tick()
    assert (restarted.catalog.nodes, restarted.catalog.assignments) == (before.nodes, before.assignments)
    restarted.close()


def test_replicas_on_two_nodes(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    config = StoreConfig(partition_count=4, replication_factor=2)
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
    workers = Workers(log, clock, "a-0", "b-0")
    workers.report(controller, "a-0")
    controller.tick()
    seal_push(controller, controller.create_version("s", push_id="p"))
    assert set(placed(controller, "s", 1)) == {("a-0",)}
    workers.report(controller, "b-0")
    controller.tick()
    assert {frozenset(row) for row in placed(controller, "s", 1)} == {frozenset({"a-0", "b-0"})}
    workers.report(controller, "b-0")
    controller.tick()
    assert controller.get_store("s").current == 1, "all but one replica are enough"


def test_a_report_that_cannot_be_read_is_told_and_passed_over(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    log.append(REPORTS_TOPIC, 0, [b"garbage", encode_declaration(term=1, session=1, now_ms=0)])
    Workers(log, clock, "a-0").report(controller)
    controller.tick()
    assert list(controller.catalog.workers) == ["a-0"]
    first, second = controller.health().problems
    assert "fails its checksum" in first
    assert "DECLARE_CONTROLLER" in second


def test_old_reports_are_deleted(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    workers = Workers(log, clock, "a-0")
    for _ in range(5):
        workers.report(controller)
        controller.tick()
        clock.advance(61)
    controller.tick()
    assert log.start_offset(REPORTS_TOPIC, 0) >= 3


def test_regions_get_numbers_that_last(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> None:
    for region, expected in (("east", 0), ("west", 1), ("east", 0)):
        policy = make_policy(tmp_path)
        controller = Controller(log, clock, type(policy)(region=region, blobs_url=policy.blobs_url), rng=Random(1))
        controller.open()
        assert controller.catalog.regions[region].id == expected
        controller.close()


def eventually(condition: Callable[[], bool], what: str) -> None:
    waiting.eventually(condition, lambda: f"not within 20 s: {what}", timeout_s=20)


class Suspendable(SystemClock):
    """The machine's clock as a process sees it that is stopped now and then."""

    stopped_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.stopped_s


def test_a_push_is_not_dead_because_the_controller_was_stopped(tmp_path: Path) -> None:
    clock = Suspendable()
    log = SqliteLog(tmp_path / "real-log", clock)
    controller = Controller(log, clock, make_policy(tmp_path), rng=Random(1))
    controller.start()
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    controller.create_version("s", push_id="p")
    for _ in range(6):
        clock.stopped_s += 60
        rounds = clock.monotonic_s() + 0.5
        eventually(lambda: clock.monotonic_s() > rounds, "the threads have looked again")  # noqa: B023 - waited for right here
        assert controller.get_version("s", 1).status == "STARTED"
    controller.close()
    log.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Controller, SqliteLog, list[VeniceError]]]:
    """A controller with its threads on the machine's clock, and what it stopped by."""
    clock = SystemClock()
    log = SqliteLog(tmp_path / "real-log", clock)
    stops: list[VeniceError] = []
    controller = Controller(log, clock, make_policy(tmp_path), rng=Random(1), on_stop=stops.append)
    controller.start()
    yield controller, log, stops
    controller.close()
    log.close()


def test_by_itself_it_swaps_when_workers_report(running: tuple[Controller, SqliteLog, list[VeniceError]]) -> None:
    controller, log, stops = running
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    worker = Worker(id="a-0", url="http://a", incarnation="i")
    workers = Workers(log, SystemClock())
    workers.send(worker, ())
    eventually(lambda: "a-0" in controller.catalog.workers, "the node is known")
    for number in (1, 2, 3):
        seal_push(controller, controller.create_version("s", push_id=f"p{number}"))
        ready = tuple(ReplicaReport(store="s", version=number, partition=p, state=ReplicaState.READY) for p in range(8))
        workers.send(worker, ready)
        eventually(lambda: controller.get_store("s").current == number, f"version {number} serves")  # noqa: B023 - waited for right here
    assert stops == []


def test_by_itself_it_stops_when_a_newer_one_takes_over(running: tuple[Controller, SqliteLog, list[VeniceError]], tmp_path: Path) -> None:
    controller, log, stops = running
    newer = open_controller(log, SystemClock(), make_policy(tmp_path), seed=2)
    eventually(lambda: bool(stops), "it stops")
    (error,) = stops
    assert isinstance(error, Fenced)
    health = controller.health()
    assert not health.ok
    assert "a newer controller (term 2) has taken over" in health.problems[-1]
    newer.close()


def test_by_itself_it_stops_at_a_catalog_it_cannot_read(running: tuple[Controller, SqliteLog, list[VeniceError]], tmp_path: Path) -> None:
    _, log, stops = running
    log.append(CATALOG_TOPIC, 0, [b"garbage"])
    eventually(lambda: bool(stops), "it stops")
    assert isinstance(stops[0], Corrupt)
    with pytest.raises(Corrupt, match="catalog record"):
        open_controller(log, SystemClock(), make_policy(tmp_path), seed=2)
