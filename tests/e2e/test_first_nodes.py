"""Swaps by command: a version that waits is read by its number, one for some nodes is on those alone, and both are rolled forward."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from machine import Machine
from waiting import eventually

from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.remote import ControllerClient
from venice.local_nodes import node_settings
from venice.supervisor import Cluster


@pytest.mark.timeout(600)  # twenty seconds where nothing else runs
def test_swaps_by_command(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"workers": 1})
    second = Machine(node_settings(settings, 2)[1])

    def venice(*arguments: str) -> str:
        command = [sys.executable, "-m", "venice.cli", *arguments]
        done = subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.strip() if done.returncode == 0 else f"{done.returncode}: {done.stderr}"

    def pushed(edition: int, *options: str) -> str:
        return venice("push", "s", "--sql", f"SELECT i AS key, {edition} AS value FROM range(20) t(i)", *options)

    def get(*options: str) -> str:
        return venice("get", "s", "7", *options, "--json")

    with ExitStack() as stack:
        cluster = Cluster(settings)
        cluster.start()
        stack.callback(cluster.stop)
        second.start()
        stack.callback(second.kill)
        client = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
        eventually(lambda: len(client.nodes()) == 2, client.nodes, timeout_s=60)
        venice("store", "create", "s", "--key", "long", "--value", "long", "--partitions", "2", "--replication-factor", "2")

        # A first version may wait as well: nothing serves meanwhile, but it can be read.
        assert "'venice version roll-forward s' serves it" in pushed(1, "--deferred-swap")
        assert get().startswith("7: "), "no version serves"
        assert get("--version", "1") == "1"
        assert venice("version", "roll-forward", "s") == "store s serves version 1"
        assert get() == "1"

        assert "is loaded" in pushed(2, "--target-nodes", "node-2")
        assert (get(), get("--version", "2")) == ("1", "2")
        listed = json.loads(venice("version", "list", "s", "--json"))
        assert (listed[1]["status"], listed[1]["version"]["rollout"]) == ("PUSHED", {"nodes": ["node-2"], "after_s": None})
        assert "on node-2 until it is rolled forward" in venice("version", "list", "s")
        assert sum(name.startswith("s_v2.") for name in second.incarnations()) == 2
        assert not list(settings.replicas.glob("*/s_v2.*")), "not a file of it is on the first node"
        assert json.loads(venice("version", "roll-forward", "s", "--json"))["current"] == 2
        assert get() == "2"
        assert client.get_version("s", 2).ready_replicas == 4, "ready everywhere when it began to serve"

        assert "goes to the others in 0 s" in pushed(3, "--target-nodes", "50%", "--target-wait", "0")
        eventually(lambda: client.get_store("s").current == 3, lambda: client.list_versions("s"), timeout_s=60)
        assert get() == "3"
        assert pushed(4, "--target-nodes", "nobody").startswith("4: "), "there is no such node"
        assert pushed(4, "--target-wait", "5").startswith("3: ")
        assert get("--version", "9").startswith("7: ")
