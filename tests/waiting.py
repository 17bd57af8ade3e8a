"""Waiting for what other processes do: looked at again and again, with a deadline, so that a fast machine waits no longer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from venice.errors import Unavailable

LOOK_S = 0.02
"""Between two looks: long enough to leave the core to the process that is waited for."""


def eventually(holds: Callable[[], bool], what: Callable[[], object] = lambda: "", *, timeout_s: float) -> None:
    """Return once `holds()` is true. What cannot answer just now is asked again; at the deadline the test fails with `what()`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except Unavailable:
            pass
        assert time.monotonic() < deadline, what()
        time.sleep(LOOK_S)  # the one pause of whoever waits for what tells nobody


def suspend(pid: int, *, timeout_s: float) -> None:
    """SIGSTOP a process, and return when each of its threads has stopped: on a busy machine one may go on for a while."""
    os.kill(pid, signal.SIGSTOP)

    def running() -> list[str]:
        states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
        return [state for state in states if state not in "Tt"]

    eventually(lambda: not running(), lambda: f"threads of process {pid} are in states {running()}", timeout_s=timeout_s)
