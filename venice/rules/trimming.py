"""When a checkpoint is due, which are kept, and what of a topic nobody needs any more because of them. Pure.

A topic is trimmed only as far as everybody who might read it has another way: a version topic below its older checkpoint,
a real-time topic below what any version, made or to come, may still merge.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from venice.model import Checkpoint, PartitionCheckpoints, Store, Version
from venice.rules.lifecycle import FAILED

KEPT = 2
"""Checkpoints kept of a partition. The topic reaches back to the older one, so one that turns out bad loses nothing."""

Recorded = Mapping[tuple[str, int, int], PartitionCheckpoints]
"""By (store, version, partition)."""


def is_due(next_offset: int, newest: Checkpoint | None, version: Version, records: int) -> bool:
    """Whether a replica that was folded so far is worth a checkpoint.

    It takes at least `records` since the newest one, and as many as that one has rows: so that in the long run writing
    checkpoints costs no more than folding does, however large the partition is.

    Args:
        next_offset: Where the replica stands in its version topic.
        newest: The partition's newest checkpoint.
        version: Tells how many rows there were at the beginning.
        records: The least number; 0: never.
    """
    since, rows = (newest.next_offset, newest.row_count) if newest is not None else (0, version.row_count // version.partition_count)
    return records > 0 and next_offset - since >= max(records, rows)


def version_topic_cut(kept: tuple[Checkpoint, ...]) -> int:
    """Before which offset a partition of a version topic is needed no more; 0 while there is nothing to fall back on."""
    return kept[-1].next_offset if len(kept) >= KEPT else 0


def real_time_needs(store: Store, recorded: Recorded, region: int) -> dict[int, int]:
    """By real-time partition of a region: the first offset that a version which exists may still merge.

    A version merges again, at worst, what is not in its older checkpoint; without two of them, all since its beginning. A
    partition that is missing here is needed by none.
    """
    needs: dict[int, int] = {}
    for version in store.versions:
        if version.hybrid is None or version.status in FAILED:
            continue
        began = {start.partition: start.next_offset for start in version.start_offsets if start.region == region}
        step = gcd(version.partition_count, version.real_time_partitions)
        for partition in range(version.partition_count):
            found = recorded.get((store.name, version.number, partition))
            merged: dict[int, int] = {}
            if found is not None and len(found.kept) >= KEPT:
                merged = {at.partition: at.next_offset for at in found.kept[-1].vector if at.region == region}
            for real_time in range(partition % step, version.real_time_partitions, step):
                need = max(merged.get(real_time, 0), began.get(real_time, 0))
                needs[real_time] = min(needs.get(real_time, need), need)
    return needs


def rewind_s(store: Store) -> int:
    """How far back a version to come may want real-time writes, as far as it is known now."""
    configs = [store.hybrid, *(version.hybrid for version in store.versions)]
    return max((config.rewind_s for config in configs if config is not None), default=0)
