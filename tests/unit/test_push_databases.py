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
