"""HTTP over kept-alive connections, for asyncio: `transport.py` without threads.

Read path: client → **transport** → wire → router → worker → storage.
"""

from __future__ import annotations

import asyncio
from typing import Self, cast

from venice.client.transport import IDLE_MAX, KnownHeads, address_of, check_timeout, closed, cut, host_of, keeps, unreachable
from venice.errors import InvalidRequest
from venice.message import Request, Response, ResponseParser, render_request

_UNREAD_MAX = 256 * 1024
"""A server that is faster than its reader is told to wait beyond so many bytes."""


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self) -> None:
        self.parser = ResponseParser()
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > _UNREAD_MAX and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # For the owner.

    @property
    def is_usable(self) -> bool:
        """Whether it is open and nothing has arrived that nobody asked for."""
        return not self._ended and not self._unread and not self._transport.is_closing()

    async def exchange(self, data: bytes) -> bytes:
        """Send `data`; the first bytes that come back, none if the server has closed. Raises OSError."""
        self._transport.write(data)
        return await self.receive()

    async def receive(self) -> bytes:
        """What has arrived, waiting for it if need be; none if the server has closed. Raises OSError."""
        while not self._unread:
            if self._ended:
                if isinstance(self._error, OSError):
                    raise self._error
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_bytes = 0
        if self._paused:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def close(self) -> None:
        """What was written and not yet sent is lost."""
        self._transport.abort()


class AsyncBody:
    """An answer's body in pieces, as they arrive. Close it: what is not read to its end costs the connection."""

    def __init__(self, transport: AsyncTransport, connection: _Connection, answers: list[Response]) -> None:
        self._transport = transport
        self._connection: _Connection | None = connection
        self._answers = answers

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while self._connection is not None:
            part = await self._next(self._connection)
            if part:
                return part
        raise StopAsyncIteration

    async def _next(self, connection: _Connection) -> bytes:
        if self._answers:
            self._connection = None
            self._transport.give_back(connection, self._answers)
            return self._answers[0].body
        part = connection.parser.drain()
        if not part:
            try:
                self._answers = await self._transport.receive(connection)
            except BaseException:
                self.close()
                raise
        return part

    def close(self) -> None:
        """Give up what has not arrived. Closing again does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class AsyncTransport:
    """Carries requests to one server over a pool of connections, in the event loop of its first request.

    Args:
        url: `http://HOST:PORT`.
        timeout_s: How long to wait for a connection, and for a whole answer; in a stream, for its head and each piece.

    Raises:
        InvalidRequest: The URL is not one.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._address = address_of(url)
        self._host = host_of(*self._address)
        self._timeout_s = check_timeout(timeout_s)
        self._heads = KnownHeads()
        self._idle: list[_Connection] = []
        # Who asks for more at once waits for its turn: a server turns a peer away that opens connections by the hundred.
        self._places = asyncio.Semaphore(IDLE_MAX)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.url = url

    async def send(self, request: Request) -> Response:
        """The whole answer.

        Raises:
            Unavailable: No whole answer came in time.
            Corrupt: What came is not HTTP.
            InvalidRequest: The transport is closed, or belongs to another event loop.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._places:
                connection, data = await self._begin(request)
                answer = self._heads.answer(data)
                if answer is not None:
                    self._keep(connection)
                    return answer
                answers = await self._answers(connection, data)
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error
        self.give_back(connection, answers)
        return answers[0]

    async def stream(self, request: Request) -> tuple[Response, AsyncBody]:
        """Status and headers with an empty body, and the body in pieces as they arrive. Raises as `send`, as does the body."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection, data = await self._begin(request)
                answers = await self._answers(connection, data, streaming=True)
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error
        return Response(connection.parser.status, connection.parser.headers), AsyncBody(self, connection, answers)

    async def close(self) -> None:
        """Close what is idle now, and the rest when it is given back. Closing again does nothing."""
        self._closed = True
        self.drop_idle()
        await asyncio.sleep(0)  # the loop closes the sockets in its next turn

    def drop_idle(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def warm(self) -> None:
        """Be connected. Raises as `send`."""
        if any(connection.is_usable for connection in self._idle):
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                self._keep(await self._connect())
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error

    # For the bodies.

    def give_back(self, connection: _Connection, answers: list[Response]) -> None:
        """Keep a connection whose answer is complete."""
        if len(answers) == 1 and keeps(answers[0]):
            self._keep(connection)
        else:
            connection.close()

    async def receive(self, connection: _Connection) -> list[Response]:
        """The answers completed by the next piece. Raises as `send`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._receive(connection)
        except OSError as error:
            raise unreachable(self.url, error, self._timeout_s) from error

    # Connections.

    def _keep(self, connection: _Connection) -> None:
        if self._closed or len(self._idle) >= IDLE_MAX:
            connection.close()
        else:
            self._idle.append(connection)

    async def _answers(self, connection: _Connection, data: bytes, *, streaming: bool = False) -> list[Response]:
        """The answers once the one that begins with `data` is complete; in a stream, once its head is."""
        try:
            answers = connection.parser.feed(data)
            if answers:
                self._heads.learn(data, answers)
            while not answers and not (streaming and connection.parser.status):
                answers = await self._receive(connection)
        except BaseException:
            connection.close()
            raise
        return answers

    async def _receive(self, connection: _Connection) -> list[Response]:
        data = await connection.receive()
        if not data:
            raise cut(self.url)
        return connection.parser.feed(data)

    async def _begin(self, request: Request) -> tuple[_Connection, bytes]:
        """Send a request: the connection it went out on, and the first bytes of the answer."""
        self._check()
        data = render_request(request, self._host)
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                first = await self._exchange(connection, data, kept=True)
                if first:
                    return connection, first
                # The server has closed a kept connection, as it may; the others are hardly better.
                self.drop_idle()
            connection.close()
        connection = await self._connect()
        return connection, await self._exchange(connection, data, kept=False)

    def _check(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise closed(self.url)
        if self._loop is not loop:
            if self._loop is not None:
                raise InvalidRequest(f"the client of {self.url} belongs to another event loop", hint="open one in each loop")
            self._loop = loop
        return loop

    async def _connect(self) -> _Connection:
        _, connection = await self._check().create_connection(_Connection, *self._address)
        return connection

    async def _exchange(self, connection: _Connection, data: bytes, *, kept: bool) -> bytes:
        """The first bytes of an answer; none if a kept connection had been closed."""
        try:
            first = await connection.exchange(data)
            if not first and not kept:
                raise cut(self.url)
        except ConnectionError:
            if kept:
                return b""
            connection.close()
            raise
        except BaseException:
            connection.close()
            raise
        return first
