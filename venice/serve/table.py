"""Where one version of a store is, as all answers of a router share it.

Read path: client → router | relay → **table** → upstream → worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from venice import wire
from venice.message import Headers, Response, render_head
from venice.model import Store, Version
from venice.serve.upstream import Upstream


class Table:
    """Where one version of a store is, and what the answers from it share."""

    def __init__(self, store: Store, version: Version, sequence: int, replicas: Sequence[Sequence[Upstream]]) -> None:
        self.number = version.number
        self.count = version.partition_count
        self.replicas = replicas
        named = {**wire.COMMON, wire.STORE_VERSION: b"%d" % version.number, wire.CATALOG_SEQUENCE: b"%d" % sequence}
        self._fields = {**named, wire.COMPRESSION: version.compression.value.encode(), b"content-type": wire.AVRO}
        self._found: dict[bytes, Headers] = {}
        self.heads: dict[bytes, tuple[bytes, int]] = {}
        """As a `Relay`'s."""
        self.missing_headers = Headers(named)
        self._missing_head = render_head(404, self.missing_headers, False) + b"Content-Length: 0\r\n\r\n"
        self.batch_headers = Headers(self._fields)
        self.stream_headers = Headers({**self._fields, wire.STREAMING_RESPONSE: b"1"})
        self._get_head = b"X-VENICE-API-VERSION: %d\r\nX-VENICE-STORE-VERSION: %d\r\n\r\n" % (wire.API_VERSION, version.number)

    def found_headers(self, answer: Response) -> Headers:
        """Headers for the client of a value that a worker has found."""
        schema_id = answer.headers.get(wire.SCHEMA_ID, b"")
        headers = self._found.get(schema_id)
        if headers is None:
            headers = self._found[schema_id] = Headers({**self._fields, wire.SCHEMA_ID: schema_id})
        return headers

    def head_for(self, answer: Response) -> bytes | None:
        """As a `Relay`'s: of a value, or of none."""
        if answer.status == 200:
            return b"%bContent-Length: %d\r\n\r\n" % (self.found_headers(answer).ok_head, len(answer.body))
        if answer.status == 404 and wire.ERROR not in answer.headers:
            return self._missing_head
        return None

    def get_request(self, upstream: Upstream, target: bytes) -> bytes:
        return b"GET %b HTTP/1.1\r\nHost: %b\r\n%b" % (target, upstream.host_header, self._get_head)

    def batch_request(self, upstream: Upstream, target: bytes, body: bytes, streaming: bool) -> bytes:
        stream = b"X-VENICE-STREAMING: 1\r\n" if streaming else b""
        head = b"POST %b HTTP/1.1\r\nHost: %b\r\nX-VENICE-ROUTED: 1\r\nContent-Length: %d\r\n%b%b"
        return head % (target, upstream.host_header, len(body), stream, self._get_head) + body
