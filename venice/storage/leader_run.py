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

from venice.log import Entry
from venice.record import CRC_RESIDUE, FORMAT, HAS_SESSION, Kind, Origin, Vector
from venice.storage import Mutation, Position
from venice.storage.format import REAL_TIME

# The first bytes of a payload: format, kind, origin, flags.
_PUT = bytes((FORMAT, Kind.PUT, Origin.REAL_TIME, HAS_SESSION))
_DELETE = bytes((FORMAT, Kind.DELETE, Origin.REAL_TIME, HAS_SESSION))

_STORED = bytes((REAL_TIME,))
_NUMBERS = Struct("<6xHI8xIIQQQ")
"""Vector entries, schema id, key and metadata length, term, session, sequence."""
_ENTRY = Struct("<hIQ")
_KEY_AT = _NUMBERS.size + _ENTRY.size
_CRC_SIZE = 4
_SIZE_MIN = _KEY_AT + _CRC_SIZE

_new = tuple.__new__


class LeaderRun(NamedTuple):
    """What a run of records comes to."""

    mutations: list[Mutation]
    """One for each record."""
    vector: Vector
    """Of the last record."""


def leader_run(entries: Sequence[Entry], position: Position, schemas: Container[int] | None = None) -> LeaderRun:
    """Read puts and deletes of the position's session as long as each follows the one before without a hole, has one entry in
    its vector, and is of one of the `schemas`, if they are given.

    Whatever else the next entry may be is for the caller to find out; the run is empty if that is the first one.
    """
    mutations: list[Mutation] = []
    payload = last = b""
    term, session, sequence = position.term, position.session, position.sequence
    known_schema = -1
    unpack = _NUMBERS.unpack_from
    for _, _, _, _, payload in entries:
        kind = payload[:4]
        if (kind != _PUT and kind != _DELETE) or len(payload) < _SIZE_MIN or crc32(payload) != CRC_RESIDUE:
            break
        sources, schema_id, key_length, metadata_length, of_term, of_session, of_sequence = unpack(payload)
        key_end = _KEY_AT + key_length
        value_at = key_end + metadata_length
        if of_sequence != sequence + 1 or of_session != session or of_term != term or sources != 1 or value_at > len(payload) - _CRC_SIZE:
            break
        stored = None
        if kind == _PUT:
            if schema_id != known_schema:
                if schemas is not None and schema_id not in schemas:
                    break
                known_schema = schema_id
            # Flags, schema id and time, region, value.
            stored = _STORED + payload[8:20] + payload[4:6] + payload[value_at:-_CRC_SIZE]
        mutations.append(_new(Mutation, (payload[_KEY_AT:key_end], stored, payload[key_end:value_at] if metadata_length else None)))
        sequence = of_sequence
        last = payload
    return LeaderRun(mutations, (_ENTRY.unpack_from(last, _NUMBERS.size),) if last else position.vector)
