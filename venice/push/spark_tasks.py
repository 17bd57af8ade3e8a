"""What a push does inside Spark's tasks: the code of every other push, between Spark's shuffle on one side and the folder on the other.

Write path: data frame → **encode** → partition → shuffle and sort (Spark) → **write** → seal. Tasks may run twice, one after the other
or at a time: each attempt writes into a folder of its own, and what its result says is all that the driver takes of it.

What a task finds wrong goes on as a row without a key, a *note*, to whoever starts the push: an error that was raised here would
be tried again by Spark, and arrive as text. Notes sort before keys.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from venice.errors import Corrupt, Unavailable, VeniceError
from venice.model import Compression
from venice.push.batch import configure
from venice.push.data import DATA, register
from venice.push.duplicates import Conflicts, DuplicatePolicy
from venice.push.encode import Encoded, RowEncoder
from venice.push.intake import Reader
from venice.push.keys import key_column, partitions
from venice.push.plan import Plan, make_plan
from venice.push.runs import flatten
from venice.push.stored import StoredValues
from venice.schema.arrow_buffers import number_column
from venice.storage.sealed import PartitionWriter
from venice.storage.snapshot import PartitionFile, file_name

ROWS: Final = pa.schema([("partition", pa.int32()), ("key", pa.binary()), ("value", pa.binary())])
"""What goes through the shuffle; the value is a stored one, or, without a key, a pickled note."""
RESULTS: Final = pa.schema([("result", pa.binary())])
"""Pickled outcomes."""

_ROWS_AT_A_TIME: Final = 16_384


class Tally(NamedTuple):
    """A note: what became of some rows that go to one partition."""

    rows: int = 0
    """Sent on."""
    skipped: int = 0
    value_bytes: int = 0
    compressed_bytes: int = 0


class Outcome(NamedTuple):
    """What a writing task did."""

    file: PartitionFile | None
    """In the folder of this attempt; None: the partition has no rows."""
    attempt: str
    duplicates: int
    conflicts: Conflicts
    tally: Tally


@dataclass(frozen=True, slots=True)
class Encoding:
    """Rows of a data frame → keys and stored values, by partition. `mapInArrow` runs it."""

    key_schema: str
    value_schema: str
    key: str | None
    value: str | None
    partition_count: int
    value_schema_id: int
    value_bytes_max: int
    compression: Compression
    dictionary: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            with duckdb.connect() as connection:
                configure(connection, 1, None)
                stored = StoredValues(self.value_schema_id, self.compression, self.dictionary, stamped=False)
                for batch in batches:
                    if batch.num_rows:
                        for found in self._encoded(connection, batch, stored):
                            yield from self._placed(found)
        except VeniceError as error:
            yield _note(0, error)
            for _ in batches:
                pass  # Spark wants its rows to be taken.

    def _encoded(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, stored: StoredValues) -> Iterator[Encoded]:
        register(connection, pa.Table.from_batches([batch]))
        plan = make_plan(
            connection, DATA, key_schema=self.key_schema, value_schema=self.value_schema, key=self.key, value=self.value
        )  # fmt: skip
        yield from encoded(connection, plan, self.value_bytes_max, stored)

    def _placed(self, found: Encoded) -> Iterator[pa.RecordBatch]:
        places = partitions(key_column(*flatten(found.keys)), self.partition_count)
        counts = np.bincount(places, minlength=self.partition_count)
        for partition in np.flatnonzero(counts).tolist():
            yield _note(partition, Tally(rows=int(counts[partition])))
        if found.skipped or found.value_bytes:
            yield _note(0, Tally(0, found.skipped, found.value_bytes, found.compressed_bytes))
        if len(found.keys):
            columns = [number_column(places).cast(pa.int32()), found.keys.cast(pa.binary()), found.values.cast(pa.binary())]
            yield pa.RecordBatch.from_arrays(columns, schema=ROWS)


@dataclass(frozen=True, slots=True)
class Writing:
    """The rows of one partition, by key and value, its notes first → its sorted file. `mapInArrow` runs it.

    Args:
        folder: Where attempts make their folders.
        policy: What to do about equal keys. Rows have no order in Spark: of those that differ the one with the largest bytes is kept.
    """

    folder: str
    policy: DuplicatePolicy

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        outcome: Outcome | VeniceError | None
        try:
            outcome = self._write(batches)
        except VeniceError as error:
            outcome = error
            for _ in batches:
                pass  # Spark wants its rows to be taken.
        if outcome is not None:
            yield pa.RecordBatch.from_arrays([pa.array([pickle.dumps(outcome)], pa.binary())], schema=RESULTS)

    def _write(self, batches: Iterator[pa.RecordBatch]) -> Outcome | None:
        rows = _Rows(batches, self.policy)
        writer: PartitionWriter | None = None
        attempt = _attempt()
        try:
            for keys, values in rows:
                if writer is None:
                    path = Path(self.folder) / attempt / file_name(rows.partition)
                    try:
                        path.parent.mkdir(exist_ok=True)  # Not its parents: without them the push is over, and this attempt forgotten.
                    except OSError as error:
                        raise Unavailable(f"cannot write at {path.parent}: {error.strerror}", hint="every executor needs it") from error
                    writer = PartitionWriter(path)
                writer.put_all(keys, values)
            file = writer.finish(rows.partition) if writer is not None else None
        except BaseException:
            if writer is not None:
                writer.abort()
            raise
        if rows.partition < 0:
            return None
        kept = file.rows if file is not None else 0
        if rows.tally.rows != kept + rows.duplicates:
            raise Corrupt(
                f"partition {rows.partition}: {rows.tally.rows} rows were encoded, {kept} written, {rows.duplicates} dropped as duplicates",
                hint="nothing was sealed; rows of the data frame must be the same each time they are computed: push again",
            )
        return Outcome(file, attempt, rows.duplicates, rows.conflicts, rows.tally)


class _Rows:
    """Sorted rows without duplicates, so many at a time as came; what notes say is in `tally` at the end."""

    def __init__(self, batches: Iterator[pa.RecordBatch], policy: DuplicatePolicy) -> None:
        self._batches = batches
        self._policy = policy
        self._last: tuple[bytes, bytes] | None = None
        """Held back: the next batch may begin with its key."""
        self.conflicts = Conflicts()
        """So far; the keys that are not allowed to have several rows and do."""
        self._conflicting: bytes | None = None
        """The last of them: a key has its rows one after the other."""
        self.partition = -1
        self.duplicates = 0
        self.tally = Tally()

    def __iter__(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        for batch in self._batches:
            batch = self._without_notes(batch)
            if batch.num_rows:
                yield self._settled(batch.column("key"), batch.column("value"))
        if self._last is not None:
            yield [self._last[0]], [self._last[1]]

    def _without_notes(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        places = pc.unique(batch.column("partition")).to_pylist()
        assert len({*places, self.partition} - {-1}) <= 1, "a partition for each task"
        self.partition = places[0] if places else self.partition
        keys = batch.column("key")
        for note in batch.column("value").filter(keys.is_null()).to_pylist() if keys.null_count else ():
            said = pickle.loads(note)
            if isinstance(said, VeniceError):
                raise said
            self.tally = Tally(*map(sum, zip(self.tally, said, strict=True)))
        return batch.slice(keys.null_count)

    def _settled(self, keys: pa.Array, values: pa.Array) -> tuple[list[bytes], list[bytes]]:
        """All rows before the last one, of which the next batch decides, and the one that was held back."""
        named, stored = keys.to_pylist(), values.to_pylist()
        if self._last is not None:
            named.insert(0, self._last[0])
            stored.insert(0, self._last[1])
        self._last = named[-1], stored[-1]
        if len(set(named)) == len(named):
            return named[:-1], stored[:-1]
        kept = [at for at in range(len(named) - 1) if named[at] != named[at + 1]]
        self.duplicates += len(named) - 1 - len(kept)
        if not self._policy.allow:
            for at in range(len(named) - 1):
                if named[at] == named[at + 1] and stored[at] != stored[at + 1] and named[at] != self._conflicting:
                    self._conflicting = named[at]
                    self.conflicts = self.conflicts.plus(Conflicts(1, (named[at],)))
        return [named[at] for at in kept], [stored[at] for at in kept]


def encoded(connection: duckdb.DuckDBPyConnection, plan: Plan, value_bytes_max: int, stored: StoredValues | None) -> Iterator[Encoded]:
    """The rows of a plan, some at a time; `stored` as for `RowEncoder`. Raises as any other push does, whose reader and encoder it has."""
    reader = Reader(connection, plan, _ROWS_AT_A_TIME)
    reader.open()
    encoder = RowEncoder(plan, reader.schema, stored=stored, value_bytes_max=value_bytes_max, connection=connection)
    while (stretch := reader.next()) is not None:
        yield from map(encoder.encode, stretch[1])


def _attempt() -> str:
    from pyspark import TaskContext  # Here, in a task, it is.

    context = TaskContext.get()
    assert context is not None, "it runs in a task of Spark"
    return f"task-{context.stageId()}-{context.taskAttemptId()}"


def _note(partition: int, said: Tally | VeniceError) -> pa.RecordBatch:
    columns = [pa.array([partition], pa.int32()), pa.array([None], pa.binary()), pa.array([pickle.dumps(said)], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, schema=ROWS)
