"""What is killed in a test of chaos: the processes of a cluster, its broker, and those that write to it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from chaos_load import PRODUCERS, Load
from kafka_broker import run_broker

from venice.supervisor import Cluster

PAUSE_S_MAX = 0.8
SUSPENDED_S_MAX = 8.0
"""Longer than a silent leader keeps its partitions, so that some are replaced and wake up later."""
WEIGHTS = {"worker": 8, "both workers": 2, "node": 1, "suspended worker": 2, "controller": 4, "router": 1, "producer": 6}
BROKER_WEIGHT = 14


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


class Victims:
    """Everything that may die at any moment: a cluster whose nodes have one worker each, its load, its broker if it has one."""

    def __init__(self, cluster: Cluster, load: Load, broker: Broker | None, rng: random.Random) -> None:
        self.killed: Counter[str] = Counter()
        self._cluster = cluster
        self._load = load
        self._broker = broker
        self._rng = rng
        self._weights = {**WEIGHTS, "broker": BROKER_WEIGHT} if broker is not None else WEIGHTS
        self._timers: list[threading.Timer] = []

    def strike(self) -> None:
        """After a while, kill or suspend something that runs."""
        time.sleep(self._rng.uniform(0, PAUSE_S_MAX))  # so that it happens at a random moment: nothing is waited for
        victim = self._rng.choices(list(self._weights), list(self._weights.values()))[0]
        self.killed[victim] += self._kill(victim)

    def wake(self) -> None:
        """End all suspensions, and have the broker back."""
        for timer in self._timers:
            timer.join()
        if self._broker is not None:
            self._broker.wait()

    def _kill(self, victim: str) -> int:
        if victim == "producer":
            return self._load.kill(self._rng.randrange(PRODUCERS))
        if victim == "broker":
            return self._broker is not None and self._broker.kill()
        if victim == "worker":
            return self._signal(self._some(self._workers()), signal.SIGKILL)
        if victim == "both workers":
            return self._signal(self._workers(), signal.SIGKILL)
        if victim == "suspended worker":
            self._suspend(self._some(self._workers()))
            return 0
        pids = self._cluster.supervisor.pids()
        found = [pid for name, pid in pids.items() if name.startswith(victim)]
        return self._signal(self._some(found), signal.SIGKILL)

    def _workers(self) -> list[int]:
        """Those that run now, under whichever node."""
        nodes = [pid for name, pid in self._cluster.supervisor.pids().items() if name.startswith("node")]
        return [child for node in nodes for child in children(node)]

    def _some(self, pids: list[int]) -> list[int]:
        return self._rng.sample(pids, min(1, len(pids)))

    def _suspend(self, pids: list[int]) -> None:
        if self._signal(pids, signal.SIGSTOP):
            timer = threading.Timer(self._rng.uniform(0.5, SUSPENDED_S_MAX), self._signal, (pids, signal.SIGCONT))
            timer.start()
            self._timers.append(timer)

    @staticmethod
    def _signal(pids: list[int], number: signal.Signals) -> int:
        sent = 0
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                sent += 1
        return sent


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in listed.split()]
