"""A controller on a real log with real snapshots, and workers that only report: what the tests of control share."""

from __future__ import annotations

from pathlib import Path
from random import Random

from venice.clock import Clock
from venice.control.answers import PushGrant
from venice.control.controller import Controller
from venice.control.encoding import encode_report
from venice.control.policy import Policy
from venice.log import Log
from venice.model import ReplicaReport, ReplicaState, SnapshotRef, Worker, WorkerReport
from venice.naming import REPORTS_TOPIC
from venice.schema.codec import Codec
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.snapshot import PartitionWriter, seal

KEY_SCHEMA = '"long"'
VALUE_SCHEMA = '"string"'


def write_snapshot(grant: PushGrant, rows: int = 20, value_schema_id: int = 1) -> tuple[SnapshotRef, Manifest]:
    """Write and seal rows 0 … into the folder of the grant, dealt out to the partitions in turn."""
    folder = Path(grant.folder)
    folder.mkdir(parents=True)
    key, value = Codec(KEY_SCHEMA), Codec(VALUE_SCHEMA)
    files = []
    for partition in range(grant.partition_count):
        mine = sorted((key.encode(n), value.encode(f"row {n}")) for n in range(partition, rows, grant.partition_count))
        if mine:
            writer = PartitionWriter(folder / file_name(partition))
            for k, v in mine:
                writer.put(k, encode_value(value_schema_id, v))
            files.append(writer.finish(partition))
    manifest = Manifest(
        store=grant.store,
        version=grant.number,
        partition_count=grant.partition_count,
        value_schema_id=value_schema_id,
        files=tuple(files),
        created_ms=0,
    )
    return seal(folder, manifest), manifest


class Workers:
    """Worker processes as the controller sees them: what they append to the reports topic."""

    def __init__(self, log: Log, clock: Clock, *ids: str) -> None:
        self._log = log
        self._clock = clock
        self.workers = {id_: Worker(id=id_, url=f"http://{id_}", incarnation=f"{id_}-life-1") for id_ in ids}

    def restart(self, worker_id: str, life: int) -> None:
        """A new life of the process, at the same address."""
        self.workers[worker_id] = Worker(id=worker_id, url=f"http://{worker_id}", incarnation=f"{worker_id}-life-{life}")

    def report(self, controller: Controller, *only: str, state: ReplicaState = ReplicaState.READY, error: str = "") -> None:
        """Every worker (or `only` these) says that all it is assigned is in this state; the node is the part before `-`."""
        for worker in [self.workers[id_] for id_ in only or self.workers]:
            replicas = tuple(
                ReplicaReport(store=store, version=version, partition=partition, state=state, error=error)
                for (store, version), assignment in controller.catalog.assignments.items()
                for partition, ids in enumerate(assignment.replicas)
                if worker.id in ids
            )
            self.send(worker, replicas)

    def send(self, worker: Worker, replicas: tuple[ReplicaReport, ...]) -> None:
        report = WorkerReport(
            node=worker.id.partition("-")[0],
            region="here",
            worker=worker,
            catalog_sequence=0,
            reported_ms=self._clock.now_ms(),
            replicas=replicas,
        )
        self._log.append(REPORTS_TOPIC, 0, [encode_report(report)])


def make_policy(folder: Path) -> Policy:
    return Policy(region="here", blobs_url=str(folder / "blobs"), push_lease_s=15, retire_grace_s=5)


def open_controller(log: Log, clock: Clock, policy: Policy, seed: int = 1) -> Controller:
    controller = Controller(log, clock, policy, rng=Random(seed))
    controller.open()
    return controller


def seal_push(controller: Controller, grant: PushGrant, rows: int = 20) -> None:
    """The pusher's part: snapshot and seal."""
    ref, manifest = write_snapshot(grant, rows)
    controller.seal(grant.store, grant.number, uri=ref.uri, sha256=ref.sha256, rows=manifest.rows, bytes_=manifest.bytes, value_schema_id=1)


def push(controller: Controller, workers: Workers, store: str, push_id: str, *, deferred_swap: bool = False) -> PushGrant:
    """A whole push: sealed, reported ready, and looked after by one tick."""
    grant = controller.create_version(store, push_id=push_id, deferred_swap=deferred_swap)
    seal_push(controller, grant)
    workers.report(controller)
    controller.tick()
    return grant
