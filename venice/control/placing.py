"""Which workers the replicas of sealed versions are given to, and taken from: the plan behind assignments.

Control path: reports → **placing** → catalog → workers.

A replica is moved by making the new one first: whoever is to lose it keeps it until those that shall have it are ready.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from venice.control.catalog import Catalog
from venice.control.policy import Policy
from venice.control.reports import LIVE_S, Reports
from venice.model import Assignment, Node, Store, Version, VersionStatus
from venice.rules import lifecycle
from venice.rules.placement import place


@dataclass(frozen=True, slots=True)
class _Members:
    """Who can hold replicas."""

    nodes: tuple[Node, ...]
    """Those that may be given some, with their workers."""
    usable: frozenset[str]
    """Their workers."""
    present: frozenset[str]
    """All workers that are not lost, those of draining nodes included."""

    @property
    def copies_max(self) -> int:
        return sum(bool(node.workers) for node in self.nodes)


def live_nodes(catalog: Catalog, reports: Reports, within_s: float = LIVE_S) -> list[Node]:
    """The nodes with those of their workers that were heard lately (all of them just after the controller's start)."""
    return [
        replace(node, workers=tuple(worker for worker in node.workers if reports.silent_s(worker.id) <= within_s))
        for node in catalog.nodes.values()
    ]


def placements(catalog: Catalog, reports: Reports, policy: Policy) -> list[Assignment]:
    """Assignments of sealed versions that have none yet, or in which a replica is to be made, moved or dropped."""
    fresh_nodes, lasting_nodes = live_nodes(catalog, reports), live_nodes(catalog, reports, policy.worker_lost_s)
    fresh, lasting = _members(fresh_nodes), _members(lasting_nodes)
    changed: list[Assignment] = []
    for store, version in _sealed(catalog):
        before = catalog.assignments.get((store.name, version.number))
        members = fresh if before is None else lasting
        if version.rollout is not None and version.rollout.nodes:
            members = _members([node for node in (fresh_nodes if before is None else lasting_nodes) if node.id in version.rollout.nodes])
        if not members.nodes or (before is not None and _is_settled(version, before, members)):
            continue
        made = before or Assignment(store=store.name, version=version.number, replicas=())
        wanted = place(store.name, version.partition_count, version.replication_factor, members.nodes, made.replicas)
        rows = tuple(
            (*row, *_kept(row, made.replicas[partition], version, members, _unready(reports, store, version, partition, row)))
            for partition, row in enumerate(wanted)
        ) if before is not None else wanted  # fmt: skip
        if rows != made.replicas:
            changed.append(replace(made, replicas=rows))
    return changed


def _sealed(catalog: Catalog) -> Iterator[tuple[Store, Version]]:
    for store in catalog.stores.values():
        for version in store.versions:
            if version.snapshot is not None and version.status not in lifecycle.FAILED:
                yield store, version


def _members(nodes: list[Node]) -> _Members:
    there = [node for node in nodes if node.workers]
    # If all are draining there is nowhere to go, and what is pushed must be somewhere.
    chosen = [node for node in there if not node.draining] or there
    usable = frozenset(worker.id for node in chosen for worker in node.workers)
    return _Members(tuple(chosen), usable, frozenset(worker.id for node in there for worker in node.workers))


def _is_settled(version: Version, before: Assignment, members: _Members) -> bool:
    """Nothing is to be done: each partition is on as many nodes as there can be, and on nobody else who could serve it."""
    copies = min(version.replication_factor, members.copies_max)
    spare = 0 if version.status is VersionStatus.STARTED else version.replication_factor - copies
    for row in before.replicas:
        held = sum(worker in members.usable for worker in row)
        if held != copies or not held <= len(row) <= held + spare or (len(row) > held and not members.present.isdisjoint(row[held:])):
            return False
    return True


def _kept(row: tuple[str, ...], before: tuple[str, ...], version: Version, members: _Members, unready: Collection[str]) -> list[str]:
    """Who stays beside those that shall hold a partition.

    While one of those is not ready, everybody who may serve stays. Where there are too few nodes for all copies, those that are
    lost stay as well: when one is back, it goes on from the replica it has.
    """
    left = [worker for worker in before if worker not in row]
    present = [worker for worker in left if worker in members.present] if unready else []
    if version.status is VersionStatus.STARTED:
        return present  # it counts on every replica that is named
    lost = [worker for worker in left if worker not in members.present]
    return present + lost[: max(0, version.replication_factor - len(row) - len(present))]


def _unready(reports: Reports, store: Store, version: Version, partition: int, row: tuple[str, ...]) -> list[str]:
    return [worker for worker in row if not reports.is_ready(worker, store.name, version.number, partition)]
