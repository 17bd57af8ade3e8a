"""Catalog and reports side by side, as the control API shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from venice.control.answers import Health, NodeInfo, VersionInfo, WorkerInfo
from venice.control.catalog import Catalog
from venice.control.reports import LIVE_S, Reports
from venice.control.session import Session
from venice.errors import VeniceError
from venice.model import Assignment, Node, ReplicaState, Store, Version, Worker
from venice.rules import lifecycle


def version_info(catalog: Catalog, reports: Reports, store: Store, version: Version) -> VersionInfo:
    """A version and how far its replicas are."""
    assignment = catalog.assignments.get((store.name, version.number))
    progress = reports.progress(store.name, version, assignment)
    return VersionInfo(
        store=store.name,
        version=version,
        status=version.status.name,
        role=lifecycle.role(store, version),
        ready_partitions=progress.ready_partitions,
        placed=assignment is not None,
        ready_replicas=progress.ready_replicas,
        leaders=assignment.leaders if assignment is not None else (),
        lag_records=progress.lag_records,
        lag_s=progress.lag_s,
        faults=progress.faults,
    )


def node_infos(catalog: Catalog, reports: Reports) -> tuple[NodeInfo, ...]:
    """All nodes and their workers, by id."""
    kept = [one for one in catalog.assignments.values() if _has_replicas(catalog, one)]
    assigned = Counter(worker for one in kept for ids in one.replicas for worker in ids)
    return tuple(_node_info(node, reports, assigned) for _, node in sorted(catalog.nodes.items()))


def _has_replicas(catalog: Catalog, assignment: Assignment) -> bool:
    """Whether anybody keeps replicas of an assignment's version: those of one that failed are gone before it is."""
    store = catalog.stores.get(assignment.store)
    version = store.version(assignment.version) if store is not None else None
    return version is not None and version.status not in lifecycle.FAILED


def node_info(catalog: Catalog, reports: Reports, node_id: str) -> NodeInfo:
    """One of them, which there is."""
    return next(info for info in node_infos(catalog, reports) if info.node.id == node_id)


def _node_info(node: Node, reports: Reports, assigned: Counter[str]) -> NodeInfo:
    return NodeInfo(
        node=node,
        workers=tuple(worker_info(reports, worker) for worker in node.workers),
        assigned=sum(assigned[worker.id] for worker in node.workers),
    )


def worker_info(reports: Reports, worker: Worker) -> WorkerInfo:
    """A worker and what it said last."""
    report = reports.latest(worker.id)
    replicas = report.replicas if report is not None else ()
    return WorkerInfo(
        worker=worker,
        live=reports.silent_s(worker.id) <= LIVE_S,
        silent_s=reports.silent_s(worker.id),
        catalog_sequence=report.catalog_sequence if report is not None else 0,
        replicas=len(replicas),
        ready=sum(replica.state is ReplicaState.READY for replica in replicas),
    )


def health(region: str, session: Session, reports: Reports, problems: Sequence[str], stopped_by: VeniceError | None) -> Health:
    """How the controller is: it works unless something has stopped it."""
    catalog = session.catalog
    return Health(
        ok=stopped_by is None,
        region=region,
        term=session.term,
        session=session.id,
        catalog_sequence=catalog.sequence,
        stores=len(catalog.stores),
        workers=len(catalog.workers),
        workers_live=sum(reports.silent_s(worker) <= LIVE_S for worker in catalog.workers),
        problems=(*reports.problems, *problems, *([f"stopped: {stopped_by}"] if stopped_by is not None else ())),
    )
