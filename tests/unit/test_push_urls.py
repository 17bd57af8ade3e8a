"""Files in an object store: a real S3 server (moto's), asked through fsspec, and what is said when it refuses."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pytest
import s3fs
from push_kit import push_folder, record
from s3_server import Lake, s3

from venice.errors import InvalidRequest, NotFound, Unavailable
from venice.model import Compression
from venice.push.sources import locate

VALUE = record(("name", "string"), ("n", ["null", "long"]))


def rows(first: int, count: int = 3) -> list[dict[str, Any]]:
    return [{"key": key, "name": f"name {key}", "n": key if key % 2 else None} for key in range(first, first + count)]


def expected(first: int, count: int = 3) -> dict[int, Any]:
    return {row["key"]: {"name": row["name"], "n": row["n"]} for row in rows(first, count)}


def as_parquet(folder: Path, first: int) -> bytes:
    values = f"SELECT i AS key, 'name ' || i AS name, CASE WHEN i % 2 = 1 THEN i END AS n FROM range({first}, {first + 3}) t(i)"
    duckdb.sql(values).write_parquet(str(folder / "made.parquet"))
    return (folder / "made.parquet").read_bytes()


def as_avro(first: int) -> bytes:
    fields = [{"name": "key", "type": "long"}, {"name": "name", "type": "string"}, {"name": "n", "type": ["null", "long"]}]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "Row", "fields": fields}, rows(first), codec="deflate")
    return out.getvalue()


@pytest.fixture
def lake(tmp_path: Path, free_port: Callable[..., int]) -> Iterator[Lake]:
    with s3(free_port) as found:
        found.put(
            {
                "parquet/day=1/part-0.parquet": as_parquet(tmp_path, 0), "parquet/day=2/part-0.parquet": as_parquet(tmp_path, 3),
                "parquet/_SUCCESS": b"", "parquet/_temporary/part-9.parquet": as_parquet(tmp_path, 90),
                "avro/part-0.avro": as_avro(0), "avro/part-1.avro": as_avro(3), "avro/.part-0.avro.crc": b"x",
                "csv/a.csv": b"key,name,n\n0,name 0,\n1,name 1,1\n2,name 2,\n",
                "json/a.jsonl": b'{"key": 0, "name": "name 0"}\n{"key": 1, "name": "name 1", "n": 1}\n{"key": 2, "name": "name 2"}\n',
                "bad/cut.avro": as_avro(0)[:-30], "bad/corrupt.parquet": b"PAR1 not really",
            }
        )  # fmt: skip
        yield found


def test_every_format_by_file_folder_and_glob(tmp_path: Path, lake: Lake) -> None:
    for number, (given, count) in enumerate(
        [
            ("s3://lake/parquet", 6),
            ("s3://lake/parquet/day=1/part-0.parquet", 3),
            ("s3://lake/parquet/day=*/*.parquet", 6),
            ("s3://lake/avro/", 6),
            ("s3://lake/avro/part-[01].avro", 6),
            ("s3://lake/csv/a.csv", 3),
            ("s3://lake/json/*.jsonl", 3),
        ]
    ):
        for compression in (Compression.NONE, Compression.ZSTD_DICT) if number in (0, 3) else (Compression.NONE,):
            folder = tmp_path / f"out-{number}-{compression.value}"
            assert push_folder(folder, inputs=[given], value_schema=VALUE, compression=compression).rows == expected(0, count), given
    assert locate(["s3://lake/avro"]).files == ("s3://lake/avro/part-0.avro", "s3://lake/avro/part-1.avro")
    with pytest.raises(InvalidRequest, match=r"column 'n' of s3://lake/.* is null in 2 rows"):
        push_folder(tmp_path / "null", inputs=["s3://lake/csv/a.csv"], value_schema=record(("name", "string"), ("n", "long")))
    # What cannot be read says which file, and why.
    for given, said in [
        ("s3://lake/bad/cut.avro", r"s3://lake/bad/cut\.avro is cut off"),
        ("s3://lake/bad/corrupt.parquet", r"cannot read s3://lake/bad/corrupt\.parquet"),
        ("s3://lake/nothing/*.csv", r"no file at s3://lake/nothing/\*\.csv"),
        ("s3://lake/csv/gone.csv", r"no file at s3://lake/csv/gone\.csv"),
        ("s3://ocean/a.csv", r"no file at s3://ocean/a\.csv"),
        ("ftps3://lake/a.csv", r"nothing here reads ftps3:// URLs"),
    ]:
        with pytest.raises(Exception, match=said) as caught:
            push_folder(tmp_path / "bad", inputs=[given], value_schema=VALUE)
        assert getattr(caught.value, "hint", ""), given


def test_wrong_credentials_and_a_store_that_is_away(lake: Lake, monkeypatch: pytest.MonkeyPatch, free_port: Callable[..., int]) -> None:
    lake.ask("/moto-api/reset-auth", "0")
    for given in ("s3://lake/csv/a.csv", "s3://lake/csv", "s3://lake/csv/*.csv"):
        with pytest.raises(InvalidRequest, match=r"cannot read s3://lake/csv"):
            locate([given])
    lake.ask("/moto-api/reset-auth", "inf")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Unavailable, match=r"s3://lake/csv/a\.csv"):
        locate(["s3://lake/csv/a.csv"])


def test_a_web_server_that_is_away(free_port: Callable[..., int]) -> None:
    for name in ("a.csv", "folder/*.csv"):
        with pytest.raises(Unavailable, match="does not answer") as caught:
            locate([f"http://127.0.0.1:{free_port()}/{name}"])
        assert "AWS" not in caught.value.hint


def test_a_bucket_that_is_not_there(lake: Lake) -> None:
    with pytest.raises(NotFound, match=r"no file at s3://ocean/"):
        locate(["s3://ocean/*.csv"])
