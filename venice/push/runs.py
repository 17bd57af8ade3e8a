"""Sorted runs on disk: what was read so far, each run in (partition, key) order, cut into blocks.

Write path: read → encode → partition → **sort** → seal. A run is one stretch of the input; its blocks are the unit in
which `venice/push/merge.py` reads it back. The files are unlinked as soon as they are made: processes share them by
descriptor, and a push that dies in whatever way leaves nothing of them behind.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from venice.errors import Full, Unavailable, VeniceError
from venice.push.duplicates import DuplicatePolicy
from venice.push.keys import key_column, partitions, sort

BLOCK_BYTES: Final = 64 * 1024
"""Aimed-at size of a block. A merge holds about one block of every run."""

_BUFFER_BYTES: Final = 1 << 20


class Block(NamedTuple):
    """Where a block is: `rows` key lengths (uint32), value lengths (uint32), the keys' bytes, the values' bytes."""

    run: int
    """Number of its run, in the order of reading."""
    descriptor: int
    """Of the spill file; the same number in every process of the push."""
    offset: int
    rows: int
    key_bytes: int
    value_bytes: int
    first: bytes
    """Its smallest key."""

    @property
    def size(self) -> int:
        return 8 * self.rows + self.key_bytes + self.value_bytes


class Run(NamedTuple):
    """What became of one stretch of the input."""

    blocks: dict[int, list[Block]]
    """By partition, ascending by key."""
    rows: int
    duplicates: int
    """Rows dropped because a later one of the run has the same key."""


class Spill:
    """A file without a name that runs are appended to, by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.descriptor, path = tempfile.mkstemp(prefix="push-", suffix=".runs", dir=folder)
            os.unlink(path)
        except OSError as error:
            raise disk_error(error, folder) from error
        self._file = io.BufferedWriter(io.FileIO(self.descriptor, "wb"), _BUFFER_BYTES)
        self.size = 0

    def append(self, buffers: Iterator[memoryview]) -> None:
        """Write `buffers` at the end, one after the other.

        Raises:
            Full: The disk is full.
        """
        try:
            for buffer in buffers:
                self._file.write(buffer)
                self.size += buffer.nbytes
            self._file.flush()
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def close(self) -> None:
        # Not the buffered file: it would try again to write what a full disk refused.
        self._file.raw.close()


def disk_error(error: OSError, place: Path) -> VeniceError:
    """What an OSError of writing at `place` means to the user."""
    if error.errno in (ENOSPC, EDQUOT, EFBIG):
        return Full(f"no room left at {place}", hint="free some space, or set 'blobs' to a larger disk, and push again")
    return Unavailable(f"cannot write at {place}: {error.strerror}", hint="check that the folder exists and may be written to")


def write_run(number: int, keys: pa.Array, values: pa.Array, partition_count: int, spill: Spill, policy: DuplicatePolicy) -> Run:
    """Sort rows by (partition, key bytes), settle equal keys and append the result to `spill`.

    Args:
        number: Of this run among all, in the order of reading.
        keys: Serialized keys, an Arrow array of (large) binary without nulls.
        values: Stored values, aligned with `keys`.

    Raises:
        InvalidRequest: Equal keys with different values that the policy refuses.
        Full: The disk is full.
    """
    column = key_column(*flatten(keys))
    where = partitions(column, partition_count)
    order = sort(column, where)
    rows = policy.settle(order, column, values)
    picked = pa.array(rows)
    counts = np.bincount(where[rows], minlength=partition_count)
    blocks: dict[int, list[Block]] = {}
    spill.append(_cut(number, keys.take(picked), values.take(picked), counts, spill, blocks))
    return Run(blocks, len(rows), len(order.rows) - len(rows))


def _cut(
    run: int, keys: pa.Array, values: pa.Array, counts: npt.NDArray[np.intp], spill: Spill, blocks: dict[int, list[Block]]
) -> Iterator[memoryview]:
    """The bytes of all blocks in order; fills `blocks` on the way."""
    key_ends, key_data = raw(keys)
    value_ends, value_data = raw(values)
    key_lengths = np.diff(key_ends).astype(np.uint32)
    value_lengths = np.diff(value_ends).astype(np.uint32)
    total = 8 * len(keys) + len(key_data) + len(value_data)
    rows_per_block = max(1, len(keys) * BLOCK_BYTES // max(1, total))
    ends = np.cumsum(counts).tolist()
    offset = spill.size
    for partition in np.flatnonzero(counts).tolist():
        end = ends[partition]
        mine = blocks[partition] = []
        for low in range(end - int(counts[partition]), end, rows_per_block):
            high = min(low + rows_per_block, end)
            key_low, key_high = int(key_ends[low]), int(key_ends[high])
            value_low, value_high = int(value_ends[low]), int(value_ends[high])
            first = bytes(key_data[key_low : int(key_ends[low + 1])])
            block = Block(run, spill.descriptor, offset, high - low, key_high - key_low, value_high - value_low, first)
            mine.append(block)
            offset += block.size
            yield key_lengths[low:high].data.cast("B")
            yield value_lengths[low:high].data.cast("B")
            yield key_data[key_low:key_high]
            yield value_data[value_low:value_high]


def flatten(array: pa.Array) -> tuple[npt.NDArray[np.int32], bytes]:
    """Lengths and bytes, end to end, of a binary array without nulls."""
    ends, data = raw(array)
    return np.diff(ends).astype(np.int32), bytes(data)


def assemble(lengths: npt.NDArray[np.uint32], data: npt.NDArray[np.uint8]) -> pa.Array:
    """The array of large binary whose values have `lengths` and lie end to end in `data`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def raw(array: pa.Array) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Offsets, from 0, and the bytes they point into."""
    _, offset_buffer, data_buffer = array.buffers()
    width = np.dtype(np.int64) if pa.types.is_large_binary(array.type) else np.dtype(np.int32)
    if len(array) == 0:
        return np.zeros(1, np.int64), memoryview(b"")
    ends = np.frombuffer(offset_buffer, width, len(array) + 1, array.offset * width.itemsize).astype(np.int64)
    data = memoryview(data_buffer).cast("B") if data_buffer is not None else memoryview(b"")
    data = data[ends[0] : ends[-1]]
    ends -= ends[0]
    return ends, data
