"""Processes: started in order, restarted when killed, gone when they should be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import waiting

from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.remote import ControllerClient
from venice.errors import Conflict, Unavailable
from venice.processes import host_port, worker_url
from venice.supervisor import Cluster, healthy

eventually = partial(waiting.eventually, timeout_s=30)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(child) for child in listed.split()]


def urls(settings: Settings) -> list[str]:
    workers = [f"{worker_url(settings, index)}/health" for index in range(settings.workers)]
    return [f"{settings.controller_url}/api/v1/health", f"{settings.router_url}/health", *workers]


def test_killed_processes_are_started_again(start_cluster: Callable[..., Cluster]) -> None:
    cluster = start_cluster(workers=2)
    before = cluster.supervisor.pids()
    workers = children(before["node-1"])
    assert len(workers) == 2
    for pid in (*before.values(), workers[0]):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(cluster.supervisor.pids()) == 3 and not set(cluster.supervisor.pids().values()) & set(before.values()))
    eventually(lambda: all(healthy(url) for url in urls(cluster.settings)))
    assert not any(alive(pid) for pid in workers), "a worker whose node is gone stops by itself"


def test_workers_of_a_started_cluster_are_given_partitions(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2).model_copy(update={"workers": 1})
    cluster = Cluster(settings, nodes=2)
    cluster.start()
    try:
        # At the first look: a push that begins now is placed on those it finds.
        nodes = ControllerClient(settings.controller_url, SystemClock()).nodes()
        assert {worker.worker.id for node in nodes for worker in node.workers if worker.live} == {"node-1-w0", "node-2-w0"}
    finally:
        cluster.stop()


def test_stop_leaves_nothing_behind(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(workers=2)
    cluster = Cluster(settings)
    cluster.start()
    pids = cluster.supervisor.pids()
    everyone = [*pids.values(), *children(pids["node-1"])]
    cluster.stop()
    assert not any(alive(pid) for pid in everyone)
    assert not any(healthy(url) for url in urls(settings))


def test_a_port_that_is_taken_is_named_and_nothing_is_started(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    with socket.socket() as taken:
        taken.bind(host_port(settings.router_url))
        taken.listen()
        cluster = Cluster(settings)
        with pytest.raises(Conflict, match=rf"port {host_port(settings.router_url)[1]} for the router"):
            cluster.start()
        assert cluster.supervisor.pids() == {}


def test_a_process_that_cannot_start_is_named_with_its_log(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings()
    (settings.data).mkdir(parents=True)
    (settings.data / "log").write_text("a file where the log's folder should be")
    cluster = Cluster(settings)
    with pytest.raises(Unavailable, match="did not answer") as raised:
        cluster.start(ready_timeout_s=20)
    log = Path(raised.value.hint.removeprefix("its output is in "))
    assert "error:" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_venice_up_takes_everything_with_it(make_settings: Callable[..., Settings], how: signal.Signals) -> None:
    settings = make_settings()
    up = subprocess.Popen(
        [sys.executable, "-m", "venice.cli", "up"], env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    eventually(lambda: all(healthy(url) for url in urls(settings)))
    everyone = children(up.pid)
    everyone += [pid for child in everyone for pid in children(child)]
    assert len(everyone) == 4
    up.send_signal(how)
    said, _ = up.communicate(timeout=30)
    eventually(lambda: not any(alive(pid) for pid in everyone))
    if how is not signal.SIGKILL:
        assert up.returncode == 0
        assert "Traceback" not in said
    for log in (settings.data / "logs").iterdir():
        assert "Traceback" not in log.read_text(), log
