"""A repush: the rows of the version that serves become a new version, without the source they were pushed from.

Write path: **version** → fold → partition → sort → seal → attach → replica. For another partition count or compression, or to
begin a hybrid version's topic anew. Rows keep their schema, time and region, deleted keys their tombstones, so each goes on losing
and winning against real-time writes as it did; the new version merges those from where the rows end, so none is lost and an old one
that comes again changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from venice.clock import Clock, SystemClock
from venice.compression import named
from venice.control.answers import PushGrant
from venice.control.reading import open_existing_log
from venice.control.remote import ControllerClient
from venice.errors import Corrupt, NotFound
from venice.leader import real_time_partitions
from venice.model import NO_VERSION, Compression, Store, Version
from venice.push.duplicates import DuplicatePolicy
from venice.push.intake import Intake, Runs
from venice.push.interrupts import interrupts
from venice.push.lanes import cores, run_lanes
from venice.push.memory import freed_memory_kept
from venice.push.progress import Listener, Phase, PushBegun, Reporter
from venice.push.quota import Quota
from venice.push.runs import disk_error
from venice.push.served_rows import Repacker, Source, StoredRows, dictionary_for
from venice.push.session import PushResult, Session
from venice.push.snapshot import Built, Halves, check_counts
from venice.push.stored import packer
from venice.push.writer import Work, Writers, Written
from venice.record import Vector
from venice.storage.manifest import FileKind, Manifest
from venice.storage.packed import dictionary_of, unpacker_of
from venice.storage.snapshot import seal

if TYPE_CHECKING:
    from venice.config import Settings

_SCRATCH: Final = "scratch"
_REPLICAS: Final = "replicas"


def repush(
    settings: Settings,
    store: str,
    *,
    partitions: int | None = None,
    compression: Compression | str | None = None,
    push_id: str | None = None,
    deferred_swap: bool = False,
    threads: int | None = None,
    wait_s: float = 3600.0,
    on_event: Listener | None = None,
    clock: Clock | None = None,
) -> PushResult:
    """Make a new version of the one that serves, and wait until it serves.

    Args:
        settings: Where controller, log and blob folder are.
        store: The store; it has a version that serves.
        partitions: What the store's partition count becomes with this version. Default: as the store's configuration says.
        compression: Likewise; values are compressed anew only if it is another one than they have.
        push_id: Names the repush, as that of a push does.
        deferred_swap: Stop when the version is loaded everywhere; rolling forward serves it.
        threads: Cores to use; default: those this process may run on.
        wait_s: How long to wait for the workers to load the version.
        on_event: Gets the events of `venice/push/progress.py`, in the calling thread.
        clock: For tests.

    Raises:
        NotFound: No such store, or no version of it serves; or it was deleted meanwhile.
        InvalidRequest: A partition count or a compression is not allowed.
        Conflict: Another push of the store is under way, or this one was killed.
        Corrupt: The version is damaged: nothing was sealed.
        Full: The disk is full.
        Unavailable: No controller answers, or no log, or no workers load the version in time.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the version is killed and its files are removed.
    """
    clock = clock if clock is not None else SystemClock()
    reporter = Reporter(clock, on_event)
    client = ControllerClient(settings.controller_url, clock)
    with interrupts() as signals:
        session = Session(
            client, store, push_id=push_id, deferred_swap=deferred_swap, wait_s=wait_s, clock=clock, reporter=reporter, stop=signals
        )
        reporter.begin(Phase.PLAN)
        found = client.get_store(store)
        done = session.done(found)
        if done is not None:
            return done
        if found.current == NO_VERSION:
            raise NotFound(f"store {store!r} has no version that serves", hint=f"'venice push {store}' makes one")
        wanted = {"partition_count": partitions, "compression": named(compression).value if compression is not None else None}
        job = _Repush(settings, found, session.push_id, threads or cores(), reporter, clock)
        return session.run(job.build, config={name: value for name, value in wanted.items() if value is not None})


class _Repush:
    """The folder of one repush."""

    def __init__(self, settings: Settings, store: Store, push_id: str, threads: int, reporter: Reporter, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._push_id = push_id
        self._threads = threads
        self._reporter = reporter
        self._clock = clock

    def build(self, grant: PushGrant, check: Callable[[], None]) -> Built:
        folder = Path(grant.folder)
        scratch = folder / _SCRATCH
        try:
            (scratch / _REPLICAS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        with closing(open_existing_log(self._settings)) as log:
            source = Source(self._settings, grant.store, scratch / _REPLICAS, log, self._clock)
            version = source.version
            rows = version.row_count if version.hybrid is None else None
            begun = PushBegun(
                store=grant.store, version=grant.number, push_id=self._push_id, source=f"version {version.number}",
                partition_count=grant.partition_count, rows_total=rows, columns_ignored=(),
            )  # fmt: skip
            self._reporter.say(begun)
            self._reporter.begin(Phase.READ, rows)

            def tick() -> None:
                check()
                self._reporter.tick()

            made = _Making(grant, source, scratch, self._threads, self._reporter, tick)
            try:
                with freed_memory_kept():
                    manifest = made.manifest(rows, self._store, self._clock)
            finally:
                made.close()
        self._reporter.begin(Phase.SEAL)
        shutil.rmtree(scratch, ignore_errors=True)
        return Built(ref=seal(folder, manifest), manifest=manifest, duplicates=0, skipped=0)


class _Making:
    """The files of one repush: rows by way of sorted runs, and beside them the tombstones."""

    def __init__(self, grant: PushGrant, source: Source, scratch: Path, threads: int, reporter: Reporter, tick: Callable[[], None]) -> None:
        self._grant = grant
        self._source = source
        self._version = version = source.version
        self._folder = scratch.parent
        self._tick = tick
        self._policy = DuplicatePolicy(allow=True)  # A key is in one partition: there are none to settle.
        same = grant.compression is version.compression
        unpack = unpacker_of(version)
        self._dictionary = dictionary_of(version) if same else b""
        if not same and grant.compression is Compression.ZSTD_DICT:
            learned: list[bytes] = []
            run_lanes([lambda: learned.append(dictionary_for(source, unpack))], tick=tick, stop=lambda: None)
            self._dictionary = learned[0]
        self._tombstones = Runs(partition_count=grant.partition_count, policy=self._policy, folder=scratch, spills=1)
        self._rows = StoredRows(source.partitions, source.partition, self._tombstones)
        repacker = Repacker(unpack, packer(grant.compression, self._dictionary), same=same)
        intake = Intake(
            self._rows, repacker, partition_count=grant.partition_count, policy=self._policy, folder=scratch,
            lanes=threads, count=reporter.count,
        )  # fmt: skip
        quota = Quota(store=grant.store, bytes_max=grant.storage_quota_bytes)
        self._halves = Halves(intake, Work(self._folder, self._policy), quota, threads, reporter, tick)

    def manifest(self, rows: int | None, store: Store, clock: Clock) -> Manifest:
        """Read everything, write everything, and say what it is.

        Args:
            rows: How many there are, if that is known.
        """
        taken = self._halves.read(self._rows.stop, rows)
        written = self._halves.write(taken)
        deleted = self._write_tombstones()
        check_counts(taken, written)
        check_counts(self._tombstones.taken, deleted)
        if taken.duplicates or sum(one.duplicates for one in (*written, *deleted)):
            raise Corrupt(
                f"a key of version {self._version.number} is in several of its partitions", hint="push the store anew from its source"
            )
        start, held = offsets(self._version, self._rows.vectors)
        files = [one.file for one in (*written, *deleted)]
        return Manifest(
            store=store.name,
            version=self._grant.number,
            partition_count=self._grant.partition_count,
            created_ms=clock.now_ms(),
            value_schema_id=store.value_schemas[-1].id if self._version.hybrid is not None else self._version.value_schema_id,
            compression=self._grant.compression,
            dictionary=self._dictionary,
            value_bytes=taken.value_bytes,
            compressed_bytes=taken.compressed_bytes,
            source_version=self._version.number,
            start_offsets=start,
            held_offsets=held,
            files=tuple(sorted(files, key=lambda file: (file.partition, file.kind.value))),
        )

    def close(self) -> None:
        self._rows.close()
        self._halves.close()
        self._tombstones.close()

    def _write_tombstones(self) -> list[Written]:
        jobs = self._tombstones.jobs()
        work = Work(self._folder, self._policy, FileKind.METADATA)
        writers = Writers(work, processes=0, descriptors=[], count=lambda rows, size: None, done=self._tombstones.written)
        run_lanes(writers.lanes(jobs), tick=self._tick, stop=writers.stop)
        return writers.written


def offsets(version: Version, vectors: dict[int, Vector]) -> tuple[Vector, Vector]:
    """From where on real-time writes may not be among the rows of a version, and from where on none is.

    They differ because partitions of a version that read the same real-time partition are not equally far.

    Args:
        version: Hybrid, or the answer is nothing.
        vectors: By partition: up to where real-time writes are merged into its rows.
    """
    began = {(at.region, at.partition): at.next_offset for at in version.start_offsets}
    start: dict[tuple[int, int], int] = {}
    held = {(at.region, at.partition): at.next_offset for at in version.held_offsets}
    for partition, vector in vectors.items():
        mine = real_time_partitions(partition, version.partition_count, version.real_time_partitions)
        merged = began | {(region, real_time): offset for region, real_time, offset in vector}
        for at, offset in merged.items():
            if at[1] in mine:
                start[at] = min(start.get(at, offset), offset)
                held[at] = max(held.get(at, offset), offset)
    return tuple((*at, start[at]) for at in sorted(start)), tuple((*at, held[at]) for at in sorted(held))
