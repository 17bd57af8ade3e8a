"""Rows of one push that have the same key.

Identical rows are dropped and counted. Rows that differ fail the push, or, where duplicates are allowed, the one that was
read last wins: files in the order given, rows in the order of the file, a query's rows in the order it returns them.

A push that fails of them does so once all its rows are merged, and before it seals: so it can name keys of every partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from venice.errors import InvalidRequest
from venice.push.keys import KeyColumn, Order

EXAMPLES_MAX: Final = 10
"""Keys that a message names."""
_KEY_TEXT_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Keys that have rows with different values."""

    count: int = 0
    keys: tuple[bytes, ...] = ()
    """Some of them, serialized; at most `EXAMPLES_MAX`."""

    def plus(self, other: Conflicts) -> Conflicts:
        """Those of two sets of rows that share no key."""
        return Conflicts(self.count + other.count, (self.keys + other.keys)[:EXAMPLES_MAX]) if other.count else self


class Settled(NamedTuple):
    """What became of sorted rows."""

    rows: npt.NDArray[np.intp]
    """Those to keep, in order: the last of each group of equal keys."""
    conflicts: Conflicts


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePolicy:
    """What to do about equal keys.

    Args:
        allow: Keep the last of differing rows instead of failing.
    """

    allow: bool

    def thin(self, order: Order, values: pa.Array) -> npt.NDArray[np.intp]:
        """The rows of a part of a push that say as much as all of them, in order: the last of each group of equal keys, and, where
        rows of a group differ and that is not allowed, one that differs from it. Whoever has all rows of the key settles them.
        """
        if not order.same.any():
            return order.rows
        kept = ~np.append(order.same[1:], False)
        if not self.allow:
            kept[_last_of_each(order, _differing(order, values)) - 1] = True
        rows: npt.NDArray[np.intp] = order.rows[kept]
        return rows

    def settle(self, order: Order, keys: KeyColumn, values: pa.Array) -> Settled:
        """All rows of some keys."""
        if not order.same.any():
            return Settled(order.rows, Conflicts())
        conflicts = Conflicts()
        if not self.allow:
            differing = _last_of_each(order, _differing(order, values))
            examples = order.rows[differing[:EXAMPLES_MAX]]
            conflicts = Conflicts(len(differing), tuple(keys.at(int(row)) for row in examples))
        return Settled(order.rows[~np.append(order.same[1:], False)], conflicts)


def _differing(order: Order, values: pa.Array) -> npt.NDArray[np.intp]:
    """Places in the order whose row has the key of the one before it, and another value."""
    second = np.flatnonzero(order.same)
    equal = pc.equal(values.take(pa.array(order.rows[second - 1])), values.take(pa.array(order.rows[second])))
    found: npt.NDArray[np.intp] = second[~equal.to_numpy(zero_copy_only=False)]
    return found


def _last_of_each(order: Order, places: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Of ascending places the last one in each group of equal keys."""
    group = np.cumsum(~order.same)[places]
    last: npt.NDArray[np.intp] = places[np.append(group[1:] != group[:-1], True)] if len(places) else places
    return last


def refuse_conflicts(row_schema: str, found: Sequence[Conflicts]) -> None:
    """Raises InvalidRequest if any partition has some; it names keys of as many partitions as it can.

    Args:
        row_schema: Avro JSON of the record that keys are serialized as (`venice.push.plan.Side`).
        found: By partition.
    """
    count = sum(one.count for one in found)
    if not count:
        return
    in_turn = chain.from_iterable(zip_longest(*(one.keys for one in found)))
    examples = [describe_key(row_schema, key) for key in islice((key for key in in_turn if key is not None), EXAMPLES_MAX)]
    more = f" and {count - len(examples):,} more" if count > len(examples) else ""
    raise InvalidRequest(
        f"several rows with different values have the same key: {', '.join(examples)}{more}",
        hint="make keys unique in the source, or allow duplicates (--allow-duplicates) to keep the last row of each key",
        keys=examples, count=count,
    )  # fmt: skip


def describe_key(row_schema: str, key: bytes) -> str:
    """A key that was serialized as a record, as a reader of an error knows it."""
    from venice.schema.codec import key_codec  # Only errors need it, and the writing processes start faster without.

    value = key_codec(row_schema).decode(key)
    return shown(next(iter(value.values())) if len(value) == 1 else value)


def shown(key: object) -> str:
    """A key for a message, not longer than a line."""
    text = repr(key)
    return text if len(text) <= _KEY_TEXT_MAX else text[:_KEY_TEXT_MAX] + "…"
