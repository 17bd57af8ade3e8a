"""Processes that run other processes: start them, restart the ones that die, stop them all.

`run_node` supervises the workers of a node and the dataflows of users; `Cluster` a controller, a router and nodes on one machine.
"""

from __future__ import annotations

import http.client
import importlib.util
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from venice.clock import Clock, SystemClock
from venice.config import Flow, Settings, environment
from venice.control.answers import NodeChange
from venice.control.remote import ControllerClient
from venice.deployed import STEADY_S, FlowState, State, command, process_name, write_state
from venice.errors import Conflict, NotFound, Unavailable, VeniceError
from venice.local_nodes import node_name, node_settings
from venice.processes import check_port, host_port, on_stop_signal, worker_id, worker_url
from venice.telemetry import log_event

WORKER_BUILD = "venice_flows.worker:build"
RESTART_S = 0.1
RESTART_S_MAX = 5.0
STOP_S = 15.0
"""How long a process may take to stop after SIGTERM before it is killed."""


@dataclass(slots=True)
class _Child:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path | None = None
    may_finish: bool = False
    on_change: Callable[[FlowState], None] = lambda state: None
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    started_ms: int = 0
    starts: int = 0
    exit_code: int | None = None
    failures: int = 0
    restart_at_s: float | None = None
    finished: bool = False

    def tell(self, state: State) -> None:
        process = self.process.pid if self.process is not None else 0
        self.on_change(FlowState(state=state, process=process, started_ms=self.started_ms, starts=self.starts, exit_code=self.exit_code))


class Supervisor:
    """Keeps child processes alive until told to stop.

    Args:
        logs: Folder that gets one file of output per child.
        clock: For restart pauses.
    """

    def __init__(self, logs: Path, *, clock: Clock | None = None) -> None:
        self._logs = logs
        self._clock = clock or SystemClock()
        self._children: dict[str, _Child] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(
        self,
        name: str,
        command: Sequence[str],
        settings: Settings,
        *,
        folder: Path | None = None,
        may_finish: bool = False,
        on_change: Callable[[FlowState], None] = lambda state: None,
    ) -> None:
        """A child to run: `python -m venice.cli COMMAND` under these settings.

        Args:
            name: Its name in logs, and of its own log file.
            command: Arguments of `venice`.
            settings: Reach it by its environment.
            folder: Where it runs; default: here.
            may_finish: It is not started again once it has ended without an error.
            on_change: Hears what became of it, in the thread that watches the children.
        """
        arguments = [sys.executable, "-m", "venice.cli", *command, "--supervised"]
        self._children[name] = _Child(name, arguments, environment(settings), folder, may_finish, on_change)

    def start(self) -> None:
        """Start all children and the thread that watches them."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for child in self._children.values():
            self._spawn(child)
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop all children: SIGTERM, then SIGKILL for those that do not listen."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            running = [child.process for child in self._children.values() if child.process is not None]
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline_s = self._clock.monotonic_s() + STOP_S
        for process in running:
            try:
                process.wait(max(0.0, deadline_s - self._clock.monotonic_s()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for child in self._children.values():
            if not child.finished:
                child.tell("stopped")

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now."""
        with self._lock:
            return {c.name: c.process.pid for c in self._children.values() if c.process is not None and c.process.poll() is None}

    def log_file(self, name: str) -> Path:
        """Where a child's output goes."""
        return self._logs / f"{name}.log"

    def _spawn(self, child: _Child) -> None:
        child.started_s, child.started_ms = self._clock.monotonic_s(), self._clock.now_ms()
        child.starts += 1
        with self.log_file(child.name).open("ab") as output:
            # A session of its own: Ctrl-C at the terminal reaches the supervisor alone, which then stops the children in order.
            # The pipe on standard input is how a child learns that the supervisor is gone.
            try:
                child.process = subprocess.Popen(
                    child.command,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=dict(child.environment),
                    cwd=child.folder,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"error: {child.name} cannot be started: {error}\n".encode())
                child.exit_code = error.errno
                self._restart_later(child, child.started_s)
                return
        child.restart_at_s = None
        child.tell("runs")

    def _watch(self) -> None:
        while not self._stopping.wait(0.05):
            with self._lock:
                for child in self._children.values():
                    self._look_after(child)

    def _look_after(self, child: _Child) -> None:
        now_s = self._clock.monotonic_s()
        if child.restart_at_s is not None:
            if now_s >= child.restart_at_s:
                self._spawn(child)
            return
        if child.finished:
            return
        assert child.process is not None, "a child without a process waits for its restart"
        code = child.process.poll()
        if code is None:
            return
        if child.process.stdin is not None:
            child.process.stdin.close()
        child.exit_code = code
        if code == 0 and child.may_finish:
            child.finished = True
            log_event("process_finished", child=child.name)
            child.tell("finished")
            return
        log_event("process_exited", child=child.name, code=code)
        self._restart_later(child, now_s)

    def _restart_later(self, child: _Child, now_s: float) -> None:
        child.failures = child.failures + 1 if now_s - child.started_s < STEADY_S else 0
        child.restart_at_s = now_s + min(RESTART_S * 2**child.failures, RESTART_S_MAX) if child.failures else now_s
        child.tell("waits")


def run_node(settings: Settings) -> None:
    """Run a node's workers, and the dataflows it was given, until SIGTERM or SIGINT.

    Raises:
        NotFound: Workers cannot run on this Python.
    """
    check_bytewax()
    supervisor = Supervisor(settings.data / "logs")
    for index in range(settings.workers):
        supervisor.add(f"{settings.node}-w{index}", ["worker", "run", WORKER_BUILD, "--worker", str(index)], settings)
    for flow in settings.flows:
        _add_flow(supervisor, settings, flow)
    _run(supervisor)


def check_bytewax() -> None:
    """Nothing if dataflows can run in this environment.

    Raises:
        NotFound: Bytewax, their engine, is not installed; the hint says whether it can be.
    """
    if importlib.util.find_spec("bytewax") is not None:
        return
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        raise NotFound("workers need bytewax, which is not installed here", hint="pip install 'venice-data[all]'")
    version = ".".join(map(str, sys.version_info[:2]))
    raise NotFound(
        f"workers run on Python 3.11 and 3.12, this is {version}: bytewax, which runs them, has no release for it",
        hint="install 'venice-data[all]' into an environment of Python 3.12; clients, pushes, SQL and all other commands work in this one",
    )


def _add_flow(supervisor: Supervisor, settings: Settings, flow: Flow) -> None:
    supervisor.add(
        process_name(flow),
        command(settings, flow),
        settings,
        folder=flow.folder,
        may_finish=True,
        on_change=lambda state: write_state(settings, flow, state),
    )


class Cluster:
    """Controller, router and nodes as processes of this machine.

    Args:
        settings: What they share. Node *i* listens from `worker_port + i * workers` on.
        nodes: How many nodes; each after the first has a data folder of its own.

    Raises:
        InvalidRequest: There are not enough ports for so many.
    """

    def __init__(self, settings: Settings, *, nodes: int = 1, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self.supervisor = Supervisor(settings.data / "logs", clock=self._clock)
        self.supervisor.add("controller", ["run", "controller"], settings)
        self.supervisor.add("router", ["run", "router"], settings)
        self._urls = {"controller": f"{settings.controller_url}/api/v1/health", "router": f"{settings.router_url}/health"}
        self._workers: set[str] = set()
        self.nodes = node_settings(settings, nodes)
        """The settings of each node."""
        for node in self.nodes:
            self.supervisor.add(node.node, ["run", "node"], node)
            for worker in range(node.workers):
                self._workers.add(worker_id(node, worker))
                self._urls[worker_id(node, worker)] = f"{worker_url(node, worker)}/health"

    def start(self, *, ready_timeout_s: float = 60.0, on_ready: Callable[[str], None] = lambda name: None) -> None:
        """Start all processes and wait until each answers, and the controller knows the workers; `on_ready` hears their names.

        A push begun then is spread over all workers: a version is placed on those that have reported.

        Raises:
            Conflict: A port is taken; nothing was started.
            NotFound: Workers cannot run on this Python; nothing was started.
            Unavailable: A process did not answer in time; all are stopped again.
        """
        check_bytewax()
        for name, url in self._urls.items():
            check_port(*host_port(url), name)
        self.supervisor.start()
        deadline_s = self._clock.monotonic_s() + ready_timeout_s
        waiting = dict(self._urls)
        while waiting:
            members = self._members() if "controller" not in waiting else set()
            for name in [name for name, url in waiting.items() if (name not in self._workers or name in members) and healthy(url)]:
                del waiting[name]
                on_ready(name)
            if waiting and self._clock.monotonic_s() > deadline_s:
                self.stop()
                name = next(iter(waiting))
                raise Unavailable(
                    f"{name} did not answer within {ready_timeout_s:g} s", hint=f"its output is in {self.supervisor.log_file(name)}"
                )
            self._clock.sleep(0.02)

    def left_out(self, before: int) -> list[str]:
        """Give up those of the `before` nodes there were that are not run any more; their names. A node that lives elsewhere stays."""
        given_up: list[str] = []
        controller = ControllerClient(self.settings.controller_url, self._clock)
        for name in map(node_name, range(len(self.nodes), before)):
            try:
                controller.change_node(name, NodeChange.REMOVE)
            except (Conflict, NotFound):
                continue
            given_up.append(name)
        return given_up

    def stop(self) -> None:
        """Stop all processes."""
        self.supervisor.stop()

    def _members(self) -> set[str]:
        """The workers that the controller gives partitions to."""
        try:
            nodes = ControllerClient(self.settings.controller_url, self._clock, retry_s=0.0, timeout_s=1.0).nodes()
        except VeniceError:
            return set()
        return {info.worker.id for node in nodes for info in node.workers if info.live}


def healthy(url: str) -> bool:
    """Whether a process answers its health check."""
    host, port = host_port(url)
    connection = http.client.HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", urlsplit(url).path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _run(supervisor: Supervisor) -> None:
    stop = threading.Event()
    on_stop_signal(stop.set)
    supervisor.start()
    stop.wait()
    supervisor.stop()
