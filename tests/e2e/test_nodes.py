"""Nodes: what `venice up --nodes` remembers and says, and what the death of one costs readers and writers: nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from machine import Machine, replica_files
from reading import KEY_SCHEMA, VALUE_SCHEMA, Reader, rows
from streaming import Watch, create, eventually, holds, pushed, shows, streaming

from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.answers import NodeChange
from venice.control.remote import ControllerClient
from venice.local_nodes import node_settings
from venice.model import StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster


def venice(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "venice.cli", *arguments]
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@contextmanager
def up(settings: Settings, *arguments: str) -> Iterator[list[str]]:
    """`venice up`, until it has said all that it says; stopped at the end."""
    command = [sys.executable, "-m", "venice.cli", "up", *arguments]
    with subprocess.Popen(command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith("Ctrl-C"):
                break
        try:
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


def test_nodes_keep_their_identity_and_another_number_of_them_is_told(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"workers": 1})
    second = node_settings(settings, 2)[1]
    create_rows = ("store", "create", "rows", "--key", KEY_SCHEMA, "--value", VALUE_SCHEMA, "--partitions", "6")
    with up(settings, "--nodes", "2") as said:
        assert any(line.startswith("2 nodes, 1 before: missing copies are made") for line in said)
        done = venice(settings, *create_rows, "--replication-factor", "3")
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert "wants each partition on 3 nodes, and there are 2" in done.stderr
        push(settings, "rows", sql=rows(1, 100))
        client = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
        eventually(lambda: client.get_version("rows", 1).ready_replicas == 12, lambda: client.get_version("rows", 1))
        found = {one["name"]: one["found"] for one in json.loads(venice(settings, "doctor", "--json").stdout) if one["state"] == "wrong"}
        assert found["store rows"] == "version 1 has 12 of 18 replicas ready"
        assert venice(settings, "store", "update", "rows", "--replication-factor", "1").stderr == ""
        push(settings, "rows", sql=rows(2, 100))
        listed = json.loads(venice(settings, "node", "list", "--json").stdout)
        assert [(node["node"]["id"], node["state"], node["assigned"]) for node in listed] == [("node-1", "live", 9), ("node-2", "live", 9)]
        before = Machine(settings).incarnations(), Machine(second).incarnations()
        assert all(before)
    with up(settings) as said:
        assert [line.split()[1] for line in said if "-w0" in line] in (["node-1-w0", "node-2-w0"], ["node-2-w0", "node-1-w0"])
        eventually(lambda: client.get_version("rows", 2).ready_replicas == 6, lambda: client.get_version("rows", 2))
        assert (Machine(settings).incarnations(), Machine(second).incarnations()) == before
    with up(settings, "--nodes", "1") as said, ThinClient(settings.router_url, "rows") as thin:
        assert any(line.startswith("node-2 is left out: its replicas are made on the others") for line in said)
        eventually(lambda: len(thin.batch_get(range(100))) == 100, lambda: "not all rows are back", timeout_s=60)
        assert venice(settings, "node", "drain", "node-1").returncode != 0


class World:
    """A controller, a router and a first node under a supervisor, two more nodes beside; two stores on two nodes each."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self.cluster = Cluster(settings)
        self.cluster.start()
        stack.callback(self.cluster.stop)
        self.machines = [Machine(node) for node in node_settings(settings, 3)[1:]]
        for machine in self.machines:
            machine.start()
            stack.callback(machine.kill)
        self.controller = create(settings, replicas=2)
        config = StoreConfig(partition_count=6, replication_factor=2)
        self.controller.create_store("rows", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config)
        eventually(lambda: len(self.controller.nodes()) == 3, self.controller.nodes)
        push(settings, "counts", sql=pushed(1))
        push(settings, "rows", sql=rows(1))
        self.await_copies()

    def ready(self) -> list[int]:
        """Replicas of what serves, of each store."""
        serving = {store: self.controller.get_store(store).current for store in ("counts", "rows")}
        return [self.controller.get_version(store, number).ready_replicas for store, number in serving.items()]

    def await_copies(self) -> None:
        eventually(lambda: self.ready() == [8, 12], self.ready)

    def assigned(self, machine: Machine) -> int:
        return next(info.assigned for info in self.controller.nodes() if info.node.id == machine.settings.node)

    def leaders(self) -> set[str]:
        return {leader.worker for leader in self.controller.get_version("counts", 1).leaders if leader is not None}


@pytest.mark.timeout(600)  # half a minute where nothing else runs
def test_the_death_of_a_node_costs_no_read_and_no_write(log_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=3).model_copy(update={"workers": 1, "log": log_url, "rebalance_delay_s": 300.0})
    with ExitStack() as stack:
        world = World(settings, stack)
        gone, back = sorted(world.machines, key=lambda machine: machine.worker not in world.leaders())
        assert gone.worker in world.leaders(), "one of three leads something"
        readers = [
            stack.enter_context(Reader(lambda: ThinClient(settings.router_url, "rows"), seed=1)),
            stack.enter_context(Reader(lambda: FastClient(settings.router_url, "rows"), seed=2)),
        ]
        stream = stack.enter_context(streaming(settings, 3))
        eventually(lambda: len(stream.acknowledged) == 100, lambda: stream.errors)
        thin = stack.enter_context(ThinClient(settings.router_url, "counts"))

        gone.kill()
        eventually(lambda: gone.worker not in world.leaders(), world.leaders)
        world.controller.change_node(gone.settings.node, NodeChange.REMOVE)
        world.await_copies()
        floor = dict(stream.acknowledged)
        eventually(lambda: all(shows(thin.batch_get(floor).get(key), n) for key, n in floor.items()), lambda: floor)
        with Watch(thin, floor) as watch:
            eventually(lambda: watch.went_on(100), lambda: watch.reads)
        assert watch.faults == []

        gone.start()
        # It was given up: what it has is somebody else's now.
        eventually(lambda: replica_files(gone) == [], lambda: replica_files(gone))

        kept = back.incarnations()
        assert kept
        back.kill()
        assert push(settings, "rows", sql=rows(2)).version == 2, "one copy of each partition is elsewhere"
        back.start()
        world.await_copies()
        assert kept.items() <= back.incarnations().items(), "back within the delay, it goes on from what it has"
        eventually(lambda: all(reader.editions == [1, 2] or bool(reader.faults) for reader in readers), lambda: readers)

        world.controller.change_node(back.settings.node, NodeChange.DRAIN)
        eventually(lambda: world.assigned(back) == 0, lambda: world.controller.nodes())
        assert back.worker not in world.leaders()
        back.kill()

        expected = stream.settle()
        eventually(holds(thin, expected, "push 1"), lambda: world.controller.get_version("counts", 1))
        assert world.ready() == [8, 12]
        for reader in readers:
            assert (reader.faults, reader.unavailable) == ([], 0)
            assert reader.gets > 0
