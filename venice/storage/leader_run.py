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

# The first bytes of a payload: format, kind, origin, flags. After them: region, vector entries, schema id.
_PUT = bytes((FORMAT, Kind.PUT, Origin.REAL_TIME, HAS_SESSION))
_DELETE = bytes((FORMAT, Kind.DELETE, Origin.REAL_TIME, HAS_SESSION))

_HEAD = Struct("<12s8sI20sQ14s")
"""Shape, time, key length, then metadata length, term and session, then sequence and the one entry of the vector."""
_SHAPE = Struct("<6xHI")
"""Vector entries and schema id."""
_ONE_SOURCE = b"\x01\x00"
_STORED = bytes((REAL_TIME,))
_NO_METADATA_AND_SESSION = Struct("<IQQ")
_METADATA_LENGTH = Struct("<I")
_ENTRY = Struct("<hIQ")
_KEY_AT = _HEAD.size
_CRC_SIZE = 4
_SIZE_MIN = _KEY_AT + _CRC_SIZE


class LeaderRun(NamedTuple):
    """What a run of records comes to."""

    mutations: list[Change]
    """One for each record."""
    vector: Vector
    """Of the last record."""


def leader_run(payloads: Sequence[bytes], position: Position, schemas: Container[int] | None = None) -> LeaderRun:
    """Read puts and deletes of the position's session as long as each follows the one before without a hole, has one entry in
    its vector, and is of one of the `schemas`, if they are given.

    Whatever else the next entry may be is for the caller to find out; the run is empty if that is the first one.
    """
    mutations: list[Change] = []
    add, unpack = mutations.append, _HEAD.unpack_from
    sequence = position.sequence
    session = _NO_METADATA_AND_SESSION.pack(0, position.term, position.session)
    known = prefix = region = last = b""
    is_put = False
    for payload in payloads:
        if len(payload) < _SIZE_MIN:
            break
        shape, time, key_length, lengths_and_session, of_sequence, source = unpack(payload)
        if shape != known:
            is_put = _is_put(shape, schemas)
            if not is_put and not _is_delete(shape):
                break
            known, prefix, region = shape, _STORED + shape[8:], shape[4:6]
        if of_sequence != sequence + 1 or crc32(payload) != CRC_RESIDUE:
            break
        value_at = key_end = _KEY_AT + key_length
        metadata = None
        if lengths_and_session != session:
            if lengths_and_session[4:] != session[4:]:
                break
            value_at += _METADATA_LENGTH.unpack_from(lengths_and_session)[0]
            metadata = payload[key_end:value_at]
        if value_at > len(payload) - _CRC_SIZE:
            break
        # Flags, schema id, time, region, value.
        add((payload[_KEY_AT:key_end], prefix + time + region + payload[value_at:-_CRC_SIZE] if is_put else None, metadata))
        sequence, last = of_sequence, source
    return LeaderRun(mutations, (_ENTRY.unpack(last),) if last else position.vector)


def _is_put(shape: bytes, schemas: Container[int] | None) -> bool:
    if shape[:4] != _PUT:
        return False
    sources, schema_id = _SHAPE.unpack(shape)
    return sources == 1 and (schemas is None or schema_id in schemas)


def _is_delete(shape: bytes) -> bool:
    return shape[:4] == _DELETE and shape[6:8] == _ONE_SOURCE
