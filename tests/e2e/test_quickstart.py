"""The quickstart as a person runs it: every promise is counted on its screen, and nothing is left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kafka_broker import run_broker, start_or_skip
from waiting import eventually

from venice.config import BROKER_VARIABLE, load
from venice.control.catalog import Catalog
from venice.errors import Conflict
from venice.model import Store, StoreConfig
from venice.quickstart import place
from venice.quickstart.flights import OWNER, STORE

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "120"}


def quickstart(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "venice.quickstart", *arguments]
    return subprocess.run(command, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, check=False, timeout=280)


def using(folder: Path) -> dict[str, bytes]:
    """Processes whose command line or environment names the folder, with their command lines."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if process.name.isdigit() and int(process.name) != os.getpid() and str(folder).encode() in command + environment:
            found[process.name] = command
    return found


def judge(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    steps = [int(number) for number in re.findall(r"^ ?(\d+) ✓", done.stdout, re.MULTILINE)]
    assert steps == list(range(1, len(steps) + 1))
    assert re.search(r"swap: 0 failed, 0 mixed of [1-9][\d,]* reads", done.stdout)
    stream = re.search(r"stream: ([\d,]+) updates acknowledged, ([\d,]+) read back from version 4 \(([\d,]+) of them", done.stdout)
    assert stream is not None, said
    acknowledged, read_back, before = (int(number.replace(",", "")) for number in stream.groups())
    assert acknowledged == read_back > before > 0
    assert re.search(r"reads meanwhile: 0 failed, 0 mixed of [1-9]", done.stdout)
    assert len(re.findall(r"freshness.*: p50 \d.*, p99 \d", done.stdout)) == 2
    ending = done.stdout.partition("Try next")[2].splitlines()[1:]
    named = [re.findall(r"(?:venice|venice\.cli) --config \S+/venice\.toml (up|get|sql)", line) for line in ending]
    assert named == [["up"], ["get"], ["sql"]]
    assert using(folder) == {}


def test_it_keeps_its_promises(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    judge(quickstart(str(folder), "--small"), folder)


@pytest.mark.kafka
def test_it_runs_on_kafka(tmp_path: Path) -> None:
    start_or_skip(tmp_path / "tried")
    run_broker("stop", tmp_path / "tried")
    folder = tmp_path / "here"
    done = quickstart(str(folder), "--small", "--kafka", **{BROKER_VARIABLE: ""})
    judge(done, folder)
    assert "Apache Kafka is up: kafka:127.0.0.1:" in done.stdout
    assert 'log = "kafka:' in (folder / "venice.toml").read_text()


def test_without_java_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = quickstart(str(tmp_path / "here"), "--small", "--kafka", PATH=str(tmp_path), **{BROKER_VARIABLE: ""})
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "apt-get install" in done.stderr
    assert "controller" not in done.stdout


def test_a_stop_signal_takes_everything_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "venice.quickstart", str(folder), "--small"], env=ENVIRONMENT, stdout=said, stderr=said
        )
        output = (tmp_path / "said").read_text
        eventually(lambda: process.poll() is not None or "are up" in output(), output, timeout_s=120)
        assert process.poll() is None, output()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert using(folder) == {}


@pytest.mark.parametrize("owner", [OWNER, "somebody else"])
def test_a_log_that_is_in_use_is_left_alone(tmp_path: Path, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(name=STORE, owner=owner, key_schema='"string"', value_schemas=(), config=StoreConfig())
    monkeypatch.setattr(place, "read_catalog", lambda settings: Catalog(stores={STORE: store}))
    settings = load(data=tmp_path, log="kafka:broker:9092")
    if owner == OWNER:
        assert place.check_log(settings)
    else:
        with pytest.raises(Conflict, match="broker:9092"):
            place.check_log(settings)
