"""Columns of serialized keys: as big-endian 64-bit words, sorted by unsigned bytes, equal neighbours marked.

Write path: read → encode → partition → **sort** → seal.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from venice.push.md5 import U64, Words, partitions_of

_WORD: Final = 8
_MASKS: Final = np.array([(2**64 - 1) ^ (2 ** (8 * (8 - kept)) - 1) for kept in range(9)], np.uint64)
"""Mask that keeps the first 0 to 8 bytes of a big-endian word."""


Groups = npt.NDArray[np.uint16] | npt.NDArray[np.int32]


class KeyColumn(NamedTuple):
    """Keys of some rows.

    Zero bytes past a key's end make `words` of two keys equal where one continues the other with zero bytes; `lengths`
    tells them apart, and the shorter one sorts first, so (words…, length) orders as the bytes do.
    """

    words: list[Words]
    lengths: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    data: bytes

    def at(self, row: int) -> bytes:
        start = int(self.starts[row])
        return self.data[start : start + int(self.lengths[row])]


def key_column(lengths: npt.NDArray[np.int32], data: bytes) -> KeyColumn:
    """The column of keys that lie end to end in `data`."""
    ends = np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    longest = int(lengths.max(initial=0))
    padded = np.frombuffer(data + bytes(_WORD), np.uint8)
    # Every position of the bytes read as a word that begins there.
    windows = np.ndarray((len(data) + 1,), np.dtype(">u8"), padded, strides=(1,))
    words: list[Words] = []
    for begin in range(0, longest, _WORD):
        at = np.minimum(starts + begin, len(data))
        word = windows[at].astype(U64)
        word &= _MASKS[np.clip(lengths - begin, 0, _WORD)]
        words.append(word)
    return KeyColumn(words, lengths, starts, data)


def partitions(keys: KeyColumn, count: int) -> Groups:
    """Partition of each key among `count`."""
    found = partitions_of(keys.words, keys.lengths, keys.data, keys.starts, count)
    # NumPy sorts 16-bit numbers by radix, several times faster.
    return found.astype(np.uint16) if count <= 2**16 else found


class Order(NamedTuple):
    """Rows in sorted order; `same[i]`: the key of the i-th row in this order equals the one before it."""

    rows: npt.NDArray[np.intp]
    same: npt.NDArray[np.bool_]


def sort(keys: KeyColumn, groups: Groups | None, sequence: npt.NDArray[np.int32] | None = None) -> Order:
    """Rows by (group, key bytes); equal keys by `sequence`, then by row.

    Sorts by the first word and looks at the others only where it ties.
    """
    rows = np.argsort(keys.words[0]) if keys.words else np.arange(len(keys.lengths))
    if groups is not None:
        rows = rows[np.argsort(groups[rows], kind="stable")]
    same = np.zeros(len(rows), np.bool_)
    if len(rows) > 1:
        first, second = rows[:-1], rows[1:]
        same[1:] = keys.words[0][first] == keys.words[0][second] if keys.words else True
        if groups is not None:
            same[1:] &= groups[first] == groups[second]
    columns: list[npt.NDArray[Any]] = [*keys.words[1:], keys.lengths]
    for column in columns:
        if not same.any():
            return Order(rows, same)
        tied = np.flatnonzero(same | np.append(same[1:], False))
        _sort_ties(rows, same, tied, column)
        same[tied] &= column[rows[tied]] == column[rows[tied - 1]]
    if same.any():
        tied = np.flatnonzero(same | np.append(same[1:], False))
        _sort_ties(rows, same, tied, np.arange(len(rows), dtype=np.int32) if sequence is None else sequence)
    return Order(rows, same)


def _sort_ties(rows: npt.NDArray[np.intp], same: npt.NDArray[np.bool_], tied: npt.NDArray[np.intp], column: npt.NDArray[Any]) -> None:
    """Sort, in place, each group of equal rows among `tied` positions by `column`."""
    group = np.cumsum(~same[tied])
    members = rows[tied]
    rows[tied] = members[np.lexsort((column[members], group))]
