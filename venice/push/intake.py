"""The first half of a push: the input is read once and becomes sorted runs on disk.

Write path: **read → encode → partition → sort** → seal. Each lane takes the next stretch of rows from the reader (one at
a time: DuckDB does that work with threads of its own) and takes it all the way to a run, while the others read on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

import duckdb
import pyarrow as pa

from venice.push.duplicates import DuplicatePolicy
from venice.push.encode import Encoded
from venice.push.plan import Plan
from venice.push.runs import Block, Spill, write_run
from venice.push.sources import read_error
from venice.push.writer import Job

RUN_ROWS_MAX: Final = 65_536
RUN_BYTES: Final = 16 << 20
"""A run ends with the batch that reaches one of these. Larger runs mean fewer of them to merge, and more memory."""
_BATCH_ROWS_UNSURE: Final = 4_096
"""Rows per batch where nothing is known of their size; a run then has several batches."""
_BATCH_ROWS_MIN: Final = 2_048
"""What DuckDB works on at a time anyway."""
_OFFSETS_BYTES_MAX: Final = 2**31 - 1
"""Above it a binary array needs 64-bit offsets."""


@dataclass(slots=True)
class Taken:
    """What has been read so far."""

    rows: int = 0
    """Rows that were kept."""
    skipped: int = 0
    duplicates: int = 0
    bytes: int = 0
    """Of keys and stored values."""
    stored_bytes: int = 0
    """Of stored values alone."""
    value_bytes: int = 0
    compressed_bytes: int = 0
    """As of `Encoded`."""
    blocks: dict[int, list[Block]] = field(default_factory=dict)
    """By partition."""
    rows_by_partition: dict[int, int] = field(default_factory=dict)


class Stretches(Protocol):
    """The rows of a push, in stretches, to threads that ask in turn."""

    def next(self) -> tuple[int, list[pa.RecordBatch]] | None:
        """The number and the batches of the next stretch; None at the end, or once it was told to stop."""
        ...

    def stop(self) -> None:
        """No more stretches; from any thread."""
        ...


class Encoder(Protocol):
    """What makes keys and stored values of a batch. Safe to share between threads."""

    def encode(self, batch: pa.RecordBatch) -> Encoded: ...


class Reader:
    """The rows of a plan, in stretches, to threads that ask in turn."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, plan: Plan, batch_rows: int) -> None:
        self._connection = connection
        self._select = plan.select
        self._batch_rows = batch_rows
        self._source = plan.source
        self._lock = Lock()
        self._stretches = 0
        self._stopped = False
        self._peeked: list[pa.RecordBatch] = []
        self._batches: pa.RecordBatchReader | None = None

    def open(self) -> None:
        """Run the query as far as its first rows.

        Raises:
            InvalidRequest: It cannot be run.
            Full: There is not enough memory, or disk.
        """
        try:
            self._batches = self._connection.execute(self._select).to_arrow_reader(self._batch_rows)
        except duckdb.Error as error:
            raise read_error(error, str(self._source), self._source.hide) from error

    @property
    def schema(self) -> pa.Schema:
        """Of the rows; known once it is open."""
        return self._opened().schema

    def next(self) -> tuple[int, list[pa.RecordBatch]] | None:
        """The number and the batches of the next stretch, or None at the end of the input or after `stop`.

        Raises:
            InvalidRequest: A row cannot be read.
            Full: There is not enough memory, or disk.
        """
        with self._lock:
            batches = self._peeked or self._take()
            self._peeked = []
            self._stretches += 1
            return (self._stretches - 1, batches) if batches else None

    def peek(self) -> list[pa.RecordBatch]:
        """The batches of the stretch that comes first, which `next` returns all the same. Raises as `next`."""
        with self._lock:
            self._peeked = self._peeked or self._take()
            return list(self._peeked)

    def _take(self) -> list[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = []
        rows = size = 0
        while not self._stopped and rows < RUN_ROWS_MAX and size < RUN_BYTES:
            try:
                batch = self._opened().read_next_batch()
            except StopIteration:
                break
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                # Once rows flow, Arrow passes DuckDB's words on in an error of its own.
                raise read_error(error, str(self._source), self._source.hide) from error
            batches.append(batch)
            rows += batch.num_rows
            size += batch.nbytes
        return batches

    def _opened(self) -> pa.RecordBatchReader:
        assert self._batches is not None, "opened before it is read"
        return self._batches

    def stop(self) -> None:
        """No more stretches; from any thread."""
        self._stopped = True


class Runs:
    """Sorted runs of a push, by partition, on disk. Safe to share between threads.

    Args:
        folder: Where the runs' files are made.
        spills: How many threads write runs, each to files of its own.
    """

    def __init__(self, *, partition_count: int, policy: DuplicatePolicy, folder: Path, spills: int) -> None:
        self._partition_count = partition_count
        self._policy = policy
        self._lock = Lock()
        self.spills = [Spill(folder, partition_count, spills=spills) for _ in range(spills)]
        self.taken = Taken()
        self._unwritten: Counter[int] = Counter()

    def put(self, number: int, keys: pa.Array, values: pa.Array, spill: Spill, skipped: int = 0, sizes: tuple[int, int] = (0, 0)) -> int:
        """Make a run of some rows, the last of which count where keys are equal.

        Args:
            number: Of the run, in the order of reading.
            keys: Serialized, without nulls.
            values: What is stored, aligned with `keys`.
            spill: One of ours; one thread at a time uses it.
            skipped: Rows that were left out before.
            sizes: Bytes of the values before they were compressed, and after.

        Returns:
            Bytes of keys and values of the run.

        Raises:
            Full: The disk is full.
        """
        run = write_run(number, keys, values, self._partition_count, spill, self._policy)
        size = 0
        with self._lock:
            taken = self.taken
            for partition, blocks in run.blocks.items():
                taken.blocks.setdefault(partition, []).extend(blocks)
                rows = sum(block.rows for block in blocks)
                size += sum(block.key_bytes + block.value_bytes for block in blocks)
                taken.stored_bytes += sum(block.value_bytes for block in blocks)
                taken.rows_by_partition[partition] = taken.rows_by_partition.get(partition, 0) + rows
            taken.rows += run.rows
            taken.bytes += size
            taken.duplicates += run.duplicates
            taken.skipped += skipped
            taken.value_bytes += sizes[0]
            taken.compressed_bytes += sizes[1]
        return size

    def jobs(self) -> list[Job]:
        """The partitions that have rows, in the order to write them, once everything is read.

        Large ones first, so that the last to finish is small; but those that share a file one after the other, so that it
        can be released.
        """
        sizes = {partition: sum(block.size for block in blocks) for partition, blocks in self.taken.blocks.items()}
        files: dict[int, int] = {}
        for partition, size in sizes.items():
            file = self._file_of(partition)
            files[file] = max(files.get(file, 0), size)
        ordered = sorted(sizes, key=lambda partition: (-files[self._file_of(partition)], self._file_of(partition), -sizes[partition]))
        self._unwritten = Counter(map(self._file_of, ordered))
        return [Job(partition, self.taken.blocks[partition]) for partition in ordered]

    def written(self, partition: int) -> None:
        """Told of each partition that is written, by any thread: gives the space of its runs back."""
        file = self._file_of(partition)
        with self._lock:
            self._unwritten[file] -= 1
            last = not self._unwritten[file]
        if last:
            for spill in self.spills:
                spill.release(file)

    def close(self) -> None:
        """Give all space back."""
        for spill in self.spills:
            spill.close()

    def _file_of(self, partition: int) -> int:
        return self.spills[0].file_of(partition)


class Intake(Runs):
    """Lanes that turn a reader's stretches into runs.

    Args:
        folder: Where the runs' files are made.
        lanes: How many.
        count: Told rows and bytes after every run.
    """

    def __init__(
        self,
        reader: Stretches,
        encoder: Encoder,
        *,
        partition_count: int,
        policy: DuplicatePolicy,
        folder: Path,
        lanes: int,
        count: Callable[[int, int], None],
    ) -> None:
        super().__init__(partition_count=partition_count, policy=policy, folder=folder, spills=lanes)
        self._reader = reader
        self._encoder = encoder
        self._count = count

    def lanes(self) -> list[Callable[[], None]]:
        """One function per thread; each returns when the input ends."""
        return [partial(self._lane, spill) for spill in self.spills]

    def _lane(self, spill: Spill) -> None:
        while (stretch := self._reader.next()) is not None:
            number, batches = stretch
            rows = sum(batch.num_rows for batch in batches)
            encoded = [self._encoder.encode(batch) for batch in batches]
            batches.clear()
            keys = _concat([part.keys for part in encoded])
            values = _concat([part.values for part in encoded])
            skipped = sum(part.skipped for part in encoded)
            sizes = sum(part.value_bytes for part in encoded), sum(part.compressed_bytes for part in encoded)
            del encoded
            self._count(rows, self.put(number, keys, values, spill, skipped, sizes))


def batch_rows(row_bytes: float | None) -> int:
    """Rows to encode at a time, for rows of about `row_bytes`; None = not known."""
    if row_bytes is None:
        return _BATCH_ROWS_UNSURE
    return int(min(max(RUN_BYTES / max(row_bytes, 1), _BATCH_ROWS_MIN), RUN_ROWS_MAX))


def _concat(parts: list[pa.Array]) -> pa.Array:
    if len(parts) == 1:
        return parts[0]
    if sum(part.nbytes for part in parts) > _OFFSETS_BYTES_MAX:
        parts = [part.cast(pa.large_binary()) for part in parts]
    return pa.concat_arrays(parts)
