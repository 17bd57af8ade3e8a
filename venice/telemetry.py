"""What Venice's processes say of themselves: a closed catalogue of log events and metrics, and how they are emitted.

An event or a metric that is not listed here does not exist: mypy refuses its name. Events are lines on stderr, from the
moment a process says `log_to_stderr`; a program that only embeds a client never does, and hears nothing. Metrics are kept in a
`Metrics` that a process makes and passes on. structlog and prometheus_client are imported at first use, so that clients
which neither log nor count never load them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge

Value = str | int | float | bool

EventName = Literal[
    # Processes.
    "process_started",
    "process_stopped",  # because it was asked to
    "process_exited",  # by itself, or killed; said by the supervisor, which starts it again
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
    # Leaders, said by the worker that leads.
    "leader_started",  # its session was accepted; it merges from here on
    "leader_fenced",  # another session was accepted after it
    "leader_failed",  # the log did not take its records; a new session merges them again
]

_LEVELS: Final[Mapping[EventName, str]] = {
    "process_exited": "warning",
    "report_failed": "warning",
    "version_failed": "warning",
    "version_killed": "warning",
    "replica_failed": "error",
    "leader_fenced": "warning",
    "leader_failed": "warning",
}
"""How bad an event is, where it is not plain information."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the catalogue.

    Args:
        name: With the unit last; Prometheus appends `_total` to counters.
        kind: `counter` only grows; `gauge` is a level.
        labels: What it is split by. Values of labels are few: never a key, never a client.
        meaning: What it counts and when to act on it.
    """

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str


REQUESTS = Metric("venice_requests", "counter", ("kind", "status"), "Requests answered, by kind (get, batch_get, …) and HTTP status.")
REPLICAS = Metric("venice_replicas", "gauge", ("state",), "Replicas this worker holds, by state; `error` staying above 0 needs a look.")
FOLDED_RECORDS = Metric("venice_folded_records", "counter", ("result",), "Version-topic records read, by what became of them.")
CATALOG_SEQUENCE = Metric("venice_catalog_sequence", "gauge", (), "Catalog records folded; processes apart by much means a stuck one.")
VERSIONS = Metric("venice_versions", "counter", ("outcome",), "Versions that ended a push, by outcome (online, failed, killed).")
RESTARTS = Metric("venice_restarts", "counter", ("process",), "Times the supervisor restarted a process; growing means it keeps dying.")

METRICS: Final = (REQUESTS, REPLICAS, FOLDED_RECORDS, CATALOG_SEQUENCE, VERSIONS, RESTARTS)


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
    """The metrics of one process. Safe to share between threads."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry

        self._registry: CollectorRegistry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge] = {}
        self._lock = Lock()

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        assert metric.kind == "counter", f"{metric.name} is a {metric.kind}"
        self._of(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        """Set a gauge."""
        assert metric.kind == "gauge", f"{metric.name} is a {metric.kind}"
        self._of(metric, labels).set(value)

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Call `read` whenever the gauge is scraped: for numbers that somebody keeps anyway, at no cost where they change."""
        assert metric.kind == "gauge", f"{metric.name} is a {metric.kind}"
        self._of(metric, labels).set_function(read)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format: what `/metrics` answers."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def _of(self, metric: Metric, labels: Mapping[str, str]) -> Any:
        assert metric in METRICS, f"{metric.name} is not in the catalogue"
        assert set(labels) == set(metric.labels), f"{metric.name} takes the labels {metric.labels}, not {sorted(labels)}"
        found = self._metrics.get(metric.name)
        if found is None:
            with self._lock:
                found = self._metrics.get(metric.name) or self._register(metric)
        return found.labels(**labels) if labels else found

    def _register(self, metric: Metric) -> Counter | Gauge:
        from prometheus_client import Counter, Gauge

        cls: type[Counter | Gauge] = Counter if metric.kind == "counter" else Gauge
        made = cls(metric.name, metric.meaning, metric.labels, registry=self._registry)
        self._metrics[metric.name] = made
        return made


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
