"""Version retention, case by case."""

from __future__ import annotations

import pytest

from venice.rules.retention import versions_to_delete


@pytest.mark.parametrize(
    ("versions", "current", "preserve", "expected"),
    [
        pytest.param([], 0, 2, [], id="nothing there"),
        pytest.param([(1, "ONLINE")], 1, 1, [], id="the current one stays"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE"), (3, "ONLINE")], 3, 2, [1], id="one backup beside the current one"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE"), (3, "ONLINE")], 3, 1, [2, 1], id="the current one takes the only place"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE"), (3, "ONLINE")], 1, 2, [2], id="a newer ONLINE one takes the place first"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE"), (3, "ONLINE")], 0, 2, [1], id="no current: all places for backups"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE")], 9, 1, [1], id="a current one that is gone takes no place"),
        pytest.param([(1, "ONLINE"), (2, "ERROR"), (3, "KILLED")], 1, 5, [3, 2], id="failed ones go at once"),
        pytest.param([(1, "ERROR")], 1, 1, [], id="the current one stays whatever it is"),
        pytest.param([(1, "ONLINE"), (2, "STARTED")], 1, 2, [], id="a push under way stays"),
        pytest.param([(1, "ONLINE"), (2, "STARTED"), (3, "STARTED")], 1, 2, [2], id="only the newest STARTED one stays"),
        pytest.param([(1, "STARTED"), (2, "ERROR")], 0, 1, [2, 1], id="a failed one is the last element all the same"),
        pytest.param([(1, "ONLINE"), (2, "PUSHED"), (3, "ROLLED_BACK")], 1, 1, [], id="waiting ones stay"),
        pytest.param([(1, "ONLINE"), (2, "ONLINE"), (3, "ROLLED_BACK")], 2, 2, [], id="a rolled back one takes no place"),
    ],
)
def test_cases(versions: list[tuple[int, str]], current: int, preserve: int, expected: list[int]) -> None:
    assert versions_to_delete(versions, current, preserve) == expected
