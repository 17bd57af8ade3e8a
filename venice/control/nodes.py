"""What operators do to nodes, as a pure function: drain one, take it back, remove one that is gone."""

from __future__ import annotations

from dataclasses import replace

from venice.control.answers import NodeChange
from venice.control.catalog import Catalog
from venice.control.reports import LIVE_S, Reports
from venice.errors import Conflict, NotFound, Unavailable
from venice.model import Node

_HEARD_S = 3.0
"""A worker that lives reports within so long after the controller's start."""


def changed(catalog: Catalog, reports: Reports, node_id: str, change: NodeChange) -> Node:
    """The node as it shall be from now on.

    Raises:
        NotFound: No node of that name was ever heard of.
        Conflict: It is to be drained and there is no other one, or it is to be removed and lives.
        Unavailable: The controller has not listened for long enough to know that it is gone.
    """
    node = catalog.nodes.get(node_id)
    if node is None:
        known = ", ".join(sorted(catalog.nodes)) or "none yet"
        raise NotFound(f"no node {node_id!r}", hint=f"nodes there are: {known}")
    if change is NodeChange.UNDRAIN:
        return replace(node, draining=False)
    if change is NodeChange.DRAIN:
        others = [other for other in catalog.nodes.values() if other.id != node_id and not other.draining]
        if not any(reports.silent_s(worker.id) <= LIVE_S for other in others for worker in other.workers):
            raise Conflict(
                f"no other node could take the replicas of {node_id}", hint="start one first: 'venice node list' shows those there are"
            )
        return replace(node, draining=True)
    for worker in node.workers:
        silent_s = reports.silent_s(worker.id)
        if reports.latest(worker.id) is None and silent_s <= _HEARD_S:
            raise Unavailable(f"the controller has just started and cannot say yet whether {node_id} is gone", hint="try again")
        if reports.latest(worker.id) is not None and silent_s <= LIVE_S:
            raise Conflict(
                f"node {node_id} lives: {worker.id} was heard {silent_s:.1f} s ago",
                hint=f"'venice node drain {node_id}' moves its replicas away; then stop it",
            )
    return replace(node, workers=(), draining=False)


def removed(before: Node, after: Node) -> tuple[str, ...]:
    """Ids of workers that a change took from a node: what they reported last must not bring them back."""
    left = {worker.id for worker in after.workers}
    return tuple(worker.id for worker in before.workers if worker.id not in left)
