"""The life of a version: the table, the functions that walk it, and the diagram in the documentation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.errors import Conflict, NotFound
from venice.model import Store, StoreConfig, Version, VersionStatus
from venice.rules import lifecycle
from venice.rules.lifecycle import TRANSITIONS, Event, Role

S = VersionStatus
PAGE = Path(__file__).resolve().parents[2] / "docs" / "versions.md"


def version(number: int, status: VersionStatus = S.STARTED, *, deferred: bool = False) -> Version:
    return Version(
        number=number,
        push_id=f"push-{number}",
        status=status,
        partition_count=2,
        replication_factor=1,
        topic_id="t",
        created_ms=1,
        status_ms=1,
        deferred_swap=deferred,
    )


def store(*versions: Version, current: int = 0) -> Store:
    largest = max((v.number for v in versions), default=0)
    return Store(
        name="s",
        owner="",
        key_schema='"long"',
        value_schemas=(),
        config=StoreConfig(),
        versions=versions,
        current=current,
        largest_version=largest,
    )


def statuses(of: Store) -> dict[int, VersionStatus]:
    return {v.number: v.status for v in of.versions}


def test_a_push_swaps_in_and_the_one_before_becomes_the_backup() -> None:
    pushed = lifecycle.started(store(version(1, S.ONLINE), current=1), version(2))
    assert lifecycle.role(pushed, pushed.versions[1]) is Role.FUTURE
    done = lifecycle.completed(pushed, 2, 50)
    assert (done.current, statuses(done)) == (2, {1: S.ONLINE, 2: S.ONLINE})
    assert done.versions[1].status_ms == 50
    assert [lifecycle.role(done, v) for v in done.versions] == [Role.BACKUP, Role.CURRENT]


def test_a_deferred_swap_waits_for_an_operator() -> None:
    waiting = lifecycle.completed(store(version(1, S.ONLINE), version(2, deferred=True), current=1), 2, 5)
    assert (waiting.current, statuses(waiting)[2]) == (1, S.PUSHED)
    forward = lifecycle.rolled_forward(waiting, 9)
    assert (forward.current, statuses(forward)[2]) == (2, S.ONLINE)


def test_rolling_back_and_forward_again() -> None:
    two = store(version(1, S.ONLINE), version(2, S.ONLINE), current=2)
    back = lifecycle.rolled_back(two, 5)
    assert (back.current, statuses(back)) == (1, {1: S.ONLINE, 2: S.ROLLED_BACK})
    assert lifecycle.role(back, back.versions[1]) is Role.ROLLED_BACK
    forward = lifecycle.rolled_forward(back, 9)
    assert (forward.current, statuses(forward)) == (2, {1: S.ONLINE, 2: S.ONLINE})


def test_rolling_back_skips_what_is_not_online() -> None:
    back = lifecycle.rolled_back(store(version(1, S.ONLINE), version(2, S.ERROR), version(3, S.KILLED), version(4, S.ONLINE), current=4), 5)
    assert back.current == 1


def test_rolling_forward_takes_the_newest() -> None:
    assert lifecycle.rolled_forward(store(version(1, S.ONLINE), version(2, S.ROLLED_BACK), version(3, S.PUSHED), current=1), 5).current == 3


@pytest.mark.parametrize("current", [0, 1])
def test_nothing_to_roll_to_is_a_conflict(current: int) -> None:
    only = store(version(1, S.ONLINE), version(2, S.ERROR), current=current)
    with pytest.raises(Conflict, match="no backup to roll back to"):
        lifecycle.rolled_back(only, 5)
    with pytest.raises(Conflict, match="no complete version above"):
        lifecycle.rolled_forward(only, 5)


def test_a_failure_keeps_its_reason_and_the_current_version() -> None:
    broken = lifecycle.failed(store(version(1, S.ONLINE), version(2), current=1), 2, "disk full", 7)
    assert (broken.current, broken.versions[1].status, broken.versions[1].reason) == (1, S.ERROR, "disk full")
    assert lifecycle.role(broken, broken.versions[1]) is Role.FAILED
    with pytest.raises(Conflict, match="version 2 of store 's' is ERROR: kill is not possible"):
        lifecycle.killed(broken, 2, "", 8)


def test_a_version_that_is_not_there_is_told_apart_from_one_that_was() -> None:
    with pytest.raises(NotFound, match="version 1 of store 's' was deleted"):
        lifecycle.find(store(version(2, S.ONLINE)), 1)
    with pytest.raises(NotFound, match="version 3 of store 's' does not exist"):
        lifecycle.find(store(version(2, S.ONLINE)), 3)


@pytest.mark.parametrize("status", list(S))
@pytest.mark.parametrize("event", list(Event))
def test_what_the_table_does_not_hold_is_refused(status: VersionStatus, event: Event) -> None:
    if (status, event) in TRANSITIONS:
        assert lifecycle.next_status("s", version(1, status), event) == TRANSITIONS[status, event]
    else:
        with pytest.raises(Conflict, match=f"is {status.name}: {event} is not possible") as caught:
            lifecycle.next_status("s", version(1, status), event)
        assert caught.value.data == {"status": status.name}


def test_every_status_a_version_reaches_can_end() -> None:
    reached = {target for target in TRANSITIONS.values() if target is not None}
    assert all((status, Event.RETIRE) in TRANSITIONS for status in reached)


@given(st.lists(st.sampled_from(("push", "push deferred", "complete", "fail", "kill", "back", "forward")), max_size=30))
def test_whatever_is_done_one_version_serves_and_numbers_only_grow(steps: list[str]) -> None:
    """Any sequence of commands, possible or not: the current version is ONLINE, at most one push runs, none comes back."""
    now = store()
    seen = 0
    for step in steps:
        running = lifecycle.ongoing(now)
        try:
            match step:
                case "push" | "push deferred":
                    if running is None:
                        now = lifecycle.started(now, version(now.largest_version + 1, deferred=step == "push deferred"))
                case "back":
                    now = lifecycle.rolled_back(now, 1)
                case "forward":
                    now = lifecycle.rolled_forward(now, 1)
                case _ if running is not None:
                    change = {"fail": lifecycle.failed, "kill": lifecycle.killed}.get(step)
                    now = change(now, running.number, "why", 1) if change else lifecycle.completed(now, running.number, 1)
        except Conflict:
            continue
        assert now.largest_version >= seen
        seen = now.largest_version
        assert sum(v.status is S.STARTED for v in now.versions) <= 1
        current = now.version(now.current)
        assert now.current == 0 if current is None else current.status is S.ONLINE
        assert all(v.number <= now.current for v in now.versions if v.status is S.ONLINE)


def test_retiring_takes_versions_out_and_never_the_current_one() -> None:
    three = store(version(1, S.ONLINE), version(2, S.ERROR), version(3, S.ONLINE), current=3)
    assert statuses(lifecycle.retired(three, frozenset({1, 2}))) == {3: S.ONLINE}
    with pytest.raises(AssertionError):
        lifecycle.retired(three, frozenset({3}))


def test_a_version_takes_the_next_number() -> None:
    with pytest.raises(AssertionError):
        lifecycle.started(store(version(1, S.ONLINE)), version(3))
    assert replace(lifecycle.started(store(), version(1))).largest_version == 1


def test_the_diagram_in_the_documentation_is_the_table() -> None:
    assert f"```mermaid\n{lifecycle.mermaid()}\n```" in PAGE.read_text(encoding="utf-8")
