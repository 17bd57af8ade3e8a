"""What the workers say: the newest report of each, who is alive, and how many replicas of a version are ready.

Reports are full states, so only the newest of each worker matters, and only those that came since the controller
started: an older one may describe a process that is long gone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from venice.clock import Clock
from venice.control.encoding import decode_report
from venice.errors import Corrupt
from venice.log import Entry, Log
from venice.model import Assignment, Fault, FaultCount, ReplicaReport, ReplicaState, Version, WorkerReport
from venice.naming import REPORTS_TOPIC
from venice.rules.placement import needed

_PROBLEMS_MAX = 20
_FORMER_MAX = 16
_KEEP_S = 60.0
"""Reports stay in the log for so long, for whoever looks at it."""

LIVE_S = 5.0
"""A worker reports every second; one that has been silent for so long does not count as ready."""


@dataclass(frozen=True, slots=True)
class _Heard:
    report: WorkerReport
    at_s: float
    replicas: dict[tuple[str, int, int], ReplicaReport]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replicas of a version are."""

    ready_partitions: int
    ready_replicas: int
    complete: bool
    """Every partition has as many replicas ready as it needs."""
    failure: str
    """Why it cannot become complete; empty while it can."""
    lag_records: int = 0
    """What the replicas have left to merge or to fold, together."""
    lag_s: float = 0.0
    """Of the one that is furthest behind."""
    faults: tuple[FaultCount, ...] = ()
    """Of all replicas together, the most frequent first."""


class Reports:
    """The reports since this was made. `poll` in one thread; all else under the controller's lock."""

    def __init__(self, log: Log, clock: Clock) -> None:
        log.create_topic(REPORTS_TOPIC, 1)
        self._log = log
        self._clock = clock
        self._reader = log.reader({(REPORTS_TOPIC, 0): log.end_offset(REPORTS_TOPIC, 0)})
        self._heard: dict[str, _Heard] = {}
        self._former: dict[str, deque[str]] = {}
        self._since_s = clock.monotonic_s()
        self._deletable = self._reader.position(REPORTS_TOPIC, 0)
        self._deleted_s = self._since_s
        self.problems: deque[str] = deque(maxlen=_PROBLEMS_MAX)
        """Reports that could not be read, newest last."""

    def poll(self, timeout_s: float = 0.0) -> list[Entry]:
        """The entries that are there, or that come within `timeout_s`. Waits, so call it without a lock held."""
        return self._reader.poll(timeout_s=timeout_s)

    def take(self, entries: Iterable[Entry]) -> bool:
        """Take in what `poll` returned; whether any replica or worker changed."""
        changed = False
        for entry in entries:
            try:
                changed |= self._take(decode_report(entry.payload))
            except Corrupt as error:
                # A worker's next report says everything again; the cluster must not stop for one.
                self.problems.append(f"report {entry.offset}: {error.message}")
        return changed

    def _take(self, report: WorkerReport) -> bool:
        worker = report.worker
        before = self._heard.get(worker.id)
        if worker.incarnation in self._former.get(worker.id, ()):
            return False
        if before is not None and before.report.worker.incarnation != worker.incarnation:
            self._former.setdefault(worker.id, deque(maxlen=_FORMER_MAX)).append(before.report.worker.incarnation)
        replicas = {(replica.store, replica.version, replica.partition): replica for replica in report.replicas}
        self._heard[worker.id] = _Heard(report, self._clock.monotonic_s(), replicas)
        return before is None or before.report.worker != worker or before.replicas != replicas

    def latest(self, worker_id: str) -> WorkerReport | None:
        heard = self._heard.get(worker_id)
        return heard.report if heard is not None else None

    def forget(self, worker_ids: Iterable[str]) -> None:
        """Take workers for such as were never heard, until they report again."""
        for worker_id in worker_ids:
            self._heard.pop(worker_id, None)

    def silent_s(self, worker_id: str) -> float:
        """Seconds since the worker's last report; since this was made if there was none."""
        heard = self._heard.get(worker_id)
        return self._clock.monotonic_s() - (heard.at_s if heard is not None else self._since_s)

    def reporting(self, within_s: float) -> list[WorkerReport]:
        """The newest reports of all workers heard within so many seconds, by worker id."""
        horizon_s = self._clock.monotonic_s() - within_s
        return [heard.report for _, heard in sorted(self._heard.items()) if heard.at_s >= horizon_s]

    def replica(self, worker_id: str, store: str, version: int, partition: int) -> ReplicaReport | None:
        """What the worker said last of a replica; None if nothing, or if it has not reported since this was made."""
        heard = self._heard.get(worker_id)
        return heard.replicas.get((store, version, partition)) if heard is not None else None

    def progress(self, store: str, version: Version, assignment: Assignment | None) -> Progress:
        """How far the version's replicas are, of those its assignment names."""
        if assignment is None:
            return Progress(0, 0, False, "")
        ready_partitions = ready_replicas = lag_records = 0
        lag_s = 0.0
        faults: Counter[tuple[str, Fault]] = Counter()
        failure = ""
        for partition, ids in enumerate(assignment.replicas):
            least = needed(version.replication_factor, ids)
            found = [(worker_id, self.replica(worker_id, store, version.number, partition)) for worker_id in ids]
            lag_records += sum(replica.lag_records for _, replica in found if replica is not None)
            for _, replica in found:
                if replica is not None:
                    lag_s = max(lag_s, replica.lag_s)
                    faults.update({(one.topic, one.fault): one.count for one in replica.faults})
            errors = [(worker_id, replica) for worker_id, replica in found if replica is not None and replica.state is ReplicaState.ERROR]
            ready = sum(self.is_ready(worker_id, store, version.number, partition) for worker_id in ids)
            ready_replicas += ready
            ready_partitions += ready >= least
            if not failure and len(ids) - len(errors) < least:
                worker_id, broken = errors[0]
                failure = f"partition {partition} failed on worker {worker_id}: {broken.error or 'no reason given'}"
        counts = tuple(FaultCount(topic=topic, fault=fault, count=count) for (topic, fault), count in faults.most_common())
        return Progress(ready_partitions, ready_replicas, ready_partitions == len(assignment.replicas), failure, lag_records, lag_s, counts)

    def readable(self, store: str, version: Version, assignment: Assignment | None) -> bool:
        """Every partition has a replica that is ready."""
        return assignment is not None and all(
            any(self.is_ready(worker_id, store, version.number, partition) for worker_id in ids)
            for partition, ids in enumerate(assignment.replicas)
        )

    def forget_old(self) -> None:
        """Delete reports from the log that everybody interested has had time to read."""
        if self._clock.monotonic_s() - self._deleted_s >= _KEEP_S:
            self._log.delete_prefix(REPORTS_TOPIC, 0, self._deletable)
            self._deletable = self._reader.position(REPORTS_TOPIC, 0)
            self._deleted_s = self._clock.monotonic_s()

    def close(self) -> None:
        self._reader.close()

    def is_ready(self, worker_id: str, store: str, version: int, partition: int) -> bool:
        """Whether a worker can answer for a partition, as it said itself a moment ago."""
        replica = self.replica(worker_id, store, version, partition)
        return replica is not None and replica.state is ReplicaState.READY and self.silent_s(worker_id) <= LIVE_S
