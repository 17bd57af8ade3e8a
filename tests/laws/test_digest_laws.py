"""The digest of a file is of its pieces in turn, however its bytes come and whoever reads them."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.storage.digest import Digest, digest_of


def expected(data: bytes, piece_bytes: int) -> str:
    """By its definition."""
    if not piece_bytes:
        return sha256(data).hexdigest()
    return sha256(b"".join(sha256(data[at : at + piece_bytes]).digest() for at in range(0, len(data), piece_bytes))).hexdigest()


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_it_is_the_same_however_the_bytes_come(parts: list[bytes], piece_bytes: int) -> None:
    digest, whole = Digest(piece_bytes), b""
    for part in parts:
        digest.update(memoryview(part))
        whole += part
        assert digest.digest().hex() == expected(whole, piece_bytes)


@pytest.mark.parametrize("cores", [1, 4])
@given(size=st.integers(0, 300), piece_bytes=st.sampled_from([0, 1, 7, 64, 100, 299, 300, 301]), missing=st.integers(0, 3))
def test_it_is_the_same_by_one_core_and_by_several(
    cores: int, tmp_path_factory: pytest.TempPathFactory, size: int, piece_bytes: int, missing: int
) -> None:
    data = bytes(number * number % 251 for number in range(size))
    path = tmp_path_factory.getbasetemp() / f"digest-{cores}"
    path.write_bytes(data)
    told: list[tuple[int, bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: cores)
        found = digest_of(path, size, piece_bytes, lambda part, offset: told.append((offset, bytes(part))))
        assert found == expected(data, piece_bytes)
        assert b"".join(part for _, part in sorted(told)) == data
        assert digest_of(path, size + missing, 0) == expected(data, 0), "it ends where the file ends"


def test_what_goes_wrong_in_one_piece_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(1000))

    def full(_: memoryview, offset: int) -> None:
        if offset == 500:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        digest_of(path, 1000, 100, full)
