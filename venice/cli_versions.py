"""`venice version`: what versions a store has, and which of them serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from venice.cli_output import (
    AsJson,
    compression_text,
    controller_of,
    faults_text,
    group,
    lag_text,
    model_json,
    moment,
    say,
    say_json,
    size,
    table,
)
from venice.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from venice.control.answers import VersionInfo
    from venice.control.remote import ControllerClient
    from venice.model import Store, Version

versions = group("List versions, roll back and forward, kill a push.")

StoreName = Annotated[str, typer.Argument(metavar="STORE", help="Name of the store.")]

_POLL_S: Final = 0.2


@versions.command("list")
def list_versions(ctx: typer.Context, store: StoreName, as_json: AsJson = False) -> None:
    """List the versions of a store, with their state and how ready they are."""
    found = controller_of(ctx).list_versions(store)
    if as_json:
        say_json(model_json(found))
    else:
        print_versions(found)


@versions.command("rollback")
def rollback(ctx: typer.Context, store: StoreName, as_json: AsJson = False) -> None:
    """Serve the newest backup version again."""
    _swapped(controller_of(ctx).rollback(store), as_json)


@versions.command("roll-forward")
def roll_forward(
    ctx: typer.Context,
    store: StoreName,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it serves, also if it has to go to more nodes first.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer than this.")] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Serve the newest complete version above the current one: a deferred one, or one that was rolled back."""
    controller = controller_of(ctx)
    rolled = controller.roll_forward(store)
    on_its_way = next((one for one in rolled.versions if one.number > rolled.current and _goes_to_all(one)), None)
    if on_its_way is not None and wait:
        rolled = _rolled_out(controller, store, on_its_way.number, timeout_s)
    elif on_its_way is not None and not as_json:
        say(f"version {on_its_way.number} of {store} goes to the other nodes, and serves when it is there")
        return
    _swapped(rolled, as_json)


def _goes_to_all(version: Version) -> bool:
    """Whether it leaves its first nodes for all of them."""
    return version.status.name == "STARTED" and version.rollout is not None and not version.rollout.nodes


def _rolled_out(controller: ControllerClient, store: str, number: int, timeout_s: float) -> Store:
    """The store, once a version that is on its way to all nodes serves."""
    from venice.clock import SystemClock

    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while True:
        found = controller.get_store(store)
        version = found.version(number)
        if found.current >= number:
            return found
        if version is None or version.status.name not in ("STARTED", "ONLINE"):
            reason = f"is {version.status.name}: {version.reason}" if version is not None else "was deleted"
            raise Conflict(f"version {number} of {store} {reason}", hint="'venice version list' shows what serves")
        if clock.monotonic_s() > deadline_s:
            raise Unavailable(
                f"version {number} of {store} is not on all nodes after {timeout_s:g} s", hint="it goes on: look at 'venice version list'"
            )
        clock.sleep(_POLL_S)


@versions.command("kill")
def kill(
    ctx: typer.Context,
    store: StoreName,
    version: Annotated[int, typer.Argument(help="Number of a version that does not serve.")],
    reason: Annotated[str, typer.Option(help="Why; shown in the version's state.")] = "killed by hand",
    as_json: AsJson = False,
) -> None:
    """Give up a version that is being pushed or waits for its swap."""
    killed = controller_of(ctx).kill(store, version, reason)
    if as_json:
        say_json(model_json(killed))
    else:
        say(f"version {version} of {store}: {killed.status.lower()}")


def _rollout_text(info: VersionInfo) -> str:
    rollout = info.version.rollout
    if rollout is None or info.status not in ("STARTED", "PUSHED"):
        return ""
    when = f"for {rollout.after_s} s" if rollout.after_s is not None else "until it is rolled forward"
    return f"on {', '.join(rollout.nodes)} {when}" if rollout.nodes else "on its way to all nodes"


def _swapped(store: Store, as_json: bool) -> None:
    if as_json:
        say_json(model_json(store))
    else:
        say(f"store {store.name} serves version {store.current}")


def print_versions(found: tuple[VersionInfo, ...]) -> None:
    """A table of versions, for people."""
    if not found:
        say("no versions yet")
        return
    rows = [
        (
            info.version.number,
            info.status.lower(),
            info.role.value,
            f"{info.version.row_count:,}",
            size(info.version.byte_count),
            compression_text(info.version.compression, info.version.value_bytes, info.version.compressed_bytes),
            f"{info.ready_partitions}/{info.version.partition_count}",
            f"{info.ready_replicas}/{info.version.partition_count * info.version.replication_factor}",
            lag_text(info.lag_records, info.lag_s) if info.version.hybrid is not None else "-",
            faults_text(info.faults),
            moment(info.version.created_ms),
            info.version.push_id,
            info.version.reason or _rollout_text(info),
        )
        for info in found
    ]
    say(
        table(
            ("version", "status", "role", "rows", "size", "compression", "ready", "replicas", "lag", "faulty", "created", "push", "reason"),
            rows,
        )
    )
