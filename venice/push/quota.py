"""A push that outgrows its store's quota ends as soon as that is certain, not when it is sealed.

While rows are read, their stored values alone count: files hold them as they are, keys and indexes come on top. Then the
files count as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from venice.model import UNLIMITED
from venice.push.intake import Taken
from venice.push.writer import Written
from venice.rules.quota import check_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How large the files of a push may be.

    Args:
        repeats: Whether rows may have the keys of others and be dropped only when files are written: what was read says nothing.
    """

    store: str
    bytes_max: int = UNLIMITED
    repeats: bool = False

    def check(self, taken: Taken, written: Sequence[Written]) -> None:
        """That what there is so far fits. Raises Full."""
        if self.bytes_max == UNLIMITED:
            return
        if not self.repeats:
            check_size(self.store, self.bytes_max, taken.stored_bytes, f"of values in the first {taken.rows:,} rows")
        size = sum(one.file.size for one in written)
        check_size(self.store, self.bytes_max, size, f"in {len(written)} of {len(taken.blocks)} partitions")
