"""A run of a leader's writes, from the layout of the log straight into that of the disk: nearly all that a replica folds.

Write path: leader → version topic → ingest → **leader_run** → storage.

It says what decoding, accepting and encoding each record would say, at a third of the price: schema id and time stand in both
layouts alike, and what is the same for all records of a session is compared, not decoded.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from venice.record import CRC_RESIDUE, FORMAT, HAS_SESSION, Kind, Origin, Vector
from venice.storage import Change, Position
from venice.storage.format import REAL_TIME

# The first bytes of a payload: format, kind, origin, flags. After them: region, vector entries, schema id, time, lengths.
_PUT = bytes((FORMAT, Kind.PUT, Origin.REAL_TIME, HAS_SESSION))
_DELETE = bytes((FORMAT, Kind.DELETE, Origin.REAL_TIME, HAS_SESSION))

_IS_PUT = int(Kind.PUT)
_ONE_SOURCE = b"\x01\x00"
_STORED = bytes((REAL_TIME,))
_BEHIND_HEAD = Struct("<20xI20xQ")
"""Key length and sequence."""
_NO_METADATA_AND_SESSION = Struct("<IQQ")
_SHAPE = Struct("<6xHI")
"""Vector entries and schema id."""
_METADATA_LENGTH = Struct("<24xI")
_ENTRY = Struct("<hIQ")
_ENTRY_AT = 52
_KEY_AT = _ENTRY_AT + _ENTRY.size
_CRC_SIZE = 4
_SIZE_MIN = _KEY_AT + _CRC_SIZE


class LeaderRun(NamedTuple):
    """What a run of records comes to."""

    mutations: list[Change]
    """One for each record."""
    vector: Vector
    """Of the last record."""


def leader_run(entries: Sequence[tuple[str, int, int, int, bytes]], position: Position, schemas: Container[int] | None = None) -> LeaderRun:
    """Read puts and deletes of the position's session as long as each follows the one before without a hole, has one entry in
    its vector, and is of one of the `schemas`, if they are given.

    Whatever else the next entry may be is for the caller to find out; the run is empty if that is the first one.
    """
    mutations: list[Change] = []
    last = b""
    sequence = position.sequence
    session = _NO_METADATA_AND_SESSION.pack(0, position.term, position.session)
    known = b""
    unpack = _BEHIND_HEAD.unpack_from
    for _, _, _, _, payload in entries:
        shape = payload[:12]
        if shape != known:
            if not _is_put(shape, schemas) and not _is_delete(shape):
                break
            known = shape
        if len(payload) < _SIZE_MIN or crc32(payload) != CRC_RESIDUE:
            break
        key_length, of_sequence = unpack(payload)
        key_end = value_at = _KEY_AT + key_length
        metadata = None
        if payload[24:44] != session:
            (metadata_length,) = _METADATA_LENGTH.unpack_from(payload)
            if payload[28:44] != session[4:]:
                break
            value_at += metadata_length
            metadata = payload[key_end:value_at] or None
        if of_sequence != sequence + 1 or value_at > len(payload) - _CRC_SIZE:
            break
        # Flags, schema id and time, region, value.
        stored = _STORED + payload[8:20] + payload[4:6] + payload[value_at:-_CRC_SIZE] if payload[1] == _IS_PUT else None
        mutations.append((payload[_KEY_AT:key_end], stored, metadata))
        sequence = of_sequence
        last = payload
    return LeaderRun(mutations, (_ENTRY.unpack_from(last, _ENTRY_AT),) if last else position.vector)


def _is_put(shape: bytes, schemas: Container[int] | None) -> bool:
    if shape[:4] != _PUT or len(shape) != _SHAPE.size:
        return False
    sources, schema_id = _SHAPE.unpack(shape)
    return sources == 1 and (schemas is None or schema_id in schemas)


def _is_delete(shape: bytes) -> bool:
    return shape[:4] == _DELETE and shape[6:8] == _ONE_SOURCE
