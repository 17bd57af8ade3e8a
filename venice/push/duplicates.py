"""Rows of one push that have the same key.

Identical rows are dropped and counted. Rows that differ fail the push, or, where duplicates are allowed, the one that was
read last wins: files in the order given, rows in the order of the file, a query's rows in the order it returns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from venice.errors import InvalidRequest
from venice.push.keys import KeyColumn, Order

EXAMPLES_MAX: Final = 5
"""Keys that a message names."""
_KEY_TEXT_MAX: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicatePolicy:
    """What to do about equal keys.

    Args:
        allow: Keep the last of differing rows instead of failing.
        key_row_schema: Avro JSON of the record that keys are serialized as (`venice.push.plan.Side`).
    """

    allow: bool
    key_row_schema: str

    def settle(self, order: Order, keys: KeyColumn, values: pa.Array) -> npt.NDArray[np.intp]:
        """The rows to keep, in order: the last of each group of equal keys.

        Raises:
            InvalidRequest: Rows of one key differ and that is not allowed; the message names keys.
        """
        if not order.same.any():
            return order.rows
        if not self.allow:
            self._refuse_conflicts(order, keys, values)
        kept: npt.NDArray[np.intp] = order.rows[~np.append(order.same[1:], False)]
        return kept

    def _refuse_conflicts(self, order: Order, keys: KeyColumn, values: pa.Array) -> None:
        second = np.flatnonzero(order.same)
        equal = pc.equal(values.take(pa.array(order.rows[second - 1])), values.take(pa.array(order.rows[second])))
        differing = second[~equal.to_numpy(zero_copy_only=False)]
        if not len(differing):
            return
        found = dict.fromkeys(keys.at(int(row)) for row in order.rows[differing])
        raise conflict(self.key_row_schema, list(found)[:EXAMPLES_MAX])


def conflict(row_schema: str, keys: Sequence[bytes]) -> InvalidRequest:
    """That rows with these keys differ, keys having been serialized as such records."""
    examples = [describe_key(row_schema, key) for key in keys]
    return InvalidRequest(
        f"several rows with different values have the same key, for example {', '.join(examples)}",
        hint="make keys unique in the source, or allow duplicates (--allow-duplicates) to keep the last row of each key",
        keys=examples,
    )


def describe_key(row_schema: str, key: bytes) -> str:
    """A key that was serialized as a record, as a reader of an error knows it."""
    from venice.schema.codec import key_codec  # Only errors need it, and the writing processes start faster without.

    value = key_codec(row_schema).decode(key)
    return shown(next(iter(value.values())) if len(value) == 1 else value)


def shown(key: object) -> str:
    """A key for a message, not longer than a line."""
    text = repr(key)
    return text if len(text) <= _KEY_TEXT_MAX else text[:_KEY_TEXT_MAX] + "…"
