"""A store that is written while it is read: nothing acknowledged is lost, by swaps, deaths and suspensions of who leads."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from kafka_broker import run_broker

from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import Unavailable
from venice.log.open import open_log
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster

KEYS = 300
STREAMED = range(100)
DELETED = range(90, 100)
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Count", "fields": [{"name": "source", "type": "string"}, {"name": "n", "type": "long"}]}
)
HYBRID = HybridConfig(rewind_s=3600, lag_records_max=10)


class Client(Protocol):
    def batch_get(self, keys: Any) -> Mapping[Any, Any]: ...


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A log for one cluster: a catalog has one name, so a broker of its own, not the one that other tests share."""
    if request.param == "sqlite":
        yield ""
        return
    started = run_broker("start", tmp_path / "kafka")
    if started.returncode:
        pytest.skip(f"no Kafka broker: {started.stderr.strip()}")
    yield started.stdout.strip()
    run_broker("stop", tmp_path / "kafka")


@pytest.fixture
def cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """A cluster of one node with two workers."""
    running = Cluster(make_settings(workers=2).model_copy(update={"log": log_url}))
    running.start()
    yield running
    running.stop()


def pushed(number: int) -> str:
    return f"SELECT i AS key, 'push {number}' AS source, -1::BIGINT AS n FROM range({KEYS}) t(i)"


def create(settings: Settings, replicas: int = 1) -> ControllerClient:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    config = StoreConfig(partition_count=4, replication_factor=replicas)
    controller.create_store("counts", key_schema='"long"', value_schema=VALUE_SCHEMA, config=config, hybrid=HYBRID)
    return controller


def eventually(holds: Callable[[], bool], what: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if holds():
                return
        except Unavailable:
            pass
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


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
            except Exception as error:  # noqa: BLE001 - judged by the test
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


def test_a_push_underneath_a_stream_loses_no_write(cluster: Cluster) -> None:
    settings = cluster.settings
    controller = create(settings)
    push(settings, "counts", sql=pushed(1))
    first = controller.get_version("counts", 1)
    assert (first.version.hybrid, first.version.real_time_partitions) == (HYBRID, 4)
    assert len({leader.worker for leader in first.leaders if leader is not None}) == 2, "each worker leads what it holds"
    with ThinClient(settings.router_url, "counts") as thin, DaVinciClient(settings, "counts") as davinci, streaming(settings, 1) as stream:
        eventually(lambda: len(stream.acknowledged) == len(STREAMED), lambda: stream.errors)
        floor = dict(stream.acknowledged)
        for client in (thin, davinci):
            eventually(
                lambda: all(shows(client.batch_get(floor).get(key), n) for key, n in floor.items()),  # noqa: B023
                lambda: controller.get_version("counts", 1),
            )
        with Watch(thin, floor) as through_router, Watch(davinci, floor) as at_home:
            # Its rows were read before the stream, so to say: all of them lose to what was written since.
            assert push(settings, "counts", sql=pushed(2)).version == 2
            eventually(lambda: davinci.version == 2, lambda: davinci.version)
            reads = through_router.reads, at_home.reads
            eventually(lambda: through_router.went_on(reads[0]) and at_home.went_on(reads[1]), lambda: reads)
        assert through_router.faults == at_home.faults == []
        expected = stream.settle()
        for client in (thin, davinci):
            eventually(holds(client, expected, "push 2"), lambda: controller.get_version("counts", 2))
        eventually(lambda: controller.get_version("counts", 2).lag_records == 0, lambda: controller.get_version("counts", 2))


def test_workers_killed_while_they_lead_lose_no_acknowledged_write(cluster: Cluster) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    settings = cluster.settings
    controller = create(settings)
    push(settings, "counts", sql=pushed(1))
    with (
        ThinClient(settings.router_url, "counts") as thin,
        DaVinciClient(settings, "counts") as davinci,
        streaming(settings, seed) as stream,
    ):
        for _ in range(6):
            time.sleep(rng.uniform(0.2, 1.5))
            for pid in worker_pids(cluster, "node-1")[: rng.randint(1, 2)]:
                os.kill(pid, signal.SIGKILL)
            if rng.random() < 0.3 and "controller" in cluster.supervisor.pids():
                os.kill(cluster.supervisor.pids()["controller"], signal.SIGKILL)
        expected = stream.settle()
        for client in (thin, davinci):
            eventually(holds(client, expected, "push 1"), lambda: controller.get_version("counts", 1))
    leaders = controller.get_version("counts", 1).leaders
    assert {leader.term if leader is not None else 0 for leader in leaders} == {1}, "a new life of the same worker needs no new term"


def test_a_suspended_leader_is_replaced_and_changes_nothing_when_it_wakes(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"workers": 1})
    cluster = Cluster(settings, nodes=2)
    with ExitStack() as stack:
        cluster.start()
        stack.callback(cluster.stop)
        controller = create(settings, replicas=2)
        push(settings, "counts", sql=pushed(1))
        davinci = stack.enter_context(DaVinciClient(settings, "counts"))
        stream = stack.enter_context(streaming(settings, 2))
        eventually(lambda: len(stream.acknowledged) == len(STREAMED), lambda: stream.errors)
        leaders = controller.get_version("counts", 1).leaders
        os.kill(cluster.supervisor.pids()["controller"], signal.SIGKILL)
        eventually(lambda: controller.get_version("counts", 1).ready_partitions == 4, lambda: "the controller is back")
        assert controller.get_version("counts", 1).leaders == leaders
        (suspended,) = worker_pids(cluster, "node-1")
        os.kill(suspended, signal.SIGSTOP)
        stack.callback(os.kill, suspended, signal.SIGCONT)
        eventually(
            lambda: {leader.worker for leader in controller.get_version("counts", 1).leaders if leader} == {"node-2-w0"},
            lambda: controller.get_version("counts", 1),
        )
        floor = dict(stream.acknowledged)
        eventually(lambda: all(shows(davinci.batch_get(floor).get(key), n) for key, n in floor.items()), lambda: floor)
        with Watch(davinci, floor) as watch:
            os.kill(suspended, signal.SIGCONT)
            reads = watch.reads
            eventually(lambda: watch.went_on(reads + 100), lambda: reads)
        assert watch.faults == []
        for before, after in zip(leaders, controller.get_version("counts", 1).leaders, strict=True):
            assert before is not None
            assert after is not None
            assert after.worker == "node-2-w0"
            assert after.term >= before.term + (before.worker != after.worker)
        expected = stream.settle()
        thin = stack.enter_context(ThinClient(settings.router_url, "counts"))
        for client in (thin, davinci):
            eventually(holds(client, expected, "push 1"), lambda: controller.get_version("counts", 1))


def test_a_store_deleted_and_made_anew_has_nothing_of_the_old_one(cluster: Cluster) -> None:
    settings = cluster.settings
    workers = worker_pids(cluster, "node-1")
    for life in (1, 2):
        controller = create(settings)
        push(settings, "counts", sql=pushed(life))
        with Producer(settings, "counts") as producer, ThinClient(settings.router_url, "counts") as thin:
            producer.put(life, {"source": "stream", "n": life}).result(60)
            eventually(holds(thin, {life: life}, f"push {life}"), lambda: controller.list_versions("counts"))  # noqa: B023
        controller.delete_store("counts")
    log = open_log(settings.log_url, SystemClock())
    eventually(lambda: not [topic for topic in log.topics() if topic.startswith("counts")], log.topics)
    log.close()
    assert worker_pids(cluster, "node-1") == workers, "no worker died of it"


def worker_pids(cluster: Cluster, node: str) -> list[int]:
    """The workers that run now under a node's supervisor."""
    parent = cluster.supervisor.pids()[node]
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return [int(child) for child in listed.split()]
