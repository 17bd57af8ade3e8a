"""`venice node`: the nodes of a cluster, and what to do with one that is to go, or is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from venice.cli_output import AsJson, controller_of, group, model_json, say, say_json, table
from venice.errors import Unavailable

if TYPE_CHECKING:
    from venice.control.answers import NodeInfo
    from venice.control.remote import ControllerClient

nodes = group("List nodes, move replicas away from one, give up one that is gone.")

NodeName = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.")]


@nodes.command("list")
def list_nodes(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the nodes: whether they live, how many replicas they shall hold, and how many are ready."""
    found = controller_of(ctx).nodes()
    if as_json:
        say_json([{**model_json(info), "state": state_of(info)} for info in found])
    elif not found:
        say("no nodes yet; 'venice up' or 'venice run node' starts one")
    else:
        say(table(("node", "state", "region", "workers", "replicas", "ready"), map(_row, found)))


@nodes.command("drain")
def drain(
    ctx: typer.Context,
    node: NodeName,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when nothing is left on it.")] = True,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer than this.")] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Move a node's replicas to others; it serves each until that is ready elsewhere. Then it can be stopped without a trace."""
    from venice.control.answers import NodeChange

    controller = controller_of(ctx)
    info = controller.change_node(node, NodeChange.DRAIN)
    if wait:
        info = _emptied(controller, info, timeout_s)
    if as_json:
        say_json({**model_json(info), "state": state_of(info)})
    elif wait:
        say(f"{node} holds no replicas any more: it can be stopped ('venice node undrain {node}' takes it back)")
    else:
        say(f"{node} is draining: {info.assigned} replicas are left; 'venice node list' shows how far it is")


@nodes.command("undrain")
def undrain(ctx: typer.Context, node: NodeName, as_json: AsJson = False) -> None:
    """Give a node replicas again."""
    from venice.control.answers import NodeChange

    info = controller_of(ctx).change_node(node, NodeChange.UNDRAIN)
    if as_json:
        say_json({**model_json(info), "state": state_of(info)})
    else:
        say(f"{node} is given replicas again, of versions to come and those that lack some")


@nodes.command("remove")
def remove(ctx: typer.Context, node: NodeName, as_json: AsJson = False) -> None:
    """Give up a node that is gone, without waiting for rebalance_delay_s: its replicas are made on others now."""
    from venice.control.answers import NodeChange

    info = controller_of(ctx).change_node(node, NodeChange.REMOVE)
    if as_json:
        say_json({**model_json(info), "state": state_of(info)})
    else:
        say(f"{node} is given up; what it held is made on other nodes, and should it come back it joins as a new one")


def state_of(info: NodeInfo) -> str:
    """A node in one word."""
    if not info.workers:
        return "gone"
    live = sum(worker.live for worker in info.workers)
    if info.node.draining:
        return "draining" if info.assigned else "drained"
    return "live" if live == len(info.workers) else "partly silent" if live else "silent"


def _row(info: NodeInfo) -> tuple[object, ...]:
    live = sum(worker.live for worker in info.workers)
    ready = sum(worker.ready for worker in info.workers if worker.live)
    return info.node.id, state_of(info), info.node.region, f"{live}/{len(info.workers)}", info.assigned, ready


def _emptied(controller: ControllerClient, info: NodeInfo, timeout_s: float) -> NodeInfo:
    from venice.clock import SystemClock

    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    while info.assigned:
        if clock.monotonic_s() >= deadline_s:
            raise Unavailable(
                f"{info.node.id} holds {info.assigned} replicas still", hint="it goes on draining; 'venice node list' shows how far it is"
            )
        clock.sleep(0.2)
        info = next(one for one in controller.nodes() if one.node.id == info.node.id)
    return info
