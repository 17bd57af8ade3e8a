"""A file that RocksDB writes and that nevertheless stays in the page cache.

RocksDB has the kernel drop what it writes of a sorted file, and there is no option against it. But a pushed file is read
in the next moment by the workers of the same machine, which check its hash: they would wait for the disk. So RocksDB is
given a file in memory; what it has written there is hashed, moved on to the real file and freed, a few megabytes behind
the writer. Where the system has no files in memory, RocksDB writes the real file and only the hashing is left.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from venice.storage.digest import Digest

_PIECE_BYTES: Final = 1024 * 1024
"""Moved at a time: long enough for other threads to get the interpreter meanwhile, and still in the cache to be written."""
_FREE: Final = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE."""
_START_WRITING: Final = 0x02
"""SYNC_FILE_RANGE_WRITE."""


class CachedFile:
    """One file, written by someone who opens `written_path` and only appends. One thread at a time.

    Args:
        path: The file; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = Digest()
        self._piece = memoryview(bytearray(_PIECE_BYTES))
        self.size = 0
        """Bytes that were moved."""
        memory = _memory_file()
        self._target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o644)
        self._source = self._target if memory is None else memory

    @property
    def written_path(self) -> str:
        """What the writer opens."""
        return str(self._path) if self._source == self._target else f"/proc/self/fd/{self._source}"

    def move(self) -> None:
        """Hash what was written since the last time, and move it to the file, if it is worth a call."""
        if (size := os.fstat(self._source).st_size) - self.size >= _PIECE_BYTES:
            self._move(size)

    def _move(self, end: int) -> None:
        began = self.size
        while count := os.preadv(self._source, [self._piece[: end - self.size]], self.size):
            piece = self._piece[:count]
            self._digest.update(piece)
            if self._source != self._target:
                write_all(self._target, piece, self.size)
            self.size += count
        if self.size > began and self._source != self._target:
            # Without these the file would lie in memory twice, and wait for the end to go to disk.
            _call(_FALLOCATE, self._source, _FREE, began, self.size - began)
            _call(_SYNC_FILE_RANGE, self._target, began, self.size - began, _START_WRITING)

    def end(self, count: int) -> tuple[bytes, int]:
        """The last bytes that were written and not moved, `count` at most, and how many were written in all."""
        size = os.fstat(self._source).st_size
        return os.pread(self._source, count, max(self.size, size - count)), size

    def finish(self, keep: int, rest: Callable[[bytes], bytes]) -> str:
        """The digest of the complete file, after its writer has closed it.

        Args:
            keep: How many of the bytes that were written are the file's; at least those that were moved.
            rest: Makes what comes after them, of their digest.
        """
        assert keep >= self.size, "what was moved stays"
        self._move(keep)
        last = rest(self._digest.digest())
        write_all(self._target, memoryview(last), keep)
        self.size += len(last)
        os.ftruncate(self._target, self.size)
        self._digest.update(memoryview(last))
        self.close()
        return self._digest.digest().hex()

    def close(self) -> None:
        """Let go of the file as it is. Closing again does nothing."""
        for descriptor in {self._source, self._target} - {-1}:
            os.close(descriptor)
        self._source = self._target = -1


def _memory_file() -> int | None:
    create = getattr(os, "memfd_create", None)
    try:
        return create("venice-sorted-file") if create is not None and os.path.isdir("/proc/self/fd") else None
    except OSError:
        return None  # A sandbox may forbid it.


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` there, wherever the file's own position is. Raises OSError."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def _function(name: str, *argtypes: type) -> Callable[..., int] | None:
    found = getattr(ctypes.CDLL(None), name, None)
    if found is not None:
        found.argtypes = argtypes
    return found


_FALLOCATE: Final = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_SYNC_FILE_RANGE: Final = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def _call(function: Callable[..., int] | None, *arguments: int) -> None:
    # Both only save memory or time: whether they succeed makes no difference to what is written.
    if function is not None:
        function(*arguments)
