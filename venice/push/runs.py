"""Sorted runs on disk: what was read so far, each run in (partition, key) order, cut into blocks.

Write path: read → encode → partition → **sort** → seal. A run is one stretch of the input; its blocks are the unit in
which `venice/push/merge.py` reads it back. The files are unlinked as soon as they are made: processes share them by
descriptor, and a push that dies in whatever way leaves nothing of them behind. A few partitions share a file, which is
emptied as soon as they are written: their sorted files then take the place of the runs, in memory and on disk.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from venice.errors import Full, Unavailable, VeniceError
from venice.push.duplicates import DuplicatePolicy
from venice.push.keys import key_column, partitions, sort
from venice.schema.arrow_buffers import number_column

BLOCK_BYTES: Final = 64 * 1024
"""Aimed-at size of a block. A merge holds about one block of every run."""

FILES_MAX: Final = 64
"""Files of all spills of a push, if there are so many partitions: each takes a descriptor in every process."""
_BUFFERS_MAX: Final = 1024
"""Most that one writev takes (IOV_MAX)."""


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
    """Rows dropped because later ones of the run with the same key say as much."""


class Spill:
    """Files without names that runs are appended to, by one thread; partitions next to one another may share one.

    Args:
        folder: Where the files are made.
        spills: How many of them the push has.
    """

    def __init__(self, folder: Path, partition_count: int, *, spills: int = 1) -> None:
        self._folder = folder
        self._partition_count = partition_count
        self.descriptors: list[int] = []
        self._ends: list[int] = []
        for _ in range(min(partition_count, max(1, FILES_MAX // spills))):
            try:
                descriptor, path = tempfile.mkstemp(prefix="push-", suffix=".runs", dir=folder)
                self.descriptors.append(descriptor)
                self._ends.append(0)
                os.unlink(path)
            except OSError as error:
                self.close()
                raise disk_error(error, folder) from error

    def file_of(self, partition: int) -> int:
        """Which of the files has the partition's rows."""
        return partition * len(self.descriptors) // self._partition_count

    def end(self, file: int) -> tuple[int, int]:
        """Where the next rows of a file go: descriptor and offset."""
        return self.descriptors[file], self._ends[file]

    def append(self, file: int, buffers: list[memoryview]) -> None:
        """Write `buffers` at the end of a file, one after the other.

        Raises:
            Full: The disk is full.
        """
        descriptor = self.descriptors[file]
        try:
            for low in range(0, len(buffers), _BUFFERS_MAX):
                chunk = buffers[low : low + _BUFFERS_MAX]
                size = sum(buffer.nbytes for buffer in chunk)
                written = os.writev(descriptor, chunk)
                if written < size:  # The disk is nearly full, or it is more than one call may write.
                    rest = memoryview(b"".join(chunk))[written:]
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
                self._ends[file] += size
        except OSError as error:
            raise disk_error(error, self._folder) from error

    def release(self, file: int) -> None:
        """Empty a file that nobody reads any more."""
        os.ftruncate(self.descriptors[file], 0)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = []


def disk_error(error: OSError, place: Path) -> VeniceError:
    """What an OSError of writing at `place` means to the user."""
    if error.errno in (ENOSPC, EDQUOT, EFBIG):
        return Full(f"no room left at {place}", hint="free some space, or set 'blobs' to a larger disk, and push again")
    return Unavailable(f"cannot write at {place}: {error.strerror}", hint="check that the folder exists and may be written to")


def write_run(number: int, keys: pa.Array, values: pa.Array, partition_count: int, spill: Spill, policy: DuplicatePolicy) -> Run:
    """Sort rows by (partition, key bytes), thin equal keys out and append the result to `spill`.

    Args:
        number: Of this run among all, in the order of reading.
        keys: Serialized keys, an Arrow array of (large) binary without nulls.
        values: Stored values, aligned with `keys`.

    Raises:
        Full: The disk is full.
    """
    column = key_column(*flatten(keys))
    where = partitions(column, partition_count)
    order = sort(column, where)
    rows = policy.thin(order, values)
    picked = number_column(rows)
    counts = np.bincount(where[rows], minlength=partition_count)
    blocks = _append(number, keys.take(picked), values.take(picked), counts, spill)
    return Run(blocks, len(rows), len(order.rows) - len(rows))


def _append(run: int, keys: pa.Array, values: pa.Array, counts: npt.NDArray[np.intp], spill: Spill) -> dict[int, list[Block]]:
    """Write sorted rows, so many of each partition, in blocks."""
    key_ends, key_data = raw(keys)
    value_ends, value_data = raw(values)
    key_lengths = np.diff(key_ends).astype(np.uint32)
    value_lengths = np.diff(value_ends).astype(np.uint32)
    total = 8 * len(keys) + len(key_data) + len(value_data)
    rows_per_block = max(1, len(keys) * BLOCK_BYTES // max(1, total))
    ends = np.cumsum(counts).tolist()
    found: dict[int, list[Block]] = {}
    for partition in np.flatnonzero(counts).tolist():
        file = spill.file_of(partition)
        descriptor, offset = spill.end(file)
        blocks: list[Block] = []
        buffers: list[memoryview] = []
        for low in range(ends[partition] - int(counts[partition]), ends[partition], rows_per_block):
            high = min(low + rows_per_block, ends[partition])
            key_low, key_high = int(key_ends[low]), int(key_ends[high])
            value_low, value_high = int(value_ends[low]), int(value_ends[high])
            first = bytes(key_data[key_low : int(key_ends[low + 1])])
            blocks.append(Block(run, descriptor, offset, high - low, key_high - key_low, value_high - value_low, first))
            offset += blocks[-1].size
            buffers += (key_lengths[low:high].data.cast("B"), value_lengths[low:high].data.cast("B"))
            buffers += (key_data[key_low:key_high], value_data[value_low:value_high])
        spill.append(file, buffers)
        found[partition] = blocks
    return found


def flatten(array: pa.Array) -> tuple[npt.NDArray[np.int32], bytes]:
    """Lengths and bytes, end to end, of a binary array without nulls."""
    ends, data = raw(array)
    return np.diff(ends).astype(np.int32), bytes(data)


def assemble(lengths: npt.NDArray[np.uint32], data: npt.NDArray[np.uint8]) -> pa.Array:
    """The array of large binary whose values have `lengths` and lie end to end in `data`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def assembled(values: Sequence[bytes]) -> pa.Array:
    """The array of large binary of these values."""
    lengths = np.fromiter(map(len, values), np.uint32, len(values))
    return assemble(lengths, np.frombuffer(b"".join(values), np.uint8))


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
