"""`venice doctor`: looks at everything a cluster needs on this machine, and says how to fix what is wrong."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from venice.cli_output import AsJson, say, say_json, settings_of, size
from venice.errors import VeniceError

if TYPE_CHECKING:
    from venice.clock import Clock
    from venice.config import Flow, Settings
    from venice.control.remote import ControllerClient
    from venice.model import Store

FREE_BYTES_MIN = 2_000_000_000
CLOCK_BEHIND_MS_MAX = 2_000
HALT_POLL_NS = 200_000

PACKAGES = {
    "cli": ("typer", "rich"),
    "server": (
        "rocksdict",
        "xxhash",
        "uvloop",
        "fastapi",
        "uvicorn",
        "pydantic_settings",
        "avro",
        "apsw",
        "prometheus_client",
        "structlog",
    ),
    "flows": ("bytewax",),
    "push": ("duckdb", "pyarrow", "pyruhvro"),
}
"""Extra of the distribution → modules it brings."""

State = Literal["ok", "wrong", "off"]
_MARKS: dict[State, str] = {"ok": "✓", "wrong": "✗", "off": "-"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found. `off` is something that could run but does not: no fault."""

    name: str
    state: State
    found: str
    fix: str = ""


def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check this machine and the cluster on it; exit code 1 if anything is wrong."""
    findings: list[Finding] = []
    for finding in examine(lambda: settings_of(ctx)):
        findings.append(finding)
        if not as_json:
            say(f"{_MARKS[finding.state]} {finding.name}: {finding.found}" + (f"\n    fix: {finding.fix}" if finding.fix else ""))
    if as_json:
        say_json([asdict(finding) for finding in findings])
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def examine(load: Callable[[], Settings]) -> Iterator[Finding]:
    """All findings, in the order in which one would mend them."""
    yield _python()
    yield _packages()
    try:
        settings = load()
    except VeniceError as error:
        yield Finding(name="settings", state="wrong", found=error.message, fix=error.hint)
        return
    except ModuleNotFoundError as error:
        yield Finding(name="settings", state="wrong", found=f"{error.name} is not installed", fix="pip install 'venice-data[all]'")
        return
    yield Finding(name="settings", state="ok", found=f"cluster {settings.cluster}, node {settings.node}, {settings.workers} workers")
    yield _folder(settings.data)
    yield _disk(settings.data)
    yield from waking()
    yield from _log(settings)
    yield from _processes(settings)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding(name="python", state="ok", found=version)
    return Finding(
        name="python",
        state="wrong",
        found=f"{version}: workers need 3.11 or 3.12, everything else runs on any from 3.11",
        fix="use Python 3.12",
    )


def _packages() -> Finding:
    lacking = {extra: [name for name in names if importlib.util.find_spec(name) is None] for extra, names in PACKAGES.items()}
    # What no release of this Python has cannot be installed; the finding about Python says so.
    lacking = {extra: names for extra, names in lacking.items() if names and (extra != "flows" or sys.version_info < (3, 13))}
    if not lacking:
        return Finding(name="packages", state="ok", found="everything that this Python can have is installed")
    found = "; ".join(f"{extra} lacks {', '.join(names)}" for extra, names in lacking.items())
    return Finding(name="packages", state="wrong", found=found, fix=f"pip install 'venice-data[{','.join(lacking)}]'")


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _folder(data: Path) -> Finding:
    there = _existing(data)
    if not there.is_dir():
        return Finding(name="data folder", state="wrong", found=f"{there} is a file", fix="choose another 'data' in venice.toml")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return Finding(name="data folder", state="wrong", found=f"{there} cannot be written to", fix=f"sudo chown -R $(id -un) {there}")
    return Finding(name="data folder", state="ok", found=f"{data}" + ("" if there == data else " (made at the first start)"))


def _disk(data: Path) -> Finding:
    usage = shutil.disk_usage(_existing(data))
    found = f"{size(usage.free)} free of {size(usage.total)}"
    if usage.free < FREE_BYTES_MIN:
        return Finding(name="disk", state="wrong", found=found, fix="make room, or move 'data' in venice.toml to a larger disk")
    return Finding(name="disk", state="ok", found=found)


def waking(system: Path = Path("/sys")) -> Iterator[Finding]:
    """In a virtual machine a halted processor is woken by the host, which takes longer than all else in a get. The guest can poll
    a little before it halts (the kernel's `haltpoll` governor), and by the kernel's default it does."""
    try:
        governor = (system / "devices/system/cpu/cpuidle/current_governor").read_text().strip()
        before_halt = int((system / "module/haltpoll/parameters/guest_halt_poll_ns").read_text())
    except (OSError, ValueError):
        return
    if governor == "haltpoll" and before_halt < HALT_POLL_NS:
        yield Finding(
            name="processors",
            state="off",
            found="those of this virtual machine halt the moment they are idle: thin and fast gets take up to twice as long",
            fix=f"echo {HALT_POLL_NS} | sudo tee /sys/module/haltpoll/parameters/guest_halt_poll_ns (the kernel's own default)",
        )


def _log(settings: Settings) -> Iterator[Finding]:
    from venice.clock import SystemClock
    from venice.log.open import open_log
    from venice.naming import CATALOG_TOPIC

    url = settings.log_url
    if url.startswith("sqlite:") and not Path(url.removeprefix("sqlite:")).exists():
        yield Finding(name="log", state="off", found=f"{url} (made at the first start)")
        return
    clock = SystemClock()
    try:
        log = open_log(url, clock)
        try:
            topics = log.topics()
            yield Finding(name="log", state="ok", found=f"{url}, {len(topics)} topics")
            if CATALOG_TOPIC in topics and (end := log.end_offset(CATALOG_TOPIC, 0)) > log.start_offset(CATALOG_TOPIC, 0):
                reader = log.reader({(CATALOG_TOPIC, 0): end - 1})
                newest = reader.poll(records_max=1, timeout_s=1.0)
                reader.close()
                if newest:
                    yield _clock(clock, newest[-1].timestamp_ms)
        finally:
            log.close()
    except VeniceError as error:
        yield Finding(name="log", state="wrong", found=error.message, fix=error.hint)


def _clock(clock: Clock, newest_ms: int) -> Finding:
    behind_ms = newest_ms - clock.now_ms()
    if behind_ms > CLOCK_BEHIND_MS_MAX:
        found = f"{behind_ms / 1000:.0f} s behind the newest record of the log"
        return Finding(name="clock", state="wrong", found=found, fix="sudo timedatectl set-ntp true")
    return Finding(name="clock", state="ok", found="not behind the log")


def _processes(settings: Settings) -> Iterator[Finding]:
    from venice.clock import SystemClock
    from venice.control.remote import ControllerClient
    from venice.processes import worker_url
    from venice.supervisor import healthy

    controller = healthy(f"{settings.controller_url}/api/v1/health")
    yield _process("controller", settings.controller_url, controller)
    yield _process("router", settings.router_url, healthy(f"{settings.router_url}/health"))
    for index in range(settings.workers):
        url = worker_url(settings, index)
        yield _process(f"{settings.node}-w{index}", url, healthy(f"{url}/health"))
    for flow in settings.flows:
        yield _flow(settings, flow, SystemClock().now_ms())
    if controller:
        try:
            yield from _cluster(ControllerClient(settings.controller_url, SystemClock(), retry_s=0))
        except VeniceError as error:
            yield Finding(name="controller", state="wrong", found=error.message, fix=error.hint)


def _process(name: str, url: str, is_healthy: bool) -> Finding:
    from venice.processes import check_port, host_port

    if is_healthy:
        return Finding(name=name, state="ok", found=f"serves at {url}")
    try:
        check_port(*host_port(url), name)
    except VeniceError as error:
        return Finding(name=name, state="wrong", found=f"{url} does not answer as Venice does: {error.message}", fix=error.hint)
    return Finding(name=name, state="off", found=f"not running; its port is free ({url})", fix="'venice up' starts it")


def _flow(settings: Settings, flow: Flow, now_ms: int) -> Finding:
    from venice.deployed import STEADY_S, lives, process_name, read_state

    name = f"flow {flow.name}"
    known = read_state(settings, flow)
    if known is None or known.state == "stopped" or (known.state == "runs" and not lives(known.process)):
        return Finding(name=name, state="off", found=f"{flow.target} does not run", fix="'venice up' or 'venice run node' starts it")
    if known.state == "finished":
        return Finding(name=name, state="ok", found=f"{flow.target} came to the end of its input")
    before = f", started {known.starts} times, last ended with exit code {known.exit_code}" if known.starts > 1 else ""
    if known.state == "runs" and (known.starts == 1 or now_ms - known.started_ms > STEADY_S * 1000):
        return Finding(name=name, state="ok", found=f"{flow.target} runs as process {known.process}{before}")
    found = f"{flow.target} ended with exit code {known.exit_code} and is started again, {known.starts} starts so far"
    return Finding(name=name, state="wrong", found=found, fix=f"read {settings.data / 'logs' / process_name(flow)}.log")


def _cluster(controller: ControllerClient) -> Iterator[Finding]:
    for node in controller.nodes():
        for info in node.workers:
            found = f"{info.ready} of {info.replicas} replicas ready, last heard of {info.silent_s:.1f} s ago"
            if info.live:
                yield Finding(name=f"worker {info.worker.id}", state="ok", found=found)
            else:
                fix = f"start it, or look at its output in the logs folder of node {node.node.id}"
                yield Finding(name=f"worker {info.worker.id}", state="wrong", found=found, fix=fix)
    for store in controller.list_stores():
        yield from _copies(controller, store)
    for problem in controller.health().problems:
        yield Finding(name="controller", state="wrong", found=problem, fix="look at the controller's output in the logs folder")


def _copies(controller: ControllerClient, store: Store) -> Iterator[Finding]:
    """Whether the version that serves has the copies it was pushed for."""
    if not store.current:
        return
    info = controller.get_version(store.name, store.current)
    wanted = info.version.partition_count * info.version.replication_factor
    if info.ready_replicas >= wanted:
        yield Finding(name=f"store {store.name}", state="ok", found=f"version {store.current} has all of its {wanted} replicas")
        return
    found = f"version {store.current} has {info.ready_replicas} of {wanted} replicas ready"
    fix = f"wait for those being made, or start nodes: each partition is to be on {info.version.replication_factor} ('venice node list')"
    yield Finding(name=f"store {store.name}", state="wrong", found=found, fix=fix)
