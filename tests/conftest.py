"""What every test stands on: no settings from outside, free ports, a clock that moves when told, and no skipped Kafka tests in CI."""

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
    """Loopback TCP ports that nobody listens on; no two calls in a test run give the same one.

    They lie below the range the kernel takes outgoing ports from, so that no connection of a test can occupy one later.
    """

    def __init__(self, first: int, last: int) -> None:
        self._next = first
        self._last = last

    def __call__(self, count: int = 1) -> int:
        """The first of `count` free ports in a row."""
        while self._next + count <= self._last:
            first = self._next
            self._next += count
            if all(_is_free(port) for port in range(first, first + count)):
                return first
        raise AssertionError("no free ports left below the ephemeral range")


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
    # Runs side by side start at different places.
    return FreePorts(10_000 + os.getpid() % 200 * 100, 32_000)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("kafka"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{item.nodeid} was skipped, and in CI a Kafka test runs or fails: {reason}"
    return report
