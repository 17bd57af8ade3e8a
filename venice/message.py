"""HTTP messages as values, and their text. Knows nothing of Venice and does no I/O: bytes in, values out.

`venice/wire.py` says which headers and bodies Venice uses; `venice/serve/http.py` is the server's half of the text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import NamedTuple

import httptools

from venice.errors import Corrupt


class Headers(dict[bytes, bytes]):
    """Header fields by lower-case name. Never changed once made: what is rendered from them is rendered once.

    Attributes:
        block: The fields as header lines, each with its line end.
        ok_head: The status line of a 200 and `block`: what nearly every answer begins with.
    """

    __slots__ = ("block", "ok_head")
    block: bytes
    ok_head: bytes

    def __getattr__(self, name: str) -> bytes:
        # Reached once per attribute, which then fills its slot: from then on it costs no call.
        if name == "block":
            self.block = b"".join(b"%b: %b\r\n" % (shown(field), value) for field, value in self.items())
        elif name == "ok_head":
            self.ok_head = b"HTTP/1.1 200 OK\r\n" + self.block
        else:
            raise AttributeError(name)
        return self.block if name == "block" else self.ok_head


def shown(name: bytes) -> bytes:
    """A header's name as people write it."""
    return name.upper() if name.startswith(b"x-venice") else name.title()


class Request(NamedTuple):
    """One HTTP request. A HEAD request is a GET here: the driver leaves the body out."""

    method: bytes
    target: bytes
    """Path and query as sent: percent-encoded."""
    headers: Mapping[bytes, bytes]
    body: bytes = b""


class Response(NamedTuple):
    """One HTTP answer with its whole body."""

    status: int
    headers: Headers
    body: bytes = b""


class Streamed(NamedTuple):
    """An answer whose body is sent in pieces as they come. If `parts` raises, the connection is cut: the client sees no end."""

    status: int
    headers: Headers
    parts: AsyncIterator[bytes]


def render_request(request: Request, host: bytes) -> bytes:
    """The bytes of a request on a kept-alive connection to `host` (HOST:PORT)."""
    block = request.headers.block if isinstance(request.headers, Headers) else Headers(request.headers).block
    if request.body or request.method != b"GET":
        block += b"Content-Length: %d\r\n" % len(request.body)
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n%b" % (request.method, request.target, host, block, request.body)


_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


def render_head(status: int, headers: Headers, closing: bool) -> bytes:
    """An answer's head up to the header that tells how long the body is; `closing` says that no other answer follows."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d -\r\n" % status
    return line + headers.block + (b"Connection: close\r\n" if closing else b"")


class ResponseParser:
    """The bytes that arrive on one connection → answers, in order.

    An answer that ends with the connection instead of after its announced length never comes out: it may be cut.
    """

    __slots__ = ("_done", "_parser", "_parts", "begun", "headers", "status")

    def __init__(self) -> None:
        self.begun = False
        """An answer has arrived in part."""
        self.status = 0
        """Of the answer under way, once its headers are complete; 0 before."""
        self.headers = Headers()
        self._parts: list[bytes] = []
        self._done: list[Response] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[Response]:
        """The answers completed by `data`.

        Raises:
            Corrupt: It is not HTTP; close the connection.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise Corrupt(f"the answer is not HTTP: {error}", hint="check that the URL names a Venice router or worker") from error
        if not self._done:
            return []
        done, self._done = self._done, []
        return done

    def drain(self) -> bytes:
        """What has arrived of the body under way since the last call; the completed answer then has only the rest."""
        part = b"".join(self._parts)
        self._parts.clear()
        return part

    def on_message_begin(self) -> None:
        self.begun = True
        self.status = 0
        self.headers = Headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self.status = status if status >= 200 else 0

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.begun = False
        if self.status:
            self._done.append(Response(self.status, self.headers, self.drain()))
