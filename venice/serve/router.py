"""The router: finds the workers that hold the keys of a request, asks them, puts their answers together.

Read path: client → http → **router** → worker → storage.

A call is answered from one version: the one its answer names. Its parts are asked for by that version, and where the
version is no longer to be had the whole call starts over on the next. A worker that dies, or is being restarted, costs
time up to `deadline_s`, never a partial answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from venice import wire
from venice.compression import named, packing
from venice.control.catalog import Catalog
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response, Streamed
from venice.model import NO_VERSION, Compression
from venice.rules.partitioning import partition_of
from venice.rules.routing import KEYS_MAX, check_key_count, choose, routed_keys, scatter
from venice.schema.codec import key_codec
from venice.serve import dictionary, json_view, metadata
from venice.serve.connection import Lane
from venice.serve.relay import make_relay
from venice.serve.server import NONE, no_version, split_path, value_reader
from venice.serve.table import Table
from venice.serve.upstream import Upstream

_STORAGE = b"/storage/"
_DICTIONARIES_MAX = 32
_PAUSE_FIRST_S = 0.005
_PAUSE_MAX_S = 0.1


class CatalogSource(Protocol):
    """Who knows the catalog, for example a `CatalogTail`."""

    @property
    def catalog(self) -> Catalog: ...


class _Call:
    """One request of a client: what it asks for and what has gone wrong so far."""

    def __init__(self, store: bytes, request: Request, deadline: float) -> None:
        self.store = store.decode("latin-1")
        self.target = _STORAGE + store
        self.pinned = wire.number(request.headers, wire.STORE_VERSION)
        """The one version it may be answered from, once that is settled."""
        self.streaming = wire.STREAMING in request.headers
        self.deadline = deadline
        self.avoided: set[Upstream] = set()
        """Who has failed since the last pause."""
        self.sequence = 0
        """A worker has said that the catalog has come at least so far."""
        self.error: VeniceError = Unavailable("no worker is known to hold it")
        self._pause_s = _PAUSE_FIRST_S

    def failed(self, upstream: Upstream, error: VeniceError) -> None:
        self.avoided.add(upstream)
        self.error = error

    async def pause(self) -> None:
        """Wait a little before everybody is asked again. Raises Unavailable at the deadline."""
        left_s = self.deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise Unavailable(
                f"store {self.store!r} cannot be read now: {self.error.message}",
                hint="workers that hold it are restarting or gone: try again, and look at 'venice doctor'",
                store=self.store,
            ) from self.error
        self.avoided.clear()
        await asyncio.sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, _PAUSE_MAX_S)


class Router:
    """Answers clients from workers. All of it runs in the loop of the server that calls `handle`.

    Args:
        source: Holds the latest catalog.
        deadline_s: How long a call is tried before it fails.
        attempt_s: How long one worker may take for its part.
        keys_max: Most keys in one batch.
    """

    def __init__(self, source: CatalogSource, *, deadline_s: float = 5.0, attempt_s: float = 2.0, keys_max: int = KEYS_MAX) -> None:
        self._source = source
        self._deadline_s = deadline_s
        self._attempt_s = attempt_s
        self._keys_max = keys_max
        self._seen: Catalog | None = None
        self._tables: dict[tuple[str, int | None], Table] = {}
        self._dictionaries: dict[tuple[str, int], bytes] = {}
        self._upstreams: dict[str, Upstream] = {}

    def handle(self, request: Request) -> Response | Awaitable[Response | Streamed]:
        """The answer to any request of the data paths."""
        headers = request.headers
        wire.check_api_version(headers)
        sequence = wire.number(headers, wire.CATALOG_SEQUENCE) or 0
        if request.target.startswith(dictionary.PATH) and request.method == b"GET":
            return self._show_dictionary(request, sequence)
        if not request.target.startswith(_STORAGE):
            if self._catalog().sequence < sequence:
                return self._describe_later(request, sequence)
            return metadata.answer(self._catalog(), request)
        if request.method not in (b"GET", b"POST"):
            return metadata.refuse_method(request, b"GET, POST")
        return self._read(request, sequence)

    def lane(self, headers: Mapping[bytes, bytes]) -> Lane | None:
        """A short way for gets with these headers; None if there is something special about them."""
        if headers.get(wire.API_VERSION_HEADER, b"1") != b"1" or wire.JSON in headers.get(b"accept", b""):
            return None
        try:
            sequence = wire.number(headers, wire.CATALOG_SEQUENCE) or 0
            pinned = wire.number(headers, wire.STORE_VERSION)
        except InvalidRequest:
            return None
        return make_relay(self._catalog, lambda store: self._table_of(store, pinned), sequence)

    async def close(self) -> None:
        """Close the connections to all workers."""
        for upstream in self._upstreams.values():
            upstream.close()
        self._upstreams.clear()

    def _catalog(self) -> Catalog:
        return self._source.catalog

    async def _describe_later(self, request: Request, sequence: int) -> Response:
        return metadata.answer(await metadata.catalog_from(self._catalog, sequence, self._deadline_s), request)

    async def _read(self, request: Request, sequence: int) -> Response | Streamed:
        try:
            if self._catalog().sequence < sequence:
                await metadata.catalog_from(self._catalog, sequence, self._deadline_s)
            if json_view.is_plain(request):
                return await self._read_avro(request)
            store = metadata.store_of(self._catalog(), split_path(request)[0].decode("latin-1"))
            keys = key_codec(store.key_schema)
            answer = await self._read_avro(json_view.in_avro(request, keys))
            assert isinstance(answer, Response), "JSON is not streamed"
            unpack = await self._unpacker(store.name, answer)
            return json_view.in_json(request, answer, keys, lambda schema_id: value_reader(store, schema_id, unpack))
        except NotFound as error:
            # On /storage a 404 says that the key is not there, and nothing else.
            return wire.error_response(error, 400)
        except Full as error:
            return wire.error_response(error, 413)

    async def _read_avro(self, request: Request) -> Response | Streamed:
        store, key = split_path(request)
        call = _Call(store, request, asyncio.get_running_loop().time() + self._deadline_s)
        if request.method == b"GET":
            return await self._get(call, request.target, wire.key_of_path(key))
        try:
            keys = wire.decode_keys(request.body)
        except Corrupt as error:
            raise InvalidRequest(
                f"the body is no list of keys: {error.message}", hint="docs/formats/wire.md shows how keys are sent"
            ) from error
        check_key_count(len(keys), self._keys_max)
        return await (self._stream(call, keys) if call.streaming else self._batch(call, keys))

    async def _show_dictionary(self, request: Request, sequence: int) -> Response:
        catalog = await metadata.catalog_from(self._catalog, sequence, self._deadline_s)
        name, number = dictionary.asked_for(request)
        store = metadata.store_of(catalog, name)
        dictionary.find(store, store.version(number), number)
        return dictionary.answer(number, catalog.sequence, await self._dictionary(name, number))

    async def _dictionary(self, store: str, number: int) -> bytes:
        """The dictionary of a version that has one, from any of its workers."""
        found = self._dictionaries.get((store, number))
        if found is None:
            target = dictionary.PATH + b"%b/%d" % (store.encode(), number)
            asked = Request(b"GET", target, Headers({wire.STORE_VERSION: b"%d" % number}))
            call = _Call(store.encode(), asked, asyncio.get_running_loop().time() + self._deadline_s)
            answer: Response | None = None
            while answer is None:
                table = await self._table(call)
                upstream = choose({one for replicas in table.replicas for one in replicas}, Upstream.load, call.avoided)
                if upstream is None:
                    await call.pause()
                else:
                    try:
                        answer = await self._ask(call, upstream, table.get_request(upstream, target))
                    except NotFound as error:  # not attached there yet
                        call.failed(upstream, Unavailable(error.message, hint="try again"))
            while len(self._dictionaries) >= _DICTIONARIES_MAX:
                del self._dictionaries[next(iter(self._dictionaries))]
            found = self._dictionaries[store, number] = answer.body
        return found

    async def _unpacker(self, store: str, answer: Response) -> Callable[[bytes], bytes] | None:
        """What decompresses the values of an answer; None if they are not compressed."""
        compression = named(answer.headers.get(wire.COMPRESSION, NONE).decode())
        data = b""
        if compression is Compression.ZSTD_DICT:
            data = await self._dictionary(store, wire.number(answer.headers, wire.STORE_VERSION) or NO_VERSION)
        made = packing(compression, data)
        return made.decompress if made is not None else None

    async def _get(self, call: _Call, target: bytes, key: bytes) -> Response:
        while True:
            table = await self._table(call)
            replicas = table.replicas[partition_of(key, table.count)]
            upstream = choose(replicas, Upstream.load, call.avoided)
            if upstream is None:
                await call.pause()
                continue
            answer = await self._ask(call, upstream, table.get_request(upstream, target))
            if answer is not None:
                if answer.status == 404:
                    return Response(404, table.missing_headers)
                return Response(200, table.found_headers(answer), answer.body)

    async def _batch(self, call: _Call, keys: Sequence[bytes]) -> Response:
        bodies: list[bytes] = []
        answered_by: Table | None = None
        async for table, body in self._parts(call, keys):
            if answered_by is not None and answered_by.number != table.number:
                bodies.clear()
            answered_by = table
            bodies.append(body)
        assert answered_by is not None, "there is a part even of an empty batch"
        return Response(200, answered_by.batch_headers, b"".join(bodies))

    async def _stream(self, call: _Call, keys: Sequence[bytes]) -> Streamed:
        parts = self._parts(call, keys)
        table, first = await anext(parts)
        call.pinned = table.number  # what is sent cannot be taken back

        async def bodies() -> AsyncIterator[bytes]:
            yield first
            footer = wire.Footer(200)
            try:
                async for _, body in parts:
                    yield body
            except VeniceError as error:
                footer = wire.Footer(wire.status_of(error), wire.error_json(error))
            yield wire.encode_footer(footer)

        return Streamed(200, table.stream_headers, bodies())

    async def _parts(self, call: _Call, keys: Sequence[bytes]) -> AsyncIterator[tuple[Table, bytes]]:
        """Bodies that together answer a batch, as they come. One of another version than the one before starts the answer over."""
        table = await self._table(call)
        left = routed_keys(keys, table.count)
        if not left:
            yield table, b""
        while left:
            plan, orphans = scatter(left, table.replicas, Upstream.load, call.avoided)
            async for partitions, answer in self._ask_all(call, table, plan, left):
                if answer is not None:
                    for partition in partitions:
                        del left[partition]
                    yield table, answer.body
            if orphans:
                await call.pause()
            if left:
                before, table = table, await self._table(call)
                if before.number != table.number:
                    left = routed_keys(keys, table.count)

    async def _ask_all(
        self, call: _Call, table: Table, plan: dict[Upstream, list[int]], left: dict[int, list[bytes]]
    ) -> AsyncIterator[tuple[list[int], Response | None]]:
        """The workers' answers as they come, each with its partitions."""
        requests = {
            upstream: table.batch_request(upstream, call.target, b"".join([key for p in partitions for key in left[p]]), call.streaming)
            for upstream, partitions in plan.items()
        }
        if len(plan) == 1:
            [(upstream, partitions)] = plan.items()
            yield partitions, await self._ask(call, upstream, requests[upstream])
            return
        asked = {asyncio.ensure_future(self._ask(call, upstream, requests[upstream])): plan[upstream] for upstream in plan}
        try:
            while asked:
                done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    partitions = asked.pop(task)
                    yield partitions, task.result()
        finally:
            for task in asked:
                task.cancel()
                task.add_done_callback(_see)

    async def _ask(self, call: _Call, upstream: Upstream, request: bytes) -> Response | None:
        """A worker's answer, or None if another replica, or the same one later, may have a better one.

        Raises:
            VeniceError: The request is wrong, by the worker's judgement.
        """
        try:
            answer = await upstream.send(request)
        except Unavailable as error:
            call.failed(upstream, error)
            return None
        if answer.status == 200 or (answer.status == 404 and wire.ERROR not in answer.headers):
            return answer
        told = wire.error_of(answer.status, answer.body)
        if not isinstance(told, Unavailable | Corrupt):
            raise told
        call.failed(upstream, told)
        if answer.status == wire.MISDIRECTED:
            call.sequence = max(call.sequence, wire.number(answer.headers, wire.CATALOG_SEQUENCE) or 0)
        return None

    async def _table(self, call: _Call) -> Table:
        """Where the version is that the call is to be answered from, by a catalog as new as any worker's that it met.

        Raises:
            NotFound: No such store.
            Unavailable: The store has no version, or not the one the call is pinned to.
        """
        if self._catalog().sequence < call.sequence:
            left_s = call.deadline - asyncio.get_running_loop().time()
            await metadata.catalog_from(self._catalog, call.sequence, max(left_s, 0.0))
            call.avoided.clear()
        return self._table_of(call.store, call.pinned)

    def _table_of(self, store: str, pinned: int | None) -> Table:
        catalog = self._catalog()
        if catalog is not self._seen:
            self._look_again(catalog)
        table = self._tables.get((store, pinned))
        if table is None:
            table = self._tables[store, pinned] = self._make_table(catalog, store, pinned)
        return table

    def _look_again(self, catalog: Catalog) -> None:
        self._seen = catalog
        self._tables.clear()
        urls = {worker.url for worker in catalog.workers.values()}
        for url in [url for url in self._upstreams if url not in urls]:
            self._upstreams.pop(url).close()

    def _make_table(self, catalog: Catalog, name: str, pinned: int | None) -> Table:
        store = metadata.store_of(catalog, name)
        number = store.current if pinned is None else pinned
        if number == NO_VERSION:
            raise no_version(name)
        version, assignment = store.version(number), catalog.assignments.get((name, number))
        if version is None or assignment is None:
            hint = "redo the whole call; 'venice version list' shows which versions there are"
            raise Unavailable(f"version {number} of {name!r} is not served", hint=hint, store=name)
        urls = metadata.replica_urls(catalog, assignment)
        replicas = [[self._upstream(url) for url in partition] for partition in urls]
        return Table(store, version, catalog.sequence, replicas)

    def _upstream(self, url: str) -> Upstream:
        upstream = self._upstreams.get(url)
        if upstream is None:
            upstream = self._upstreams[url] = Upstream(url, attempt_s=self._attempt_s)
        return upstream


def _see(task: asyncio.Task[Response | None]) -> None:
    """The call has failed already: what becomes of its other parts is of no interest."""
    if not task.cancelled():
        task.exception()
