"""SIGKILL of any process of two nodes at any moment of a push: no wrong, partial or mixed read, and the push completes or fails cleanly."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from reading import KEY_SCHEMA, VALUE_SCHEMA, Reader, rows
from waiting import eventually

from venice.client.davinci import DaVinciClient
from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.remote import ControllerClient
from venice.model import StoreConfig, VersionStatus
from venice.push.batch import push
from venice.supervisor import Cluster

KILLS = {"sqlite": 30, "kafka": 20}
"""On each log; 50 in all."""
VICTIMS = ("push", "controller", "router", "worker", "worker", "node")


@pytest.mark.timeout(1500)  # two minutes where nothing else runs
def test_50_kills_of_two_nodes_during_pushes_serve_nothing_wrong(log_url: str, make_settings: Callable[..., Settings]) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    settings = make_settings(workers=2).model_copy(update={"workers": 1, "log": log_url})
    cluster = Cluster(settings, nodes=2)
    with ExitStack() as stack:
        cluster.start()
        stack.callback(cluster.stop)
        strike(cluster, seed, KILLS["kafka" if log_url else "sqlite"])


def strike(cluster: Cluster, seed: int, wanted: int) -> None:
    settings, rng = cluster.settings, random.Random(seed)
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    config = StoreConfig(partition_count=4, replication_factor=2)
    controller.create_store("rows", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
    push(settings, "rows", sql=rows(1))
    kills, edition = 0, 1
    with (
        Reader(lambda: ThinClient(settings.router_url, "rows"), seed=seed, tolerant=True) as thin,
        Reader(lambda: FastClient(settings.router_url, "rows"), seed=seed + 1, tolerant=True) as fast,
        Reader(lambda: DaVinciClient(settings, "rows"), seed=seed + 2) as davinci,
    ):
        while kills < wanted:
            edition += 1
            kills += push_under_fire(cluster, settings, edition, rng)
            assert thin.faults == fast.faults == davinci.faults == []
            await_serving(settings, edition)
    for reader in (thin, fast, davinci):
        assert reader.faults == []
        assert reader.editions == sorted(set(reader.editions)), "a reader went back"
        assert reader.gets > 0
    statuses = {info.version.number: info.version.status for info in controller.list_versions("rows")}
    assert all(status is VersionStatus.ONLINE for status in statuses.values()), statuses


def push_under_fire(cluster: Cluster, settings: Settings, edition: int, rng: random.Random) -> int:
    """Push one version while processes are killed, again under the same id until it is in. Returns the kills."""
    kills = 0
    command = [sys.executable, "-m", "venice.cli", "push", "rows", "--sql", rows(edition), "--push-id", f"edition-{edition}"]
    for _attempt in range(20):
        pushing = subprocess.Popen(command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(rng.randint(2, 4)):
            time.sleep(rng.uniform(0.05, 0.8))  # so that it happens at a random moment: nothing is waited for
            kills += kill_one(cluster, pushing, rng.choice(VICTIMS), rng)
        _, said = pushing.communicate(timeout=90)
        if pushing.returncode == 0:
            return kills
        assert "Traceback" not in said, said
        if pushing.returncode != -signal.SIGKILL:
            assert said.startswith("error:"), said
    raise AssertionError(f"edition {edition} was not pushed in 20 attempts: {said}")


def kill_one(cluster: Cluster, pushing: subprocess.Popen[str], victim: str, rng: random.Random) -> int:
    """SIGKILL the victim if it runs; how many were killed."""
    if victim == "push":
        if pushing.poll() is not None:
            return 0
        pushing.kill()
        return 1
    pids = cluster.supervisor.pids()
    nodes = [pid for name, pid in pids.items() if name.startswith("node")]
    if victim == "worker":
        found = [child for node in nodes for child in children(node)]
    else:
        found = nodes if victim == "node" else [pids[victim]] if victim in pids else []
    if not found:
        return 0
    try:
        os.kill(rng.choice(found), signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(child) for child in listed.split()]


def await_serving(settings: Settings, edition: int) -> None:
    with ThinClient(settings.router_url, "rows") as client:
        eventually(lambda: client.get(7)["edition"] == edition, lambda: f"edition {edition} does not serve", timeout_s=60)
