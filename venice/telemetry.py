"""What Venice's processes say of themselves: a closed catalogue of log events and metrics, and how they are emitted.

An event or a metric that is not listed here does not exist: mypy refuses its name. Events are lines on stderr, from the
moment a process says `log_to_stderr`; a program that only embeds a client never does, and hears nothing. Metrics are kept in a
`Metrics` that a process makes and passes on. structlog and prometheus_client are imported at first use, so that clients
which neither log nor count never load them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Gauge

Value = str | int | float | bool

EventName = Literal[
    # Processes.
    "process_started",
    "process_stopped",  # because it was asked to
    "process_exited",  # by itself, or killed; said by the supervisor, which starts it again
    "process_finished",  # a dataflow of a user whose input ended; it is not started again
    # Workers.
    "worker_started",  # serving
    "worker_stopped",
    "report_failed",  # the controller did not hear from this worker; the next report says it all again
    # Versions, said by the controller.
    "version_created",  # a push began
    "version_swapped",  # reads go to it from now on
    "version_failed",  # see `reason`
    "version_killed",
    "version_retired",  # its replicas and its snapshot go
    # Replicas, said by the worker or Da Vinci client that owns them.
    "replica_ready",
    "replica_failed",  # see `reason`; tried again after a pause
    "replica_retired",
    "replica_overtaken",  # what it had to fold next was trimmed: it is made anew from a checkpoint
    "checkpoint_written",  # by the worker that leads
    "checkpoint_failed",  # see `reason`; tried again after a pause
    "checkpoint_unusable",  # found missing or damaged by a replica to be made of it, which takes the next source
    # Leaders, said by the worker that leads.
    "leader_started",  # its session was accepted; it merges from here on
    "leader_fenced",  # another session was accepted after it
    "leader_failed",  # the log did not take its records; a new session merges them again
    # Records, said by whoever folds or merges them.
    "record_faulty",  # see `fault`; said at once and then once a minute, with how many there were
    # Topics, said by the controller.
    "topic_trimmed",  # what lay before an offset was deleted, because checkpoints hold it
]

_LEVELS: Final[Mapping[EventName, str]] = {
    "process_exited": "warning",
    "report_failed": "warning",
    "version_failed": "warning",
    "version_killed": "warning",
    "replica_failed": "error",
    "replica_overtaken": "warning",
    "checkpoint_failed": "warning",
    "checkpoint_unusable": "error",
    "leader_fenced": "warning",
    "record_faulty": "error",
    "leader_failed": "warning",
}
"""How bad an event is, where it is not plain information."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue: a level that is read whenever somebody scrapes it.

    Args:
        name: With the unit last.
        labels: What it is split by. Values of labels are few: never a key, never a client.
        meaning: What it counts and when to act on it.
    """

    name: str
    labels: tuple[str, ...]
    meaning: str


CATALOG_SEQUENCE = Metric("venice_catalog_sequence", (), "Catalog records folded; a process far behind the others is stuck.")
REPLICAS = Metric("venice_replicas", ("state",), "Replicas of this worker, by state; `error` staying above 0 needs a look.")
PENDING_REQUESTS = Metric("venice_pending_requests", (), "Requests under way; growing without end means the workers are too slow.")
REQUESTS_TOTAL = Metric("venice_requests_total", (), "Requests answered, of all kinds.")
REQUEST_SECONDS = Metric("venice_request_seconds", (), "How long one of eight took here, from its last byte read to its answer written.")
WORKERS = Metric("venice_workers", ("state",), "Workers as the controller hears them; `silent` above 0 means one is down or cut off.")
STORES = Metric("venice_stores", (), "Stores of the cluster.")

_PARTITION = ("store", "version", "partition")
REPLICA_LAG_RECORDS = Metric("venice_replica_lag_records", _PARTITION, "Records of the version topic that the replica has not folded.")
REPLICA_LAG_SECONDS = Metric(
    "venice_replica_lag_seconds", _PARTITION, "Age of the oldest of them, 0 if there is none; growing means the replica is stuck."
)
REPLICA_FRESHNESS_SECONDS = Metric(
    "venice_replica_freshness_seconds", _PARTITION, "Every write older than this can be read; above `heartbeat_s` something is slow."
)
APPLIED_RECORDS_TOTAL = Metric("venice_applied_records_total", _PARTITION, "Puts and deletes folded into the replica since it was opened.")
LEADER_LAG_RECORDS = Metric("venice_leader_lag_records", _PARTITION, "Real-time writes that the leader here has not merged.")
LEADER_LAG_SECONDS = Metric("venice_leader_lag_seconds", _PARTITION, "Age of the oldest of them, 0 if there is none.")
FAULTY_RECORDS_TOTAL = Metric(
    "venice_faulty_records_total", (*_PARTITION, "topic", "fault"), "Records that were missing, repeated, damaged or refused; look at each."
)

METRICS: Final = (
    *(CATALOG_SEQUENCE, REPLICAS, PENDING_REQUESTS, REQUESTS_TOTAL, REQUEST_SECONDS, WORKERS, STORES),
    *(APPLIED_RECORDS_TOTAL, FAULTY_RECORDS_TOTAL),
    *(REPLICA_LAG_RECORDS, REPLICA_LAG_SECONDS, REPLICA_FRESHNESS_SECONDS, LEADER_LAG_RECORDS, LEADER_LAG_SECONDS),
)


def log_to_stderr(process: str, now_ms: Callable[[], int], *, as_json: bool = False, stream: TextIO | None = None) -> None:
    """Emit this process's events from now on.

    Args:
        process: Who speaks: `controller`, `router`, `node-1-w0`.
        now_ms: Wall time in milliseconds, of a Clock.
        as_json: One JSON object a line instead of plain text.
        stream: Where to instead of stderr.
    """
    global _logger
    _logger = _open_logger(process, now_ms, as_json, stream or sys.stderr)


def log_nothing() -> None:
    """Emit no events from now on: how every process begins."""
    global _logger
    _logger = None


def log_event(name: EventName, **fields: Value) -> None:
    """One line: when, how bad, who, what, and the fields. Never raises: a stream nobody reads any more is ignored."""
    if _logger is not None:
        getattr(_logger, _LEVELS.get(name, "info"))(name, **fields)


class Metrics:
    """The metrics of one process: read from where the numbers are kept anyway, so that they cost nothing until asked for."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._registry: CollectorRegistry = CollectorRegistry()
        self._gauges: dict[Metric, Gauge] = {}

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Call `read`, in any thread, whenever the metrics are scraped."""
        from prometheus_client import Gauge

        assert metric in METRICS, f"{metric.name} is not in the catalogue"
        assert set(labels) == set(metric.labels), f"{metric.name} takes the labels {metric.labels}, not {sorted(labels)}"
        gauge = self._gauges.get(metric)
        if gauge is None:
            gauge = self._gauges[metric] = Gauge(metric.name, metric.meaning, metric.labels, registry=self._registry)
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def watch_all(self, metric: Metric, read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]) -> None:
        """Call `read`, in any thread, whenever the metrics are scraped: it tells the labels there are, in order, and their values."""
        assert metric in METRICS, f"{metric.name} is not in the catalogue"
        self._registry.register(_Family(metric, read))

    def watch_histogram(self, metric: Metric, read: Callable[[], tuple[Sequence[float], Sequence[int], float]]) -> None:
        """Call `read`, in any thread, whenever the metrics are scraped: upper bounds of all buckets but the last, counts of all, sum."""
        assert metric in METRICS, f"{metric.name} is not in the catalogue"
        self._registry.register(_Histogram(metric, read))

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format: what `/metrics` answers."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class _Family:
    """A metric whose labels come and go: prometheus_client asks it for its values."""

    def __init__(self, metric: Metric, read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]) -> None:
        self._metric = metric
        self._read = read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        metric = self._metric
        of_its_kind = CounterMetricFamily if metric.name.endswith("_total") else GaugeMetricFamily
        family = of_its_kind(metric.name, metric.meaning, labels=metric.labels)
        for labels, value in self._read():
            family.add_metric(labels, value)
        yield family


class _Histogram:
    """A metric that is a distribution."""

    def __init__(self, metric: Metric, read: Callable[[], tuple[Sequence[float], Sequence[int], float]]) -> None:
        self._metric = metric
        self._read = read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import HistogramMetricFamily

        bounds, counts, total = self._read()
        names = [*map(repr, bounds), "+Inf"]
        buckets = list(zip(names, accumulate(counts), strict=True))
        yield HistogramMetricFamily(self._metric.name, self._metric.meaning, buckets=buckets, sum_value=total)


def _open_logger(process: str, now_ms: Callable[[], int], as_json: bool, stream: TextIO) -> Any:
    import structlog

    def stamp(_logger: object, level: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
        moment = datetime.fromtimestamp(now_ms() / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": moment, "level": level, "process": process, **line}

    render: Any = structlog.processors.JSONRenderer() if as_json else _plain
    # Explicit processors: structlog's own configuration is global, and a program that embeds Venice may have its own.
    return structlog.wrap_logger(_Lines(stream), processors=[stamp, render], wrapper_class=structlog.BoundLogger)


_logger: Any = None
"""The one piece of module state: whether and where this process logs. Like stderr itself, it belongs to the process."""


class _Lines:
    """Where structlog leaves its rendered lines. One write each, so that processes sharing a terminal do not mix lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._lock = Lock()

    def line(self, text: str) -> None:
        with self._lock:
            if self._stream is None:
                return
            try:
                self._stream.write(text + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                # A closed terminal or pipe: no reason to stop serving.
                self._stream = None

    info = warning = error = line


def _plain(_logger: object, _level: str, line: Mapping[str, Any]) -> str:
    fields = " ".join(f"{name}={_quoted(value)}" for name, value in line.items() if name not in _HEAD)
    return f"{line['time']} {line['level']:<7} {line['process']:<12} {line['event']} {fields}".rstrip()


_HEAD: Final = frozenset(("time", "level", "process", "event"))


def _quoted(value: Value) -> str:
    text = str(value)
    return repr(text) if not text or any(char.isspace() or char in "'\"=" for char in text) else text
