"""Rows in, sealed folder out: the part of a push that needs no controller.

Write path: **read → encode → partition → sort → seal**.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from venice.clock import Clock
from venice.errors import Corrupt
from venice.model import UNLIMITED, Compression, SnapshotRef
from venice.push.columns import quote_text
from venice.push.duplicates import DuplicatePolicy, refuse_conflicts
from venice.push.encode import RowEncoder
from venice.push.intake import Intake, Reader, Taken, batch_rows
from venice.push.lanes import run_lanes
from venice.push.memory import freed_memory_kept
from venice.push.plan import Plan
from venice.push.progress import Phase, Reporter
from venice.push.quota import Quota
from venice.push.runs import disk_error
from venice.push.sample import dictionary_for
from venice.push.sources import Size
from venice.push.stored import StoredValues
from venice.push.writer import Work, Writers, Written
from venice.storage.manifest import Manifest
from venice.storage.snapshot import seal

ROWS_PER_PROCESS: Final = 500_000
"""Rows that pay for a writing process: starting one costs as much time as writing about that many."""
_SCRATCH: Final = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is written, and where."""

    folder: Path
    """Of this attempt alone; made if missing."""
    store: str
    version: int
    partition_count: int
    value_schema_id: int
    value_bytes_max: int
    compression: Compression = Compression.NONE
    quota_bytes: int = UNLIMITED
    """Largest size of the files together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A sealed snapshot and what was counted on the way."""

    ref: SnapshotRef
    manifest: Manifest
    duplicates: int
    skipped: int


def build(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    target: Target,
    *,
    size: Size,
    allow_duplicates: bool,
    threads: int,
    clock: Clock,
    reporter: Reporter,
    check: Callable[[], None],
) -> Built:
    """Read the plan's rows once, write the folder's files and seal it.

    Args:
        size: What is known of the rows.
        threads: Cores to use.
        check: Called a few times a second; what it raises ends the push.

    Raises:
        InvalidRequest: A row cannot be read, has no key, does not fit the schema, or has the key of another one.
        Full: No disk or memory is left, a value is too large, or the files together are.
    """
    scratch = target.folder / _SCRATCH
    try:
        scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, target.folder) from error
    connection.execute(f"SET temp_directory = {quote_text(str(scratch))}")
    policy = DuplicatePolicy(allow=allow_duplicates)
    reporter.begin(Phase.READ, size.rows)

    def tick() -> None:
        check()
        reporter.tick()

    reader = Reader(connection, plan, batch_rows(size.row_bytes))
    run_lanes([reader.open], tick=tick, stop=connection.interrupt)  # A query that sorts or groups does all its work in there.
    dictionary = _dictionary(connection, plan, target, reader, tick)
    stored = StoredValues(target.value_schema_id, target.compression, dictionary, stamped=plan.timestamp is not None)
    encoder = RowEncoder(plan, reader.schema, stored=stored, value_bytes_max=target.value_bytes_max, connection=connection)
    intake = Intake(
        reader, encoder, partition_count=target.partition_count, policy=policy, folder=scratch, lanes=threads, count=reporter.count
    )
    quota = Quota(store=target.store, bytes_max=target.quota_bytes, repeats=allow_duplicates)
    halves = Halves(intake, Work(target.folder, policy), quota, threads, reporter, tick)

    def stop() -> None:
        reader.stop()
        connection.interrupt()

    try:
        with freed_memory_kept():
            taken = halves.read(stop, size.rows)
        # In between, what reading took goes back to the kernel: the writing processes and their files take the same pages.
        with freed_memory_kept():
            written = sorted(halves.write(taken), key=lambda one: one.file.partition)
    finally:
        halves.close()
    check_counts(taken, written)
    refuse_conflicts(plan.key.row_schema, [one.conflicts for one in written])
    reporter.begin(Phase.SEAL)
    shutil.rmtree(scratch, ignore_errors=True)
    return _sealed(target, taken, written, dictionary, clock)


def _sealed(target: Target, taken: Taken, written: Sequence[Written], dictionary: bytes, clock: Clock) -> Built:
    manifest = Manifest(
        store=target.store,
        version=target.version,
        partition_count=target.partition_count,
        created_ms=clock.now_ms(),
        value_schema_id=target.value_schema_id,
        compression=target.compression,
        dictionary=dictionary,
        value_bytes=taken.value_bytes,
        compressed_bytes=taken.compressed_bytes,
        files=tuple(one.file for one in written),
    )
    ref = seal(target.folder, manifest)
    duplicates = taken.duplicates + sum(one.duplicates for one in written)
    return Built(ref=ref, manifest=manifest, duplicates=duplicates, skipped=taken.skipped)


def _dictionary(connection: duckdb.DuckDBPyConnection, plan: Plan, target: Target, reader: Reader, tick: Callable[[], None]) -> bytes:
    """What values are compressed with; empty where they are compressed without one."""
    learned: list[bytes] = []
    if target.compression is Compression.ZSTD_DICT:
        sampling = connection.cursor()

        def learn() -> None:
            learned.append(dictionary_for(sampling, plan, reader, target.value_bytes_max))

        run_lanes([learn], tick=tick, stop=sampling.interrupt)
    return learned[0] if learned else b""


def check_counts(taken: Taken, written: Sequence[Written]) -> None:
    """That every row which was read and kept is in a file, once, or was dropped as a duplicate.

    Raises:
        Corrupt: Rows were lost or repeated between reading and writing.
    """
    counted = {one.file.partition: one.file.rows + one.duplicates for one in written}
    for partition in sorted(taken.rows_by_partition.keys() | counted.keys()):
        read, kept = taken.rows_by_partition.get(partition, 0), counted.get(partition, 0)
        if read != kept:
            raise Corrupt(
                f"partition {partition}: {read} rows were read, but {kept} were written or dropped as duplicates",
                hint="nothing was sealed; push again, and look at the disk and the memory of this machine if it happens again",
            )
    if sum(taken.rows_by_partition.values()) != taken.rows:
        raise Corrupt(f"{taken.rows} rows were kept, but {sum(taken.rows_by_partition.values())} went to partitions", hint="push again")


class Halves:
    """Reading, then writing; the writing processes start as soon as it is clear that they pay."""

    def __init__(self, intake: Intake, work: Work, quota: Quota, threads: int, reporter: Reporter, tick: Callable[[], None]) -> None:
        self._intake = intake
        self._work = work
        self._quota = quota
        self._threads = threads
        self._reporter = reporter
        self._tick = tick
        self._writers: Writers | None = None

    def read(self, stop: Callable[[], None], rows_total: int | None) -> Taken:
        """Run the intake to the end of the input, which has so many rows, if that is known; `stop` makes it end soon."""

        def tick() -> None:
            self._quota.check(self._intake.taken, ())
            if self._writers is None and rows_total is not None and self._intake.taken.rows >= 2 * ROWS_PER_PROCESS:
                self._start(rows_total)
            self._tick()

        run_lanes(self._intake.lanes(), tick=tick, stop=stop)
        return self._intake.taken

    def write(self, taken: Taken) -> list[Written]:
        """Write every partition that has rows."""
        self._reporter.begin(Phase.WRITE, taken.rows)
        if self._writers is None:
            self._start(taken.rows)
        assert self._writers is not None
        writers = self._writers

        def tick() -> None:
            self._quota.check(taken, tuple(writers.written))
            self._tick()

        run_lanes(writers.lanes(self._intake.jobs()), tick=tick, stop=writers.stop)
        return writers.written

    def close(self) -> None:
        if self._writers is not None:
            self._writers.close()
        self._intake.close()

    def _start(self, rows: int) -> None:
        """Start as many processes as so many rows pay for, if that is more than one; otherwise all is written here."""
        processes = min(self._threads, rows // ROWS_PER_PROCESS, len(self._intake.taken.blocks))
        self._writers = Writers(
            self._work,
            processes=processes if processes > 1 else 0,
            descriptors=[descriptor for spill in self._intake.spills for descriptor in spill.descriptors],
            count=self._reporter.count,
            done=self._intake.written,
        )
