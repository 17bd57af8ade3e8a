"""What a client that goes to the workers asks and how it understands the answers. No I/O.

Read path: client → **direct** → wire → worker → storage.

An operation is a generator of steps, which `fast.py` carries out with threads or asyncio: begin to ask, await an answer,
pause, hand over pairs. A call follows one route. A replica that fails is passed over at once; one that is slow is overtaken
by another, within a budget; one that is not the right one (421) brings fresh metadata, on which the whole call is redone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from venice.client.requests import FOREIGN, SPOKEN, authorization, number_of, refusal
from venice.client.route import P, Peer, Route
from venice.client.unpacking import KNOWN, PLAIN, Unpackers
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response
from venice.naming import check_store_name
from venice.wire import (
    API_VERSION_HEADER,
    CATALOG_SEQUENCE,
    COMPRESSION,
    ERROR,
    MISDIRECTED,
    STORE_VERSION,
    Metadata,
    decode_metadata,
    parse_metadata,
)

T = TypeVar("T")

ATTEMPT_S = 2.0
"""How long one server may take for its part before it is asked for anew, of anybody; each time twice as long."""
REFRESH_S = 2.0
"""Between two looks at the cluster; sooner when an answer shows that there is news."""
PROBE_S = 0.25
"""The same while a server is down."""
LOOKS_APART_S = 0.05
"""Between two looks, whatever the news."""
_RETRIES_FREE = 10
_RETRY_SHARE = 0.1
"""Of the calls between two looks at the cluster, so many may ask a second replica because the first is slow."""


class Ask(Generic[P]):
    """One request to one server. Compared by identity."""

    __slots__ = ("given_up", "overtaken", "partitions", "peer", "request", "since_s")

    def __init__(self, peer: P, request: Request, partitions: tuple[int, ...] = (), since_s: float = 0.0) -> None:
        self.peer = peer
        self.request = request
        self.partitions = partitions
        self.since_s = since_s
        self.overtaken = False
        """Others have been asked for the same because it took long."""
        self.given_up = False
        """It is not waited for any more; should it come before another answer, it is as good."""


class Begin(NamedTuple):
    """Step: send these requests. Nothing is given back."""

    asks: tuple[Ask[Any], ...]


class Await(NamedTuple):
    """Step: wait for any answer. Given back: a `Done`, or None after `timeout_s`."""

    timeout_s: float


class Pause(NamedTuple):
    """Step: wait. Nothing is given back."""

    seconds: float


class Warm(NamedTuple):
    """Step: connect to these servers, where there is no connection; one that is reached is no longer down."""

    peers: tuple[Peer, ...]


class Give(NamedTuple):
    """Step: these pairs are part of the result."""

    pairs: list[tuple[Any, Any]]


Done = tuple[Ask[P], Response | VeniceError]
"""What became of a request."""
Step = Begin | Await | Pause | Warm | Give
Steps = Generator[Step, Any, T]
"""An operation under way."""


class Call(Generic[P]):
    """One call of a user: how long it may take, and who has failed it."""

    def __init__(self, store: str, now: Callable[[], float], timeout_s: float) -> None:
        self.now = now
        self.deadline_s = now() + timeout_s
        self.avoided: set[P] = set()
        """Who has failed since the last pause."""
        self.error: VeniceError = Unavailable("no worker is known to hold it")
        self.unread: list[Done[P]] = []
        """Answers that came while another one was awaited."""
        self.store = store

    def left_s(self) -> float:
        """Raises Unavailable at the deadline."""
        left_s = self.deadline_s - self.now()
        if left_s <= 0:
            raise Unavailable(
                f"store {self.store!r} cannot be read now: {self.error.message}",
                hint="workers that hold it are restarting or gone: try again, and look at 'venice doctor'",
                store=self.store,
            ) from self.error
        return left_s


class Directory(Generic[P]):
    """All that a client knows of one store and its workers. Safe to share between threads.

    Args:
        url: Where metadata is asked for first.
        store: The store's name.
        token: Sent as `Authorization: Bearer`.
        peers: Makes the peer of a URL.
        now: A monotonic clock, in seconds.

    Raises:
        InvalidRequest: The name cannot be a store's, the URL is none, or the token cannot stand in a header.
    """

    def __init__(self, url: str, store: str, token: str | None, peers: Callable[[str], P], now: Callable[[], float]) -> None:
        self.store = check_store_name(store)
        self.fields: Mapping[bytes, bytes] = Headers({API_VERSION_HEADER: SPOKEN, **authorization(token)})
        self.home = peers(url)
        self.now = now
        self.route: Route[P] | None = None
        self.last_version = 0
        self.calls = 0
        self.on_news: Callable[[], object] = lambda: None
        """Called when an answer shows that the catalog has gone on."""
        self._make_peer = peers
        self._peers: dict[str, P] = {url: self.home}
        self._unpackers = Unpackers(store)
        self._seen = 0
        self._retries = 0
        self._lock = threading.Lock()

    # Metadata.

    def current(self, call: Call[P]) -> Steps[Route[P]]:
        """The route; asked for if there is none yet."""
        return self.route or (yield from self.learn(call))

    def learn(self, call: Call[P], *, warm: bool = False) -> Steps[Route[P]]:
        """Ask for metadata, until somebody gives some: the newest route there is then.

        Args:
            warm: Connect to new workers before the route is taken.

        Raises:
            NotFound: No such store.
            Unavailable: Nobody answers, or the store has no version.
            Corrupt: What they answer makes no sense.
        """
        failed: VeniceError | None = None
        for peer in self._sources():
            call.left_s()
            try:
                answer = yield from self._fetch(call, peer, b"/metadata/%b" % self.store.encode())
                route = self._route_of(decode_metadata(answer.body))
                yield from self._prepare(call, route)
            except (Unavailable, Corrupt) as error:
                failed = call.error = failed or error
                if error.data.get("serves") == 0:
                    raise
                continue
            if warm:
                yield Warm(tuple(peer for peer in route.peers if self.route is None or peer not in self.route.peers))
            return self.take(route)
        assert failed is not None, "there is one source at least"
        raise failed

    def take(self, route: Route[P]) -> Route[P]:
        """Follow a route from now on, unless a newer one is known; the one that is followed."""
        with self._lock:
            if self.route is None or route.sequence > self.route.sequence:
                self.route = route
                # Some may have been forgotten while the route was being made ready.
                for peer in route.peers:
                    if peer.url not in self._peers:
                        self._peers[peer.url] = peer
                        peer.is_kept = True
            return self.route

    def peers(self) -> tuple[P, ...]:
        """All that are known."""
        with self._lock:
            return tuple(self._peers.values())

    def forget(self) -> list[P]:
        """Take the peers out that nothing leads to any more."""
        with self._lock:
            used = {self.home, *(self.route.peers if self.route else ())}
            gone = [peer for peer in self._peers.values() if peer not in used]
            for peer in gone:
                del self._peers[peer.url]
            return gone

    def refresh(self) -> Steps[None]:
        """Look at the cluster again: fresh metadata, and whether those who were down are there. Raises nothing but bugs."""
        with self._lock:
            self.calls = self._retries = 0
        call = Call[P](self.store, self.now, 2 * ATTEMPT_S)
        try:
            yield from self.learn(call, warm=True)
        except VeniceError as error:
            call.error = error  # reads find out for themselves, if it concerns them
        down = tuple(peer for peer in self.peers() if peer.down)
        if down:
            yield Warm(down)

    def may_retry(self) -> bool:
        """Whether one more replica may be asked because another is slow."""
        if self._retries >= _RETRIES_FREE + _RETRY_SHARE * self.calls:
            return False
        self._retries += 1
        return True

    def after_fork(self) -> None:
        """In a new process: a lock that was held when it split is held for ever."""
        self._lock = threading.Lock()

    def _sources(self) -> Iterator[P]:
        known = [self.home, *(self.route.peers if self.route else ())]
        yield from sorted(dict.fromkeys(known), key=lambda peer: peer.down)

    def _peer(self, url: str) -> P:
        with self._lock:
            peer = self._peers.get(url)
            if peer is None:
                peer = self._peers[url] = self._make_peer(url)
            return peer

    def _route_of(self, metadata: Metadata) -> Route[P]:
        if metadata.store != self.store:
            raise Corrupt(f"asked for {self.store!r}, and told of {metadata.store[:128]!r}", hint=FOREIGN)
        if metadata.version == 0:
            hint = f"push one: venice push {self.store} --input FILE"
            raise Unavailable(f"store {self.store!r} has no version that serves", hint=hint, store=self.store, serves=0)
        if metadata.compression.encode() not in KNOWN:
            told = f"values of {self.store!r} are compressed with {metadata.compression[:40]!r}, which this client cannot read"
            raise InvalidRequest(told, hint="upgrade it")
        try:
            return Route(metadata, self._peer, self.fields)
        except InvalidRequest as error:
            raise Corrupt(f"metadata of {self.store!r} names no servers: {error.message}", hint=FOREIGN) from error

    def _fetch(self, call: Call[P], peer: P, target: bytes) -> Steps[Response]:
        """A server's answer about the store. Raises the error that it amounts to."""
        sequence = self.route.sequence if self.route else 0
        headers = Headers({**self.fields, CATALOG_SEQUENCE: b"%d" % sequence}) if sequence else self.fields
        ask = Ask(peer, Request(b"GET", target, headers))
        yield Begin((ask,))
        until_s = self.now() + min(ATTEMPT_S, call.left_s())
        while True:
            done: Done[P] | None = yield Await(max(until_s - self.now(), 0.0))
            if done is None:
                peer.down = True
                raise Unavailable(f"{peer.url} did not answer in time", hint="try again", url=peer.url)
            if done[0] is not ask:
                call.unread.append(done)
                continue
            answer = done[1]
            if isinstance(answer, VeniceError):
                raise answer
            if answer.status != 200 or answer.headers.get(API_VERSION_HEADER) != SPOKEN:
                raise refusal(self.store, answer)
            return answer

    # Answers.

    def is_good(self, route: Route[P], answer: Response) -> bool:
        """Whether it is a value, a batch, or says that a key is missing, from the version it was asked of.

        Raises:
            Corrupt: It is from another one.
        """
        status, headers, _ = answer
        if headers.get(API_VERSION_HEADER) != SPOKEN:
            return False
        sequence = number_of(headers, CATALOG_SEQUENCE)
        if sequence > max(self._seen, route.sequence):
            self._seen = sequence
            self.on_news()
        if status != 200 and (status != 404 or ERROR in headers):
            return False
        if headers.get(STORE_VERSION) != route.version_text:
            raise Corrupt(f"version {route.version} was asked for, and another one answered", hint=FOREIGN)
        if status == 200 and headers.get(COMPRESSION, PLAIN) != route.compression:
            raise Corrupt(f"values of version {route.version} are not compressed as its metadata says", hint=FOREIGN)
        return True

    def error_of(self, peer: P, answer: Response) -> VeniceError:
        """What an answer that is not good amounts to: `Unavailable` and `Corrupt` if another replica may have a better one."""
        if answer.headers.get(API_VERSION_HEADER) is None:
            return Unavailable(f"{peer.url} is no worker of Venice: it answered {answer.status}", hint=FOREIGN, url=peer.url)
        try:
            return refusal(self.store, answer)
        except InvalidRequest as error:
            return error

    def heed(self, route: Route[P], answer: Response, error: VeniceError, call: Call[P]) -> Steps[Route[P]]:
        """The route after a server has said 421."""
        if answer.status != MISDIRECTED or number_of(answer.headers, CATALOG_SEQUENCE) <= route.sequence:
            return self.route or route
        try:
            told = self._route_of(parse_metadata(error.data.get("metadata")))
            yield from self._prepare(call, told)
            return self.take(told)
        except (Corrupt, Unavailable, NotFound):
            return (yield from self.learn(call))

    def _prepare(self, call: Call[P], route: Route[P]) -> Steps[None]:
        """Learn how the route's values are decompressed."""
        if route.compression == PLAIN:
            return
        steps = self._unpackers.find(route.compression, route.version, Headers(self.fields))
        try:
            request = next(steps)
            while True:
                request = steps.send((yield from self._ask_any(call, route, request.target)))
        except NotFound as error:
            told = f"version {route.version} of {self.store!r} is not everywhere yet, or was just retired: {error.message}"
            raise Unavailable(told, hint="try again", store=self.store) from error
        except StopIteration as done:
            route.unpack = done.value

    def _ask_any(self, call: Call[P], route: Route[P], target: bytes) -> Steps[Response]:
        failed: VeniceError | None = None
        for peer in sorted({self.home, *route.peers}, key=lambda peer: (peer.down, peer is not self.home)):
            call.left_s()
            try:
                return (yield from self._fetch(call, peer, target))
            except (Unavailable, Corrupt, NotFound) as error:
                failed = failed or error
        assert failed is not None, "there is one source at least"
        raise failed
