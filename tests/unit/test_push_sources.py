"""Where rows come from: files, globs, folders and queries in every format, and what is said of wrong ones."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from push_kit import LONG, push_folder, record

from venice.errors import InvalidRequest, NotFound
from venice.push.sources import Format, locate

SCHEMA = record(("name", "string"), ("n", ["null", "long"]))
ROWS = {1: {"name": "007", "n": 5}, 2: {"name": "", "n": None}}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    duckdb.sql("SELECT * FROM (VALUES (1, '007', 5), (2, '', NULL)) AS t(key, name, n)").write_parquet(str(tmp_path / "a.parquet"))
    write(tmp_path / "a.csv", 'key,name,n\n1,007,5\n2,"",\n')
    write(tmp_path / "a.tsv", 'n\tname\tkey\n5\t007\t1\n\t""\t2\n')
    write(tmp_path / "a.jsonl", '{"key": 1, "name": "007", "n": 5}\n{"key": 2, "name": ""}\n')
    write(tmp_path / "a.json", '[{"key": 1, "name": "007", "n": 5}, {"key": 2, "name": "", "n": null}]')
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for number, name in enumerate(["a.parquet", "a.csv", "a.tsv", "a.jsonl", "a.json", "a.csv.gz"]):
        assert push_folder(tmp_path / f"out-{number}", inputs=[tmp_path / name], value_schema=SCHEMA).rows == ROWS, name


def test_folders_and_globs_are_read_in_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    write(folder / "b" / "2.csv", "key,name,n\n1,late,2\n")
    write(folder / "a.csv", "key,name,n\n1,early,1\n")
    write(folder / "_SUCCESS", "")
    write(folder / ".part.csv.crc", "")
    write(folder / "_temporary" / "c.csv", "key,name,n\n1,unfinished,1\n")
    files = [str(folder / "a.csv"), str(folder / "b" / "2.csv")]
    assert locate([folder]).files == tuple(files)
    assert locate([str(folder / "**" / "*.csv")]).files == (str(folder / "_temporary" / "c.csv"), *files)
    assert locate([files[1], folder]).files == (files[1], files[0]), "in the order given, each once"
    assert locate([folder]).format is Format.CSV
    orders: list[tuple[list[str], str]] = [([str(folder)], "late"), ([files[1], files[0]], "early")]
    for number, (inputs, winner) in enumerate(orders):
        pushed = push_folder(tmp_path / f"out-{number}", inputs=inputs, value_schema=SCHEMA, allow_duplicates=True)
        assert pushed.rows[1]["name"] == winner, "the row read last wins"


def test_files_may_have_their_columns_in_any_order_and_types_that_widen(tmp_path: Path) -> None:
    duckdb.sql("SELECT 1::INT AS key, 'a' AS name, 5::INT AS n").write_parquet(str(tmp_path / "1.parquet"))
    duckdb.sql("SELECT 7 AS more, 'b' AS name, 2 AS key, 5000000000 AS n").write_parquet(str(tmp_path / "2.parquet"))
    pushed = push_folder(tmp_path, inputs=[tmp_path / "*.parquet"], value_schema=SCHEMA)
    assert pushed.rows == {1: {"name": "a", "n": 5}, 2: {"name": "b", "n": 5_000_000_000}}


@pytest.mark.parametrize(("value", "schema"), [("s", '"string"'), (None, record(("s", "string")))])
def test_key_and_value_columns_are_named_or_found(tmp_path: Path, value: str | None, schema: str) -> None:
    file = write(tmp_path / "a.csv", "id,s\n1,x\n")
    for number, key in enumerate(["id", None]):
        rows = push_folder(tmp_path / str(number), inputs=[file], value_schema=schema, key=key, value=value).rows
        assert rows in ({1: "x"}, {1: {"s": "x"}})


def test_a_column_may_feed_key_and_value(tmp_path: Path) -> None:
    schema = record(("id", "int"), ("s", "string"))
    assert push_folder(tmp_path, sql="SELECT 1 AS id, 'x' AS s", value_schema=schema, key="id").rows == {1: {"id": 1, "s": "x"}}


def test_columns_that_feed_nothing_are_not_even_read(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "key,name,n,junk\n" + "1,x,1,3\n" * 3 + "1,x,1,not a number\n")
    pushed = push_folder(tmp_path, inputs=[file], value_schema=SCHEMA)
    assert pushed.rows == {1: {"name": "x", "n": 1}}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "key,name\n1,x\n", "a.csv has no column 'n' for the value"),
        ("a.csv", "Key,name,n,m\n1,x,1,2\n", "a.csv holds the key is not clear"),
        ("a.csv", "key,NAME,n\n1,x,1\n", "it has 'NAME': names must be equal, case included"),
        ("a.csv", "key,name,n\n1,x,1.7\n", "column 'n': 1.7 is not a whole number"),
        ("a.csv", "key,name,n\n1,x,abc\n", "column 'n': abc is not a whole number"),
        ("a.csv", "key,name,n\n1,x,99999999999999999999\n", "99999999999999999999"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", 'key,name,n\n1,"x,1\n', "a.csv"),
        ("a.json", '{"key": 1, "name": 5, "n": 1}', "column 'name' of {file} is BIGINT, and the value field 'name' is string"),
        ("a.json", '{"key": 1, "name": "x", "n": 1.5}', "column 'n' of {file} is DOUBLE"),
        ("a.json", '{"key": 1, "name": "x", "n": 1}\n{"key": 2, "name": "x", "n": true}', "column 'n': true is not a whole number"),
        ("a.json", '{"key": 1, "n": 1}', "a.json has no column 'name'"),
        ("a.json", '{"key": 1, "name": "x"}\n{"key":\n', 'Malformed JSON in file "{file}"'),
        ("a.parquet", "PAR1 not really", "a.parquet"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, text: str, said: str) -> None:
    file = write(tmp_path / name, text)
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path, inputs=[file], value_schema=SCHEMA)
    assert said.replace("{file}", str(file)) in str(caught.value)
    assert str(file) in str(caught.value)
    assert caught.value.hint


def test_a_parquet_column_of_the_wrong_type_is_named_with_its_file(tmp_path: Path) -> None:
    duckdb.sql("SELECT 1 AS key, 'a' AS name, 1 AS n").write_parquet(str(tmp_path / "1.parquet"))
    duckdb.sql("SELECT 1 AS key, 'a' AS name, '1' AS n").write_parquet(str(tmp_path / "2.parquet"))
    with pytest.raises(InvalidRequest, match=r"column 'n' of .*2\.parquet is VARCHAR, and the value field 'n' is null \| long"):
        push_folder(tmp_path, inputs=[tmp_path / "*.parquet"], value_schema=SCHEMA)


def test_files_without_rows(tmp_path: Path) -> None:
    duckdb.sql("SELECT 1 AS key, 'a' AS name, 1 AS n WHERE false").write_parquet(str(tmp_path / "a.parquet"))
    write(tmp_path / "a.csv", "key,name,n\n")
    write(tmp_path / "a.json", "")
    for number, name in enumerate(["a.parquet", "a.csv", "a.json"]):
        assert push_folder(tmp_path / str(number), inputs=[tmp_path / name], value_schema=SCHEMA).rows == {}, name


def test_a_folder_is_read_by_name_and_not_below_what_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.csv", "a/2.csv", "a/b/1.csv", ".git/1.csv", "_temporary/0/1.csv", "a/.hidden.csv", "a/_SUCCESS"):
        write(tmp_path / name, "key\n")
    (tmp_path / "a" / "linked.csv").symlink_to(tmp_path / ".git" / "1.csv")
    looked_at: list[str] = []
    scan = os.scandir

    def noted(folder: str) -> Iterator[os.DirEntry[str]]:
        looked_at.append(str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", noted)
    found = [str(Path(file).relative_to(tmp_path)) for file in locate([tmp_path]).files]
    assert found == ["a/2.csv", "a/b/1.csv", "a/linked.csv", "b.csv"]
    assert not [folder for folder in looked_at if ".git" in folder or "_temporary" in folder]


@pytest.mark.parametrize("query", ["SELEC 1", "SELECT * FROM nothing", "SELECT nothing FROM (SELECT 1 AS key)"])
def test_a_wrong_query_is_said_to_be_wrong(tmp_path: Path, query: str) -> None:
    with pytest.raises(InvalidRequest, match="the query") as caught:
        push_folder(tmp_path, sql=query, value_schema=SCHEMA)
    assert "mend the query" in caught.value.hint


def test_inputs_that_are_not_there_or_not_alike(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file at"):
        locate([tmp_path / "nothing*.csv"])
    with pytest.raises(NotFound, match="no file at") as caught:
        locate([tmp_path])
    assert "the folder has no files" in caught.value.hint
    with pytest.raises(InvalidRequest, match="nothing to push"):
        locate([])
    write(tmp_path / "a.csv", "key\n")
    write(tmp_path / "a.json", "{}")
    write(tmp_path / "a.xml", "<a/>")
    with pytest.raises(InvalidRequest, match="the inputs are csv and json files"):
        locate([tmp_path / "a.csv", tmp_path / "a.json"])
    with pytest.raises(InvalidRequest, match=r"a\.xml is of no format that can be pushed"):
        locate([tmp_path / "a.xml"])


def test_a_wrong_query_is_answered_in_its_own_lines(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r'cannot read the query: .*"nope" not found'):
        push_folder(tmp_path, sql="SELECT i AS key FROM range(3) t(i) WHERE nope", value_schema=SCHEMA)
    with pytest.raises(InvalidRequest, match=r'syntax error at or near ",".*line 2: FROM range\(3\),, x'):
        push_folder(tmp_path, sql="SELECT i AS key\nFROM range(3),, x", value_schema=SCHEMA)
    with pytest.raises(InvalidRequest, match='syntax error at or near ";"'):
        push_folder(tmp_path, sql="SELECT 1 AS key; DROP TABLE x", value_schema=SCHEMA)
    with pytest.raises(InvalidRequest, match="division"):
        push_folder(tmp_path, sql="SELECT i AS key, error('division by nought') AS value FROM range(5000000) t(i)", value_schema=LONG)
    assert push_folder(tmp_path, sql="SELECT 1 AS key, 'x' AS name, 1 AS n -- the end", value_schema=SCHEMA).rows == {
        1: {"name": "x", "n": 1}
    }


INSTANT = {"type": "long", "logicalType": "timestamp-millis"}


@pytest.mark.parametrize("text", ["2024-01-01T02:00:00+02:00", "2024-01-01 00:00:00", "2023-12-31T19:00:00-0500", "2024-01-01T00:00:00Z"])
def test_timestamps_in_text_count_from_their_offset_and_else_from_utc(tmp_path: Path, text: str) -> None:
    plain = record(("micros", {"type": "long", "logicalType": "timestamp-micros"}), ("millis", ["null", INSTANT]))
    nested = record(("moments", {"type": "array", "items": INSTANT}), ("inner", json.loads(record(("at", INSTANT), name="Inner"))))
    (tmp_path / "a.csv").write_text(f"key,micros,millis\n1,{text},{text}\n2,{text},\n")
    rows = [{"key": 1, "micros": text, "millis": text}, {"key": 2, "micros": text}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "nested.jsonl").write_text(json.dumps({"key": 1, "moments": [text, text], "inner": {"at": text}}))
    midnight = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    for name in ("a.csv", "a.jsonl"):
        pushed = push_folder(tmp_path / name[2:], inputs=[tmp_path / name], value_schema=plain, timestamp="micros")
        assert pushed.rows == {1: {"micros": midnight, "millis": midnight}, 2: {"micros": midnight, "millis": None}}
        assert set(pushed.times.values()) == {int(midnight.timestamp() * 1000)}
    pushed = push_folder(tmp_path / "nested", inputs=[tmp_path / "nested.jsonl"], value_schema=nested)
    assert pushed.rows == {1: {"moments": [midnight, midnight], "inner": {"at": midnight}}}


def test_local_timestamps_are_what_the_clock_showed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,value\n1,2024-01-01T02:00:00+02:00\n2,2024-01-01T02:00:00\n")
    local = json.dumps({"type": "long", "logicalType": "local-timestamp-micros"})
    shown = dt.datetime.fromisoformat("2024-01-01T02:00:00")
    assert push_folder(tmp_path, inputs=[tmp_path / "a.csv"], value_schema=local).rows == {1: shown, 2: shown}
