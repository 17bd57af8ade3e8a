"""Flows in the settings: checked where they are read, and the same in every process they reach."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from venice import cli_processes, deployed
from venice.config import Flow, Settings, environment, load
from venice.deployed import FlowState
from venice.errors import InvalidRequest

TABLE = '[[flows]]\nname = "counts"\ntarget = "my_app.flow:build"\nworkers = 2\nfolder = "flows"\n'


def test_a_flow_reaches_a_child_process_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "venice.toml").write_text(TABLE)
    settings = load(tmp_path / "venice.toml")
    assert settings.flows == (Flow(name="counts", target="my_app.flow:build", workers=2, folder=tmp_path / "flows"),)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    assert load() == settings


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TABLE + TABLE, "'counts' is the name of two flows"),
        (TABLE + "threads = 2\n", "flows.0.threads"),
        (TABLE.replace(":build", ""), "flows.0.target"),
        (TABLE.replace("counts", "../counts"), "flows.0.name"),
        (TABLE.replace("workers = 2", "workers = 0"), "flows.0.workers"),
        ('[[flows]]\nname = "counts"\n', "flows.0.target"),
    ],
)
def test_a_wrong_flow_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "venice.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=re.escape(named)):
        load(tmp_path / "venice.toml")


def test_what_init_writes_can_be_taken_as_it_stands(tmp_path: Path) -> None:
    text = cli_processes.settings_file().partition("# [[flows]]\n")
    table = tomllib.loads("[[flows]]\n" + "\n".join(line.removeprefix("# ") for line in text[2].splitlines()))["flows"][0]
    assert set(table) == set(Flow.model_fields)
    Flow(**table)


def test_the_command_of_a_flow(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    plain = Flow(name="a", target="m:build", recovery=False)
    assert deployed.command(settings, plain) == ["worker", "run", "m:build", "--name", "flow-a", "--threads", "1"]
    kept = Flow(name="a", target="m:build", workers=3, snapshot_s=1)
    assert deployed.command(settings, kept)[-6:] == ["--threads", "3", "--recovery", f"{tmp_path}/flows/a/recovery", "--snapshot-s", "1.0"]


def test_a_state_is_kept_and_garbage_is_no_state(tmp_path: Path) -> None:
    settings, flow = Settings(data=tmp_path), Flow(name="a", target="m:build")
    assert deployed.read_state(settings, flow) is None
    state = FlowState(state="waits", process=7, started_ms=1, starts=2, exit_code=-9)
    deployed.write_state(settings, flow, state)
    assert deployed.read_state(settings, flow) == state
    for garbage in ("", "[]", "{}", '{"state": 1, "x": 2}', "\x00"):
        (tmp_path / "flows" / "a" / "state.json").write_text(garbage)
        assert deployed.read_state(settings, flow) is None
