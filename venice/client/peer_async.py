"""Requests to several servers at a time, for asyncio: `socket_peer.py` without threads.

Read path: client → **peer** → transport → wire → worker → storage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from venice.client.direct import ATTEMPT_S, LOOKS_APART_S, PROBE_S, REFRESH_S, Ask, Await, Begin, Done, Pause, Step, Warm
from venice.client.route import Peer
from venice.client.transport_async import AsyncTransport
from venice.errors import Unavailable, VeniceError


class AsyncPeer(Peer):
    """A server, with the connections to it.

    Args:
        url: Of the server.
        timeout_s: How long it may take for an answer: as long as a call may, which asks anew long before.
    """

    def __init__(self, url: str, timeout_s: float = ATTEMPT_S) -> None:
        super().__init__(url)
        self.transport = AsyncTransport(url, timeout_s=max(timeout_s, ATTEMPT_S))

    async def send(self, ask: Ask[AsyncPeer]) -> Done[AsyncPeer]:
        """What becomes of a request."""
        self.pending.append(None)
        try:
            answer = await self.transport.send(ask.request)
        except VeniceError as error:
            if isinstance(error, Unavailable):
                self.down = True
            return ask, error
        finally:
            self.pending.pop()
        self.down = False
        return ask, answer

    async def warm(self) -> None:
        """Be connected, if the server can be reached; then it is not down."""
        try:
            if self.down:
                self.transport.drop_idle()
            async with asyncio.timeout(ATTEMPT_S):
                await self.transport.warm()
        except (Unavailable, TimeoutError):
            self.down = True
        else:
            self.down = False


class AsyncExchange:
    """The requests of one call that are under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Done[AsyncPeer]]] = set()

    async def carry_out(self, step: Step) -> Done[AsyncPeer] | None:
        """What the step gives back."""
        match step:
            case Begin():
                for ask in step.asks:
                    self._tasks.add(asyncio.ensure_future(ask.peer.send(ask)))
            case Await():
                done, _ = await asyncio.wait(self._tasks, timeout=step.timeout_s, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    task = done.pop()
                    self._tasks.discard(task)
                    return task.result()
            case Pause():
                await asyncio.sleep(step.seconds)
            case Warm():
                await asyncio.gather(*[peer.warm() for peer in step.peers if isinstance(peer, AsyncPeer)])
        return None

    def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()


class Watcher:
    """Looks at the cluster now and then, in a task of its own.

    Args:
        look: Looks; whether all servers could be reached.
    """

    def __init__(self, look: Callable[[], Awaitable[bool]]) -> None:
        self._look = look
        self._woken = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def wake(self) -> None:
        """There is news."""
        self._woken.set()

    async def close(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        wait_s = REFRESH_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            except TimeoutError:
                pass  # nothing is known to be new: then it is time to see
            self._woken.clear()
            wait_s = REFRESH_S if await self._look() else PROBE_S
            await asyncio.sleep(LOOKS_APART_S)
