"""One open version of a store, as all answers of a worker share it.

Read path: client → router → http → server | lane → **opened** → storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from venice import wire
from venice.errors import Corrupt, InvalidRequest
from venice.message import Headers, render_head
from venice.model import Store, Version
from venice.schema.codec import key_codec
from venice.storage import PartitionStorage
from venice.storage.format import PREFIX_SIZE, decode_value
from venice.wire import CATALOG_SEQUENCE, STORE_VERSION

OpenVersions = Mapping[tuple[str, int], Mapping[int, PartitionStorage]]
"""(store, version) → partition → storage; replaced as a whole, never changed."""


_HEADS_MAX = 4096


class Misdirected(Exception):
    """This process cannot answer: why, in one sentence."""


class Kept(NamedTuple):
    """What stored values with one prefix have in common."""

    headers: Headers
    offset: int
    """Where the Avro bytes begin."""
    schema_id: int


class OpenVersion:
    """One open version of a store: all that answers from it share."""

    __slots__ = (
        *("_fields", "batch_headers", "count", "heads", "keys", "known", "missing_head", "missing_headers", "name", "number", "storages"),
        "stream_headers",
    )

    def __init__(self, store: Store, version: Version, sequence: int, storages: Mapping[int, PartitionStorage]) -> None:
        self.name = store.name
        self.number = version.number
        self.count = version.partition_count
        self.storages = storages
        self.keys = key_codec(store.key_schema)
        named = {**wire.COMMON, STORE_VERSION: b"%d" % version.number, CATALOG_SEQUENCE: b"%d" % sequence}
        self._fields = {**named, wire.COMPRESSION: version.compression.value.encode(), b"content-type": wire.AVRO}
        self.known: dict[bytes, Kept] = {}
        """By the first bytes of a stored value, which decide all that comes before its Avro bytes."""
        self.heads: dict[tuple[bytes, int], tuple[bytes, int]] = {}
        """By the first bytes of a stored value and its size: all of the answer before the Avro bytes, and where those begin."""
        self.missing_headers = Headers(named)
        self.missing_head = render_head(404, self.missing_headers, False) + b"Content-Length: 0\r\n\r\n"
        self.batch_headers = Headers(self._fields)
        self.stream_headers = Headers({**self._fields, wire.STREAMING_RESPONSE: b"1"})

    def keep(self, stored: bytes) -> Kept:
        """What `known` will say of stored values that begin as this one does. Raises Corrupt."""
        value = decode_value(stored)
        headers = Headers({**self._fields, wire.SCHEMA_ID: b"%d" % value.schema_id})
        kept = self.known[stored[:PREFIX_SIZE]] = Kept(headers, value.offset, value.schema_id)
        return kept

    def head(self, stored: bytes) -> tuple[bytes, int]:
        """What `heads` will say of stored values that begin as this one does and are as long. Raises Corrupt."""
        start = stored[:PREFIX_SIZE]
        headers, offset, _ = self.known.get(start) or self.keep(stored)
        if len(self.heads) >= _HEADS_MAX:
            self.heads.clear()
        found = self.heads[start, len(stored)] = b"%bContent-Length: %d\r\n\r\n" % (headers.ok_head, len(stored) - offset), offset
        return found

    def storage(self, partition: int) -> PartitionStorage:
        storage = self.storages.get(partition)
        if storage is None:
            raise Misdirected(f"partition {partition} of {self.name!r} version {self.number} is not here")
        return storage

    def check_missing(self, key: bytes) -> None:
        """A key that is there is a key; one that is not may be anything. Raises InvalidRequest."""
        try:
            self.keys.decode(key)
        except Corrupt as error:
            raise InvalidRequest(
                f"key {key[:32].hex()} of store {self.name!r} does not decode: {error.message}",
                hint=f"encode keys with its key schema: {self.keys.schema_json[:500]}",
                store=self.name,
            ) from error
