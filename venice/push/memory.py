"""Freed memory stays in the process while rows flow.

Each run takes and frees a few dozen megabytes, in pieces large enough that the allocators give them back to the kernel, which
must clear the same pages again for the next run: a fifth of a push's time went there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa

_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_MMAP_BYTES_MAX: Final = 32 << 20
"""Largest value glibc takes; what is larger is mapped and unmapped each time."""
_TRIM_BYTES: Final = 256 << 20
_PAD_BYTES: Final = 64 << 20
"""The size of the heaps that threads get: with less to spare, glibc gives one back as soon as it is empty."""
_DEFAULT_BYTES: Final = 128 << 10
"""glibc's own value of all three."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside `with`, memory that is freed is used again by this process; at the end the kernel gets it back.

    Where the C library is not glibc, only Arrow's pool changes.
    """
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own allocator returns pages within milliseconds.
    _limit(_MMAP_BYTES_MAX, _TRIM_BYTES, _PAD_BYTES)
    try:
        yield
    finally:
        _limit(_DEFAULT_BYTES, _DEFAULT_BYTES, _DEFAULT_BYTES)
        pa.set_memory_pool(pool)


def _limit(mmap_bytes: int, trim_bytes: int, pad_bytes: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(_M_MMAP_THRESHOLD, mmap_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, trim_bytes)
        libc.mallopt(_M_TOP_PAD, pad_bytes)
        libc.malloc_trim(0)
