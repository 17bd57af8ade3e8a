"""What every test stands on: no settings from outside, free ports, a clock that moves when told, and no skipped Kafka tests in CI.

`make test` runs the files of tests side by side in some processes (pytest-xdist), the longest ones first; `pytest` alone runs them in one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator

import pytest
from clusters import log_url, make_settings, start_cluster
from hypothesis import HealthCheck, settings
from kafka_broker import kafka_url

from venice.clock import ManualClock

__all__ = ["kafka_url", "log_url", "make_settings", "start_cluster"]  # Fixtures: pytest finds them by their names here.

# A shared machine is slow at times, and a slow example is not a wrong one. Examples are few enough for every run.
settings.register_profile("venice", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("venice")

for _name in [name for name in os.environ if name.startswith("VENICE_") and not name.startswith("VENICE_TEST_")]:
    del os.environ[_name]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class FreePorts:
    """Loopback TCP ports that nobody listens on; no two calls in a test run give the same one, nor two processes of it.

    They lie below the range the kernel takes outgoing ports from, so that no connection of a test can occupy one later.

    Args:
        start: Where to begin; runs side by side begin at different places.
        process: Which process of the run this is, from 0.
        processes: How many it has. They take turns, block by block.
    """

    def __init__(self, start: int, process: int, processes: int) -> None:
        blocks = (PORTS.stop - PORTS.start) // PORTS_OF_BLOCK
        first = (start - PORTS.start) // PORTS_OF_BLOCK
        turns = ((first + number) % blocks for number in range(process, blocks, processes))
        self._blocks = (PORTS.start + turn * PORTS_OF_BLOCK for turn in turns)
        self._next = self._end = 0

    def __call__(self, count: int = 1) -> int:
        """The first of `count` free ports in a row."""
        assert count <= PORTS_OF_BLOCK
        while True:
            if self._next + count > self._end:
                block = next(self._blocks, None)
                assert block is not None, "no free ports left below the ephemeral range"
                self._next, self._end = block, block + PORTS_OF_BLOCK
            first = self._next
            self._next += count
            if all(_is_free(port) for port in range(first, first + count)):
                return first


PORTS = range(10_000, 32_000)
PORTS_OF_BLOCK = 20


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def free_port() -> FreePorts:
    """`free_port()` is a free port, `free_port(4)` the first of four in a row."""
    # Of xdist; the number in the name of a process is its place, and their parent is the run.
    worker, workers = os.environ.get("PYTEST_XDIST_WORKER"), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    run = os.getpid() if worker is None else os.getppid()
    return FreePorts(PORTS.start + run % 200 * 100, int(worker.removeprefix("gw")) if worker else 0, workers)


LONGEST = (
    *("test_docs", "test_chaos", "test_kill", "test_checkpoint_kills", "test_hybrid", "test_matrix", "test_trimmed", "test_quickstart"),
    *("test_suspended", "test_compressed"),
)
"""Files of tests that take longest. They begin first when several processes share the files: begun last, one would go on alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("kafka"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{item.nodeid} was skipped, and in CI a Kafka test runs or fails: {reason}"
    return report
