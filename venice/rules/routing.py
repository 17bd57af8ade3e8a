"""Which replica to ask for what. Pure: loads and failures come in as arguments, a decision comes out.

Shared by the router and by clients that go straight to the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

Replica = TypeVar("Replica", bound=Hashable)


def choose(replicas: Iterable[Replica], load: Callable[[Replica], float], avoided: Collection[Replica]) -> Replica | None:
    """The least loaded of the replicas that are not avoided; of equals the first. None if all are avoided."""
    return min((replica for replica in replicas if replica not in avoided), key=load, default=None)


def scatter(
    partitions: Iterable[int],
    replicas: Sequence[Sequence[Replica]],
    load: Callable[[Replica], float],
    avoided: Collection[Replica],
) -> tuple[dict[Replica, list[int]], list[int]]:
    """Who is asked for which partitions, and the partitions nobody can be asked for.

    Each partition goes to its least loaded replica; of equals to one that is asked anyway, so that a batch is few requests.
    """
    plan: dict[Replica, list[int]] = {}
    orphans: list[int] = []
    for partition in partitions:
        usable = (replica for replica in replicas[partition] if replica not in avoided)
        chosen = min(usable, key=lambda replica: (load(replica), replica not in plan), default=None)
        if chosen is None:
            orphans.append(partition)
        else:
            plan.setdefault(chosen, []).append(partition)
    return plan, orphans
