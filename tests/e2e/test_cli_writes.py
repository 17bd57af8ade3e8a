"""`venice put` and `venice delete` against a real cluster: what they write is read, and nothing is dropped in silence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from command_lines import CITY, Done

from venice.cli_output import EXIT_CODES
from venice.config import Settings, environment
from venice.supervisor import Cluster

LINES = 10_000
DEADLINE_S = 60.0


class Shell:
    """Runs `venice` in a folder, against one cluster; `lines` are what comes through the pipe."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings

    def __call__(self, *arguments: str, lines: Iterable[str] = ()) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "venice.cli", *arguments],
            cwd=self.folder,
            env=environment(self.settings),
            input="".join(line + "\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def get(self, store: str, key: str) -> Any:
        return self("get", store, key, "--json").json

    def until(self, store: str, key: str, value: Any) -> None:
        """What was written is read soon."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.get(store, key)) != value:
            assert time.monotonic() < deadline, found


@pytest.fixture
def venice(tmp_path: Path, start_cluster: Callable[..., Cluster]) -> Shell:
    (tmp_path / "city.avsc").write_text(CITY)
    (tmp_path / "cities.csv").write_text("key,country,inhabitants\nOslo,Norway,1\nBergen,Norway,2\n")
    return Shell(tmp_path, start_cluster().settings)


def city(n: int) -> dict[str, Any]:
    return {"country": "Norway", "inhabitants": n}


def test_single_writes_and_streams(venice: Shell) -> None:
    """One cluster: starting one costs seconds."""
    created = venice("store", "create", "cities", "--key", "string", "--value", "city.avsc", "--partitions", "2", "--hybrid")
    assert created.code == 0, created.err
    pushed = venice("push", "cities", "--input", "cities.csv")
    assert pushed.code == 0, pushed.err
    _one_by_one(venice)
    _through_a_pipe(venice)
    _with_a_wrong_line(venice)
    _refused(venice)


def _one_by_one(venice: Shell) -> None:
    done = venice("put", "cities", "Oslo", json.dumps(city(717_710)), "--json").json
    assert (done["store"], done["written"], done["partition"] in (0, 1)) == ("cities", 1, True)
    venice.until("cities", "Oslo", city(717_710))
    assert venice("delete", "cities", "Bergen").out == "cities: deleted\n"
    venice.until("cities", "Bergen", None)
    assert venice("put", "cities", "Oslo", json.dumps(city(3)), "--timestamp-ms", "1000").code == 0
    assert venice("put", "cities", "last", json.dumps(city(4))).out == "cities: written\n"
    venice.until("cities", "last", city(4))
    assert venice.get("cities", "Oslo") == city(717_710), "the earlier write lost"


def _through_a_pipe(venice: Shell) -> None:
    lines = [json.dumps({"key": f"city {n % 4000}", "value": city(n)}) for n in range(LINES)]
    assert venice("put", "cities", "--stdin", "--json", lines=lines).json == {"store": "cities", "written": LINES}
    venice.until("cities", f"city {(LINES - 1) % 4000}", city(LINES - 1))
    for n in (0, 1999, 2000, 3999):
        last = max(number for number in range(n, LINES, 4000))
        venice.until("cities", f"city {n}", city(last))
    done = venice("delete", "cities", "--stdin", lines=[json.dumps({"key": f"city {n}"}) for n in range(4000)])
    assert done.out == "cities: 4,000 deleted\n"
    venice.until("cities", "city 3999", None)
    assert venice("put", "cities", "--stdin", "--json", lines=[]).json == {"store": "cities", "written": 0}


def _with_a_wrong_line(venice: Shell) -> None:
    lines = [json.dumps({"key": f"row {n}", "value": city(n)}) for n in range(LINES)]
    for wrong, said in (
        ('{"key": "row", "value": ', "not JSON"),
        ('{"key": "row", "value": {"country": 7, "inhabitants": 1}}', "country"),
        ('{"key": "row"}', "'value' is missing"),
        ('{"key": "row", "value": {}, "ttl": 3}', "'ttl' means nothing"),
        ('["row", 1]', "a JSON object is needed"),
        ('{"key": "row", "value": {"country": "No", "inhabitants": 1}, "timestamp_ms": 0.5}', "milliseconds"),
    ):
        done = venice("put", "cities", "--stdin", "--json", lines=[*lines[:5000], wrong, *lines[5000:]])
        assert done.code == EXIT_CODES["invalid_request"], done.err
        assert said in done.error["message"], done.err
        assert done.error["message"].startswith("line 5,001: ")
        assert done.error["data"] == {**done.error["data"], "line": 5001, "acknowledged": 5000, "failed": 0}
    venice.until("cities", "row 4999", city(4999))
    assert venice.get("cities", "row 5000") is None
    with_blank = venice("put", "cities", "--stdin", lines=[lines[0], "", "  ", "nonsense"])
    assert "line 4: not JSON" in with_blank.err
    deleting = venice("delete", "cities", "--stdin", lines=['{"key": "row 1"}', '{"key": "row 2", "value": 1}'])
    assert (deleting.code, deleting.out) == (EXIT_CODES["invalid_request"], "")
    assert "line 2: 'value' means nothing (1 lines are written)" in deleting.err


def _refused(venice: Shell) -> None:
    assert venice("put", "cities", "Oslo").code == 2
    assert venice("put", "cities", "Oslo", "{}", "--stdin").code == 2
    assert venice("delete", "cities").code == 2
    assert venice("put", "cities", "Oslo", "{not json").code == EXIT_CODES["invalid_request"]
    assert venice("put", "nowhere", "Oslo", "{}").code == EXIT_CODES["not_found"]
    assert venice("store", "create", "fixed", "--key", "string", "--value", "long").code == 0
    refused = venice("put", "fixed", "Oslo", "1")
    assert refused.code == EXIT_CODES["conflict"]
    assert "--hybrid" in refused.err
