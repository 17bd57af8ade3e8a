"""SQL over stores and exports, on real sealed snapshots and a real log, without any process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from venice import sql
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.catalog import encode_declaration, encode_entity
from venice.control.reading import read_catalog
from venice.errors import Corrupt, InvalidRequest, NotFound
from venice.log.sqlite import SqliteLog
from venice.model import Store, StoreConfig, ValueSchema, Version, VersionStatus
from venice.naming import CATALOG_TOPIC, check_store_name
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.snapshot import PartitionWriter, seal

PARTITIONS = 3
FLIGHT = json.dumps(
    {
        "type": "record",
        "name": "Flight",
        "fields": [
            {"name": "carrier", "type": "string"},
            {"name": "delay", "type": ["null", "int"], "default": None},
            {"name": "scheduled", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "stops", "type": {"type": "array", "items": "string"}, "default": []},
        ],
    }
)
NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
FLIGHTS = {
    f"f{number}": {"carrier": "UA" if number % 2 else "DL", "delay": number or None, "scheduled": NOON, "stops": ["EWR"] * (number % 3)}
    for number in range(40)
}


Rows = Iterable[tuple[Any, Any]]


class World:
    """A data folder as a cluster leaves it: a catalog in the log, sealed snapshots."""

    def __init__(self, folder: Path) -> None:
        self.settings: Settings = load(data=folder / "data")
        self._log = SqliteLog(folder / "data" / "log", SystemClock())
        self._log.create_topic(CATALOG_TOPIC, 1)
        self._append([encode_declaration(term=1, session=7, now_ms=1)])
        self._sequence = 0
        self._positions: dict[str, int] = {}

    def _append(self, payloads: Sequence[bytes]) -> int:
        return self._log.append(CATALOG_TOPIC, 0, payloads)[-1]

    def save(self, store: Store) -> Store:
        self._sequence += 1
        position = self._positions.get(store.name, 0)
        payload = encode_entity(store, term=1, session=7, sequence=self._sequence, position=position, now_ms=1)
        self._positions[store.name] = self._append([payload]) + 1
        return store

    def store(self, name: str, key_schema: str, value_schema: str, *versions: Rows) -> Store:
        """A store with these versions; the last one serves."""
        made = tuple(self._version(name, number, key_schema, value_schema, rows) for number, rows in enumerate(versions, 1))
        return self.save(
            Store(
                name=check_store_name(name),
                owner="",
                key_schema=key_schema,
                value_schemas=(ValueSchema(id=1, text=value_schema),),
                config=StoreConfig(partition_count=PARTITIONS),
                versions=made,
                current=len(made),
                largest_version=len(made),
            )
        )

    def _version(self, name: str, number: int, key_schema: str, value_schema: str, rows: Rows) -> Version:
        keys, values = key_codec(key_schema), Codec(value_schema)
        pairs = sorted((keys.encode(key), encode_value(1, values.encode(value))) for key, value in rows)
        folder = self.settings.data / "blobs" / name / str(number)
        folder.mkdir(parents=True)
        files = []
        for partition in range(PARTITIONS):
            mine = [(key, stored) for key, stored in pairs if partition_of(key, PARTITIONS) == partition]
            if mine:
                writer = PartitionWriter(folder / file_name(partition))
                for key, stored in mine:
                    writer.put(key, stored)
                files.append(writer.finish(partition))
        manifest = Manifest(store=name, version=number, partition_count=PARTITIONS, created_ms=1, value_schema_id=1, files=tuple(files))
        return Version(
            number=number,
            push_id=f"p{number}",
            status=VersionStatus.ONLINE,
            partition_count=PARTITIONS,
            replication_factor=1,
            topic_id=f"t{number}",
            created_ms=1,
            status_ms=1,
            snapshot=seal(folder, manifest),
            value_schema_id=1,
            row_count=len(pairs),
        )

    def close(self) -> None:
        self._log.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()
    left = [path.name for path in made.settings.data.iterdir() if path.name.startswith(".sql-")]
    assert not left, "replicas made for a query outlive it"


@pytest.fixture
def flights(world: World) -> World:
    world.store("flights", '"string"', FLIGHT, [("old", FLIGHTS["f1"])], FLIGHTS.items())
    return world


def test_a_store_is_a_table_of_its_current_version(flights: World) -> None:
    rows = sql.query(flights.settings, "SELECT * FROM flights").to_pylist()
    assert {row.pop("key"): row for row in rows} == FLIGHTS


def test_queries_compute(flights: World) -> None:
    answer = sql.query(flights.settings, "SELECT carrier, count(*) AS n, max(delay) AS late FROM flights GROUP BY ALL ORDER BY ALL")
    assert answer.to_pylist() == [{"carrier": "DL", "n": 20, "late": 38}, {"carrier": "UA", "n": 20, "late": 39}]


def test_stores_are_joined_and_names_are_quoted_as_sql_does(flights: World) -> None:
    flights.store("air-lines", '"string"', '"string"', [("UA", "United"), ("DL", "Delta")])
    found = sql.query(flights.settings, 'SELECT DISTINCT value FROM Flights JOIN "air-lines" a ON a.key = carrier ORDER BY value').column(
        "value"
    )
    assert found.to_pylist() == ["Delta", "United"]


def test_statements_that_are_no_plain_select_find_their_stores_too(flights: World) -> None:
    found = sql.query(flights.settings, "PIVOT (SELECT carrier FROM flights) ON carrier USING count(*)").to_pylist()
    assert found == [{"DL": 20, "UA": 20}]
    assert sql.query(flights.settings, "SET threads = 1; SELECT count(*) AS n FROM flights").to_pylist() == [{"n": 40}]


def test_only_the_stores_that_are_named_are_read(flights: World) -> None:
    broken = flights.store("broken", '"long"', '"long"', [(1, 1)])
    snapshot = broken.versions[0].snapshot
    assert snapshot is not None
    shutil.rmtree(snapshot.uri)
    assert sql.query(flights.settings, "SELECT count(*) AS broken FROM flights").to_pylist() == [{"broken": 40}]


def test_keys_that_are_records_have_their_fields_as_columns(world: World) -> None:
    key = '{"type":"record","name":"K","fields":[{"name":"id","type":"int"},{"name":"region","type":"string"}]}'
    value = '{"type":"record","name":"V","fields":[{"name":"id","type":"long"},{"name":"score","type":"double"}]}'
    rows = {(number, region): {"id": -number, "score": 0.5} for number in range(3) for region in ("eu", "us")}
    world.store("scores", key, value, [({"id": number, "region": region}, row) for (number, region), row in rows.items()])
    found = sql.query(world.settings, "SELECT * FROM scores").to_pylist()
    assert {(row["id"], row["region"]): {"id": row["value_id"], "score": row["score"]} for row in found} == rows


def test_a_key_record_with_a_field_called_value_keeps_its_name(world: World) -> None:
    key = '{"type":"record","name":"K","fields":[{"name":"value","type":"int"}]}'
    world.store("odd", key, '"string"', [({"value": 5}, "five")])
    assert sql.query(world.settings, "SELECT * FROM odd").to_pylist() == [{"value": 5, "value_value": "five"}]


def test_an_empty_version_is_an_empty_table(world: World) -> None:
    world.store("empty", '"long"', FLIGHT, [])
    answer = sql.query(world.settings, "SELECT * FROM empty")
    assert (answer.num_rows, answer.column_names) == (0, ["key", "carrier", "delay", "scheduled", "stops"])


def test_an_unknown_table_names_the_stores_there_are(flights: World) -> None:
    with pytest.raises(NotFound, match="flihgts") as caught:
        sql.query(flights.settings, "SELECT * FROM flihgts")
    assert caught.value.hint == "stores: flights"


@pytest.mark.parametrize("query", ["DROP TABLE flights", "DELETE FROM flights", "SELECT 1; UPDATE flights SET carrier = 'x'"])
def test_what_would_change_a_store_is_refused(flights: World, query: str) -> None:
    with pytest.raises(InvalidRequest, match="changes no store") as caught:
        sql.query(flights.settings, query)
    assert "venice push" in caught.value.hint


def test_tables_of_a_querys_own_may_change_before_its_end(flights: World) -> None:
    rows = sql.query(flights.settings, "CREATE TABLE own AS SELECT 1 AS n; INSERT INTO own VALUES (2); SELECT sum(n) AS n FROM own")
    assert rows.to_pylist() == [{"n": 3}]


@pytest.mark.parametrize(
    "query", ["", " ; -- nothing", "SELEC 1", "SELECT nothing FROM flights", "SELECT carrier + 1 FROM flights", "SELECT 'x'::INT"]
)
def test_a_wrong_query_is_an_invalid_request(flights: World, query: str) -> None:
    with pytest.raises(InvalidRequest):
        sql.query(flights.settings, query)


def test_a_store_without_a_version_says_what_makes_one(flights: World) -> None:
    world = flights
    world.save(Store(name="new", owner="", key_schema='"int"', value_schemas=(), config=StoreConfig()))
    with pytest.raises(NotFound, match="no version that serves") as caught:
        sql.query(world.settings, "SELECT * FROM new")
    assert "venice push new" in caught.value.hint


def test_without_a_log_nothing_is_made(tmp_path: Path) -> None:
    settings = load(data=tmp_path / "none")
    with pytest.raises(NotFound, match="no log"):
        sql.query(settings, "SELECT 1")
    assert not (tmp_path / "none").exists()


def test_a_damaged_snapshot_is_corrupt_and_exports_nothing(flights: World, tmp_path: Path) -> None:
    file = next((flights.settings.data / "blobs" / "flights" / "2").glob("*.sst"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(Corrupt):
        sql.query(flights.settings, "SELECT * FROM flights")
    for ending in sql.FORMATS:
        target = tmp_path / f"out{ending}"
        with pytest.raises(Corrupt):
            sql.export(flights.settings, "flights", to=target)
        assert not list(tmp_path.glob("*out*")), "nothing half-done is left"


@pytest.mark.parametrize("ending", sorted(sql.FORMATS))
def test_an_export_holds_the_rows_of_the_version(flights: World, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"it's out{ending}"
    assert sql.export(flights.settings, "flights", to=target) == 40
    assert sql.export(flights.settings, "flights", to=target) == 40
    with duckdb.connect(target if ending == ".duckdb" else ":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        source = "flights" if ending == ".duckdb" else f"read_{ending[1:]}(?)"
        found = connection.execute(f"FROM {source}", [] if ending == ".duckdb" else [str(target)]).to_arrow_table().to_pylist()
    for row in found:
        expected = FLIGHTS[row["key"]]
        assert (row["carrier"], row["delay"]) == (expected["carrier"], expected["delay"])
        if ending != ".csv":
            assert (row["scheduled"], row["stops"]) == (expected["scheduled"], expected["stops"])
    assert len(found) == 40


def test_an_older_version_can_be_exported(flights: World, tmp_path: Path) -> None:
    assert sql.export(flights.settings, "flights", version=1, to=tmp_path / "old.parquet") == 1
    with pytest.raises(NotFound, match="no version 9") as caught:
        sql.export(flights.settings, "flights", version=9, to=tmp_path / "none.parquet")
    assert "1, 2" in caught.value.hint


def test_a_failed_export_keeps_what_was_there(flights: World, tmp_path: Path) -> None:
    target = tmp_path / "out.duckdb"
    sql.export(flights.settings, "flights", version=1, to=target)
    next((flights.settings.data / "blobs" / "flights" / "2").glob("*.sst")).unlink()
    with pytest.raises(Corrupt):
        sql.export(flights.settings, "flights", to=target)
    with duckdb.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM flights").fetchone() == (1,)


def test_where_an_export_cannot_go(flights: World, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="ending"):
        sql.export(flights.settings, "flights", to=tmp_path / "out.xlsx")
    with pytest.raises(NotFound, match="no folder"):
        sql.export(flights.settings, "flights", to=tmp_path / "nowhere" / "out.csv")
    with pytest.raises(NotFound, match="no store 'trains'"):
        sql.export(flights.settings, "trains", to=tmp_path / "out.csv")


def test_a_version_retired_while_it_is_read_is_replaced_by_the_next(flights: World, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = read_catalog(flights.settings)
    store = catalog.stores["flights"]
    before = replace(store, versions=store.versions[:1], current=1)
    after = replace(store, versions=store.versions[1:], current=2)
    # The first look is at the moment before the swap; the files go right after it.
    shutil.rmtree(flights.settings.data / "blobs" / "flights" / "1")
    looks = iter([replace(catalog, stores={"flights": before})])
    monkeypatch.setattr(sql, "read_catalog", lambda settings: next(looks, replace(catalog, stores={"flights": after})))
    assert sql.export(flights.settings, "flights", to=flights.settings.data / "out.parquet") == 40
