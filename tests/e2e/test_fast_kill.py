"""Two nodes hold everything twice: SIGKILL of a worker, and of the router, under load costs a fast client no read."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from functools import partial

import pytest
from reading import KEY_SCHEMA, VALUE_SCHEMA, Reader, rows
from test_kill import children
from waiting import eventually

from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.model import StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster

KILLS = 6


@pytest.mark.timeout(600)  # half a minute where nothing else runs
def test_workers_killed_in_turn_cost_no_read(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(2)
    settings = settings.model_copy(update={"workers": 1})  # one each, on the two ports
    cluster = Cluster(settings, nodes=2)
    cluster.start()
    try:
        controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
        config = StoreConfig(partition_count=4, replication_factor=2)
        controller.create_store("rows", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
        push(settings, "rows", sql=rows(1))
        await_all_replicas(settings)
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")  # shown when the test fails
        with Reader(lambda: FastClient(settings.router_url, "rows"), seed=seed) as reader:
            for kill in range(KILLS):
                await_reads(reader)
                node = cluster.supervisor.pids()[f"node-{kill % 2 + 1}"]
                victims = [*children(node), *([cluster.supervisor.pids()["router"]] if kill % 3 == 0 else [])]
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                await_reads(reader)
                await_all_replicas(settings)
                assert reader.faults == []
            push(settings, "rows", sql=rows(2))
            eventually(lambda: reader.editions == [1, 2] or bool(reader.faults), lambda: reader.editions, timeout_s=60)
        assert (reader.faults, reader.unavailable) == ([], 0)
        assert reader.editions == [1, 2]
    finally:
        cluster.stop()


def await_all_replicas(settings: Settings) -> None:
    """Until each worker answers for every key by itself, so that the other one may die."""
    for port in (settings.worker_port, settings.worker_port + 1):
        with ThinClient(f"http://127.0.0.1:{port}", "rows") as client:
            eventually(partial(holds_all, client), lambda: "a worker does not hold all", timeout_s=60)


def holds_all(client: ThinClient) -> bool:
    return len(client.batch_get(range(100))) == 100


def await_reads(reader: Reader) -> None:
    """Until there were 20 more."""
    before = reader.gets
    eventually(lambda: reader.gets >= before + 20 or bool(reader.faults), lambda: reader.gets, timeout_s=60)
