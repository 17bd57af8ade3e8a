"""A store that is written while it is read: nothing acknowledged is lost, by swaps, deaths and suspensions of who leads."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from streaming import HYBRID, KEYS, STREAMED, Watch, create, eventually, holds, pushed, shows, streaming, suspend, worker_pids

from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.log.open import open_log
from venice.push.batch import push
from venice.sql import query
from venice.supervisor import Cluster


@pytest.fixture
def cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """A cluster of one node with two workers."""
    running = Cluster(make_settings(workers=2).model_copy(update={"log": log_url}))
    running.start()
    yield running
    running.stop()


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
                lambda: all(shows(client.batch_get(floor).get(key), n) for key, n in floor.items()),  # noqa: B023 - waited for right here
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
        by_sql = {row.pop("key"): row for row in query(settings, "FROM counts").to_pylist()}
        assert by_sql == thin.batch_get(range(KEYS)), "a query reads what is served"


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
            time.sleep(rng.uniform(0.2, 1.5))  # so that it happens at a random moment: nothing is waited for
            for pid in worker_pids(cluster, "node-1")[: rng.randint(1, 2)]:
                os.kill(pid, signal.SIGKILL)
            if rng.random() < 0.3 and "controller" in cluster.supervisor.pids():
                os.kill(cluster.supervisor.pids()["controller"], signal.SIGKILL)
        expected = stream.settle()
        for client in (thin, davinci):
            eventually(holds(client, expected, "push 1"), lambda: controller.get_version("counts", 1))
    leaders = controller.get_version("counts", 1).leaders
    assert {leader.term if leader is not None else 0 for leader in leaders} == {1}, "a new life of the same worker needs no new term"


def test_a_suspended_leader_is_replaced_and_changes_nothing_when_it_wakes(log_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"workers": 1, "log": log_url})
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
        suspend(suspended, settings.log_url)
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
            eventually(holds(thin, {life: life}, f"push {life}"), lambda: controller.list_versions("counts"))  # noqa: B023 - waited for right here
        controller.delete_store("counts")
    log = open_log(settings.log_url, SystemClock())
    eventually(lambda: not [topic for topic in log.topics() if topic.startswith("counts")], log.topics)
    log.close()
    assert worker_pids(cluster, "node-1") == workers, "no worker died of it"
