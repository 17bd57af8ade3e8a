"""What a controller does by itself: it compares the catalog with what workers report and says what must change.

Every function is a plan: it takes the catalog and the reports and returns the entities to write. A controller that has
just started makes the same plans as one that has run for days, so nothing that was begun is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from venice.control.catalog import Catalog
from venice.control.policy import Policy
from venice.control.pushes import after_swap, expired
from venice.control.reports import Reports
from venice.control.swaps import is_everywhere, rolled_out
from venice.model import Assignment, Leadership, Node, Region, ReplicaState, Store, Version, Worker
from venice.rules import lifecycle

_LEADING = (ReplicaState.READY, ReplicaState.FOLLOWING)
"""States in which a replica can lead, best first."""

Silence = Callable[[str, int], float]
"""(store, version) → seconds since its push was heard of."""


def regions(catalog: Catalog, policy: Policy) -> list[Region]:
    """The controller's own region, if it has no number yet."""
    if policy.region in catalog.regions:
        return []
    return [Region(id=max((region.id for region in catalog.regions.values()), default=-1) + 1, name=policy.region)]


def nodes(catalog: Catalog, reports: Reports, policy: Policy) -> list[Node]:
    """Nodes whose workers have changed: come, restarted, moved to another address, or been silent for too long."""
    heard = reports.reporting(policy.worker_lost_s)
    if not heard:
        # Nobody speaks: the controller may be the one cut off, and there is nowhere to send readers instead.
        return []
    home: dict[str, tuple[str, str, Worker]] = {}
    for node in catalog.nodes.values():
        for worker in node.workers:
            if reports.silent_s(worker.id) <= policy.worker_lost_s:
                home[worker.id] = (node.id, node.region, worker)
    home.update({report.worker.id: (report.node, report.region, report.worker) for report in heard})
    found: dict[str, Node] = {node.id: replace(node, workers=()) for node in catalog.nodes.values()}
    for _, (node_id, region, worker) in sorted(home.items()):
        before = found.get(node_id, Node(id=node_id, region=region, workers=()))
        found[node_id] = replace(before, region=region, workers=(*before.workers, worker))
    return [node for node in found.values() if node != catalog.nodes.get(node.id)]


def leaders(catalog: Catalog, reports: Reports, policy: Policy) -> list[Assignment]:
    """Assignments of hybrid versions in which a partition has no leader yet, or one that cannot lead any more.

    Each leader after the first has a term one larger than the one before it. A leader that nobody can follow keeps its
    own: when its worker is back, in whatever life, it leads again.
    """
    changed: list[Assignment] = []
    for (name, number), assignment in catalog.assignments.items():
        version = catalog.stores[name].version(number)
        if version is None or version.hybrid is None or version.status in lifecycle.FAILED:
            continue
        before = assignment.leaders or (None,) * len(assignment.replicas)
        after = tuple(_leader(assignment, partition, leader, reports, policy) for partition, leader in enumerate(before))
        if after != before:
            changed.append(replace(assignment, leaders=after))
    return changed


def _leader(assignment: Assignment, partition: int, before: Leadership | None, reports: Reports, policy: Policy) -> Leadership | None:
    ids = assignment.replicas[partition]

    def state(worker: str) -> ReplicaState | None:
        replica = reports.replica(worker, assignment.store, assignment.version, partition)
        return replica.state if replica is not None and reports.silent_s(worker) <= policy.leader_lost_s else None

    if before is not None and before.worker in ids:
        # A controller that has just started hears of the leader within a second: until then it is taken to be well.
        unheard = reports.latest(before.worker) is None and reports.silent_s(before.worker) <= policy.leader_lost_s
        if unheard or state(before.worker) in _LEADING:
            return before
    # One that is ready has folded nearly all there is, so it leads sooner than one that has just been attached.
    chosen = next((worker for wanted in _LEADING for worker in ids if state(worker) is wanted), None)
    if chosen is None or (before is not None and chosen == before.worker):
        return before
    return Leadership(worker=chosen, term=before.term + 1 if before is not None else 1)


def stores(catalog: Catalog, reports: Reports, policy: Policy, silent_s: Silence, now_ms: int) -> list[Store]:
    """Stores in which a version is complete, has failed, or has been kept for long enough."""
    changed: list[Store] = []
    for store in catalog.stores.values():
        after = without_dead_push(store, policy, silent_s, now_ms)
        version = lifecycle.ongoing(after)
        if version is not None and version.snapshot is not None:
            after = _advanced(after, version, catalog, reports, policy, now_ms)
        after = rolled_out(after, catalog, reports, now_ms)
        gone = expired(after, now_ms, policy)
        after = lifecycle.retired(after, gone) if gone else after
        if after is not store:
            changed.append(after)
    return changed


def without_dead_push(store: Store, policy: Policy, silent_s: Silence, now_ms: int) -> Store:
    """The store, with a push that has not sealed and is silent turned to ERROR."""
    version = lifecycle.ongoing(store)
    if version is None or version.snapshot is not None:
        return store
    silence_s = silent_s(store.name, version.number)
    if silence_s <= policy.push_lease_s:
        return store
    return lifecycle.failed(store, version.number, f"the push was silent for {silence_s:.0f} s and is taken for dead", now_ms)


def _advanced(store: Store, version: Version, catalog: Catalog, reports: Reports, policy: Policy, now_ms: int) -> Store:
    progress = reports.progress(store.name, version, catalog.assignments.get((store.name, version.number)))
    if progress.complete and is_everywhere(catalog, reports, store.name, version):
        done = lifecycle.completed(store, version.number, now_ms)
        return after_swap(done) if done.current == version.number else done
    if progress.failure:
        return lifecycle.failed(store, version.number, progress.failure, now_ms)
    if now_ms - version.status_ms > policy.ingest_timeout_s * 1000:
        behind = f", {progress.lag_records} records behind" if version.hybrid is not None else ""
        reason = f"only {progress.ready_partitions} of {version.partition_count} partitions were ready in time{behind}"
        return lifecycle.failed(store, version.number, reason, now_ms)
    return store
