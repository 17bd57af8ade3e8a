"""Reads of keys straight from the workers: scatter, gather, overtake, redo. No I/O.

Read path: client → **gather** → direct → wire → worker → storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Generic

from venice.client.direct import ATTEMPT_S, Ask, Await, Begin, Call, Directory, Done, Give, Pause, Steps
from venice.client.requests import FOREIGN, PATH_KEY_MAX, check_dict_keys, schema_id_of
from venice.client.route import P, Peer, Route
from venice.errors import Corrupt, Unavailable, VeniceError
from venice.message import Request, Response
from venice.rules.partitioning import partition_of
from venice.rules.routing import check_key_count, long_tail_s, routed_keys, scatter
from venice.schema.codec import Decode
from venice.wire import Row, decode_rows, path_of_key

_PAUSE_FIRST_S = 0.005
_PAUSE_MAX_S = 0.1

RequestOf = Callable[[Sequence[int]], Request]
"""What a worker is asked for: the request for these partitions."""


class Gather(Generic[P]):
    """The parts of one call, each a set of partitions asked of one worker.

    Args:
        directory: Of the store.
        call: The call.
        route: What it follows.
        partitions: What is asked for, with the number of keys of each.
        request_of: Makes the requests.
    """

    def __init__(self, directory: Directory[P], call: Call[P], route: Route[P], partitions: dict[int, int], request_of: RequestOf) -> None:
        self.route = route
        self.left = partitions
        """Those not answered yet."""
        self.is_settled = False
        """Some of the answer has been handed over: the rest must be of the same version."""
        self._directory = directory
        self._call = call
        self._request_of = request_of
        self._under_way: set[Ask[P]] = set()
        self._attempt_s = ATTEMPT_S
        self._pause_s = _PAUSE_FIRST_S
        self._is_stale = False

    def adopt(self, ask: Ask[P]) -> None:
        """This one has been sent already."""
        self._under_way.add(ask)

    def next(self) -> Steps[tuple[tuple[int, ...], Response] | None]:
        """The next part: its partitions, and the answer. None: it cannot be had on this route, and there is a newer one.

        Raises:
            VeniceError: The request is wrong, by a worker's judgement.
            Unavailable: The time is up, or what has been handed over cannot be completed.
        """
        call = self._call
        while True:
            # What comes for partitions of which some have been answered elsewhere is not used.
            useful = [ask for ask in self._under_way if self.left.keys() >= set(ask.partitions)]
            covered = {partition for ask in useful if not ask.given_up for partition in ask.partitions}
            yield from self._send([partition for partition in self.left if partition not in covered], call.avoided)
            if all(ask.given_up for ask in self._under_way) and not call.unread:
                yield from self._recover()
            else:
                done: Done[P] | None = call.unread.pop() if call.unread else (yield Await(self._patience_s()))
                if done is None:
                    yield from self._overtake()
                elif done[0] in self._under_way:
                    self._under_way.discard(done[0])
                    part = yield from self._judge(*done)
                    if part is not None:
                        return part
            if self._is_stale:
                return None

    def renew(self, timeout_s: float) -> None:
        """The caller has taken its time with what it was given; that does not count."""
        now = self._call.now()
        self._call.deadline_s = now + timeout_s
        for ask in self._under_way:
            ask.since_s = now

    def _send(self, partitions: Sequence[int], avoided: set[P]) -> Steps[None]:
        if not partitions:
            return
        plan, _ = scatter(partitions, self.route.replicas, Peer.load, avoided)
        now = self._call.now()
        asks = tuple(Ask(peer, self._request_of(parts), tuple(parts), now) for peer, parts in plan.items())
        if asks:
            self._under_way.update(asks)
            yield Begin(asks)

    def _judge(self, ask: Ask[P], result: Response | VeniceError) -> Steps[tuple[tuple[int, ...], Response] | None]:
        if not self.left.keys() >= set(ask.partitions):
            return None  # overtaken, at least in part: the rest is asked for elsewhere
        if isinstance(result, Response):
            if self._directory.is_good(self.route, result):
                self._leave_behind(ask)
                return ask.partitions, result
            error = self._directory.error_of(ask.peer, result)
            if not isinstance(error, Unavailable | Corrupt):
                raise error
            self._call.error = error
            for partition in ask.partitions:
                self.route.demote(partition, ask.peer)
            self._turn_to((yield from self._directory.heed(self.route, result, error, self._call)))
        else:
            if not isinstance(result, Unavailable | Corrupt):
                raise result
            self._call.error = result
            self._miss(ask.peer)
        self._call.avoided.add(ask.peer)
        return None

    def _leave_behind(self, winner: Ask[P]) -> None:
        """Who has been overtaken by this answer is passed over until it has been reached again."""
        for partition in winner.partitions:
            del self.left[partition]
        for ask in tuple(self._under_way):
            if not self.left.keys() & set(ask.partitions):
                self._under_way.discard(ask)
                if ask.overtaken and ask.peer is not winner.peer:
                    self._miss(ask.peer)

    def _miss(self, peer: P) -> None:
        peer.down = True
        self._directory.on_news()

    def _patience_s(self) -> float:
        """Until something must be done about an answer that does not come."""
        now = self._call.now()
        waited_for = [ask for ask in self._under_way if not ask.given_up]
        until_s = min((ask.since_s + (self._attempt_s if ask.overtaken else self._long_tail_s(ask)) for ask in waited_for), default=now)
        return max(0.0, min(until_s - now, self._call.left_s()))

    def _long_tail_s(self, ask: Ask[P]) -> float:
        return long_tail_s(sum(self.left.get(partition, 0) for partition in ask.partitions))

    def _overtake(self) -> Steps[None]:
        """Give up what has taken too long; ask others as well for what takes long."""
        now = self._call.now()
        self._call.left_s()
        for ask in tuple(self._under_way):
            if ask.given_up:
                continue
            if now - ask.since_s >= self._attempt_s:
                ask.given_up = True
                self._call.avoided.add(ask.peer)
                self._call.error = Unavailable(f"{ask.peer.url} did not answer within {self._attempt_s:g} s", hint="try again")
                self._miss(ask.peer)
            elif not ask.overtaken and now - ask.since_s >= self._long_tail_s(ask):
                ask.overtaken = True
                if self._directory.may_retry():
                    yield from self._send(
                        [partition for partition in ask.partitions if partition in self.left], self._call.avoided | {ask.peer}
                    )

    def _recover(self) -> Steps[None]:
        """Nobody is left to be asked: wait a little, look at the cluster again, and begin anew with everybody."""
        assert self.left, "everything has been answered"
        if self._under_way:
            # What is slow gets more time, not more work every two seconds.
            self._attempt_s *= 2
        yield Pause(min(self._pause_s, self._call.left_s()))
        self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)
        self._call.avoided.clear()
        try:
            newest = yield from self._directory.learn(self._call)
        except (Unavailable, Corrupt) as error:
            if error.data.get("serves") == 0:
                raise
            return
        if self.is_settled and newest.version != self.route.version:
            raise Unavailable(f"version {self.route.version} is not served any more", hint="redo the whole call") from self._call.error
        self._turn_to(newest)

    def _turn_to(self, route: Route[P]) -> None:
        """What is known now: more about the version that is followed, or another one."""
        if (route.version, route.count) != (self.route.version, self.route.count):
            self._is_stale = not self.is_settled
        elif route is not self.route:
            self.route = route
            self._call.avoided.clear()


class Reads(Generic[P]):
    """What can be read, as steps.

    Args:
        directory: Of the store.
        timeout_s: How long a call may take.
    """

    def __init__(self, directory: Directory[P], timeout_s: float) -> None:
        self.directory = directory
        self._timeout_s = timeout_s
        name = directory.store.encode()
        self.get_head = b"GET /storage/%b/" % name
        self._get_prefix = b"/storage/%b/" % name
        self._batch_target = b"/storage/%b" % name

    def get_request(self, route: Route[P], text: bytes, _: Sequence[int] = ()) -> Request:
        """The request for a key, given as it stands in a path."""
        return Request(b"GET", b"%b%b?f=b64" % (self._get_prefix, text), route.headers)

    def call(self) -> Call[P]:
        self.directory.calls += 1
        return Call(self.directory.store, self.directory.now, self._timeout_s)

    def get(self, key: Any, begun: tuple[Route[P], Ask[P]] | None = None) -> Steps[Any]:
        """The value of `key`, or None.

        Args:
            key: The key.
            begun: What has been asked already, and on which route.
        """
        directory, call = self.directory, self.call()
        while True:
            route = begun[0] if begun else (yield from directory.current(call))
            raw = route.encode_key(key)
            if not 0 < len(raw) <= PATH_KEY_MAX:
                pairs = yield from self._all(call, (key,))
                return pairs[0][1] if pairs else None
            gather = Gather(directory, call, route, {partition_of(raw, route.count): 1}, partial(self.get_request, route, path_of_key(raw)))
            if begun:
                gather.adopt(begun[1])
                begun = None
            part = yield from gather.next()
            if part is None:
                continue
            answer = part[1]
            directory.last_version = route.version
            if answer.status == 404:
                return None
            schema_id = schema_id_of(answer.headers)
            decode = (yield from self._decoders(call, route, {schema_id}))[schema_id]
            return decode(answer.body, 0)

    def batch_get(self, keys: Iterable[Any]) -> Steps[dict[Any, Any]]:
        """key → value of those keys that exist, in the order of `keys`."""
        return dict((yield from self._all(self.call(), list(keys), hashed=True)))

    def stream(self, keys: Sequence[Any]) -> Steps[None]:
        """Gives pairs as they come."""
        call = self.call()
        while True:
            batch = yield from self._batch(call, keys)
            while batch.gather.left:
                part = yield from batch.gather.next()
                if part is None:
                    break
                pairs = yield from self._pairs(call, batch, batch.rows_of(part[1]))
                if pairs:
                    batch.gather.is_settled = True
                    yield Give(pairs)
                    batch.gather.renew(self._timeout_s)
            else:
                self._note(batch)
                return

    def _all(self, call: Call[P], keys: Sequence[Any], *, hashed: bool = False) -> Steps[list[tuple[Any, Any]]]:
        """(key, value) of those keys that exist, in the order of `keys`; `hashed`: refuse keys that no dict can hold."""
        while True:
            batch = yield from self._batch(call, keys)
            if hashed:
                check_dict_keys(batch.names)
            rows: list[Row] = []
            while batch.gather.left:
                part = yield from batch.gather.next()
                if part is None:
                    break
                rows += batch.rows_of(part[1])
            else:
                self._note(batch)
                rows.sort()
                return (yield from self._pairs(call, batch, rows))

    def _batch(self, call: Call[P], keys: Sequence[Any]) -> Steps[_Batch[P]]:
        route = yield from self.directory.current(call)
        by_bytes: dict[bytes, Any] = {}
        for key in keys:
            by_bytes.setdefault(route.encode_key(key), key)
        check_key_count(len(by_bytes))
        routed = routed_keys(by_bytes, route.count)

        def request_of(partitions: Sequence[int]) -> Request:
            body = b"".join([key for partition in partitions for key in routed[partition]])
            return Request(b"POST", self._batch_target, route.batch_headers, body)

        sizes = {partition: len(keys) for partition, keys in routed.items()}
        return _Batch(tuple(by_bytes.values()), Gather(self.directory, call, route, sizes, request_of))

    def _pairs(self, call: Call[P], batch: _Batch[P], rows: Sequence[Row]) -> Steps[list[tuple[Any, Any]]]:
        decoders = yield from self._decoders(call, batch.gather.route, {row.schema_id for row in rows})
        return [(batch.names[position], decoders[schema_id](value, 0)) for position, value, schema_id in rows]

    def _decoders(self, call: Call[P], route: Route[P], schema_ids: set[int]) -> Steps[dict[int, Decode]]:
        """What reads values of these schemas in the route's version.

        Raises:
            Unavailable: Nobody knows one of them.
        """
        found = {schema_id: route.decoder(schema_id) for schema_id in schema_ids}
        if None in found.values():
            newest = yield from self.directory.learn(call)
            route.read_as(newest)
            found = {schema_id: route.decoder(schema_id) for schema_id in schema_ids}
        known = {schema_id: decode for schema_id, decode in found.items() if decode is not None}
        if missing := schema_ids - known.keys():
            raise Unavailable(
                f"a value of {self.directory.store!r} is written with value schema {min(missing)}, which the cluster does not know",
                hint="try again: its catalog is behind",
            )
        return known

    def _note(self, batch: _Batch[P]) -> None:
        if batch.names:
            self.directory.last_version = batch.gather.route.version


class _Batch(Generic[P]):
    """One batch get. What answers a key twice, or one that was not asked for, is refused."""

    def __init__(self, names: tuple[Any, ...], gather: Gather[P]) -> None:
        self.names = names
        """Each key once."""
        self.gather = gather
        self._answered: set[int] = set()

    def rows_of(self, answer: Response) -> list[Row]:
        """The rows of a part. Raises Corrupt, or the error that it amounts to."""
        if answer.status != 200:
            raise Corrupt(f"a batch was answered with {answer.status}", hint=FOREIGN)
        rows = decode_rows(answer.body)
        for position, _, _ in rows:
            if position >= len(self.names) or position in self._answered:
                raise Corrupt(f"an answer to key {position} of {len(self.names)}, or a second one", hint=FOREIGN)
            self._answered.add(position)
        return rows
