"""A Kafka broker for the tests: the one that VENICE_TEST_KAFKA names, or one started for this run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

BROKER = Path(__file__).resolve().parent.parent / "docker" / "kafka" / "broker.py"


@cache
def fetch_jars() -> None:
    """Have the broker's jars, in CI: elsewhere tests download nothing."""
    if os.environ.get("CI"):
        subprocess.run([sys.executable, str(BROKER), "fetch"], check=False, timeout=600)


def run_broker(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`broker.py start FOLDER` or `stop FOLDER`."""
    if command == "start":
        fetch_jars()
    return subprocess.run([sys.executable, str(BROKER), command, str(folder)], capture_output=True, text=True, check=False, timeout=280)


def start_or_skip(folder: Path) -> str:
    """`kafka:HOST:PORT` of a new broker. Kafka needs Java and the broker's jars, which a developer's machine may lack: then the test is
    skipped with the line that says how to get them. In CI a skipped Kafka test fails the run (`tests/conftest.py`)."""
    started = run_broker("start", folder)
    if started.returncode:
        pytest.skip(f"no Kafka broker: {started.stderr.strip()}")  # for the reason above
    return started.stdout.strip()


@pytest.fixture(scope="session")
def kafka_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`kafka:HOST:PORT` of a broker; topics need names of their own, it may outlive the run."""
    named = os.environ.get("VENICE_TEST_KAFKA")
    if named:
        yield named if named.startswith("kafka:") else f"kafka:{named}"
        return
    folder = tmp_path_factory.mktemp("kafka")
    yield start_or_skip(folder)
    run_broker("stop", folder)
