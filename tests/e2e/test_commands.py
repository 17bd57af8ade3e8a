"""The `venice` command against a real cluster, as a person or a script uses it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from command_lines import CITY, Done
from waiting import eventually

from venice import cli
from venice.cli_output import EXIT_CODES
from venice.config import Settings, environment
from venice.supervisor import Cluster, healthy

CITIES = {"Oslo": ("Norway", 717710), "Lyon": ("France", 520774), "Bergen": ("Norway", 291940)}


class Shell:
    """Runs command lines in this process, in a folder of their own, against one cluster: a process for each would take a minute."""

    def __init__(self, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.settings = settings
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        self._capsys.readouterr()
        return Done(cli.run(list(arguments)), *self._capsys.readouterr())


@pytest.fixture
def venice(
    tmp_path: Path, start_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    lines = "".join(f"{name},{country},{count}\n" for name, (country, count) in CITIES.items())
    (tmp_path / "cities.csv").write_text(f"key,country,inhabitants\n{lines}")
    (tmp_path / "city.avsc").write_text(CITY)
    settings = start_cluster().settings
    monkeypatch.chdir(tmp_path)
    for name, value in environment(settings).items():
        if name.startswith("VENICE_"):
            monkeypatch.setenv(name, value)
    return Shell(tmp_path, settings, capsys)


def test_a_day_with_venice(venice: Shell) -> None:
    assert venice("store", "list").out.startswith("no stores yet")
    made = venice(
        "store", "create", "cities", "--key", "string", "--value", "city.avsc", "--partitions", "3", "--owner", "atlas", "--json"
    ).json
    assert (made["name"], made["config"]["partition_count"]) == ("cities", 3)
    assert venice("store", "create", "cities", "--key", "string", "--value", "city.avsc").code == EXIT_CODES["conflict"]
    _push(venice)
    _read(venice)
    _schemas(venice)
    _versions(venice)
    _inspect(venice)
    _scrape(venice)
    _refuse(venice)
    assert venice("store", "update", "cities", "--owner", "geo", "--json").json["owner"] == "geo"
    assert venice("store", "delete", "cities").code == EXIT_CODES["conflict"]
    assert venice("store", "delete", "cities", "--yes", "--json").json == {"deleted": "cities"}
    assert venice("store", "list", "--json").json == []


def _push(venice: Shell) -> None:
    assert "would be pushed" in venice("push", "cities", "--input", "cities.csv", "--dry-run").out
    assert venice("version", "list", "cities", "--json").json == []
    events = venice("push", "cities", "--input", "cities.csv", "--push-id", "first", "--json").events
    assert events[0]["event"] == "push_begun" or events[0]["event"] == "progress"
    assert (events[-1]["event"], events[-1]["version"], events[-1]["rows"]) == ("push_done", 1, 3)
    again = venice("push", "cities", "--input", "cities.csv", "--push-id", "first")
    assert "complete already" in again.out
    done = venice("push", "cities", "--sql", "SELECT * REPLACE (inhabitants + 1 AS inhabitants) FROM 'cities.csv'")
    assert done.code == 0, done.err
    assert "cities serves version 2: 3 rows" in done.out
    assert "✓ read" in done.err


def _read(venice: Shell) -> None:
    assert venice("get", "cities", "Oslo", "--json").json == {"country": "Norway", "inhabitants": 717711}
    assert venice("get", "cities", "Atlantis", "--json").json is None
    for via in ("thin", "fast", "davinci"):
        assert venice("get", "cities", "Oslo", "--via", via, "--json").json == {"country": "Norway", "inhabitants": 717711}
    assert venice("get", "cities", "Atlantis", "--via", "fast", "--json").json is None
    assert venice("get", "nowhere", "x", "--via", "davinci").code == EXIT_CODES["not_found"]
    assert venice("get", "cities", "Oslo", "--via", "fast", "--version", "1").code == EXIT_CODES["invalid_request"]
    found = venice("sql", "SELECT country, sum(inhabitants)::BIGINT AS n FROM cities GROUP BY ALL ORDER BY n", "--json").json
    assert found == [{"country": "France", "n": 520775}, {"country": "Norway", "n": 1009652}]
    assert "Norway" in venice("sql", "FROM cities").out
    assert venice("export", "cities", "--to", "out.parquet", "--version", "1", "--json").json["rows"] == 3
    counted = venice("sql", "SELECT sum(inhabitants)::BIGINT AS n FROM 'out.parquet'", "--json").json
    assert counted == [{"n": sum(count for _, count in CITIES.values())}]


def _schemas(venice: Shell) -> None:
    wider = json.loads(CITY)
    wider["fields"].append({"name": "mayor", "type": ["null", "string"], "default": None})
    assert venice("schema", "add", "cities", json.dumps(wider), "--json").json["id"] == 2
    assert venice("schema", "show", "cities", "--json").json["fields"][-1]["name"] == "mayor"
    assert venice("schema", "show", "cities", "key", "--json").json == "string"
    assert len(venice("schema", "list", "cities", "--json").json["values"]) == 2
    assert venice("schema", "show", "cities", "9").code == EXIT_CODES["not_found"]
    wider["fields"][1]["type"] = "string"
    refused = venice("schema", "add", "cities", json.dumps(wider))
    assert refused.code == EXIT_CODES["incompatible"]
    assert "inhabitants" in refused.err


def _versions(venice: Shell) -> None:
    assert "version 1" in venice("version", "rollback", "cities").out
    assert venice("version", "roll-forward", "cities", "--json").json["current"] == 2
    pushed = venice("push", "cities", "--sql", "SELECT *, NULL::VARCHAR AS mayor FROM 'cities.csv'", "--deferred-swap")
    assert "roll-forward" in pushed.out, pushed.err
    assert {info["version"]["number"]: info["role"] for info in venice("version", "list", "cities", "--json").json}[3] == "future"
    assert venice("version", "kill", "cities", "3", "--json").json["status"] == "KILLED"
    assert venice("version", "kill", "cities", "2").code == EXIT_CODES["conflict"]
    described = venice("store", "describe", "cities").out
    assert "current version 2" in described
    assert "killed by hand" in described


def _inspect(venice: Shell) -> None:
    manifest = venice("inspect", "snapshot", "cities", "--check", "--json").json
    assert (manifest["version"], manifest["checked"], sum(file["rows"] for file in manifest["files"])) == (2, True, 3)
    assert "every file is as it was sealed" in venice("inspect", "snapshot", manifest["uri"], "--check").out
    replicas = [item["replica"] for item in venice("inspect", "replica", "--json").json]
    assert [name for name in replicas if name.startswith("cities_v2.")] == [f"cities_v2.{partition:06d}" for partition in range(3)]
    shown = [venice("inspect", "replica", f"cities_v2.{partition:06d}", "--json").json for partition in range(3)]
    assert sum(len(replica["first"]) for replica in shown) == 3
    topics = {row["topic"] for row in venice("inspect", "topic", "--json").json}
    assert {"venice_catalog", "venice_reports"} <= topics
    records = venice("inspect", "topic", "venice_catalog", "--limit", "5", "--json").json
    assert [row["offset"] for row in records] == [0, 1, 2, 3, 4]
    assert records[0]["kind"] == "DECLARE_CONTROLLER"
    assert venice("inspect", "catalog", "--json").json["stores"][0]["current"] == 2
    assert venice("get", "cities", "Oslo", "--json").json["inhabitants"] == 717711
    assert venice("doctor").code == 0


def _scrape(venice: Shell) -> None:
    settings = venice.settings
    worker = f"http://127.0.0.1:{settings.worker_port}"
    told = {}
    for url in (settings.controller_url, settings.router_url, worker):
        with urlopen(f"{url}/metrics", timeout=10) as answer:
            told[url] = answer.read().decode()
    assert all("\nvenice_catalog_sequence " in text for text in told.values())
    assert 'venice_workers{state="live"} 1.0' in told[settings.controller_url]
    assert "venice_pending_requests" in told[settings.router_url]
    ready = re.search(r'venice_replicas{state="ready"} (.+)', told[worker])
    assert ready is not None
    assert float(ready[1]) >= 3


def _refuse(venice: Shell) -> None:
    refused = venice("push", "nowhere", "--input", "cities.csv")
    assert refused.code == EXIT_CODES["not_found"]
    assert venice("push", "cities", "--input", "none.csv").code == EXIT_CODES["not_found"]
    assert venice("push", "cities").code == EXIT_CODES["invalid_request"]
    (venice.folder / "bad.csv").write_text("key,country\nOslo,Norway\n")
    refused = venice("push", "cities", "--input", "bad.csv")
    assert refused.code == EXIT_CODES["invalid_request"]
    assert "inhabitants" in refused.err
    assert venice("get", "nowhere", "x").code == EXIT_CODES["not_found"]
    assert venice("sql", "FROM nowhere").code == EXIT_CODES["not_found"]
    assert venice("version", "list", "nowhere").code == EXIT_CODES["not_found"]


@pytest.fixture
def started(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def start(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "venice.cli", *arguments],
            cwd=tmp_path,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_up_says_what_is_ready_and_stops_at_a_signal(
    number: signal.Signals, started: Callable[..., subprocess.Popen[str]], make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    process = started(settings, "up", "--json")
    assert process.stdout is not None
    ready = [json.loads(process.stdout.readline())["ready"] for _ in range(3)]
    assert sorted(ready) == ["controller", "node-1-w0", "router"]
    assert json.loads(process.stdout.readline())["router"] == settings.router_url
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not healthy(f"{settings.router_url}/health")


def test_up_on_a_taken_port_starts_nothing(
    started: Callable[..., subprocess.Popen[str]], make_settings: Callable[..., Settings], start_cluster: Callable[..., Cluster]
) -> None:
    other = start_cluster().settings
    settings = make_settings().model_copy(update={"router_url": other.router_url})
    process = started(settings, "up")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (EXIT_CODES["conflict"], "")
    assert "router" in err
    assert not healthy(f"{settings.controller_url}/api/v1/health")


def test_single_processes_make_a_cluster_and_stop_at_sigterm(
    started: Callable[..., subprocess.Popen[str]], make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    processes = [started(settings, "run", name) for name in ("controller", "router", "node")]
    urls = [f"{settings.controller_url}/api/v1/health", f"{settings.router_url}/health", f"http://127.0.0.1:{settings.worker_port}/health"]
    eventually(lambda: all(map(healthy, urls)), lambda: "not all processes answer", timeout_s=60)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    assert not any(map(healthy, urls))


def test_a_closed_pipe_is_no_crash(venice: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "venice.cli", "store", "list"],
        env=environment(venice.settings), stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60,
    )  # fmt: skip
    os.close(writing)
    assert "Traceback" not in process.stderr
