"""Partitions of many keys at once: MD5 as arithmetic on NumPy columns, one row per key.

Write path: read → encode → **partition** → sort → seal. `venice.rules.partitioning.partition_of` is the definition;
this is the same function for a column of keys, about ten times faster than a loop over hashlib (docs/decisions/0004).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from venice.rules.partitioning import partition_of

U32 = np.uint32
U64 = np.uint64
Words = npt.NDArray[np.uint64]

ONE_BLOCK_BYTES_MAX: Final = 55
"""Longest message that MD5 pads into a single 64-byte block; longer keys (rare) take hashlib, one by one."""

_ROWS: Final = 65_536
"""Keys worked on at a time. Fewer would stay in a core's first caches, but hand the interpreter over more often."""

_SINES: Final = tuple(int(abs(math.sin(i + 1)) * 2**32) for i in range(64))
_SHIFTS: Final = (7, 12, 17, 22) * 4 + (5, 9, 14, 20) * 4 + (4, 11, 16, 23) * 4 + (6, 10, 15, 21) * 4
_WORDS: Final = tuple((i, (5 * i + 1) % 16, (3 * i + 5) % 16, 7 * i % 16)[i // 16] for i in range(64))
_START: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)

Message = list[npt.NDArray[np.uint32] | int]
"""The sixteen 32-bit words of a block, each a column or one number for all rows."""


def partitions_of(
    words: list[Words], lengths: npt.NDArray[np.int32], data: bytes, starts: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int32]:
    """`partition_of(key, count)` of every key.

    Args:
        words: Column j holds bytes 8j to 8j+7 of each key as a big-endian number, zeros past its end.
        lengths: Bytes of each key.
        data: All keys' bytes; key i begins at `starts[i]`. Read for long keys only.
        count: Partitions, below 2**31.
    """
    rows = len(lengths)
    found = np.zeros(rows, np.int32)
    if count == 1:
        return found
    for low in range(0, rows, _ROWS):
        part = slice(low, low + _ROWS)
        found[part] = _modulo(_digests(_message([w[part] for w in words], lengths[part]), len(lengths[part])), count)
    for i in np.flatnonzero(lengths > ONE_BLOCK_BYTES_MAX).tolist():
        found[i] = partition_of(data[starts[i] : starts[i] + lengths[i]], count)
    return found


def _message(words: list[Words], lengths: npt.NDArray[np.int32]) -> Message:
    """Keys as padded MD5 blocks: the key, a 1 bit, zeros, the length in bits."""
    message: Message = [0] * 16
    tail_word = lengths >> 3
    tail_bit = U64(0x80) << (56 - 8 * (lengths & 7)).astype(U64)
    for j in range(min(len(words) + 1, 7)):
        column = np.where(tail_word == j, tail_bit, U64(0))
        if j < len(words):
            column |= words[j]
        if column.any():
            column.byteswap(inplace=True)
            # Little-endian 32-bit words: the low half comes first in the message.
            message[2 * j] = column.astype(U32)
            message[2 * j + 1] = (column >> U64(32)).astype(U32)
    bits = lengths.astype(U32) << U32(3)
    message[14] = int(bits[0]) if bits.size and (bits == bits[0]).all() else bits
    return message


def _digests(message: Message, rows: int) -> tuple[npt.NDArray[np.uint32], ...]:
    a, b, c, d = (np.full(rows, start, U32) for start in _START)
    mixed = np.empty(rows, U32)
    other = np.empty(rows, U32)
    for i in range(64):
        if i < 16:
            np.bitwise_xor(c, d, out=mixed)
            np.bitwise_and(mixed, b, out=mixed)
            np.bitwise_xor(mixed, d, out=mixed)
        elif i < 32:
            np.bitwise_xor(b, c, out=mixed)
            np.bitwise_and(mixed, d, out=mixed)
            np.bitwise_xor(mixed, c, out=mixed)
        elif i < 48:
            np.bitwise_xor(b, c, out=mixed)
            np.bitwise_xor(mixed, d, out=mixed)
        else:
            np.invert(d, out=mixed)
            np.bitwise_or(mixed, b, out=mixed)
            np.bitwise_xor(mixed, c, out=mixed)
        np.add(mixed, a, out=mixed)
        word = message[_WORDS[i]]
        if isinstance(word, int):
            np.add(mixed, U32((_SINES[i] + word) & 0xFFFFFFFF), out=mixed)
        else:
            np.add(mixed, U32(_SINES[i]), out=mixed)
            np.add(mixed, word, out=mixed)
        np.left_shift(mixed, U32(_SHIFTS[i]), out=other)
        np.right_shift(mixed, U32(32 - _SHIFTS[i]), out=mixed)
        np.bitwise_or(mixed, other, out=mixed)
        np.add(mixed, b, out=a)
        a, b, c, d = d, a, b, c
    return tuple(np.add(column, U32(start)) for column, start in zip((a, b, c, d), _START, strict=True))


def _modulo(digest: tuple[npt.NDArray[np.uint32], ...], count: int) -> npt.NDArray[np.uint64]:
    """The digest, a 128-bit big-endian number whose 32-bit words are stored little-endian, modulo `count`."""
    assert count < 2**31, "the products below must fit 64 bits"
    w0, w1, w2, w3 = (column.byteswap().astype(U64) for column in digest)
    n = U64(count)
    high = ((w0 << U64(32)) | w1) % n
    low = ((w2 << U64(32)) | w3) % n
    found: npt.NDArray[np.uint64] = (high * U64(2**64 % count) + low) % n
    return found
