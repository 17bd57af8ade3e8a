"""FORMAT of the log: what a payload in a topic means. The page is `docs/formats/record.md`.

    payload := head session? update? vector key metadata value crc
    head    := format kind origin flags region vector-count schema-id timestamp key-length metadata-length

All numbers are little-endian. The CRC-32 stands last, so one pass over a whole payload, CRC included, must give a
constant: any flipped bit, cut or extension is found before a field is looked at. The fields of a real-time version
(term, session, sequence, vector, metadata) are in the format from the start; flags leave them out where they are empty.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple
from zlib import crc32

from venice.errors import Corrupt, InvalidRequest

FORMAT = 1
"""The format this release writes, and the newest it reads. Every format begins with this byte and ends with the CRC."""

Vector = tuple[tuple[int, int, int], ...]
"""(region, real-time partition, next offset), ascending by region and partition, each pair once."""


class Kind(IntEnum):
    """What a record says. DO NOT CHANGE THESE VALUES: they are written to the log."""

    PUT = 1
    DELETE = 2
    UPDATE = 3
    """A partial update by the update schema; only in real-time topics, the leader turns it into a PUT."""
    EXPIRE = 4
    """A proposal to expire the key; only in real-time topics."""
    START_OF_VERSION = 16
    DECLARE_LEADERSHIP = 17
    PROGRESS = 18
    """Inputs up to `vector` were read and changed nothing more."""
    CAUGHT_UP = 19
    """The leader had read every reachable region's writes when it appended this."""
    END_OF_PUSH = 20
    HEARTBEAT = 21
    ENTITY = 32
    """A catalog entity's whole state: key `kind/name`, value JSON."""
    DECLARE_CONTROLLER = 33
    REPORT = 48
    """A worker's full state: key `worker/id`, value JSON."""
    DEAD_LETTER = 49
    """A record that was set aside: key `topic/partition/offset` of where it stood, metadata why, value its payload or a part of it."""


class Origin(IntEnum):
    """Where a record's data came from. DO NOT CHANGE THESE VALUES: they are written to the log."""

    BATCH = 0
    """A row of a push: merges as if written at time 0."""
    REAL_TIME = 1


class Record(NamedTuple):
    """One record of any topic. A tuple, because a fold makes hundreds of thousands of them a second."""

    kind: Kind
    key: bytes = b""
    value: bytes = b""
    schema_id: int = 0
    """Value schema of `value`; 0 where there is none."""
    update_schema_id: int = 0
    """Update schema derived from value schema `schema_id`; 0 unless `kind` is UPDATE."""
    origin: Origin = Origin.BATCH
    timestamp_ms: int = 0
    """Write time, logical or from the producer's clock."""
    region: int = -1
    """Where it was written; -1 = nowhere in particular."""
    metadata: bytes = b""
    """Replication metadata of the key after this record."""
    term: int = 0
    session: int = 0
    """Life of the process that wrote it, unsigned 64 bits; 0 = no session."""
    sequence: int = 0
    """Dense within the session."""
    vector: Vector = ()
    """How far the writer had read the real-time topics when it wrote this."""


_HEAD = Struct("<BBBBhHIqII")
_SESSION = Struct("<QQQ")
_MERGED_HEAD = Struct("<BBBBhHIqIIQQQ")
"""Head and session."""
_PLAIN_HEAD = Struct("<hHIqII")
"""The head behind its first four bytes."""
_UPDATE = Struct("<I")
_ENTRY = Struct("<hIQ")
_CRC = Struct("<I")

HAS_SESSION = 1
_HAS_UPDATE = 2

_SIZE_MIN = _HEAD.size + _CRC.size
CRC_RESIDUE = 0x2144DF1C
"""CRC-32 of anything that ends with its own CRC-32, little-endian."""

_HINT = "it was not written by this release: upgrade, or inspect the topic"

# Calling an enum class costs more than the rest of the head.
_KINDS = {int(kind): kind for kind in Kind}
_ORIGINS = {int(origin): origin for origin in Origin}
_REAL_TIME = int(Origin.REAL_TIME)
_PLAIN_WRITES = {bytes((FORMAT, kind, _REAL_TIME, 0)): kind for kind in (Kind.PUT, Kind.DELETE)}
"""How the real-time writes of producers begin."""
_new = tuple.__new__


def encode(record: Record) -> bytes:
    """The payload of `record`.

    Raises:
        InvalidRequest: A number does not fit its field, or the vector is not ascending.
    """
    (kind, key, value, schema_id, update_schema_id, origin, timestamp_ms, region, metadata, term, session, sequence, vector) = record
    flags = _flags(term, session, sequence, update_schema_id)
    parts = b""
    try:
        if flags & HAS_SESSION:
            parts = _SESSION.pack(term, session, sequence)
        if flags & _HAS_UPDATE:
            parts += _UPDATE.pack(update_schema_id)
        if vector:
            if len(vector) == 1:
                parts += _ENTRY.pack(*vector[0])
            else:
                if not _ascending(vector):
                    raise InvalidRequest(f"vector {vector} is not ascending", hint="sort it by region and partition, each pair once")
                parts += b"".join([_ENTRY.pack(*entry) for entry in vector])
        head = _HEAD.pack(FORMAT, kind, origin, flags, region, len(vector), schema_id, timestamp_ms, len(key), len(metadata))
    except StructError as error:
        raise InvalidRequest(f"record cannot be written: {error}", hint="a number is too large or negative for its field") from error
    body = head + parts + key + metadata + value
    return body + _CRC.pack(crc32(body))


encode_vector_entry = _ENTRY.pack
"""(region, real-time partition, next offset) → an entry of the vector as `encode_merged` takes it."""


def encode_merged(
    kind: Kind,
    key: bytes,
    value: bytes,
    schema_id: int,
    timestamp_ms: int,
    region: int,
    metadata: bytes,
    term: int,
    session: int,
    sequence: int,
    vector: bytes,
) -> bytes:
    """What `encode` says of a real-time record of a session, without looking at what cannot be wrong: a leader makes one for each
    write it merges, with numbers that came out of records and `vector` as joined entries, ascending."""
    sources, key_length, metadata_length = len(vector) // _ENTRY.size, len(key), len(metadata)
    numbers = (FORMAT, kind, _REAL_TIME, HAS_SESSION, region, sources, schema_id, timestamp_ms, key_length, metadata_length)
    body = b"".join((_MERGED_HEAD.pack(*numbers, term, session, sequence), vector, key, metadata, value))
    return body + _CRC.pack(crc32(body))


def decode(payload: bytes) -> Record:
    """The record that `payload` is.

    Raises:
        Corrupt: It is not a record as it was written, or its format is newer than this release reads.
    """
    if crc32(payload) != CRC_RESIDUE or len(payload) < _SIZE_MIN:
        raise Corrupt(f"record of {len(payload)} bytes fails its checksum", hint="the log does not hold what was appended")
    (format_, kind, origin, flags, region, entries, schema_id, timestamp_ms, key_length, metadata_length) = _HEAD.unpack_from(payload)
    if format_ != FORMAT:
        raise _unknown_format(format_)
    at = _HEAD.size
    end = len(payload) - _CRC.size
    term = session = sequence = update_schema_id = 0
    vector: Vector = ()
    try:
        if flags:
            if flags & HAS_SESSION:
                term, session, sequence = _SESSION.unpack_from(payload, at)
                at += _SESSION.size
            if flags & _HAS_UPDATE:
                (update_schema_id,) = _UPDATE.unpack_from(payload, at)
                at += _UPDATE.size
            if flags != _flags(term, session, sequence, update_schema_id):
                raise Corrupt(f"record's flags {flags:#04x} do not fit what it holds", hint=_HINT)
        if entries == 1:
            vector = (_ENTRY.unpack_from(payload, at),)
            at += _ENTRY.size
        elif entries:
            vector = tuple(_ENTRY.iter_unpack(payload[at : at + entries * _ENTRY.size]))
            at += entries * _ENTRY.size
            if not vector or not _ascending(vector):
                raise Corrupt("record's vector is not ascending", hint=_HINT)
        key_end = at + key_length
        metadata_end = key_end + metadata_length
        if metadata_end > end:
            raise Corrupt(f"record of {len(payload)} bytes is shorter than its lengths say", hint=_HINT)
        fields: tuple[Any, ...] = (
            _KINDS[kind],
            payload[at:key_end],
            payload[metadata_end:end],
            schema_id,
            update_schema_id,
            _ORIGINS[origin],
            timestamp_ms,
            region,
            payload[key_end:metadata_end],
            term,
            session,
            sequence,
            vector,
        )
    except KeyError as error:
        raise Corrupt(f"record has unknown kind {kind} or origin {origin}", hint=_HINT) from error
    except StructError as error:
        raise Corrupt(f"record of {len(payload)} bytes is cut short", hint=_HINT) from error
    return _new(Record, fields)


PlainWrite = tuple[Kind, bytes, bytes, int, int]
"""Kind, key, value, schema id and time of a put or delete."""


def decode_write(payload: bytes) -> PlainWrite | None:
    """A real-time put or delete as producers write them: without session, vector or metadata.

    None if the payload is anything else, or no record: `decode` finds out. A leader reads each write through here.
    """
    kind = _PLAIN_WRITES.get(payload[:4])
    if kind is None or crc32(payload) != CRC_RESIDUE or len(payload) < _SIZE_MIN:
        return None
    _, entries, schema_id, timestamp_ms, key_length, metadata_length = _PLAIN_HEAD.unpack_from(payload, 4)
    key_end = _HEAD.size + key_length
    if entries or metadata_length or key_end > len(payload) - _CRC.size:
        return None
    return kind, payload[_HEAD.size : key_end], payload[key_end : -_CRC.size], schema_id, timestamp_ms


def _unknown_format(format_: int) -> Corrupt:
    if format_ > FORMAT:
        return Corrupt(f"record format {format_} is newer than this release reads ({FORMAT})", hint="upgrade this process", format=format_)
    return Corrupt(f"record format {format_} does not exist", hint=_HINT, format=format_)


def _flags(term: int, session: int, sequence: int, update_schema_id: int) -> int:
    return (HAS_SESSION if session or term or sequence else 0) | (_HAS_UPDATE if update_schema_id else 0)


def _ascending(vector: Vector) -> bool:
    region, partition, _ = vector[0]
    for next_region, next_partition, _ in vector[1:]:
        if next_region < region or (next_region == region and next_partition <= partition):
            return False
        region, partition = next_region, next_partition
    return True
