"""`venice inspect lag` and `venice inspect dead-letters`: how far behind replicas are, and what could not be merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from venice.cli_output import AsJson, faults_text, lag_text, model_json, moment, preview, say, say_json, settings_of, table
from venice.errors import NotFound

if TYPE_CHECKING:
    from venice.config import Settings
    from venice.log import Entry, Log
    from venice.model import ReplicaReport, WorkerReport


def lag(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(metavar="[STORE]", help="Only its replicas.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show of each replica how far behind it is, how fresh, and the faulty records it has met, as its worker said last."""
    from venice.clock import SystemClock
    from venice.control.reading import open_existing_log

    log = open_existing_log(settings_of(ctx))
    try:
        reports = _newest_reports(log)
    finally:
        log.close()
    found = sorted(
        ((one, report) for report in reports for one in report.replicas if store in ("", one.store)),
        key=lambda pair: (pair[0].store, pair[0].version, pair[0].partition, pair[1].worker.id),
    )
    if store and not found:
        _check_store(settings_of(ctx), store)
    if as_json:
        say_json([{"worker": report.worker.id, "reported_ms": report.reported_ms, **model_json(one)} for one, report in found])
    elif not found:
        say("no worker reports a replica" + (f" of {store}" if store else ""))
    else:
        now_ms = SystemClock().now_ms()
        head = ("store", "version", "partition", "worker", "role", "state", "lag", "fresh", "heard", "faulty", "error")
        say(table(head, (_lag_row(one, report, now_ms) for one, report in found)))


def dead_letters(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(metavar="STORE", help="Whose records.")],
    start: Annotated[int | None, typer.Option("--from", min=0, help="First offset of the dead-letter topic.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Print at most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Print the records of a store that could not be merged: where they stood, why, and their bytes (whole with --json)."""
    from venice.control.reading import open_existing_log
    from venice.dead_letter import decode_letters
    from venice.naming import dead_letter_topic

    log = open_existing_log(settings_of(ctx))
    topic = dead_letter_topic(store)
    rows: list[dict[str, Any]] = []
    try:
        if topic in log.topics():
            for at, letter in decode_letters(_entries(log, topic, start)):
                if len(rows) == limit:
                    break
                origin = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
                why = {"fault": letter.fault.value, "reason": letter.reason}
                rows.append({"at": at, "time": moment(letter.timestamp_ms), **origin, **why, "payload": letter.payload})
    finally:
        log.close()
    if not rows:
        _check_store(settings_of(ctx), store)
    if as_json:
        say_json(rows)
    elif not rows:
        say(f"nothing of {store} was set aside")
    else:
        head = (*rows[0].keys(), "bytes")
        say(table(head, ([*list(row.values())[:-1], preview(row["payload"]), f"{len(row['payload']):,}"] for row in rows)))


def _check_store(settings: Settings, store: str) -> None:
    """Raises NotFound for a store that the catalog does not have."""
    from venice.control.reading import read_catalog

    stores = read_catalog(settings).stores
    if store not in stores:
        raise NotFound(f"no store {store!r}", hint=f"stores: {', '.join(sorted(stores)) or 'none yet'}")


def _lag_row(one: ReplicaReport, report: WorkerReport, now_ms: int) -> tuple[object, ...]:
    fresh = f"{max(0, now_ms - one.fresh_ms) / 1000:.1f} s" if one.fresh_ms else "-"
    heard = f"{max(0, now_ms - report.reported_ms) / 1000:.1f} s ago"
    where = one.store, one.version, one.partition, report.worker.id
    role = "leader" if one.leads else "follower"
    return *where, role, one.state.value, lag_text(one.lag_records, one.lag_s), fresh, heard, faults_text(one.faults), one.error


def _newest_reports(log: Log) -> list[WorkerReport]:
    """What each worker said last, of what the reports topic still has."""
    from venice.control.encoding import decode_report
    from venice.naming import REPORTS_TOPIC

    if REPORTS_TOPIC not in log.topics():
        return []
    newest: dict[str, WorkerReport] = {}
    for entry in _entries(log, REPORTS_TOPIC, None):
        report = decode_report(entry.payload)
        newest[report.worker.id] = report
    return list(newest.values())


def _entries(log: Log, topic: str, start: int | None) -> Iterator[Entry]:
    """What partition 0 of a topic has now, from an offset on."""
    end = log.end_offset(topic, 0)
    reader = log.reader({(topic, 0): max(log.start_offset(topic, 0), start or 0)})
    try:
        while reader.position(topic, 0) < end:
            yield from reader.poll(timeout_s=1.0)
    finally:
        reader.close()
