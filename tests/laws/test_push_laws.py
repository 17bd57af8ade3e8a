"""Laws of the push: partitions are `partition_of`, runs and merges are Python's sort, whatever the keys look like."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.errors import InvalidRequest
from venice.push import runs
from venice.push.duplicates import EXAMPLES_MAX, Conflicts, DuplicatePolicy, refuse_conflicts
from venice.push.keys import key_column, partitions, sort
from venice.push.merge import merge
from venice.push.runs import Block, Spill, write_run
from venice.rules.partitioning import partition_of

# Few different bytes make equal prefixes, and zeros at the end are what padding must not swallow.
KEYS = st.one_of(
    st.binary(max_size=12),
    st.lists(st.sampled_from([0, 1, 255]), max_size=20).map(bytes),
    st.binary(min_size=50, max_size=130),
    st.integers(0, 30).map(lambda n: b"a common prefix longer than words " + bytes(n)),
)
ROWS = st.lists(st.tuples(KEYS, st.binary(max_size=6)), max_size=120)
COUNTS = st.sampled_from([1, 2, 3, 8, 1000, 2**16, 2**16 + 1, 2**31 - 1])


@given(st.lists(KEYS, max_size=60), COUNTS)
def test_partitions_of_a_column_are_those_of_its_keys(keys: list[bytes], count: int) -> None:
    column = key_column(np.array([len(key) for key in keys], np.int32), b"".join(keys))
    assert partitions(column, count).tolist() == [partition_of(key, count) for key in keys]


@given(st.lists(KEYS, max_size=80), st.integers(1, 4), st.booleans())
def test_rows_sort_by_group_then_bytes_then_sequence(keys: list[bytes], groups: int, backwards: bool) -> None:
    column = key_column(np.array([len(key) for key in keys], np.int32), b"".join(keys))
    group = np.array([len(key) % groups for key in keys], np.uint16)
    sequence = np.arange(len(keys), dtype=np.int32)[:: -1 if backwards else 1]
    order = sort(column, group, sequence)
    expected = sorted(range(len(keys)), key=lambda row: (group[row], keys[row], sequence[row]))
    assert order.rows.tolist() == expected
    assert order.same.tolist() == [i > 0 and keys[row] == keys[expected[i - 1]] for i, row in enumerate(expected)]
    assert [column.at(row) for row in range(len(keys))] == keys


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@given(
    st.lists(ROWS, max_size=6),
    st.sampled_from([1, 3, 8, 40]),
    st.sampled_from([1, 60, 65536]),
    st.sampled_from([1, 200, 1 << 20]),
    st.booleans(),
)
def test_merged_runs_are_the_last_row_of_each_key_in_order(
    scratch: Path, stretches: list[list[tuple[bytes, bytes]]], partition_count: int, block_bytes: int, step_bytes: int, large: bool
) -> None:
    policy = DuplicatePolicy(allow=True)
    expected = {key: value for rows in stretches for key, value in rows}
    rows_read = sum(map(len, stretches))
    blocks: dict[int, list[Block]] = {}
    duplicates = 0
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(runs, "BLOCK_BYTES", block_bytes)
        spills = [stack.enter_context(closing(Spill(scratch, partition_count, spills=8))) for _ in range(2)]
        kind = pa.large_binary() if large else pa.binary()
        for number, rows in enumerate(stretches):
            keys, values = (pa.array([row[side] for row in rows], kind) for side in (0, 1))
            run = write_run(number, keys, values, partition_count, spills[number % 2], policy)
            duplicates += run.duplicates
            for partition, found in run.blocks.items():
                blocks.setdefault(partition, []).extend(found)
        merged: dict[bytes, bytes] = {}
        for partition, found in sorted(blocks.items()):
            keys_seen: list[bytes] = []
            for step in merge(found, policy, step_bytes):
                keys_seen += step.keys
                duplicates += step.duplicates
                assert step.bytes == sum(map(len, [*step.keys, *step.values]))
                merged.update(zip(step.keys, step.values, strict=True))
            assert keys_seen == sorted(set(keys_seen))
            assert all(partition_of(key, partition_count) == partition for key in keys_seen)
            last_of_file = all(spills[0].file_of(other) != spills[0].file_of(partition) for other in blocks if other > partition)
            for spill in spills if last_of_file else ():
                spill.release(spill.file_of(partition))
    assert merged == expected
    assert duplicates == rows_read - len(expected)
    assert list(scratch.iterdir()) == [], "runs have no names"


@given(st.lists(ROWS, max_size=4), st.sampled_from([1, 3]), st.sampled_from([1, 60, 65536]))
def test_rows_that_differ_under_one_key_are_named_once_and_equal_ones_are_not(
    scratch: Path, stretches: list[list[tuple[bytes, bytes]]], partition_count: int, block_bytes: int
) -> None:
    policy = DuplicatePolicy(allow=False)
    rows = [row for stretch in stretches for row in stretch]
    differing = {key for key, _ in rows if len({value for other, value in rows if other == key}) > 1}
    blocks: dict[int, list[Block]] = {}
    dropped = 0
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(runs, "BLOCK_BYTES", block_bytes)
        spill = stack.enter_context(closing(Spill(scratch, partition_count)))
        for number, stretch in enumerate(stretches):
            keys, values = (pa.array([row[side] for row in stretch], pa.binary()) for side in (0, 1))
            run = write_run(number, keys, values, partition_count, spill, policy)
            dropped += run.duplicates
            assert run.rows <= 2 * len({key for key, _ in stretch})
            for partition, found in run.blocks.items():
                blocks.setdefault(partition, []).extend(found)
        of_partitions = []
        for _, found in sorted(blocks.items()):
            conflicts = Conflicts()
            for step in merge(found, policy, 200):
                conflicts = conflicts.plus(step.conflicts)
                dropped += step.duplicates
            of_partitions.append(conflicts)
    assert sum(one.count for one in of_partitions) == len(differing)
    for one in of_partitions:
        assert len(one.keys) == len(set(one.keys)) == min(one.count, EXAMPLES_MAX)
        assert differing.issuperset(one.keys)
    assert dropped == len(rows) - len({key for key, _ in rows})


def test_a_message_about_conflicts_names_keys_of_every_partition_and_their_number() -> None:
    schema = '{"type": "record", "name": "K", "fields": [{"name": "k", "type": "bytes"}]}'
    refuse_conflicts(schema, [Conflicts(), Conflicts()])
    with pytest.raises(InvalidRequest, match=r"have the same key: b'1', b'2' \(") as caught:
        refuse_conflicts(schema, [Conflicts(), Conflicts(1, (b"\x021",)), Conflicts(1, (b"\x022",))])
    assert caught.value.data == {"keys": ["b'1'", "b'2'"], "count": 2}
    many = Conflicts(2_000, tuple(b"\x02%d" % key for key in range(9)))
    with pytest.raises(InvalidRequest, match=r"same key: b'0', b'9', b'1', .*, b'8' and 1,991 more \(") as caught:
        refuse_conflicts(schema, [many, Conflicts(1, (b"\x029",))])
    assert (len(caught.value.data["keys"]), caught.value.data["count"]) == (EXAMPLES_MAX, 2_001)


@given(st.integers(1, 70), st.integers(1, 100))
def test_partitions_share_files_with_their_neighbours(scratch: Path, partition_count: int, spills: int) -> None:
    with closing(Spill(scratch, partition_count, spills=spills)) as spill:
        files = [spill.file_of(partition) for partition in range(partition_count)]
        assert files == sorted(files)
        assert set(files) == set(range(len(spill.descriptors)))
        assert len(spill.descriptors) == min(partition_count, max(1, 64 // spills))
