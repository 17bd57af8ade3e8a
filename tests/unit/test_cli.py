"""The `venice` command without a cluster: help, settings files, schemas given by hand, what errors become."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from venice import cli, cli_processes
from venice.cli_doctor import waking
from venice.cli_output import EXIT_CODES, moment, schema_text, size, table
from venice.config import Settings, load
from venice.errors import BY_KIND, InvalidRequest, NotFound


class Done:
    """A command line that ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Venice = Callable[..., Done]


@pytest.fixture
def venice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: Callable[..., int]) -> Venice:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VENICE_CONTROLLER_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("VENICE_ROUTER_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("VENICE_WORKER_PORT", str(free_port()))

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = cli.run(list(arguments))
        return Done(code, *capsys.readouterr())

    return run


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


EVERY = list(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_every_command_explains_itself(venice: Venice, command: tuple[str, ...]) -> None:
    done = venice(*command, "--help")
    assert done.code == 0
    assert "Usage: venice " + " ".join(command) in done.out
    if command[0] not in ("run", "worker"):
        assert "--json" in done.out


def test_the_version_is_the_distributions(venice: Venice) -> None:
    assert venice("--version").out.startswith("venice 0.")


def test_a_wrong_command_line_is_code_2(venice: Venice) -> None:
    done = venice("store", "create")
    assert done.code == 2
    assert "Missing argument" in done.err


def test_init_writes_every_setting_once(venice: Venice, tmp_path: Path) -> None:
    assert venice("init").code == 0
    text = (tmp_path / "venice.toml").read_text()
    settings = tomllib.loads("\n".join(line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")))
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert settings == json.loads(json.dumps(defaults, default=str))
    assert load(tmp_path / "venice.toml").data == tmp_path / "venice-data"
    again = venice("init", "--json")
    assert again.json == {"file": "venice.toml", "outcome": "unchanged"}


def test_init_overwrites_only_when_told(venice: Venice, tmp_path: Path) -> None:
    (tmp_path / "venice.toml").write_text("workers = 3\n")
    refused = venice("init")
    assert (refused.code, refused.out) == (EXIT_CODES["conflict"], "")
    assert "--force" in refused.err
    assert (tmp_path / "venice.toml").read_text() == "workers = 3\n"
    assert venice("init", "--force").code == 0
    assert load(tmp_path / "venice.toml").workers == 1


def test_a_wrong_setting_is_named_with_its_file(venice: Venice, tmp_path: Path) -> None:
    (tmp_path / "venice.toml").write_text("wrokers = 3\n")
    done = venice("store", "list")
    assert done.code == EXIT_CODES["invalid_request"]
    assert "there is no such setting" in done.err
    assert "'wrokers'" in done.err
    assert "venice.toml" in done.err


def test_another_settings_file_can_be_named(venice: Venice, tmp_path: Path) -> None:
    done = venice("--config", "nowhere.toml", "store", "list")
    assert done.code == EXIT_CODES["not_found"]
    assert "nowhere.toml" in done.err


def test_without_a_controller_a_command_says_what_to_start(venice: Venice) -> None:
    done = venice("store", "list", "--json")
    assert done.code == EXIT_CODES["unavailable"]
    assert done.out == ""
    error = json.loads(done.err)
    assert error["error"] == "unavailable"
    assert "venice up" in error["hint"]


def test_get_without_a_router_says_what_to_start(venice: Venice) -> None:
    done = venice("get", "flights", "x")
    assert done.code == EXIT_CODES["unavailable"]
    assert done.err.startswith("error: ")
    assert "\nhint:  " in done.err


def test_doctor_finds_a_fresh_machine_in_order(venice: Venice) -> None:
    done = venice("doctor", "--json")
    states = {finding["name"]: finding["state"] for finding in done.json}
    assert done.code == 0
    assert states["python"] == states["packages"] == states["settings"] == states["data folder"] == states["disk"] == "ok"
    assert states["log"] == states["controller"] == states["router"] == states["node-1-w0"] == "off"


def test_doctor_says_how_to_fix_a_wrong_setting(venice: Venice, tmp_path: Path) -> None:
    (tmp_path / "venice.toml").write_text("workers = 0\n")
    done = venice("doctor")
    assert done.code == 1
    assert "✗ settings: setting 'workers'" in done.out
    assert "fix: " in done.out


def test_doctor_finds_a_port_that_somebody_else_has(venice: Venice, free_port: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    port = free_port()
    monkeypatch.setenv("VENICE_ROUTER_URL", f"http://127.0.0.1:{port}")
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = venice("doctor", "--json")
    assert done.code == 1
    assert [finding["name"] for finding in done.json if finding["state"] == "wrong"] == ["router"]


@pytest.mark.parametrize(("governor", "poll_ns", "findings"), [("haltpoll", "0", 1), ("haltpoll", "200000", 0), ("menu", "0", 0)])
def test_doctor_finds_processors_that_halt_at_once(tmp_path: Path, governor: str, poll_ns: str, findings: int) -> None:
    files = {"devices/system/cpu/cpuidle/current_governor": governor, "module/haltpoll/parameters/guest_halt_poll_ns": poll_ns}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert [finding.state for finding in waking(tmp_path)] == ["off"] * findings


def test_doctor_says_nothing_of_processors_that_do_not_tell(tmp_path: Path) -> None:
    assert list(waking(tmp_path)) == []


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_each_kind_of_error_has_its_exit_code(venice: Venice, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise BY_KIND[kind]("it broke", hint="mend it", place=7)

    monkeypatch.setattr("venice.cli_output.load_settings", fail)
    done = venice("store", "list")
    assert (done.code, done.out, done.err) == (EXIT_CODES[kind], "", "error: it broke\nhint:  mend it\n")
    done = venice("store", "list", "--json")
    assert json.loads(done.err) == {"error": kind, "message": "it broke", "hint": "mend it", "data": {"place": 7}}


def test_a_bug_is_one_line_and_its_trace_is_in_a_file(venice: Venice, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("venice.cli_output.load_settings", fail)
    done = venice("store", "list")
    assert (done.code, done.out) == (70, "")
    assert done.err.count("\n") == 1
    trace = Path(done.err.rpartition(" ")[2].strip(" )\n"))
    assert "ZeroDivisionError: by zero" in trace.read_text()
    trace.unlink()


def test_a_worker_of_a_module_that_is_not_there(venice: Venice) -> None:
    assert venice("worker", "run", "no_such_module:build").code == EXIT_CODES["not_found"]
    assert venice("worker", "run", "venice.errors:nothing").code == EXIT_CODES["not_found"]
    assert venice("worker", "run", "venice.errors").code == EXIT_CODES["invalid_request"]


def test_inspect_makes_no_log_where_there_is_none(venice: Venice, tmp_path: Path) -> None:
    assert venice("inspect", "topic").code == EXIT_CODES["not_found"]
    assert venice("inspect", "catalog").code == EXIT_CODES["not_found"]
    assert list(tmp_path.iterdir()) == []


def test_schemas_are_named_in_three_ways(tmp_path: Path) -> None:
    file = tmp_path / "row.avsc"
    file.write_text('{"type": "map", "values": "int"}')
    assert schema_text("string") == '"string"'
    assert schema_text('{"type": "fixed"}') == '{"type": "fixed"}'
    assert schema_text(str(file)) == schema_text(f"@{file}") == file.read_text()
    with pytest.raises(NotFound, match="no schema at missing"):
        schema_text("missing.avsc")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest):
        schema_text(str(file))


def test_tables_align_numbers_right_and_words_left() -> None:
    assert table(("name", "rows"), [("a", "1,000"), ("longer", "7")]) == "NAME     ROWS\na       1,000\nlonger      7"


def test_numbers_for_people() -> None:
    assert [size(count) for count in (0, 999, 1500, 12_345_678, 5_000_000_000_000)] == ["0 B", "999 B", "1.5 kB", "12.3 MB", "5.0 TB"]
    assert moment(0) == "-"
    assert moment(1_700_000_000_000) == "2023-11-14 22:13:20"


def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from venice import cli, cli_output;"
        "cli_output.load_settings = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT);"
        "sys.exit(cli.run(['store', 'list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_settings_file_lists_settings_in_the_order_of_the_model() -> None:
    text = cli_processes.settings_file()
    places = [text.index(f"\n#{name} = ") for name in Settings.model_fields]
    assert places == sorted(places)
