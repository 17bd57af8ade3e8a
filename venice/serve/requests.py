"""The bytes that arrive on one connection → requests, within limits. No I/O: `http.py` owns the socket.

Read path: client → wire → **requests** → http → router | server → storage.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import httptools

from venice.errors import Full, InvalidRequest, VeniceError
from venice.message import Request, Response
from venice.wire import error_response


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server takes from clients before it says no."""

    head_bytes_max: int = 16 * 1024
    headers_max: int = 64
    body_bytes_max: int = 4 * 1024 * 1024
    idle_s: float = 75.0
    """A kept connection without a request is closed after so long."""
    read_s: float = 20.0
    """A request must be complete so long after its first byte."""
    write_s: float = 20.0
    """A client that takes nothing of its answer for so long is cut off."""
    linger_s: float = 2.0
    """After the last answer, what the client still sends is thrown away for so long, so that it gets to read the answer."""
    drain_s: float = 5.0
    """When stopping, answers under way have so long to finish."""
    pending_max: int = 4096
    """Requests in awaitable handlers at one time, of all connections."""
    connections_max: int = 8192
    connections_per_peer_max: int = 2048


class _Refused(Exception):
    """Stops the parser; the refusal already stands in the queue."""


_TARGET_BYTES = bytes(range(0x21, 0x7F))
_new = tuple.__new__  # a NamedTuple's own constructor costs twice as much


class RequestParser:
    """Takes what a client sends, in pieces of any size, and queues whole requests.

    What is no request, or too large for one, becomes an error answer in the queue. It is the last entry: after it, as after a
    request with `Connection: close`, the parser is `deaf`.
    """

    __slots__ = (
        *("_body", "_body_room", "_fields", "_headers", "_in_head", "_large", "_limits", "_parser"),
        *("_target", "_unfinished_bytes", "begun", "completed", "deaf", "expects_continue"),
        *("known_end", "known_headers", "on_header", "queue"),
    )

    def __init__(self, limits: Limits) -> None:
        self.queue: deque[Request | Response] = deque()
        """Requests to handle, in order; a Response in it is a refusal."""
        self.deaf = False
        """What still arrives is thrown away."""
        self.begun = False
        """A request has arrived in part."""
        self.completed = 0
        """Requests that became complete with the data fed last."""
        self.expects_continue = False
        """The client waits for `100 Continue` before it sends the body. The owner answers and resets this."""
        self._limits = limits
        self._in_head = True
        self._large = False
        """So much has arrived that a head may be too large."""
        self._unfinished_bytes = 0
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_room = limits.body_bytes_max
        self.known_end: bytes | tuple[()] = ()
        """Of the last plain GET that came alone, what stood behind its target: a client sends the same every time."""
        self.known_headers: dict[bytes, bytes] = {}
        """What httptools said of it."""
        # httptools calls this for each header: a method in Python would cost as much as the rest of the request.
        self.on_header = self._fields.__setitem__
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Take what has arrived; look at `queue` after it."""
        if self.deaf:
            return
        between = not self.begun
        if between and self._is_known(data):
            return
        self.completed = 0
        self._large = self._unfinished_bytes + len(data) > self._limits.head_bytes_max
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request itself is in the queue and gets a plain answer; what follows it is another protocol.
            self.deaf = True
        except httptools.HttpParserError as error:
            if not self.deaf:
                self.refuse(InvalidRequest(f"not an HTTP/1.1 request: {error}", hint="speak HTTP/1.1 on this port"), 400)
        else:
            if not self.completed:
                self._watch(len(data))
            elif between and self.completed == 1 and not self.begun:
                self._learn(data)

    def _is_known(self, data: bytes) -> bool:
        """Queue a GET that ends, byte for byte, as one before did: what httptools said of its header lines holds again."""
        if not data.startswith(b"GET /") or not data.endswith(self.known_end) or len(data) > self._limits.head_bytes_max:
            return False
        target = data[4 : -len(self.known_end)]
        if target.translate(None, _TARGET_BYTES):
            return False
        self.queue.append(_new(Request, (b"GET", target, self.known_headers, b"")))
        self.completed = 1
        return True

    def _learn(self, data: bytes) -> None:
        """`data` was one whole request: remember its header lines if it was a plain GET."""
        headers = self._headers
        line, _, block = data.partition(b"\r\n")
        plain = b"content-length" not in headers and b"transfer-encoding" not in headers and not self.deaf
        if plain and line.startswith(b"GET /") and line.endswith(b" HTTP/1.1"):
            self.known_end = b" HTTP/1.1\r\n" + block
            self.known_headers = headers

    def refuse(self, error: VeniceError, status: int) -> None:
        """Answer with `error` after all requests queued so far, and take nothing more."""
        self.deaf = True
        self.queue.append(error_response(error, status))

    def close(self) -> None:
        """Forget everything; the object is of no more use."""
        self.deaf = True
        self.queue.clear()
        del self._parser  # it refers back to this object

    def _watch(self, count: int) -> None:
        """Note that `count` bytes have arrived and completed no request."""
        self._unfinished_bytes += count
        # httptools shows a header, or a trailer, once it is complete; one that never ends is found here.
        limits = self._limits
        if self._unfinished_bytes > limits.head_bytes_max + (0 if self._in_head else 2 * limits.body_bytes_max):
            self._refuse_head()
        elif not self._in_head and not self._body and self._headers.get(b"expect", b"").lower() == b"100-continue":
            self.expects_continue = True

    def _refuse_head(self) -> None:
        limits = self._limits
        hint = f"send at most {limits.head_bytes_max} bytes in at most {limits.headers_max} headers; long keys go into a batch get"
        self.refuse(Full("the head of the request is too large", hint=hint), 431)

    def _refuse_body(self) -> None:
        error = Full("the body of the request is too large", hint=f"send at most {self._limits.body_bytes_max} bytes: split the batch")
        self.refuse(error, 413)
        raise _Refused

    def _check_head(self) -> None:
        head_bytes = len(self._target) + sum(len(name) + len(value) for name, value in self._headers.items())
        if head_bytes > self._limits.head_bytes_max or len(self._headers) > self._limits.headers_max:
            self._refuse_head()
            raise _Refused

    # What httptools calls.

    def on_message_begin(self) -> None:
        self.begun = True

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._headers = headers = {name.lower(): value for name, value in self._fields.items()}
        self._fields.clear()
        if self._large or len(headers) > self._limits.headers_max:
            self._check_head()
        if b"content-length" in headers and int(headers[b"content-length"]) > self._limits.body_bytes_max:
            self._refuse_body()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_room -= len(body)
        if self._body_room < 0:
            self._refuse_body()

    def on_message_complete(self) -> None:
        body = b""
        if self._body:
            body = b"".join(self._body)
            self._body.clear()
            self._body_room = self._limits.body_bytes_max
        self._fields.clear()  # of trailers
        parser = self._parser
        self.queue.append(_new(Request, (parser.get_method(), self._target, self._headers, body)))
        if not parser.should_keep_alive():
            self.deaf = True
        self.completed += 1
        self._in_head = True
        self.begun = self.expects_continue = False
        self._unfinished_bytes = 0
        self._target = b""
