"""One connection of the HTTP server: bytes → requests → handler → bytes, in the order of the requests.

Read path: client → wire → requests → **connection** → http → router | server → storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol, cast

from venice.errors import Unavailable
from venice.message import Request, Response, Streamed, render_head
from venice.serve.requests import Limits, RequestParser
from venice.serve.timing import RequestTimes
from venice.wire import error_response

Handler = Callable[[Request], Response | Awaitable[Response | Streamed]]
Reply = Callable[[bytes | None], None]
"""Takes all bytes of an answer, or None: then the request goes the usual way after all."""
Lane = Callable[[bytes, Reply], bytes | bool]
"""Target of a GET → all bytes of its answer; True: they will come to the reply; False: the request goes the usual way."""
Lanes = Callable[[Mapping[bytes, bytes]], Lane | None]
"""The lane for requests with these headers, if there is one."""

_LENGTHS_KEPT = 4096
_LENGTHS = [b"Content-Length: %d\r\n\r\n" % length for length in range(_LENGTHS_KEPT)]
_LANE_BYTES_MAX = 4096
_PUMPED_MAX = 128
"""Pipelined requests answered before other connections have their turn."""
_COPIED_MAX = 64 * 1024
"""Bodies up to this size are copied behind their head, larger ones are written by themselves."""

_TOO_MANY_REQUESTS = error_response(Unavailable("too many requests are under way", hint="try again, with fewer at a time"))
_TOO_MANY_CONNECTIONS = error_response(Unavailable("too many connections are open", hint="close some, or keep and share them"))


class Host(Protocol):
    """The server, as its connections know it."""

    handler: Handler
    lanes: Lanes | None
    limits: Limits
    loop: asyncio.AbstractEventLoop
    now: float
    pending: int
    stopping: bool
    times: RequestTimes

    def admit(self, connection: Connection) -> bool:
        """Count the connection in; False if there are too many."""
        ...

    def forget(self, connection: Connection) -> None:
        """Count the connection out."""
        ...

    def failure(self, error: Exception) -> Response:
        """The answer for what a handler raised."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._limits = server.limits
        self._requests = RequestParser(server.limits)
        self._busy = False
        """An answer is under way: no other may overtake it."""
        self._task: asyncio.Task[None] | None = None
        """Makes it, if it is an awaitable one."""
        self._relaying: tuple[bytes, Mapping[bytes, bytes]] | None = None
        """Target and headers of the request that a lane answers later."""
        self._writable: asyncio.Future[None] | None = None
        """Pending while the client is slower than its answers."""
        self._ended = False
        """The client has closed its half."""
        self._lingering = False
        self._began_s = 0.0
        """Of the request whose answer is under way; see `RequestTimes.began`."""
        self._held = False
        """Reading is paused: there is enough to answer."""
        self._since = server.now
        """When the state began that a timeout belongs to."""
        self._lane: Lane | None = None
        """For requests that end as the one before did."""
        self._lane_headers: Mapping[bytes, bytes] = {}

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
        if self._relaying is not None:
            self._relaying = None
            self._server.pending -= 1
        self._lane = None
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        requests = self._requests
        if (
            self._lane is not None
            and len(data) < _LANE_BYTES_MAX
            and data.endswith(requests.known_end)
            and data.startswith(b"GET /")
            and not (self._busy or requests.begun or requests.deaf or requests.queue or self._writable)
            and self._take_lane(self._lane, data[4 : -len(requests.known_end)])
        ):
            return
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
        if requests.known_headers is not self._lane_headers and self._server.lanes is not None:
            self._lane_headers = requests.known_headers
            self._lane = self._server.lanes(requests.known_headers) if requests.known_end else None

    def eof_received(self) -> bool:
        self._requests.deaf = self._ended = True
        # A client may close its half and wait for what it has asked.
        return bool(self._requests.queue or self._busy) and not self._lingering

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
        if not self._requests.queue and not self._busy:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # The short way.

    def _take_lane(self, lane: Lane, target: bytes) -> bool:
        """Whether the lane has answered, or will."""
        server = self._server
        began_s = server.times.began()
        answer = lane(target, self._relayed) if server.pending < self._limits.pending_max else False
        if answer is False:
            return False
        self._since = server.now
        if answer is True:
            self._busy = True
            self._began_s = began_s
            self._relaying = target, self._lane_headers
            server.pending += 1
        else:
            self._transport.write(answer)
            server.times.ended(began_s)
        return True

    def _relayed(self, answer: bytes | None) -> None:
        relayed, self._relaying = self._relaying, None
        if relayed is None:
            return  # the client has gone
        self._busy = False
        self._server.pending -= 1
        requests = self._requests
        if answer is None:
            requests.queue.appendleft(Request(b"GET", *relayed))
        else:
            if requests.deaf and not requests.queue:
                answer = answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
            self._transport.write(answer)
            self._server.times.ended(self._began_s)
        if requests.queue or requests.deaf:
            self._pump()

    # From the queue to the transport.

    def _pump(self) -> None:
        """Answer what can be answered now."""
        queue = self._requests.queue
        turns = 0
        while queue and not self._busy and self._writable is None:
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
            if not self._busy:
                self._close()
        elif self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def _answer(self, request: Request) -> None:
        bodyless = request[0] == b"HEAD"
        if bodyless:
            request = request._replace(method=b"GET")
        server = self._server
        began_s = server.times.began()
        try:
            answer = server.handler(request)
        except Exception as error:  # noqa: BLE001 - the process outlives a handler's bug, which is reported
            answer = server.failure(error)
        if isinstance(answer, Response):
            self._write(answer, bodyless)
            server.times.ended(began_s)
        elif server.pending < self._limits.pending_max:
            self._began_s = began_s
            server.pending += 1
            self._busy = True
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
        self._server.times.ended(self._began_s)
        self._busy = False
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
        elif self._busy or self._requests.queue or self._requests.deaf:
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
        if self._lingering or not (self._requests.queue or self._busy):
            self._transport.close()

    def abort(self) -> None:
        self._transport.abort()
