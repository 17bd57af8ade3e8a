"""SIGKILL of anything at any moment under a load of writes: nothing acknowledged is lost, nothing is applied out of order."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest
from chaos_load import KEYS, PRODUCERS, PUSHED, STORE, Ledger, Load, State
from kafka_broker import run_broker

from venice import record as log_record
from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import Unavailable
from venice.ingest import FoldCounts, ReplicaFold, accept
from venice.log import Entry, Log
from venice.log.open import open_log
from venice.model import HybridConfig, StoreConfig
from venice.naming import replica_name, version_topic
from venice.push.batch import push
from venice.record import Kind
from venice.storage import Position
from venice.storage.snapshot import open_replica
from venice.supervisor import Cluster

KILLS = 100
KILLS_BETWEEN_LOOKS = 20
PAUSE_S_MAX = 0.8
SUSPENDED_S_MAX = 8.0
"""Longer than a silent leader keeps its partitions, so that some are replaced and wake up later."""
PARTITIONS = 4
TRIMMING = {"checkpoint_records": 1000, "checkpoint_s": 2.0, "topic_margin_s": 0.0}
"""Topics are trimmed so often that who was away comes back to a gap."""
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Count", "fields": [{"name": "source", "type": "string"}, {"name": "n", "type": "long"}]}
)
VICTIMS = {"worker": 8, "both workers": 2, "node": 1, "suspended worker": 2, "controller": 4, "router": 1, "producer": 6}


class Client(Protocol):
    def batch_get(self, keys: Iterable[Any]) -> Mapping[Any, Any]: ...


class Broker:
    """A Kafka broker that is killed and comes back. Without one, of the embedded log, there is nothing to kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._restart: threading.Thread | None = None
        self.failure = ""

    def start(self) -> str:
        started = run_broker("start", self._folder)
        self.failure = started.stderr.strip()
        return started.stdout.strip()

    def kill(self) -> bool:
        """SIGKILL it and have it start again; False while that goes on."""
        if self._restart is not None and self._restart.is_alive():
            return False
        os.kill(int((self._folder / "broker.pid").read_text()), signal.SIGKILL)
        self._restart = threading.Thread(target=self.start, name="broker")
        self._restart.start()
        return True

    def wait(self) -> None:
        if self._restart is not None:
            self._restart.join()
        assert not self.failure, self.failure

    def stop(self) -> None:
        if self._restart is not None:
            self._restart.join()
        run_broker("stop", self._folder)


class Observer:
    """Reads all keys over and over in a thread, and keeps each change of what a key shows."""

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.floor = 0
        """Which of the looks' floors it is held to."""
        self.seen: list[tuple[int, int, State]] = []
        """(floor, key, state), in the order they were read."""
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def sequences(self) -> dict[int, list[State]]:
        found: dict[int, list[State]] = {}
        for _, key, state in self.seen:
            found.setdefault(key, []).append(state)
        return found

    def _run(self) -> None:
        last: dict[int, tuple[int, State]] = {}
        while not self._stop.wait(0.05):
            floor = self.floor
            try:
                states = states_of(self.client)
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
                self.errors.append(f"{self.name}: {error!r}")
                return
            for key, state in states.items():
                if last.get(key) != (floor, state):
                    last[key] = (floor, state)
                    self.seen.append((floor, key, state))


def states_of(client: Client) -> dict[int, State]:
    rows = client.batch_get(range(KEYS))
    for key, row in rows.items():
        assert row["source"] == ("push" if row["n"] == PUSHED else f"producer {key % PRODUCERS}"), (key, row)
    return {key: rows[key]["n"] if key in rows else None for key in range(KEYS)}


class World:
    """A cluster of two nodes that both hold everything, its load, and who looks at it."""

    def __init__(self, cluster: Cluster, load: Load, broker: Broker | None, rng: random.Random) -> None:
        self.cluster = cluster
        self.load = load
        self.broker = broker
        self.rng = rng
        self.kills: Counter[str] = Counter()
        self.floors: list[dict[int, int]] = [dict.fromkeys(range(KEYS), PUSHED)]
        self._timers: list[threading.Timer] = []

    def strike(self) -> int:
        """Kill or suspend something that runs; how many were killed."""
        weights = {**VICTIMS, "broker": 14} if self.broker is not None else VICTIMS
        victim = self.rng.choices(list(weights), list(weights.values()))[0]
        killed = self._strike(victim)
        self.kills[victim] += killed
        return killed

    def _strike(self, victim: str) -> int:
        if victim == "producer":
            return self.load.kill(self.rng.randrange(PRODUCERS))
        if victim == "broker":
            return self.broker is not None and self.broker.kill()
        if victim == "worker":
            return self._signal(self._some(self.workers()), signal.SIGKILL)
        if victim == "both workers":
            return self._signal(self.workers(), signal.SIGKILL)
        if victim == "suspended worker":
            self._suspend(self._some(self.workers()))
            return 0
        pids = self.cluster.supervisor.pids()
        found = [pid for name, pid in pids.items() if name.startswith(victim)]
        return self._signal(self._some(found), signal.SIGKILL)

    def workers(self) -> list[int]:
        """Those that run now, under whichever node."""
        nodes = [pid for name, pid in self.cluster.supervisor.pids().items() if name.startswith("node")]
        return [child for node in nodes for child in children(node)]

    def wake(self) -> None:
        """End all suspensions, and have the broker back."""
        for timer in self._timers:
            timer.join()
        if self.broker is not None:
            self.broker.wait()

    def _some(self, pids: list[int]) -> list[int]:
        return self.rng.sample(pids, min(1, len(pids)))

    def _suspend(self, pids: list[int]) -> None:
        if self._signal(pids, signal.SIGSTOP):
            timer = threading.Timer(self.rng.uniform(0.5, SUSPENDED_S_MAX), self._signal, (pids, signal.SIGCONT))
            timer.start()
            self._timers.append(timer)

    @staticmethod
    def _signal(pids: list[int], number: signal.Signals) -> int:
        sent = 0
        for pid in pids:
            try:
                os.kill(pid, number)
                sent += 1
            except ProcessLookupError:
                pass
        return sent


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in listed.split()]


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker | None]:
    if request.param == "sqlite":
        yield None
        return
    yield (made := Broker(tmp_path / "kafka"))
    made.stop()


@pytest.mark.timeout(1500)  # three minutes where nothing else runs
def test_100_kills_under_load_lose_no_acknowledged_write(
    broker: Broker | None, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    seed = int(os.environ.get("VENICE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")  # shown when the test fails
    log_url = broker.start() if broker is not None else ""
    settings = make_settings(workers=2).model_copy(update={"workers": 1, "log": log_url, **TRIMMING})
    if broker is not None and broker.failure:
        pytest.skip(f"no Kafka broker: {broker.failure}")
    with ExitStack() as stack:
        cluster = Cluster(settings, nodes=2)
        cluster.start()
        stack.callback(cluster.stop)
        create(settings)
        load = Load(settings, tmp_path)
        stack.callback(load.close)
        world = World(cluster, load, broker, random.Random(seed))
        stack.callback(world.wake)
        clients: dict[str, Client] = {
            "router": stack.enter_context(ThinClient(settings.router_url, STORE)),
            "worker 1": stack.enter_context(ThinClient(f"http://{settings.worker_host}:{settings.worker_port}", STORE)),
            "worker 2": stack.enter_context(ThinClient(f"http://{settings.worker_host}:{settings.worker_port + 1}", STORE)),
            "da vinci": stack.enter_context(DaVinciClient(settings, STORE)),
        }
        observers = [Observer(name, client) for name, client in clients.items()]
        for observer in observers:
            stack.callback(observer.stop)
        while sum(world.kills.values()) < KILLS:
            before = sum(world.kills.values())
            time.sleep(world.rng.uniform(0, PAUSE_S_MAX))
            if before // KILLS_BETWEEN_LOOKS < (before + world.strike()) // KILLS_BETWEEN_LOOKS:
                look(world, observers)
        finish(world, observers)
        print(dict(world.kills), {observer.name: len(observer.seen) for observer in observers}, sum(map(len, load.ledger.issued.values())))
        late = DaVinciClient(settings, STORE, folder=tmp_path / "late")
        assert states_of(late) == states_of(clients["da vinci"])
        late.close()
        judge(observers, world)
    compare(settings, tmp_path)


def create(settings: Settings) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    controller.create_store(
        STORE,
        key_schema='"long"',
        value_schema=VALUE_SCHEMA,
        config=StoreConfig(partition_count=PARTITIONS, replication_factor=2),
        hybrid=HybridConfig(rewind_s=3600, lag_records_max=10),
    )
    push(settings, STORE, sql=f"SELECT i AS key, 'push' AS source, {PUSHED}::BIGINT AS n FROM range({KEYS}) t(i)")


def look(world: World, observers: list[Observer]) -> None:
    """Whatever was acknowledged by now is read everywhere before long, while the load goes on."""
    world.wake()
    floors = dict(world.load.ledger.refresh().acknowledged)
    for observer in observers:
        until_fits(observer, world.load.ledger, floors)
    world.floors.append(floors)
    for observer in observers:
        observer.floor = len(world.floors) - 1


def until_fits(observer: Observer, ledger: Ledger, floors: dict[int, int], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    misfits: object = "nothing was read"
    while misfits:
        assert time.monotonic() < deadline, f"{observer.name}: {misfits}"
        try:
            states = states_of(observer.client)
        except Unavailable as error:
            misfits = error
        else:
            # Read first, then the journal: what shows was noted before it was made.
            misfits = ledger.refresh().misfits(states, floors)
        time.sleep(0.05)


def finish(world: World, observers: list[Observer]) -> None:
    """The load ends, and all see the same: for each key its last acknowledged write, or one made after it."""
    world.wake()
    assert world.load.finish() == [0] * PRODUCERS
    ledger = world.load.ledger.refresh()
    assert ledger.failures == []
    settings = world.cluster.settings
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    deadline = time.monotonic() + 120
    while (version := controller.get_version(STORE, 1)).lag_records or version.ready_partitions < PARTITIONS:
        assert time.monotonic() < deadline, version
        time.sleep(0.1)
    for observer in observers:
        until_fits(observer, ledger, ledger.acknowledged)
    deadline = time.monotonic() + 60
    while len({tuple(states_of(observer.client).values()) for observer in observers}) > 1:
        assert time.monotonic() < deadline, {observer.name: states_of(observer.client) for observer in observers}
        time.sleep(0.05)


def judge(observers: list[Observer], world: World) -> None:
    """No replica ever went back to an older write of a key; nobody ever saw one that was older than all had."""
    ledger = world.load.ledger
    for observer in observers:
        observer.stop()
        assert observer.errors == []
        # Through the router a read may come from either replica.
        if observer.name != "router":
            assert [said for key, states in observer.sequences().items() if (said := ledger.backwards(key, states))] == []
        wrong = [(key, state) for floor, key, state in observer.seen if not ledger.fits(key, state, world.floors[floor][key])]
        assert wrong == [], observer.name


def compare(settings: Settings, folder: Path) -> None:
    """Every copy of a partition, folded to the end of its topic, is the same row by row; and the topic's writes are in order."""
    log = open_log(settings.log_url, SystemClock())
    places = [
        settings.replicas / "node-1-w0",
        settings.replicas / "node-2-w0",
        settings.data / "davinci" / STORE / "replicas",
        folder / "late" / "replicas",
    ]
    for partition in range(PARTITIONS):
        entries = topic_of(log, partition)
        print(f"partition {partition}: offsets from {entries[0].offset} to {entries[-1].offset}")
        check_order(entries)
        images = []
        for place in places:
            storage = open_replica(place / replica_name(STORE, 1, partition))
            assert storage is not None, place
            ReplicaFold(storage).fold(entries)
            image = storage.image()
            images.append((image.position, list(image.values), list(image.metadata)))
            storage.close()
        assert all(image == images[0] for image in images[1:]), partition
    log.close()


def topic_of(log: Log, partition: int) -> list[Entry]:
    topic = version_topic(STORE, 1)
    end = log.end_offset(topic, partition)
    reader = log.reader({(topic, partition): log.start_offset(topic, partition)})
    entries: list[Entry] = []
    while reader.position(topic, partition) < end:
        entries += reader.poll(records_max=10_000, timeout_s=1.0)
    reader.close()
    return entries


def check_order(entries: list[Entry]) -> None:
    """What counts in a version topic is later, key by key, than what it replaces."""
    position, counts = Position(), FoldCounts()
    newest: dict[bytes, int] = {}
    for entry in entries:
        record = log_record.decode(entry.payload)
        after = accept(record, position, counts)
        if after is None:
            continue
        position = after
        if record.kind in (Kind.PUT, Kind.DELETE):
            assert record.timestamp_ms > newest.get(record.key, 0)
            newest[record.key] = record.timestamp_ms
