"""Tables of SQLite, DuckDB and PostgreSQL as sources, and what is said when they cannot be read."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from postgres_server import Postgres, postgres
from push_kit import push_folder, record

from venice.errors import InvalidRequest, NotFound, Unavailable
from venice.model import Compression

VALUE = record(("name", "string"), ("n", ["null", "long"]))
ROWS: dict[int, Any] = {1: {"name": "007", "n": 5}, 2: {"name": "", "n": None}}


@pytest.fixture(scope="module")
def server(free_port: Callable[..., int]) -> Iterator[Postgres]:
    with postgres(free_port) as found:
        found.run(
            "CREATE TABLE rows (key bigint PRIMARY KEY, name text NOT NULL, n integer, at timestamptz);"
            "INSERT INTO rows VALUES (1, '007', 5, '2023-11-14 22:13:20.123+00'), (2, '', NULL, NULL);"
            "CREATE SCHEMA other; CREATE TABLE other.rows AS SELECT key, 'other' AS name, n FROM rows;"
            "CREATE VIEW late AS SELECT key, name, n FROM rows WHERE key > 1; CREATE TABLE nothing (key bigint, name text, n bigint)"
        )
        yield found


def sqlite(path: Path) -> Path:
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE rows (key INTEGER PRIMARY KEY, name TEXT, n INTEGER)")
        made.executemany("INSERT INTO rows VALUES (?, ?, ?)", [(1, "007", 5), (2, "", None)])
        made.execute('CREATE TABLE "odd ""name" AS SELECT * FROM rows')
    made.close()
    return path


def test_a_table_of_each_database(tmp_path: Path, server: Postgres) -> None:
    with duckdb.connect(tmp_path / "a.duckdb") as made:
        made.execute("CREATE TABLE rows AS FROM (VALUES (1, '007', 5), (2, '', NULL)) AS t(key, name, n)")
    givens: list[str | Path] = [tmp_path / "a.duckdb", sqlite(tmp_path / "a.sqlite"), server.url()]
    for number, given in enumerate(givens):
        for compression in (Compression.NONE, Compression.ZSTD_DICT):
            folder = tmp_path / f"out-{number}-{compression.value}"
            assert push_folder(folder, inputs=[given], table="rows", value_schema=VALUE, compression=compression).rows == ROWS
        asked = push_folder(
            tmp_path / f"sql-{number}", inputs=[given], sql="SELECT key, name, n FROM rows WHERE key > 1", value_schema=VALUE
        )
        assert asked.rows == {2: ROWS[2]}
        with pytest.raises(NotFound, match=r"has no table 'gone' .*it has .*rows"):
            push_folder(tmp_path / "x", inputs=[given], table="gone", value_schema=VALUE)
        with pytest.raises(InvalidRequest, match="is a database: a table or a query says what to read"):
            push_folder(tmp_path / "x", inputs=[given], value_schema=VALUE)
        with pytest.raises(InvalidRequest, match=r"table rows of .* has no column 'more'"):
            push_folder(tmp_path / "x", inputs=[given], table="rows", value_schema=record(("name", "string"), ("more", "long")))
        with pytest.raises(InvalidRequest, match=r"column 'n' of table rows of .* is null in 1 row"):
            push_folder(tmp_path / "y", inputs=[given], table="rows", value_schema=record(("name", "string"), ("n", "long")))
    assert push_folder(tmp_path / "odd", inputs=[tmp_path / "a.sqlite"], table='odd "name', value_schema=VALUE).rows == ROWS


def test_postgres_tables_of_other_schemas_views_and_times(tmp_path: Path, server: Postgres) -> None:
    def pushed(table: str, **more: Any) -> Any:
        return push_folder(tmp_path / table, inputs=[server.url()], table=table, value_schema=VALUE, **more)

    assert pushed("other.rows").rows[1] == {"name": "other", "n": 5}
    assert pushed("late").rows == {2: ROWS[2]}
    assert pushed("nothing").rows == {}
    assert pushed("public.rows", timestamp="at").times == {1: 1_700_000_000_123, 2: None}


def test_postgres_types(tmp_path: Path, server: Postgres) -> None:
    columns = [
        ("small", "smallint", "-7", "int", -7),
        ("truth", "boolean", "true", "boolean", True),
        ("half", "real", "0.5", "float", 0.5),
        ("bits", "bytea", r"'\x00ff'", "bytes", b"\x00\xff"),
        ("money", "numeric(9, 2)", "12.34", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Decimal("12.34")),
        ("id", "uuid", "'00000000-0000-0000-0000-00000000002a'", {"type": "string", "logicalType": "uuid"}, UUID(int=42)),
        ("day", "date", "'2020-01-02'", {"type": "int", "logicalType": "date"}, dt.date(2020, 1, 2)),
        ("at", "timestamptz", "'2020-01-02 03:04:05.123456+02'", {"type": "long", "logicalType": "timestamp-micros"},
         dt.datetime(2020, 1, 2, 1, 4, 5, 123456, dt.UTC)),
        ("list", "int[]", "'{1, 2}'", {"type": "array", "items": "int"}, [1, 2]),
        ("text", "varchar(9)", "'ü'", "string", "ü"),
    ]  # fmt: skip
    server.run(f"CREATE TABLE types (key bigint, {', '.join(f'{name} {kind}' for name, kind, *_ in columns)})")
    server.run(f"INSERT INTO types VALUES (-1, {', '.join(literal for _, _, literal, *_ in columns)})")
    schema = record(*[(name, kind) for name, _, _, kind, _ in columns])
    pushed = push_folder(tmp_path, inputs=[server.url()], table="types", value_schema=schema)
    assert pushed.rows == {-1: {name: value for name, *_, value in columns}}


def test_postgres_that_cannot_be_read(tmp_path: Path, server: Postgres, free_port: Callable[..., int]) -> None:
    def refused(kind: type[Exception], url: str) -> str:
        with pytest.raises(kind) as caught:
            push_folder(tmp_path, inputs=[url], table="rows", value_schema=VALUE)
        return str(caught.value)

    said = refused(InvalidRequest, server.url(password="wrongsecret"))
    assert "cannot connect to postgresql://venice:***@" in said
    assert "authentication failed" in said
    assert "wrongsecret" not in said
    assert "nope" in refused(NotFound, server.url(database="nope"))
    assert "does not answer" in refused(Unavailable, f"postgresql://venice@127.0.0.1:{free_port()}/postgres")


INSTANT = record(("seen", ["null", {"type": "long", "logicalType": "timestamp-micros"}]))
WALL = record(("seen", {"type": "long", "logicalType": "local-timestamp-micros"}))
UTC_TIMES = ["2020-01-02 03:04:05", "2020-01-02T03:04:05Z", "2020-01-02 03:04:05+00:00", "2020-01-02 03:04:05 UTC", 1_577_934_245, None]


def times(path: Path, *seen: Any, kind: str = "TIMESTAMP") -> Path:
    """A SQLite file with such times, and in a column that nobody asks for one with an offset."""
    with sqlite3.connect(path) as made:
        made.execute(f'CREATE TABLE "the ""rows" (key INTEGER, seen {kind}, other TIMESTAMP)')
        made.executemany(
            'INSERT INTO "the ""rows" VALUES (?, ?, ?)', [(key, time, "2020-01-02 03:04:05+02") for key, time in enumerate(seen)]
        )
        made.execute('CREATE VIEW late AS SELECT key, seen FROM "the ""rows" WHERE key >= 0')
        made.execute("CREATE VIEW renamed AS SELECT key, seen AS again FROM late")
    made.close()
    return path


def test_times_of_sqlite_that_would_be_shifted_are_refused(tmp_path: Path) -> None:
    asks: list[dict[str, Any]] = [
        {"table": 'the "rows'}, {"table": "late"}, {"sql": "FROM late"}, {"sql": 'SELECT key, seen FROM "the ""rows" AS r'},
        {"sql": "WITH x AS (SELECT l.key, l.Seen FROM main.late l) SELECT key, seen FROM x"},
    ]  # fmt: skip
    good = times(tmp_path / "good.sqlite", *UTC_TIMES)
    for number, ask in enumerate(asks):
        found = push_folder(tmp_path / f"good-{number}", inputs=[good], value_schema=INSTANT, **ask).rows
        assert [row["seen"] and row["seen"].isoformat() for _, row in sorted(found.items())] == ["2020-01-02T03:04:05+00:00"] * 5
    for number, time in enumerate(("2020-01-02T03:04:05.123456+02:00", "2020-01-02 03:04:05-07")):
        bad = times(tmp_path / f"bad-{number}.sqlite", *UTC_TIMES, time)
        for ask in asks:
            with pytest.raises(InvalidRequest, match=r"column 'seen' of table .* of .*bad.* offset from UTC, such as") as caught:
                push_folder(tmp_path / "x", inputs=[bad], value_schema=INSTANT, **ask)
            assert time in str(caught.value)
        with pytest.raises(InvalidRequest, match=r"'seen' of table late .* offset from UTC"):
            push_folder(tmp_path / "x", inputs=[bad], key="key", value_schema=record(("key", "long")), table="late", timestamp="seen")
        with pytest.raises(InvalidRequest, match=r"'again' of table renamed .* offset from UTC"):
            push_folder(tmp_path / "x", inputs=[bad], value_schema=INSTANT, table="renamed", renames={"seen": "again"})
        several = record(("all", {"type": "array", "items": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}))
        with pytest.raises(InvalidRequest, match=r"'seen' of table .* offset from UTC"):
            push_folder(tmp_path / "x", inputs=[bad], value_schema=several, sql='SELECT 1 AS key, list(seen) AS "all" FROM late')
        # What the clock showed is read as it is, and text as the query says.
        assert push_folder(tmp_path / f"wall-{number}", inputs=[bad], value_schema=WALL, sql="FROM late WHERE key = 6").rows[6]
        cast = "SELECT key::BIGINT AS key, seen::TIMESTAMPTZ AS seen FROM sqlite_query('venice_source', 'SELECT * FROM late WHERE key = 6')"
        shown = push_folder(tmp_path / f"cast-{number}", inputs=[bad], value_schema=INSTANT, sql=cast).rows[6]["seen"]
        assert shown == dt.datetime.fromisoformat(time)


@pytest.mark.parametrize("name", ["a.sqlite", "a.duckdb"])
def test_files_that_are_no_database(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound, match=f"no file at .*{name}"):
        push_folder(tmp_path, inputs=[tmp_path / name], table="rows", value_schema=VALUE)
    (tmp_path / name).write_bytes(b"not a database at all " * 400)
    with pytest.raises(InvalidRequest, match=f"cannot read .*{name}"):
        push_folder(tmp_path, inputs=[tmp_path / name], table="rows", value_schema=VALUE)


def test_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    file = sqlite(tmp_path / "a.db")
    with pytest.raises(InvalidRequest, match="table 'rows' of what"):
        push_folder(tmp_path, inputs=[tmp_path / "a.csv"], table="rows", value_schema=VALUE)
    with pytest.raises(InvalidRequest, match="names its files itself"):
        push_folder(tmp_path, inputs=[tmp_path / "a.csv"], sql="SELECT 1", value_schema=VALUE)
    with pytest.raises(InvalidRequest, match="one source, and 2 are given"):
        push_folder(tmp_path, inputs=[file, file], table="rows", value_schema=VALUE)
