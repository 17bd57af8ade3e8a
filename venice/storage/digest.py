"""The digest by which a manifest names a file.

A file is hashed in pieces of a fixed size, and its digest is the SHA-256 of their SHA-256s in turn: so all cores of a machine
can take it. SHA-256 has one core do a gigabyte in nearly a second, three times as long as copying it takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 16 * 1024 * 1024
"""What files are written with. A file's manifest says its own."""
_READ_BYTES: Final = 1024 * 1024
"""Read and hashed at a time: long enough for other threads to get the interpreter meanwhile, and still in the cache to be hashed."""
_LANES_MAX: Final = 4
"""Cores for one file, of those there are: others are busy meanwhile, with other files or with serving."""


class Digest:
    """Of a file whose bytes come one after the other."""

    def __init__(self, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = self._room = piece_bytes
        self._done: list[bytes] = []
        self._piece = sha256()

    def update(self, data: memoryview) -> None:
        while data:
            part = data[: self._room]
            self._piece.update(part)
            self._room -= len(part)
            data = data[len(part) :]
            if not self._room:
                self._done.append(self._piece.digest())
                self._piece = sha256()
                self._room = self._piece_bytes

    def digest(self) -> bytes:
        """Of all bytes so far."""
        last = [self._piece.digest()] if self._room < self._piece_bytes else []
        return sha256(b"".join(self._done + last)).digest()


def digest_of(path: Path, size: int, piece_bytes: int, also: Callable[[memoryview, int], object] | None = None) -> str:
    """The digest of the first `size` bytes of a file; of all it has, if it has fewer.

    Args:
        piece_bytes: Size of its pieces; 0: the SHA-256 of the whole.
        also: Called with each stretch of bytes and its offset, in any order, by several threads.
    """
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        if not piece_bytes:
            return _sha256(descriptor, 0, size, also).hex()

        def piece(start: int) -> bytes:
            return _sha256(descriptor, start, min(start + piece_bytes, size), also)

        starts = range(0, size, piece_bytes)
        lanes = min(len(starts), os.cpu_count() or 1, _LANES_MAX)
        if lanes < 2:
            return sha256(b"".join(map(piece, starts))).hexdigest()
        with ThreadPoolExecutor(lanes, thread_name_prefix="digest") as pool:
            return sha256(b"".join(pool.map(piece, starts))).hexdigest()


def _sha256(descriptor: int, start: int, end: int, also: Callable[[memoryview, int], object] | None) -> bytes:
    found = sha256()
    buffer = memoryview(bytearray(min(_READ_BYTES, end - start)))
    while start < end and (count := os.preadv(descriptor, [buffer[: end - start]], start)):
        found.update(buffer[:count])
        if also is not None:
            also(buffer[:count], start)
        start += count
    return found.digest()
