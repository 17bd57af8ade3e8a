"""`venice push`: a new version from files or a query."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from venice.cli_output import AsJson, compression_text, say, say_json, settings_of, size
from venice.errors import InvalidRequest

if TYPE_CHECKING:
    from venice.push.session import PushResult


_Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="PATH|URL",
        help="Parquet, CSV, JSON or Avro: a file, glob or folder, also s3://…; may be repeated. Or a database: .duckdb, .sqlite, postgresql://…",
    ),
]
_Table = Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Table of the database that --input names.")]
_Sql = Annotated[
    str | None,
    typer.Option("--sql", metavar="QUERY", help="DuckDB SQL whose rows are pushed, asked of the database if --input names one."),
]
_Key = Annotated[
    str | None,
    typer.Option("--key", "--key-field", metavar="COLUMN", help="Column of the key; default: 'key', or the only one left over."),
]
_Value = Annotated[
    str | None,
    typer.Option("--value", "--value-field", metavar="COLUMN", help="Column of the whole value; default: a column per field."),
]
_Renames = Annotated[
    list[str] | None, typer.Option("--rename", metavar="FIELD=COLUMN", help="Column of a field that has another name; may be repeated.")
]
_Timestamp = Annotated[
    str | None,
    typer.Option("--timestamp", "--timestamp-field", metavar="COLUMN", help="Column of each row's own time: milliseconds, or a timestamp."),
]
_ValueSchema = Annotated[
    int | None, typer.Option("--value-schema", min=1, metavar="ID", help="Value schema to write; default: the newest.")
]
_RegisterSchema = Annotated[bool, typer.Option("--register-schema", help="Add a field to the value schema for each column that it lacks.")]


def push(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    inputs: _Inputs = None,
    table: _Table = None,
    sql: _Sql = None,
    key: _Key = None,
    value: _Value = None,
    renames: _Renames = None,
    timestamp: _Timestamp = None,
    value_schema: _ValueSchema = None,
    register_schema: _RegisterSchema = False,
    push_id: Annotated[str | None, typer.Option("--push-id", help="Names the push; one that is complete is not done again.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, check and sort everything, but make no version.")] = False,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="Of rows with one key and different values keep the last read.")
    ] = False,
    deferred_swap: Annotated[bool, typer.Option("--deferred-swap", help="Load it, and serve it at 'venice version roll-forward'.")] = False,
    target_nodes: Annotated[
        str | None, typer.Option("--target-nodes", metavar="NODE,…", help="Load it on these nodes, or on a share such as 25%, first.")
    ] = None,
    target_wait: Annotated[
        int | None,
        typer.Option("--target-wait", min=0, metavar="SECONDS", help="After so long it goes to the others by itself."),
    ] = None,
    memory_limit: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory for DuckDB, such as 1GB.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Push a new version of a store and wait until it serves."""
    from venice.config import without_linear_algebra

    without_linear_algebra()
    from venice import cli_progress
    from venice.push import batch

    progress = cli_progress.choose(as_json=as_json)
    with progress.shown():
        result = batch.push(
            settings_of(ctx),
            store,
            inputs=list(inputs) if inputs else None,
            table=table,
            sql=sql,
            key=key,
            value=value,
            renames=_renames(renames or []),
            timestamp=timestamp,
            value_schema=value_schema,
            register_schema=register_schema,
            push_id=push_id,
            allow_duplicates=allow_duplicates,
            deferred_swap=deferred_swap,
            target_nodes=target_nodes.split(",") if target_nodes else (),
            target_wait_s=target_wait,
            dry_run=dry_run,
            memory_limit=memory_limit,
            threads=threads,
            on_event=progress,
        )
    if as_json:
        say_json({"event": "push_done", **asdict(result)})
    else:
        say(_told(result, deferred_swap or bool(target_nodes), target_wait))


def repush(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    partitions: Annotated[int | None, typer.Option(min=1, help="The store's partition count from now on.")] = None,
    compression: Annotated[str | None, typer.Option(help="The store's compression from now on: none, gzip, zstd or zstd-dict.")] = None,
    push_id: Annotated[str | None, typer.Option("--push-id", help="Names the repush; one that is complete is not done again.")] = None,
    deferred_swap: Annotated[bool, typer.Option("--deferred-swap", help="Load it, and serve it at 'venice version roll-forward'.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a new version of the rows that a store serves, without their source, and wait until it serves."""
    from venice import cli_progress
    from venice.push import repush as of_version

    progress = cli_progress.choose(as_json=as_json)
    with progress.shown():
        result = of_version.repush(
            settings_of(ctx),
            store,
            partitions=partitions,
            compression=compression,
            push_id=push_id,
            deferred_swap=deferred_swap,
            threads=threads,
            on_event=progress,
        )
    if as_json:
        say_json({"event": "push_done", **asdict(result)})
    else:
        say(_told(result, deferred_swap))


def _renames(given: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = [text for text, (field, _, column) in zip(given, pairs, strict=True) if not field or not column]
    if wrong:
        raise InvalidRequest(f"--rename {wrong[0]} names no field and column", hint="write it as --rename FIELD=COLUMN")
    return {field: column for field, _, column in pairs}


def _told(result: PushResult, deferred_swap: bool, wait_s: int | None = None) -> str:
    left_out = [
        f"{count:,} {what}"
        for count, what in ((result.duplicates, "duplicates dropped"), (result.skipped, "rows without a value left out"))
        if count
    ]
    packed = [compression_text(result.compression, result.value_bytes, result.compressed_bytes)] if result.value_bytes else []
    rows = ", ".join([f"{result.rows:,} rows", size(result.bytes), *packed, *left_out])
    if result.version is None:
        return f"{result.store}: {rows} would be pushed; no version was made"
    if result.existing:
        return f"{result.store} version {result.version}: push {result.push_id} was complete already ({rows})"
    if wait_s is not None:
        return f"{result.store} version {result.version} is loaded on its first nodes ({rows}); it goes to the others in {wait_s} s"
    if deferred_swap:
        return f"{result.store} version {result.version} is loaded ({rows}); 'venice version roll-forward {result.store}' serves it"
    return f"{result.store} serves version {result.version}: {rows}"
