"""A batch push: files or a query become a new version of a store, and the version is served when the call returns.

Write path: **push** → snapshot (blob folder) → attach → replica. What happens when is told in `docs/write-path.md`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb

from venice.clock import Clock, SystemClock
from venice.control.answers import PushGrant, VersionInfo
from venice.control.remote import ControllerClient
from venice.errors import Conflict, InvalidRequest, Unavailable, VeniceError
from venice.model import Compression, Store, Version, VersionStatus
from venice.push.columns import quote_text
from venice.push.data import DATA, register
from venice.push.heartbeat import Heartbeat
from venice.push.interrupts import Interrupts, interrupts
from venice.push.plan import Plan, make_plan
from venice.push.progress import Listener, Phase, PushBegun, Reporter
from venice.push.snapshot import Built, Target, build
from venice.push.sources import Format, Source, locate

if TYPE_CHECKING:
    from venice.config import Settings

_POLL_FIRST_S: Final = 0.02
_POLL_MAX_S: Final = 0.25
_COMPLETE: Final = frozenset((VersionStatus.ONLINE, VersionStatus.PUSHED, VersionStatus.ROLLED_BACK))


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push did."""

    store: str
    version: int | None
    """The version that now serves (or waits, if its swap is deferred); None after a dry run."""
    push_id: str
    existing: bool
    """The push id was known and its version complete: nothing was read."""
    rows: int
    """Rows of the version."""
    bytes: int
    """Size of its files."""
    duplicates: int
    """Rows dropped because another one has the same key."""
    skipped: int
    """Rows left out because all their value columns are null."""
    compression: Compression
    value_bytes: int
    """Avro bytes of all values that were read, if the version is compressed; 0 if it is not."""
    compressed_bytes: int
    """What those were compressed to."""
    partition_rows: tuple[int, ...]
    """Rows of each partition; empty if `existing`."""
    seconds: Mapping[Phase, float]
    """How long each phase took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How a push is done; see `push`."""

    key: str | None = None
    value: str | None = None
    push_id: str | None = None
    allow_duplicates: bool = False
    deferred_swap: bool = False
    dry_run: bool = False
    memory_limit: str | None = None
    threads: int | None = None
    wait_s: float = 3600.0


def push(
    where: Settings | str,
    store: str,
    *,
    inputs: str | Path | Sequence[str | Path] | None = None,
    sql: str | None = None,
    data: object = None,
    key: str | None = None,
    value: str | None = None,
    push_id: str | None = None,
    allow_duplicates: bool = False,
    deferred_swap: bool = False,
    dry_run: bool = False,
    memory_limit: str | None = None,
    threads: int | None = None,
    wait_s: float = 3600.0,
    on_event: Listener | None = None,
    clock: Clock | None = None,
) -> PushResult:
    """Push a new version of `store` and wait until it serves.

    Args:
        where: Settings, or the controller's URL.
        store: The store; it exists and has a value schema. The newest one is written.
        inputs: Files, globs or folders of Parquet, CSV or JSON.
        sql: Instead of `inputs`: a DuckDB query.
        data: Instead of `inputs`: an Arrow table or dataset, or a data frame of pandas or polars.
        key: Column of the key. Default: the fields of a record key; otherwise `key`, or the only column left over.
        value: Column of the whole value. Default: the fields of a record value; otherwise `value`, or the only column left.
        push_id: Names the push. A push with the id of one that is complete returns at once; with that of one that was
            broken off it begins anew, as the same version.
        allow_duplicates: Of rows with equal keys and different values keep the one read last, instead of failing.
        deferred_swap: Stop when the version is loaded everywhere; rolling forward serves it.
        dry_run: Do everything up to the sealed files, in a temporary folder that is then removed; make no version.
        memory_limit: For DuckDB, such as "1GB"; default: its own, 80 % of the machine.
        threads: Cores to use; default: those this process may run on.
        wait_s: How long to wait for the workers to load the version.
        on_event: Gets the events of `venice/push/progress.py`, in the calling thread.
        clock: For tests.

    Raises:
        NotFound: No such store, or no such file.
        InvalidRequest: The input does not fit the store; file, column and rows are named.
        Conflict: Another push of the store is under way, or this one was killed.
        Full: Disk, memory or the size limit of values is exceeded.
        Unavailable: No controller answers, or no workers load the version in time.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the version is killed and its files are removed.
    """
    if sum(given is not None for given in (inputs, sql, data)) != 1:
        raise InvalidRequest("a push needs input files, or a query, or data: one of them", hint="give --input PATH or --sql QUERY")
    clock = clock if clock is not None else SystemClock()
    options = PushOptions(
        key=key, value=value, push_id=push_id, allow_duplicates=allow_duplicates, deferred_swap=deferred_swap,
        dry_run=dry_run, memory_limit=memory_limit, threads=threads, wait_s=wait_s,
    )  # fmt: skip
    url = where if isinstance(where, str) else where.controller_url
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs or ())
    with interrupts() as signals:
        job = _Push(ControllerClient(url, clock), store, options, clock, Reporter(clock, on_event), signals)
        return job.run(paths, sql, data)


class _Push:
    """One push, from its inputs to the version served."""

    def __init__(
        self, client: ControllerClient, store: str, options: PushOptions, clock: Clock, reporter: Reporter, signals: Interrupts
    ) -> None:
        self._signals = signals
        self._client = client
        self._store = store
        self._options = options
        self._clock = clock
        self._reporter = reporter
        self._threads = options.threads or _cores()
        self._push_id = options.push_id or f"push-{clock.now_ms()}-{os.getpid()}"

    def run(self, paths: Sequence[str | Path], sql: str | None, data: object) -> PushResult:
        self._reporter.begin(Phase.PLAN)
        store = self._client.get_store(self._store)
        if not store.value_schemas:
            raise InvalidRequest(f"store {self._store!r} has no value schema", hint="add one with 'venice schema add'")
        done = _complete(store, self._push_id)
        if done is not None and not self._options.dry_run:
            self._reporter.end()
            return self._found(done)
        source = DATA if data is not None else locate(paths) if sql is None else Source(format=Format.SQL, query=sql.strip().rstrip(";"))
        with duckdb.connect() as connection:
            self._signals.watch(connection)
            configure(connection, self._threads, self._options.memory_limit)
            if data is not None:
                register(connection, data)
            plan = make_plan(
                connection,
                source,
                key_schema=store.key_schema,
                value_schema=store.value_schemas[-1].text,
                key=self._options.key,
                value=self._options.value,
            )
            return self._rehearse(store, plan, connection) if self._options.dry_run else self._perform(store, plan, connection)

    def _rehearse(self, store: Store, plan: Plan, connection: duckdb.DuckDBPyConnection) -> PushResult:
        config = store.config
        with tempfile.TemporaryDirectory(prefix="venice-dry-run-") as folder:
            where = Path(folder) / "snapshot"
            target = self._target(store, where, 0, config.partition_count, config.record_bytes_max, config.compression)
            built = self._build(plan, target, connection, None)
        self._reporter.end()
        return self._result(None, built)

    def _perform(self, store: Store, plan: Plan, connection: duckdb.DuckDBPyConnection) -> PushResult:
        self._signals.check()
        grant = self._client.create_version(self._store, push_id=self._push_id, deferred_swap=self._options.deferred_swap)
        if grant.sealed:
            version = self._wait(grant)
            self._reporter.end()
            return self._found(version)
        where = Path(grant.folder)
        target = self._target(store, where, grant.number, grant.partition_count, grant.record_bytes_max, grant.compression)
        try:
            with Heartbeat(self._client, self._store, grant.number, grant.lease_s) as heartbeat:
                built = self._build(plan, target, connection, heartbeat)
                heartbeat.check()
                self._signals.check()
        except BaseException as error:
            self._give_up(grant, error)
            raise
        try:
            self._seal(grant, built, target.value_schema_id)
            self._wait(grant, built.manifest.rows)
        except (KeyboardInterrupt, VeniceError) as error:
            if not self._stopped(error):
                raise
            with suppress(VeniceError):  # It may have been swapped in meanwhile, or the controller may be gone.
                self._client.kill(self._store, grant.number, "the push was stopped")
            raise
        self._reporter.end()
        return self._result(grant.number, built)

    def _target(
        self, store: Store, folder: Path, version: int, partition_count: int, value_bytes_max: int, compression: Compression
    ) -> Target:
        return Target(
            folder=folder,
            store=self._store,
            version=version,
            partition_count=partition_count,
            value_schema_id=store.value_schemas[-1].id,
            value_bytes_max=value_bytes_max,
            compression=compression,
        )

    def _build(self, plan: Plan, target: Target, connection: duckdb.DuckDBPyConnection, heartbeat: Heartbeat | None) -> Built:
        size = plan.source.measure(connection)
        begun = PushBegun(
            store=self._store, version=target.version if heartbeat is not None else None, push_id=self._push_id,
            source=str(plan.source),
            partition_count=target.partition_count, rows_total=size.rows, columns_ignored=plan.columns_ignored,
            fields_defaulted=plan.value.defaulted,
        )  # fmt: skip
        self._reporter.say(begun)
        return build(
            connection,
            plan,
            target,
            size=size,
            allow_duplicates=self._options.allow_duplicates,
            threads=self._threads,
            clock=self._clock,
            reporter=self._reporter,
            check=lambda: self._check(heartbeat),
        )

    def _check(self, heartbeat: Heartbeat | None) -> None:
        self._signals.check()
        if heartbeat is not None:
            heartbeat.check()

    def _seal(self, grant: PushGrant, built: Built, value_schema_id: int) -> None:
        try:
            self._client.seal(
                self._store,
                grant.number,
                uri=built.ref.uri,
                sha256=built.ref.sha256,
                rows=built.manifest.rows,
                bytes_=built.manifest.bytes,
                value_schema_id=value_schema_id,
            )
        except Unavailable:
            raise  # It may have been sealed: the files stay, and the same push id finds out.
        except VeniceError:
            _remove(Path(grant.folder))
            raise

    def _give_up(self, grant: PushGrant, error: BaseException) -> None:
        _remove(Path(grant.folder))
        with suppress(VeniceError):  # The first error is the one to report; a version that is never heard of again ends by itself.
            if self._stopped(error):
                self._client.kill(self._store, grant.number, "the push was stopped")
            else:
                self._client.fail(self._store, grant.number, str(error) or repr(error))

    def _stopped(self, error: BaseException) -> bool:
        """Whether it is no fault of the push: somebody wants it to stop."""
        return self._signals.wanted or isinstance(error, KeyboardInterrupt)

    def _wait(self, grant: PushGrant, rows: int = 0) -> Version:
        """The version, once it serves (or waits for its swap)."""
        self._reporter.begin(Phase.LOAD, rows or None)
        deadline_s = self._clock.monotonic_s() + self._options.wait_s
        pause_s = _POLL_FIRST_S
        while True:
            info = self._client.get_version(self._store, grant.number)
            if info.version.status in _COMPLETE:
                return info.version
            if info.version.status is not VersionStatus.STARTED:
                raise Conflict(
                    f"version {grant.number} of store {self._store!r} is {info.status}: {info.version.reason}",
                    hint="push again",
                    status=info.status,
                )
            self._signals.check()
            self._reporter.set(rows * info.ready_partitions // grant.partition_count)
            self._reporter.tick()
            if self._clock.monotonic_s() > deadline_s:
                raise _not_loaded(info, self._options.wait_s)
            self._clock.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _POLL_MAX_S)

    def _result(self, version: int | None, built: Built) -> PushResult:
        manifest = built.manifest
        by_partition = dict.fromkeys(range(manifest.partition_count), 0)
        by_partition.update((file.partition, file.rows) for file in manifest.files)
        return PushResult(
            store=self._store,
            version=version,
            push_id=self._push_id,
            existing=False,
            rows=manifest.rows,
            bytes=manifest.bytes,
            duplicates=built.duplicates,
            skipped=built.skipped,
            compression=manifest.compression,
            value_bytes=manifest.value_bytes,
            compressed_bytes=manifest.compressed_bytes,
            partition_rows=tuple(by_partition.values()),
            seconds=dict(self._reporter.seconds),
        )

    def _found(self, version: Version) -> PushResult:
        """What a push that was complete before did, as far as its version tells."""
        return PushResult(
            store=self._store,
            version=version.number,
            push_id=self._push_id,
            existing=True,
            rows=version.row_count,
            bytes=version.byte_count,
            duplicates=0,
            skipped=0,
            compression=version.compression,
            value_bytes=version.value_bytes,
            compressed_bytes=version.compressed_bytes,
            partition_rows=(),
            seconds=dict(self._reporter.seconds),
        )


def _complete(store: Store, push_id: str) -> Version | None:
    """The complete version that this push made, if it is still there."""
    return next((v for v in store.versions if v.push_id == push_id and v.status in _COMPLETE), None)


def _not_loaded(info: VersionInfo, wait_s: float) -> Unavailable:
    version = info.version
    where = f"{info.ready_partitions} of {version.partition_count} partitions are ready" if info.placed else "no workers hold it"
    return Unavailable(
        f"version {version.number} of store {info.store!r} is sealed, but after {wait_s:.0f} s {where}",
        hint="it serves as soon as workers have loaded it: look at 'venice version list' and 'venice doctor'",
        version=version.number,
    )


def configure(connection: duckdb.DuckDBPyConnection, threads: int, memory_limit: str | None) -> None:
    """Make a connection read as pushes do: in order, in UTC, within limits. Raises InvalidRequest."""
    # Not as parameters of a statement: for those DuckDB imports pandas, if it is installed.
    connection.execute(f"SET threads = {threads:d}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = true")
    if memory_limit is not None:
        try:
            connection.execute(f"SET memory_limit = {quote_text(memory_limit)}")
        except duckdb.Error as error:
            raise InvalidRequest(f"memory limit {memory_limit!r} is not an amount of memory", hint="write it as 500MB or 2GB") from error


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _remove(folder: Path) -> None:
    """Remove an attempt's folder, and the version's around it if that is now empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
