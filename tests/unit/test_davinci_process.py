"""Da Vinci with its replicas in a child process: the same answers, through swaps, restarts and the child's death."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import waiting

from venice.client.davinci import DaVinciClient
from venice.client.own_process import ReplicaProcess
from venice.client.producer import Producer
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import Unavailable
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.storage.beside import BesideStorage
from venice.supervisor import Cluster

eventually = partial(waiting.eventually, timeout_s=60)
ROW = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "edition", "type": "int"}, {"name": "count", "type": "long"}]})
KEYS = range(500)
NUMBERS = itertools.count()
"""One for each store: tests have several."""


def rows(edition: int) -> str:
    return f"SELECT i AS key, {edition}::INT AS edition, 0::BIGINT AS count FROM range({len(KEYS)}) t(i)"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    made = load(
        data=tmp_path_factory.mktemp("davinci") / "data",
        controller_url=f"http://127.0.0.1:{free_port()}",
        router_url=f"http://127.0.0.1:{free_port()}",
        worker_port=free_port(),
        retire_grace_s=0.5,
    )
    cluster = Cluster(made)
    cluster.start()
    yield made
    cluster.stop()


@pytest.fixture
def controller(settings: Settings) -> ControllerClient:
    return ControllerClient(settings.controller_url, SystemClock())


@pytest.fixture(params=["batch", "hybrid"])
def store(settings: Settings, controller: ControllerClient, request: pytest.FixtureRequest) -> str:
    name = f"{request.node.originalname.removeprefix('test_')[:40].rstrip('_')}-{next(NUMBERS)}-{request.param}"
    hybrid = HybridConfig(lag_records_max=0) if request.param == "hybrid" else None
    controller.create_store(name, key_schema='"long"', value_schema=ROW, config=StoreConfig(partition_count=2), hybrid=hybrid)
    push(settings, name, sql=rows(1))
    return name


def child_of(davinci: DaVinciClient) -> int:
    assert isinstance(davinci._replicas, ReplicaProcess)
    return davinci._replicas.process


def kill_child(davinci: DaVinciClient) -> None:
    killed = child_of(davinci)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: child_of(davinci) != killed)


class Reading:
    """Reads all keys in a loop until it is left, and judges every answer."""

    def __init__(self, davinci: DaVinciClient) -> None:
        self.davinci = davinci
        self.reads = 0
        self.wrong: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                found = self.davinci.batch_get(KEYS)
                single = self.davinci.get(self.reads % len(KEYS))
            except Exception as error:  # noqa: BLE001 - any failed read is one too many
                self.wrong.append(error)
                continue
            self.reads += 1
            if len(found) != len(KEYS) or single is None or len({row["edition"] for row in found.values()} - {0}) > 1:
                self.wrong.append(found)

    def __enter__(self) -> Reading:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def shows(davinci: DaVinciClient, edition: int) -> bool:
    return bool(davinci.get(3)["edition"] == edition)


def base_of(storage: object) -> int:
    """The offset from which on a storage beside its owner is told of changes."""
    assert isinstance(storage, BesideStorage)
    return storage._layers.base


@pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])
def test_swaps_and_deaths_are_not_noticed(
    settings: Settings, controller: ControllerClient, store: str, tmp_path: Path, process: bool
) -> None:
    with DaVinciClient(settings, store, folder=tmp_path, process=process) as davinci:
        with Reading(davinci) as reading:
            for edition in (2, 3):
                push(settings, store, sql=rows(edition))
                eventually(partial(shows, davinci, edition))
                if process:
                    kill_child(davinci)
            controller.rollback(store)
            eventually(partial(shows, davinci, 2))
            controller.roll_forward(store)
            eventually(partial(shows, davinci, 3))
        assert reading.reads > 0
        assert not reading.wrong
    with pytest.raises(Unavailable, match="closed"):
        davinci.get(3)


def test_it_starts_again_from_what_is_there(settings: Settings, store: str, tmp_path: Path) -> None:
    def directories() -> set[Path]:
        return set((tmp_path / "replicas").glob("*/*"))

    with DaVinciClient(settings, store, folder=tmp_path, process=True) as davinci:
        child = child_of(davinci)
        assert davinci.get(3) == {"edition": 1, "count": 0}
        before = directories()
        assert len(before) == 2
        kill_child(davinci)
        eventually(lambda: child_of(davinci) != child and len(davinci._replicas.reports()) == 2)
        assert davinci.get(3) == {"edition": 1, "count": 0}
    with DaVinciClient(settings, store, folder=tmp_path) as in_a_thread:
        assert in_a_thread.get(3) == {"edition": 1, "count": 0}
        assert directories() == before


@pytest.mark.parametrize("store", ["hybrid"], indirect=True)
def test_every_write_is_read_whatever_happens_to_the_child(settings: Settings, store: str, tmp_path: Path) -> None:
    rng = random.Random(5)
    last = dict.fromkeys(KEYS, 0)
    with DaVinciClient(settings, store, folder=tmp_path, process=True) as davinci, Producer(settings, store) as producer:
        with Reading(davinci) as reading:
            for count in range(1, 6001):
                key = rng.choice(KEYS)
                producer.put(key, {"edition": 0, "count": count})
                last[key] = count
                if count % 1500 == 0:
                    kill_child(davinci)
                if count == 3500:
                    push(settings, store, sql=rows(2))
            producer.flush()

            def counted() -> dict[int, int]:
                return {key: row["count"] for key, row in davinci.batch_get(KEYS).items()}

            eventually(lambda: davinci.version == 2 and counted() == last, lambda: (davinci.version, counted(), last))
            assert all(davinci.get(key)["count"] == count for key, count in last.items())
        assert not reading.wrong
        producer.put(7, {"edition": 0, "count": 7000}).result()
        eventually(lambda: davinci.get(7)["count"] == 7000)
        producer.delete(7).result()
        eventually(lambda: davinci.get(7) is None)


@pytest.mark.parametrize("store", ["hybrid"], indirect=True)
def test_files_are_opened_anew_when_much_has_changed(
    settings: Settings, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child is a program of its own: told by a wrapper, it forgets what it told after 20 kB.
    child = tmp_path / "child.py"
    child.write_text("from venice import replica_process\nreplica_process.CHANGED_BYTES_MAX = 20_000\nreplica_process.main()\n")
    popen = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return popen([sys.executable, str(child), *command[3:]] if "-c" in command else command, **options)

    monkeypatch.setattr("venice.client.own_process.subprocess.Popen", start)
    with DaVinciClient(settings, store, folder=tmp_path / "here", process=True) as davinci, Producer(settings, store) as producer:
        storages = davinci._current().storages
        before = [base_of(storage) for storage in storages]
        for count in range(1, 2001):
            producer.put(count % len(KEYS), {"edition": 0, "count": count})
        producer.flush()
        eventually(lambda: all(davinci.get(key)["count"] > 1500 for key in KEYS))
        eventually(lambda: all(base_of(s) > base for s, base in zip(storages, before, strict=True)))
        assert all(davinci.get(count % len(KEYS))["count"] == count for count in range(1501, 2001))


def test_the_child_does_not_outlive_its_reader(settings: Settings, tmp_path: Path, controller: ControllerClient) -> None:
    controller.create_store("outlive", key_schema='"long"', value_schema=ROW, config=StoreConfig(partition_count=1))
    push(settings, "outlive", sql=rows(1))
    # It reads until it is killed, and no longer than a test may take.
    code = (
        "import sys, threading; from venice.client.davinci import DaVinciClient; from venice.config import load;"
        f"c = DaVinciClient(load(data={str(settings.data)!r}), 'outlive', folder={str(tmp_path)!r}, process=True);"
        "print(c._replicas.process, flush=True); threading.Event().wait(100)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        child = int(reader.stdout.readline())
        assert Path(f"/proc/{child}/cmdline").read_bytes()
        reader.kill()
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())
