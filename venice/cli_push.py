"""`venice push`: a new version from files or a query, with its progress shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from venice.cli_output import AsJson, settings_of


def push(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    inputs: Annotated[list[str] | None, typer.Option("--input", metavar="PATH", help="File or glob; repeat it for several.")] = None,
    sql: Annotated[str | None, typer.Option("--sql", metavar="QUERY", help="DuckDB SQL whose rows are pushed.")] = None,
    key: Annotated[str | None, typer.Option("--key", metavar="COLUMN", help="Column of the key.")] = None,
    value: Annotated[str | None, typer.Option("--value", metavar="COLUMN", help="Column of the whole value.")] = None,
    push_id: Annotated[str | None, typer.Option("--push-id", help="Names the push: pushing again with it changes nothing.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check everything, push nothing.")] = False,
    allow_duplicates: Annotated[bool, typer.Option("--allow-duplicates", help="Of rows with one key, keep any.")] = False,
    deferred_swap: Annotated[bool, typer.Option("--deferred-swap", help="Do not serve it until 'venice version roll-forward'.")] = False,
    as_json: AsJson = False,
) -> None:
    """Push a new version of a store and wait until it serves."""
    settings_of(ctx)
