"""Swaps that an operator asks for, and versions that go to some nodes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from math import ceil

from venice.control import pushes, stores
from venice.control.catalog import Catalog
from venice.control.placing import live_nodes
from venice.control.reports import LIVE_S, Reports
from venice.errors import InvalidRequest, NotFound, Unavailable
from venice.model import ReplicaState, Rollout, Store, Version, VersionStatus
from venice.rules import lifecycle


def swapped(catalog: Catalog, reports: Reports, name: str, change: Callable[[Store, int], Store], now_ms: int) -> Store:
    """The store after `change` (a roll back or forward), without what that makes superfluous.

    Raises:
        NotFound: No such store.
        Conflict: There is nothing to change to.
        Unavailable: The version that would serve has partitions without a ready replica.
    """
    before = stores.find(catalog, name)
    after = change(before, now_ms)
    if after.current == before.current:
        return after  # It goes to the other nodes first, and is swapped in when it is there.
    target = lifecycle.find(after, after.current)
    if not reports.readable(name, target, catalog.assignments.get((name, target.number))):
        raise Unavailable(
            f"version {target.number} of store {name!r} has partitions without a ready replica",
            hint="try again when its workers have reported; 'venice version list' shows how many are ready",
        )
    return pushes.after_swap(after)


def planned(catalog: Catalog, reports: Reports, store: str, rollout: Rollout | None) -> Rollout | None:
    """`rollout` with the names of nodes in the place of a share of them, such as `25%`.

    Raises:
        NotFound: No such node.
        InvalidRequest: No node is named, or the share is none.
        Unavailable: None of them lives.
    """
    if rollout is None:
        return None
    live = sorted(node.id for node in live_nodes(catalog, reports) if node.workers and not node.draining)
    named: list[str] = []
    for name in rollout.nodes:
        if name.endswith("%"):
            named += _share(store, live, name)
        elif name in catalog.nodes:
            named.append(name)
        else:
            raise NotFound(f"no node {name!r}", hint=f"nodes there are: {', '.join(sorted(catalog.nodes)) or 'none yet'}")
    if not named:
        raise InvalidRequest("a version must go to some node first", hint="name nodes, or a share of them such as 25%")
    if not set(named) & set(live):
        raise Unavailable(f"none of {', '.join(named)} takes replicas now", hint="'venice node list' shows which nodes do")
    return replace(rollout, nodes=tuple(dict.fromkeys(named)))


def _share(store: str, live: list[str], text: str) -> list[str]:
    """At least one node; which ones depends on the store alone, so that not all stores try the same ones first."""
    number = text.removesuffix("%")
    if not number.isdecimal() or len(number) > 3 or not 0 < int(number) <= 100:
        raise InvalidRequest(f"{text!r} is no share of the nodes", hint="write it as 1% to 100%")
    ranked = sorted(live, key=lambda node: blake2b(f"{store}\0{node}".encode(), digest_size=8).digest())
    return ranked[: ceil(len(live) * int(number) / 100)]


def rolled_out(store: Store, catalog: Catalog, reports: Reports, now_ms: int) -> Store:
    """The store, with a version that has served its time on its first nodes on the way to all."""
    newest = store.versions[-1] if store.versions else None
    if newest is None or newest.status is not VersionStatus.PUSHED or newest.rollout is None or newest.rollout.after_s is None:
        return store
    due = now_ms >= newest.status_ms + newest.rollout.after_s * 1000
    assignment = catalog.assignments.get((store.name, newest.number))
    if not due or not reports.progress(store.name, newest, assignment).complete:
        return store
    return lifecycle.rolled_forward(store, now_ms)


def is_everywhere(catalog: Catalog, reports: Reports, store: str, version: Version) -> bool:
    """Whether a version that is rolled out is ready wherever it can be: it was ready in parts before, so that says nothing."""
    assignment = catalog.assignments.get((store, version.number))
    if version.rollout is None or assignment is None:
        return assignment is not None
    for partition, row in enumerate(assignment.replicas):
        for worker in row:
            replica = reports.replica(worker, store, version.number, partition)
            if reports.silent_s(worker) <= LIVE_S and (replica is None or replica.state not in (ReplicaState.READY, ReplicaState.ERROR)):
                return False
    return True
