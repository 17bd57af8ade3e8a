"""SIGKILL of anything at any moment under a load of writes and pushes: nothing acknowledged is lost, nothing applied out of order."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import waiting
from chaos_load import KEYS, PRODUCERS, PUSHED, STORE, Load, State
from chaos_observer import Observer, states_of
from chaos_victims import Broker, Victims

from venice import record as log_record
from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import Unavailable
from venice.ingest import FoldCounts, ReplicaFold, accept
from venice.local_nodes import node_settings
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
PUSHED_AFTER = (10, 50)
"""How many were killed when a push begins; the next ones are killed while it goes on."""
PUSH_S_MAX = 300.0
PARTITIONS = 4
ROWS = f"SELECT i AS key, 'push' AS source, {PUSHED}::BIGINT AS n FROM range({KEYS}) t(i)"
TRIMMING = {"checkpoint_records": 1000, "checkpoint_s": 2.0, "topic_margin_s": 0.0}
"""Topics are trimmed so often that who was away comes back to a gap."""
VALUE_SCHEMA = json.dumps(
    {"type": "record", "name": "Count", "fields": [{"name": "source", "type": "string"}, {"name": "n", "type": "long"}]}
)

eventually = partial(waiting.eventually, timeout_s=120)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker | None]:
    if request.param == "sqlite":
        yield None
        return
    yield (made := Broker(tmp_path / "kafka"))
    made.stop()


@pytest.mark.timeout(1500)  # three minutes where nothing else runs
def test_100_kills_under_load_and_pushes_lose_no_acknowledged_write(
    broker: Broker | None, make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    seed = int(os.environ.get("VENICE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")  # shown when the test fails
    log_url = broker.start() if broker is not None else ""
    settings = make_settings(workers=2).model_copy(update={"workers": 1, "log": log_url, **TRIMMING})
    if broker is not None and broker.failure:
        pytest.skip(f"no Kafka broker: {broker.failure}")  # as `start_or_skip` does; in CI that is a failure
    with ExitStack() as stack:
        cluster = Cluster(settings, nodes=2)
        cluster.start()
        stack.callback(cluster.stop)
        create(settings)
        load = Load(settings, tmp_path)
        stack.callback(load.close)
        victims = Victims(cluster, load, broker, random.Random(seed))
        stack.callback(victims.wake)
        clients: dict[str, ThinClient | DaVinciClient] = {
            "router": stack.enter_context(ThinClient(settings.router_url, STORE)),
            "worker 1": stack.enter_context(ThinClient(f"http://{settings.worker_host}:{settings.worker_port}", STORE)),
            "worker 2": stack.enter_context(ThinClient(f"http://{settings.worker_host}:{settings.worker_port + 1}", STORE)),
            "da vinci": stack.enter_context(DaVinciClient(settings, STORE)),
        }
        observers = [Observer(name, client) for name, client in clients.items()]
        for observer in observers:
            stack.callback(observer.stop)
        version = strike(victims, observers, load, settings)
        finish(settings, version, load, observers)
        print(
            dict(victims.killed), {observer.name: len(observer.seen) for observer in observers}, sum(map(len, load.ledger.issued.values()))
        )
        late = DaVinciClient(settings, STORE, folder=tmp_path / "late")
        assert states_of(late) == states_of(clients["da vinci"])
        late.close()
        for observer in observers:
            observer.stop()
            # Through the router a read may come from either replica.
            assert observer.wrong(load.ledger, one_replica=observer.name != "router") == [], observer.name
    compare(settings, tmp_path, version)


def create(settings: Settings) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    controller.create_store(
        STORE,
        key_schema='"long"',
        value_schema=VALUE_SCHEMA,
        config=StoreConfig(partition_count=PARTITIONS, replication_factor=2),
        hybrid=HybridConfig(rewind_s=3600, lag_records_max=10),
    )
    push(settings, STORE, sql=ROWS)


def strike(victims: Victims, observers: list[Observer], load: Load, settings: Settings) -> int:
    """Kill, push underneath, and look in between; the version that serves at the end."""
    with ThreadPoolExecutor(1) as pushing:
        pushes: list[Future[int]] = []
        while (before := victims.killed.total()) < KILLS:
            victims.strike()
            if before // KILLS_BETWEEN_LOOKS < victims.killed.total() // KILLS_BETWEEN_LOOKS:
                look(victims, observers, load)
            if len(pushes) < len(PUSHED_AFTER) and victims.killed.total() >= PUSHED_AFTER[len(pushes)]:
                pushes.append(pushing.submit(push_until_it_serves, settings, f"push {len(pushes)}"))
        victims.wake()
        return [each.result() for each in pushes][-1]


def push_until_it_serves(settings: Settings, push_id: str) -> int:
    """Push as an operator would while everything dies: again with the same id. The version."""
    deadline = time.monotonic() + PUSH_S_MAX
    while True:
        try:
            version = push(settings, STORE, sql=ROWS, push_id=push_id).version
        except Unavailable as error:
            print(f"{push_id} is repeated: {error}")
            assert time.monotonic() < deadline, push_id
        else:
            assert version is not None
            return version


def look(victims: Victims, observers: list[Observer], load: Load) -> None:
    """Whatever was acknowledged by now is read everywhere before long, while the load goes on."""
    victims.wake()
    floor = dict(load.ledger.refresh().acknowledged)
    for observer in observers:
        observer.hold(until_fits(observer, load, floor), floor)


def until_fits(observer: Observer, load: Load, floor: dict[int, int]) -> int:
    """Wait until it reads what was acknowledged, or something later; the version it read that from."""
    version = 0
    misfits: dict[int, tuple[State, int]] = {}

    def fits() -> bool:
        nonlocal version, misfits
        version, states = observer.read()
        # Read first, then the journal: what shows was noted before it was made.
        misfits = load.ledger.refresh().misfits(states, floor)
        return not misfits

    eventually(fits, lambda: f"{observer.name}, version {version}: {misfits}")
    return version


def finish(settings: Settings, version: int, load: Load, observers: list[Observer]) -> None:
    """The load ends, and all see the same: for each key its last acknowledged write, or one made after it."""
    assert load.finish() == [0] * PRODUCERS
    ledger = load.ledger.refresh()
    assert ledger.failures == []
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)

    def has_all() -> bool:
        shown = controller.get_version(STORE, version)
        return not shown.lag_records and shown.ready_partitions == PARTITIONS

    eventually(has_all, lambda: controller.get_version(STORE, version))
    for observer in observers:
        eventually(partial(observer.reads, version), partial(str, observer.name))
        until_fits(observer, load, ledger.acknowledged)
    eventually(
        lambda: len({tuple(observer.read()[1].values()) for observer in observers}) == 1,
        lambda: {observer.name: observer.read() for observer in observers},
    )


def compare(settings: Settings, folder: Path, version: int) -> None:
    """Every copy of a partition, folded to the end of its topic, is the same row by row; and the topic's writes are in order."""
    log = open_log(settings.log_url, SystemClock())
    places = [
        *[node.replicas / f"{node.node}-w0" for node in node_settings(settings, 2)],
        settings.data / "davinci" / STORE / "replicas",
        folder / "late" / "replicas",
    ]
    for partition in range(PARTITIONS):
        entries = topic_of(log, version, partition)
        print(f"partition {partition}: offsets from {entries[0].offset} to {entries[-1].offset}")
        check_order(entries)
        images = []
        for place in places:
            storage = open_replica(place / replica_name(STORE, version, partition))
            assert storage is not None, place
            ReplicaFold(storage).fold(entries)
            image = storage.image()
            images.append((image.position, list(image.values), list(image.metadata)))
            storage.close()
        assert all(image == images[0] for image in images[1:]), partition
    log.close()


def topic_of(log: Log, version: int, partition: int) -> list[Entry]:
    topic = version_topic(STORE, version)
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
