"""HTTP over kept-alive sockets, for threads: what carries the requests of a remote client to its server.

Read path: client → **transport** → wire → router → worker → storage. `transport_async.py` is the same for asyncio.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from venice.clock import Clock
from venice.errors import InvalidRequest, Unavailable, VeniceError
from venice.message import Headers, Request, Response, ResponseParser, render_request

RECEIVED_MAX = 64 * 1024
"""Bytes taken from a socket at a time."""
IDLE_MAX = 32
"""Connections kept for later; more may be open at one time."""
_HEADS_MAX = 512
_HEAD_END = b"\r\n\r\n"

_new = tuple.__new__  # a NamedTuple's own constructor costs twice as much


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a server's URL.

    Raises:
        InvalidRequest: It is not `http://HOST:PORT`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
        (host or "").encode("idna")  # as the lookup of the name will: it has labels, none too long
    except ValueError:
        host, port = None, 0
    plain = url.isascii() and url.isprintable() and " " not in url
    if (
        not host
        or not plain
        or parts.scheme != "http"
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise InvalidRequest(f"{url!r} is not the URL of a server", hint="give http://HOST:PORT, for example http://127.0.0.1:7071")
    return host, port


def host_of(host: str, port: int) -> bytes:
    """What the Host header says."""
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()


def check_timeout(timeout_s: float) -> float:
    """`timeout_s` itself. Raises InvalidRequest if nobody can wait so long."""
    if not 0.001 <= timeout_s <= 1_000_000:
        raise InvalidRequest(f"timeout_s is {timeout_s}", hint="give seconds, from 0.001 to 1000000")
    return timeout_s


def unreachable(url: str, error: OSError, timeout_s: float) -> Unavailable:
    """The error for a connection that failed."""
    if isinstance(error, TimeoutError | BlockingIOError):
        return Unavailable(f"{url} did not answer within {timeout_s:g} s", hint="try again, or allow more time with timeout_s", url=url)
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(f"nothing listens at {url}", hint="start Venice there (`venice up`), or correct the URL", url=url)
    return Unavailable(f"{url} cannot be reached: {error}", hint="check the URL and the network, then try again", url=url)


def cut(url: str) -> Unavailable:
    """The error for a connection that ended before the answer did."""
    return Unavailable(f"{url} closed the connection before its answer was complete", hint="try again", url=url)


def keeps(answer: Response) -> bool:
    """Whether the connection may carry another request after this answer."""
    return answer.headers.get(b"connection", b"").lower() != b"close"


class _Head(NamedTuple):
    """What the parser made of an answer's head."""

    status: int
    headers: Headers
    body_bytes: int


class KnownHeads:
    """Answers of one server whose heads are, byte for byte, those of answers before: what the parser said of them holds again.

    A server's answers differ in little but their bodies, and parsing a head costs more than all else that is done with a
    small answer. Safe to share between threads.
    """

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, _Head] = {}

    def answer(self, data: bytes) -> Response | None:
        """The answer that `data` is, if it is exactly one with a known head."""
        head, _, body = data.partition(_HEAD_END)
        known = self._heads.get(head)
        if known is None or known.body_bytes != len(body):
            return None
        return _new(Response, (known.status, known.headers, body))

    def learn(self, data: bytes, answers: list[Response]) -> None:
        """`data` is all that the parser was given for `answers`."""
        head, _, body = data.partition(_HEAD_END)
        status, headers, parsed = answers[0]
        if len(answers) > 1 or body != parsed or headers.get(b"content-length") != b"%d" % len(body) or not keeps(answers[0]):
            return
        if len(self._heads) >= _HEADS_MAX:
            self._heads.clear()
        self._heads[head] = _Head(status, headers, len(body))


class Connection:
    """One connection: one request at a time."""

    __slots__ = ("parser", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.parser = ResponseParser()

    def exchange(self, data: bytes) -> bytes:
        """Send `data`; the first bytes that come back, none if the server has closed."""
        self.socket.sendall(data)
        return self.socket.recv(RECEIVED_MAX)

    def limit(self, timeout_s: float, *, send_s: float | None = None) -> None:
        """Let no single call take longer; sending, `send_s` if that is given. Raises TimeoutError or BlockingIOError from then on."""
        self.socket.settimeout(timeout_s)
        if sys.platform in ("linux", "darwin") and sys.maxsize > 2**32:
            # The kernel keeps these without the poll before each call that Python's own timeouts cost.
            for option, limit_s in ((socket.SO_RCVTIMEO, timeout_s), (socket.SO_SNDTIMEO, send_s or timeout_s)):
                self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(limit_s), int(limit_s % 1 * 1_000_000)))
            self.socket.settimeout(None)

    def close(self) -> None:
        self.socket.close()


class Body:
    """An answer's body in pieces, as they arrive. Close it: what is not read to its end costs the connection."""

    def __init__(self, transport: SocketTransport, connection: Connection, answers: list[Response]) -> None:
        self._transport = transport
        self._connection: Connection | None = connection
        self._answers = answers

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while self._connection is not None:
            part = self._next(self._connection)
            if part:
                return part
        raise StopIteration

    def _next(self, connection: Connection) -> bytes:
        if self._answers:
            self._connection = None
            self._transport.give_back(connection, self._answers)
            return self._answers[0].body
        part = connection.parser.drain()
        if not part:
            try:
                self._answers = self._transport.receive(connection)
            except BaseException:
                self.close()
                raise
        return part

    def close(self) -> None:
        """Give up what has not arrived. Closing again does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self.close()


class SocketTransport:
    """Carries requests to one server over a pool of connections; safe to share: a thread never waits for another.

    Args:
        url: `http://HOST:PORT`.
        timeout_s: How long to wait for a connection, for an answer to begin, and for all of it to arrive; in a stream, for
            each piece.
        clock: Measures the waiting.

    Raises:
        InvalidRequest: The URL is not one.
    """

    def __init__(self, url: str, *, timeout_s: float, clock: Clock) -> None:
        self._address = address_of(url)
        self._host = host_of(*self._address)
        self._clock = clock
        self._timeout_s = check_timeout(timeout_s)
        self._heads = KnownHeads()
        self._idle: list[Connection] = []
        self._process = os.getpid()
        self._closed = False
        self.url = url

    def send(self, request: Request) -> Response:
        """The whole answer.

        Raises:
            Unavailable: No whole answer came in time.
            Corrupt: What came is not HTTP.
            InvalidRequest: The transport is closed.
        """
        connection, data = self._begin(request)
        answer = self._heads.answer(data)
        if answer is not None:
            self._keep(connection)
            return answer
        answers = self._answers(connection, data)
        self.give_back(connection, answers)
        return answers[0]

    def stream(self, request: Request) -> tuple[Response, Body]:
        """Status and headers with an empty body, and the body in pieces as they arrive. Raises as `send`, as does the body."""
        connection, data = self._begin(request)
        answers = self._answers(connection, data, streaming=True)
        return Response(connection.parser.status, connection.parser.headers), Body(self, connection, answers)

    def close(self) -> None:
        """Close what is idle now, and the rest when it is given back. Closing again does nothing."""
        self._closed = True
        self._drop_idle()

    # For the bodies.

    def give_back(self, connection: Connection, answers: list[Response]) -> None:
        """Keep a connection whose answer is complete."""
        if len(answers) == 1 and keeps(answers[0]):
            self._keep(connection)
        else:
            connection.close()

    def receive(self, connection: Connection) -> list[Response]:
        """The answers completed by the next piece. Raises as `send`."""
        try:
            data = connection.socket.recv(RECEIVED_MAX)
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error
        if not data:
            raise cut(self.url)
        return connection.parser.feed(data)

    # Connections.

    def _keep(self, connection: Connection) -> None:
        if len(self._idle) >= IDLE_MAX:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # asked last, so that `close` and this cannot miss each other
            self._drop_idle()

    def _begin(self, request: Request) -> tuple[Connection, bytes]:
        """Send a request: the connection it went out on, and the first bytes of the answer."""
        data = render_request(request, self._host)
        if self._closed:
            raise closed(self.url)
        if self._process != os.getpid():
            # A fork has copied the sockets: whatever one process reads, the other does not.
            self._process = os.getpid()
            self._drop_idle()
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                return self._begin_fresh(data)
            try:
                first = connection.exchange(data)
            except ConnectionError:
                first = b""
            except BaseException:
                connection.close()
                raise
            if first:
                return connection, first
            # The server has closed a kept connection, as it may; the others are hardly better.
            connection.close()
            self._drop_idle()
            return self._begin_fresh(data)
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error

    def _begin_fresh(self, data: bytes) -> tuple[Connection, bytes]:
        opened = socket.create_connection(self._address, self._timeout_s)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(opened)
        try:
            connection.limit(self._timeout_s)
            first = connection.exchange(data)
            if not first:
                raise cut(self.url)
        except BaseException:
            connection.close()
            raise
        return connection, first

    def _answers(self, connection: Connection, data: bytes, *, streaming: bool = False) -> list[Response]:
        """The answers once the one that begins with `data` is complete; in a stream, once its head is."""
        try:
            answers = connection.parser.feed(data)
            if answers:
                self._heads.learn(data, answers)
            elif not (streaming and connection.parser.status):
                answers = self._rest(connection, streaming)
        except BaseException:
            connection.close()
            raise
        return answers

    def _rest(self, connection: Connection, streaming: bool) -> list[Response]:
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        answers: list[Response] = []
        while not answers and not (streaming and connection.parser.status):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise unreachable(self.url, TimeoutError(), self._timeout_s)
            connection.socket.settimeout(left_s)
            answers = self.receive(connection)
        connection.limit(self._timeout_s)
        return answers

    def _drop_idle(self) -> None:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                return  # another thread has just taken it
            connection.close()


def closed(url: str) -> VeniceError:
    """The error for a call on a closed client."""
    return InvalidRequest(f"the client of {url} is closed", hint="open a new one")
