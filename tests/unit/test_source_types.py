"""Every Avro type from every source, without a cluster; and what is said of values that are none. The whole way: `test_matrix.py`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from matrix_kit import KINDS, SOURCES, Servers, make_data, servers
from push_kit import push_folder, record

from venice.errors import InvalidRequest


@pytest.fixture(scope="module")
def there(free_port: Callable[..., int]) -> Iterator[Servers]:
    with servers(free_port) as found:
        yield found


@pytest.mark.parametrize("source", SOURCES)
def test_every_type_comes_out_as_it_went_in(tmp_path: Path, there: Servers, source: str) -> None:
    if source == "postgres" and there.postgres is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")  # not every developer has it
    key = "record" if source not in KINDS["record"].not_in else "long"
    data = make_data(source, key, rows=150, seed=5)
    (tmp_path / "source").mkdir()
    given = SOURCES[source](data, tmp_path / "source", there)
    if "inputs" in given:
        given["inputs"] = [given["inputs"]]
    pushed = push_folder(tmp_path, key_schema=data.key_schema, value_schema=data.value_schema, key="key", **given)
    assert {str(key): repr(value) for key, value in pushed.rows.items()} == {str(key): repr(value) for key, value in data.rows}


DEEP = pa.struct([("inner", pa.struct([("n", pa.int64()), ("ok", pa.bool_())]))])
DEEP_AVRO = json.loads(record(("inner", json.loads(record(("n", "long"), ("ok", "boolean"), name="Inner"))), name="Deep"))


@pytest.mark.parametrize("kind", ["table", "batch", "dataset"])
def test_structs_within_structs_of_arrays_that_begin_elsewhere(tmp_path: Path, kind: str) -> None:
    """DuckDB 1.5 takes the values of other rows for them; a dataset hands long row groups out in such slices."""
    rows = [{"inner": {"n": number, "ok": number % 3 == 0}} for number in range(300)]
    table = pa.table({"key": range(300), "deep": pa.array(rows, DEEP)})[70:]
    data = {"table": table, "batch": table.to_batches()[0], "dataset": ds.dataset(table)}[kind]
    pushed = push_folder(tmp_path, value_schema=record(("deep", DEEP_AVRO)), data=data)
    assert pushed.rows == {key: {"deep": rows[key]} for key in range(70, 300)}


@pytest.mark.parametrize(
    ("kind", "cell", "said"),
    [
        ("bytes", '"not base64"', "'not base64' is not bytes in JSON"),
        ("bytes", "12", "column 'x' of"),
        ({"type": "fixed", "name": "F", "size": 3}, '"AAAA"', None),
        ({"type": "fixed", "name": "F", "size": 2}, '"AAAA"', "in row 0"),
        (["null", "long", "string"], "1.5", "1.5 is not"),
        (["int", {"type": "array", "items": "bytes"}], "3000000000", "row of key 1"),
        ({"type": "array", "items": "bytes"}, '["AA==", "!"]', "'!' is not bytes"),
    ],
)
def test_json_that_is_no_value_is_refused_by_its_key(tmp_path: Path, kind: Any, cell: str, said: str | None) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"key": 1, "x": {cell}}}\n')
    if said is None:
        assert push_folder(tmp_path, value_schema=record(("x", kind)), inputs=[tmp_path / "rows.jsonl"]).rows == {1: {"x": bytes(3)}}
        return
    with pytest.raises(InvalidRequest) as caught:
        push_folder(tmp_path, value_schema=record(("x", kind)), inputs=[tmp_path / "rows.jsonl"])
    assert said.replace("in row 0", "row of key 1") in str(caught.value)


def test_values_of_several_types_and_digits_beyond_a_double_in_json(tmp_path: Path) -> None:
    money = {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2}
    schema = record(("x", ["null", "boolean", "long", "double", "string"]), ("raw", ["null", "bytes"]), ("money", money))
    cells: list[Any] = [None, True, 2**60 + 1, 1.5, "5", "NaN?"]
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number, cell in enumerate(cells):
            print(json.dumps({"key": number, "x": cell, "raw": "/w==", "money": "1234567890123456789012345678.25"}), file=file)
    pushed = push_folder(tmp_path, value_schema=schema, inputs=[tmp_path / "rows.jsonl"])
    assert [repr(pushed.rows[number]["x"]) for number in range(len(cells))] == [repr(cell) for cell in cells]
    assert pushed.rows[0]["raw"] == b"\xff"
    assert str(pushed.rows[0]["money"]) == "1234567890123456789012345678.25"


def money(precision: int, scale: int) -> dict[str, Any]:
    return {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}


MONEYS = record(
    ("d", ["null", money(22, 2)]),
    ("l", ["null", {"type": "array", "items": ["null", money(22, 3)]}]),
    ("r", ["null", json.loads(record(("c", money(22, 2)), ("at", {"type": "long", "logicalType": "timestamp-micros"}), name="R"))]),
    ("m", ["null", {"type": "map", "values": money(60, 1)}]),
)
AT = dt.datetime(2020, 1, 1, 10, tzinfo=dt.UTC)
EXACT = {
    1: {"d": "12345678901234567.89", "l": ["12345678901234567.891", None, "1.500"], "r": "12345678901234567.89", "m": {"a": "1.5"}},
    2: {"d": "1000.00", "l": [], "r": None, "m": {"b": "-7.0"}},
    3: {"d": "-0.10", "l": None, "r": "0.25", "m": {}},
}
AS_JSON = """\
{"key": 1, "d": "12345678901234567.89", "l": ["12345678901234567.891", null, 1.5],
 "r": {"c": "12345678901234567.89", "at": "2020-01-01T12:00:00+02"}, "m": {"a": " 1.5"}}
{"key": 2, "d": 1e3, "l": [], "m": {"b": -7}}
{"key": 3, "d": -0.10, "r": {"c": 0.25, "at": "2020-01-01T10:00:00Z"}, "m": {}}
"""
AS_CSV = """\
key,d,l,r,m
1,12345678901234567.89,"[12345678901234567.891, NULL, 1.5]","{'c': 12345678901234567.89, 'at': 2020-01-01 12:00:00+02}",{a=1.5}
2, 1e3 ,[],,{b=-7}
3,-.1,,"{'c': 0.25, 'at': 2020-01-01 10:00:00}",{}
"""


@pytest.mark.parametrize(("name", "text"), [("a.json", AS_JSON), ("a.csv", AS_CSV)])
def test_decimals_as_text_keep_all_their_digits(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    rows = push_folder(tmp_path, value_schema=MONEYS, inputs=[tmp_path / name]).rows
    assert {row["r"]["at"] for row in rows.values() if row["r"]} == {AT}
    found = {key: {**row, "r": row["r"] and row["r"]["c"]} for key, row in rows.items()}
    assert json.loads(json.dumps(found, default=str)) == {str(key): row for key, row in EXACT.items()}


@pytest.mark.parametrize(
    ("name", "cells", "said"),
    [
        ("a.json", '"d": "1.234"', "'d' .* data loss"),
        ("a.json", '"d": 1.234', "'d' .* data loss"),
        ("a.json", '"d": 12345678901234567.89', "'d' .* more than 15 digits has been rounded"),
        ("a.json", '"d": 12345678901234567890123', "'d' .* precision 22"),
        ("a.json", '"d": "much"', "'d' .* not a valid decimal"),
        ("a.json", '"l": [1, 0.30000000000000004]', "'l' .* more than 15 digits has been rounded"),
        ("a.json", '"r": {"c": "0.001", "at": "2020-01-01"}', "'r' .* data loss"),
        ("a.json", '"m": {"a": "1.25"}', "'m' .* data loss"),
        ("a.csv", "1.234,,,", "'d' .* data loss"),
        ("a.csv", '"",,,', "'d' .* Empty string"),
        ("a.csv", ",[1.2345],,", "'l' .* data loss"),
        ("a.csv", ",,\"{'c': 1.234, 'at': 2020-01-01}\",", "'r' .* data loss"),
        ("a.csv", ",,,{a=1.25}", "'m' .* data loss"),
    ],
)
def test_decimals_that_would_be_rounded_are_refused_by_column_and_key(tmp_path: Path, name: str, cells: str, said: str) -> None:
    first, row = ('{"key": 1, "d": 1}', f'{{"key": 9, {cells}}}') if name == "a.json" else ("key,d,l,r,m\n1,1,,,", f"9,{cells}")
    (tmp_path / name).write_text(f"{first}\n{row}\n")
    with pytest.raises(InvalidRequest, match=f"{name}: column {said}") as caught:
        push_folder(tmp_path, value_schema=MONEYS, inputs=[tmp_path / name])
    assert "the row of key 9" in str(caught.value)


LARGE = "12345678901234567.25"


@pytest.mark.parametrize(
    ("cell", "first", "second"),
    [
        (f'"{LARGE}"', (money(22, 2), Decimal(LARGE)), ("string", LARGE)),
        (f'"{LARGE}"', ("string", LARGE), (money(22, 2), Decimal(LARGE))),
        ("1.25", (money(22, 2), Decimal("1.25")), ("double", 1.25)),
        ('"AAAA"', ("bytes", bytes(3)), ("string", "AAAA")),
    ],
)
def test_a_column_of_json_may_feed_fields_of_several_types(tmp_path: Path, cell: str, first: Any, second: Any) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"key": 1, "x": {cell}}}')
    schema, renames = record(("first", first[0]), ("second", second[0])), {"first": "x", "second": "x"}
    found = push_folder(tmp_path, value_schema=schema, inputs=[tmp_path / "a.jsonl"], renames=renames).rows
    assert found == {1: {"first": first[1], "second": second[1]}}


def test_decimals_beside_bytes_in_json_are_exact_too(tmp_path: Path) -> None:
    schema = record(("x", json.loads(record(("raw", "bytes"), ("d", money(22, 2)), name="X"))))
    for cell, said in (('"12345678901234567.89"', ""), ("1.25", ""), ("12345678901234567.89", "not decimal"), ('"1.234"', "data loss")):
        (tmp_path / "a.json").write_text(f'{{"key": 1, "x": {{"raw": "/w==", "d": {cell}}}}}')
        if said:
            with pytest.raises(InvalidRequest, match=said):
                push_folder(tmp_path / "bad", value_schema=schema, inputs=[tmp_path / "a.json"])
        else:
            rows = push_folder(tmp_path / cell[1:4], value_schema=schema, inputs=[tmp_path / "a.json"]).rows
            assert str(rows[1]["x"]["d"]) == cell.strip('"')
