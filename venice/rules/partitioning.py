"""Which partition a key belongs to. Fixed for ever: stored data and every client depend on it."""

from __future__ import annotations

try:
    # CPython's own MD5 costs half of OpenSSL's for a key of a few bytes, on a path where each get computes one; and it is
    # there on machines whose OpenSSL refuses MD5.
    from _md5 import md5  # type: ignore[import-not-found]  # not in the type library
except ImportError:
    from hashlib import md5

_MASKS = frozenset(2**bits for bits in range(1, 9))
"""Counts for which the last byte decides."""


def partition_of(key: bytes, count: int) -> int:
    """Partition of a serialized key among `count` partitions: MD5 as an unsigned big-endian integer, modulo `count`.

    The same function as Venice's `DefaultVenicePartitioner`, so that data partitioned by one is found by the other.
    """
    if count == 1:
        return 0
    if count in _MASKS:
        return int(md5(key).digest()[15]) & count - 1
    return int.from_bytes(md5(key).digest(), "big") % count
