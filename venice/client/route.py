"""Where one version of a store is and how it is read: what a client that goes to the workers knows at one time. No I/O.

Read path: client → **route** → wire → worker → storage.

A route is of one catalog sequence. All parts of a call follow one route, so that they are of one version; a newer route
takes the place of the whole, never of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from venice.client.requests import schema_id_of
from venice.client.transport import address_of, host_of, keeps
from venice.client.unpacking import Unpack
from venice.errors import Corrupt, Incompatible, InvalidRequest
from venice.message import Headers, Response
from venice.schema.codec import Decode, key_codec, reader
from venice.wire import AVRO, ROUTED, STORE_VERSION, Metadata

_HEADS_MAX = 4096
_HEAVY = 1_000_000
HEAD_END = b"\r\n\r\n"
_PARTITIONS_MAX = 1_000_000
_UPGRADE = "upgrade cluster and client to one release"


class Peer:
    """A server that can be asked: a worker, or the URL the client was given."""

    def __init__(self, url: str) -> None:
        self.host = host_of(*address_of(url))
        self.pending: list[None] = []
        """As long as there are requests under way; a list, because threads can change its length without a lock."""
        self.is_kept = True
        """Whether connections are kept for later."""
        self.down = False
        """It could not be reached, or has let a caller wait too long, and has not been reached since."""
        self.url = url

    def load(self) -> float:
        """The less, the sooner it should be asked."""
        return len(self.pending) + (_HEAVY if self.down else 0)


P = TypeVar("P", bound=Peer)


class Known(NamedTuple):
    """What follows from the head of an answer."""

    decode: Decode
    """Of its body."""
    body_bytes: int


def nothing(data: bytes, offset: int = 0, /) -> None:
    """The `decode` of an answer that says that a key is missing."""


class Route(Generic[P]):
    """How a version is read. Safe to share between threads.

    Args:
        metadata: What it is made of; of a store that has a version.
        peers: The peer at a URL.
        fields: What every request has in its head.

    Raises:
        Corrupt: The metadata makes no sense.
        InvalidRequest: It names a server that cannot be asked.
    """

    def __init__(self, metadata: Metadata, peers: Callable[[str], P], fields: Mapping[bytes, bytes]) -> None:
        count = metadata.partition_count
        if not 0 < count <= _PARTITIONS_MAX or len(metadata.replicas) not in (0, count):
            raise Corrupt(f"metadata of {metadata.store!r} has {count} partitions in {len(metadata.replicas)} places", hint=_UPGRADE)
        self.sequence = metadata.sequence
        self.version = metadata.version
        self.count = count
        self.compression = metadata.compression.encode()
        self.replicas = [tuple(peers(url) for url in urls) for urls in metadata.replicas] or [()] * count
        """By partition; whom to ask first comes first."""
        self.peers = {peer for peers_of_one in self.replicas for peer in peers_of_one}
        self.version_text = b"%d" % metadata.version
        self.headers = Headers({**fields, STORE_VERSION: self.version_text})
        self.batch_headers = Headers({**self.headers, b"content-type": AVRO, ROUTED: b"1"})
        self.tails = {peer: b"?f=b64 HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (peer.host, self.headers.block) for peer in self.peers}
        """All of a get request behind its key."""
        self.known: dict[bytes, Known] = {}
        """By the head of an answer."""
        self.unpack: Unpack | None = None
        """What decompresses values; set before the route is followed, if they are compressed."""
        try:
            self.encode_key: Callable[[Any], bytes] = key_codec(metadata.key_schema).encode
        except InvalidRequest as error:
            raise Corrupt(f"the key schema of {metadata.store!r} is none: {error.message}", hint=_UPGRADE) from error
        self._value_schemas = {schema.id: schema.text for schema in metadata.value_schemas}
        self._latest = self._value_schemas[max(self._value_schemas)] if self._value_schemas else ""
        self._decoders: dict[int, Decode] = {}

    def decoder(self, schema_id: int) -> Decode | None:
        """Reads values of that schema, as they are sent, as those of the latest one; None: there is no such schema yet.

        Raises:
            Corrupt: The schemas are none, or do not fit each other.
        """
        decode = self._decoders.get(schema_id)
        if decode is None and schema_id in self._value_schemas:
            try:
                decode = reader(self._value_schemas[schema_id], self._latest)
            except (InvalidRequest, Incompatible) as error:
                raise Corrupt(f"value schema {schema_id} makes no sense: {error.message}", hint=_UPGRADE) from error
            if self.unpack is not None:
                decode = _unpacking(self.unpack, decode)
            self._decoders[schema_id] = decode
        return decode

    def read_as(self, newest: Route[P]) -> None:
        """Read values as a newer route does, whose schemas are more: ids are never used again in a store."""
        if newest.sequence >= self.sequence:
            self._value_schemas, self._latest = newest._value_schemas, newest._latest
            self._decoders = {}
            self.known = {}

    def demote(self, partition: int, peer: P) -> None:
        """Ask that replica of a partition last: it is not ready."""
        replicas = self.replicas[partition]
        if peer in replicas and replicas[-1] is not peer:
            self.replicas[partition] = (*[other for other in replicas if other is not peer], peer)

    def learn(self, data: bytes, answer: Response) -> None:
        """`answer`, which was judged well, is all that `data` was: answers with the same head need not be looked at.

        Raises:
            Corrupt: It does not say which schema its value is of, or that schema makes no sense.
        """
        head, _, body = data.partition(HEAD_END)
        status, headers, parsed = answer
        if body != parsed or headers.get(b"content-length") != b"%d" % len(body) or not keeps(answer):
            return
        decode = self.decoder(schema_id_of(headers)) if status == 200 else nothing
        if decode is not None:
            if len(self.known) >= _HEADS_MAX:
                self.known.clear()
            self.known[head] = Known(decode, len(body))


def _unpacking(unpack: Unpack, decode: Decode) -> Decode:
    return lambda data, offset=0: decode(unpack(data[offset:] if offset else data), 0)
