"""Hybrid stores under commands: their settings, their real-time topic, and what a version takes from them."""

from __future__ import annotations

import pytest
from control_fixtures import controller, log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, push, seal_push

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.errors import InvalidRequest
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig, ReplicaReport, ReplicaState, StartOffset, Store, StoreConfig

__all__ = ["controller", "log"]  # Fixtures: pytest finds them by their names here.

HYBRID = HybridConfig(rewind_s=60, lag_records_max=5)


def create(controller: Controller, hybrid: HybridConfig | None = HYBRID, partitions: int = 2) -> Store:
    config = StoreConfig(partition_count=partitions)
    return controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config, hybrid=hybrid)


def test_a_hybrid_store_has_a_real_time_topic_from_birth(controller: Controller, log: SqliteLog) -> None:
    store = create(controller)
    assert (store.hybrid, store.real_time_partitions) == (HYBRID, 2)
    assert log.partitions("s_rt") == 2


def test_a_batch_store_has_none(controller: Controller, log: SqliteLog) -> None:
    store = create(controller, None)
    assert (store.hybrid, store.real_time_partitions) == (None, 0)
    assert "s_rt" not in log.topics()


@pytest.mark.parametrize(
    ("hybrid", "message"),
    [
        (HybridConfig(rewind_s=-1), "rewind_s cannot be -1"),
        (HybridConfig(lag_records_max=-1), "lag_records_max cannot be -1"),
        (HybridConfig(rewind_s=1 << 40), "rewind_s cannot be"),
    ],
)
def test_settings_are_checked_and_nothing_is_made(controller: Controller, log: SqliteLog, hybrid: HybridConfig, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        create(controller, hybrid)
    create(controller, None)
    with pytest.raises(InvalidRequest, match=message):
        controller.update_store("s", hybrid=hybrid)
    assert "s_rt" not in log.topics()
    assert controller.get_store("s").hybrid is None


def test_from_batch_to_hybrid_and_back(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    workers = Workers(log, clock, "a-0")
    workers.report(controller)
    controller.tick()
    create(controller, None)
    push(controller, workers, "s", "p1")
    store = controller.update_store("s", hybrid=HYBRID)
    assert (store.hybrid, store.real_time_partitions, store.current) == (HYBRID, 2, 1)
    topic_id = log.topic_id("s_rt")
    push(controller, workers, "s", "p2")
    assert [(v.hybrid, v.real_time_partitions) for v in controller.get_store("s").versions] == [(None, 0), (HYBRID, 2)]

    # The real-time topic keeps its partitions, whatever becomes of the versions'.
    changed = controller.update_store("s", config={"partition_count": 3}, hybrid=HybridConfig(rewind_s=1))
    assert (changed.real_time_partitions, changed.config.partition_count) == (2, 3)
    assert controller.update_store("s", owner="me").hybrid == HybridConfig(rewind_s=1)
    version = controller.get_version("s", push(controller, workers, "s", "p3").number).version
    assert (version.partition_count, version.real_time_partitions, len(version.start_offsets)) == (3, 2, 2)

    batch = controller.update_store("s", hybrid=None)
    assert (batch.hybrid, batch.real_time_partitions) == (None, 2)
    version = controller.get_version("s", push(controller, workers, "s", "p4").number).version
    assert (version.hybrid, version.real_time_partitions, version.start_offsets) == (None, 0, ())
    assert controller.update_store("s", hybrid=HYBRID).real_time_partitions == 2
    assert log.topic_id("s_rt") == topic_id


def test_a_version_starts_reading_so_long_before_its_push(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    create(controller)
    log.append("s_rt", 0, [b"long ago", b"long ago"])
    clock.advance(100)
    log.append("s_rt", 0, [b"within the rewind"])
    clock.advance(60)
    first = controller.create_version("s", push_id="p")
    version = controller.get_version("s", first.number).version
    assert version.hybrid == HYBRID
    assert version.start_offsets == (StartOffset(region=0, partition=0, next_offset=2), StartOffset(region=0, partition=1, next_offset=0))

    # Fixed once: neither time nor writes nor a repetition of the command move them.
    clock.advance(5)
    log.append("s_rt", 1, [b"later"])
    controller.update_store("s", hybrid=HybridConfig(rewind_s=0))
    assert controller.create_version("s", push_id="p").existing
    seal_push(controller, first)
    assert controller.get_version("s", first.number).version.start_offsets == version.start_offsets
    controller.kill("s", first.number)
    clock.advance(1)
    second = controller.create_version("s", push_id="p2")
    assert [o.next_offset for o in controller.get_version("s", second.number).version.start_offsets] == [3, 1]


def test_what_a_controller_left_between_topic_and_record_is_used(controller: Controller, log: SqliteLog) -> None:
    topic_id = log.create_topic("s_rt", 2)
    create(controller)
    assert log.topic_id("s_rt") == topic_id


def test_what_it_left_with_other_partitions_is_replaced(controller: Controller, log: SqliteLog) -> None:
    log.create_topic("s_rt", 5)
    create(controller, None)
    assert controller.update_store("s", hybrid=HYBRID).real_time_partitions == 2
    assert log.partitions("s_rt") == 2


def test_the_real_time_topic_goes_after_its_store(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    create(controller)
    controller.delete_store("s")
    controller.tick()
    clock.advance(9)
    controller.tick()
    assert "s_rt" in log.topics(), "workers may still be reading"
    clock.advance(1)
    controller.tick()
    assert "s_rt" not in log.topics()


def test_a_topic_of_a_store_that_never_was_stays(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    log.create_topic("mine_rt", 1)
    create(controller)
    for _ in range(3):
        controller.tick()
        clock.advance(3600)
    assert log.topics() == ["mine_rt", "s_rt", "venice_catalog", "venice_reports"]


def test_a_store_made_anew_has_a_fresh_topic(controller: Controller, log: SqliteLog, clock: ManualClock) -> None:
    create(controller)
    log.append("s_rt", 0, [b"of the deleted store"])
    before = log.topic_id("s_rt")
    controller.delete_store("s")
    controller.tick()
    clock.advance(9)
    create(controller)
    assert log.topic_id("s_rt") != before
    assert log.end_offset("s_rt", 0) == 0
    log.append("s_rt", 0, [b"kept"])
    for _ in range(3):
        controller.tick()
        clock.advance(3600)
    assert log.end_offset("s_rt", 0) == 1, "it is not the deleted one's any more"


def test_a_hybrid_version_swaps_when_its_replicas_are_ready_and_not_before(
    controller: Controller, log: SqliteLog, clock: ManualClock
) -> None:
    workers = Workers(log, clock, "a-0")
    workers.report(controller)
    controller.tick()
    create(controller)
    seal_push(controller, controller.create_version("s", push_id="p"))
    replicas = [ReplicaReport(store="s", version=1, partition=p, state=ReplicaState.FOLLOWING, lag_records=40 + p) for p in range(2)]
    workers.send(workers.workers["a-0"], tuple(replicas))
    controller.tick()
    info = controller.get_version("s", 1)
    assert (info.status, info.ready_partitions, info.lag_records) == ("STARTED", 0, 81)
    assert [leader.worker if leader else None for leader in info.leaders] == ["a-0", "a-0"]
    workers.report(controller)
    controller.tick()
    info = controller.get_version("s", 1)
    assert (info.status, info.ready_partitions, info.lag_records) == ("ONLINE", 2, 0)
    assert controller.get_store("s").current == 1


def test_one_that_does_not_catch_up_in_time_fails_and_says_how_far_it_was(
    controller: Controller, log: SqliteLog, clock: ManualClock
) -> None:
    workers = Workers(log, clock, "a-0")
    workers.report(controller)
    controller.tick()
    create(controller)
    seal_push(controller, controller.create_version("s", push_id="p"))
    clock.advance(24 * 3600 + 1)
    replicas = [ReplicaReport(store="s", version=1, partition=p, state=ReplicaState.FOLLOWING, lag_records=7) for p in range(2)]
    workers.send(workers.workers["a-0"], tuple(replicas))
    controller.tick()
    assert controller.get_version("s", 1).version.reason == "only 0 of 2 partitions were ready in time, 14 records behind"
