"""What a worker process is made of: settings in, a log, a catalog, replicas and a server running.

A worker is a dataflow (see `flows/worker.py`) around a `WorkerRuntime`. The other processes: `controller_process.py`,
`router_process.py`, and `supervisor.py` for a node, which supervises workers, and a whole cluster on one machine.
"""

from __future__ import annotations

import resource
import secrets
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from venice import record as log_record
from venice.checkpoints import Checkpointer
from venice.clock import Clock, SystemClock
from venice.config import Settings
from venice.control.catalog import Catalog, CatalogTail
from venice.control.encoding import to_json
from venice.errors import VeniceError
from venice.faults import FaultLedger
from venice.leaders import LeaderSet, Merged
from venice.leading import Led
from venice.log import Entry
from venice.log.open import open_log
from venice.model import ReplicaReport, ReplicaState, VersionStatus, Worker, WorkerReport
from venice.naming import REPORTS_TOPIC, replica_name
from venice.processes import ensure_topics, on_stop_signal, worker_id, worker_url
from venice.record import Kind, Record
from venice.replica import Wanted
from venice.replicas import OpenVersions, ReplicaSet
from venice.serve.exposition import measure_requests, with_metrics
from venice.serve.http import HttpServer
from venice.serve.server import WorkerHandler
from venice.telemetry import CATALOG_SEQUENCE, REPLICAS, Metrics, log_event
from venice.watch import Registered, ValueLimit, Watch, schemas_of

REPORT_S = 1.0
"""A worker reports at every change and at least so often."""

SWITCH_S = 0.0005
"""How long the thread that folds may keep the interpreter from the one that answers reads; Python's own 5 ms would be each read's wait."""

_HELD = frozenset({VersionStatus.STARTED, VersionStatus.PUSHED, VersionStatus.ONLINE, VersionStatus.ROLLED_BACK})


class WorkerRuntime:
    """What a worker process owns: its replicas, the endpoint that reads them, its view of the catalog, its reports.

    The dataflow drives it: `start`, then `poll` and `fold` in one thread until `stopping` is set, then `close`.
    """

    def __init__(self, settings: Settings, index: int, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.index = index
        self.id = worker_id(settings, index)
        self.stopping = threading.Event()
        self._clock = clock or SystemClock()
        self._worker = Worker(id=self.id, url=worker_url(settings, index), incarnation=secrets.token_hex(8))
        self._changed = threading.Event()
        self._generation = -1
        self.merging = False
        """Whether the real-time topics had anything at the last look."""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Open everything and begin to serve.

        Raises:
            Conflict: The worker's port is taken, or another process owns its replicas.
            Unavailable: The log cannot be reached.
        """
        settings = self.settings
        _allow_many_files()
        sys.setswitchinterval(SWITCH_S)
        if threading.current_thread() is threading.main_thread():
            on_stop_signal(self.stopping.set)
        self._log = open_log(settings.log_url, self._clock)
        ensure_topics(self._log)
        self._tail = CatalogTail(self._log, self._clock)
        faults = FaultLedger(self._clock)
        self._replicas = ReplicaSet(
            settings.replicas / self.id,
            self._log,
            clock=self._clock,
            ids=lambda: secrets.token_hex(8),
            grace_s=settings.retire_grace_s,
            faults=faults,
        )
        self._leaders = LeaderSet(
            self._replicas,
            self._log,
            clock=self._clock,
            sessions=lambda: secrets.randbelow(2**63 - 1) + 1,
            faults=faults,
            is_registered=Registered(self._tail, self._log),
            value_bytes_max=ValueLimit(self._tail),
            heartbeat_s=settings.heartbeat_s,
        )
        self._watch = Watch(self._log, self._replicas, self._leaders, faults, self._clock)
        self._checkpoints = Checkpointer(
            self._replicas,
            Path(settings.blobs_url),
            self.id,
            clock=self._clock,
            ids=lambda: secrets.token_hex(8),
            records=settings.checkpoint_records,
            pause_s=settings.checkpoint_s,
            on_written=self._changed.set,
        )
        self._tail.start()
        self._want(self._tail.catalog)
        self._tail.subscribe(self._want)
        handler = WorkerHandler(lambda: self._tail.catalog, lambda: self._replicas.open, on_corrupt=self._replicas.condemn)
        answers, port = with_metrics(handler.handle, self._metrics()), settings.worker_port + self.index
        self._server = HttpServer(answers, settings.worker_host, port, lanes=handler.lane)
        self._server.start()
        reporter = threading.Thread(target=self._report, name="report", daemon=True)
        reporter.start()
        self._threads.append(reporter)
        self._checkpoints.start()
        log_event("worker_started", worker=self.id, url=self._worker.url)

    def poll(self, *, timeout_s: float) -> list[tuple[str, Sequence[Entry]]]:
        """As `ReplicaSet.poll`, without waiting while there is something to merge; also passes the replicas' changes on to the reports."""
        batches = self._replicas.poll(timeout_s=0.0 if self.merging else timeout_s)
        if self._replicas.generation != self._generation:
            self._generation = self._replicas.generation
            self._changed.set()
        return batches

    def fold(self, name: str, entries: Sequence[Entry]) -> int:
        """As `ReplicaSet.fold`."""
        return self._replicas.fold(name, entries)

    def poll_real_time(self) -> list[tuple[str, int, list[Entry]]]:
        """As `LeaderSet.poll`."""
        batches = self._leaders.poll()
        self.merging = any(entries for _, _, entries in batches)
        return batches

    def merge(self, name: str, region: int, entries: list[Entry]) -> Merged | None:
        """As `LeaderSet.merge`."""
        return self._leaders.merge(name, region, entries)

    def append(self, merged: Sequence[Merged]) -> None:
        """As `LeaderSet.append`."""
        self._leaders.append(merged)

    @property
    def leads(self) -> bool:
        """Whether any partition is led here."""
        return self._leaders.leads

    @property
    def open(self) -> OpenVersions:
        """What this worker can serve now."""
        return self._replicas.open

    def close(self) -> None:
        """Stop serving, then close the replicas; their directories stay for the next life."""
        self.stopping.set()
        self._changed.set()
        self._server.stop()
        for thread in self._threads:
            thread.join()
        self._tail.close()
        self._leaders.close()
        self._checkpoints.close()
        self._replicas.close()
        self._log.close()
        log_event("worker_stopped", worker=self.id)

    def _metrics(self) -> Metrics:
        metrics = Metrics()
        metrics.watch(CATALOG_SEQUENCE, lambda: self._tail.catalog.sequence)
        measure_requests(metrics, lambda: self._server)
        for state in ReplicaState:
            metrics.watch(REPLICAS, partial(self._count, state), state=state.value)
        self._watch.measure(metrics)
        return metrics

    def _count(self, state: ReplicaState) -> int:
        return sum(report.state is state for report in self._replicas.reports())

    def _want(self, catalog: Catalog) -> None:
        wanted: list[Wanted] = []
        led: list[Led] = []
        region = catalog.regions.get(self.settings.region)
        for (name, number), assignment in catalog.assignments.items():
            store = catalog.stores.get(name)
            version = store.version(number) if store is not None else None
            if version is None or version.snapshot is None or version.status not in _HELD:
                continue
            wanted.extend(
                Wanted(name, version, partition, catalog.kept(name, number, partition), schemas_of(store))
                for partition, ids in enumerate(assignment.replicas)
                if self.id in ids
            )
            if region is not None:
                led.extend(
                    Led(name, version, partition, leader.term, region.id)
                    for partition, leader in enumerate(assignment.leaders)
                    if leader is not None and leader.worker == self.id
                )
        self._replicas.want(wanted)
        self._leaders.want(led)
        leading = {one.name for one in led}
        self._checkpoints.want(one for one in wanted if one.name in leading)

    def _report(self) -> None:
        while not self.stopping.is_set():
            self._changed.wait(REPORT_S)
            self._changed.clear()
            if self.stopping.is_set():
                return
            self._watch.look()
            report = WorkerReport(
                node=self.settings.node,
                region=self.settings.region,
                worker=self._worker,
                catalog_sequence=self._tail.catalog.sequence,
                reported_ms=self._clock.now_ms(),
                replicas=tuple(self._completed(replica) for replica in self._replicas.reports()),
            )
            record = Record(kind=Kind.REPORT, key=f"worker/{self.id}".encode(), value=to_json(report), timestamp_ms=report.reported_ms)
            try:
                self._log.append(REPORTS_TOPIC, 0, [log_record.encode(record)])
            except VeniceError as error:
                # The next report is a full state again: nothing is lost by leaving this one out.
                log_event("report_failed", worker=self.id, reason=str(error))

    def _completed(self, replica: ReplicaReport) -> ReplicaReport:
        """The report of a replica that leads says what is left to merge, and which checkpoint the catalog may take."""
        replica = self._watch.completed(replica)
        checkpoint = self._checkpoints.written(replica_name(replica.store, replica.version, replica.partition))
        return replace(replica, checkpoint=checkpoint) if checkpoint is not None else replica


def _allow_many_files() -> None:
    """Raise this process's soft limit of open files to the hard one: a replica keeps seven, and 1024 end at 140 replicas."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
