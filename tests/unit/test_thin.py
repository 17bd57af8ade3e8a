"""Thin clients, sync and async, through a real router and workers, and against servers that misbehave.

What holds for every remote client is asked of the fast clients as well (`open_any`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from serving_kit import VALUE_SCHEMA, WIDER_SCHEMA, ServedCluster, a_store, cluster_of, row

from venice import wire
from venice.client.fast import AsyncFastClient, FastClient
from venice.client.thin import AsyncThinClient, ThinClient
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response
from venice.serve.http import HttpServer
from venice.serve.requests import Limits

ROWS = 200


@pytest.fixture
def cluster() -> Iterator[ServedCluster]:
    with cluster_of(2) as made:
        made.add_store(a_store("rows"))
        made.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=8, replication=2)
        yield made


class AsyncInSync:
    """The async client with the face of the sync one, so that every test runs on both."""

    kind: type[AsyncThinClient | AsyncFastClient] = AsyncThinClient

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = self.kind(*args, **kwargs)
        self._runner = asyncio.Runner()

    def __enter__(self) -> AsyncInSync:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def last_version(self) -> int:
        return self._client.last_version

    def get(self, key: Any) -> Any:
        return self._runner.run(self._client.get(key))

    def batch_get(self, keys: Any) -> Any:
        return self._runner.run(self._client.batch_get(keys))

    def streaming_batch_get(self, keys: Any) -> Iterator[tuple[Any, Any]]:
        stream = self._client.streaming_batch_get(keys)
        while True:
            try:
                yield self._runner.run(anext(stream))  # type: ignore[arg-type]  # `anext` is awaitable, and the runner wants a coroutine
            except StopAsyncIteration:
                return

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


class AsyncFastInSync(AsyncInSync):
    """The same for the async fast client."""

    kind = AsyncFastClient


Open = Callable[..., Any]


@pytest.fixture(params=[ThinClient, AsyncInSync], ids=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    return opened


@pytest.fixture(params=[ThinClient, AsyncInSync, FastClient, AsyncFastInSync], ids=["sync", "async", "fast", "fast-async"])
def open_any(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    return opened


def test_get(cluster: ServedCluster, open_any: Open) -> None:
    with open_any(cluster.url, "rows") as client:
        assert client.last_version == 0
        assert client.get(7) == row(7, 1)
        assert client.get(ROWS) is None
        assert client.last_version == 1


def test_batch_get(cluster: ServedCluster, open_any: Open) -> None:
    with open_any(cluster.url, "rows") as client:
        found = client.batch_get([5, 7, 5, 1000, 7])
        assert found == {5: row(5, 1), 7: row(7, 1)}
        assert isinstance(found, dict)
        assert client.batch_get(range(300)) == {key: row(key, 1) for key in range(ROWS)}
        assert client.batch_get([]) == {}
        assert client.batch_get(key for key in (1, 2)) == {1: row(1, 1), 2: row(2, 1)}
        assert client.last_version == 1


def test_streaming_batch_get(cluster: ServedCluster, open_any: Open) -> None:
    with open_any(cluster.url, "rows") as client:
        assert dict(client.streaming_batch_get(range(300))) == {key: row(key, 1) for key in range(ROWS)}
        assert list(client.streaming_batch_get([])) == []
        assert client.last_version == 1


def test_a_stream_may_be_left_early(cluster: ServedCluster) -> None:
    with ThinClient(cluster.url, "rows") as client:
        for _, value in client.streaming_batch_get(range(ROWS)):
            assert value["edition"] == 1
            break
        assert client.get(7) == row(7, 1)


@pytest.mark.parametrize(
    ("schema", "keys"),
    [
        ('"string"', ["a", "", "Zürich/ä?%"]),
        ('"bytes"', [b"", b"\x00\xff\xfe"]),
        ('"double"', [1.5, -2.0]),
        ('["null", "long"]', [None, 7]),
        (
            '{"type": "record", "name": "K", "fields": [{"name": "a", "type": "string"}, {"name": "b", "type": "int"}]}',
            [{"a": "x", "b": 1}],
        ),
        ('{"type": "array", "items": "int"}', [[1, 2], []]),
        ('{"type": "map", "values": "int"}', [{"x": 1, "y": 2}]),
    ],
)
def test_keys_of_any_type(open_any: Open, schema: str, keys: list[Any]) -> None:
    with cluster_of() as cluster:
        cluster.add_store(a_store("keys", schema, '"int"'))
        cluster.push("keys", [(key, position) for position, key in enumerate(keys)])
        with open_any(cluster.url, "keys") as client:
            assert [client.get(key) for key in keys] == list(range(len(keys)))
            pairs = [(key, position) for position, key in enumerate(keys)]
            assert sorted(client.streaming_batch_get(keys), key=lambda pair: int(pair[1])) == pairs
            try:
                expected = dict(pairs)
            except TypeError:
                with pytest.raises(InvalidRequest, match="dict"):
                    client.batch_get(keys)
            else:
                assert client.batch_get(keys) == expected


def test_errors_are_those_of_venice(cluster: ServedCluster, open_any: Open) -> None:
    cluster.add_store(a_store("empty"))
    with open_any(cluster.url, "nope") as client, pytest.raises(NotFound, match="nope") as caught:
        client.get(7)
    assert "rows" in caught.value.hint
    with open_any(cluster.url, "empty") as client:
        for read in (client.get, lambda key: client.batch_get([key]), lambda key: list(client.streaming_batch_get([key]))):
            with pytest.raises(Unavailable, match="no version"):
                read(7)
    with open_any(cluster.url, "rows") as client:
        with pytest.raises(InvalidRequest):
            client.get("seven")
        for read in (client.batch_get, lambda keys: list(client.streaming_batch_get(keys))):
            with pytest.raises(InvalidRequest):
                read(["seven"])
            with pytest.raises(Full, match="10001"):
                read(range(10_001))


@pytest.mark.parametrize("url", ["", "127.0.0.1:7071", "https://h:1", "http://", "http://h:port", "http://h:1/path", "ftp://h"])
def test_a_url_that_is_none_is_refused(open_any: Open, url: str) -> None:
    with pytest.raises(InvalidRequest, match="URL"):
        open_any(url, "rows")


def test_a_store_name_that_is_none_is_refused(open_any: Open) -> None:
    with pytest.raises(InvalidRequest, match="store name"):
        open_any("http://127.0.0.1:1", "a/b")


def test_nobody_listens(open_any: Open, free_port: Callable[[], int]) -> None:
    with open_any(f"http://127.0.0.1:{free_port()}", "rows") as client, pytest.raises(Unavailable, match="nothing listens") as caught:
        client.get(7)
    assert "venice up" in caught.value.hint


def test_a_closed_client_says_so(cluster: ServedCluster) -> None:
    client = ThinClient(cluster.url, "rows")
    assert client.get(7) == row(7, 1)
    client.close()
    client.close()
    for read in (client.get, lambda key: list(client.streaming_batch_get([key]))):
        with pytest.raises(InvalidRequest, match="closed"):
            read(7)


def test_a_closed_async_client_says_so(cluster: ServedCluster) -> None:
    async def scenario() -> None:
        async with AsyncThinClient(cluster.url, "rows") as client:
            assert await client.get(7) == row(7, 1)
        with pytest.raises(InvalidRequest, match="closed"):
            await client.get(7)

    asyncio.run(scenario())


def test_a_newer_schema_is_fetched_when_it_is_met(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        store = cluster.catalog.stores["rows"]
        cluster.add_store(replace(store, value_schemas=a_store("rows", '"long"', VALUE_SCHEMA, WIDER_SCHEMA).value_schemas))
        assert client.get(7) == row(7, 1)
        cluster.push("rows", {key: {**row(key, 2), "extra": 2.5} for key in range(ROWS)}, schema_id=2)
        assert client.batch_get([7]) == {7: {**row(7, 2), "extra": 2.5}}
        # Rows written with the old schema are read as the newest one from now on.
        cluster.swap("rows", 1)
        assert client.get(7) == {**row(7, 1), "extra": 0.5}
        assert dict(client.streaming_batch_get([7])) == {7: {**row(7, 1), "extra": 0.5}}
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == {**row(7, 1), "extra": 0.5}


def test_rollback_is_followed(cluster: ServedCluster, open_client: Open) -> None:
    cluster.push("rows", {7: row(7, 2)})
    with open_client(cluster.url, "rows") as client:
        assert (client.get(7), client.last_version) == (row(7, 2), 2)
        cluster.swap("rows", 1)
        assert (client.get(7), client.last_version) == (row(7, 1), 1)


def test_a_client_never_goes_back_behind_what_it_has_seen(cluster: ServedCluster, open_client: Open) -> None:
    """Two routers, one of them behind: what the client saw through one, the other must have folded before it answers."""
    behind = cluster.catalog
    cluster.push("rows", {key: row(key, 2) for key in range(ROWS)})
    ahead = cluster.catalog
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 2)
        cluster.catalog = behind
        timer = threading.Timer(0.1, lambda: setattr(cluster, "catalog", ahead))
        timer.start()
        assert client.get(7) == row(7, 2)
        timer.join()


def test_connections_are_kept_and_shared(cluster: ServedCluster) -> None:
    with ThinClient(cluster.url, "rows") as client:
        for _ in range(20):
            assert client.get(7) == row(7, 1)
        assert len(cluster.server._connections) == 1
        faults: list[object] = []

        def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(100):
                key = rng.randrange(ROWS + 50)
                if client.get(key) != (row(key, 1) if key < ROWS else None):
                    faults.append(key)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert len(cluster.server._connections) <= 8


def test_async_reads_run_side_by_side(cluster: ServedCluster) -> None:
    async def scenario() -> None:
        async with AsyncThinClient(cluster.url, "rows") as client:
            values = await asyncio.gather(*[client.get(key) for key in range(100)])
            assert values == [row(key, 1) for key in range(100)]
            many = await asyncio.gather(*[client.batch_get(range(start, start + 50)) for start in range(0, 150, 10)])
            assert all(batch == {key: row(key, 1) for key in batch} and len(batch) == 50 for batch in many)

    asyncio.run(scenario())


def test_a_cancelled_async_read_harms_no_other(cluster: ServedCluster) -> None:
    async def scenario() -> None:
        async with AsyncThinClient(cluster.url, "rows") as client:
            await client.get(1)
            for key in range(50):
                task = asyncio.create_task(client.get(key))
                await asyncio.sleep(0.0002 * (key % 5))  # cancelled at another moment each time
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await task == row(key, 1)
                assert await client.get(key + 1) == row(key + 1, 1)

    asyncio.run(scenario())


def test_a_connection_the_server_has_closed_is_replaced(cluster: ServedCluster, open_any: Open) -> None:
    with open_any(cluster.url, "rows") as client:
        for _ in range(3):
            assert client.get(7) == row(7, 1)
            cut = threading.Event()

            def cut_all(done: threading.Event = cut) -> None:
                for connection in tuple(cluster.server._connections):
                    connection.abort()
                done.set()

            cluster.server.loop.call_soon_threadsafe(cut_all)
            assert cut.wait(10)


def test_a_restarted_router_is_found_again(open_client: Open) -> None:
    with cluster_of() as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {7: row(7, 1)})
        with open_client(cluster.url, "rows") as client:
            assert client.get(7) == row(7, 1)
            port = cluster.server.port
            cluster.server.stop()
            with pytest.raises(Unavailable):
                client.get(7)
            again = ServedCluster.__new__(ServedCluster)
            again.__dict__.update(cluster.__dict__)
            cluster.router = again.router = type(cluster.router)(cluster)
            cluster.server = HttpServer(
                cluster.router.handle, "127.0.0.1", port, Limits(drain_s=1.0), cluster.router.close, cluster.router.lane
            )
            cluster.server.start()
            assert client.get(7) == row(7, 1)


def test_readers_that_loop_while_versions_swap_see_whole_versions_in_order(cluster: ServedCluster) -> None:
    done = threading.Event()
    faults: list[str] = []
    seen: dict[str, list[int]] = {"get": [], "batch": [], "stream": []}

    def read(how: str) -> None:
        rng = random.Random(how)
        with ThinClient(cluster.url, "rows") as client:
            while not done.is_set():
                keys = rng.sample(range(ROWS), 100)
                try:
                    if how == "get":
                        rows = {keys[0]: client.get(keys[0])}
                        keys = keys[:1]
                    elif how == "batch":
                        rows = dict(client.batch_get(keys))
                    else:
                        rows = dict(client.streaming_batch_get(keys))
                except VeniceError as error:
                    faults.append(repr(error))
                    return
                edition = rows[keys[0]]["edition"]
                if rows != {key: row(key, edition) for key in keys}:
                    faults.append(f"{how}: not whole at edition {edition}")
                seen[how].append(edition)

    readers = [threading.Thread(target=read, args=(how,)) for how in seen]
    for reader in readers:
        reader.start()
    for edition in range(2, 22):
        cluster.push("rows", {key: row(key, edition) for key in range(ROWS)}, partition_count=3 + edition % 4, replication=2)
        if edition > 2:
            cluster.retire("rows", edition - 2)
        if edition > 3:
            cluster.drop("rows", edition - 3)
        before = {how: len(editions) for how, editions in seen.items()}
        while not faults and any(len(editions) < before[how] + 2 for how, editions in seen.items()):
            done.wait(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    for editions in seen.values():
        assert editions == sorted(editions)
        assert set(editions) >= set(range(2, 22))


def test_the_token_is_sent() -> None:
    said: list[object] = []

    def listen(request: Request) -> Response:
        said.append(request.headers.get(b"authorization"))
        raise NotFound("nothing here")

    server = HttpServer(listen, "127.0.0.1", 0)
    server.start()
    try:
        for token in ("secret", None):
            with ThinClient(server.url, "rows", token) as client, pytest.raises(NotFound):
                client.get(1)
    finally:
        server.stop()
    assert said == [b"Bearer secret", None]


def test_a_client_may_read_from_a_worker() -> None:
    with cluster_of() as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)})
        with ThinClient(cluster.workers[0].url, "rows") as client:
            assert client.get(7) == row(7, 1)
            assert client.batch_get([7, 8, 1000]) == {7: row(7, 1), 8: row(8, 1)}
            assert dict(client.streaming_batch_get([7, 8, 1000])) == {7: row(7, 1), 8: row(8, 1)}


# Answers that no worker gives.


METADATA = wire.encode_json(
    {
        "store": "rows",
        "sequence": 1,
        "version": 1,
        "partition_count": 1,
        "compression": "none",
        "key_schema": '"long"',
        "value_schemas": [{"id": 1, "schema": '"int"'}],
        "replicas": [],
        "a newer release says": "more",
    }
)
FOUND = {**wire.COMMON, wire.STORE_VERSION: b"1", wire.CATALOG_SEQUENCE: b"1", wire.SCHEMA_ID: b"1"}


@contextlib.contextmanager
def lying(status: int, headers: dict[bytes, bytes], body: bytes) -> Iterator[ThinClient]:
    """A client whose server answers every read so."""

    def answer(request: Request) -> Response:
        if request.target.startswith(b"/metadata"):
            return Response(200, Headers(wire.COMMON), METADATA)
        return Response(status, Headers(headers), body)

    server = HttpServer(answer, "127.0.0.1", 0)
    server.start()
    try:
        with ThinClient(server.url, "rows") as client:
            yield client
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (200, {**FOUND, wire.API_VERSION_HEADER: b"2"}, b"\x02", InvalidRequest),
        (200, {**FOUND, wire.COMPRESSION: b"lz9"}, b"\x02", InvalidRequest),
        (200, {**FOUND, wire.COMPRESSION: b"zstd"}, b"\x02", Corrupt),
        (200, {**FOUND, wire.COMPRESSION: b"gzip"}, b"\x02", Corrupt),
        (200, FOUND, b"\xff\xff", Corrupt),
        (200, FOUND, b"\x02\x02", Corrupt),
        (200, {**wire.COMMON, wire.STORE_VERSION: b"1"}, b"\x02", Corrupt),
        (200, {wire.STORE_VERSION: b"1", wire.SCHEMA_ID: b"1"}, b"\x02", Corrupt),
        (200, {**FOUND, wire.STORE_VERSION: b"one"}, b"\x02", Corrupt),
        (502, {}, b"<html>Bad Gateway</html>", Unavailable),
        (403, {}, b"", InvalidRequest),
        (404, {wire.ERROR: b"not_found"}, wire.error_json(NotFound("no such store")), NotFound),
        (421, {wire.ERROR: b"unavailable"}, wire.error_json(Unavailable("elsewhere")), Unavailable),
    ],
)
def test_answers_that_make_no_sense_are_named(status: int, headers: dict[bytes, bytes], body: bytes, error: type[VeniceError]) -> None:
    with lying(status, headers, body) as client, pytest.raises(error):
        client.get(7)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"\xff", Corrupt),
        (wire.encode_row(5, b"\x02", 1), Corrupt),
        (wire.encode_row(0, b"\x02", 1)[:-1], Corrupt),
        (wire.encode_row(0, b"\xff", 1), Corrupt),
    ],
)
def test_batches_that_make_no_sense_are_corrupt(body: bytes, error: type[VeniceError]) -> None:
    with lying(200, FOUND, body) as client:
        with pytest.raises(error):
            client.batch_get([7])
        with pytest.raises(error):
            list(client.streaming_batch_get([7]))


def test_a_stream_without_its_end_yields_what_came_and_then_fails() -> None:
    streamed = {**FOUND, wire.STREAMING_RESPONSE: b"1"}
    for ending in (b"", wire.encode_footer(wire.Footer(503, wire.error_json(Unavailable("gone"))))):
        with lying(200, streamed, wire.encode_row(0, b"\x02", 1) + ending) as client:
            stream = client.streaming_batch_get([7, 8])
            assert next(stream) == (7, 1)
            with pytest.raises(Unavailable):
                next(stream)


class Teller:
    """Listens, reads one request per connection and plays a script: bytes to send, then close, or silence."""

    def __init__(self, *scripts: tuple[bytes, bool]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(10)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, args=(scripts,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Teller:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()
        for held in self._held:
            held.close()

    def _run(self, scripts: tuple[tuple[bytes, bool], ...]) -> None:
        for data, silent in scripts:
            connection, _ = self._listener.accept()
            connection.recv(65536)
            connection.sendall(data)
            if silent:
                self._held.append(connection)
            else:
                connection.close()


_CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"


@pytest.mark.parametrize(
    ("data", "silent"),
    [(b"", False), (_CUT, False), (b"SSH-2.0-x\r\n", False), (_CUT, True), (b"", True), (b"HTTP/1.1 200 OK\r\n\r\nx", False)],
)
def test_a_server_that_breaks_off_or_hangs_is_unavailable(open_any: Open, data: bytes, silent: bool) -> None:
    with (
        Teller((data, silent)) as teller,
        open_any(teller.url, "rows", timeout_s=0.3) as client,
        pytest.raises((Unavailable, Corrupt)),
    ):
        client.get(7)


@pytest.mark.parametrize(("data", "silent"), [(b"", False), (_CUT, False), (_CUT, True), (b"", True)])
def test_a_stream_that_breaks_off_or_hangs_is_unavailable(open_client: Open, data: bytes, silent: bool) -> None:
    learned = b"HTTP/1.1 200 OK\r\nX-VENICE-API-VERSION: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(METADATA), METADATA)
    with (
        Teller((learned, False), (data, silent)) as teller,
        open_client(teller.url, "rows", timeout_s=0.3) as client,
        pytest.raises((Unavailable, Corrupt)),
    ):
        list(client.streaming_batch_get([7]))
