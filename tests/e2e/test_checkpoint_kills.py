"""SIGKILL exactly while a checkpoint is written, recorded, counted on, attached or deleted: no write is lost, no half one is used."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pytest
from streaming import Stream, eventually, holds, shows, streaming, worker_pids
from trimming import PARTITIONS, create_with_short_rewind, leftovers, log, lose_disk, starts, trimmed_cluster, until_trimmed

from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.config import Settings
from venice.control.reading import read_catalog
from venice.log import Log
from venice.naming import CATALOG_TOPIC
from venice.storage.manifest import MANIFEST_NAME
from venice.storage.snapshot import verify
from venice.supervisor import Cluster

__all__ = ["log", "trimmed_cluster"]  # Fixtures: pytest finds them by their names here.

GONE = range(200, 240)
"""Deleted keys: what is known of them makes a second file of a checkpoint."""
WORKER, CONTROLLER = "worker run", "run controller"
SEALED = "between seal and report"
CHECKPOINT = r"/checkpoint-[0-9a-f-]+"


@dataclass(frozen=True)
class Moment:
    """What a process is about to do: see `stop_at_moment.py`."""

    event: str
    path: str
    function: str
    process: str = WORKER


WHILE_WRITTEN = {
    "before its folder": Moment("os.mkdir", CHECKPOINT, "_write"),
    "before its first file": Moment("open", rf"{CHECKPOINT}/\d+\.metadata\.sst", "_write_file"),
    "between its files": Moment("open", rf"{CHECKPOINT}/\d+\.values\.sst", "_write_file"),
    "between files and manifest": Moment("open", rf"{CHECKPOINT}/\.tmp-{MANIFEST_NAME}", "seal"),
    "before it is sealed": Moment("os.rename", rf"{CHECKPOINT}/{MANIFEST_NAME}", "seal"),
    SEALED: Moment("open", rf"{CHECKPOINT}/{MANIFEST_NAME}", "_seal"),
}
WHILE_RECORDED = {
    "between report and record": Moment("open", rf"{CHECKPOINT}/{MANIFEST_NAME}", "_described", CONTROLLER),
    "between record and trimming": Moment("open", rf"{CHECKPOINT}/{MANIFEST_NAME}", "_trim_version_topic", CONTROLLER),
    "while one before it is deleted": Moment("shutil.rmtree", CHECKPOINT, "sweep", CONTROLLER),
}
WHILE_ATTACHED = {
    "before its first file is there": Moment("os.link", rf"{CHECKPOINT}/\d+\.metadata\.sst", "attach"),
    "between its files are there": Moment("os.link", rf"{CHECKPOINT}/\d+\.values\.sst", "attach"),
    "before the replica is complete": Moment("os.rename", r"/\.tmp-\w+", "attach"),
    "before the replica is on disk to stay": Moment("open", r"/counts_v1\.\d+( |$)", "attach"),
}


class Stops:
    """Has processes started from now on stop at moments that are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "sitecustomize.py").symlink_to(Path(__file__).with_name("stop_at_moment.py"))

    def ask(self, moment: Moment) -> None:
        (self._folder / "asked").write_text(json.dumps(asdict(moment)), encoding="utf-8")
        (self._folder / "asked").rename(self._folder / "moment.json")

    def reached(self, moment: str) -> tuple[int, Path]:
        """Wait until a process has stopped; its id, and the checkpoint's folder that it was about to do something with."""
        eventually((self._folder / "reached").exists, lambda: f"nobody came to the moment {moment}")
        pid, paths = (self._folder / "reached").read_text(encoding="utf-8").split(" ", 1)
        (self._folder / "reached").unlink()
        found = re.match(rf".*?{CHECKPOINT}", paths)
        return int(pid), Path(found[0] if found else paths)


@pytest.fixture
def stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stops:
    made = Stops(tmp_path / "stops")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stops"), prepend=os.pathsep)
    return made


def until_read(cluster: Cluster, stream: Stream, moment: str) -> None:
    """Every write that was acknowledged by now is read."""
    floor = dict(stream.acknowledged)
    with ThinClient(cluster.settings.router_url, "counts") as thin:

        def shown() -> bool:
            rows = thin.batch_get(list(floor))
            return all(shows(rows.get(key), n) for key, n in floor.items())

        eventually(shown, lambda: f"killed {moment}, writes are missing")


def newest(settings: Settings) -> list[int]:
    """Where the newest recorded checkpoint of each partition ends."""
    catalog = read_catalog(settings)
    return [max((one.next_offset for one in catalog.kept("counts", 1, partition)), default=0) for partition in PARTITIONS]


def kill(cluster: Cluster, moment: Moment, pid: int) -> None:
    """Kill who has stopped; with a controller the workers, too, which might tell the next one what it has forgotten."""
    victims = [pid] if moment.process == WORKER else [pid, *worker_pids(cluster, "node-1")]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)


@pytest.mark.timeout(900)  # thirteen restarts of processes, a minute where nothing else runs
def test_kills_at_every_moment_of_a_checkpoint(stops: Stops, trimmed_cluster: Cluster, log: Log, tmp_path: Path) -> None:
    cluster, settings = trimmed_cluster, trimmed_cluster.settings
    # On Kafka those alone that have to do with the log: a folder is the same on both.
    moments = WHILE_RECORDED if settings.log_url.startswith("kafka:") else {**WHILE_WRITTEN, **WHILE_RECORDED, **WHILE_ATTACHED}
    create_with_short_rewind(settings)
    with Producer(settings, "counts") as producer:
        for key in GONE:
            producer.delete(key)
    never_sealed: set[str] = set()
    with streaming(settings, 1) as stream:
        until_trimmed(log, stream)
        for name, moment in moments.items():
            stops.ask(moment)
            if name in WHILE_ATTACHED:
                lose_disk(cluster, "node-1-w0")
            pid, folder = stops.reached(name)
            if name in WHILE_WRITTEN:
                assert (folder / MANIFEST_NAME).exists() == (name == SEALED)
                never_sealed |= {folder.name} if name != SEALED else set()
            kill(cluster, moment, pid)
            until_read(cluster, stream, name)
        before = newest(settings)
        eventually(lambda: all(now > then for now, then in zip(newest(settings), before, strict=True)), lambda: (newest(settings), before))
        expected = {**stream.settle(), **dict.fromkeys(GONE)}
    with ThinClient(settings.router_url, "counts") as thin, DaVinciClient(settings, "counts", folder=tmp_path / "fresh") as fresh:
        for client in (thin, fresh):
            eventually(holds(client, expected, "push 1"), lambda: starts(log, "counts_v1"))
    check_checkpoints(settings, log, never_sealed)
    eventually(lambda: leftovers(settings) == set(), lambda: leftovers(settings), timeout_s=120)
    assert list(settings.replicas.rglob(".tmp-*")) == []


def check_checkpoints(settings: Settings, log: Log, never_sealed: set[str]) -> None:
    """Those the catalog keeps are whole, and it has never named one that was not sealed."""
    catalog = read_catalog(settings)
    for partition in PARTITIONS:
        kept = catalog.kept("counts", 1, partition)
        assert [verify(one.snapshot).position.next_offset for one in kept] == [one.next_offset for one in kept]
    reader = log.reader({(CATALOG_TOPIC, 0): log.start_offset(CATALOG_TOPIC, 0)})
    end = log.end_offset(CATALOG_TOPIC, 0)
    said = b""
    while reader.position(CATALOG_TOPIC, 0) < end:
        said += b"".join(entry.payload for entry in reader.poll(records_max=10_000, timeout_s=1.0))
    reader.close()
    assert [name for name in never_sealed if name.encode() in said] == []
    blobs = Path(settings.blobs_url) / "counts" / "counts_v1"
    eventually(lambda: not any((blobs / name).exists() for name in never_sealed), partial(sorted, never_sealed))
