"""The batch half: two versions pushed, read by every client, swapped under a reader, rolled back, queried, exported."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.quickstart.figures import measure, table
from venice.quickstart.flights import EXAMPLE, FIELDS, STORE, Flights, push_edition
from venice.quickstart.reading import LoopingReader, wait_until
from venice.quickstart.screen import Screen
from venice.sql import export, query


def second_version(
    screen: Screen,
    settings: Settings,
    controller: ControllerClient,
    flights: Flights,
    clients: tuple[ThinClient, DaVinciClient],
    keys: Sequence[str],
) -> None:
    """Push another version while a reader loops, roll back, roll forward: no read fails, none mixes."""
    thin, davinci = clients
    with screen.step("read one row three ways") as said:
        said += _one_row(settings, thin, davinci)
    with LoopingReader(thin, keys) as reader:
        push_edition(screen, settings, flights, 2)
        wait_until(lambda: thin.get(EXAMPLE)["edition"] == 2 and davinci.get(EXAMPLE)["edition"] == 2, "version 2 to serve")
        with screen.step("roll back, then forward, with the reader still looping") as said:
            controller.rollback(STORE)
            wait_until(lambda: thin.get(EXAMPLE)["edition"] == 1, "version 1 to serve")
            controller.roll_forward(STORE)
            wait_until(lambda: thin.get(EXAMPLE)["edition"] == 2, "version 2 to serve")
            said.append("rolled back to the first version, forward to the second")
    good = not reader.failed and not reader.mixed and reader.editions == [1, 2, 1, 2]
    screen.verdict(
        good,
        f"swap: {len(reader.failed)} failed, {reader.mixed} mixed of {reader.reads:,} reads",
        f" (each other read a batch of 100 keys; versions seen in order: {reader.editions})",
    )
    assert good, f"reads failed: {reader.failed[:3]}, versions seen: {reader.editions}"


def query_and_export(screen: Screen, settings: Settings, flights: Flights, folder: Path) -> None:
    """SQL over the store, and its rows as a file."""
    with screen.step("query with SQL") as said:
        said += _ask(settings)
    with screen.step("export to Parquet and compare with the input") as said:
        said.append(_export(settings, flights, folder))


def measure_gets(screen: Screen, settings: Settings, clients: tuple[ThinClient, DaVinciClient], keys: Sequence[str], samples: int) -> None:
    """What a get costs each client."""
    with screen.step(f"measure {samples:,} gets per client") as said:
        figures = measure(settings, *clients, keys, samples)
        said.append(f"{samples:,} gets of random keys per client, values decoded, everything on this machine:")
    screen.console.print(table(figures))


def _one_row(settings: Settings, thin: ThinClient, davinci: DaVinciClient) -> list[str]:
    row = thin.get(EXAMPLE)
    assert row == davinci.get(EXAMPLE), "the clients disagree"
    url = f"{settings.router_url}/storage/{STORE}/{EXAMPLE}"
    command = ["curl", "-s", "-H", "Accept: application/json", url]
    if shutil.which("curl"):
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        ways = "thin client, Da Vinci client and curl"
    else:
        import urllib.request

        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "application/json"})) as response:
            answer = response.read().decode()
        ways = "thin client, Da Vinci client and plain HTTP (there is no curl here)"
    assert json.loads(answer)["tailnum"] == row["tailnum"], f"HTTP answered {answer!r}"
    return [f"{ways} agree on {EXAMPLE}:", answer.strip(), f"$ {shlex.join(command)}"]


def _ask(settings: Settings) -> list[str]:
    sql = (
        f"SELECT carrier, count(*) AS flights, round(avg(arr_delay), 1) AS late_min FROM {STORE}"
        " GROUP BY carrier ORDER BY late_min DESC LIMIT 3"
    )
    rows = query(settings, sql).to_pylist()
    return [f"venice sql: {sql}", *(f"{row['carrier']}: {row['flights']:,} flights, {row['late_min']} minutes late" for row in rows)]


def _export(settings: Settings, flights: Flights, folder: Path) -> str:
    import duckdb

    target = folder / "flights.parquet"
    export(settings, STORE, to=target)
    columns = ", ".join(["key", *FIELDS])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE VIEW input AS SELECT {columns} FROM ({flights.sql(2)})")
        connection.execute(
            f"CREATE VIEW output AS SELECT {columns.replace('scheduled', 'scheduled::TIMESTAMP AS scheduled')} FROM '{target}'"
        )
        different = connection.execute(
            "SELECT (SELECT count(*) FROM (FROM input EXCEPT ALL FROM output)) + (SELECT count(*) FROM (FROM output EXCEPT ALL FROM input))"
        ).fetchone()
    assert different == (0,), f"{different} rows of the export differ from the input"
    return f"{target}: {flights.rows:,} rows, equal to the input's"
