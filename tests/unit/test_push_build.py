"""What a push makes of its rows: values of every type, policies, limits, and what it leaves behind when it fails."""

from __future__ import annotations

import datetime as dt
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pytest
from push_kit import LONG, push_folder, record

from venice.errors import Corrupt, Full, InvalidRequest
from venice.push import snapshot
from venice.push.intake import Taken
from venice.push.progress import Phase, PhaseEnded, Progress
from venice.push.writer import Written
from venice.rules.partitioning import partition_of
from venice.schema.codec import key_codec
from venice.storage.snapshot import PartitionFile

TEXT = '"string"'


def logical(base: Any, name: str, **facts: int) -> dict[str, Any]:
    return {"type": base, "logicalType": name, **facts}


ENUM = {"type": "enum", "name": "E", "symbols": ["a", "b"]}
FIXED = {"type": "fixed", "name": "F", "size": 2}
INNER = {"type": "record", "name": "Inner", "fields": [{"name": "b", "type": "string"}, {"name": "a", "type": "long"}]}
UTC = dt.UTC

VALUES: list[tuple[str, Any, Any]] = [
    ("1::TINYINT", "int", 1),
    ("sum(5)", "long", 5),  # HUGEINT
    ("2.5", "double", 2.5),  # DECIMAL
    ("3", "float", 3.0),
    ("true", "boolean", True),
    ("'z'::ENUM('z')", "string", "z"),
    ("'b'", ENUM, "b"),
    ("'ab'::BLOB", "bytes", b"ab"),
    ("'ab'::BLOB", FIXED, b"ab"),
    ("DATE '2020-01-02'", logical("int", "date"), dt.date(2020, 1, 2)),
    ("TIME '10:00:00.123'", logical("int", "time-millis"), dt.time(10, 0, 0, 123000)),
    ("TIME '10:00:00.123456'", logical("long", "time-micros"), dt.time(10, 0, 0, 123456)),
    ("TIMESTAMP '2020-01-02 03:04:05.678'", logical("long", "timestamp-millis"), dt.datetime(2020, 1, 2, 3, 4, 5, 678000, UTC)),
    ("TIMESTAMPTZ '2020-01-02 03:04:05+02'", logical("long", "timestamp-micros"), dt.datetime(2020, 1, 2, 1, 4, 5, 0, UTC)),
    ("TIMESTAMP_NS '2020-01-02 03:04:05.678'", logical("long", "local-timestamp-millis"), dt.datetime(2020, 1, 2, 3, 4, 5, 678000)),  # noqa: DTZ001 - a local timestamp has no zone
    ("UUID '00000000-0000-0000-0000-00000000002a'", logical("string", "uuid"), UUID(int=42)),
    ("12.34", logical("bytes", "decimal", precision=6, scale=2), Decimal("12.34")),
    ("[1, 2]", {"type": "array", "items": "long"}, [1, 2]),
    ("[1.5, 2]::FLOAT[2]", {"type": "array", "items": "float"}, [1.5, 2.0]),
    ("[1, NULL]", {"type": "array", "items": ["null", "long"]}, [1, None]),
    ("MAP {'a': 1}", {"type": "map", "values": "int"}, {"a": 1}),
    ("{'a': 1, 'b': 'z'}", INNER, {"b": "z", "a": 1}),
    ("NULL::INT", ["null", "int"], None),
    ("5", ["null", "int", "string"], 5),
]


@pytest.mark.parametrize(("expression", "kind", "expected"), VALUES, ids=[f"{e} as {json.dumps(k)}" for e, k, _ in VALUES])
def test_a_column_becomes_a_value_of_its_field(tmp_path: Path, expression: str, kind: Any, expected: Any) -> None:
    pushed = push_folder(tmp_path, sql=f"SELECT 1 AS key, {expression} AS x, 2 AS pad", value_schema=record(("x", kind), ("pad", "int")))
    assert pushed.rows == {1: {"x": expected, "pad": 2}}


@pytest.mark.parametrize(
    ("expression", "kind", "said"),
    [
        ("1", "boolean", "column 'x' of the query is INTEGER, and the value field 'x' is boolean"),
        ("'7'", "long", "column 'x' of the query is VARCHAR, and the value field 'x' is long"),
        ("1.5::DOUBLE", "long", "is DOUBLE, and the value field 'x' is long"),
        ("[['a']]", {"type": "array", "items": {"type": "array", "items": "int"}}, "column 'x[][]' of the query"),
        ("{'a': 'q', 'b': 'z'}", INNER, "column 'x.a' of the query"),
        ("{'b': 'z'}", INNER, "column 'x.a' of the query"),
        ("5000000000", "int", "5000000000 can't be cast because the value is out of range"),
        ("1e300", "float", "out of range"),
        ("'c'", ENUM, "column 'x' does not fit its field in the row of key 1: not one of the symbols a, b"),
        ("'abc'::BLOB", FIXED, "not 2 bytes"),
        ("TIMESTAMP '2020-01-02 03:04:05.678901'", logical("long", "timestamp-millis"), "would lose data"),
        ("12.345", logical("bytes", "decimal", precision=6, scale=2), "would cause data loss"),
        ("[1, NULL]", {"type": "array", "items": "long"}, "column 'x[]' does not fit"),
    ],
)
def test_a_column_that_does_not_fit_is_named_with_both_types(tmp_path: Path, expression: str, kind: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path, sql=f"SELECT 1 AS key, {expression} AS x", value_schema=record(("x", kind)))
    assert said in str(caught.value)
    assert caught.value.hint


def test_keys_may_be_records_columns_or_maps(tmp_path: Path) -> None:
    pair = record(("a", "int"), ("b", "string"), name="Pair")
    by_field = push_folder(tmp_path / "1", sql="SELECT 1 AS a, 'x' AS b, 5 AS value", key_schema=pair, value_schema='"int"')
    as_one = push_folder(tmp_path / "2", sql="SELECT {'a': 1, 'b': 'x'} AS k, 5 AS v", key_schema=pair, value_schema='"int"', key="k")
    assert by_field.rows == as_one.rows == {"{'a': 1, 'b': 'x'}": 5}
    files = [pushed.built.manifest.files[0] for pushed in (by_field, as_one)]
    assert files[0].min_key == files[1].min_key == key_codec(pair).encode({"a": 1, "b": "x"})
    maps = '{"type": "map", "values": "int"}'
    mapped = push_folder(tmp_path / "3", sql="SELECT MAP {'b': 1, 'a': 2} AS key, 5 AS v", key_schema=maps, value_schema='"int"')
    assert mapped.built.manifest.files[0].min_key == key_codec(maps).encode({"a": 2, "b": 1})


def test_rows_lie_in_the_partition_of_their_key(tmp_path: Path) -> None:
    pushed = push_folder(tmp_path, sql="SELECT i AS key, i * i AS value FROM range(-500, 500) t(i)", value_schema=LONG, partition_count=5)
    assert pushed.rows == {i: i * i for i in range(-500, 500)}
    expected = [partition_of(key_codec(LONG).encode(i), 5) for i in range(-500, 500)]
    assert {file.partition: file.rows for file in pushed.built.manifest.files} == {p: expected.count(p) for p in range(5)}


def test_large_inputs_are_written_by_processes_and_small_ones_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT (i * 7919) % 100003 AS key, i % 7 AS n, 'name ' || i AS name FROM range(40000) t(i)"
    schema = record(("n", "int"), ("name", "string"))
    here = push_folder(tmp_path / "here", sql=sql, value_schema=schema)
    monkeypatch.setattr(snapshot, "ROWS_PER_PROCESS", 100)
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    shared = push_folder(tmp_path / "shared", sql=sql, value_schema=schema)
    children_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s
    alone = push_folder(tmp_path / "alone", sql=sql, value_schema=schema, threads=1)
    assert children_s > 0, "processes of its own have worked"
    assert len(here.rows) == 40000
    assert here.rows == shared.rows == alone.rows
    assert here.built.manifest.files == shared.built.manifest.files == alone.built.manifest.files
    for file in here.built.manifest.files:
        written = {(Path(p.built.ref.uri) / file.name).read_bytes() for p in (here, shared, alone)}
        assert len(written) == 1, "of the same rows the same bytes, whoever writes them"


def test_a_push_without_rows_is_a_version_without_rows(tmp_path: Path) -> None:
    pushed = push_folder(tmp_path, sql="SELECT 1 AS key, 2 AS value WHERE false", value_schema='"int"')
    assert (pushed.rows, pushed.built.manifest.files, pushed.built.manifest.rows) == ({}, (), 0)


def test_a_record_without_fields_and_fields_without_columns(tmp_path: Path) -> None:
    assert push_folder(tmp_path / "1", sql="SELECT 1 AS key", value_schema=record()).rows == {1: {}}
    grown = json.dumps(
        {"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}, {"name": "y", "type": "int", "default": 9}]}
    )  # fmt: skip
    assert push_folder(tmp_path / "2", sql="SELECT 1 AS key, 2 AS x", value_schema=grown).rows == {1: {"x": 2, "y": 9}}
    with pytest.raises(InvalidRequest, match=r"has no column 'y'.*it has 'Y': names must be equal, case included"):
        push_folder(tmp_path / "3", sql="SELECT 1 AS key, 2 AS x, 3 AS Y", value_schema=grown)


def test_rows_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    schema = record(("a", ["null", "int"]), ("b", ["null", "int"]))
    sql = "SELECT * FROM (VALUES (1, NULL, NULL), (2, NULL, 5), (3, 6, NULL), (4, NULL, NULL)) AS t(key, a, b)"
    pushed = push_folder(tmp_path, sql=sql, value_schema=schema)
    assert pushed.rows == {2: {"a": None, "b": 5}, 3: {"a": 6, "b": None}}
    assert (pushed.built.skipped, pushed.built.manifest.rows) == (2, 2)


def test_null_keys_and_null_fields_are_refused_with_file_and_count(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    duckdb.sql("SELECT nullif(i % 10, 3) AS key, nullif(i, 44) AS n, i AS m FROM range(100) t(i)").write_parquet(str(file))
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path, inputs=[file], value_schema=record(("n", ["null", "long"])))
    assert f"column 'key' of {file} is null in 10 rows: every row needs a key" in str(caught.value)
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path, inputs=[file], value_schema=record(("n", "long"), ("m", "long")), key_schema='["null", "long"]', key="key")
    assert f"column 'n' of {file} is null in 1 row: the field 'n' cannot be null" in str(caught.value)


def test_equal_rows_are_dropped_and_different_ones_refused_or_settled(tmp_path: Path) -> None:
    same = push_folder(tmp_path / "1", sql="SELECT i % 50 AS key, i % 50 AS value FROM range(200) t(i)", value_schema=LONG)
    assert (same.rows, same.built.duplicates) == ({i: i for i in range(50)}, 150)
    sql = "SELECT i % 50 AS key, i AS value FROM range(200) t(i)"
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path / "2", sql=sql, value_schema=LONG)
    assert "several rows with different values have the same key: " in str(caught.value)
    assert "and 40 more" in str(caught.value)
    assert len({int(key) for key in caught.value.data["keys"]} & {*range(50)}) == 10
    last = push_folder(tmp_path / "3", sql=sql, value_schema=LONG, allow_duplicates=True)
    assert (last.rows, last.built.duplicates) == ({i: i + 150 for i in range(50)}, 150)


def test_duplicates_far_apart_are_found_between_runs_and_between_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("venice.push.intake.RUN_ROWS_MAX", 1000)
    monkeypatch.setattr(snapshot, "ROWS_PER_PROCESS", 100)
    sql = "SELECT i % 20000 AS key, i AS value FROM range(30000) t(i)"
    last = push_folder(tmp_path / "1", sql=sql, value_schema=LONG, allow_duplicates=True)
    assert last.rows == {i: i + 20000 if i < 10000 else i for i in range(20000)}
    assert last.built.duplicates == 10000
    with pytest.raises(InvalidRequest, match="same key"):
        push_folder(tmp_path / "2", sql=sql, value_schema=LONG)


@pytest.mark.parametrize("rows_per_process", [500_000, 1_000])
def test_conflicts_planted_at_the_very_end_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_process: int) -> None:
    """Each with a row that was read long before, in another run; in partitions that one process writes, and several."""
    monkeypatch.setattr("venice.push.intake.RUN_ROWS_MAX", 10_000)
    monkeypatch.setattr(snapshot, "ROWS_PER_PROCESS", rows_per_process)
    planted = {4: 0, 60_000: 1, 119_999: 2}
    keys = {i * 2654435761 % 1099511627776 for i in planted}
    assert len({partition_of(key_codec(LONG).encode(key), 3) for key in keys}) == 3, "one in each partition"
    rows = "SELECT (i * 2654435761) % 1099511627776 AS key, i AS value FROM range(120000) t(i)"
    ends = " ".join(f"UNION ALL SELECT ({i} * 2654435761) % 1099511627776, -{n} - 1" for i, n in planted.items())
    with pytest.raises(InvalidRequest, match="several rows with different values have the same key") as caught:
        push_folder(tmp_path, sql=f"{rows} {ends}", value_schema=LONG)
    assert {int(key) for key in caught.value.data["keys"]} == keys
    assert caught.value.data["count"] == 3
    assert not (tmp_path / "snapshot" / "manifest.json").exists()


def test_a_value_over_the_limit_is_named_by_its_key(tmp_path: Path) -> None:
    sql = "SELECT i AS key, repeat('x', CASE WHEN i = 41 THEN 2000 ELSE 10 END) AS value FROM range(100) t(i)"
    with pytest.raises(Full, match="the value of key 41 has 2002 bytes, and values of this store may have 2001"):
        push_folder(tmp_path / "1", sql=sql, value_schema='"string"', value_bytes_max=2001)
    assert len(push_folder(tmp_path / "2", sql=sql, value_schema='"string"', value_bytes_max=2002).rows) == 100


def test_a_push_over_its_quota_ends_while_it_reads_or_writes(tmp_path: Path) -> None:
    wide = "SELECT range AS key, repeat(md5(range::VARCHAR), 10) AS value FROM range(50000)"
    with pytest.raises(
        Full, match=r"has reached [\d,]+ bytes of values in the first [\d,]+ rows, and the store's quota is 900,000"
    ) as error:
        push_folder(tmp_path / "a", sql=wide, value_schema=TEXT, quota_bytes=900_000)
    assert error.value.data["size_bytes"] > 900_000
    # Keys and indexes are what is too much here; the values alone are not.
    narrow = "SELECT range AS key, 'x' AS value FROM range(20000)"
    whole = push_folder(tmp_path / "b", sql=narrow, value_schema=TEXT)
    size = whole.built.manifest.bytes
    assert push_folder(tmp_path / "c", sql=narrow, value_schema=TEXT, quota_bytes=size).rows == whole.rows
    with pytest.raises(Full, match=rf"{size:,} bytes in 3 of 3 partitions, and the store's quota is {size - 1:,}"):
        push_folder(tmp_path / "d", sql=narrow, value_schema=TEXT, quota_bytes=size - 1)
    # Rows that will be dropped are not held against a push that may have them.
    again = f"SELECT 1 AS key, value FROM ({wide})"
    assert len(push_folder(tmp_path / "e", sql=again, value_schema=TEXT, allow_duplicates=True, quota_bytes=5_000).rows) == 1


def test_values_larger_than_a_run_and_a_block(tmp_path: Path) -> None:
    sql = "SELECT i AS key, repeat(chr(97 + i::INT), 3_000_000) AS value FROM range(12) t(i)"
    pushed = push_folder(tmp_path, sql=sql, value_schema='"string"', value_bytes_max=4_000_000)
    assert {key: (value[0], len(value)) for key, value in pushed.rows.items()} == {i: (chr(97 + i), 3_000_000) for i in range(12)}


def test_events_tell_phases_in_order_and_end_with_all_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    duckdb.sql("SELECT i AS key, i AS value FROM range(1000) t(i)").write_parquet(str(file))
    pushed = push_folder(tmp_path, inputs=[file], value_schema=LONG)
    ended = [event for event in pushed.events if isinstance(event, PhaseEnded)]
    assert [event.phase for event in ended] == [Phase.READ, Phase.WRITE, Phase.SEAL]
    assert [event.rows for event in ended[:2]] == [1000, 1000]
    first = next(event for event in pushed.events if isinstance(event, Progress))
    assert (first.phase, first.rows_total) == (Phase.READ, 1000)


def test_a_full_disk_is_said_and_nothing_of_the_scratch_stays(tmp_path: Path) -> None:
    """A file size limit stands for the full disk: it cuts writes short in the same way, and needs no privileges."""
    code = (
        "import sys; from pathlib import Path; from push_kit import push_folder; from venice.errors import Full\n"
        "sql = 'SELECT i AS key, i AS value FROM range(300000) t(i)'\n"
        "try: push_folder(Path(sys.argv[1]), sql=sql, value_schema='\"long\"')\n"
        "except Full as error: print('full:', error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.startswith("full: no room left at"), done.stderr
    assert list((tmp_path / "snapshot" / "scratch").iterdir()) == []


def test_rows_lost_between_reading_and_writing_are_found_before_anything_is_sealed() -> None:
    file = PartitionFile(partition=1, name="f.sst", rows=6, size=1, sha256="0" * 64, min_key=b"a", max_key=b"b")
    taken = Taken(rows=12, rows_by_partition={0: 5, 1: 7})
    other = Written(replace(file, partition=0, rows=5), 0)
    snapshot.check_counts(taken, [Written(file, 1), other])
    stranger = Written(replace(file, partition=2), 0)
    for wrong in ([Written(file, 0), other], [Written(file, 2), other], [Written(file, 1)], [Written(file, 1), other, stranger]):
        with pytest.raises(Corrupt, match="rows were read, but"):
            snapshot.check_counts(taken, wrong)
    with pytest.raises(Corrupt, match="13 rows were kept"):
        snapshot.check_counts(Taken(rows=13, rows_by_partition={0: 5, 1: 7}), [Written(file, 1), other])
