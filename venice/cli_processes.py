"""`venice up`, `venice run`, `venice worker run` and `venice init`: the commands that are processes, and what they read."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from venice.cli_output import AsJson, group, say, say_json, settings_of
from venice.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from venice.config import Settings

run = group("Run one process in the foreground: for service managers and containers.")
worker = group("Run dataflows.")

Supervised = Annotated[bool, typer.Option("--supervised", hidden=True, help="Stop when standard input is closed.")]


def up(
    ctx: typer.Context,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=64, help="Nodes, each with its own workers and data; default: as many as last time.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of each node; default: the setting.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run controller, router and workers on this machine until Ctrl-C."""
    from venice.clock import SystemClock
    from venice.local_nodes import remember, remembered
    from venice.processes import on_stop_signal
    from venice.supervisor import Cluster

    settings = settings_of(ctx, workers=workers)
    clock = SystemClock()
    before = remembered(settings)
    count = nodes if nodes is not None else before
    _log("up", settings)
    stop = threading.Event()
    on_stop_signal(stop.set)
    cluster = Cluster(settings, nodes=count, clock=clock)
    started_s = clock.monotonic_s()

    def ready(name: str) -> None:
        seconds = clock.monotonic_s() - started_s
        if as_json:
            say_json({"ready": name, "seconds": round(seconds, 3)})
        else:
            say(f"✓ {name}  {seconds:.1f} s")

    cluster.start(on_ready=ready)
    remember(settings, count)
    changes = cluster.left_out(before)
    facts: dict[str, object] = {"nodes": count, **({"left_out": changes} if changes else {})}
    facts |= {"controller": settings.controller_url, "router": settings.router_url, "data": str(settings.data)}
    if as_json:
        say_json(facts)
    else:
        say(f"controller {facts['controller']} (its API: {facts['controller']}/docs)")
        say(f"router     {facts['router']}")
        say(f"data       {facts['data']}; logs in {settings.data / 'logs'}")
        for line in _said_of_nodes(before, count, changes):
            say(line)
        say("Ctrl-C stops everything")
    stop.wait()
    if not as_json:
        say("stopping")
    cluster.stop()


def _said_of_nodes(before: int, count: int, left_out: Sequence[str]) -> Iterator[str]:
    """What another number of nodes than last time means."""
    if count > before:
        yield f"{count} nodes, {before} before: missing copies are made on the new ones, and what is pushed from now on is spread over all"
    for node in left_out:
        yield f"{node} is left out: its replicas are made on the others; its folder stays, for 'venice up --nodes {before}'"


@run.command("controller")
def controller(ctx: typer.Context, supervised: Supervised = False) -> None:
    """Run the controller: commands, the versions' life, placement."""
    from venice.controller_process import run_controller

    settings = settings_of(ctx)
    with _begun("controller", settings, supervised):
        run_controller(settings)


@run.command("router")
def router(ctx: typer.Context, supervised: Supervised = False) -> None:
    """Run a router: where thin clients and curl read."""
    from venice.router_process import run_router

    settings = settings_of(ctx)
    with _begun("router", settings, supervised):
        run_router(settings)


@run.command("node")
def node(
    ctx: typer.Context,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; default: the setting.")] = None,
    supervised: Supervised = False,
) -> None:
    """Run this machine's workers and the dataflows given to it, and restart the ones that die."""
    from venice.supervisor import run_node

    settings = settings_of(ctx, workers=workers)
    with _begun(settings.node, settings, supervised):
        run_node(settings)


@worker.command("run")
def run_worker(
    ctx: typer.Context,
    build: Annotated[str, typer.Argument(metavar="MODULE:BUILD", help="A function (settings, worker) -> Dataflow.")],
    index: Annotated[int, typer.Option("--worker", min=0, help="Which of the node's workers this is, from 0.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Bytewax workers in this process; for dataflows of your own.")] = 1,
    recovery: Annotated[Path | None, typer.Option(help="Folder that keeps the state of a dataflow of your own.")] = None,
    snapshot_s: Annotated[float, typer.Option(min=0.0, help="Seconds between two snapshots of that state.")] = 10.0,
    name: Annotated[str | None, typer.Option(help="Its name in logs; default: the worker's.")] = None,
    supervised: Supervised = False,
) -> None:
    """Run a dataflow in this process: ours (venice_flows.worker:build) or one of your own."""
    settings = settings_of(ctx)
    flow = _function(build)(settings, index)
    from venice.operators import run as run_flow

    with _begun(name or f"{settings.node}-w{index}", settings, supervised):
        run_flow(flow, threads=threads, recovery=recovery, snapshot_s=snapshot_s)


def init(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where to write venice.toml.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a venice.toml that names every setting, its meaning and its default."""
    from venice.config import SETTINGS_FILE

    file = folder / SETTINGS_FILE
    text = settings_file()
    there = file.read_text(encoding="utf-8") if file.exists() else None
    if there == text:
        outcome = "unchanged"
    elif there is None or force or _overwrite(file):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be written: {error.strerror}", hint="choose another folder") from error
        outcome = "written"
    else:
        raise typer.Exit(1)
    if as_json:
        say_json({"file": str(file), "outcome": outcome})
    else:
        say(f"{file}: {outcome}" + ("; 'venice up' starts a cluster with it" if outcome == "written" else ""))


def settings_file() -> str:
    """The text `venice init` writes: every setting as a comment that shows its default."""
    from venice.config import Flow, Settings

    lines = [
        "# Settings of Venice. Each line shows the default: take its '#' away to change it.",
        "# VENICE_<SETTING> in the environment wins over this file; a relative path is relative to this file's folder.",
    ]
    for name, field in Settings.model_fields.items():
        value = str(field.default) if isinstance(field.default, Path) else field.default
        lines += ["", f"# {field.description}", f"#{name} = {json.dumps(value)}"]
    lines += ["", "# Or, instead of a list, a table for each flow, after all other settings:", "# [[flows]]"]
    for name, field in Flow.model_fields.items():
        value = _EXAMPLES[name] if field.is_required() else str(field.default) if isinstance(field.default, Path) else field.default
        lines.append(f"# {name} = {json.dumps(value)}  # {field.description}")
    return "\n".join(lines) + "\n"


_EXAMPLES = {"name": "count-clicks", "target": "my_app.flow:build"}


def _overwrite(file: Path) -> bool:
    if not sys.stdin.isatty():
        raise Conflict(f"{file} is there already and differs from the defaults", hint="pass --force to overwrite it")
    return typer.confirm(f"{file} is there already and differs from the defaults: overwrite it?")


@contextmanager
def _begun(process: str, settings: Settings, supervised: bool) -> Iterator[None]:
    """What every process does around its work: logs, and stops when its supervisor is gone."""
    from venice.telemetry import log_event

    if supervised:
        from venice.processes import stop_with_parent

        stop_with_parent()
    _log(process, settings)
    log_event("process_started", pid=os.getpid(), node=settings.node, log=settings.log_url)
    yield
    log_event("process_stopped", pid=os.getpid())


def _log(process: str, settings: Settings) -> None:
    from venice.clock import SystemClock
    from venice.telemetry import log_to_stderr

    log_to_stderr(process, SystemClock().now_ms, as_json=settings.log_json)


def _function(name: str) -> Any:
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise InvalidRequest(f"{name!r} is not of the form MODULE:BUILD", hint="for example venice_flows.worker:build")
    # A user's own flow lies in the working folder more often than in site-packages.
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == "bytewax":
            from venice.supervisor import check_bytewax

            check_bytewax()
        raise NotFound(
            f"no module {error.name!r} (wanted for {name})", hint="run it from its folder, or install it into this environment"
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        raise NotFound(f"module {module_name} has no function {function_name!r}", hint="name the one that builds the Dataflow")
    return found
