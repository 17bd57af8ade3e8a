"""Processes that are stopped and go on: what waits for them waits, what does not goes on, and nothing happens twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import waiting
from kafka_broker import run_broker, start_or_skip
from streaming import VALUE_SCHEMA, Client, create, eventually, pushed, suspend, worker_pids

from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.errors import Unavailable
from venice.log.open import open_log
from venice.naming import real_time_topic
from venice.push.batch import push
from venice.record import decode
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec
from venice.supervisor import Cluster

TOPIC = real_time_topic("counts")
SUSPENDED_S = 3.0
HOT = 50
"""Keys from 0 that are written."""
PARTITIONS = 4
HOLD = """
import apsw, sys
connection = apsw.Connection(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("holding", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def running(settings: Settings) -> Iterator[Cluster]:
    cluster = Cluster(settings)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def stop_all_threads(pid: int) -> None:
    waiting.suspend(pid, timeout_s=60.0)


@contextmanager
def suspended(pid: int, stop: Callable[[int], object] = stop_all_threads) -> Iterator[None]:
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@dataclass
class SuspendableLog:
    url: str
    suspended: Callable[[], AbstractContextManager[None]]
    """While this lasts, the real-time topic takes nothing."""


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SuspendableLog]:
    if request.param == "sqlite":
        # A file that every process writes to by itself: it stands still when one is stopped while it does.
        yield SuspendableLog(f"sqlite:{tmp_path / 'log'}", lambda: held(tmp_path / "log"))
        return
    yield SuspendableLog(start_or_skip(tmp_path / "kafka"), lambda: suspended(int((tmp_path / "kafka" / "broker.pid").read_text())))
    run_broker("stop", tmp_path / "kafka")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """A process is stopped in the middle of a transaction on the real-time topic."""
    (topic_file,) = folder.glob(f"{TOPIC}@*.db")
    command = [sys.executable, "-c", HOLD, str(topic_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        with suspended(holder.pid):
            yield
            holder.stdin.close()  # it ends as soon as it goes on


def test_while_the_log_is_suspended_no_write_is_acknowledged_and_then_each_is_once_and_in_order(
    log: SuspendableLog, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings().model_copy(update={"log": log.url})
    with running(settings):
        controller = create(settings)
        push(settings, "counts", sql=pushed(1))
        done: list[int] = []
        with Producer(settings, "counts") as producer, ThinClient(settings.router_url, "counts") as thin:
            producer.put(0, row(0)).result(30)
            with log.suspended():
                futures = [producer.put(n % HOT, row(n)) for n in range(1, 1001)]
                for n, future in enumerate(futures, 1):
                    future.add_done_callback(partial(note, done, n))
                time.sleep(SUSPENDED_S)  # nothing may happen meanwhile, so there is nothing to wait for
                assert not any(future.done() for future in futures)
            accepted = [future.result(60) for future in futures]
            # A future wakes who waits for its result before it calls those who asked to be called.
            eventually(lambda: len(done) >= len(futures), lambda: len(done))
            assert sorted(done) == list(range(1, 1001)), "each is done once"
            assert [n for n in done if n % HOT == 7] == list(range(7, 1001, HOT))
            in_topic = numbers_of(log.url)
            assert in_topic == {p: [n for n in range(1001) if partition(n % HOT) == p] for p in range(PARTITIONS)}
            assert all(in_topic[at.partition][at.offset] == n for n, at in enumerate(accepted, 1))
            eventually(lambda: shown(thin) == {n % HOT: n for n in range(1001 - HOT, 1001)}, lambda: controller.get_version("counts", 1))


def test_a_write_that_a_suspended_log_did_not_take_in_time_fails_and_overrules_nothing(
    log: SuspendableLog, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings().model_copy(update={"log": log.url})
    with running(settings):
        controller = create(settings)
        push(settings, "counts", sql=pushed(1))
        with ThinClient(settings.router_url, "counts") as thin, Producer(settings, "counts", delivery_s=2.0) as producer:
            producer.put(0, row(0)).result(30)
            with log.suspended():
                for late in [producer.put(n, row(n)) for n in range(HOT)]:
                    with pytest.raises(Unavailable, match="may be in the log all the same"):
                        late.result(60)
            again = [producer.put(n, row(HOT + n)) for n in range(HOT)]
            for future in again:
                with suppress(Unavailable):  # the log has only just woken
                    future.result(60)
            for n in range(HOT):
                producer.put(n, row(2 * HOT + n)).result(60)
            eventually(lambda: shown(thin) == {n: 2 * HOT + n for n in range(HOT)}, lambda: controller.get_version("counts", 1))


def test_a_suspended_worker_holds_up_its_own_partitions_alone(log_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"log": log_url})
    with running(settings) as cluster:
        controller = create(settings)
        push(settings, "counts", sql=pushed(1))
        leaders = [leader.worker for leader in controller.get_version("counts", 1).leaders if leader is not None]
        assert set(leaders) == {"node-1-w0", "node-1-w1"}
        stalled = {key for key in range(HOT) if leaders[partition(key)] == "node-1-w0"}
        (victim,) = (
            pid for pid in worker_pids(cluster, "node-1") if Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0000\0--supervised\0")
        )
        with (
            Producer(settings, "counts") as producer,
            DaVinciClient(settings, "counts") as davinci,
            ThinClient(settings.router_url, "counts") as thin,
        ):
            write_all(producer, 1)
            eventually(lambda: set(shown(davinci).values()) == {1}, lambda: shown(davinci))
            with suspended(victim, lambda pid: suspend(pid, settings.log_url)):
                for n in range(2, 20):
                    write_all(producer, n)
                    for key in set(range(HOT)) - stalled:
                        eventually(lambda: thin.get(key)["n"] == n, lambda: thin.get(key))  # noqa: B023 - waited for right here
                eventually(lambda: all(n == 19 for key, n in shown(davinci).items() if key not in stalled), lambda: shown(davinci))
                assert {n for key, n in shown(davinci).items() if key in stalled} == {1}
            for client in (thin, davinci):
                eventually(lambda: set(shown(client).values()) == {19}, lambda: shown(client))  # noqa: B023 - waited for right here


def note(done: list[int], n: int, future: object) -> None:
    done.append(n)


def write_all(producer: Producer, n: int) -> None:
    for future in [producer.put(key, row(n)) for key in range(HOT)]:
        future.result(60)


def row(n: int) -> dict[str, object]:
    return {"source": "stream", "n": n}


def shown(client: Client) -> dict[int, int]:
    return {key: found["n"] for key, found in client.batch_get(range(HOT)).items()}


def partition(key: int) -> int:
    return partition_of(key_codec('"long"').encode(key), PARTITIONS)


def numbers_of(url: str) -> dict[int, list[int]]:
    """Numbers of the puts in the real-time topic, by partition, in their order there."""
    codec = Codec(VALUE_SCHEMA)
    log = open_log(url, SystemClock())
    found: dict[int, list[int]] = {}
    for number in range(log.partitions(TOPIC)):
        reader = log.reader({(TOPIC, number): 0})
        records = []
        while reader.position(TOPIC, number) < log.end_offset(TOPIC, number):
            records += [decode(entry.payload) for entry in reader.poll(timeout_s=1.0)]
        found[number] = [codec.decode(record.value)["n"] for record in records]
        reader.close()
    log.close()
    return found
