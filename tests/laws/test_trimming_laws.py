"""What is trimmed of topics: never a record that somebody may still have to read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from venice.leader import real_time_partitions
from venice.model import (
    Checkpoint,
    HybridConfig,
    PartitionCheckpoints,
    SnapshotRef,
    StartOffset,
    Store,
    StoreConfig,
    Version,
    VersionStatus,
)
from venice.naming import checkpoint_name, parse_checkpoint_name
from venice.rules.trimming import is_due, real_time_needs, rewind_s, version_topic_cut

REGION = 0


def checkpoint(next_offset: int, vector: dict[int, int], rows: int = 0) -> Checkpoint:
    at = tuple(StartOffset(region=REGION, partition=partition, next_offset=offset) for partition, offset in sorted(vector.items()))
    return Checkpoint(
        snapshot=SnapshotRef(uri=f"/b/{next_offset}", sha256="s"),
        next_offset=next_offset,
        vector=at,
        row_count=rows,
        byte_count=rows,
        created_ms=0,
    )


def version(number: int, partitions: int, real_time: int, began: int, status: VersionStatus, rows: int = 0) -> Version:
    hybrid = HybridConfig(rewind_s=100 * number) if real_time else None
    return Version(
        number=number,
        push_id=str(number),
        status=status,
        partition_count=partitions,
        replication_factor=1,
        topic_id="t",
        created_ms=0,
        status_ms=0,
        start_offsets=tuple(StartOffset(region=REGION, partition=partition, next_offset=began) for partition in range(real_time)),
        hybrid=hybrid,
        real_time_partitions=real_time,
        row_count=rows,
    )


@st.composite
def stores(draw: st.DrawFn) -> tuple[Store, dict[tuple[str, int, int], PartitionCheckpoints]]:
    real_time = draw(st.integers(1, 6))
    versions = []
    recorded = {}
    for number in range(1, draw(st.integers(1, 3)) + 1):
        partitions = draw(st.integers(1, 6))
        status = draw(st.sampled_from((VersionStatus.STARTED, VersionStatus.ONLINE, VersionStatus.ROLLED_BACK, VersionStatus.KILLED)))
        began = draw(st.integers(0, 20))
        versions.append(version(number, partitions, draw(st.sampled_from((0, real_time, real_time))), began, status))
        for partition in range(partitions):
            kept: list[Checkpoint] = []
            for _ in range(draw(st.integers(0, 2))):
                read = real_time_partitions(partition, partitions, versions[-1].real_time_partitions)
                kept.append(checkpoint(9 - len(kept), {at: draw(st.integers(began, 40)) for at in read if draw(st.booleans())}))
            if kept and versions[-1].hybrid is not None:
                recorded["s", number, partition] = PartitionCheckpoints(store="s", version=number, partition=partition, kept=tuple(kept))
    store = Store(name="s", owner="", key_schema='"long"', value_schemas=(), config=StoreConfig(), versions=tuple(versions))
    return store, recorded


@given(stores())
def test_whatever_a_version_may_merge_again_is_kept(made: tuple[Store, dict[tuple[str, int, int], PartitionCheckpoints]]) -> None:
    store, recorded = made
    needs = real_time_needs(store, recorded, REGION)
    for one in store.versions:
        if one.hybrid is None or one.status is VersionStatus.KILLED:
            continue
        began = {start.partition: start.next_offset for start in one.start_offsets}
        for partition in range(one.partition_count):
            found = recorded.get(("s", one.number, partition))
            older = found.kept[1] if found is not None and len(found.kept) == 2 else checkpoint(0, {})
            merged = {at.partition: at.next_offset for at in older.vector}
            for real_time in real_time_partitions(partition, one.partition_count, one.real_time_partitions):
                assert needs[real_time] <= merged.get(real_time, began[real_time])


def test_a_version_topic_reaches_back_to_the_older_of_two_checkpoints() -> None:
    assert version_topic_cut(()) == 0
    assert version_topic_cut((checkpoint(5, {}),)) == 0, "with one there is nothing to fall back on but the beginning"
    assert version_topic_cut((checkpoint(9, {}), checkpoint(5, {}))) == 5


def test_a_checkpoint_is_due_when_folding_has_cost_as_much() -> None:
    one = version(1, 2, 2, 0, VersionStatus.ONLINE, rows=2000)
    assert [at for at in (0, 999, 1000, 5000) if is_due(at, None, one, records=10)] == [1000, 5000]
    newest = checkpoint(1000, {}, rows=500)
    assert [at for at in (1000, 1499, 1500) if is_due(at, newest, one, records=10)] == [1500]
    assert [at for at in (1500, 1999, 2000) if is_due(at, newest, one, records=1000)] == [2000]
    assert not is_due(10**9, None, one, records=0), "0 stands for never"


def test_the_longest_rewind_counts() -> None:
    versions = (version(1, 1, 1, 0, VersionStatus.ONLINE), version(2, 1, 0, 0, VersionStatus.ONLINE))
    store = Store(name="s", owner="", key_schema='"long"', value_schemas=(), config=StoreConfig(), versions=versions)
    assert rewind_s(store) == 100


@given(st.integers(0, 9999), st.integers(0, 2**62), st.integers(0, 2**32 - 1), st.integers(0, 2**64))
def test_the_name_of_a_checkpoint_says_what_it_is(partition: int, next_offset: int, writer: int, attempt: int) -> None:
    name = checkpoint_name(partition, next_offset, f"{writer:08x}", f"{attempt:x}")
    assert parse_checkpoint_name(name) == (partition, next_offset, f"{writer:08x}")


def test_other_names_are_no_checkpoints() -> None:
    for name in ("", "0123456789abcdef", "checkpoint-", "checkpoint-000001-5-0123456-0", "checkpoint-000001--01234567-0"):
        assert parse_checkpoint_name(name) is None
