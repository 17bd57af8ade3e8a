"""`venice get`, `venice sql` and `venice export`: reading stores."""

from __future__ import annotations

import json
import tempfile
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote, urlsplit

import typer

from venice.cli_output import AsJson, say, say_json, settings_of
from venice.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    import pyarrow

    from venice.config import Settings
    from venice.sql import AsOf


class Via(StrEnum):
    """A client of Python."""

    THIN = "thin"
    FAST = "fast"
    DAVINCI = "davinci"


def get(
    ctx: typer.Context,
    store: Annotated[str, typer.Argument(help="Name of the store.")],
    key: Annotated[str, typer.Argument(help="The key: as it is for strings and numbers, JSON for anything else.")],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to read, such as one that waits; default: the one that serves.")
    ] = None,
    via: Annotated[
        Via | None,
        typer.Option(help="Client to read with; davinci attaches a replica of its own first. Default: HTTP, as curl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read one value; prints null if there is none."""
    if via is None:
        body = _fetch(settings_of(ctx).router_url, f"/storage/{quote(store, safe='')}/{quote(key, safe='')}", version)
        value = json.loads(body) if body is not None else None
    elif version is not None:
        raise InvalidRequest("clients read the version that serves", hint="leave out --via, or --version")
    else:
        value = _read_via(settings_of(ctx), store, key, via)
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


def _read_via(settings: Settings, store: str, text: str, via: Via) -> Any:
    """The value of a key as JSON has it, by a client of Python."""
    from venice.schema.codec import Codec
    from venice.schema.json_values import to_json
    from venice.serve.json_view import key_of_text
    from venice.wire import decode_metadata

    def key_of(schema_text: str) -> Any:
        return key_of_text(Codec(schema_text).schema, quote(text, safe="").encode())

    if via is Via.DAVINCI:
        from venice.client.davinci import DaVinciClient
        from venice.control.reading import read_catalog

        # On the disk of the snapshots, whose files are then linked.
        place = settings.data if settings.data.is_dir() else None
        with tempfile.TemporaryDirectory(prefix=".get-", dir=place) as folder, DaVinciClient(settings, store, folder=folder) as davinci:
            return to_json(davinci.get(key_of(read_catalog(settings).stores[store].key_schema)))
    from venice.client.fast import FastClient
    from venice.client.thin import ThinClient

    body = _fetch(settings.router_url, f"/metadata/{quote(store, safe='')}", None)
    assert body is not None, "an unknown store is an error, not a missing key"
    with (FastClient if via is Via.FAST else ThinClient)(settings.router_url, store) as client:
        return to_json(client.get(key_of(decode_metadata(body).key_schema)))


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
