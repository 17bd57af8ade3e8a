"""FORMAT of the disk: stored values, and what a replica says of itself. The page is `docs/formats/disk.md`.

A replica is a RocksDB directory with three column families; a sealed folder (`venice/storage/manifest.py`) holds sorted
files for the first two:

    default    key → stored value: prefix ‖ Avro bytes
    metadata   key → replication metadata; a key without a value is a tombstone
    meta       identity and position of the replica, in their own layouts below

Bytes that are not what was written give `Corrupt` and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from venice.errors import Corrupt, InvalidRequest
from venice.record import Vector
from venice.storage import Identity, Position
from venice.storage.members import check_format, count, dump, load, parse, string

FORMAT = 1
"""The format this release writes, and the newest it reads: of a replica and of a position."""

VALUES = "default"
METADATA = "metadata"
META = "meta"
COLUMN_FAMILIES = (VALUES, METADATA, META)

IDENTITY_KEY = b"identity"
POSITION_KEY = b"position"

_REPLACE = "replace the replica by a fresh one"

# Stored values.

_PREFIX = Struct("<BI")
_STAMPED_PREFIX = Struct("<BIq")
_REAL_TIME_PREFIX = Struct("<BIqh")
_HAS_TIMESTAMP = 1
_TIME = Struct("<q")
REAL_TIME = 3
"""Flags of a real-time write: it has a timestamp, and the region that wrote it."""

_REAL_TIME_FLAGS = bytes((REAL_TIME,))

PREFIX_SIZE = _PREFIX.size
"""Where the Avro bytes begin in a value whose first byte, its flags, is 0."""


class StoredValue(NamedTuple):
    """A stored value's prefix; the Avro bytes are `stored[offset:]`."""

    schema_id: int
    timestamp_ms: int | None
    """The write's time, where it has one."""
    region: int | None
    """Which region wrote it in real time; None for a batch row, which merge takes to be of time 0."""
    offset: int


def value_prefix(schema_id: int, timestamp_ms: int | None = None, region: int | None = None) -> bytes:
    """What stands before the Avro bytes of a stored value. A `region` makes it a real-time write, which has a timestamp.

    Raises:
        InvalidRequest: A number does not fit its field.
    """
    try:
        if timestamp_ms is None:
            assert region is None, "a real-time write has a timestamp"
            return _PREFIX.pack(0, schema_id)
        if region is None:
            return _STAMPED_PREFIX.pack(_HAS_TIMESTAMP, schema_id, timestamp_ms)
        return _REAL_TIME_PREFIX.pack(REAL_TIME, schema_id, timestamp_ms, region)
    except StructError as error:
        raise InvalidRequest(f"schema id {schema_id}, time {timestamp_ms} or region {region} cannot be stored: {error}") from error


def encode_value(schema_id: int, payload: bytes, timestamp_ms: int | None = None, region: int | None = None) -> bytes:
    """A stored value. Raises as `value_prefix`."""
    return value_prefix(schema_id, timestamp_ms, region) + payload


def decode_value(stored: bytes) -> StoredValue:
    """The prefix of a stored value.

    Raises:
        Corrupt: No value begins so.
    """
    try:
        flags, schema_id = _PREFIX.unpack_from(stored)
        if flags == 0:
            return StoredValue(schema_id, None, None, PREFIX_SIZE)
        if flags == _HAS_TIMESTAMP:
            _, schema_id, timestamp_ms = _STAMPED_PREFIX.unpack_from(stored)
            return StoredValue(schema_id, timestamp_ms, None, _STAMPED_PREFIX.size)
        if flags == REAL_TIME:
            _, schema_id, timestamp_ms, region = _REAL_TIME_PREFIX.unpack_from(stored)
            return StoredValue(schema_id, timestamp_ms, region, _REAL_TIME_PREFIX.size)
    except StructError as error:
        raise Corrupt(f"stored value of {len(stored)} bytes is shorter than its prefix", hint=_REPLACE) from error
    raise Corrupt(f"stored value has unknown flags {flags:#04x}", hint="a newer release wrote it: upgrade this process")


def real_time_ms(stored: bytes) -> int:
    """When a stored value was written in real time, in milliseconds; 0 for a row of a push, which any real-time write replaces.

    Raises:
        Corrupt: No value begins so.
    """
    if stored[:1] == _REAL_TIME_FLAGS and len(stored) >= _REAL_TIME_PREFIX.size:
        timestamp_ms: int = _TIME.unpack_from(stored, _PREFIX.size)[0]
        return timestamp_ms
    value = decode_value(stored)
    return 0 if value.region is None or value.timestamp_ms is None else value.timestamp_ms


# Replication metadata: what the prefix of a stored value cannot say, because there is no value.

_TOMBSTONE = Struct("<Bqh")
_IS_TOMBSTONE = 1


class Tombstone(NamedTuple):
    """That a key was deleted in real time, when and by which region: a write that arrives late must still lose to it."""

    timestamp_ms: int
    region: int


def encode_tombstone(timestamp_ms: int, region: int) -> bytes:
    """The metadata of a deleted key. Raises InvalidRequest."""
    try:
        return _TOMBSTONE.pack(_IS_TOMBSTONE, timestamp_ms, region)
    except StructError as error:
        raise InvalidRequest(f"time {timestamp_ms} or region {region} cannot be stored: {error}") from error


def decode_tombstone(metadata: bytes) -> Tombstone:
    """The tombstone that `metadata` is.

    Raises:
        Corrupt: It is none.
    """
    if len(metadata) != _TOMBSTONE.size or metadata[0] != _IS_TOMBSTONE:
        raise Corrupt(f"replication metadata {metadata[:16].hex()} is no tombstone", hint=_REPLACE)
    _, timestamp_ms, region = _TOMBSTONE.unpack(metadata)
    return Tombstone(timestamp_ms, region)


# What a replica says of itself, under `meta`.

_POSITION = Struct("<BQQQQQH")
_ENTRY = Struct("<hIQ")


def encode_position(position: Position) -> bytes:
    """The bytes of a position.

    Raises:
        InvalidRequest: A number does not fit its field.
    """
    try:
        head = _POSITION.pack(
            FORMAT,
            position.next_offset,
            position.term,
            position.session,
            position.sequence,
            position.caught_up_session,
            len(position.vector),
        )
        return head + b"".join([_ENTRY.pack(*entry) for entry in position.vector])
    except StructError as error:
        raise InvalidRequest(f"position cannot be stored: {error}") from error


def decode_position(data: bytes) -> Position:
    """The position that `data` is. Raises Corrupt."""
    try:
        format_, next_offset, term, session, sequence, caught_up_session, entries = _POSITION.unpack_from(data)
        check_format("position", format_, FORMAT)
        vector: Vector = tuple(_ENTRY.iter_unpack(data[_POSITION.size :]))
    except StructError as error:
        raise Corrupt(f"position of {len(data)} bytes is cut short", hint=_REPLACE) from error
    if len(vector) != entries:
        raise Corrupt(f"position holds {len(vector)} vector entries, not {entries}", hint=_REPLACE)
    return Position(
        next_offset=next_offset,
        vector=vector,
        term=term,
        session=session,
        sequence=sequence,
        caught_up_session=caught_up_session,
    )


def encode_identity(identity: Identity) -> bytes:
    """The bytes of an identity: JSON with sorted members."""
    return dump({"format": FORMAT, **asdict(identity)})


def decode_identity(data: bytes) -> Identity:
    """The identity that `data` is. Raises Corrupt."""
    members = load("replica identity", data, FORMAT)
    return parse(
        "replica identity",
        lambda: Identity(
            store=string(members, "store"),
            version=count(members, "version"),
            partition=count(members, "partition"),
            topic_id=string(members, "topic_id"),
            incarnation=string(members, "incarnation"),
            snapshot_sha256=string(members, "snapshot_sha256"),
        ),
    )
