"""Every Avro type from every source, without a cluster; and what is said of values that are none. The whole way: `test_matrix.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from matrix_kit import SOURCES, kinds_of, make_data
from push_kit import push_folder, record

from venice.errors import InvalidRequest


@pytest.mark.parametrize("source", SOURCES)
def test_every_type_comes_out_as_it_went_in(tmp_path: Path, source: str) -> None:
    data = make_data("record", list(kinds_of(source)), rows=150, seed=5)
    given = SOURCES[source](data, tmp_path)
    if "inputs" in given:
        given["inputs"] = [given["inputs"]]
    pushed = push_folder(tmp_path, key_schema=data.key_schema, value_schema=data.value_schema, key="key", **given)
    assert {key: repr(value) for key, value in pushed.rows.items()} == {str(key): repr(value) for key, value in data.rows}


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
