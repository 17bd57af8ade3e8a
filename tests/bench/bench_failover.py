"""One of two nodes killed under load: which reads fail, and which are slow, and when.

    python tests/bench/bench_failover.py [--rounds 3] [--rate 200] [--rows 100000]

Both nodes hold everything. A thin and a fast client read at fixed times, so many a second each, while node 2 is killed whole (SIGKILL of
the supervisor and its worker); a read counts from when it was due. After each round the node comes back. Printed are the reads of all
rounds by when they were due, in seconds after the kill.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_get import free_port
from open_loop import OpenLoop, Read, between, p50_ms, p99_ms

from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment, load
from venice.control.remote import ControllerClient
from venice.local_nodes import node_settings
from venice.model import StoreConfig
from venice.processes import worker_url
from venice.push.batch import push
from venice.supervisor import Cluster, healthy

WINDOWS = ((-2.0, 0.0), (0.0, 0.1), (0.1, 1.0), (1.0, 4.0))
STORE = "bench"


class Node:
    """`venice run node` that can be killed with all its processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "venice.cli", "run", "node"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, env=environment(self._settings), stdin=quiet, stdout=quiet, stderr=quiet)
        wait_until(lambda: healthy(f"{worker_url(self._settings, 0)}/health"))

    def kill(self) -> None:
        if self._process is None:
            return
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True, check=False).stdout
        os.kill(self._process.pid, signal.SIGSTOP)
        for pid in (*map(int, listed.split()), self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.05)  # other processes come up: nothing tells of it but their answers


def one_round(node: Node, settings: Settings, rows: int, rate: float) -> dict[str, list[Read]]:
    """Reads by client, their times counted from the kill."""
    with ThinClient(settings.router_url, STORE) as thin, FastClient(settings.router_url, STORE) as fast:
        for client in (thin, fast):
            client.batch_get(range(1000))
        loops = {"thin": OpenLoop(thin, rows, rate), "fast": OpenLoop(fast, rows, rate)}
        with ExitStack() as stack:
            for loop in loops.values():
                stack.enter_context(loop)
            time.sleep(-WINDOWS[0][0] + 0.5)  # the time before, which is measured
            killed = time.perf_counter()
            node.kill()
            time.sleep(WINDOWS[-1][1])  # the time after
    return {name: [read._replace(due_s=read.due_s - killed) for read in loop.reads] for name, loop in loops.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--rows", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = load(
            data=Path(folder) / "data",
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
        )
        cluster = Cluster(settings)
        cluster.start()
        stack.callback(cluster.stop)
        second = node_settings(settings, 2)[1].model_copy(update={"worker_port": free_port()})
        node = Node(second)
        node.start()
        stack.callback(node.kill)
        controller = ControllerClient(settings.controller_url, SystemClock())
        wait_until(lambda: len(controller.nodes()) == 2)
        config = StoreConfig(partition_count=4, replication_factor=2)
        controller.create_store(STORE, key_schema='"long"', value_schema='"string"', config=config)
        push(settings, STORE, sql=f"SELECT i AS key, 'value ' || i AS value FROM range({asked.rows}) t(i)")
        found: dict[str, list[Read]] = {"thin": [], "fast": []}
        for number in range(asked.rounds):
            if number:
                node.start()
            wait_until(lambda: controller.get_version(STORE, 1).ready_replicas == 8)
            for name, reads in one_round(node, settings, asked.rows, asked.rate).items():
                found[name] += reads
    print(f"{'':6}{'due after the kill':>20}{'reads':>8}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'slowest ms':>12}")
    for name, reads in found.items():
        for first, last in WINDOWS:
            due = between(reads, first, last)
            failed = sum(bool(read.failure) for read in due)
            slowest = max(read.took_s * 1e3 for read in due)
            print(f"{name:6}{f'{first:g} to {last:g} s':>20}{len(due):8,}{failed:8}{p50_ms(due):9.2f}{p99_ms(due):9.2f}{slowest:12.1f}")
    for failure in sorted({read.failure for reads in found.values() for read in reads if read.failure})[:5]:
        print(failure)


if __name__ == "__main__":
    main()
