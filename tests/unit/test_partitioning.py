"""Where keys go, by known answers: stored data depends on it."""

from __future__ import annotations

import hashlib

import pytest

from venice.rules.partitioning import partition_of


@pytest.mark.parametrize(
    ("key", "count", "partition"),
    [(b"", 7, 0xD41D8CD98F00B204E9800998ECF8427E % 7), (b"abc", 16, 0x900150983CD24FB0D6963F7D28E17F72 % 16), (b"abc", 1, 0)],
)
def test_known_keys_stay_where_they_are(key: bytes, count: int, partition: int) -> None:
    assert partition_of(key, count) == partition


@pytest.mark.parametrize("count", [1, 2, 3, 8, 1000, 2**31])
def test_it_is_the_digest_as_a_big_endian_number_modulo_the_count(count: int) -> None:
    for number in range(200):
        key = number.to_bytes(4, "little")
        assert partition_of(key, count) == int(hashlib.md5(key).hexdigest(), 16) % count
