"""Compression of values, one by one: what comes back, what is refused, what a push makes of it."""

from __future__ import annotations

import threading
import zlib
from contextlib import suppress
from hashlib import md5
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from push_kit import push_folder, record

from venice.compression import VALUE_BYTES_MAX, Packing, named, packing, train
from venice.errors import Corrupt, Full, InvalidRequest
from venice.model import Compression
from venice.push.stored import StoredValues
from venice.storage.format import decode_value, encode_value

PACKED = [one for one in Compression if one is not Compression.NONE]
DICTIONARY = train([b'{"name": "row %d", "city": "Paris"}' % number for number in range(1000)])
VALUE_SCHEMA = record(("n", "long"), ("name", "string"))
ROWS = "SELECT i AS key, i AS n, 'of a name of some length the first part, which is in all rows: ' || i AS name FROM range(5000) t(i)"


def ready(compression: Compression) -> Packing:
    found = packing(compression, DICTIONARY if compression is Compression.ZSTD_DICT else b"")
    assert found is not None
    return found


def test_a_dictionary_is_learned_and_of_nothing_there_is_none() -> None:
    assert len(DICTIONARY) > 100
    assert train([]) == b""
    one = train([b"%d value" % number for number in range(1000)])
    assert one == train([b"%d value" % number for number in range(1000)]), "the same sample gives the same dictionary"


def test_names() -> None:
    assert [named(one.value) for one in Compression] == list(Compression)
    with pytest.raises(InvalidRequest, match="lz9") as caught:
        named("lz9")
    assert "zstd-dict" in caught.value.hint
    assert packing(Compression.NONE) is None


@pytest.mark.parametrize("compression", PACKED)
@given(value=st.binary(max_size=300))
def test_values_come_back(compression: Compression, value: bytes) -> None:
    found = ready(compression)
    assert found.decompress(found.compress(value)) == value


@pytest.mark.parametrize("compression", PACKED)
@given(data=st.binary(max_size=60))
def test_garbage_is_corrupt_and_nothing_else(compression: Compression, data: bytes) -> None:
    found = ready(compression)
    with suppress(Corrupt):
        found.decompress(data)


@pytest.mark.parametrize("compression", PACKED)
def test_what_was_cut_or_continued_is_corrupt(compression: Compression) -> None:
    found = ready(compression)
    data = found.compress(b"some value, some value, some value")
    for damaged in (b"", data[:-1], data[1:], data + b"x", data + data):
        with pytest.raises(Corrupt):
            found.decompress(damaged)


def test_a_small_value_cannot_claim_to_be_huge() -> None:
    frame = zstandard.ZstdCompressor().compress(b"x" * 1000)
    size = zstandard.frame_content_size(frame)
    huge = b"\x28\xb5\x2f\xfd\xe0" + (VALUE_BYTES_MAX + 1).to_bytes(8, "little") + frame[7:]
    assert (size, zstandard.frame_content_size(huge)) == (1000, VALUE_BYTES_MAX + 1)
    with pytest.raises(Corrupt, match="how large"):
        ready(Compression.ZSTD).decompress(huge)


def test_a_value_of_another_dictionary_is_corrupt() -> None:
    value = b'{"name": "row 5", "city": "Paris"}'
    data = ready(Compression.ZSTD_DICT).compress(value)
    with pytest.raises(Corrupt):
        ready(Compression.ZSTD).decompress(data)
    with pytest.raises(Corrupt, match="dictionary"):
        packing(Compression.ZSTD_DICT, b"no dictionary")


@pytest.mark.parametrize("compression", PACKED)
def test_threads_share_one(compression: Compression) -> None:
    found = ready(compression)
    values = [b"value %d " % number * (number % 50) for number in range(2000)]
    failed: list[bytes] = []

    def work() -> None:
        failed.extend(value for value in values if found.decompress(found.compress(value)) != value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


COLUMNS = [
    pa.array([b"abc" * 20, b"", b"x"]),
    pa.array([b"a", b"abc" * 20, b"", b"x"], pa.large_binary()).slice(1),
    pa.array([b"", b""]),
    pa.array([], pa.binary()),
]


@pytest.mark.parametrize("compression", Compression)
@pytest.mark.parametrize("values", COLUMNS)
@pytest.mark.parametrize("stamped", [False, True])
def test_a_column_is_stored_as_its_values_one_by_one(compression: Compression, values: pa.Array, stamped: bool) -> None:
    dictionary = DICTIONARY if compression is Compression.ZSTD_DICT else b""
    stored = StoredValues(258, compression, dictionary, stamped=stamped)
    times: list[Any] = [5, None, -7][: len(values)]
    ready_made = pa.array([stored.ready_prefix + value for value in values.to_pylist()], values.type)
    found = stored.finish(ready_made, pa.array(times, pa.int64()) if stamped else None)
    compress = (packing(compression, dictionary) or Packing(bytes, bytes)).compress
    packed = [compress(value) for value in values.to_pylist()]
    assert found.values.to_pylist() == [
        encode_value(258, payload, time if stamped else None) for payload, time in zip(packed, times, strict=True)
    ]
    if compression is not Compression.NONE:
        assert (found.value_bytes, found.compressed_bytes) == (sum(map(len, values.to_pylist())), sum(map(len, packed)))


@pytest.mark.parametrize("compression", PACKED)
def test_a_push_compresses(tmp_path: Path, compression: Compression) -> None:
    plain = push_folder(tmp_path / "plain", value_schema=VALUE_SCHEMA, sql=ROWS)
    found = push_folder(tmp_path / "packed", value_schema=VALUE_SCHEMA, sql=ROWS, compression=compression)
    assert found.rows == plain.rows
    manifest = found.built.manifest
    assert manifest.compression is compression
    assert bool(manifest.dictionary) is (compression is Compression.ZSTD_DICT)
    assert manifest.value_bytes > 0
    assert manifest.compressed_bytes > 0
    if compression is Compression.ZSTD_DICT:
        assert manifest.compressed_bytes < manifest.value_bytes / 2, "what values share is in the dictionary"


def test_the_dictionary_is_made_of_rows_of_many_files(tmp_path: Path) -> None:
    for number in range(40):
        shared = md5(b"%d" % number).hexdigest() * 8
        lines = [f"{number * 100 + row},{row},{shared}" for row in range(100)]
        (tmp_path / f"{number:02}.csv").write_text("key,n,name\n" + "\n".join(lines) + "\n")
    found = push_folder(tmp_path, value_schema=VALUE_SCHEMA, inputs=[tmp_path / "*.csv"], compression=Compression.ZSTD_DICT)
    assert len(found.rows) == 4000
    learned = [number for number in range(40) if md5(b"%d" % number).hexdigest().encode() in found.built.manifest.dictionary]
    assert len(learned) > 8
    assert max(learned) > 20


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_of_few_rows_there_is_no_dictionary(tmp_path: Path, rows: int) -> None:
    sql = f"SELECT i AS key, i AS n, 'x' AS name FROM range({rows}) t(i)"
    found = push_folder(tmp_path, value_schema=VALUE_SCHEMA, sql=sql, compression=Compression.ZSTD_DICT)
    assert found.built.manifest.dictionary == b""
    assert len(found.rows) == rows


def test_conflicts_and_duplicates_are_found_among_compressed_values(tmp_path: Path) -> None:
    same = "SELECT 1 AS key, 1 AS n, 'x' AS name UNION ALL SELECT 1, 1, 'x'"
    found = push_folder(tmp_path / "same", value_schema=VALUE_SCHEMA, sql=same, compression=Compression.GZIP)
    assert (len(found.rows), found.built.duplicates) == (1, 1)
    other = "SELECT 1 AS key, 1 AS n, 'x' AS name UNION ALL SELECT 1, 2, 'x'"
    with pytest.raises(InvalidRequest, match="same key"):
        push_folder(tmp_path / "other", value_schema=VALUE_SCHEMA, sql=other, compression=Compression.ZSTD)


def test_values_are_refused_by_what_they_are_before_compression(tmp_path: Path) -> None:
    sql = "SELECT 1 AS key, 1 AS n, repeat('x', 5000) AS name"
    with pytest.raises(Full, match="5003 bytes"):
        push_folder(tmp_path, value_schema=VALUE_SCHEMA, sql=sql, compression=Compression.ZSTD, value_bytes_max=1000)


def test_gzip_is_what_other_programs_read() -> None:
    stored = StoredValues(1, Compression.GZIP, b"", stamped=False).finish(pa.array([b"value"]), None).values[0].as_py()
    assert zlib.decompress(stored[decode_value(stored).offset :], 31) == b"value"
