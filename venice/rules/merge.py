"""Which of two writes of a key stands: conflict resolution of whole values. Pure.

Writes are ranked in a total order and the largest stands, so that any order of arrival, any grouping and any repetition
end in the same state in every region:

1. the later timestamp; a batch row has time 0 and loses to every real-time write;
2. at equal times a delete over a put;
3. then the larger value bytes, compared as unsigned bytes, the larger schema id, the larger region number.

Rule 2 is Venice's; rule 3 takes the place of its hash code, which depends on the platform and can collide (VENICE.md §7.8, D5).
"""

from __future__ import annotations

from typing import NamedTuple

BATCH_TIMESTAMP_MS = 0
"""The time at which merge takes batch rows to have been written."""

NO_REGION = -1
"""Region of a batch row."""


class Write(NamedTuple):
    """One write of a key, or the state it left. A tuple: a leader makes one for each record it merges."""

    timestamp_ms: int
    region: int
    schema_id: int
    payload: bytes | None
    """The value; None for a delete."""


def stands(incoming: Write, stored: Write | None) -> bool:
    """Whether `incoming` replaces `stored` (None: the key was never written). Equal writes change nothing."""
    if stored is None or incoming.timestamp_ms > stored.timestamp_ms:
        return True
    return incoming.timestamp_ms == stored.timestamp_ms and _rank(incoming) > _rank(stored)


def _rank(write: Write) -> tuple[int, bool, bytes, int, int]:
    return (write.timestamp_ms, write.payload is None, write.payload or b"", write.schema_id, write.region)
