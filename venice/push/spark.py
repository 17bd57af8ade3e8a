"""A push of a Spark data frame: its rows are encoded, sorted and written by Spark's executors, for what outgrows one machine.

Write path: **data frame** → encode → shuffle and sort (Spark) → write → seal → attach → replica. What is sealed is the same, byte for
byte, as by any other push of the same rows. Executors need `venice-data[push]`, and the blob folder at the same path as here.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import pyarrow as pa

from venice.clock import Clock, SystemClock
from venice.compression import train
from venice.control.answers import PushGrant
from venice.control.remote import ControllerClient
from venice.errors import InvalidRequest, Unavailable, VeniceError
from venice.model import Compression, Store
from venice.push.batch import configure
from venice.push.data import DATA, register
from venice.push.duplicates import DuplicatePolicy, refuse_conflicts
from venice.push.interrupts import interrupts
from venice.push.lanes import run_lanes
from venice.push.plan import Plan, make_plan
from venice.push.progress import Listener, Phase, PushBegun, Reporter
from venice.push.runs import disk_error
from venice.push.sample import SAMPLE_BYTES
from venice.push.session import PushResult, Session
from venice.push.snapshot import Built
from venice.push.spark_tasks import Encoding, Outcome, Tally, Writing, encoded
from venice.storage.manifest import Manifest
from venice.storage.snapshot import seal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from venice.config import Settings

_SCRATCH: Final = "scratch"
_SAMPLE_ROWS: Final = 65_536
_ERROR: Final = re.compile(r"^(?:: |Caused by: )?([\w.$]*(?:Error\b.*|Exception: \S.*))", re.MULTILINE)
"""The lines of a traceback, of Python or Java, that say what went wrong. Java's last cause often has nothing to say."""


def push(
    frame: DataFrame,
    where: Settings | str,
    store: str,
    *,
    key: str | None = None,
    value: str | None = None,
    push_id: str | None = None,
    allow_duplicates: bool = False,
    deferred_swap: bool = False,
    wait_s: float = 3600.0,
    on_event: Listener | None = None,
    clock: Clock | None = None,
) -> PushResult:
    """Push a new version of `store` from a data frame and wait until it serves. Policies are those of `venice.push.batch.push`.

    Args:
        frame: Of a classic Spark session (4.1 or newer), not of Spark Connect. Its rows are the same each time Spark computes them.
        where: Settings, or the controller's URL.
        store: The store; it exists and has a value schema. The newest one is written.
        key, value, push_id, deferred_swap, wait_s, on_event, clock: As in `venice.push.batch.push`.
        allow_duplicates: Of rows with equal keys and different values keep one, always the same, instead of failing: rows have no
            order in Spark.

    Raises:
        InvalidRequest: The data frame does not fit the store; columns and keys are named. Or a package is missing.
        Unavailable: Spark's job failed; or as `venice.push.batch.push`, as all other errors.
    """
    _check_packages()
    clock = clock if clock is not None else SystemClock()
    reporter = Reporter(clock, on_event)
    client = ControllerClient(where if isinstance(where, str) else where.controller_url, clock)
    with interrupts() as signals:
        session = Session(
            client, store, push_id=push_id, deferred_swap=deferred_swap, wait_s=wait_s, clock=clock, reporter=reporter, stop=signals
        )
        reporter.begin(Phase.PLAN)
        found = client.get_store(store)
        if not found.value_schemas:
            raise InvalidRequest(f"store {store!r} has no value schema", hint="add one with 'venice schema add'")
        done = session.done(found)
        if done is not None:
            return done
        with _told():
            empty = frame.limit(0).toArrow()
        with duckdb.connect() as connection:
            configure(connection, 1, None)
            plan = _plan(connection, empty, found, key, value)
        job = _Push(frame, found, plan, key, value, allow_duplicates, session.push_id, reporter, clock)
        return session.run(job.build)


class _Push:
    """The folder of one push, made by Spark."""

    def __init__(
        self,
        frame: DataFrame,
        store: Store,
        plan: Plan,
        key: str | None,
        value: str | None,
        allow_duplicates: bool,
        push_id: str,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._frame = frame
        self._store = store
        self._plan = plan
        self._key = key
        self._value = value
        self._policy = DuplicatePolicy(allow=allow_duplicates)
        self._push_id = push_id
        self._reporter = reporter
        self._clock = clock

    def build(self, grant: PushGrant, check: Callable[[], None]) -> Built:
        folder = Path(grant.folder)
        scratch = folder / _SCRATCH
        try:
            scratch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        begun = PushBegun(
            store=grant.store, version=grant.number, push_id=self._push_id, source="a Spark data frame",
            partition_count=grant.partition_count, rows_total=None, columns_ignored=self._plan.columns_ignored,
            fields_defaulted=self._plan.value.defaulted,
        )  # fmt: skip
        self._reporter.say(begun)
        self._reporter.begin(Phase.READ)

        def tick() -> None:
            check()
            self._reporter.tick()

        encoding = Encoding(
            self._store.key_schema, self._store.value_schemas[-1].text, self._key, self._value, grant.partition_count,
            self._store.value_schemas[-1].id, grant.record_bytes_max, grant.compression, b"",
        )  # fmt: skip
        if grant.compression is Compression.ZSTD_DICT:
            encoding = replace(encoding, dictionary=self._run(lambda: self._learn(encoding.value_bytes_max), tick))
        outcomes = self._run(lambda: self._outcomes(encoding, scratch), tick)
        refuse_conflicts(self._plan.key.row_schema, [outcome.conflicts for outcome in outcomes])
        self._reporter.begin(Phase.SEAL)
        for outcome in outcomes:
            if outcome.file is not None:
                os.replace(scratch / outcome.attempt / outcome.file.name, folder / outcome.file.name)
        shutil.rmtree(scratch, ignore_errors=True)
        return self._seal(grant, encoding, outcomes)

    def _run(self, work: Callable[[], Any], tick: Callable[[], None]) -> Any:
        """What `work` returns, whose jobs end when the push must. Raises what a task found, and Unavailable if Spark fails."""
        found: list[Any] = []
        context = self._frame.sparkSession.sparkContext
        group = f"venice push {self._push_id}"

        def lane() -> None:
            context.setJobGroup(group, f"push of {self._store.name}", interruptOnCancel=True)
            found.append(work())

        with _told():
            run_lanes([lane], tick=tick, stop=lambda: context.cancelJobGroup(group))
        return found[0]

    def _learn(self, value_bytes_max: int) -> bytes:
        """A dictionary for the values, learned from the first rows that Spark returns."""
        with duckdb.connect() as connection:
            configure(connection, 1, None)
            plan = _plan(connection, self._frame.limit(_SAMPLE_ROWS).toArrow(), self._store, self._key, self._value)
            values = [value for some in encoded(connection, plan, value_bytes_max, None) for value in some.values.to_pylist()]
        return train(values[:: max(1, -(-sum(map(len, values)) // SAMPLE_BYTES))])

    def _outcomes(self, encoding: Encoding, scratch: Path) -> list[Outcome]:
        """What the tasks did whose results count; by partition."""
        from pyspark.sql.functions import col

        rows = self._frame.mapInArrow(encoding, "partition int, key binary, value binary")
        # Notes, which have no key, come first.
        shuffled = rows.repartitionById(encoding.partition_count, col("partition")).sortWithinPartitions("key", "value")
        results = shuffled.mapInArrow(Writing(str(scratch), self._policy), "result binary").collect()
        found: list[Outcome | VeniceError] = [pickle.loads(bytes(row["result"])) for row in results]
        for one in found:
            if isinstance(one, VeniceError):
                raise one
        outcomes = [one for one in found if isinstance(one, Outcome)]
        return sorted(outcomes, key=lambda one: one.file.partition if one.file is not None else -1)

    def _seal(self, grant: PushGrant, encoding: Encoding, outcomes: Sequence[Outcome]) -> Built:
        tally = Tally(*map(sum, zip(*(one.tally for one in outcomes), strict=True))) if outcomes else Tally()
        manifest = Manifest(
            store=grant.store,
            version=grant.number,
            partition_count=grant.partition_count,
            created_ms=self._clock.now_ms(),
            value_schema_id=encoding.value_schema_id,
            compression=grant.compression,
            dictionary=encoding.dictionary,
            value_bytes=tally.value_bytes,
            compressed_bytes=tally.compressed_bytes,
            files=tuple(one.file for one in outcomes if one.file is not None),
        )
        duplicates = sum(one.duplicates for one in outcomes)
        return Built(ref=seal(Path(grant.folder), manifest), manifest=manifest, duplicates=duplicates, skipped=tally.skipped)


@contextmanager
def _told() -> Iterator[None]:
    """Spark's errors as ours: InvalidRequest for a data frame that cannot be, Unavailable for a job that failed."""
    from py4j.protocol import Py4JError
    from pyspark.errors import AnalysisException, PySparkException, PySparkTypeError, PySparkValueError, UnsupportedOperationException

    try:
        yield
    except (AnalysisException, PySparkTypeError, PySparkValueError, UnsupportedOperationException) as error:
        said = str(error).strip().partition("\n")[0]
        raise InvalidRequest(f"Spark refuses the data frame: {said}", hint="select columns of types that Arrow has") from error
    except (PySparkException, Py4JError) as error:  # The latter where Spark lost an executor, or we lost Spark.
        said = str(error).strip()
        named = _ERROR.findall(said) or [said.partition("\n")[0] or type(error).__name__]
        raise Unavailable(f"Spark's job failed: {named[-1]}", hint="Spark's log says more; push again") from error


def _check_packages() -> None:
    """Raises InvalidRequest if Spark would miss one here; it says so itself only once a version is begun."""
    for name in ("pyspark.sql", "pandas"):
        try:
            import_module(name)
        except ImportError as error:
            hint = "pip install 'venice-data[spark]'"
            raise InvalidRequest(f"a push from Spark needs {name.partition('.')[0]}, which cannot be imported here", hint=hint) from error


def _plan(connection: duckdb.DuckDBPyConnection, rows: pa.Table, store: Store, key: str | None, value: str | None) -> Plan:
    """How such rows become keys and values. Raises InvalidRequest."""
    register(connection, rows)
    return make_plan(
        connection, DATA, key_schema=store.key_schema, value_schema=store.value_schemas[-1].text, key=key, value=value
    )  # fmt: skip
