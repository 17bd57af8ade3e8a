"""Encoded values → stored values: compressed as the version is, after the prefix that says schema and, if the row has one, time.

Write path: read → **encode** → partition → sort → seal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from venice.compression import Contexts, packing
from venice.model import Compression
from venice.push.runs import assemble, assembled, raw
from venice.schema.arrow_buffers import binary_scalar
from venice.storage.format import value_prefix

_STAMPED = np.dtype([("prefix", "V5"), ("timestamp_ms", "<i8")])
"""A prefix with a time; `tests/unit/test_push_stored.py` holds it against `value_prefix`."""

NOTHING = binary_scalar(b"").cast(pa.large_binary())

Pack = Callable[[pa.Array], pa.Array]


class Stored(NamedTuple):
    """Stored values of some rows, and what compressing them did; both sizes are 0 where they are not compressed."""

    values: pa.Array
    value_bytes: int
    compressed_bytes: int


class StoredValues:
    """Makes stored values. Safe to share between threads.

    Args:
        schema_id: Of all values.
        compression: Of the version.
        dictionary: Of the version.
        stamped: Rows have times of their own.
    """

    def __init__(self, schema_id: int, compression: Compression, dictionary: bytes, *, stamped: bool) -> None:
        prefix = value_prefix(schema_id)
        self._pack = packer(compression, dictionary)
        self._prefix = binary_scalar(prefix).cast(pa.large_binary())
        self._stamp = value_prefix(schema_id, 0)[: len(prefix)]
        self.ready_prefix = b"" if self._pack is not None or stamped else prefix
        """What the encoder itself can put before each value: then nothing is left to do here."""

    def finish(self, values: pa.Array, times: pa.Array | None) -> Stored:
        """The stored values of encoded ones that begin with `ready_prefix`.

        Args:
            values: (Large) binary without nulls.
            times: Milliseconds since the epoch, by row, null where a row has none; None if rows are not stamped.
        """
        if self.ready_prefix:
            return Stored(values, 0, 0)
        sizes = 0, 0
        if self._pack is not None:
            packed = self._pack(values)
            sizes = _size(values), _size(packed)
            values = packed
        prefixes = self._prefix if times is None else self._stamped(times)
        return Stored(pc.binary_join_element_wise(prefixes, values.cast(pa.large_binary()), NOTHING), *sizes)

    def _stamped(self, times: pa.Array) -> pa.Array:
        table = np.zeros(len(times), _STAMPED)
        table["prefix"] = np.void(self._stamp)
        table["timestamp_ms"] = pc.fill_null(times, 0).to_numpy(zero_copy_only=False)
        lengths = np.full(len(times), _STAMPED.itemsize, np.uint32)
        stamped = assemble(lengths, np.frombuffer(table.tobytes(), np.uint8))
        return pc.if_else(times.is_valid(), stamped, self._prefix) if times.null_count else stamped


def packer(compression: Compression, dictionary: bytes) -> Pack | None:
    """What compresses an array of Avro bytes as a version's are; None if they are not compressed."""
    if compression in (Compression.ZSTD, Compression.ZSTD_DICT):
        return _Zstd(Contexts(dictionary))
    made = packing(compression)
    if made is None:
        return None
    compress = made.compress

    def pack(values: pa.Array) -> pa.Array:
        return assembled([compress(value) for value in values.to_pylist()])

    return pack


class _Zstd:
    """Compresses all values of an array by one call, outside the interpreter's lock."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts

    def __call__(self, values: pa.Array) -> pa.Array:
        ends, data = raw(values)
        if not data:  # which it does not take
            return assembled([self._contexts.compress(b"")] * len(values))
        segments = np.empty((len(values), 2), np.uint64)
        segments[:, 0] = ends[:-1]
        segments[:, 1] = np.diff(ends)
        together = zstandard.BufferWithSegments(data, segments.tobytes())
        packed = self._contexts.compressor.multi_compress_to_buffer(together, threads=1)
        return assembled([packed[row].tobytes() for row in range(len(packed))])


def _size(values: pa.Array) -> int:
    return len(raw(values)[1])
