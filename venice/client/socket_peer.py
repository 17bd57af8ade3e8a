"""Requests to several servers at a time over kept-alive sockets, for threads.

Read path: client → **socket peer** → wire → worker → storage.
"""

from __future__ import annotations

import select
import socket
from collections import deque

from venice.client.direct import ATTEMPT_S, Ask, Done
from venice.client.route import Peer
from venice.client.transport import IDLE_MAX, RECEIVED_MAX, Connection, address_of, cut, keeps, unreachable
from venice.clock import Clock
from venice.errors import Corrupt, Unavailable, VeniceError
from venice.message import Response, render_request
from venice.rules.routing import long_tail_s

_CONNECT_S = 1.0
_LONG_TAIL_S = long_tail_s(1)


class SocketPeer(Peer):
    """A server, with the connections to it that nobody uses now."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._address = address_of(url)
        self.idle: list[Connection] = []

    def open(self) -> Connection:
        """A new connection, whose calls fail with BlockingIOError or TimeoutError once an answer takes long. Raises OSError."""
        opened = socket.create_connection(self._address, _CONNECT_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(opened)
        # A large batch goes out as fast as the server reads; only an answer that takes long is a reason to ask elsewhere.
        connection.limit(_LONG_TAIL_S, send_s=ATTEMPT_S)
        return connection

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose answer is complete."""
        if len(self.idle) >= IDLE_MAX:
            connection.close()
            return
        self.idle.append(connection)
        if not self.is_kept:  # asked last, so that `drop` and this cannot miss each other
            self.drop()

    def warm(self) -> None:
        """Be connected, if the server can be reached; then it is not down."""
        if self.idle and not self.down:
            return
        try:
            self.keep(self.open())
        except OSError:
            self.down = True
        else:
            self.down = False

    def drop(self) -> None:
        """Close what is idle."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:
                return  # another thread has just taken it
            connection.close()


class _Flight:
    """A request on its connection."""

    __slots__ = ("ask", "connection", "data", "is_fresh")

    def __init__(self, ask: Ask[SocketPeer], connection: Connection, data: bytes, is_fresh: bool) -> None:
        self.ask = ask
        self.connection = connection
        self.data = data
        self.is_fresh = is_fresh
        """The connection was opened for it; a kept one may have been closed by the server meanwhile."""


class Exchange:
    """The requests of one call that are under way. One thread at a time.

    Args:
        clock: Measures the waiting.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._poller = select.poll()
        self._flights: dict[int, _Flight] = {}
        """By file descriptor."""
        self._done: deque[Done[SocketPeer]] = deque()

    def begin(self, ask: Ask[SocketPeer]) -> None:
        """Send a request; what goes wrong is told by `wait`."""
        peer = ask.peer
        peer.pending.append(None)
        data = render_request(ask.request, peer.host)
        try:
            connection = peer.idle.pop()
        except IndexError:
            self._begin_fresh(ask, data)
            return
        try:
            connection.socket.sendall(data)
        except ConnectionError:
            self._again(_Flight(ask, connection, data, False))
        except OSError as error:
            connection.close()
            self._finish(ask, unreachable(peer.url, error, ATTEMPT_S))
        else:
            self._watch(_Flight(ask, connection, data, False))

    def adopt(self, ask: Ask[SocketPeer], connection: Connection) -> None:
        """Its request has been sent over a kept connection, and the peer knows that it is pending."""
        self._watch(_Flight(ask, connection, render_request(ask.request, ask.peer.host), False))

    def take(self, ask: Ask[SocketPeer], connection: Connection, data: bytes) -> Response | None:
        """As `adopt`, and this is what came back; nothing if the server has closed the connection. The answer, if that was all of it."""
        self._receive(_Flight(ask, connection, render_request(ask.request, ask.peer.host), False), data)
        result = self._done[0][1] if self._done else None
        return result if isinstance(result, Response) else None

    def wait(self, timeout_s: float) -> Done[SocketPeer] | None:
        """What has become of one of the requests; None after `timeout_s`."""
        until_s = self._clock.monotonic_s() + timeout_s
        while not self._done:
            events = self._poller.poll(max(0.0, until_s - self._clock.monotonic_s()) * 1000)
            if not events:
                return None
            for descriptor, _ in events:
                self._read(self._flights.pop(descriptor))
        return self._done.popleft()

    def close(self) -> None:
        """Give up what is under way: its answers may still come, so its connections cannot be kept."""
        for flight in self._flights.values():
            flight.ask.peer.pending.pop()
            flight.connection.close()
        self._flights.clear()

    def _begin_fresh(self, ask: Ask[SocketPeer], data: bytes) -> None:
        try:
            connection = ask.peer.open()
        except OSError as error:
            self._finish(ask, unreachable(ask.peer.url, error, _CONNECT_S))
            return
        try:
            connection.socket.sendall(data)
        except OSError as error:
            connection.close()
            self._finish(ask, unreachable(ask.peer.url, error, ATTEMPT_S))
            return
        self._watch(_Flight(ask, connection, data, True))

    def _again(self, flight: _Flight) -> None:
        """The server has closed a kept connection, as it may; the others are hardly better."""
        flight.connection.close()
        flight.ask.peer.drop()
        self._begin_fresh(flight.ask, flight.data)

    def _watch(self, flight: _Flight) -> None:
        descriptor = flight.connection.socket.fileno()
        self._flights[descriptor] = flight
        self._poller.register(descriptor, select.POLLIN)

    def _read(self, flight: _Flight) -> None:
        self._poller.unregister(flight.connection.socket.fileno())
        try:
            data = flight.connection.socket.recv(RECEIVED_MAX)
        except ConnectionError:
            data = b""
        except OSError as error:
            flight.connection.close()
            self._finish(flight.ask, unreachable(flight.ask.peer.url, error, ATTEMPT_S))
            return
        self._receive(flight, data)

    def _receive(self, flight: _Flight, data: bytes) -> None:
        ask, connection = flight.ask, flight.connection
        if not data:
            if flight.is_fresh or connection.parser.begun:
                connection.close()
                self._finish(ask, cut(ask.peer.url))
            else:
                self._again(flight)
            return
        try:
            answers = connection.parser.feed(data)
        except Corrupt as error:
            connection.close()
            self._finish(ask, error)
            return
        if not answers:
            self._watch(flight)
        else:
            if len(answers) == 1 and keeps(answers[0]):
                ask.peer.keep(connection)
            else:
                connection.close()
            self._finish(ask, answers[0])

    def _finish(self, ask: Ask[SocketPeer], result: Response | VeniceError) -> None:
        ask.peer.pending.pop()
        if isinstance(result, Response):
            ask.peer.down = False
        elif isinstance(result, Unavailable):
            ask.peer.down = True
        self._done.append((ask, result))
