"""The thin clients, for threads and for asyncio, against a server that answers as each test wants: what is asked, what is believed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice import wire
from venice.client.requests import Steps, StoreRequests
from venice.client.thin import AsyncThinClient, ThinClient
from venice.errors import Corrupt, Full, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response, Streamed
from venice.model import ValueSchema
from venice.schema.codec import Codec, key_codec
from venice.serve.http import HttpServer

ROW = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "n", "type": "int"}]})
WIDER = json.dumps(
    {"type": "record", "name": "Row", "fields": [{"name": "n", "type": "int"}, {"name": "t", "type": "string", "default": "-"}]}
)
RECORD_KEY = json.dumps({"type": "record", "name": "Key", "fields": [{"name": "a", "type": "long"}, {"name": "b", "type": "string"}]})


class StoreServer:
    """A server of one store. Tests change its attributes, or answer in its place with `instead`."""

    def __init__(self) -> None:
        self.key_schema = '"long"'
        self.schemas = {1: ROW}
        self.version = 1
        self.sequence = 5
        self.rows: dict[bytes, tuple[int, bytes]] = {}
        """Key → value schema id and value, both as bytes."""
        self.requests: list[Request] = []
        self.instead: Callable[[Request], Response | Streamed | None] = lambda request: None
        """Answers what is not about metadata, if it answers."""
        self.metadata: Callable[[], Response | None] = lambda: None
        self._server = HttpServer(self._answer, "127.0.0.1", 0)
        self._server.start()
        self.url = self._server.url

    def close(self) -> None:
        self._server.stop()

    def put(self, key: Any, value: dict[str, Any], schema_id: int = 1) -> None:
        self.rows[key_codec(self.key_schema).encode(key)] = (schema_id, Codec(self.schemas[schema_id]).encode(value))

    def headers(self, **more: str) -> Headers:
        fields = {**wire.COMMON, wire.STORE_VERSION: b"%d" % self.version, wire.CATALOG_SEQUENCE: b"%d" % self.sequence}
        return Headers({**fields, **{name.replace("_", "-").encode(): value.encode() for name, value in more.items()}})

    def targets(self) -> list[str]:
        """What was asked, in short."""
        return [f"{request.method.decode()} {request.target.decode().split('?')[0]}" for request in self.requests]

    async def _answer(self, request: Request) -> Response | Streamed:
        self.requests.append(request)
        if request.target == b"/metadata/s":
            return self.metadata() or self._metadata()
        instead = self.instead(request)
        if instead is not None:
            return instead
        if request.method == b"GET":
            return self._get(wire.key_of_path(request.target.removeprefix(b"/storage/s/").removesuffix(b"?f=b64")))
        return self._batch(wire.decode_keys(request.body), wire.STREAMING in request.headers)

    def _metadata(self) -> Response:
        facts = wire.Metadata(
            store="s",
            sequence=self.sequence,
            version=self.version,
            partition_count=1,
            compression="none",
            key_schema=self.key_schema,
            value_schemas=tuple(ValueSchema(id=id_, text=text) for id_, text in self.schemas.items()),
            replicas=((),),
        )
        return Response(200, self.headers(), wire.encode_json(wire.metadata_facts(facts)))

    def _get(self, key: bytes) -> Response:
        if key not in self.rows:
            return Response(404, self.headers())
        schema_id, value = self.rows[key]
        return Response(200, self.headers(x_venice_schema_id=str(schema_id)), value)

    def _batch(self, keys: list[bytes], streaming: bool) -> Response | Streamed:
        found = [wire.encode_row(at, self.rows[key][1], self.rows[key][0]) for at, key in enumerate(keys) if key in self.rows]
        found.reverse()  # in any order
        if not streaming:
            return Response(200, self.headers(), b"".join(found))
        missing = [wire.encode_missing(at) for at, key in enumerate(keys) if key not in self.rows]
        return self.stream(*missing, *found, wire.encode_footer(wire.Footer(200)))

    def stream(self, *parts: bytes) -> Streamed:
        async def pieces() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return Streamed(200, self.headers(x_venice_streaming_response="1"), pieces())


class InLoop:
    """An `AsyncThinClient`, driven from outside its loop."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncThinClient(*args, **options)

    @property
    def last_version(self) -> int:
        return self._client.last_version

    def get(self, key: Any) -> Any:
        return self._runner.run(self._client.get(key))

    def batch_get(self, keys: Any) -> Any:
        return self._runner.run(self._client.batch_get(keys))

    def streaming_batch_get(self, keys: Any) -> Iterator[tuple[Any, Any]]:
        pairs = self._client.streaming_batch_get(keys)

        async def following() -> list[tuple[Any, Any]]:
            async for pair in pairs:
                return [pair]
            return []

        while pair := self._runner.run(following()):
            yield pair[0]

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


Opener = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[StoreServer]:
    running = StoreServer()
    for key in range(10):
        running.put(key, {"n": key * key})
    yield running
    running.close()


@pytest.fixture(params=[ThinClient, InLoop], ids=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest, server: StoreServer) -> Iterator[Opener]:
    """`connect()` → a client of either kind, closed after the test."""
    opened: list[Any] = []

    def open_one(store: str = "s", token: str | None = None, **options: Any) -> Any:
        opened.append(request.param(server.url, store, token, **options))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


# ------------------------------------------------------------------ what is asked


def test_reads(server: StoreServer, connect: Opener) -> None:
    client = connect()
    assert client.last_version == 0
    assert (client.get(3), client.get(77)) == ({"n": 9}, None)
    assert client.last_version == 1
    assert client.batch_get([4, 77, 2, 4]) == {4: {"n": 16}, 2: {"n": 4}}
    assert list(client.batch_get(range(9, -1, -1))) == list(range(9, -1, -1)), "in the order of the keys"
    assert dict(client.streaming_batch_get(key for key in (4, 77, 2))) == {4: {"n": 16}, 2: {"n": 4}}
    assert server.targets() == ["GET /metadata/s", "GET /storage/s/Bg", "GET /storage/s/mgE", *["POST /storage/s"] * 3]


def test_a_key_is_asked_for_once(server: StoreServer, connect: Opener) -> None:
    client = connect()
    client.batch_get([3, 4, 3, 3])
    list(client.streaming_batch_get([3, 4, 3, 3]))
    assert [wire.decode_keys(request.body) for request in server.requests[1:]] == [[b"\x06", b"\x08"]] * 2


def test_no_keys_no_request(server: StoreServer, connect: Opener) -> None:
    client = connect()
    assert client.batch_get([]) == {}
    assert list(client.streaming_batch_get([])) == []
    assert set(server.targets()) <= {"GET /metadata/s"}


def test_keys_that_no_dict_can_hold(server: StoreServer, connect: Opener) -> None:
    server.key_schema = RECORD_KEY
    keys = [{"a": number, "b": "x"} for number in range(3)]
    server.put(keys[0], {"n": 5})
    server.put(keys[2], {"n": 6})
    client = connect()
    assert client.get(keys[0]) == {"n": 5}
    with pytest.raises(InvalidRequest, match="unhashable") as caught:
        client.batch_get(keys)
    assert "streaming_batch_get" in caught.value.hint
    found = list(client.streaming_batch_get([*keys, dict(keys[0])]))
    assert sorted(found, key=lambda pair: pair[1]["n"]) == [(keys[0], {"n": 5}), (keys[2], {"n": 6})]


@pytest.mark.parametrize(("schema", "key"), [('"bytes"', bytes(5000)), ('"null"', None), ('"string"', "ä" * 100_000)])
def test_keys_that_fit_no_path(server: StoreServer, connect: Opener, schema: str, key: Any) -> None:
    server.key_schema = schema
    server.rows.clear()
    client = connect()
    assert client.get(key) is None
    server.put(key, {"n": 1})
    assert client.get(key) == {"n": 1}
    assert server.targets()[1:] == ["POST /storage/s"] * 2


def test_headers_of_requests(server: StoreServer, connect: Opener) -> None:
    client = connect(token="s3cret")
    client.get(1)
    client.batch_get([1])
    list(client.streaming_batch_get([1]))
    for request in server.requests:
        assert request.headers[b"x-venice-api-version"] == b"1"
        assert request.headers[b"authorization"] == b"Bearer s3cret"
        assert wire.STORE_VERSION not in request.headers, "it is the router that pins a version"
    assert [request.headers.get(wire.STREAMING) for request in server.requests] == [None, None, None, b"1"]


def test_without_a_token_none_is_sent(server: StoreServer, connect: Opener) -> None:
    connect().get(1)
    assert all(b"authorization" not in request.headers for request in server.requests)


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Other: 1", "ä"])
def test_a_token_that_no_header_can_carry(connect: Opener, token: str) -> None:
    with pytest.raises(InvalidRequest, match="token"):
        connect(token=token)


@pytest.mark.parametrize("store", ["", "a/b", "s?x", "venice_catalog"])
def test_a_store_name_that_is_none(connect: Opener, store: str) -> None:
    with pytest.raises(InvalidRequest, match="store name"):
        connect(store)


def test_it_never_goes_back(server: StoreServer, connect: Opener) -> None:
    """Whatever sequence answers are from, requests ask for the highest of them."""
    client = connect()
    for server.sequence in (5, 9, 7, 9, 12):
        client.get(1)
        list(client.streaming_batch_get([1]))
        client.batch_get([1])
    asked = [request.headers.get(wire.CATALOG_SEQUENCE) for request in server.requests]
    # One more request for metadata: none, then the first get. After that, each answer counts from the next request on.
    assert asked == [None, None, *[b"5"] * 3, *[b"9"] * 9, *[b"12"] * 2]


def test_errors_say_a_sequence_too(server: StoreServer, connect: Opener) -> None:
    client = connect()
    client.get(1)
    server.instead = lambda request: wire.error_response(Unavailable("not now"), headers={wire.CATALOG_SEQUENCE: b"30"})
    with pytest.raises(Unavailable):
        client.get(1)
    with pytest.raises(Unavailable):
        client.get(1)
    assert server.requests[-1].headers[wire.CATALOG_SEQUENCE] == b"30"


def test_keys_that_do_not_fit(server: StoreServer, connect: Opener) -> None:
    client = connect()
    for read in (client.get, lambda key: client.batch_get([1, key]), lambda key: list(client.streaming_batch_get([1, key]))):
        with pytest.raises(InvalidRequest):
            read("three")
    assert server.targets() == ["GET /metadata/s"]


# ------------------------------------------------------------------ schemas


def test_an_unknown_schema_is_asked_for_once(server: StoreServer, connect: Opener) -> None:
    client = connect()
    assert client.get(3) == {"n": 9}
    server.schemas[2] = WIDER
    server.put(3, {"n": 1, "t": "wide"}, 2)
    assert client.get(4) == {"n": 16}, "nothing new to be seen yet"
    assert client.get(3) == {"n": 1, "t": "wide"}
    assert client.get(4) == {"n": 16, "t": "-"}, "all values are read with the latest schema"
    assert client.batch_get([3, 4]) == {3: {"n": 1, "t": "wide"}, 4: {"n": 16, "t": "-"}}
    assert server.targets().count("GET /metadata/s") == 2


@pytest.mark.parametrize("how", ["batch_get", "streaming_batch_get"])
def test_an_unknown_schema_in_a_batch(server: StoreServer, connect: Opener, how: str) -> None:
    client = connect()
    client.get(3)
    server.schemas[2] = WIDER
    server.put(3, {"n": 1, "t": "wide"}, 2)
    wide = {3: {"n": 1, "t": "wide"}, 4: {"n": 16, "t": "-"}}
    found = dict(getattr(client, how)([3, 4]))
    if how == "streaming_batch_get" and found[4] == {"n": 16}:
        found[4] = wide[4]  # It came in a piece of its own, before anything told of the new schema.
    assert found == wide
    assert server.targets().count("GET /metadata/s") == 2
    assert dict(getattr(client, how)([3, 4])) == wide


def test_a_schema_that_nobody_knows(server: StoreServer, connect: Opener) -> None:
    client = connect()
    client.get(3)
    server.schemas[2] = WIDER
    server.put(3, {"n": 1, "t": "wide"}, 2)
    del server.schemas[2]
    for read in (lambda: client.get(3), lambda: client.batch_get([3]), lambda: list(client.streaming_batch_get([3]))):
        before = server.targets().count("GET /metadata/s")
        with pytest.raises(Unavailable, match="value schema 2"):
            read()
        assert server.targets().count("GET /metadata/s") == before + 1


def test_a_store_made_anew_under_its_old_name(server: StoreServer, connect: Opener) -> None:
    """Its keys have another schema, which only the new version's number gives away."""
    client = connect()
    assert client.get(3) == {"n": 9}
    server.version, server.sequence, server.key_schema, server.schemas = 2, 9, '"string"', {7: ROW}
    server.rows.clear()
    server.put("three", {"n": 3}, 7)
    for read in (lambda key: client.get(key), lambda key: client.batch_get([key]), lambda key: list(client.streaming_batch_get([key]))):
        with pytest.raises(InvalidRequest):
            read(3)
    assert client.get("three") == {"n": 3}
    assert server.targets().count("GET /metadata/s") == 2


@pytest.mark.parametrize("how", ["get", "batch_get", "streaming_batch_get"])
def test_the_first_read_after_that_is_right_as_well(server: StoreServer, connect: Opener, how: str) -> None:
    server.key_schema = '"bytes"'
    server.put(b"a", {"n": 1})
    client = connect()
    assert client.get(b"a") == {"n": 1}
    server.version, server.sequence, server.key_schema = 2, 9, '{"type": "fixed", "name": "One", "size": 1}'
    server.rows.clear()
    server.put(b"a", {"n": 2})
    found = client.get(b"a") if how == "get" else dict(getattr(client, how)([b"a"]))[b"a"]
    assert found == {"n": 2}
    assert client.last_version == 2


def test_a_new_version_is_looked_at_once(server: StoreServer, connect: Opener) -> None:
    client = connect()
    for server.version in (1, 2, 1, 2, 2, 3, 1):
        client.get(3)
        assert client.last_version == server.version
        client.batch_get([3])
    assert server.targets().count("GET /metadata/s") == 3


def test_metadata_older_than_what_is_known(server: StoreServer, connect: Opener) -> None:
    """What a router behind the others says of schemas does not replace what is known."""
    server.schemas[2] = WIDER
    client = connect()
    assert client.get(3) == {"n": 9, "t": "-"}
    del server.schemas[2]
    server.version, server.sequence = 2, 4
    assert client.get(3) == {"n": 9, "t": "-"}


# ------------------------------------------------------------------ errors


def reads(client: Any) -> list[Callable[[], Any]]:
    return [lambda: client.get(3), lambda: client.batch_get([3, 4]), lambda: list(client.streaming_batch_get([3, 4]))]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidRequest("keys are wrong", hint="mend them")),
        (400, NotFound("no store 's'")),
        (404, NotFound("no store 's'")),
        (413, Full("too many keys")),
        (421, Unavailable("elsewhere")),
        (500, Corrupt("a replica is damaged")),
        (503, Unavailable("no replica", hint="try again")),
    ],
)
def test_the_router_s_errors(server: StoreServer, connect: Opener, status: int, error: VeniceError) -> None:
    server.instead = lambda request: wire.error_response(error, status, server.headers())
    for read in reads(connect()):
        with pytest.raises(type(error)) as caught:
            read()
        assert (caught.value.message, caught.value.hint) == (error.message, error.hint)


@pytest.mark.parametrize(
    ("response", "error", "text"),
    [
        (Response(502, Headers(), b"<html>Bad Gateway</html>"), Unavailable, "502"),
        (Response(421, Headers(), b""), Unavailable, "421"),
        (Response(404, Headers(), b"<html>Not Found</html>"), InvalidRequest, "404"),
        (Response(401, Headers(), b""), InvalidRequest, "401"),
        (Response(200, Headers(), b"<html>It works!</html>"), Corrupt, "not one of Venice"),
        (Response(200, Headers({b"x-venice-api-version": b"2"}), b""), InvalidRequest, "version '2'"),
        (Response(404, Headers({b"x-venice-api-version": b"2"}), b""), InvalidRequest, "version '2'"),
        (Response(200, Headers(wire.COMMON), b""), Corrupt, "which version"),
        (Response(200, Headers({**wire.COMMON, wire.STORE_VERSION: b"one"}), b""), Corrupt, "VERSION"),
        (Response(200, Headers({**wire.COMMON, wire.STORE_VERSION: b"1", wire.CATALOG_SEQUENCE: b"-3"}), b""), Corrupt, "SEQ"),
        (Response(200, Headers({**wire.COMMON, wire.STORE_VERSION: b"1", wire.COMPRESSION: b"lz9"}), b""), InvalidRequest, "'lz9'"),
    ],
)
def test_answers_of_somebody_else(server: StoreServer, connect: Opener, response: Response, error: type[VeniceError], text: str) -> None:
    server.instead = lambda request: response
    for read in reads(connect()):
        with pytest.raises(error, match=text) as caught:
            read()
        assert caught.value.hint


def test_a_key_is_only_missing_if_venice_says_so(server: StoreServer, connect: Opener) -> None:
    server.instead = lambda request: Response(404, server.headers())
    client = connect()
    assert client.get(3) is None
    for read in reads(client)[1:]:
        with pytest.raises(InvalidRequest, match="404"):
            read()


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (Response(200, Headers(wire.COMMON), b"{}"), Corrupt),
        (Response(200, Headers(wire.COMMON), b"\xff"), Corrupt),
        (Response(200, Headers(), b"{}"), Corrupt),
        (Response(404, Headers(), b"?"), InvalidRequest),
        (Response(503, Headers(wire.COMMON), wire.error_json(Unavailable("not now"))), Unavailable),
        (wire.error_response(NotFound("no store 's'")), NotFound),
    ],
)
def test_metadata_that_is_none(server: StoreServer, connect: Opener, response: Response, error: type[VeniceError]) -> None:
    server.metadata = lambda: response
    client = connect()
    for read in reads(client):
        with pytest.raises(error):
            read()
    server.metadata = lambda: None
    assert client.get(3) == {"n": 9}, "it asks again"


def test_a_key_schema_that_is_none(server: StoreServer, connect: Opener) -> None:
    server.metadata = lambda: Response(200, server.headers(), server._metadata().body.replace(b'\\"long\\"', b'\\"loooong\\"'))
    with pytest.raises(Corrupt, match="key schema"):
        connect().get(3)


@pytest.mark.parametrize("schema_id", [None, "", "x", "-1", "1" * 30])
def test_a_schema_id_that_is_none(server: StoreServer, connect: Opener, schema_id: str | None) -> None:
    more = {} if schema_id is None else {"x_venice_schema_id": schema_id}
    server.instead = lambda request: Response(200, server.headers(**more), b"\x02")
    with pytest.raises(Corrupt, match="value schema"):
        connect().get(3)


def test_a_value_that_is_none(server: StoreServer, connect: Opener) -> None:
    server.rows[b"\x06"] = (1, b"\x80")
    for read in reads(connect()):
        with pytest.raises(Corrupt):
            read()


# ------------------------------------------------------------------ batches


FOUND = wire.encode_row(0, b"\x12", 1)
ALSO = wire.encode_row(1, b"\x20", 1)
WELL = wire.encode_footer(wire.Footer(200))
BROKEN = wire.encode_footer(wire.Footer(503, wire.error_json(Unavailable("a worker died", hint="try again"))))


@pytest.mark.parametrize(
    "body",
    [FOUND[:-1], FOUND + ALSO[:2], FOUND + FOUND, wire.encode_row(2, b"\x12", 1), b"\xff" * 20, FOUND + ALSO + b"\x00", WELL + FOUND],
)
def test_batches_that_are_none(server: StoreServer, connect: Opener, body: bytes) -> None:
    """Two keys were asked for."""
    server.instead = lambda request: Response(200, server.headers(), body)
    for read in reads(connect())[1:]:
        with pytest.raises(Corrupt):
            read()


def test_a_failed_batch_is_no_batch(server: StoreServer, connect: Opener) -> None:
    server.instead = lambda request: Response(200, server.headers(), FOUND + BROKEN)
    with pytest.raises(Unavailable, match="a worker died"):
        connect().batch_get([3, 4])


@pytest.mark.parametrize(
    ("parts", "error", "text"),
    [
        ([FOUND, BROKEN], Unavailable, "a worker died"),
        ([FOUND], Unavailable, "after 1 of 2 keys"),
        ([FOUND, ALSO], Unavailable, "after 2 of 2 keys"),
        ([FOUND, WELL], Corrupt, "1 of 2 keys"),
        ([FOUND, WELL[:-2]], Corrupt, "ends within"),
        ([FOUND, WELL, ALSO], Corrupt, "behind the footer"),
        ([FOUND, wire.encode_missing(0), WELL], Corrupt, "key 0"),
        ([FOUND, wire.encode_missing(7), WELL], Corrupt, "key 7"),
        ([FOUND, FOUND, WELL], Corrupt, "key 0"),
        ([FOUND, b"\xff" * 20], Corrupt, "64 bits"),
    ],
)
def test_a_stream_that_goes_wrong(server: StoreServer, connect: Opener, parts: list[bytes], error: type[VeniceError], text: str) -> None:
    server.instead = lambda request: server.stream(*parts)
    pairs = []
    with pytest.raises(error, match=text):
        pairs.extend(connect().streaming_batch_get([3, 4]))
    assert pairs in ([], [(3, {"n": 9})], [(3, {"n": 9}), (4, {"n": 16})])


def test_pairs_come_before_the_error(server: StoreServer, connect: Opener) -> None:
    go_on = threading.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield FOUND
        await asyncio.to_thread(go_on.wait, 10)
        yield BROKEN

    server.instead = lambda request: Streamed(200, server.headers(x_venice_streaming_response="1"), parts())
    pairs = connect().streaming_batch_get([3, 4])
    assert next(pairs) == (3, {"n": 9})
    go_on.set()
    with pytest.raises(Unavailable, match="a worker died"):
        next(pairs)


def test_a_stream_that_the_server_breaks_off(server: StoreServer, connect: Opener) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield FOUND
        raise Unavailable("the connection is cut")

    server.instead = lambda request: Streamed(200, server.headers(x_venice_streaming_response="1"), parts())
    for read in reads(connect())[1:]:
        with pytest.raises(Unavailable, match="closed the connection"):
            read()


def test_a_plain_answer_to_a_streaming_request(server: StoreServer, connect: Opener) -> None:
    server.instead = lambda request: Response(200, server.headers(), ALSO)
    assert list(connect().streaming_batch_get([3, 4])) == [(4, {"n": 16})]


# ------------------------------------------------------------------ the client as a whole


def test_a_slow_server(server: StoreServer, connect: Opener) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(60)  # it is cut
        yield b""

    client = connect(timeout_s=0.2)
    client.get(3)
    server.instead = lambda request: Streamed(200, server.headers(), never())
    for read in reads(client):
        with pytest.raises(Unavailable, match="did not answer within"):
            read()


def test_a_server_that_starts_again(server: StoreServer, connect: Opener) -> None:
    client = connect()
    assert client.get(3) == {"n": 9}
    port = server._server.port
    server.close()
    with pytest.raises(Unavailable, match="nothing listens"):
        client.get(3)
    server._server = HttpServer(server._answer, "127.0.0.1", port)
    server._server.start()
    assert client.get(3) == {"n": 9}


def test_many_threads_and_a_store_that_changes(server: StoreServer) -> None:
    wrong: list[object] = []
    go_on = threading.Event()

    def read(client: ThinClient) -> None:
        last = 0
        try:
            while not go_on.is_set() or last < 20:
                last = max(last, client.last_version)
                found = [client.get(3), client.get(77), client.batch_get(range(10)), dict(client.streaming_batch_get(range(10)))]
                expected = {key: {"n": key * key} for key in range(10)}
                plain = json.loads(json.dumps(found).replace(', "t": "-"', ""))
                if plain != json.loads(json.dumps([expected[3], None, expected, expected])):
                    wrong.append(found)
        except Exception as error:  # noqa: BLE001 - judged below
            wrong.append(error)

    with ThinClient(server.url, "s") as client:
        threads = [threading.Thread(target=read, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for number in range(2, 21):
            server.schemas = {**server.schemas, number: WIDER}
            server.sequence += 1
            server.version = number
        go_on.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_both_kinds_are_context_managers(server: StoreServer) -> None:
    with ThinClient(server.url, "s") as client:
        assert client.get(3) == {"n": 9}
    with pytest.raises(InvalidRequest, match="is closed"):
        client.get(3)

    async def main() -> None:
        async with AsyncThinClient(server.url, "s") as twin:
            assert await asyncio.gather(*[twin.get(key) for key in range(10)]) == [{"n": key * key} for key in range(10)]
        with pytest.raises(InvalidRequest, match="is closed"):
            await twin.get(3)

    asyncio.run(main())


def test_the_client_of_threads_needs_no_asyncio() -> None:
    code = "import sys, venice.client.thin; print(*{'asyncio', 'ssl', 'json.tool', 'uvloop'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == []


# ------------------------------------------------------------------ any answer at all

BODIES = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([FOUND, ALSO, WELL, BROKEN, wire.encode_missing(0), wire.encode_missing(1)]), max_size=4).map(b"".join),
)
HEADER_VALUES = st.one_of(st.sampled_from([b"0", b"1", b"2", b"none", b"999999999999"]), st.binary(max_size=8))
NAMES = [
    *(wire.API_VERSION_HEADER, wire.STORE_VERSION, wire.CATALOG_SEQUENCE, wire.SCHEMA_ID),
    *(wire.COMPRESSION, wire.ERROR, wire.STREAMING_RESPONSE),
]
ANSWERS = st.builds(
    lambda status, headers, body: Response(status, Headers({**wire.COMMON, wire.STORE_VERSION: b"1", **headers}), body),
    st.sampled_from([200, 200, 200, 404, 400, 421, 503]),
    st.dictionaries(st.sampled_from(NAMES), HEADER_VALUES, max_size=4),
    BODIES,
)


def outcome(steps: Steps[Any], metadata: Response, answer: Response) -> str:
    try:
        request = next(steps)
        while True:
            request = steps.send(metadata if request.target.startswith(b"/metadata") else answer)
    except StopIteration as done:
        return "none" if done.value is None else type(done.value).__name__


@given(st.lists(ANSWERS, min_size=1, max_size=4), st.booleans())
def test_any_answer_gives_a_result_or_an_error_of_venice(answers: list[Response], batch: bool) -> None:
    known = wire.Metadata(
        store="s",
        sequence=1,
        version=1,
        partition_count=1,
        compression="none",
        key_schema='"long"',
        value_schemas=(ValueSchema(id=1, text=ROW),),
        replicas=((),),
    )
    metadata = Response(200, Headers(wire.COMMON), wire.encode_json(wire.metadata_facts(known)))
    requests = StoreRequests("s", None)
    for answer in answers:
        steps = requests.batch_get([3, 4]) if batch else requests.get(3)
        # Raises nothing else, and returns one of the two.
        with contextlib.suppress(VeniceError):
            assert outcome(steps, metadata, answer) in ("none", "dict")
