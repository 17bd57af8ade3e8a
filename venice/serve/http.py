"""An HTTP/1.1 server without a framework: uvloop, the httptools parser, and a handler `Request -> Response`.

Read path: client → wire → **http** → router | server → storage.

A handler either returns its answer or an awaitable of it; the first costs no task. Answers leave in the order of their
requests. Every limit belongs to this driver (`Limits`): a handler sees complete requests of bounded size only. What is not
HTTP gets 400 and the connection is closed.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import cast

import uvloop

from venice.errors import Conflict, InvalidRequest, Unavailable, VeniceError
from venice.message import Request, Response, Streamed, render_head
from venice.serve.requests import Limits, RequestParser
from venice.wire import error_response

Handler = Callable[[Request], Response | Awaitable[Response | Streamed]]

_LENGTHS_KEPT = 4096
_LENGTHS = [b"Content-Length: %d\r\n\r\n" % length for length in range(_LENGTHS_KEPT)]
_PUMPED_MAX = 128
"""Pipelined requests answered before other connections have their turn."""
_COPIED_MAX = 64 * 1024
"""Bodies up to this size are copied behind their head, larger ones are written by themselves."""

_TOO_MANY_REQUESTS = error_response(Unavailable("too many requests are under way", hint="try again, with fewer at a time"))
_TOO_MANY_CONNECTIONS = error_response(Unavailable("too many connections are open", hint="close some, or keep and share them"))


class _Connection(asyncio.Protocol):
    """One client's connection: bytes → queue of requests → handler → bytes."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._requests = RequestParser(server.limits)
        self._task: asyncio.Task[None] | None = None
        """The awaitable answer under way."""
        self._writable: asyncio.Future[None] | None = None
        """Pending while the client is slower than its answers."""
        self._ended = False
        """The client has closed its half."""
        self._lingering = False
        self._held = False
        """Reading is paused: there is enough to answer."""
        self._since = server.now
        """When the state began that a timeout belongs to."""

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it
        peername = transport.get_extra_info("peername")
        self.peer = str(peername[0]) if peername else ""
        if not self._server.admit(self):
            self._requests.deaf = True
            self._write(_TOO_MANY_CONNECTIONS, False)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._requests.close()
        if self._task is not None:
            self._task.cancel()  # nobody is left to answer
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        requests = self._requests
        if requests.deaf:
            return
        waiting = requests.begun
        requests.feed(data)
        if not waiting or requests.completed:
            self._since = self._server.now
        if requests.expects_continue:
            self._continue()
        if requests.queue:
            self._pump()

    def eof_received(self) -> bool:
        self._requests.deaf = self._ended = True
        # A client may close its half and wait for what it has asked.
        return bool(self._requests.queue or self._task) and not self._lingering

    def pause_writing(self) -> None:
        self._writable = self._server.loop.create_future()
        self._since = self._server.now

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._since = self._server.now
        self._pump()

    def _continue(self) -> None:
        self._requests.expects_continue = False
        if not self._requests.queue and self._task is None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # From the queue to the transport.

    def _pump(self) -> None:
        """Answer what can be answered now."""
        queue = self._requests.queue
        turns = 0
        while queue and self._task is None and self._writable is None:
            if turns == _PUMPED_MAX:
                self._server.loop.call_soon(self._pump)
                break
            turns += 1
            request = queue.popleft()
            if type(request) is Request:
                self._answer(request)
            else:
                self._write(cast(Response, request), False)
        if queue:
            if not self._held and not self._transport.is_closing():
                self._held = True
                self._transport.pause_reading()
        elif self._requests.deaf:
            if self._task is None:
                self._close()
        elif self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def _answer(self, request: Request) -> None:
        bodyless = request[0] == b"HEAD"
        if bodyless:
            request = request._replace(method=b"GET")
        server = self._server
        try:
            answer = server.handler(request)
        except Exception as error:  # noqa: BLE001 - the process outlives a handler's bug, which is reported
            answer = server.failure(error)
        if isinstance(answer, Response):
            self._write(answer, bodyless)
        elif server.pending < self._limits.pending_max:
            server.pending += 1
            self._task = server.loop.create_task(self._answer_later(answer, bodyless))
            self._task.add_done_callback(self._answered)
        else:
            if isinstance(answer, Coroutine):
                answer.close()
            self._write(_TOO_MANY_REQUESTS, bodyless)

    async def _answer_later(self, answer: Awaitable[Response | Streamed], bodyless: bool) -> None:
        try:
            response = await answer
        except Exception as error:  # noqa: BLE001 - as above
            response = self._server.failure(error)
        if isinstance(response, Response):
            self._write(response, bodyless)
        else:
            await self._stream(response, bodyless)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._server.pending -= 1
        self._task = None
        if not task.cancelled():
            self._pump()

    def _write(self, response: Response, bodyless: bool) -> None:
        status, headers, body = response
        if status == 200 and not self._requests.deaf:
            head = headers.ok_head
        else:
            head = render_head(status, headers, self._requests.deaf and not self._requests.queue)
        length = len(body)
        end = _LENGTHS[length] if length < _LENGTHS_KEPT else b"Content-Length: %d\r\n\r\n" % length
        if bodyless:
            self._transport.write(head + end)
        elif length > _COPIED_MAX:
            self._transport.writelines((head, end, body))
        else:
            self._transport.write(b"".join((head, end, body)))

    async def _stream(self, answer: Streamed, bodyless: bool) -> None:
        status, headers, parts = answer
        closing = self._requests.deaf and not self._requests.queue
        self._transport.write(render_head(status, headers, closing) + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            async for part in parts:
                if part and not bodyless:
                    self._transport.writelines((b"%x\r\n" % len(part), part, b"\r\n"))
                if self._writable is not None:
                    await self._writable
        except Exception as error:  # noqa: BLE001 - as above
            self._server.failure(error)
            self._transport.abort()
        else:
            if not bodyless:
                self._transport.write(b"0\r\n\r\n")

    # The end.

    def _close(self) -> None:
        """Everything is answered and nothing more is read."""
        if self._lingering or self._transport.is_closing():
            return
        if self._ended or self._server.stopping:
            self._transport.close()
            return
        # Closing a socket with unread data resets it, and the client may never see the answer.
        self._lingering = True
        self._since = self._server.now
        self._transport.write_eof()
        if self._held:
            self._held = False
            self._transport.resume_reading()

    def check(self, now: float) -> None:
        """End what takes too long."""
        limits = self._limits
        waited_s = now - self._since
        if self._lingering:
            if waited_s > limits.linger_s:
                self._transport.abort()
        elif self._transport.is_closing():
            if waited_s > limits.write_s:
                self._transport.abort()  # it takes nothing, not even what was written before the end
        elif self._writable is not None:
            if waited_s > limits.write_s:
                self._transport.abort()
        elif self._task is not None or self._requests.queue or self._requests.deaf:
            return
        elif self._requests.begun:
            if waited_s > limits.read_s:
                self._requests.refuse(Unavailable("the request did not arrive in time", hint="send it without pauses"), 408)
                self._pump()
        elif waited_s > limits.idle_s:
            self._transport.close()

    def drain(self) -> None:
        """Answer what has arrived, take nothing more, close."""
        self._requests.deaf = True
        if self._lingering or not (self._requests.queue or self._task):
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()


class HttpServer:
    """Serves `handler` on a port: in a thread of its own (`start`, `stop`) or in the running loop (`listen`, `drain`).

    Args:
        handler: Called in the loop's thread for each request. A VeniceError it raises becomes the answer; any other
            exception becomes a 500 and goes to the loop's exception handler.
        host: Address to listen on.
        port: 0 takes a free one; see `port` once it listens.
        limits: What it takes from clients.
        on_stop: Awaited in the loop when the last answer is out, or given up.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        limits: Limits | None = None,
        on_stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.handler = handler
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.loop: asyncio.AbstractEventLoop
        self.now = 0.0
        """The loop's time, in steps of a sweep: exact enough for timeouts and free to read."""
        self.pending = 0
        self.stopping = False
        self._on_stop = on_stop
        self._connections: set[_Connection] = set()
        self._peers: Counter[str] = Counter()
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event
        self._sweeper: asyncio.TimerHandle

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    # In a thread of its own.

    def start(self) -> None:
        """Serve in a new thread; returns once the port is open.

        Raises:
            Conflict: The port is taken.
            InvalidRequest: The address cannot be listened on.
        """
        opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=f"http-{self.port}", daemon=True)
        self._thread.start()
        opened.result()

    def stop(self) -> None:
        """Drain and end the thread. Stopping again does nothing."""
        if self._thread is not None and self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def _run(self, opened: Future[None]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve(opened))

    async def _serve(self, opened: Future[None]) -> None:
        self._stop = asyncio.Event()
        try:
            await self.listen()
        except Exception as error:  # noqa: BLE001 - it goes to the caller of start
            opened.set_exception(error)
            return
        opened.set_result(None)
        await self._stop.wait()
        await self.drain()

    # In the running loop.

    async def listen(self) -> None:
        """Open the port in the running loop. Raises as `start`."""
        self.loop = asyncio.get_running_loop()
        if not 0 <= self.port <= 65_535:  # uvloop would take it modulo 65536
            raise _cannot_listen(OverflowError("a port is a number up to 65535"), self.host, self.port)
        try:
            self._listener = await self.loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=1024)
        except OSError as error:
            raise _cannot_listen(error, self.host, self.port) from error
        self.port = self._listener.sockets[0].getsockname()[1]
        self._sweep()

    async def drain(self) -> None:
        """Close the port, let the answers under way finish for `drain_s`, cut the rest."""
        self.stopping = True
        self._listener.close()
        for connection in tuple(self._connections):
            connection.drain()
        deadline = self.loop.time() + self.limits.drain_s
        while self._connections and self.loop.time() < deadline:
            await asyncio.sleep(0.005)
        for connection in tuple(self._connections):
            connection.abort()
        if self._on_stop is not None:
            await self._on_stop()
        while self._connections:
            await asyncio.sleep(0)
        self._sweeper.cancel()

    def _sweep(self) -> None:
        limits = self.limits
        self.now = self.loop.time()
        for connection in tuple(self._connections):
            connection.check(self.now)
        period_s = min(limits.idle_s, limits.read_s, limits.write_s, limits.linger_s) / 4
        self._sweeper = self.loop.call_later(min(max(period_s, 0.01), 1.0), self._sweep)

    # For the connections.

    def admit(self, connection: _Connection) -> bool:
        """Count the connection in; False if there are too many."""
        peer = connection.peer
        self._connections.add(connection)
        self._peers[peer] += 1
        return len(self._connections) <= self.limits.connections_max and self._peers[peer] <= self.limits.connections_per_peer_max

    def forget(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._peers[connection.peer] -= 1
        if not self._peers[connection.peer]:
            del self._peers[connection.peer]

    def failure(self, error: Exception) -> Response:
        """The answer for what a handler raised; a bug is also reported."""
        if isinstance(error, VeniceError):
            return error_response(error)
        self.loop.call_exception_handler({"message": "a request handler failed", "exception": error})
        return error_response(VeniceError("the request failed inside the server", hint="the server's log has the reason"), 500)


def _cannot_listen(error: Exception, host: str, port: int) -> VeniceError:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port} on {host} is taken",
            hint="another program listens there: stop it, or choose another port in the settings",
            port=port,
        )
    return InvalidRequest(f"cannot listen on {host}:{port}: {error}", hint="mend host and port in the settings")
