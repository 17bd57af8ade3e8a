"""Which replica to ask for what. Pure: loads and failures come in as arguments, a decision comes out.

Shared by the router and by clients that go straight to the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

from venice.errors import Full
from venice.rules.partitioning import partition_of
from venice.wire import encode_routed_key

Replica = TypeVar("Replica", bound=Hashable)

KEYS_MAX = 10_000
"""Most keys in one batch."""

_LONG_TAIL = ((12, 0.01), (150, 0.03), (500, 0.1))
"""Keys asked for at most, and how many seconds the answer may take before another replica is asked as well."""
_LONG_TAIL_S_MAX = 0.5


def check_key_count(count: int, keys_max: int = KEYS_MAX) -> None:
    """Raises Full if a batch has too many keys."""
    if count > keys_max:
        raise Full(f"a batch of {count} keys is too large", hint=f"ask for at most {keys_max} keys at a time", keys_max=keys_max)


def routed_keys(keys: Iterable[bytes], count: int) -> dict[int, list[bytes]]:
    """The keys of a batch as a worker is asked for them, by partition, in their order; `count` partitions in all."""
    routed: dict[int, list[bytes]] = {}
    for position, key in enumerate(keys):
        partition = partition_of(key, count)
        routed.setdefault(partition, []).append(encode_routed_key(position, key, partition))
    return routed


def long_tail_s(key_count: int) -> float:
    """How long a replica may take for so many keys before another one is asked as well."""
    return next((seconds for most, seconds in _LONG_TAIL if key_count <= most), _LONG_TAIL_S_MAX)


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
