"""Fast client: reads a store straight from the workers that hold it, in one hop.

Read path: **client** → wire → worker → storage.

It learns from a router, or from any worker, where the partitions of the current version are, and asks the workers itself.
What is asked and how answers are understood is decided in `gather.py` and `direct.py`; the two clients here carry it out. A
batch, and a stream, is of one version, and a client never goes back to an older state of the cluster: as `thin.py`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from venice.client.direct import LOOKS_APART_S, PROBE_S, REFRESH_S, Ask, Await, Begin, Directory, Give, Pause, Steps, Warm
from venice.client.gather import Reads
from venice.client.requests import PATH_KEY_MAX
from venice.client.route import HEAD_END, Peer, Route
from venice.client.socket_peer import Exchange, SocketPeer
from venice.client.thin import TIMEOUT_S
from venice.client.transport import RECEIVED_MAX, Connection, check_timeout, closed
from venice.clock import Clock, SystemClock
from venice.errors import VeniceError
from venice.rules.partitioning import partition_of
from venice.rules.routing import choose
from venice.wire import path_of_key

if TYPE_CHECKING:
    from venice.client.peer_async import AsyncPeer, Watcher

T = TypeVar("T")

_JOIN_S = 0.5


class FastClient:
    """Reads a store straight from its workers. Safe to share between threads: none waits for another.

    Metadata is fetched with the first read and kept fresh by a thread. Once it is known, reads go on without the router.

    Args:
        url: Of the router or of any worker: `http://HOST:PORT`. The workers must be reachable from here as well.
        store: The store to read.
        token: Sent as `Authorization: Bearer`.
        timeout_s: How long a read may take, with all that is tried again; in a stream, each piece.
        clock: For tests.

    Raises:
        InvalidRequest: `url` or `store` is not one.
    """

    def __init__(self, url: str, store: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._directory: Directory[SocketPeer] = Directory(url, store, token, SocketPeer, self._clock.monotonic_s)
        self._reads = Reads(self._directory, check_timeout(timeout_s))
        self._get_head = self._reads.get_head
        self._process = os.getpid()
        self._closed = False
        self._set_up()
        self.store = store

    @property
    def last_version(self) -> int:
        """The store version that the last read was answered from, whichever thread made it; 0 before the first."""
        return self._directory.last_version

    def get(self, key: Any) -> Any:
        """The value of `key`, or None.

        Raises:
            InvalidRequest: The key does not fit the store's key schema, or the client is closed.
            NotFound: No such store.
            Unavailable: No answer came in time, or nobody can answer now: try again.
            Corrupt: An answer is not one of Venice.
        """
        directory = self._directory
        route = directory.route
        if route is None or self._process != os.getpid():
            return self._run(self._reads.get(key))
        raw = route.encode_key(key)
        partition = partition_of(raw, route.count)
        replicas = route.replicas[partition]
        if not replicas or not 0 < len(raw) <= PATH_KEY_MAX:
            return self._run(self._reads.get(key))
        peer = replicas[0]
        if len(replicas) > 1 and (peer.pending or peer.down):
            peer = choose(replicas, Peer.load, ()) or peer
        try:
            connection = peer.idle.pop()
        except IndexError:
            return self._run(self._reads.get(key))
        # From here on the short way: what is not a plain answer with a head seen before goes on in `_go_on`.
        peer.pending.append(None)
        text = path_of_key(raw)
        data: bytes | None = b""
        try:
            connection.socket.sendall(b"%b%b%b" % (self._get_head, text, route.tails[peer]))
            data = None
            data = connection.socket.recv(RECEIVED_MAX)
        except (BlockingIOError, TimeoutError):
            pass  # sent, and no answer yet; or not sent, which is as if the server had closed
        except OSError:
            data = b""
        except BaseException:
            peer.pending.pop()
            connection.close()
            raise
        if data:
            head, _, body = data.partition(HEAD_END)
            known = route.known.get(head)
            if known is not None and known.body_bytes == len(body):
                peer.pending.pop()
                peer.keep(connection)
                directory.calls += 1
                directory.last_version = route.version
                return known.decode(body, 0)
        ask = Ask(peer, self._reads.get_request(route, text), (partition,))
        return self._go_on(key, route, ask, connection, data)

    def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """key → value of those keys that exist, in the order of `keys`, all from one version: all of them or an error.

        Raises:
            InvalidRequest: A key does not fit the key schema, or no dict can hold it.
            Full: These are more keys than a batch may have.
            VeniceError: As `get`.
        """
        return self._run(self._reads.batch_get(keys))

    def streaming_batch_get(self, keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(key, value) of those keys that exist, as they arrive, in any order, all from one version.

        Takes keys of any type. Without an error, the pairs are all there are; one may come after some pairs, which are right.

        Raises:
            VeniceError: As `batch_get`.
        """
        for pairs in self._drive(self._reads.stream(list(keys))):
            yield from pairs

    def close(self) -> None:
        """Close the connections. Closing again does nothing."""
        self._closed = True
        self._directory.route = None
        self._woken.set()
        self._stopped.set()
        watcher = self._watcher
        if watcher is not None and watcher is not threading.current_thread():
            watcher.join(_JOIN_S)
        for peer in self._directory.peers():
            peer.is_kept = False
            peer.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def look(self) -> bool:
        """Look at the cluster now; whether all servers that are known could be reached."""
        self._run(self._directory.refresh())
        for peer in self._directory.forget():
            peer.is_kept = False
            peer.drop()
        return not any(peer.down for peer in self._directory.peers())

    def _go_on(self, key: Any, route: Route[SocketPeer], ask: Ask[SocketPeer], connection: Connection, data: bytes | None) -> Any:
        """Go on with a get whose request has been sent; `data` is what came back, None if nothing has yet."""
        ask.since_s = self._clock.monotonic_s()
        exchange = Exchange(self._clock)
        if data is None:
            exchange.adopt(ask, connection)
        else:
            answer = exchange.take(ask, connection, data)
            if answer is not None and self._directory.is_good(route, answer):
                route.learn(data, answer)
        return self._run(self._reads.get(key, (route, ask)), exchange)

    def _run(self, steps: Steps[T], exchange: Exchange | None = None) -> T:
        """Carry an operation out that gives nothing before its end."""
        driven = self._drive(steps, exchange)
        try:
            while True:
                next(driven)
        except StopIteration as done:
            result: T = done.value
            return result

    def _drive(self, steps: Steps[T], exchange: Exchange | None = None) -> Generator[list[tuple[Any, Any]], None, T]:
        """Carry an operation out; yields what it gives."""
        if self._process != os.getpid():
            self._split()
        exchange = exchange or Exchange(self._clock)
        given: Any = None
        try:
            while True:
                if self._closed:
                    raise closed(self._directory.home.url)
                step = steps.send(given)
                given = None
                match step:
                    case Begin():
                        for ask in step.asks:
                            exchange.begin(ask)
                    case Await():
                        given = exchange.wait(step.timeout_s)
                    case Give():
                        yield step.pairs
                    case Pause():
                        self._clock.sleep(step.seconds)
                    case Warm():
                        for peer in step.peers:
                            assert isinstance(peer, SocketPeer), "all peers of this client are of this class"
                            peer.warm()
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            exchange.close()
            if self._watcher is None and self._directory.route is not None and not self._closed:
                self._watch()

    # The thread that looks at the cluster.

    def _set_up(self) -> None:
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._directory.on_news = self._woken.set
        self._lock = threading.Lock()
        self._watcher: threading.Thread | None = None

    def _split(self) -> None:
        # A fork has copied the sockets: whatever one process reads, the other does not. And it has left the thread behind.
        self._process = os.getpid()
        self._directory.after_fork()
        self._set_up()
        for peer in self._directory.peers():
            peer.pending.clear()
            peer.drop()

    def _watch(self) -> None:
        with self._lock:
            if self._watcher is None:
                arguments = weakref.ref(self), self._woken, self._stopped
                self._watcher = threading.Thread(target=_keep_looking, args=arguments, name=f"fast-client-{self.store}", daemon=True)
                self._watcher.start()


def _keep_looking(client_of: weakref.ref[FastClient], woken: threading.Event, stopped: threading.Event) -> None:
    """Look at the cluster now and then, as long as there is the client."""
    wait_s = REFRESH_S
    while True:
        woken.wait(wait_s)
        woken.clear()
        client = client_of()
        if client is None or stopped.is_set():
            return
        try:
            wait_s = REFRESH_S if client.look() else PROBE_S
        except VeniceError:
            return  # it was closed meanwhile
        del client
        if stopped.wait(LOOKS_APART_S):
            return


class AsyncFastClient:
    """`FastClient` for asyncio code, in the event loop of its first read; any number of reads at a time.

    Args:
        url: Of the router or of any worker: `http://HOST:PORT`.
        store: The store to read.
        token: Sent as `Authorization: Bearer`.
        timeout_s: As a `FastClient`'s.

    Raises:
        InvalidRequest: `url` or `store` is not one.
    """

    def __init__(self, url: str, store: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        # asyncio takes longer to import than the rest of this client.
        from venice.client.peer_async import AsyncExchange, AsyncPeer, Watcher

        self._new_exchange = AsyncExchange
        self._new_watcher = Watcher
        peers = partial(AsyncPeer, timeout_s=check_timeout(timeout_s))
        self._directory: Directory[AsyncPeer] = Directory(url, store, token, peers, SystemClock().monotonic_s)
        self._reads = Reads(self._directory, timeout_s)
        self._watcher: Watcher | None = None
        self._closed = False
        self.store = store

    @property
    def last_version(self) -> int:
        """As `FastClient.last_version`."""
        return self._directory.last_version

    async def get(self, key: Any) -> Any:
        """As `FastClient.get`."""
        return await self._run(self._reads.get(key))

    async def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """As `FastClient.batch_get`."""
        return await self._run(self._reads.batch_get(keys))

    async def streaming_batch_get(self, keys: Iterable[Any]) -> AsyncIterator[tuple[Any, Any]]:
        """As `FastClient.streaming_batch_get`."""
        async with aclosing(self._drive(self._reads.stream(list(keys)), [])) as given:
            async for pairs in given:
                for pair in pairs:
                    yield pair

    async def close(self) -> None:
        """As `FastClient.close`."""
        self._closed = True
        self._directory.route = None
        if self._watcher is not None:
            await self._watcher.close()
        for peer in self._directory.peers():
            await peer.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def look(self) -> bool:
        """As `FastClient.look`."""
        await self._run(self._directory.refresh())
        for peer in self._directory.forget():
            peer.transport.drop_idle()
        return not any(peer.down for peer in self._directory.peers())

    async def _run(self, steps: Steps[T]) -> T:
        """Carry an operation out that gives nothing before its end."""
        results: list[T] = []
        async for _ in self._drive(steps, results):
            raise AssertionError("only streams give something before their end")
        return results[0]

    async def _drive(self, steps: Steps[T], results: list[T]) -> AsyncGenerator[list[tuple[Any, Any]]]:
        """Carry an operation out; yields what it gives, and leaves its result in `results`."""
        exchange = self._new_exchange()
        given: Any = None
        try:
            while True:
                if self._closed:
                    raise closed(self._directory.home.url)
                step = steps.send(given)
                given = None
                if isinstance(step, Give):
                    yield step.pairs
                else:
                    given = await exchange.carry_out(step)
        except StopIteration as done:
            results.append(done.value)
        finally:
            exchange.close()
        if self._watcher is None and self._directory.route is not None:
            self._watcher = self._new_watcher(self.look)
            self._directory.on_news = self._watcher.wake
