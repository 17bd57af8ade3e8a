"""Which partition a key belongs to. Fixed for ever: stored data and every client depend on it."""

from __future__ import annotations

from hashlib import md5


def partition_of(key: bytes, count: int) -> int:
    """Partition of a serialized key among `count` partitions: MD5 as an unsigned big-endian integer, modulo `count`.

    The same function as Venice's `DefaultVenicePartitioner`, so that data partitioned by one is found by the other.
    """
    if count == 1:
        return 0
    return int.from_bytes(md5(key, usedforsecurity=False).digest(), "big") % count
