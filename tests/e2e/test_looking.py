"""Commands that look: `venice top`, `venice inspect`, `venice doctor` on a running hybrid cluster, and on what is not there or garbage."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streaming import create, eventually, pushed

from venice import cli
from venice.cli_output import EXIT_CODES
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.config import Settings, environment
from venice.naming import parse_replica_name
from venice.push.batch import push
from venice.supervisor import Cluster


class Shell:
    """Runs command lines in this process, against one cluster."""

    def __init__(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self.settings = settings
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        return (cli.run(list(arguments)), *self._capsys.readouterr())

    def json(self, *arguments: str) -> Any:
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def venice(
    make_settings: Callable[..., Settings],
    log_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Shell]:
    cluster = Cluster(make_settings(workers=2).model_copy(update={"log": log_url}))
    cluster.start()
    monkeypatch.chdir(tmp_path)
    for name, value in environment(cluster.settings).items():
        if name.startswith("VENICE_"):
            monkeypatch.setenv(name, value)
    create(cluster.settings)
    push(cluster.settings, "counts", sql=pushed(1))
    yield Shell(cluster.settings, capsys)
    cluster.stop()


def test_top_shows_a_cluster_at_work(venice: Shell) -> None:
    stop = threading.Event()

    def work() -> None:
        with ThinClient(venice.settings.router_url, "counts") as thin, Producer(venice.settings, "counts") as producer:
            n = 0
            while not stop.is_set():
                n += 1
                producer.put(n % 50, {"source": "stream", "n": n})
                thin.get(n % 50)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        shown: dict[str, Any] = {}

        def at_work() -> bool:
            shown.update(venice.json("top", "--interval", "1"))
            (version,) = shown["versions"]
            router, *workers = shown["processes"]
            return bool(version["writes_per_s"] and router["reads_per_s"] and router["p99_ms"] and all(w["reads_per_s"] for w in workers))

        eventually(at_work, lambda: shown)
        (version,) = shown["versions"]
        assert (version["store"], version["version"], version["role"], version["ready_partitions"]) == ("counts", 1, "current", 4)
        assert [one["process"] for one in shown["processes"]] == ["router", "node-1-w0", "node-1-w1"]
        assert all(one["live"] for one in shown["processes"])
        assert sum(one["ready"] for one in shown["processes"]) == 4
        code, out, _ = venice("top", "--interval", "0.2", "--count", "2")
        assert (code, out.count("counts v1"), out.count("PROCESS")) == (0, 2, 2), "plain where there is no terminal"
    finally:
        stop.set()
        thread.join()


def test_looking_at_a_running_cluster_changes_nothing_and_answers(venice: Shell) -> None:
    assert sum(file["rows"] for file in venice.json("inspect", "snapshot", "counts", "--check")["files"]) == 300
    names = {one["replica"] for one in venice.json("inspect", "replica")}
    assert {(parse_replica_name(name) or ())[:2] for name in names} == {("counts", 1)}
    assert venice.json("inspect", "replica", sorted(names)[0])["identity"]["store"] == "counts"
    assert {one["topic"] for one in venice.json("inspect", "topic")} >= {"counts_v1", "counts_rt", "venice_catalog", "venice_reports"}
    assert any(one["kind"] == "CAUGHT_UP" for one in venice.json("inspect", "topic", "counts_v1"))
    assert [one["name"] for one in venice.json("inspect", "catalog")["stores"]] == ["counts"]
    assert {one["partition"] for one in venice.json("inspect", "lag", "counts")} == {0, 1, 2, 3}
    assert venice.json("inspect", "dead-letters", "counts") == []
    # How its processors halt is the machine's own affair.
    assert {one["state"] for one in venice.json("doctor") if one["name"] != "processors"} == {"ok"}


def test_what_is_not_there_or_garbage_is_named_and_has_its_exit_code(venice: Shell, tmp_path: Path) -> None:
    sealed = Path(venice.json("inspect", "snapshot", "counts")["uri"])
    (tmp_path / "garbage").write_bytes(b"\x00garbage")
    cut, no_manifest, bad_replica = tmp_path / "cut", tmp_path / "no_manifest", tmp_path / "bad_replica"
    shutil.copytree(sealed, cut)
    (cut / "manifest.json").write_bytes((sealed / "manifest.json").read_bytes()[:-20])
    shutil.copytree(sealed, tmp_path / "short")
    file = next((tmp_path / "short").glob("*.sst"))
    file.write_bytes(file.read_bytes()[:-20])
    no_manifest.mkdir()
    bad_replica.mkdir()
    (bad_replica / "CURRENT").write_bytes(b"MANIFEST-000001\n")
    expected = {
        ("inspect", "snapshot", "nowhere"): "not_found",
        ("inspect", "snapshot", "counts", "--version", "9"): "not_found",
        ("inspect", "snapshot", str(no_manifest)): "not_found",
        ("inspect", "snapshot", str(tmp_path / "garbage")): "not_found",
        ("inspect", "snapshot", str(cut)): "corrupt",
        ("inspect", "snapshot", str(tmp_path / "short"), "--check"): "corrupt",
        ("inspect", "replica", "nowhere_v1.000000"): "not_found",
        ("inspect", "replica", str(tmp_path / "garbage")): "not_found",
        ("inspect", "replica", str(no_manifest)): "not_found",
        ("inspect", "replica", str(bad_replica)): "corrupt",
        ("inspect", "topic", "nowhere_v1"): "not_found",
        ("inspect", "topic", "counts_v1", "--partition", "99"): "not_found",
        ("inspect", "topic", "counts_v1", "--from", "1000000"): "invalid_request",
        ("inspect", "lag", "nowhere"): "not_found",
        ("inspect", "dead-letters", "nowhere"): "not_found",
        ("sql", "FROM nowhere"): "not_found",
        ("export", "nowhere", "--to", "out.parquet"): "not_found",
        ("export", "counts", "--to", "out.xlsx"): "invalid_request",
        ("get", "nowhere", "1"): "not_found",
        ("put", "nowhere", "1", "{}"): "not_found",
        ("version", "list", "nowhere"): "not_found",
        ("store", "describe", "nowhere"): "not_found",
    }
    found = {command: venice(*command) for command in expected}
    codes = {command: code for command, (code, _, _) in found.items()}
    assert codes == {command: EXIT_CODES[kind] for command, kind in expected.items()}, found
    for command, (_, _, err) in found.items():
        assert err.startswith("error: "), (command, err)
        assert "Traceback" not in err
