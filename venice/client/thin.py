"""Thin client: reads a store through a router, with nothing but HTTP.

Read path: **client** → wire → router → worker → storage.

What is asked and how answers are understood is decided in `requests.py`; the two clients here carry it out. A batch, and a
stream, is of one version. A client never goes back: what follows a read is never answered from an older state of the cluster.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from venice.client.requests import Steps, StoreRequests, T
from venice.client.transport import SocketTransport
from venice.clock import Clock, SystemClock

if TYPE_CHECKING:
    from venice.client.transport_async import AsyncTransport

TIMEOUT_S = 10.0
"""How long a client waits for an answer unless told otherwise: longer than a router tries to find one."""


class ThinClient:
    """Reads a store through a router. Safe to share between threads: none waits for another.

    Schemas are fetched with the first read. Values are read with the store's latest value schema.

    Args:
        url: Of the router: `http://HOST:PORT`.
        store: The store to read.
        token: Sent as `Authorization: Bearer`.
        timeout_s: How long to wait for a connection, for an answer to begin, and for all of it to arrive.
        clock: For tests.

    Raises:
        InvalidRequest: `url` or `store` is not one.
    """

    def __init__(self, url: str, store: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S, clock: Clock | None = None) -> None:
        self._requests = StoreRequests(store, token)
        self._transport = SocketTransport(url, timeout_s=timeout_s, clock=clock or SystemClock())
        self.store = store

    @property
    def last_version(self) -> int:
        """The store version that the last read was answered from, whichever thread made it; 0 before the first."""
        return self._requests.last_version

    def get(self, key: Any) -> Any:
        """The value of `key`, or None.

        Raises:
            InvalidRequest: The key does not fit the store's key schema, or the client is closed.
            NotFound: No such store.
            Unavailable: No answer came in time, or nobody can answer now: try again.
            Corrupt: The answer is not one of Venice.
        """
        return self._run(self._requests.get(key))

    def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """key → value of those keys that exist, in the order of `keys`, all from one version: all of them or an error.

        Raises:
            InvalidRequest: A key does not fit the key schema, or no dict can hold it.
            Full: The router does not take so many keys at a time.
            VeniceError: As `get`.
        """
        return self._run(self._requests.batch_get(keys))

    def streaming_batch_get(self, keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(key, value) of those keys that exist, as they arrive, in any order, all from one version.

        Takes keys of any type. Without an error, the pairs are all there are; one may come after some pairs, which are right.
        Each is read with the latest value schema known when it arrived.

        Raises:
            VeniceError: As `batch_get`.
        """
        asked = list(keys)
        while True:
            batch = self._run(self._requests.batch(asked, streaming=True))
            if not batch.keys:
                return
            response, parts = self._transport.stream(batch.request)
            with closing(parts):
                if response.status != 200:
                    response = response._replace(body=b"".join(parts))
                if self._run(batch.accepts(response)):
                    for part in parts:
                        yield from self._run(batch.feed(part))
                    batch.finish()
                    return

    def close(self) -> None:
        """Close the connections. Closing again does nothing."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self, steps: Steps[T]) -> T:
        """Carry an operation's requests to the router until it is done."""
        send = self._transport.send
        try:
            request = next(steps)
            while True:
                request = steps.send(send(request))
        except StopIteration as done:
            result: T = done.value
            return result


class AsyncThinClient:
    """`ThinClient` for asyncio code, in the event loop of its first read; any number of reads at a time.

    Args:
        url: Of the router: `http://HOST:PORT`.
        store: The store to read.
        token: Sent as `Authorization: Bearer`.
        timeout_s: How long to wait for an answer, and in a stream for each piece.

    Raises:
        InvalidRequest: `url` or `store` is not one.
    """

    def __init__(self, url: str, store: str, token: str | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        # asyncio takes longer to import than the rest of this client.
        from venice.client.transport_async import AsyncTransport

        self._requests = StoreRequests(store, token)
        self._transport: AsyncTransport = AsyncTransport(url, timeout_s=timeout_s)
        self.store = store

    @property
    def last_version(self) -> int:
        """As `ThinClient.last_version`."""
        return self._requests.last_version

    async def get(self, key: Any) -> Any:
        """As `ThinClient.get`."""
        return await self._run(self._requests.get(key))

    async def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """As `ThinClient.batch_get`."""
        return await self._run(self._requests.batch_get(keys))

    async def streaming_batch_get(self, keys: Iterable[Any]) -> AsyncIterator[tuple[Any, Any]]:
        """As `ThinClient.streaming_batch_get`."""
        asked = list(keys)
        while True:
            batch = await self._run(self._requests.batch(asked, streaming=True))
            if not batch.keys:
                return
            response, parts = await self._transport.stream(batch.request)
            with closing(parts):
                if response.status != 200:
                    response = response._replace(body=b"".join([part async for part in parts]))
                if await self._run(batch.accepts(response)):
                    async for part in parts:
                        for pair in await self._run(batch.feed(part)):
                            yield pair
                    batch.finish()
                    return

    async def close(self) -> None:
        """As `ThinClient.close`."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _run(self, steps: Steps[T]) -> T:
        """Carry an operation's requests to the router until it is done."""
        send = self._transport.send
        try:
            request = next(steps)
            while True:
                request = steps.send(await send(request))
        except StopIteration as done:
            result: T = done.value
            return result
