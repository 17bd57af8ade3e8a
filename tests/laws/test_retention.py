"""Laws of version retention."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from venice.errors import InvalidRequest
from venice.model import VersionStatus
from venice.rules.retention import versions_to_delete

statuses = st.sampled_from([status.name for status in VersionStatus])
stores = st.lists(st.tuples(st.integers(1, 30), statuses), max_size=10, unique_by=lambda version: version[0]).map(sorted)
currents = st.integers(0, 31)
preserves = st.integers(1, 6)


@given(stores, currents, preserves)
def test_deleted_ones_are_of_the_store_newest_first_and_never_the_current(
    versions: list[tuple[int, str]], current: int, preserve: int
) -> None:
    doomed = versions_to_delete(versions, current, preserve)
    assert current not in doomed
    assert set(doomed) <= {number for number, _ in versions}
    assert doomed == sorted(doomed, reverse=True)


@given(stores, currents, preserves)
def test_the_newest_online_ones_stay_up_to_the_number(versions: list[tuple[int, str]], current: int, preserve: int) -> None:
    doomed = set(versions_to_delete(versions, current, preserve))
    online = [number for number, status in sorted(versions, reverse=True) if status == "ONLINE" and number != current]
    places = preserve - (1 if current in {number for number, _ in versions} else 0)
    assert [number for number in online if number not in doomed] == online[:places]


@given(stores, currents, preserves)
def test_each_status_has_its_rule(versions: list[tuple[int, str]], current: int, preserve: int) -> None:
    doomed = set(versions_to_delete(versions, current, preserve))
    newest = max((number for number, _ in versions), default=0)
    for number, status in versions:
        if number == current:
            continue
        if status in {"ERROR", "KILLED"}:
            assert number in doomed
        elif status == "STARTED":
            assert (number in doomed) == (number != newest)
        elif status != "ONLINE":
            assert number not in doomed


@given(stores, currents, preserves)
def test_deleting_is_finished_at_once(versions: list[tuple[int, str]], current: int, preserve: int) -> None:
    doomed = versions_to_delete(versions, current, preserve)
    left = [version for version in versions if version[0] not in doomed]
    # The newest one left may be another than before, so only what was older than a STARTED one is asked again.
    assume(not left or left[-1][1] != "STARTED" or left[-1] == versions[-1])
    assert versions_to_delete(left, current, preserve) == []


@given(stores, currents, preserves)
def test_preserving_more_deletes_no_more(versions: list[tuple[int, str]], current: int, preserve: int) -> None:
    assert set(versions_to_delete(versions, current, preserve + 1)) <= set(versions_to_delete(versions, current, preserve))


@given(stores, currents, preserves, st.randoms(use_true_random=False))
def test_the_order_given_does_not_matter(versions: list[tuple[int, str]], current: int, preserve: int, rng: Random) -> None:
    shuffled = versions[:]
    rng.shuffle(shuffled)
    assert versions_to_delete(shuffled, current, preserve) == versions_to_delete(versions, current, preserve)


@given(stores, currents, st.integers(-3, 0))
def test_preserving_nothing_is_refused(versions: list[tuple[int, str]], current: int, preserve: int) -> None:
    with pytest.raises(InvalidRequest, match=f"cannot preserve {preserve} versions"):
        versions_to_delete(versions, current, preserve)
