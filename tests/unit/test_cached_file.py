"""The file between RocksDB and the disk: the same bytes by way of memory or not, and their hash."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from venice.storage.cached_file import CachedFile
from venice.storage.digest import PIECE_BYTES
from venice.storage.sealed import PartitionWriter

PIECES = [b"", b"a" * 10, bytes(range(256)) * 80_000, b"the end"]


def digest_of_parts(whole: bytes) -> str:
    return sha256(b"".join(sha256(whole[at : at + PIECE_BYTES]).digest() for at in range(0, len(whole), PIECE_BYTES))).hexdigest()


@pytest.mark.parametrize("end", [b"", b"x", b"longer than before"])
@pytest.mark.parametrize("memory", [True, False])
def test_what_is_written_is_the_file_and_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool, end: bytes) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create")
    file = CachedFile(tmp_path / "a")
    assert (file.written_path != str(tmp_path / "a")) is memory
    with open(file.written_path, "wb", buffering=0) as writer:
        for piece in PIECES:
            writer.write(piece)
            file.move()
        assert 0 <= sum(map(len, PIECES)) - file.size < 1 << 20, "no more than a piece lags behind"
        writer.write(b", at last")
    written = b"".join(PIECES) + b", at last"
    assert file.end(10) == (written[-10:], len(written))
    assert file.end(1 << 30) == (written[file.size :], len(written))

    def rest(digest: bytes) -> bytes:
        assert digest.hex() == digest_of_parts(written[:-3])
        return end

    assert file.finish(len(written) - 3, rest) == digest_of_parts(whole := written[:-3] + end)
    assert (tmp_path / "a").read_bytes() == whole
    assert file.size == len(whole)
    file.close()


def test_memory_is_freed_as_it_is_moved(tmp_path: Path) -> None:
    file = CachedFile(tmp_path / "a")
    with open(file.written_path, "wb", buffering=0) as writer:
        for _ in range(8):
            writer.write(bytes(1 << 20))
            file.move()
        assert os.fstat(writer.fileno()).st_blocks * 512 < 1 << 20
    file.close()


def test_sorted_files_are_the_same_without_files_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name in ("by-memory.sst", "direct.sst"):
        writer = PartitionWriter(tmp_path / name)
        writer.put_all([b"%06d" % i for i in range(20_000)], [b"value %d" % i for i in range(20_000)])
        files.append(writer.finish(0))
        monkeypatch.delattr(os, "memfd_create", raising=False)
    assert [(file.rows, file.min_key, file.max_key) for file in files] == [(20_000, b"000000", b"019999")] * 2
    assert (tmp_path / "direct.sst").read_bytes() == (tmp_path / "by-memory.sst").read_bytes()
    for file in files:
        data = (tmp_path / file.name).read_bytes()
        assert (len(data), sha256(sha256(data).digest()).hexdigest()) == (file.size, file.sha256)


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        CachedFile(tmp_path / "missing" / "a")
