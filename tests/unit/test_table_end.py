"""The end of a sorted file as it is sealed: what RocksDB makes of it, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from venice.errors import Corrupt
from venice.storage import table_end, tuning
from venice.storage.sealed import PartitionWriter
from venice.storage.table_end import END_BYTES_MAX, TableEnd, block_checksum, session_id
from venice.storage.tuning import sorted_file_writer

ROWS = [(b"%06d" % number, b"value %d" % (number * number)) for number in range(5000)]
SESSION = b"rocksdb.creating.session.identity"
HOST = b"rocksdb.creating.host.identity"


def by_rocksdb(path: Path, rows: list[tuple[bytes, bytes]] = ROWS) -> bytes:
    """What RocksDB writes by itself."""
    writer = sorted_file_writer()
    writer.open(str(path))
    for key, value in rows:
        writer[key] = value
    writer.finish()
    return path.read_bytes()


def by_us(path: Path, rows: list[tuple[bytes, bytes]] = ROWS) -> bytes:
    writer = PartitionWriter(path)
    writer.put_all([key for key, _ in rows], [value for _, value in rows])
    writer.finish(0)
    return path.read_bytes()


def ingested(folder: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """The rows that RocksDB finds in a file, all of whose blocks it checks."""
    folder.mkdir()
    (folder / "a.sst").write_bytes(data)
    rocks = tuning.open_rocks(folder / "rocks", create=True)
    try:
        rocks.ingest_external_file([str(folder / "a.sst")])
        return [*rocks.items()]
    finally:
        rocks.close()


def test_a_block_is_written_as_rocksdb_writes_it(tmp_path: Path) -> None:
    data = by_rocksdb(tmp_path / "a.sst")
    end = TableEnd.read(data, len(data))
    assert TableEnd.read(data[end.offset :], len(data)) == end, "no more is needed of it"
    assert {SESSION, HOST} <= dict(end.properties).keys()
    assert data[end.offset :].startswith(table_end._block(end.properties, restarts=False) + table_end._block(end.metaindex, restarts=True))


def test_all_but_host_and_session_is_what_rocksdb_wrote(tmp_path: Path) -> None:
    first, second, ours = by_rocksdb(tmp_path / "a.sst"), by_rocksdb(tmp_path / "b.sst"), by_us(tmp_path / "c.sst")
    ends = [TableEnd.read(data, len(data)) for data in (first, second, ours)]
    assert len({end.offset for end in ends}) == len({data[: ends[0].offset] for data in (first, second, ours)}) == 1
    sessions = [dict(end.properties)[SESSION] for end in ends]
    assert len(set(sessions)) == 3
    kept = [[one for one in end.properties if one[0] not in (SESSION, HOST)] for end in ends]
    assert kept[0] == kept[1] == kept[2]
    content = sha256(sha256(ours[: ends[2].offset]).digest()).digest()
    assert (sessions[2], HOST in dict(ends[2].properties)) == (session_id(content), False)
    assert ours == ours[: ends[2].offset] + ends[0].settled(content)


@pytest.mark.parametrize("rows", [1, 2, 100, 5000])
def test_equal_rows_give_equal_files_here_and_elsewhere(tmp_path: Path, rows: int) -> None:
    here = by_us(tmp_path / "a.sst", ROWS[:rows])
    child = "import sys, pathlib; from test_table_end import *; by_us(pathlib.Path(sys.argv[1]), ROWS[:int(sys.argv[2])])"
    command = [sys.executable, "-c", child, str(tmp_path / "b.sst"), str(rows)]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=60)
    assert (tmp_path / "b.sst").read_bytes() == here
    other = by_us(tmp_path / "c.sst", [*ROWS[: rows - 1], (ROWS[rows - 1][0], b"another")])
    found = {dict(TableEnd.read(data, len(data)).properties)[SESSION] for data in (here, other)}
    assert len(found) == 2, "files that differ have other ids"
    assert ingested(tmp_path / "replica", here) == ROWS[:rows]


def test_rocksdb_checks_what_was_written_anew(tmp_path: Path) -> None:
    """Each bit of both blocks and of their trailers is under a checksum that RocksDB computes for itself."""
    good = by_us(tmp_path / "a.sst", ROWS[:50])
    start, footer = TableEnd.read(good, len(good)).offset, len(good) - 53
    for number, at in enumerate((*range(start, start + 40), *range(start + 400, footer, 29), *range(footer - 50, footer))):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises(Exception, match=r"Corruption|Not implemented"):  # rocksdict has no class for them
            ingested(tmp_path / f"{number}", bytes(bad))
        with pytest.raises(Corrupt, match="ends otherwise"):
            TableEnd.read(bytes(bad), len(bad))


@pytest.mark.parametrize("cut", [0, 1, 52, 53, 54, 100, 800])
def test_what_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    data = by_rocksdb(tmp_path / "a.sst")
    assert len(data) - TableEnd.read(data, len(data)).offset > 800
    for part in (data[:cut], data[: -cut or None] + b"\x00", data[len(data) - cut :]):
        with pytest.raises(Corrupt, match="ends otherwise"):
            TableEnd.read(part, len(data))


def test_other_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "TABLE_FORMAT", 6)
    data = by_rocksdb(tmp_path / "a.sst")
    with pytest.raises(Corrupt, match="checksum type 4 and version 6"):
        TableEnd.read(data[-END_BYTES_MAX:], len(data))


def test_ids_are_those_of_rocksdb() -> None:
    """20 digits: 41 bits in the first eight, 62 in the others; the lower 64 bits of both are never 0."""
    for content in (bytes(32), b"\xff" * 32, bytes(range(32)), bytes(range(32, 64))):
        found = session_id(content)
        first, second = int(found[:8], 36), int(found[8:], 36)
        assert (len(found), found) == (20, found.upper())
        assert first < 1 << 41
        assert 0 <= second < 1 << 62
        assert ((first & 3) << 62 | second) == (int.from_bytes(content[8:16], "little") or 1)
        assert first >> 2 == int.from_bytes(content[:8], "little") >> 25


def test_checksums_are_those_of_rocksdb(tmp_path: Path) -> None:
    """Of blocks of all sizes: of a file's only data block, at its beginning, and its trailer."""
    for size in (0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 900, 5000):
        data = by_rocksdb(tmp_path / f"{size}.sst", [(b"k", b"v" * size)])
        dataset = dict(TableEnd.read(data, len(data)).properties)
        length, _ = table_end._number(dataset[b"rocksdb.data.size"], 0)
        assert data[length - 5 : length] == b"\x00" + block_checksum(data[: length - 5], 0).to_bytes(4, "little")
