"""Leadership shared out: once all has been calm for a while, who leads more partitions than others hands some on.

A leader stays as long as it can lead. So whoever came first, or stood in for others while they restarted, leads more than
its share, and all of its partitions wait on one process; moving one costs its readers a moment of freshness and no read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from venice.clock import Clock
from venice.control.catalog import Catalog
from venice.control.policy import Policy
from venice.control.reports import Reports
from venice.model import Assignment, Leadership, ReplicaState
from venice.rules import lifecycle


class Balance:
    """When it was last seen that leaders or workers changed; a controller that has just started has seen nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: object = None
        self._since_s = 0.0

    def plan(self, catalog: Catalog, reports: Reports, policy: Policy) -> list[Assignment]:
        """Assignments in which partitions move to replicas that are ready, on workers that lead at least two fewer."""
        led = _led(catalog)
        live = {id_: one.incarnation for id_, one in catalog.workers.items() if reports.silent_s(id_) <= policy.leader_lost_s}
        now_s = self._clock.monotonic_s()
        seen = (live, [assignment.leaders for assignment in led])
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        if now_s - self._since_s < policy.balance_s:
            return []
        counts = Counter(leader.worker for assignment in led for leader in assignment.leaders if leader is not None)
        changed = [(assignment, _shared(assignment, counts, set(live), reports)) for assignment in led]
        return [replace(before, leaders=after) for before, after in changed if after != before.leaders]


def _led(catalog: Catalog) -> list[Assignment]:
    found = []
    for (name, number), assignment in catalog.assignments.items():
        version = catalog.stores[name].version(number)
        if assignment.leaders and version is not None and version.status not in lifecycle.FAILED:
            found.append(assignment)
    return found


def _shared(assignment: Assignment, counts: Counter[str], live: set[str], reports: Reports) -> tuple[Leadership | None, ...]:
    """The leaders after moves, which `counts` takes note of."""

    def is_ready(worker: str, partition: int) -> bool:
        replica = reports.replica(worker, assignment.store, assignment.version, partition)
        return worker in live and replica is not None and replica.state is ReplicaState.READY

    after = list(assignment.leaders)
    for partition, leader in enumerate(assignment.leaders):
        if leader is None or not is_ready(leader.worker, partition):
            continue
        ready = [worker for worker in assignment.replicas[partition] if is_ready(worker, partition)]
        least = min(ready, key=counts.__getitem__, default=leader.worker)
        if counts[leader.worker] - counts[least] >= 2:
            counts[leader.worker] -= 1
            counts[least] += 1
            after[partition] = Leadership(worker=least, term=leader.term + 1)
    return tuple(after)
