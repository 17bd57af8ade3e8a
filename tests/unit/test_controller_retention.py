"""What a store keeps, for how long, and how large a push of it may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from control_fixtures import log
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push, seal_push, write_snapshot

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.errors import Conflict, Full, InvalidRequest
from venice.log.sqlite import SqliteLog
from venice.model import UNLIMITED, BackupStrategy, VersionStatus

__all__ = ["log"]  # Fixtures: pytest finds them by their names here.

DAY_S = 86_400


@pytest.fixture
def controller(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> Iterator[Controller]:
    opened = open_controller(log, clock, make_policy(tmp_path))
    opened.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    yield opened
    opened.close()


@pytest.fixture
def workers(log: SqliteLog, clock: ManualClock, controller: Controller) -> Workers:
    made = Workers(log, clock, "a-0")
    made.report(controller)
    controller.tick()
    return made


def numbers(controller: Controller) -> list[int]:
    return [version.number for version in controller.get_store("s").versions]


def test_a_push_larger_than_the_quota_is_refused_with_the_numbers(controller: Controller, workers: Workers) -> None:
    grant = push(controller, workers, "s", "one")
    size = controller.get_store("s").versions[0].byte_count
    assert grant.storage_quota_bytes == UNLIMITED
    controller.update_store("s", config={"storage_quota_bytes": size})
    assert push(controller, workers, "s", "two").storage_quota_bytes == size
    assert controller.get_store("s").current == 2
    controller.update_store("s", config={"storage_quota_bytes": size - 1})
    grant = controller.create_version("s", push_id="three")
    ref, manifest = write_snapshot(grant)
    with pytest.raises(Full, match=rf"store 's' has {size:,} bytes, and the store's quota is {size - 1:,} .*--storage-quota"):
        controller.seal("s", 3, uri=ref.uri, sha256=ref.sha256, rows=manifest.rows, bytes_=manifest.bytes, value_schema_id=1)
    # The quota of the moment counts: raising it saves the push.
    controller.update_store("s", config={"storage_quota_bytes": UNLIMITED})
    controller.seal("s", 3, uri=ref.uri, sha256=ref.sha256, rows=manifest.rows, bytes_=manifest.bytes, value_schema_id=1)
    for wrong in ({"storage_quota_bytes": -2}, {"backup_retention_s": -1}, {"backup_strategy": "never"}):
        with pytest.raises(InvalidRequest):
            controller.update_store("s", config=wrong)


def test_backups_go_after_their_time(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    push(controller, workers, "s", "one")
    clock.advance(30 * DAY_S)
    workers.report(controller)
    controller.tick()
    push(controller, workers, "s", "two")
    assert controller.get_store("s").current == 2
    for days, expected in ((6, [1, 2]), (2, [2])):
        clock.advance(days * DAY_S)
        workers.report(controller)
        controller.tick()
        assert numbers(controller) == expected
    with pytest.raises(Conflict, match="no backup"):
        controller.rollback("s")


def test_a_rollback_counts_as_a_swap(controller: Controller, workers: Workers, clock: ManualClock) -> None:
    controller.update_store("s", config={"versions_preserved": 3, "backup_retention_s": 10 * DAY_S})
    for name in ("one", "two", "three"):
        push(controller, workers, "s", name)
    clock.advance(9 * DAY_S)
    workers.report(controller)
    controller.tick()
    assert controller.rollback("s").current == 2
    for _ in range(9):
        clock.advance(DAY_S)
        workers.report(controller)
        controller.tick()
    assert numbers(controller) == [1, 2], "the version rolled back from went after a day; the backup has ten from the roll back"
    clock.advance(2 * DAY_S)
    workers.report(controller)
    controller.tick()
    assert numbers(controller) == [2]


def test_a_store_may_keep_its_backup_during_a_push(controller: Controller, workers: Workers) -> None:
    assert controller.get_store("s").config.backup_strategy is BackupStrategy.DELETE_ON_NEW_PUSH_START
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two")
    grant = controller.create_version("s", push_id="three")
    assert numbers(controller) == [2, 3]
    seal_push(controller, grant)
    workers.report(controller)
    controller.tick()
    assert controller.update_store("s", config={"backup_strategy": "keep-min-versions"}).current == 3
    grant = controller.create_version("s", push_id="four")
    assert numbers(controller) == [2, 3, 4]
    seal_push(controller, grant)
    workers.report(controller)
    controller.tick()
    assert numbers(controller) == [3, 4]


def test_a_backup_just_made_outlives_the_next_push_for_a_while(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> None:
    controller = open_controller(log, clock, replace(make_policy(tmp_path), cleanup_delay_s=3600))
    workers = Workers(log, clock, "a-0")
    workers.report(controller)
    controller.tick()
    controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA)
    push(controller, workers, "s", "one")
    push(controller, workers, "s", "two")
    clock.advance(3000)
    with pytest.raises(Conflict, match=r"swapped to version 2 less than 3600 s ago, and a push would delete version 1 .*in 600 s"):
        controller.create_version("s", push_id="three")
    clock.advance(601)
    assert controller.create_version("s", push_id="three").status is VersionStatus.STARTED
    controller.close()
