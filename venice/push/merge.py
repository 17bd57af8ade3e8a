"""Sorted runs of one partition → its rows in ascending key order, in bounded memory.

Write path: read → encode → partition → **sort** → seal. Blocks of all runs are loaded in the order of their first keys.
Every row below the first key of the next block that was not loaded yet is then in memory: those rows are sorted at once,
with NumPy, and handed on; the others wait for the next step. So a step holds `step_bytes`, and about half a block per run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from venice.errors import Unavailable
from venice.push.duplicates import Conflicts, DuplicatePolicy
from venice.push.keys import KeyColumn, Order, key_column, sort
from venice.push.runs import Block, assemble, raw
from venice.schema.arrow_buffers import number_column

STEP_BYTES: Final = 8 << 20
"""Least a step loads: few enough bytes for a core's cache, enough rows to make NumPy's overhead small."""
_PORTION_BYTES: Final = 512 << 10
"""Handed on at a time: rows, the objects made of them and what the table writer copies stay in a core's second cache together."""
_STEP_BYTES_MAX: Final = 128 << 20
"""Most a step loads because there are many runs, or large blocks."""


class Sorted(NamedTuple):
    """Rows in ascending order of their keys, all above those of the step before."""

    keys: list[bytes]
    values: list[bytes]
    bytes: int
    """Of keys and values together."""
    duplicates: int
    conflicts: Conflicts


class _Held(NamedTuple):
    """Rows in memory: key lengths and bytes, value lengths and bytes, and the run each row is from."""

    key_lengths: npt.NDArray[np.uint32]
    key_data: npt.NDArray[np.uint8]
    value_lengths: npt.NDArray[np.uint32]
    value_data: npt.NDArray[np.uint8]
    runs: npt.NDArray[np.int32]


def _held(rows: int, key_bytes: int, value_bytes: int) -> _Held:
    return _Held(
        np.empty(rows, np.uint32),
        np.empty(key_bytes, np.uint8),
        np.empty(rows, np.uint32),
        np.empty(value_bytes, np.uint8),
        np.empty(rows, np.int32),
    )


def merge(blocks: Sequence[Block], policy: DuplicatePolicy, step_bytes: int = STEP_BYTES) -> Iterator[Sorted]:
    """The rows of `blocks` by ascending key; equal keys settled by `policy`, later runs being later rows."""
    pending = sorted(blocks, key=lambda block: block.first)
    runs = len({block.run for block in pending})
    # A step much smaller than one block of each run would load, and sort again, mostly rows that must wait.
    enough = 2 * runs * (sum(block.size for block in pending) // max(1, len(pending)))
    step_bytes = max(step_bytes, min(enough, _STEP_BYTES_MAX))
    waiting = _held(0, 0, 0)
    low = 0
    while low < len(pending):
        high, loaded = low, 0
        while high < len(pending) and (loaded < step_bytes or high == low):
            loaded += pending[high].size
            high += 1
        held = _load(waiting, pending[low:high])
        bound = pending[high].first if high < len(pending) else None
        low = high
        column = key_column(held.key_lengths.astype(np.int32), held.key_data.tobytes())
        order = sort(column, None, held.runs)
        cut = _rows_below(column, order, bound)
        keys = assemble(held.key_lengths, held.key_data)
        values = assemble(held.value_lengths, held.value_data)
        ready, conflicts = policy.settle(Order(order.rows[:cut], order.same[:cut]), column, values)
        waiting = _take(keys, values, held.runs, order.rows[cut:])
        if cut:
            yield from _portions(held, keys, values, ready, cut - len(ready), conflicts)


def _portions(
    held: _Held, keys: pa.Array, values: pa.Array, rows: npt.NDArray[np.intp], duplicates: int, conflicts: Conflicts
) -> Iterator[Sorted]:
    """The rows as objects, so many at a time that the objects, several times as large as the bytes in them, are few."""
    sizes = held.key_lengths[rows].astype(np.int64) + held.value_lengths[rows]
    count = max(1, len(rows) * _PORTION_BYTES // max(1, int(sizes.sum())))
    for low in range(0, len(rows), count):
        picked = number_column(rows[low : low + count])
        size = int(sizes[low : low + count].sum())
        yield Sorted(keys.take(picked).to_pylist(), values.take(picked).to_pylist(), size, duplicates, conflicts)
        duplicates, conflicts = 0, Conflicts()


def _load(waiting: _Held, blocks: list[Block]) -> _Held:
    """The rows that wait, then those of `blocks`: read from disk into their places, without a copy."""
    rows = len(waiting.runs) + sum(block.rows for block in blocks)
    key_bytes = len(waiting.key_data) + sum(block.key_bytes for block in blocks)
    value_bytes = len(waiting.value_data) + sum(block.value_bytes for block in blocks)
    held = _held(rows, key_bytes, value_bytes)
    places: tuple[npt.NDArray[Any], ...] = held
    arrays: tuple[npt.NDArray[Any], ...] = waiting
    for place, array in zip(places, arrays, strict=True):
        place[: len(array)] = array
    row, key, value = len(waiting.runs), len(waiting.key_data), len(waiting.value_data)
    for block in blocks:
        part = slice(row, row + block.rows)
        parts = [
            held.key_lengths[part].data,
            held.value_lengths[part].data,
            held.key_data[key : key + block.key_bytes].data,
            held.value_data[value : value + block.value_bytes].data,
        ]
        if os.preadv(block.descriptor, parts, block.offset) != block.size:
            raise Unavailable("the push's scratch file ended early", hint="push again")
        held.runs[part] = block.run
        row, key, value = row + block.rows, key + block.key_bytes, value + block.value_bytes
    return held


def _take(keys: pa.Array, values: pa.Array, runs: npt.NDArray[np.int32], rows: npt.NDArray[np.intp]) -> _Held:
    picked = number_column(rows)
    key_ends, key_data = raw(keys.take(picked))
    value_ends, value_data = raw(values.take(picked))
    return _Held(
        np.diff(key_ends).astype(np.uint32),
        np.frombuffer(key_data, np.uint8),
        np.diff(value_ends).astype(np.uint32),
        np.frombuffer(value_data, np.uint8),
        runs[rows],
    )


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
