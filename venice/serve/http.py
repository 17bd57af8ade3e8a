"""An HTTP/1.1 server without a framework: uvloop, the httptools parser, and a handler `Request -> Response`.

Read path: client → wire → connection → **http** → router | server → storage.

A handler either returns its answer or an awaitable of it; the first costs no task. Answers leave in the order of their
requests. Every limit belongs to this driver (`Limits`): a handler sees complete requests of bounded size only. What is not
HTTP gets 400 and the connection is closed.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import uvloop

from venice.clock import Clock, SystemClock
from venice.errors import Conflict, InvalidRequest, VeniceError
from venice.message import Response
from venice.serve.connection import Connection, Handler, Lanes
from venice.serve.requests import Limits
from venice.serve.timing import RequestTimes
from venice.wire import error_response


class HttpServer:
    """Serves `handler` on a port: in a thread of its own (`start`, `stop`) or in the running loop (`listen`, `drain`).

    Args:
        handler: Called in the loop's thread for each request. A VeniceError it raises becomes the answer; any other
            exception becomes a 500 and goes to the loop's exception handler.
        host: Address to listen on.
        port: 0 takes a free one; see `port` once it listens.
        limits: What it takes from clients.
        on_stop: Awaited in the loop when the last answer is out, or given up.
        lanes: A shorter way for gets, if the handler has one.
        clock: Times requests.
    """

    def __init__(
        self,
        handler: Handler,
        host: str,
        port: int,
        limits: Limits | None = None,
        on_stop: Callable[[], Awaitable[None]] | None = None,
        lanes: Lanes | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.handler = handler
        self.lanes = lanes
        self.host = host
        self.port = port
        self.limits = limits or Limits()
        self.loop: asyncio.AbstractEventLoop
        self.now = 0.0
        """The loop's time, in steps of a sweep: exact enough for timeouts and free to read."""
        self.pending = 0
        self.times = RequestTimes(clock or SystemClock())
        self.stopping = False
        self._on_stop = on_stop
        self._connections: set[Connection] = set()
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
            self._listener = await self.loop.create_server(lambda: Connection(self), self.host, self.port, backlog=1024)
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

    def admit(self, connection: Connection) -> bool:
        """Count the connection in; False if there are too many."""
        peer = connection.peer
        self._connections.add(connection)
        self._peers[peer] += 1
        return len(self._connections) <= self.limits.connections_max and self._peers[peer] <= self.limits.connections_per_peer_max

    def forget(self, connection: Connection) -> None:
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
