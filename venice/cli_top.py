"""`venice top`: what a cluster does right now: its versions and how far behind they are, its processes and how fast they answer.

Versions and workers are as the controller knows them; rates and times come from two readings of each process's `/metrics`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from venice.cli_output import AsJson, controller_of, lag_text, say, say_json, settings_of, table
from venice.errors import NotFound, Unavailable
from venice.rules.lifecycle import Role
from venice.telemetry import APPLIED_RECORDS_TOTAL, PENDING_REQUESTS, REQUEST_SECONDS, REQUESTS_TOTAL

if TYPE_CHECKING:
    from rich.console import RenderableType

    from venice.config import Settings
    from venice.control.answers import VersionInfo, WorkerInfo
    from venice.control.remote import ControllerClient

ANSWER_S = 2.0
"""A process that does not answer in this time is shown without figures."""

Key = tuple[str, tuple[tuple[str, str], ...]]
Samples = Mapping[Key, float]
"""(name, labels in order) → value, as one process answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionLine:
    """One version that serves or is on its way to."""

    store: str
    version: int
    role: str
    status: str
    ready_partitions: int
    partitions: int
    lag_records: int
    lag_s: float
    writes_per_s: float | None
    """Writes folded, each once however many replicas fold it; None: no worker told."""
    faulty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessLine:
    """A router or a worker."""

    process: str
    url: str
    live: bool
    ready: int
    replicas: int
    reads_per_s: float | None
    """Requests answered; None: it does not answer itself."""
    p99_ms: float | None
    """Of what a router or a worker does to answer, the client's way there and back not included; None: nothing was timed."""
    pending: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A cluster during some seconds."""

    cluster: str
    seconds: float
    versions: tuple[VersionLine, ...]
    processes: tuple[ProcessLine, ...]


def top(
    ctx: typer.Context,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    count: Annotated[int, typer.Option(min=0, help="Look so many times; 0: until Ctrl-C.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show stores and processes as they work: a table that moves on a terminal, lines where there is none, one look with --json."""
    pictures = _pictures(settings_of(ctx), controller_of(ctx), interval)
    if as_json:
        say_json(asdict(next(pictures)))
    elif sys.stdout.isatty():
        _live(pictures, count)
    else:
        for number, picture in enumerate(pictures, 1):
            say(_texts(picture))
            if number == count:
                break


def _pictures(settings: Settings, controller: ControllerClient, interval_s: float) -> Iterator[Picture]:
    """A picture after each interval. Raises Unavailable if the controller does not answer."""
    from venice.clock import SystemClock

    clock = SystemClock()
    before_s, before = clock.monotonic_s(), _looked(_addresses(settings, controller))
    while True:
        clock.sleep(interval_s)
        addresses = _addresses(settings, controller)
        now_s, now = clock.monotonic_s(), _looked(addresses)
        yield _picture(settings, controller, before, now, now_s - before_s)
        before_s, before = now_s, now


def _addresses(settings: Settings, controller: ControllerClient) -> dict[str, str]:
    """Process → URL."""
    workers = (info.worker for node in controller.nodes() for info in node.workers)
    return {"router": settings.router_url, **{worker.id: worker.url for worker in workers}}


def _looked(addresses: Mapping[str, str]) -> dict[str, Samples]:
    """What each process that answers says."""
    found = {}
    for process, url in addresses.items():
        try:
            found[process] = read_metrics(url)
        except Unavailable:
            continue
    return found


def read_metrics(url: str) -> Samples:
    """What `/metrics` of a process answers. Raises Unavailable."""
    from prometheus_client.parser import text_string_to_metric_families

    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=ANSWER_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            raise Unavailable(f"{url}/metrics answers {response.status}")
        families = list(text_string_to_metric_families(text))
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(f"{url} does not answer /metrics: {error}", hint="is it a process of Venice, and of this release?") from error
    finally:
        connection.close()
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def _versions(controller: ControllerClient, store: str) -> Sequence[VersionInfo]:
    try:
        return controller.list_versions(store)
    except NotFound:  # deleted since the stores were listed
        return ()


def _picture(
    settings: Settings, controller: ControllerClient, before: Mapping[str, Samples], now: Mapping[str, Samples], seconds: float
) -> Picture:
    grown = {process: _grown(before[process], samples) for process, samples in now.items() if process in before}
    versions = [
        _version_line(info, _writes(grown.values(), info, seconds))
        for store in controller.list_stores()
        for info in _versions(controller, store.name)
        if info.role in (Role.CURRENT, Role.FUTURE)
    ]
    processes = [_process_line("router", settings.router_url, "router" in now, None, now, grown, seconds)]
    for node in controller.nodes():
        for worker in node.workers:
            processes.append(_process_line(worker.worker.id, worker.worker.url, worker.live, worker, now, grown, seconds))
    return Picture(cluster=settings.cluster, seconds=round(seconds, 3), versions=tuple(versions), processes=tuple(processes))


def _version_line(info: VersionInfo, writes_per_s: float | None) -> VersionLine:
    return VersionLine(
        store=info.store,
        version=info.version.number,
        role=info.role.value,
        status=info.status.lower(),
        ready_partitions=info.ready_partitions,
        partitions=info.version.partition_count,
        lag_records=info.lag_records,
        lag_s=info.lag_s,
        writes_per_s=writes_per_s if info.version.hybrid is not None else None,
        faulty=sum(one.count for one in info.faults),
    )


def _process_line(
    name: str,
    url: str,
    live: bool,
    worker: WorkerInfo | None,
    now: Mapping[str, Samples],
    grown: Mapping[str, Samples],
    seconds: float,
) -> ProcessLine:
    mine = grown.get(name)
    pending = now.get(name, {}).get((PENDING_REQUESTS.name, ()))
    return ProcessLine(
        process=name,
        url=url,
        live=live,
        ready=worker.ready if worker is not None else 0,
        replicas=worker.replicas if worker is not None else 0,
        reads_per_s=round(mine.get((REQUESTS_TOTAL.name, ()), 0.0) / seconds, 1) if mine is not None else None,
        p99_ms=_p99_ms(mine) if mine is not None else None,
        pending=int(pending) if pending is not None else None,
    )


def _grown(before: Samples, now: Samples) -> Samples:
    """By how much each sample has grown; one of a process that began anew, by what it is."""
    return {key: value - before.get(key, 0.0) if value >= before.get(key, 0.0) else value for key, value in now.items()}


def _writes(grown: Iterable[Samples], info: VersionInfo, seconds: float) -> float | None:
    """Writes a second of a version: of each partition those of the replica that folded most."""
    most: dict[str, float] = {}
    for samples in grown:
        for (name, labels), value in samples.items():
            of = dict(labels)
            if name == APPLIED_RECORDS_TOTAL.name and (of["store"], of["version"]) == (info.store, str(info.version.number)):
                most[of["partition"]] = max(most.get(of["partition"], 0.0), value)
    return round(sum(most.values()) / seconds, 1) if most else None


def _p99_ms(grown: Samples) -> float | None:
    """The upper bound of the bucket in which the 99th of a hundred requests lies, in milliseconds."""
    buckets = sorted(
        (float(dict(labels)["le"]), value) for (name, labels), value in grown.items() if name == f"{REQUEST_SECONDS.name}_bucket"
    )
    timed = buckets[-1][1] if buckets else 0.0
    if not timed:
        return None
    bound_s = next(bound for bound, reached in buckets if reached >= 0.99 * timed)
    return round(min(bound_s, buckets[-2][0]) * 1000, 3)


def _tables(picture: Picture) -> list[tuple[Sequence[str], list[Sequence[object]]]]:
    versions: list[Sequence[object]] = [
        (
            f"{one.store} v{one.version}",
            one.status if one.role == Role.CURRENT else f"{one.status}, {one.role}",
            f"{one.ready_partitions}/{one.partitions}",
            lag_text(one.lag_records, one.lag_s),
            _figure(one.writes_per_s),
            one.faulty,
        )
        for one in picture.versions
    ]
    processes: list[Sequence[object]] = [
        (
            one.process,
            "live" if one.live else "silent",
            f"{one.ready}/{one.replicas}" if one.replicas else "-",
            _figure(one.reads_per_s),
            f"{one.p99_ms:.3f} ms" if one.p99_ms is not None else "-",
            "-" if one.pending is None else one.pending,
        )
        for one in picture.processes
    ]
    return [
        (("version", "state", "ready", "lag", "writes/s", "faulty"), versions),
        (("process", "state", "ready", "requests/s", "p99", "pending"), processes),
    ]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _texts(picture: Picture) -> str:
    return "\n\n".join(table(head, rows) if rows else f"no {head[0]} yet" for head, rows in _tables(picture)) + "\n"


def _live(pictures: Iterator[Picture], count: int) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

    def drawn(picture: Picture) -> RenderableType:
        parts: list[RenderableType] = []
        for head, rows in _tables(picture):
            part = Table(*head, title=picture.cluster if not parts else None, title_justify="left", expand=False)
            for row in rows:
                part.add_row(*map(str, row))
            parts.append(part)
        return Group(*parts)

    with Live("looking …", screen=count == 0, auto_refresh=False) as live:
        for number, picture in enumerate(pictures, 1):
            live.update(drawn(picture), refresh=True)
            if number == count:
                break
