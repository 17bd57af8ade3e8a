"""Sorted runs of one partition → its rows in ascending key order, in bounded memory.

Write path: read → encode → partition → **sort** → seal. Blocks of all runs are loaded in the order of their first keys.
Every row below the first key of the next block that was not loaded yet is then in memory: those rows are sorted at once,
with NumPy, and handed on; the others wait for the next step. So a step holds `step_bytes`, and about half a block per run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from venice.errors import Unavailable
from venice.push.duplicates import DuplicatePolicy
from venice.push.keys import KeyColumn, Order, key_column, sort
from venice.push.runs import Block, assemble, flatten

STEP_BYTES: Final = 8 << 20
"""Least a step loads: few enough bytes for a core's cache, enough rows to make NumPy's overhead small."""


class Sorted(NamedTuple):
    """Rows in ascending order of their keys, all above those of the step before."""

    keys: list[bytes]
    values: list[bytes]
    duplicates: int


class _Held(NamedTuple):
    """Rows in memory: key lengths and bytes, value lengths and bytes, and the run each row is from."""

    key_lengths: npt.NDArray[np.int32]
    key_data: bytes
    value_lengths: npt.NDArray[np.uint32]
    value_data: bytes
    runs: npt.NDArray[np.int32]


def merge(blocks: Sequence[Block], policy: DuplicatePolicy, step_bytes: int = STEP_BYTES) -> Iterator[Sorted]:
    """The rows of `blocks` by ascending key; equal keys settled by `policy`, later runs being later rows.

    Raises:
        InvalidRequest: Equal keys with different values that the policy refuses.
    """
    pending = sorted(blocks, key=lambda block: block.first)
    runs = len({block.run for block in pending})
    # Fewer bytes than one block of each run would load, and sort again, mostly rows that must wait.
    step_bytes = max(step_bytes, 2 * runs * (sum(block.size for block in pending) // max(1, len(pending))))
    waiting: list[_Held] = []
    low = 0
    while low < len(pending):
        high, loaded = low, 0
        while high < len(pending) and (loaded < step_bytes or high == low):
            loaded += pending[high].size
            high += 1
        held = _join([*waiting, *(_load(block) for block in pending[low:high])])
        bound = pending[high].first if high < len(pending) else None
        low = high
        column = key_column(held.key_lengths, held.key_data)
        order = sort(column, None, held.runs)
        cut = _rows_below(column, order, bound)
        values = assemble(held.value_lengths, held.value_data)
        keys = assemble(held.key_lengths.astype(np.uint32), held.key_data)
        ready = policy.settle(Order(order.rows[:cut], order.same[:cut]), column, values)
        waiting = [_take(keys, values, held.runs, order.rows[cut:])]
        if cut:
            picked = pa.array(ready)
            yield Sorted(_objects(keys.take(picked)), _objects(values.take(picked)), cut - len(ready))


def _load(block: Block) -> _Held:
    data = os.pread(block.descriptor, block.size, block.offset)
    if len(data) != block.size:
        raise Unavailable("the push's scratch file ended early", hint="push again")
    lengths = np.frombuffer(data, np.uint32, 2 * block.rows)
    values_from = 8 * block.rows + block.key_bytes
    return _Held(
        lengths[: block.rows].astype(np.int32),
        data[8 * block.rows : values_from],
        lengths[block.rows :],
        data[values_from:],
        np.full(block.rows, block.run, np.int32),
    )


def _join(parts: list[_Held]) -> _Held:
    return _Held(
        np.concatenate([part.key_lengths for part in parts]),
        b"".join([part.key_data for part in parts]),
        np.concatenate([part.value_lengths for part in parts]),
        b"".join([part.value_data for part in parts]),
        np.concatenate([part.runs for part in parts]),
    )


def _take(keys: pa.Array, values: pa.Array, runs: npt.NDArray[np.int32], rows: npt.NDArray[np.intp]) -> _Held:
    picked = pa.array(rows)
    value_lengths, value_data = flatten(values.take(picked))
    return _Held(*flatten(keys.take(picked)), value_lengths.astype(np.uint32), value_data, runs[rows])


def _rows_below(column: KeyColumn, order: Order, bound: bytes | None) -> int:
    """How many rows, in order, have a key below `bound`; all of them if it is None."""
    low, high = 0, len(order.rows)
    if bound is None:
        return high
    while low < high:
        middle = (low + high) // 2
        if column.at(int(order.rows[middle])) < bound:
            low = middle + 1
        else:
            high = middle
    return low


def _objects(array: pa.Array) -> list[bytes]:
    # By way of NumPy: three times as fast as to_pylist.
    found: list[bytes] = array.to_numpy(zero_copy_only=False).tolist()
    return found
