"""Producer: single writes to a hybrid store, acknowledged by the log.

Write path: **producer** → outbox → real-time topic → leader → version topic → ingest → storage.

A write carries its time from the moment it was made, and two writes of a key by one producer never carry the same; of two
writes of a key the later one stands. So the order of a key's writes holds however they travel, and a batch that the log
did not acknowledge is appended again, unchanged: merging a write twice changes nothing.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from venice.client.acknowledgement import Accepted, Acknowledgement, accept
from venice.client.outbox import Outbox
from venice.client.target import Target
from venice.clock import Clock, SystemClock
from venice.config import Settings
from venice.errors import InvalidRequest
from venice.schema.codec import Codec

BUFFER_BYTES = 32 * 1024 * 1024
DELIVERY_S = 120.0


class Producer:
    """Writes to one store. Safe to share between threads; a forked child must open its own.

    Futures are done when the log has acknowledged the write: it survives the death of any process then, and readers see it
    soon after. Their callbacks run in the producer's threads: they may write again, and must not wait for anything. A write
    whose future fails with Unavailable may be in the log all the same.

    Values are written with the newest value schema there was when the producer was opened, for its whole life. That the
    store was deleted, or takes no more real-time writes, is noticed within a second.

    Args:
        settings: Settings, the path of a `venice.toml`, or the URL of a log: `sqlite:FOLDER` or `kafka:HOST:PORT`.
        store: A hybrid store.
        region: The region that is written in; default: the settings' own, or the only one there is.
        buffer_bytes: What may wait for the log; when it is full, writes block until half of it is free.
        delivery_s: A write that the log has not taken after so long fails with Unavailable.
        clock: For tests.

    Raises:
        NotFound: No such store or region.
        Conflict: The store is not hybrid.
        Unavailable: The log cannot be reached.
    """

    def __init__(
        self,
        settings: Settings | Path | str,
        store: str,
        region: str | None = None,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        delivery_s: float = DELIVERY_S,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        clock = clock or SystemClock()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._target = Target(settings, store, region, clock=clock, timeout_s=delivery_s / 2)
        self._outbox: Outbox[Acknowledgement] = Outbox(
            self._target.append,
            _Futures(self._lock),
            name=store,
            lanes=self._target.partitions,
            buffer_bytes=buffer_bytes,
            delivery_s=delivery_s,
            clock=clock,
        )

    def put(self, key: Any, value: Any, timestamp_ms: int | None = None) -> Future[Accepted]:
        """Write a whole value.

        Args:
            key: Of the store's key schema.
            value: Of its newest value schema.
            timestamp_ms: When the write happened, in milliseconds since the epoch, if that is not now: of two writes of
                a key the later one stands, however late it arrives.

        Returns:
            A future, done when the log has acknowledged the write.

        Raises:
            InvalidRequest: Key or value do not fit their schema, or are too large; nothing was written.
            NotFound, Conflict: The store was deleted, or takes no real-time writes any more; nothing was written.
            Unavailable: The producer is closed, or was while this waited for room; nothing was written.
        """
        return self._write(self._target.put(key, value, timestamp_ms))

    def delete(self, key: Any, timestamp_ms: int | None = None) -> Future[Accepted]:
        """Delete a key. Arguments, result and errors as for `put`."""
        return self._write(self._target.delete(key, timestamp_ms))

    @property
    def codecs(self) -> tuple[Codec, Codec]:
        """What keys and values are written with."""
        return self._target.key_codec, self._target.value_codec

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until every write made so far is acknowledged or has failed.

        Raises:
            Unavailable: `timeout_s` passed first.
            InvalidRequest: Called in a callback of one of the futures: it would wait for itself.
        """
        self._check_process()
        self._outbox.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, then stop. Closing again does nothing; in a forked child it does nothing at all.

        Args:
            timeout_s: What the log has not taken after so long fails with Unavailable; default: `delivery_s` of each write.

        Raises:
            InvalidRequest: Called in a callback of one of the futures.
        """
        if os.getpid() != self._process:
            return
        self._outbox.close(timeout_s)
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _write(self, write: tuple[int, bytes]) -> Future[Accepted]:
        if os.getpid() != self._process:
            raise _forked(self.store)
        done = Acknowledgement(self._lock)
        self._outbox.put(*write, done)
        return done

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise _forked(self.store)


class _Futures:
    """Settles the futures of a `Producer`."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def accepted(self, partition: int, offsets: Sequence[int], dones: Sequence[Acknowledgement]) -> None:
        accept(dones, partition, offsets, self._lock)

    def failed(self, error: Exception, dones: Sequence[Acknowledgement]) -> None:
        for done in dones:
            done.set_exception(error)


class AsyncProducer:
    """`Producer` for an event loop; one loop at a time. `async with AsyncProducer(…) as producer:` opens it.

    `put` and `delete` are awaited twice: for room in the buffer, and for the acknowledgement.

        acknowledged = await producer.put("key", {"page": "home"})
        accepted = await acknowledged

    Arguments as for `Producer`; so are the errors, which opening raises.
    """

    def __init__(
        self,
        settings: Settings | Path | str,
        store: str,
        region: str | None = None,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        delivery_s: float = DELIVERY_S,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self._settings = settings
        self._region = region
        self._buffer_bytes = buffer_bytes
        self._delivery_s = delivery_s
        self._clock = clock or SystemClock()
        self._process = os.getpid()
        self._closed = False
        self._opened: tuple[Target, Outbox[asyncio.Future[Accepted]], asyncio.AbstractEventLoop] | None = None

    async def open(self) -> None:
        """Find the store. Called by `async with`; opening again does nothing."""
        if self._opened is not None:
            return
        loop = asyncio.get_running_loop()
        target = await asyncio.to_thread(
            Target, self._settings, self.store, self._region, clock=self._clock, timeout_s=self._delivery_s / 2
        )
        outbox: Outbox[asyncio.Future[Accepted]] = Outbox(
            target.append,
            _LoopFutures(loop),
            name=self.store,
            lanes=target.partitions,
            buffer_bytes=self._buffer_bytes,
            delivery_s=self._delivery_s,
            clock=self._clock,
        )
        self._opened = target, outbox, loop

    async def put(self, key: Any, value: Any, timestamp_ms: int | None = None) -> asyncio.Future[Accepted]:
        """Write a whole value, as `Producer.put`, when there is room for it.

        Returns:
            A future of this loop, done when the log has acknowledged the write.
        """
        target, _, _ = self._usable()
        return await self._write(target.put(key, value, timestamp_ms))

    async def delete(self, key: Any, timestamp_ms: int | None = None) -> asyncio.Future[Accepted]:
        """Delete a key. Arguments, result and errors as for `put`."""
        target, _, _ = self._usable()
        return await self._write(target.delete(key, timestamp_ms))

    async def flush(self, timeout_s: float | None = None) -> None:
        """As `Producer.flush`; futures that are done by then say so when this returns."""
        _, outbox, _ = self._usable()
        await asyncio.to_thread(outbox.flush, timeout_s)

    async def close(self, timeout_s: float | None = None) -> None:
        """As `Producer.close`."""
        if self._opened is None or os.getpid() != self._process:
            return
        target, outbox, _ = self._opened
        await asyncio.to_thread(outbox.close, timeout_s)
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(target.close)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    def _usable(self) -> tuple[Target, Outbox[asyncio.Future[Accepted]], asyncio.AbstractEventLoop]:
        if os.getpid() != self._process:
            raise _forked(self.store)
        if self._opened is None:
            raise InvalidRequest(f"the producer of {self.store!r} is not open", hint="use it as 'async with AsyncProducer(…) as producer'")
        return self._opened

    async def _write(self, write: tuple[int, bytes]) -> asyncio.Future[Accepted]:
        _, outbox, loop = self._usable()
        done: asyncio.Future[Accepted] = loop.create_future()
        room = asyncio.Event()
        while not outbox.offer(*write, done, lambda: _soon(loop, room.set)):
            await room.wait()
            room.clear()
        return done


class _LoopFutures:
    """Settles the futures of an `AsyncProducer`, a batch at a time: each call into a loop from outside wakes it up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def accepted(self, partition: int, offsets: Sequence[int], dones: Sequence[asyncio.Future[Accepted]]) -> None:
        def settle() -> None:
            for done, offset in zip(dones, offsets, strict=True):
                if not done.done():
                    done.set_result(Accepted(partition, offset))

        _soon(self._loop, settle)

    def failed(self, error: Exception, dones: Sequence[asyncio.Future[Accepted]]) -> None:
        def settle() -> None:
            for done in dones:
                if not done.done():
                    done.set_exception(error)

        _soon(self._loop, settle)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # A loop that was closed has nobody left who waits.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


def _forked(store: str) -> InvalidRequest:
    return InvalidRequest(f"the producer of {store!r} was opened before a fork", hint="open one in the child process")
