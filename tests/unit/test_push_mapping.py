"""Columns of other names, rows with times of their own, and schemas that grow with their input."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from push_kit import push_folder, record

from venice import cli
from venice.cli_output import EXIT_CODES
from venice.errors import InvalidRequest
from venice.model import Compression
from venice.push.batch import push
from venice.push.new_schema import grown_schema
from venice.push.sources import locate_any

VALUE = record(("name", "string"), ("n", "long"))
MS = 1_700_000_000_123


def test_columns_of_other_names(tmp_path: Path) -> None:
    query = "SELECT 1 AS id, 'x' AS title, 5 AS n, 7 AS name"
    assert push_folder(tmp_path / "a", sql=query, key="id", renames={"name": "title"}, value_schema=VALUE).rows == {
        1: {"name": "x", "n": 5}
    }
    keys = record(("n", "long"), ("part", "long"), name="Key")
    pushed = push_folder(
        tmp_path / "b", sql=query, key_schema=keys, value_schema=VALUE, renames={"key.n": "id", "part": "name", "value.name": "title"}
    )
    assert pushed.rows == {"{'n': 1, 'part': 7}": {"name": "x", "n": 5}}
    with pytest.raises(InvalidRequest, match=r"no field 'nope' to rename a column to .*value\.name"):
        push_folder(tmp_path / "c", sql=query, key="id", renames={"nope": "title"}, value_schema=VALUE)
    with pytest.raises(InvalidRequest, match=r"the query has no column 'gone' for the value field 'name' \(string\)"):
        push_folder(tmp_path / "d", sql=query, key="id", renames={"name": "gone"}, value_schema=VALUE)


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.ZSTD])
def test_rows_with_times_of_their_own(tmp_path: Path, compression: Compression) -> None:
    made = f"SELECT * FROM (VALUES (1, 'a', 1, {MS}::BIGINT), (2, 'b', 2, NULL), (3, 'c', 3, 0)) t(key, name, n, moment)"
    shapes = {
        "number": made,
        "zone": f"SELECT * REPLACE (make_timestamptz(moment * 1000) AS moment) FROM ({made})",
        "plain": f"SELECT * REPLACE (make_timestamp_ms(moment) AS moment) FROM ({made})",
    }
    for name, query in shapes.items():
        pushed = push_folder(tmp_path / name, sql=query, value_schema=VALUE, timestamp="moment", compression=compression)
        assert pushed.times == {1: MS, 2: None, 3: 0}, name
        assert pushed.rows[2] == {"name": "b", "n": 2}
    assert push_folder(tmp_path / "none", sql=made, value_schema=VALUE, compression=compression).times == {1: None, 2: None, 3: None}


def test_times_in_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"key,name,n,at\n1,a,1,{MS}\n2,b,2,\n3,c,3,2023-11-14T22:13:20.123Z\n")
    documents = [{"key": 1, "name": "a", "n": 1, "at": MS}, {"key": 2, "name": "b", "n": 2}, {"key": 3, "name": "c", "n": 3, "at": str(MS)}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(document) for document in documents))
    for name in ("a.csv", "a.jsonl"):
        assert push_folder(tmp_path / name[2:], inputs=[tmp_path / name], value_schema=VALUE, timestamp="at").times == {
            1: MS,
            2: None,
            3: MS,
        }
    (tmp_path / "b.csv").write_text("key,name,n,at\n1,a,1,yesterday\n")
    with pytest.raises(InvalidRequest, match=r"b\.csv: .*column 'at': yesterday is no time"):
        push_folder(tmp_path / "b", inputs=[tmp_path / "b.csv"], value_schema=VALUE, timestamp="at")
    with pytest.raises(InvalidRequest, match=r"b\.csv has no column 'when' for the rows' times"):
        push_folder(tmp_path / "c", inputs=[tmp_path / "b.csv"], value_schema=VALUE, timestamp="when")


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("-1", "column 'at': -1 is no time"),
        (f"{MS}000", "is no time"),
        ("1.5::DOUBLE", "is DOUBLE, and the rows' times"),
        ("'x'", "is VARCHAR"),
    ],
)
def test_what_is_no_time(tmp_path: Path, at: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        push_folder(tmp_path, sql=f"SELECT 1 AS key, 'a' AS name, 1 AS n, {at} AS at", value_schema=VALUE, timestamp="at")


def test_a_schema_grows_by_the_columns_it_lacks(tmp_path: Path) -> None:
    with duckdb.connect() as connection:
        source = locate_any(
            connection, [], sql="SELECT 1 AS key, 'x' AS name, 2::BIGINT AS n, {'a': 1.5} AS more, DATE '2020-01-01' AS day"
        )
        grown = grown_schema(connection, source, store="rows-1", newest=VALUE, fed={"key"})
        assert grown is not None
        fields = {field["name"]: field for field in json.loads(grown)["fields"]}
        assert list(fields) == ["name", "n", "more", "day"]
        assert fields["n"]["type"] == "long"
        assert fields["day"] == {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}], "default": None}
        assert grown_schema(connection, source, store="rows-1", newest=grown, fed={"key"}) is None
        first = grown_schema(connection, source, store="rows-1", newest=None, fed={"key"})
        assert first is not None
        assert json.loads(first)["name"] == "rows_1_value"
        with pytest.raises(InvalidRequest, match="no record"):
            grown_schema(connection, source, store="rows-1", newest='"long"', fed={"key"})


LOOKS: list[tuple[str, list[str], Any, list[Any]]] = [
    ("flag", ["true", "false", ""], "boolean", [True, False, None]),
    ("whole", ["-7", "0", "9223372036854775807"], "long", [-7, 0, 2**63 - 1]),
    ("part", ["1.50", "-2", "1e3"], "double", [1.5, -2.0, 1000.0]),
    ("code", ["007", "12", "0"], "string", ["007", "12", "0"]),
    ("large", ["9223372036854775808", "1", ""], "string", ["9223372036854775808", "1", None]),
    ("mixed", ["1", "x", "2"], "string", ["1", "x", "2"]),
    ("bits", ["0", "1", '""'], "string", ["0", "1", ""]),
    ("day", ["2020-01-02", "1969-12-31", ""], {"type": "int", "logicalType": "date"}, [dt.date(2020, 1, 2), dt.date(1969, 12, 31), None]),
    ("other_day", ["01/02/2020", "03/04/2020", ""], "string", ["01/02/2020", "03/04/2020", None]),
    ("no_day", ["2020-02-30", "2020-01-01", ""], "string", ["2020-02-30", "2020-01-01", None]),
    ("wall", ["2020-01-02 03:04:05", "2020-01-02T03:04:05.25", ""], {"type": "long", "logicalType": "local-timestamp-micros"},
     [dt.datetime.fromisoformat("2020-01-02T03:04:05"), dt.datetime.fromisoformat("2020-01-02T03:04:05.25"), None]),
    ("moment", ["2020-01-02 03:04:05+02", "2020-01-02T03:04:05Z", "2020-01-02T03:04:05-00:30"],
     {"type": "long", "logicalType": "timestamp-micros"},
     [dt.datetime(2020, 1, 2, hour, minute, 5, tzinfo=dt.UTC) for hour, minute in ((1, 4), (3, 4), (3, 34))]),
    ("clock", ["03:04:05", "23:59:59.5", ""], {"type": "long", "logicalType": "time-micros"},
     [dt.time(3, 4, 5), dt.time(23, 59, 59, 500_000), None]),
    ("nothing", ["", "", ""], "string", [None, None, None]),
    # What DuckDB reads and a push refuses, or has as another value.
    ("zero", ["-0", "1", ""], "double", [-0.0, 1.0, None]),
    ("vast", ["1e400", "1", ""], "string", ["1e400", "1", None]),
    ("no_year", ["0000-01-01", "2020-01-01", ""], "string", ["0000-01-01", "2020-01-01", None]),
    ("no_hour", ["24:00:00", "03:04:05", ""], "string", ["24:00:00", "03:04:05", None]),
    ("year_10000", ["9999-12-31 23:59:59-01", "2020-01-02 03:04:05Z", ""], "string",
     ["9999-12-31 23:59:59-01", "2020-01-02 03:04:05Z", None]),
]  # fmt: skip


def test_columns_of_csv_have_the_types_that_all_their_cells_have(tmp_path: Path) -> None:
    for part, rows in enumerate(((0, 1), (2,))):
        lines = [",".join([str(row), *(cells[row] for _, cells, *_ in LOOKS)]) for row in rows]
        (tmp_path / f"{part}.csv").write_text("\n".join([",".join(["key", *(name for name, *_ in LOOKS)]), *lines]) + "\n")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        source = locate_any(connection, [tmp_path])
        grown = grown_schema(connection, source, store="rows", newest=None, fed={"key"})
    assert grown is not None
    found = {field["name"]: field["type"] for field in json.loads(grown)["fields"]}
    assert found == {name: ["null", kind] for name, _, kind, _ in LOOKS}
    pushed = push_folder(tmp_path / "out", inputs=[tmp_path], value_schema=grown).rows
    assert repr(pushed[0]["zero"]) == "-0.0"
    assert pushed == {row: {name: values[row] for name, _, _, values in LOOKS} for row in range(3)}


def test_columns_of_csv_may_be_many_and_have_any_name(tmp_path: Path) -> None:
    """A thousand took more memory than the machine had when each was looked at by expressions of its own."""
    names = ["name", "cell", "select", "source", *(f"c{number}" for number in range(1000))]
    (tmp_path / "a.csv").write_text(",".join(["key", *names]) + "\n" + ",".join(map(str, range(len(names) + 1))) + "\n")
    (tmp_path / "b.csv").write_text("key\n1\n")
    with duckdb.connect() as connection:
        source = locate_any(connection, [tmp_path / "a.csv"])
        grown = grown_schema(connection, source, store="rows", newest=None, fed={"key"})
        assert grown is not None
        assert [(field["name"], field["type"]) for field in json.loads(grown)["fields"]] == [(name, ["null", "long"]) for name in names]
        source = locate_any(connection, [tmp_path / "b.csv"])
        assert grown_schema(connection, source, store="rows", newest=None, fed={"key"}) is None


def test_a_column_that_is_the_whole_value_adds_no_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """In Python and at the command line, before anybody is asked."""
    with pytest.raises(InvalidRequest, match="'doc' is the whole value"):
        push("http://127.0.0.1:1", "rows", sql="SELECT 1 AS key", value="doc", register_schema=True)
    assert cli.run(["push", "rows", "--sql", "SELECT 1 AS key", "--value", "doc", "--register-schema"]) == EXIT_CODES["invalid_request"]
    assert "'doc' is the whole value" in capsys.readouterr().err
