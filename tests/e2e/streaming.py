"""A hybrid store that is written in a thread and watched in others: what tests of streams share."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import apsw
import waiting

from venice.client.producer import Producer
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import Unavailable
from venice.model import HybridConfig, StoreConfig
from venice.supervisor import Cluster

eventually = partial(waiting.eventually, timeout_s=60)
KEYS = 300
STREAMED = range(100)
DELETED = range(90, 100)
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Count", "fields": [{"name": "source", "type": "string"}, {"name": "n", "type": "long"}]}
)
HYBRID = HybridConfig(rewind_s=3600, lag_records_max=10)


class Client(Protocol):
    def batch_get(self, keys: Any) -> Mapping[Any, Any]: ...


def pushed(number: int) -> str:
    return f"SELECT i AS key, 'push {number}' AS source, -1::BIGINT AS n FROM range({KEYS}) t(i)"


def create(settings: Settings, replicas: int = 1) -> ControllerClient:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    config = StoreConfig(partition_count=4, replication_factor=replicas)
    controller.create_store("counts", key_schema='"long"', value_schema=VALUE_SCHEMA, config=config, hybrid=HYBRID)
    return controller


class Stream:
    """Writes keys of the store over and over in a thread of its own, and knows what was acknowledged."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.acknowledged: dict[int, int] = {}
        """Key → the count in its last write that was acknowledged."""
        self.errors: list[BaseException] = []
        self._producer = Producer(settings, "counts")
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        n = 0
        while not self._stop.is_set():
            keys = self._rng.sample(STREAMED, 10)
            done = []
            for key in keys:
                n += 1
                done.append((key, n, self._producer.put(key, {"source": "stream", "n": n})))
            try:
                for key, number, future in done:
                    future.result(60)
                    self.acknowledged[key] = number
            except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
                self.errors.append(error)
                return
            self._stop.wait(0.01)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def settle(self) -> dict[int, int | None]:
        """Stop, delete some keys, and say what must be read: key → count, None if deleted."""
        self.stop()
        for key in DELETED:
            self._producer.delete(key).result(60)
        self._producer.close()
        assert self.errors == []
        return {**self.acknowledged, **dict.fromkeys(DELETED)}


@contextmanager
def streaming(settings: Settings, seed: int) -> Iterator[Stream]:
    stream = Stream(settings, seed)
    try:
        yield stream
    finally:
        stream.stop()


class Watch:
    """Reads streamed keys in a thread: none may ever show less than its floor, nor the row of a push."""

    def __init__(self, client: Client, floor: dict[int, int], *, tolerant: bool = False) -> None:
        self.faults: list[str] = []
        self.reads = 0
        self._client = client
        self._floor = floor
        self._tolerant = tolerant
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exit: object) -> None:
        self._stop.set()
        self._thread.join()

    def went_on(self, reads: int) -> bool:
        """Whether it has read oftener than so, or found a fault, at which it stops."""
        return self.reads > reads or bool(self.faults)

    def _run(self) -> None:
        while not self._stop.is_set() and not self.faults:
            try:
                found = self._client.batch_get(list(self._floor))
            except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
                if not (self._tolerant and isinstance(error, Unavailable)):
                    self.faults.append(repr(error))
                continue
            self.reads += 1
            self.faults += [f"{key}: {found.get(key)}, not {n}" for key, n in self._floor.items() if not shows(found.get(key), n)]


def shows(row: Any, floor: int) -> bool:
    return row is not None and row["source"] == "stream" and row["n"] >= floor


def holds(client: Client, expected: dict[int, int | None], batch: str) -> Callable[[], bool]:
    """Whether the client reads exactly what was written last, and the push's rows elsewhere."""

    def look() -> bool:
        found = client.batch_get(range(KEYS))
        wanted = {key: {"source": batch, "n": -1} for key in range(KEYS)}
        wanted.update({key: {"source": "stream", "n": n} for key, n in expected.items() if n is not None})
        return dict(found) == {key: row for key, row in wanted.items() if expected.get(key, -1) is not None}

    return look


def worker_pids(cluster: Cluster, node: str) -> list[int]:
    """The workers that run now under a node's supervisor."""
    parent = cluster.supervisor.pids()[node]
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(child) for child in listed.split()]


def suspend(pid: int, log_url: str) -> None:
    """SIGSTOP a process, but not in the middle of a transaction on the embedded log: there the others could only wait for it."""
    folder = Path(log_url.removeprefix("sqlite:"))
    deadline = time.monotonic() + 60
    os.kill(pid, signal.SIGSTOP)
    while log_url.startswith("sqlite:") and not all(is_free(file) for file in folder.glob("*.db")):
        assert time.monotonic() < deadline
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)  # it needs a while running to end its transaction
        os.kill(pid, signal.SIGSTOP)


def is_free(file: Path) -> bool:
    connection = apsw.Connection(str(file))
    connection.set_busy_timeout(500)
    try:
        connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return False
    finally:
        connection.close()
    return True
