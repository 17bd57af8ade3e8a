"""Which workers hold which partitions: rendezvous hashing over nodes, then over the workers of a node. Pure.

Every (store, partition) ranks all nodes by a hash and takes the first ones that still have room; room is shared out as
evenly as whole numbers allow. The same members give the same placement whoever computes it, and a member that comes or
goes disturbs few others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from venice.errors import Unavailable
from venice.model import Node

Replicas = tuple[tuple[str, ...], ...]
"""Worker ids by partition, preferred first."""


def place(store: str, partition_count: int, replication_factor: int, nodes: Iterable[Node], before: Replicas = ()) -> Replicas:
    """Worker ids for each partition: one per node, on `replication_factor` nodes, or on all if there are fewer.

    Args:
        store: Its name salts the ranking, so that small stores do not pile up on one node.
        nodes: Those to choose from, each with the workers to choose from; nodes without workers are left out.
        before: An earlier placement: what it says of these workers is kept, and only what is missing is placed.

    Raises:
        Unavailable: No worker is there.
    """
    workers = {node.id: tuple(sorted(worker.id for worker in node.workers)) for node in nodes if node.workers}
    if not workers:
        raise Unavailable(f"no worker can hold store {store!r}", hint="start a node: 'venice up' or 'venice run node'")
    home = {worker: node for node, ids in workers.items() for worker in ids}
    copies = min(replication_factor, len(workers))
    kept = [{home[worker]: worker for worker in reversed(_at(before, p)) if worker in home} for p in range(partition_count)]
    rows = [list(reversed(row))[:copies] for row in kept]
    share = _Share(partition_count * copies, sorted(workers), Counter(node for row in rows for node in row))
    for copy in range(copies):
        for partition, row in enumerate(rows):
            if len(row) <= copy:
                row.append(share.take(f"{store}/{partition}", set(row)))
    _level(rows, [min(len(row), copies) for row in kept], sorted(workers))
    total = Counter(node for row in rows for node in row)
    load = Counter(kept[p][node] for p, row in enumerate(rows) for node in row if node in kept[p])
    shares = {node: _Share(total[node], workers[node], load) for node in total}
    return tuple(tuple(kept[p].get(node) or shares[node].take(f"{store}/{p}", set()) for node in row) for p, row in enumerate(rows))


def needed(replication_factor: int, replicas: Sequence[str]) -> int:
    """How many replicas of a partition must be ready before it may serve: all but one, and at least one."""
    return max(1, min(replication_factor, len(replicas)) - 1)


def _level(rows: Sequence[list[str]], held: Sequence[int], members: Sequence[str]) -> None:
    """Move copies, but none of the first `held[p]` of a row, from the fullest member to the emptiest while that evens them out.

    Copies of a partition exclude each other, so the last ones placed may have found room only where there was none to spare.
    """
    load = Counter(dict.fromkeys(members, 0))
    load.update(member for row in rows for member in row)
    while True:
        least, most = min(members, key=lambda member: (load[member], member)), max(members, key=lambda member: (load[member], member))
        movable = (row for row, fixed in zip(rows, held, strict=True) if most in row[fixed:] and least not in row)
        row = next(movable, None) if load[most] - load[least] > 1 else None
        if row is None:
            return
        row[row.index(most)] = least
        load[most] -= 1
        load[least] += 1


class _Share:
    """Members among whom `total` things are shared out as evenly as whole numbers allow."""

    def __init__(self, total: int, members: Sequence[str], load: Counter[str]) -> None:
        self._members = members
        self._load = load
        self._even, self._odd = divmod(total, len(members))

    def take(self, key: str, taken: set[str]) -> str:
        """The member that ranks first for `key` among those not `taken` that have room; adds to its load."""
        above = sum(self._load[member] > self._even for member in self._members)
        free = [member for member in self._members if member not in taken]
        room = [m for m in free if self._load[m] < self._even or (self._load[m] == self._even and above < self._odd)]
        if not room:
            least = min(self._load[member] for member in free)
            room = [member for member in free if self._load[member] == least]
        chosen = max(room, key=lambda member: (_rank(key, member), member))
        self._load[chosen] += 1
        return chosen


def _at(before: Replicas, partition: int) -> tuple[str, ...]:
    return before[partition] if partition < len(before) else ()


def _rank(key: str, member: str) -> bytes:
    return blake2b(f"{key}\0{member}".encode(), digest_size=8).digest()
