"""A controller without threads, on the embedded log, under a clock that moves when told. Import both: pytest finds them by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from control_kit import make_policy, open_controller

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log", clock)
    yield opened
    opened.close()


@pytest.fixture
def controller(log: SqliteLog, clock: ManualClock, tmp_path: Path) -> Iterator[Controller]:
    opened = open_controller(log, clock, make_policy(tmp_path))
    yield opened
    opened.close()
