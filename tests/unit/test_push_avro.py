"""Avro container files as Hadoop and Spark leave them: codecs, schemas that differ from part to part, and damaged files."""

from __future__ import annotations

import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest
import zstandard
from push_kit import push_folder, record

from venice.errors import Corrupt, Incompatible, InvalidRequest
from venice.model import Compression
from venice.push.avro_files import read_headers
from venice.push.sources import Format, locate

ROW = record(("name", "string"), ("n", ["null", "long"]))
WRITTEN = {
    "type": "record",
    "name": "topLevelRecord",
    "fields": [{"name": "key", "type": "long"}, {"name": "name", "type": "string"}, {"name": "n", "type": ["null", "long"]}],
}
NEWER = {**WRITTEN, "fields": [*WRITTEN["fields"], {"name": "place", "type": "string", "default": "nowhere"}]}


def rows(first: int, count: int = 3) -> list[dict[str, Any]]:
    return [{"key": key, "name": f"name {key}", "n": key if key % 2 else None} for key in range(first, first + count)]


def expected(first: int, count: int = 3) -> dict[int, Any]:
    return {row["key"]: {"name": row["name"], "n": row["n"]} for row in rows(first, count)}


def write(path: Path, records: list[dict[str, Any]], schema: Any = None, codec: str = "null") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fastavro.writer(file, schema or WRITTEN, records, codec=codec, sync_interval=1_000)
    return path


def recompress(path: Path, codec: str) -> None:
    """Write a file of the null codec again in a codec that fastavro needs another package for."""
    source = fastavro.block_reader(io.BytesIO(path.read_bytes()))
    text = json.dumps(source.writer_schema)
    sync, out = b"0123456789abcdef", io.BytesIO()
    out.write(b"Obj\x01")
    out.write(long(2) + blob(b"avro.schema") + blob(text.encode()) + blob(b"avro.codec") + blob(codec.encode()) + long(0) + sync)
    for block in source:
        rows_of_block = io.BytesIO()
        for row in block:
            fastavro.schemaless_writer(rows_of_block, source.writer_schema, row)
        data = rows_of_block.getvalue()
        if codec == "snappy":
            packed = pa.compress(data, codec="snappy", asbytes=True) + zlib.crc32(data).to_bytes(4, "big")
        else:
            packed = zstandard.ZstdCompressor(write_content_size=False).compress(data)
        out.write(long(block.num_records) + blob(packed) + sync)
    path.write_bytes(out.getvalue())


def long(number: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    return out.getvalue()


def blob(data: bytes) -> bytes:
    return long(len(data)) + data


def test_a_folder_as_a_job_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write(folder / "part-00000.avro", rows(0), codec="deflate")
    write(folder / "part-00001.avro", [])
    write(folder / "part-00002.avro", rows(3))
    write(folder / "part-m-00003", rows(6))
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.avro.crc").write_bytes(b"crc")
    write(folder / "_temporary" / "0" / "part-00009.avro", rows(90))
    givens: list[str | Path] = [folder, f"file://{folder}", f"{folder}/part-*"]
    for number, given in enumerate(givens):
        assert push_folder(tmp_path / str(number), inputs=[given], value_schema=ROW).rows == expected(0, 9)
    found = locate([folder])
    assert (found.format, len(found.files)) == (Format.AVRO, 4)
    assert read_headers([str(folder / "part-00001.avro")]).count() == 0
    assert push_folder(tmp_path / "none", inputs=[folder / "part-00001.avro"], value_schema=ROW).rows == {}


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    file = write(tmp_path / "a.avro", rows(0, 500), codec=codec if codec not in ("snappy", "zstandard") else "null")
    if codec in ("snappy", "zstandard"):
        recompress(file, codec)
    assert push_folder(tmp_path, inputs=[file], value_schema=ROW).rows == expected(0, 500)
    damaged = bytearray(file.read_bytes())
    damaged[-40] ^= 1  # within the last block
    file.write_bytes(damaged)
    if codec not in ("null", "deflate"):  # which have no checksum of their own
        with pytest.raises(Corrupt, match=r"a\.avro.*a block cannot be decompressed"):
            push_folder(tmp_path / "damaged", inputs=[file], value_schema=ROW)


def test_parts_with_other_schemas_are_resolved_to_one(tmp_path: Path) -> None:
    narrow = {**WRITTEN, "fields": [{"name": "key", "type": "int"}, {"name": "name", "type": "string"}, {"name": "n", "type": "null"}]}
    write(tmp_path / "in" / "1.avro", [{**row, "n": None} for row in rows(0)], narrow)
    write(tmp_path / "in" / "2.avro", [{**row, "place": "here"} for row in rows(3)], NEWER)
    write(tmp_path / "in" / "3.avro", rows(6))
    schema = record(("name", "string"), ("n", ["null", "long"]), ("place", "string"))
    for compression in (Compression.NONE, Compression.ZSTD_DICT):
        pushed = push_folder(tmp_path / compression.value, inputs=[tmp_path / "in"], value_schema=schema, compression=compression).rows
        assert {key: row["place"] for key, row in pushed.items()} == {0: "nowhere", 1: "nowhere", 2: "nowhere", 3: "here", 4: "here",
                                                                      5: "here", 6: "nowhere", 7: "nowhere", 8: "nowhere"}  # fmt: skip
        assert [pushed[key]["n"] for key in (1, 3, 7)] == [None, 3, 7]


def test_parts_that_do_not_fit_each_other_are_both_named(tmp_path: Path) -> None:
    other = {**WRITTEN, "fields": [{"name": "key", "type": "long"}, {"name": "name", "type": "double"}]}
    write(tmp_path / "1.avro", rows(0))
    write(tmp_path / "2.avro", [{"key": 1, "name": 1.0}], other)
    with pytest.raises(Incompatible, match=r"1\.avro.*2\.avro|2\.avro.*1\.avro"):
        locate([tmp_path])


def one_field(kind: Any, *more: Any) -> dict[str, Any]:
    return {"type": "record", "name": "Row", "fields": [{"name": "key", "type": "long"}, {"name": "value", "type": kind}, *more]}


def color(*symbols: str) -> dict[str, Any]:
    return {"type": "enum", "name": "Color", "symbols": list(symbols), "default": symbols[0]}


MILLIS, MICROS = ({"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros"))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (one_field("long", {"name": "a", "type": "long"}), one_field("long", {"name": "b", "type": "long"}), "field|one only"),
        (one_field("long"), one_field("float"), "value"),
        (one_field({"type": "array", "items": "long"}), one_field({"type": "array", "items": "double"}), r"value\[\]"),
        (one_field(MILLIS), one_field(MICROS), "value is"),
    ],
)
def test_parts_of_which_something_would_be_lost_are_refused(tmp_path: Path, first: Any, second: Any, said: str) -> None:
    values: dict[str, Any] = {"key": 1, "value": [] if "array" in json.dumps(first) else 1, "a": 1, "b": 1}
    for name, schema in (("1", first), ("2", second)):
        write(tmp_path / name / "x.avro", [values], schema)
    for order in (("1", "2"), ("2", "1")):
        with pytest.raises(Incompatible, match=r"1/x\.avro.*2/x\.avro|2/x\.avro.*1/x\.avro") as refused:
            locate([tmp_path / part for part in order])
        assert re.search(said, refused.value.message), refused.value.message


def test_fields_and_symbols_of_any_part_are_kept(tmp_path: Path) -> None:
    a, b = ({"name": name, "type": "long", "default": 0} for name in "ab")
    write(
        tmp_path / "1.avro", [{"key": 1, "value": "red", "a": 5}, {"key": 2, "value": "blue", "a": 6}], one_field(color("red", "blue"), a)
    )
    write(
        tmp_path / "2.avro", [{"key": 3, "value": "red", "b": 7}, {"key": 4, "value": "green", "b": 8}], one_field(color("red", "green"), b)
    )
    schema = record(("value", color("red", "green", "blue")), ("a", "long"), ("b", "long"))
    assert push_folder(tmp_path / "out", inputs=[tmp_path / "1.avro", tmp_path / "2.avro"], value_schema=schema).rows == {
        1: {"value": "red", "a": 5, "b": 0},
        2: {"value": "blue", "a": 6, "b": 0},
        3: {"value": "red", "a": 0, "b": 7},
        4: {"value": "green", "a": 0, "b": 8},
    }


def test_a_truncated_part_is_named_wherever_it_ends(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.avro", rows(0, 300))
    file = write(tmp_path / "in" / "2.avro", rows(300, 300))
    whole = file.read_bytes()
    begin = whole.index(b"\x00", whole.index(b"avro.codec")) + 17
    for end in [*range(0, begin, 37), *range(begin + 1, len(whole), 211), len(whole) - 1]:
        file.write_bytes(whole[:end])
        if end >= begin and whole[end - 16 : end] == whole[begin - 16 : begin]:
            continue  # Where a block ends: such a file is a whole one with fewer rows.
        with pytest.raises((Corrupt, InvalidRequest), match=r"2\.avro") as caught:
            push_folder(tmp_path / f"out-{end}", inputs=[tmp_path / "in"], value_schema=ROW)
        assert caught.value.hint


def test_damage_that_only_reading_finds_keeps_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.avro", rows(0, 300), codec="deflate")
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    file.write_bytes(data)
    with pytest.raises(Corrupt, match=r"a\.avro"):
        push_folder(tmp_path, inputs=[file], value_schema=ROW)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "is empty"), (b"not Avro at all", "is no Avro file"), (b"Obj\x01", "is cut off"), (b"Obj\x01" + b"\xff" * 40, "damaged")],
)
def test_what_is_no_avro(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.avro").write_bytes(data)
    with pytest.raises((Corrupt, InvalidRequest), match=rf"a\.avro.*{said}"):
        locate([tmp_path / "a.avro"])


def test_a_wrong_column_and_a_null_are_named_with_the_file(tmp_path: Path) -> None:
    write(tmp_path / "1.avro", rows(0))
    write(tmp_path / "2.avro", rows(3))
    with pytest.raises(InvalidRequest, match=r"1\.avro and 1 more files has no column 'more' for the value"):
        push_folder(tmp_path, inputs=[tmp_path / "*.avro"], value_schema=record(("name", "string"), ("more", "long")))
    with pytest.raises(InvalidRequest, match=r"column 'n' of .*[12]\.avro is null in 2 rows \(and in 1 rows of 1 other files\)"):
        push_folder(tmp_path / "b", inputs=[tmp_path / "*.avro"], value_schema=record(("name", "string"), ("n", "long")))
