"""`venice inspect`: what is in a snapshot, a replica, a topic or the catalog. Reads only; needs no running cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from venice.cli_output import AsJson, group, model_json, moment, plain, preview, say, say_json, settings_of, table
from venice.errors import Corrupt

if TYPE_CHECKING:
    from venice.log import Entry, Log
    from venice.record import Record

inspect = group("Look at files and topics; never changes them.")

Limit = Annotated[int, typer.Option(min=0, help="Print at most so many.")]


@inspect.command("topic")
def topic(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[TOPIC]", help="A topic's name; without it all topics are listed.")] = "",
    partition: Annotated[int, typer.Option(min=0, help="Which partition.")] = 0,
    start: Annotated[int | None, typer.Option("--from", min=0, help="First offset; default: the first that is kept.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """List topics, or print the records of one partition."""
    from venice.control.reading import open_existing_log

    log = open_existing_log(settings_of(ctx))
    try:
        if name:
            rows = [_record_row(entry) for entry in _entries(log, name, partition, start, limit)]
        else:
            rows = [_topic_row(log, found) for found in log.topics()]
    finally:
        log.close()
    if as_json:
        say_json(rows)
    elif not rows:
        say("no records there" if name else "no topics yet")
    else:
        say(table(list(rows[0]), ([_cell(value) for value in row.values()] for row in rows)))


@inspect.command("catalog")
def catalog(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Fold the catalog topic and print what every process knows."""
    from venice.control.reading import read_catalog

    folded = read_catalog(settings_of(ctx))
    kinds = ("stores", "assignments", "checkpoints", "nodes", "regions", "graveyards")
    entities = {kind: tuple(getattr(folded, kind).values()) for kind in kinds}
    if as_json:
        head = {name: getattr(folded, name) for name in ("sequence", "term", "session", "session_sequence")}
        say_json({**head, **{kind: model_json(found) for kind, found in entities.items()}})
        return
    say(f"sequence {folded.sequence}; controller term {folded.term}, session {folded.session:016x}")
    for kind, found in entities.items():
        say(f"{kind}:" if found else f"{kind}: none")
        for entity in found:
            say(f"  {json.dumps(model_json(entity), ensure_ascii=False)}")


def _entries(log: Log, name: str, partition: int, start: int | None, limit: int) -> Iterator[Entry]:
    end = log.end_offset(name, partition)
    first = log.start_offset(name, partition) if start is None else start
    reader = log.reader({(name, partition): first})
    left = limit
    try:
        while left > 0 and reader.position(name, partition) < end:
            for entry in reader.poll(records_max=min(left, 1000), timeout_s=1.0):
                left -= 1
                yield entry
    finally:
        reader.close()


def _topic_row(log: Log, name: str) -> dict[str, Any]:
    count = log.partitions(name)
    starts = [log.start_offset(name, partition) for partition in range(count)]
    kept = sum(log.end_offset(name, partition) - start for partition, start in enumerate(starts))
    return {"topic": name, "partitions": count, "records": kept, "trimmed": sum(starts), "id": log.topic_id(name)}


def _record_row(entry: Entry) -> dict[str, Any]:
    from venice.record import decode

    row: dict[str, Any] = {"offset": entry.offset, "time": moment(entry.timestamp_ms)}
    try:
        record = decode(entry.payload)
    except Corrupt as error:
        return {**row, "kind": "CORRUPT", "key": "", "value": error.message, "bytes": len(entry.payload)}
    return {**row, "kind": record.kind.name, "key": preview(record.key), "value": _value(record), "bytes": len(entry.payload)}


def _value(record: Record) -> str:
    noted = [
        f"{field}={getattr(record, field)}" for field in ("schema_id", "term", "session", "sequence", "vector") if getattr(record, field)
    ]
    return " ".join([*noted, preview(record.value)]).strip()


def _cell(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else plain(value)
