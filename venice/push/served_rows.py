"""The rows of a version that serves, as they are stored: what a repush reads.

Write path: snapshot or checkpoint, and version topic → fold → **rows** → partition → sort → seal. One partition at a time is
made a replica of this process, by the fold of every other replica, and read through.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from venice.clock import Clock
from venice.compression import train
from venice.config import Settings
from venice.control.reading import read_catalog
from venice.errors import Corrupt, NotFound, Unavailable
from venice.log import Log
from venice.model import Version
from venice.push.encode import Encoded
from venice.push.intake import RUN_BYTES, RUN_ROWS_MAX, Runs
from venice.push.runs import assembled, raw
from venice.push.sample import SAMPLE_BYTES
from venice.push.stored import NOTHING, Pack
from venice.record import Vector
from venice.served import ServedVersion
from venice.storage import PartitionStorage
from venice.storage.format import decode_value

_TRIES: Final = 3
_CHUNK_ROWS: Final = 2_048
_ESTIMATE_ROWS: Final = 256

Open = Callable[[int], AbstractContextManager[PartitionStorage]]
"""Partition → its replica, for as long as it is read."""


class Source:
    """The version that serves now, to be read also while what it is made of is replaced by something newer.

    Args:
        store: Its store's name.
        folder: For replicas, on the disk of the snapshots; nobody else uses it.

    Raises:
        NotFound: No version serves, or its snapshot is gone.
        Corrupt: The snapshot's manifest is not what was sealed.
        Unavailable: The log cannot be reached.
    """

    def __init__(self, settings: Settings, store: str, folder: Path, log: Log, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._folder = folder
        self._log = log
        self._clock = clock
        self._served, self.version = self._look(None)

    @property
    def partitions(self) -> Sequence[int]:
        """Those that may have rows."""
        return self._served.partitions

    @contextmanager
    def partition(self, partition: int) -> Iterator[PartitionStorage]:
        """A partition's replica, folded up to where its topic ended a moment ago; deleted afterwards.

        Raises:
            NotFound, Corrupt: None of what it can be made of is there as it was sealed; or the version was deleted meanwhile.
            Full: The disk is full.
            Unavailable: The log cannot be reached.
        """
        with ExitStack() as stack:
            for left in reversed(range(_TRIES)):
                try:
                    storage = stack.enter_context(self._served.partition(partition))
                    break
                except (NotFound, Corrupt, Unavailable):
                    if not left or self.version.hybrid is None:
                        raise
                # A newer checkpoint took the place of the one that was known, and the topic was trimmed.
                self._served, self.version = self._look(self.version.number)
            yield storage

    def _look(self, number: int | None) -> tuple[ServedVersion, Version]:
        """A version; None: the current one."""
        catalog = read_catalog(self._settings)
        store = catalog.stores.get(self._store)
        version = store.version(store.current if number is None else number) if store is not None else None
        if version is None or version.snapshot is None:
            raise NotFound(
                f"version {number or 'that serves'} of store {self._store!r} is there no more",
                hint="see 'venice version list'",
            )
        kept = [catalog.kept(self._store, version.number, partition) for partition in range(version.partition_count)]
        return ServedVersion(self._store, version, kept, self._log, self._clock, self._folder), version


class StoredRows:
    """The rows of all partitions in stretches, keys beside stored values, to threads that ask in turn.

    Args:
        partitions: In the order of reading.
        opened: Makes a partition readable.
        tombstones: Takes the metadata of deleted keys as it is met.
    """

    def __init__(self, partitions: Sequence[int], opened: Open, tombstones: Runs) -> None:
        self._lock = Lock()
        self._stopped = False
        self._stretches = 0
        self._rows = _rows(partitions, opened, tombstones, self._read)
        self.vectors: dict[int, Vector] = {}
        """By partition that was read: up to where real-time writes are in its rows, as far as its log says."""

    def next(self) -> tuple[int, list[pa.RecordBatch]] | None:
        """The number and the batches of the next stretch; None at the end, or once it was told to stop.

        Raises:
            NotFound, Corrupt, Full, Unavailable: As `Source.partition`.
        """
        with self._lock:
            batch = next(self._rows, None) if not self._stopped else None
            self._stretches += 1
            return (self._stretches - 1, [batch]) if batch is not None else None

    def stop(self) -> None:
        """No more stretches; from any thread."""
        self._stopped = True

    def close(self) -> None:
        """Give up what is open."""
        self._rows.close()

    def _read(self, partition: int, vector: Vector) -> None:
        self.vectors[partition] = vector


def _rows(
    partitions: Sequence[int], opened: Open, tombstones: Runs, read: Callable[[int, Vector], None]
) -> Generator[pa.RecordBatch, None, None]:
    deleted = 0
    for partition in partitions:
        with opened(partition) as storage:
            read(partition, storage.position.vector)
            for keys, values in _chunked(storage.scan()):
                yield pa.RecordBatch.from_arrays([assembled(keys), assembled(values)], names=["key", "stored"])
            for keys, metadata in _chunked(storage.scan_metadata()):
                tombstones.put(deleted, assembled(keys), assembled(metadata), tombstones.spills[0])
                deleted += 1


def _chunked(rows: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """So many rows at a time as make a run."""
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        for key, value in chunk:
            keys.append(key)
            values.append(value)
            size += len(key) + len(value)
        if size >= RUN_BYTES or len(keys) >= RUN_ROWS_MAX:
            yield keys, values
            keys, values, size = [], [], 0
    if keys:
        yield keys, values


class Repacker:
    """Stored values → stored values, compressed as another version's are. Safe to share between threads.

    Schema ids, times and regions stay what they are; so do the bytes, where the compression stays.

    Args:
        unpack: Decompresses a value of the source; None: it is not compressed.
        pack: Compresses an array of values; None: they are not compressed from now on.
        same: Both are the same compression, with the same dictionary.
    """

    def __init__(self, unpack: Callable[[bytes], bytes] | None, pack: Pack | None, *, same: bool) -> None:
        self._unpack = unpack
        self._pack = pack
        self._same = same

    def encode(self, batch: pa.RecordBatch) -> Encoded:
        """Keys and stored values of `StoredRows`.

        Raises:
            Corrupt: A value is not what was stored.
        """
        keys, stored = batch.columns
        if self._unpack is None and self._pack is None:
            return Encoded(keys, stored, 0, 0, 0)
        values = stored.to_pylist()
        cuts = [decode_value(value).offset for value in values]
        packed = [value[cut:] for value, cut in zip(values, cuts, strict=True)]
        plain = packed if self._unpack is None else list(map(self._unpack, packed))
        if self._same:
            return Encoded(keys, stored, 0, sum(map(len, plain)), sum(map(len, packed)))
        payloads = assembled(plain)
        sizes = 0, 0
        if self._pack is not None:
            made = self._pack(payloads)
            sizes = len(raw(payloads)[1]), len(raw(made)[1])
            payloads = made
        prefixes = assembled([value[:cut] for value, cut in zip(values, cuts, strict=True)])
        return Encoded(keys, pc.binary_join_element_wise(prefixes, payloads, NOTHING), 0, *sizes)


def dictionary_for(source: Source, unpack: Callable[[bytes], bytes] | None) -> bytes:
    """A dictionary for the values of a version, learned from those of one partition, which keys are in by chance."""
    for partition in source.partitions:
        with source.partition(partition) as storage:
            first = [len(value) for _, value in islice(storage.scan(), _ESTIMATE_ROWS)]
            if first:
                step = max(1, storage.row_count * sum(first) // len(first) // SAMPLE_BYTES)
                sample = [value[decode_value(value).offset :] for _, value in islice(storage.scan(), 0, None, step)]
                return train(sample if unpack is None else list(map(unpack, sample)))
    return b""
