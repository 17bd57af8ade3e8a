"""A batch push: files or a query become a new version of a store, and the version is served when the call returns.

Write path: **push** → snapshot (blob folder) → attach → replica. What happens when is told in `docs/write-path.md`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from venice.clock import Clock, SystemClock
from venice.control.answers import PushGrant
from venice.control.remote import ControllerClient
from venice.errors import InvalidRequest, NotFound
from venice.model import Rollout, Store, StoreConfig, ValueSchema
from venice.push.columns import quote_text
from venice.push.data import DATA, register
from venice.push.interrupts import Interrupts, interrupts
from venice.push.lanes import cores
from venice.push.new_schema import fed_elsewhere, grown_schema
from venice.push.plan import Plan, make_plan
from venice.push.progress import Listener, Phase, PushBegun, Reporter
from venice.push.session import PushResult, Session
from venice.push.snapshot import Built, Target, build
from venice.push.sources import Source, locate_any

if TYPE_CHECKING:
    from venice.config import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """How a push is done; see `push`."""

    key: str | None = None
    """Column of the key. Default: the fields of a record key; otherwise `key`, or the only column left over."""
    value: str | None = None
    """Column of the whole value. Default: the fields of a record value; otherwise `value`, or the only column left."""
    renames: Mapping[str, str] = field(default_factory=dict)
    """Columns of fields that have another name, by field; `key.FIELD` and `value.FIELD` where key and value both have it."""
    timestamp: str | None = None
    """Column of each row's own time: milliseconds since 1970, or a timestamp. Null: the row has none."""
    value_schema: int | None = None
    """Id of the registered value schema that is written. Default: the newest."""
    register_schema: bool = False
    """Add a field to the value schema for each column that it lacks, and register it. Not with `value`."""
    push_id: str | None = None
    """Names the push. A push with the id of one that is complete returns at once; with that of one that was broken off it begins
    anew, as the same version."""
    allow_duplicates: bool = False
    """Of rows with equal keys and different values keep the one read last, instead of failing."""
    deferred_swap: bool = False
    """Stop when the version is loaded everywhere; rolling forward serves it."""
    rollout: Rollout | None = None
    dry_run: bool = False
    """Do everything up to the sealed files, in a temporary folder that is then removed; make no version, register nothing."""
    memory_limit: str | None = None
    """For DuckDB, such as "1GB"; default: its own, 80 % of the machine."""
    threads: int | None = None
    """Cores to use; default: those this process may run on."""
    wait_s: float = 3600.0
    """How long to wait for the workers to load the version."""

    def __post_init__(self) -> None:
        if self.register_schema and self.value is not None:
            raise InvalidRequest(
                f"column {self.value!r} is the whole value, and --register-schema makes fields of columns", hint="leave one of the two out"
            )


def push(
    where: Settings | str,
    store: str,
    *,
    inputs: str | Path | Sequence[str | Path] | None = None,
    table: str | None = None,
    sql: str | None = None,
    data: object = None,
    key: str | None = None,
    value: str | None = None,
    renames: Mapping[str, str] | None = None,
    timestamp: str | None = None,
    value_schema: int | None = None,
    register_schema: bool = False,
    push_id: str | None = None,
    allow_duplicates: bool = False,
    deferred_swap: bool = False,
    target_nodes: Sequence[str] = (),
    target_wait_s: int | None = None,
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
        inputs: Files, globs or folders of Parquet, CSV, JSON or Avro, as paths or URLs (`s3://…`); or a database: a DuckDB or SQLite
            file, or `postgresql://…`.
        table: The table of that database.
        sql: Instead of a table or of `inputs`: a query, of that database or of DuckDB.
        data: Instead of all that: an Arrow table or dataset, or a data frame of pandas or polars.
        target_nodes: Names of nodes, or a share such as "25%", that get the version first; the push ends when it can be read there.
        target_wait_s: So long after that it goes to the others and serves; None: when it is rolled forward.
        on_event: Gets the events of `venice/push/progress.py`, in the calling thread.
        clock: For tests.

    All others: see `PushOptions`.

    Raises:
        NotFound: No such store, file, table or value schema.
        InvalidRequest: The input does not fit the store; file, column and rows are named. Or it cannot be read.
        Incompatible: Avro files with schemas that do not fit each other, or a column with those registered.
        Corrupt: An Avro file is cut off or damaged.
        Conflict: Another push of the store is under way, or this one was killed.
        Full: Disk, memory, the size limit of values or the store's storage quota is exceeded.
        Unavailable: No controller answers, or no workers load the version in time.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the version is killed and its files are removed.
    """
    clock = clock if clock is not None else SystemClock()
    options = PushOptions(
        key=key, value=value, renames=renames or {}, timestamp=timestamp, value_schema=value_schema, register_schema=register_schema,
        push_id=push_id, allow_duplicates=allow_duplicates, deferred_swap=deferred_swap,
        rollout=_rollout(target_nodes, target_wait_s, deferred_swap), dry_run=dry_run, memory_limit=memory_limit, threads=threads,
        wait_s=wait_s,
    )  # fmt: skip
    url = where if isinstance(where, str) else where.controller_url
    paths = [inputs] if isinstance(inputs, str | Path) else list(inputs or ())
    with interrupts() as signals:
        job = _Push(ControllerClient(url, clock), store, options, clock, Reporter(clock, on_event), signals)
        return job.run(_Given(paths, table, sql, data))


def _rollout(nodes: Sequence[str], after_s: int | None, deferred_swap: bool) -> Rollout | None:
    if after_s is not None and (deferred_swap or not nodes):
        raise InvalidRequest(
            "there is nothing to wait for: the swap is deferred, or all nodes get the version at once",
            hint="name the nodes that get it first, and do not defer the swap",
        )
    return Rollout(nodes=tuple(nodes), after_s=after_s) if nodes else None


@dataclass(frozen=True, slots=True)
class _Given:
    """What the rows were said to come from."""

    inputs: Sequence[str | Path]
    table: str | None
    sql: str | None
    data: object

    def __post_init__(self) -> None:
        if (self.data is not None) == (bool(self.inputs) or self.sql is not None or self.table is not None):
            raise InvalidRequest("a push needs input files, or a query, or data: one of them", hint="give --input PATH or --sql QUERY")

    def source(self, connection: duckdb.DuckDBPyConnection) -> Source:
        if self.data is None:
            return locate_any(connection, self.inputs, self.table, self.sql)
        register(connection, self.data)
        return DATA


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
        self._threads = options.threads or cores()
        self._session = Session(
            client, store, push_id=options.push_id, deferred_swap=options.deferred_swap, rollout=options.rollout, wait_s=options.wait_s,
            clock=clock, reporter=reporter, stop=signals,
        )  # fmt: skip

    def run(self, given: _Given) -> PushResult:
        self._reporter.begin(Phase.PLAN)
        options = self._options
        store = self._client.get_store(self._store)
        done = self._session.done(store) if not options.dry_run else None
        if done is not None:
            return done
        with duckdb.connect() as connection:
            self._signals.watch(connection)
            configure(connection, self._threads, options.memory_limit)
            source = given.source(connection)
            schema = self._schema(store, source, connection)
            plan = make_plan(
                connection, source, key_schema=store.key_schema, value_schema=schema.text, key=options.key, value=options.value,
                renames=options.renames, timestamp=options.timestamp,
            )  # fmt: skip
            if options.register_schema and not options.dry_run and schema not in store.value_schemas:
                schema = self._client.add_schema(self._store, schema.text)
            job = self._rehearse if options.dry_run else self._perform
            return job(store, schema.id, plan, connection)

    def _schema(self, store: Store, source: Source, connection: duckdb.DuckDBPyConnection) -> ValueSchema:
        """The value schema to write; one that is to be registered has an id that it may get."""
        options, schemas = self._options, store.value_schemas
        if options.value_schema is not None:
            if options.register_schema:
                raise InvalidRequest("a value schema was named, and another one is to be registered", hint="leave one of the two out")
            found = next((schema for schema in schemas if schema.id == options.value_schema), None)
            if found is None:
                hint = f"it has {', '.join(str(schema.id) for schema in schemas) or 'none'}"
                raise NotFound(f"store {self._store!r} has no value schema {options.value_schema}", hint=hint)
            return found
        if options.register_schema:
            fed = fed_elsewhere(store.key_schema, options.key, options.renames, options.timestamp)
            newest = schemas[-1].text if schemas else None
            grown = grown_schema(connection, source, store=self._store, newest=newest, fed=fed)
            if grown is not None:
                return ValueSchema(id=schemas[-1].id + 1 if schemas else 1, text=grown)
        if not schemas:
            raise InvalidRequest(f"store {self._store!r} has no value schema", hint="add one with 'venice schema add'")
        return schemas[-1]

    def _rehearse(self, store: Store, schema_id: int, plan: Plan, connection: duckdb.DuckDBPyConnection) -> PushResult:
        config = store.config
        with tempfile.TemporaryDirectory(prefix="venice-dry-run-") as folder:
            where = Path(folder) / "snapshot"
            target = self._target(schema_id, where, 0, config.partition_count, config)
            built = self._build(plan, target, connection, self._signals.check)
        self._reporter.end()
        return self._session.result(None, built)

    def _perform(self, store: Store, schema_id: int, plan: Plan, connection: duckdb.DuckDBPyConnection) -> PushResult:
        def build_as(grant: PushGrant, check: Callable[[], None]) -> Built:
            where = Path(grant.folder)
            limits = replace(
                store.config,
                record_bytes_max=grant.record_bytes_max,
                compression=grant.compression,
                storage_quota_bytes=grant.storage_quota_bytes,
            )
            target = self._target(schema_id, where, grant.number, grant.partition_count, limits)
            return self._build(plan, target, connection, check)

        return self._session.run(build_as)

    def _target(self, schema_id: int, folder: Path, version: int, partition_count: int, limits: StoreConfig) -> Target:
        return Target(
            folder=folder,
            store=self._store,
            version=version,
            partition_count=partition_count,
            value_schema_id=schema_id,
            value_bytes_max=limits.record_bytes_max,
            compression=limits.compression,
            quota_bytes=limits.storage_quota_bytes,
        )

    def _build(self, plan: Plan, target: Target, connection: duckdb.DuckDBPyConnection, check: Callable[[], None]) -> Built:
        size = plan.source.measure(connection)
        begun = PushBegun(
            store=self._store, version=target.version or None, push_id=self._session.push_id,
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
            check=check,
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
