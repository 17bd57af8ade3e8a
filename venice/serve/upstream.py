"""The router's connections to one worker: kept alive, pipelined, opened when needed.

Read path: client → router → **upstream** → worker.

A request whose connection dies before its whole answer is there fails as `Unavailable`; part of an answer never comes out.
Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Protocol, cast
from urllib.parse import urlsplit

from venice.errors import Corrupt, Unavailable
from venice.message import Response, ResponseParser
from venice.serve.connection import Reply

_BUSY = 8
"""Requests waiting on the least busy connection before another one is opened."""
_PROBE_S = 0.1
"""Between two looks at whether a worker that is down is there again."""
_HEAVY = 1_000_000


_HEAD_END = b"\r\n\r\n"
_HEADS_MAX = 4096


class Relay(Protocol):
    """What a worker's answers become on their way to clients."""

    heads: dict[bytes, tuple[bytes, int]]
    """Head of a worker's answer → head for the client, up to its empty line, and the size of the body."""

    def head_for(self, answer: Response) -> bytes | None:
        """The head for the client; None for an answer that is not passed on."""
        ...


class _Connection(asyncio.Protocol):
    """One connection: requests go out as they come, answers belong to them in order."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = ResponseParser()
        self._waiting: deque[tuple[asyncio.Future[Response] | tuple[Reply, Relay], float]] = deque()
        """Who the answers to come are for, with the loop time by which each must be there."""
        self._transport: asyncio.Transport
        self.closing = False
        """Closed, or about to be: takes no more requests."""

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, request: bytes, deadline: float) -> asyncio.Future[Response]:
        answer: asyncio.Future[Response] = self._upstream.loop.create_future()
        self._waiting.append((answer, deadline))
        self._transport.write(request)
        return answer

    def relay(self, request: bytes, reply: Reply, relay: Relay, deadline: float) -> None:
        self._waiting.append(((reply, relay), deadline))
        self._transport.write(request)

    def check(self, now: float) -> None:
        """Give the connection up if its oldest request has waited too long."""
        if self._waiting and self._waiting[0][1] < now:
            self._transport.abort()

    def close(self) -> None:
        """Close when the answers under way are there."""
        self.closing = True
        if not self._waiting:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        alone = not self._parser.begun
        if alone:
            data = self._pass_on(data)
            if not data:
                if self.closing and not self._waiting:
                    self._transport.close()
                return
        try:
            answers = self._parser.feed(data)
        except Corrupt:
            self._transport.abort()
            return
        for answer in answers:
            if not self._waiting:
                self._transport.abort()  # an answer that nobody has asked for: the order is lost
                return
            asker, _ = self._waiting.popleft()
            if isinstance(asker, tuple):
                head = asker[1].head_for(answer)
                if head is not None and alone and len(answers) == 1:
                    _learn(asker[1], data, head, answer)
                asker[0](None if head is None else head + answer.body)
            elif not asker.done():
                asker.set_result(answer)
            if b"connection" in answer.headers:
                # The worker stops: what it has not answered by now it never will.
                self.closing = True
                self._upstream.forget(self)
                self._transport.abort()
                return
        if self.closing and not self._waiting:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        if not self.closing:
            self._upstream.doubt()
        self.closing = True
        waiting, self._waiting = self._waiting, deque()
        for asker, _ in waiting:
            if isinstance(asker, tuple):
                asker[0](None)
            elif not asker.done():
                asker.set_exception(Unavailable(f"worker {self._upstream.url} broke off before its answer was there"))

    def _pass_on(self, data: bytes) -> bytes:
        """Pass on the answers at the beginning whose heads are, byte for byte, those of answers before; what is left."""
        waiting = self._waiting
        while waiting and data:
            asker = waiting[0][0]
            if not isinstance(asker, tuple):
                break
            end = data.find(_HEAD_END)
            known = asker[1].heads.get(data[:end])
            if known is None:
                break
            stop = end + len(_HEAD_END) + known[1]
            if len(data) < stop:
                break
            waiting.popleft()
            asker[0](known[0] + data[end + len(_HEAD_END) : stop])
            data = data[stop:]
        return data


def _learn(relay: Relay, data: bytes, client_head: bytes, answer: Response) -> None:
    """`data` is all that `answer` was read from: pass on without reading it what begins alike."""
    head, _, body = data.partition(_HEAD_END)
    size = len(answer.body)
    if body == answer.body and answer.headers.get(b"content-length") == b"%d" % size and b"connection" not in answer.headers:
        if len(relay.heads) >= _HEADS_MAX:
            relay.heads.clear()
        relay.heads[head] = client_head, size


class Upstream:
    """All connections to one worker, and whether it is there.

    Args:
        url: `http://HOST:PORT`.
        connections_max: Most connections at one time.
        attempt_s: An answer that is not there after so long counts as lost, with its connection.
    """

    def __init__(self, url: str, *, connections_max: int = 4, attempt_s: float = 2.0) -> None:
        self.url = url
        self.loop = asyncio.get_running_loop()
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self.host_header = b"%b:%d" % (self._host.encode(), self._port)
        self._connections_max = connections_max
        self._attempt_s = attempt_s
        self._connections: list[_Connection] = []
        self._opening: asyncio.Task[_Connection] | None = None
        self._unsent = 0
        """Requests that wait for a connection."""
        self._down = False
        """It could not be reached, or broke off, or was too slow, and has not answered a probe since."""
        self._probing: asyncio.Task[None] | None = None
        self._closed = False
        self._sweep()

    def load(self) -> int:
        """Requests under way; very many if the worker is down, so that no request finds that out which another worker could answer."""
        pending = self._unsent + sum([len(connection) for connection in self._connections])
        return pending + _HEAVY if self._down else pending

    def send(self, request: bytes) -> Awaitable[Response]:
        """The whole answer to a request.

        Raises:
            Unavailable: (when awaited) The worker cannot be reached, is too slow or died before the answer was there.
        """
        best = min(self._connections, key=len) if self._connections else None
        if best is None:
            return self._send_later(request)
        if len(best) >= _BUSY and len(self._connections) < self._connections_max:
            self._open()
        return best.send(request, self.loop.time() + self._attempt_s)

    def relay(self, request: bytes, reply: Reply, relay: Relay) -> bool:
        """Send a request whose answer goes to `reply` as `relay` would have it, or as None if it cannot be passed on.

        Returns:
            False: There is no connection that could take it at once, and no reply will come.
        """
        best = min(self._connections, key=len) if self._connections else None
        if best is None or best.closing or (len(best) >= _BUSY and len(self._connections) < self._connections_max):
            return False
        best.relay(request, reply, relay, self.loop.time() + self._attempt_s)
        return True

    def close(self) -> None:
        """Take no more requests, close each connection when its answers under way are there."""
        self._closed = True
        if self._probing is not None:
            self._probing.cancel()
        for connection in tuple(self._connections):
            connection.close()

    def doubt(self) -> None:
        """Take the worker for down until it has answered a probe, which no request waits for."""
        if not self._closed:
            self._down = True
            if self._probing is None:
                self._probing = self.loop.create_task(self._probe())

    def forget(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)

    async def _send_later(self, request: bytes) -> Response:
        self._unsent += 1
        try:
            # Shielded: others wait for the same connection.
            connection = await asyncio.shield(self._open())
        finally:
            self._unsent -= 1
        if connection.closing:
            raise Unavailable(f"worker {self.url} closed a new connection")
        return await connection.send(request, self.loop.time() + self._attempt_s)

    def _open(self) -> asyncio.Task[_Connection]:
        if self._opening is None:
            self._opening = self.loop.create_task(self._connect())
            self._opening.add_done_callback(_see)
        return self._opening

    async def _connect(self) -> _Connection:
        try:
            if self._closed:
                raise Unavailable(f"worker {self.url} is no longer part of the cluster")
            async with asyncio.timeout(self._attempt_s):
                _, connection = await self.loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except (OSError, TimeoutError) as error:
            self.doubt()
            raise Unavailable(f"worker {self.url} cannot be reached: {error or 'no answer in time'}") from error
        finally:
            self._opening = None
        if not connection.closing:
            self._connections.append(connection)
        return connection

    async def _probe(self) -> None:
        # A stopped process still takes connections, so only an answer counts.
        request = b"GET /health HTTP/1.1\r\nHost: %b\r\n\r\n" % self.host_header
        while not self._closed:
            try:
                await self._send_later(request)
            except Unavailable:
                await asyncio.sleep(_PROBE_S)
            else:
                self._down = False
                break
        self._probing = None

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in tuple(self._connections):
            connection.check(now)
        if self._connections or not self._closed:
            self._sweeper = self.loop.call_later(self._attempt_s / 8, self._sweep)


def _see(task: asyncio.Task[_Connection]) -> None:
    """A spare connection that could not be opened is no loss; without this its exception would be reported."""
    if not task.cancelled():
        task.exception()
