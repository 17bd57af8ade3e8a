"""`venice get`, `venice sql` and `venice export`: reading stores."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote, urlsplit

import typer

from venice.cli_output import AsJson, say, say_json, settings_of
from venice.errors import Unavailable

if TYPE_CHECKING:
    import pyarrow

    from venice.sql import AsOf


def get(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    key: Annotated[str, typer.Argument(help="The key: as it is for strings and numbers, JSON for anything else.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to read, such as one that waits; default: the one that serves.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read one value through the router; prints null if there is none."""
    body = _fetch(settings_of(ctx).router_url, f"/storage/{quote(store, safe='')}/{quote(key, safe='')}", version)
    value = json.loads(body) if body is not None else None
    if as_json:
        say_json(value)
    else:
        say(json.dumps(value, indent=2, ensure_ascii=False))


def sql(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL of DuckDB; every store is a table of its name.")],
    as_json: AsJson = False,
) -> None:
    """Query stores with SQL: the key's and the values' fields are the columns."""
    from venice.sql import query as run_query

    read: list[AsOf] = []
    answer = run_query(settings_of(ctx), query, on_read=read.append)
    if as_json:
        say_json(answer.to_pylist())
        return
    say(_box(answer))
    for one in read:
        if one.offsets:
            say(_as_of(one))


def export(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    to: Annotated[Path, typer.Option("--to", help="File to write; its ending says the format: .parquet, .csv or .duckdb.")],
    version: Annotated[int | None, typer.Option(min=1, help="Version to export; default: the one that serves.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a version's rows, as they are served, to a Parquet, CSV or DuckDB file."""
    from venice.sql import export as run_export

    read: list[AsOf] = []
    rows = run_export(settings_of(ctx), store, version=version, to=to, on_read=read.append)
    if as_json:
        say_json({"store": store, "version": read[0].version, "offsets": read[0].offsets, "file": str(to), "rows": rows})
    else:
        say(f"{to}: {rows:,} rows of {_as_of(read[0])}")


def _as_of(read: AsOf) -> str:
    """What was read, for people."""
    written = f", with what was written before offsets {', '.join(map(str, read.offsets))} of its topic" if read.offsets else ""
    return f"{read.store} version {read.version}{written}"


def _fetch(url: str, path: str, version: int | None) -> bytes | None:
    from venice import wire

    pinned = {wire.STORE_VERSION.decode(): str(version)} if version is not None else {}

    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=10)
    try:
        connection.request("GET", path, headers={"accept": "application/json", **pinned})
        response = connection.getresponse()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise Unavailable(f"no router answers at {url} ({error})", hint="start one with 'venice up' or 'venice run router'") from error
    finally:
        connection.close()
    if response.status == 404 and response.headers.get(wire.ERROR.decode()) is None:
        return None
    if response.status != 200:
        raise wire.error_of(response.status, body)
    return body


def _box(answer: pyarrow.Table) -> str:
    import duckdb

    # The view that DuckDB's own shell draws: types under the names, long results cut in the middle.
    with duckdb.connect() as connection:
        return str(connection.from_arrow(answer)).rstrip()
