"""The HTTP driver over real sockets: order, limits, hostile clients, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial

import pytest
import waiting

from venice.errors import Conflict, InvalidRequest, NotFound
from venice.message import Headers, Request, Response, ResponseParser, Streamed
from venice.serve.connection import Lane, Reply
from venice.serve.http import HttpServer
from venice.serve.requests import Limits

eventually = partial(waiting.eventually, timeout_s=60)
HEADERS = Headers({b"x-venice-schema-id": b"1"})


def echo(request: Request) -> Response:
    if request.target == b"/missing":
        raise NotFound("no such thing", hint="look elsewhere", thing="this")
    if request.target == b"/bug":
        raise ZeroDivisionError("a bug")
    if request.target.startswith(b"/large"):
        return Response(200, HEADERS, bytes(int(request.target[6:])))
    text = b"%b %b %d %b" % (request.method, request.target, len(request.body), request.body[:20])
    return Response(200, HEADERS, text)


@contextlib.contextmanager
def serving(handler: object = echo, **limits: float) -> Iterator[HttpServer]:
    server = HttpServer(handler, "127.0.0.1", 0, Limits(**limits))  # type: ignore[arg-type]  # handlers and limits of any kind
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def serving_lanes(lanes: object, handler: object = echo) -> Iterator[HttpServer]:
    server = HttpServer(handler, "127.0.0.1", 0, lanes=lanes)  # type: ignore[arg-type]  # handlers and lanes of any kind
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with serving(head_bytes_max=4096, headers_max=20, body_bytes_max=10_000, read_s=0.3, idle_s=5.0, linger_s=0.5) as running:
        yield running


class Peer:
    """A client that sends exactly what it is told to."""

    def __init__(self, server: HttpServer) -> None:
        self.socket = socket.create_connection((server.host, server.port), timeout=10)
        self._parser = ResponseParser()
        self._answers: list[Response] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answers(self, count: int) -> list[Response]:
        """The next `count` answers; fewer if the server closes before."""
        while len(self._answers) < count:
            data = self._receive()
            if not data:
                break
            self._answers += self._parser.feed(data)
        taken, self._answers = self._answers[:count], self._answers[count:]
        return taken

    def answer(self) -> Response:
        [answer] = self.answers(1)
        return answer

    def is_closed(self) -> bool:
        """Wait until the server closes; anything more it says is an error."""
        return self._receive() == b""

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: h", *headers, "", ""]).encode()


def test_a_request_and_its_answer(server: HttpServer) -> None:
    with Peer(server) as peer:
        for _ in range(3):  # the second and third take the short way
            peer.send(get("/a?b=c"))
            answer = peer.answer()
            assert (answer.status, answer.body) == (200, b"GET /a?b=c 0 ")
            assert answer.headers[b"x-venice-schema-id"] == b"1"


def test_headers_of_each_request_are_its_own(server: HttpServer) -> None:
    def show(request: Request) -> Response:
        return Response(200, HEADERS, json.dumps({k.decode(): v.decode() for k, v in sorted(request.headers.items())}).encode())

    with serving(show) as shown, Peer(shown) as peer:
        for value in ("1", "1", "2", "2", "1"):
            peer.send(get("/", f"X-Venice-SCHEMA-id: {value}"))
            assert json.loads(peer.answer().body) == {"host": "h", "x-venice-schema-id": value}
        peer.send(get("/"))
        assert json.loads(peer.answer().body) == {"host": "h"}
        peer.send(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-VENICE-SCHEMA-ID: 9\r\n\r\n" + get("/"))
        assert [json.loads(answer.body) for answer in peer.answers(2)] == [{"transfer-encoding": "chunked"}, {"host": "h"}]


def test_bytes_may_arrive_one_by_one(server: HttpServer) -> None:
    request = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    with Peer(server) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(len(request)):
            peer.send(request[start : start + 1])
        assert peer.answer().body == b"POST /p 5 hello"


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_pipelined_requests_are_answered_in_order(server: HttpServer, size: int) -> None:
    targets = [f"/{number}" for number in range(1000)]
    stream = b"".join([get(target) for target in targets])
    with Peer(server) as peer:

        def send() -> None:
            for at in range(0, len(stream), size):
                peer.send(stream[at : at + size])

        sender = threading.Thread(target=send)
        sender.start()
        assert [answer.body.split()[1].decode() for answer in peer.answers(len(targets))] == targets
        sender.join()


def test_pipelined_requests_are_answered_in_order_by_a_slow_handler() -> None:
    async def later(request: Request) -> Response:
        number = int(request.target[1:])
        await asyncio.sleep(0.001 * (number % 3))  # what makes it slow
        return Response(200, HEADERS, request.target)

    def mixed(request: Request) -> object:
        return later(request) if int(request.target[1:]) % 4 else Response(200, HEADERS, request.target)

    with serving(mixed) as server, Peer(server) as peer:
        peer.send(b"".join([get(f"/{number}") for number in range(300)]))
        assert [answer.body for answer in peer.answers(300)] == [b"/%d" % number for number in range(300)]


def test_chunked_bodies_are_put_together(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(
            b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nTrailer: x\r\n\r\n" + get("/next")
        )
        assert [answer.body for answer in peer.answers(2)] == [b"POST /p 7 abcdefg", b"GET /next 0 "]


def test_head_has_the_length_and_no_body(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n")
        text = b""
        while not text.endswith(b"\r\n\r\n"):
            text += peer.socket.recv(1000)
        assert b"Content-Length: 9\r\n" in text
        peer.send(get("/b"))
        assert peer.answer().body == b"GET /b 0 "


def test_connection_close_is_kept(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(get("/a", "Connection: close") + get("/never"))
        answer = peer.answer()
        assert (answer.body, answer.headers[b"connection"]) == (b"GET /a 0 ", b"close")
        assert peer.is_closed()


def test_http_1_0_is_answered_and_closed(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(b"GET /a HTTP/1.0\r\n\r\n")
        assert peer.answer().body == b"GET /a 0 "
        assert peer.is_closed()


def test_an_upgrade_gets_a_plain_answer(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(get("/a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAA"))
        assert peer.answer().body == b"GET /a 0 "
        assert peer.is_closed()


def test_expect_continue(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(b"POST /p HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert peer.socket.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"abc")
        assert peer.answer().body == b"POST /p 3 abc"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # somebody speaks TLS
        b"hello\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\nHost: h\n\n",
        b"GET /a HTTP/9.9\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHo st: h\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ],
)
def test_garbage_is_refused_and_the_connection_closed(server: HttpServer, garbage: bytes) -> None:
    with Peer(server) as peer:
        peer.send(get("/before") + garbage)
        first, refusal = peer.answers(2)
        assert first.body == b"GET /before 0 "
        assert (refusal.status, json.loads(refusal.body)["kind"]) == (400, "invalid_request")
        assert refusal.headers[b"connection"] == b"close"
        assert peer.is_closed()


def test_garbage_behind_a_known_head_is_refused(server: HttpServer) -> None:
    with Peer(server) as peer:
        for _ in range(2):
            peer.send(get("/a"))
            assert peer.answer().status == 200
        peer.send(get("/a b"))
        assert peer.answer().status == 400
        assert peer.is_closed()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", 431),
        (get("/", "X-Long: " + "a" * 5000), 431),
        (get("/", *[f"X-{number}: 1" for number in range(30)]), 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 10001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + b"a" * 20000, 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4e20\r\n" + b"a" * 20000, 413),
    ],
)
@pytest.mark.parametrize("size", [500, 100_000])
def test_what_is_too_large_is_refused_and_the_refusal_can_be_read(server: HttpServer, request_: bytes, status: int, size: int) -> None:
    with Peer(server) as peer:
        with contextlib.suppress(ConnectionError):  # the server may have closed already
            for start in range(0, len(request_), size):
                peer.send(request_[start : start + size])
        answer = peer.answer()
        assert (answer.status, json.loads(answer.body)["kind"]) == (status, "full")
        assert peer.is_closed()


@pytest.mark.parametrize(
    "endless",
    [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: ", b"\r\n"],
)
def test_what_never_ends_is_refused(server: HttpServer, endless: bytes) -> None:
    with Peer(server) as peer:
        peer.send(endless)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                peer.send(b"\r\n" * 500 if endless == b"\r\n" else b"a" * 1000)
        assert peer.answer().status in (400, 431)
        assert peer.is_closed()


@pytest.mark.parametrize("part", [b"GET /slow", b"GET /slow HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab"])
def test_a_request_that_does_not_get_complete_is_timed_out(server: HttpServer, part: bytes) -> None:
    with Peer(server) as peer:
        peer.send(part)
        assert peer.answer().status == 408
        assert peer.is_closed()


def test_a_trickling_client_is_timed_out(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(b"GET / HTTP/1.1\r\nX: ")
        stopped = threading.Event()

        def trickle() -> None:
            while not stopped.wait(0.02):
                with contextlib.suppress(OSError):
                    peer.send(b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert peer.answer().status == 408
            assert peer.is_closed()
        finally:
            stopped.set()
            thread.join()


def test_an_idle_connection_is_closed() -> None:
    with serving(idle_s=0.1) as server, Peer(server) as peer:
        peer.send(get("/"))
        assert peer.answer().status == 200
        assert peer.is_closed()


def test_a_half_closed_client_gets_its_answers(server: HttpServer) -> None:
    with Peer(server) as peer:
        peer.send(get("/a") + get("/b") + b"GET /never HTT")
        peer.socket.shutdown(socket.SHUT_WR)
        assert [answer.body for answer in peer.answers(3)] == [b"GET /a 0 ", b"GET /b 0 "]
        assert peer.is_closed()


def test_a_half_closed_client_gets_a_slow_answer() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.1)  # what makes it slow
        return Response(200, HEADERS, request.target)

    with serving(slow) as server, Peer(server) as peer:
        peer.send(get("/a") + get("/b"))
        peer.socket.shutdown(socket.SHUT_WR)
        assert [answer.body for answer in peer.answers(3)] == [b"/a", b"/b"]
        assert peer.is_closed()


def test_a_client_that_resets_frees_its_request() -> None:
    started, freed = threading.Event(), threading.Event()

    async def endless(request: Request) -> Response:
        started.set()
        try:
            await asyncio.sleep(3600)  # it is cut
        finally:
            freed.set()
        raise AssertionError

    with serving(endless) as server:
        with Peer(server) as peer:
            peer.send(get("/a"))
            assert started.wait(10)
            # Closing now resets the connection, as a killed client's kernel may.
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert freed.wait(10)


def test_a_client_that_reads_nothing_is_cut_off_and_harms_nobody() -> None:
    with serving(write_s=0.2) as server, Peer(server) as greedy, Peer(server) as other:
        greedy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.send(b"".join([get("/large1000000") for _ in range(200)]))
        other.send(get("/a"))
        assert other.answer().status == 200

        def ask_for_ever() -> None:
            while True:
                greedy.send(get("/large1000000"))

        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            ask_for_ever()


def test_large_answers_arrive_whole(server: HttpServer) -> None:
    with Peer(server) as peer:
        for size in (0, 65_536, 65_537, 3_000_000):
            peer.send(get(f"/large{size}"))
            assert peer.answer().body == bytes(size)


def test_connections_per_peer_are_limited() -> None:
    with serving(connections_per_peer_max=3) as server, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server)) for _ in range(3)]
        for peer in peers:
            peer.send(get("/a"))
            assert peer.answer().status == 200
        with Peer(server) as refused:
            assert refused.answer().status == 503
            assert refused.is_closed()
        peers[0].socket.close()
        status = 0
        while status != 200:  # the server notices the close in its own time
            with Peer(server) as late, contextlib.suppress(OSError, ValueError):
                late.send(get("/a"))
                status = late.answer().status


def test_requests_under_way_are_limited() -> None:
    release = threading.Event()

    async def wait(request: Request) -> Response:
        while not release.is_set():
            await asyncio.sleep(0.001)  # told by another thread
        return Response(200, HEADERS)

    with serving(wait, pending_max=2) as server, Peer(server) as first, Peer(server) as second, Peer(server) as third:
        first.send(get("/"))
        second.send(get("/"))
        status = 503
        third.send(get("/"))
        # The third is refused unless it overtook one of the others: then that one is.
        release_later = threading.Timer(0.2, release.set)
        release_later.start()
        statuses = sorted(peer.answer().status for peer in (first, second, third))
        assert statuses == [200, 200, status]
        release_later.join()


def test_many_connections_at_once(server: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server)) for _ in range(300)]
        for number, peer in enumerate(peers):
            peer.send(get(f"/{number}"))
        assert [peer.answer().body for peer in peers] == [b"GET /%d 0 " % number for number in range(300)]


def test_errors_become_answers(server: HttpServer) -> None:
    reported: list[object] = []
    server.loop.call_soon_threadsafe(server.loop.set_exception_handler, lambda _, context: reported.append(context["exception"]))
    with Peer(server) as peer:
        peer.send(get("/missing") + get("/bug") + get("/a"))
        missing, bug, fine = peer.answers(3)
    assert (missing.status, missing.headers[b"x-venice-error"]) == (404, b"not_found")
    assert json.loads(missing.body) == {
        "kind": "not_found",
        "message": "no such thing",
        "hint": "look elsewhere",
        "data": {"thing": "this"},
    }
    assert (bug.status, json.loads(bug.body)["kind"], b"a bug" in bug.body) == (500, "error", False)
    assert [type(error) for error in reported] == [ZeroDivisionError]
    assert fine.status == 200


async def _parts(count: int, fail_at: int = -1) -> AsyncIterator[bytes]:
    for number in range(count):
        await asyncio.sleep(0)  # as a part that is not there yet
        if number == fail_at:
            raise InvalidRequest("enough")
        yield b"%d," % number * 1000


def test_streamed_answers_are_chunked() -> None:
    async def stream(request: Request) -> Streamed:
        return Streamed(200, HEADERS, _parts(500))

    with serving(stream) as server, Peer(server) as peer:
        peer.send(get("/a") + get("/b"))
        expected = b"".join([b"%d," % number * 1000 for number in range(500)])
        assert [answer.body == expected for answer in peer.answers(2)] == [True, True]


def test_a_stream_that_fails_never_ends_well() -> None:
    async def stream(request: Request) -> Streamed:
        return Streamed(200, HEADERS, _parts(10, fail_at=5))

    with serving(stream) as server, Peer(server) as peer:
        peer.send(get("/a"))
        assert peer.answers(1) == []


def test_a_taken_port_is_a_conflict_that_says_what_to_do() -> None:
    with serving() as server:
        with pytest.raises(Conflict, match="taken") as caught:
            HttpServer(echo, "127.0.0.1", server.port).start()
        assert "another port" in caught.value.hint


@pytest.mark.parametrize(("host", "port"), [("203.0.113.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 99_999)])
def test_an_address_that_cannot_be_listened_on_is_named(host: str, port: int) -> None:
    with pytest.raises(InvalidRequest, match="cannot listen"):
        HttpServer(echo, host, port).start()


def test_stopping_finishes_what_is_under_way() -> None:
    started = threading.Event()

    async def slow(request: Request) -> Response:
        started.set()
        await asyncio.sleep(0.2)  # what makes it slow
        return Response(200, HEADERS, request.target)

    with serving(slow) as server, Peer(server) as busy, Peer(server) as idle:
        busy.send(get("/a"))
        assert started.wait(10)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        answer = busy.answer()
        assert (answer.body, answer.headers[b"connection"]) == (b"/a", b"close")
        assert busy.is_closed()
        assert idle.is_closed()
        stopper.join()
        with pytest.raises(ConnectionRefusedError):
            Peer(server)


def test_stopping_does_not_wait_for_ever() -> None:
    stopped: list[bool] = []

    async def endless(request: Request) -> Response:
        await asyncio.sleep(3600)  # it is cut
        raise AssertionError

    async def on_stop() -> None:
        stopped.append(True)

    server = HttpServer(endless, "127.0.0.1", 0, Limits(drain_s=0.1), on_stop)
    server.start()
    with Peer(server) as peer:
        peer.send(get("/a"))
        server.stop()
        server.stop()
        assert peer.is_closed()
    assert stopped == [True]


def test_it_runs_in_an_existing_loop() -> None:
    async def scenario() -> bytes:
        server = HttpServer(echo, "127.0.0.1", 0)
        await server.listen()
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(get("/a", "Connection: close"))
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.drain()
        return text

    assert asyncio.run(scenario()).endswith(b"GET /a 0 ")


# ------------------------------------------------------------------ lanes


class LaneLog:
    """Lanes that answer targets beginning with /short, and say what they were asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.headers: list[Mapping[bytes, bytes]] = []
        self.replies: list[Reply] = []

    def __call__(self, headers: Mapping[bytes, bytes]) -> Lane | None:
        self.headers.append(headers)
        return None if b"x-none" in headers else self.answer

    def answer(self, target: bytes, reply: Reply) -> bytes | bool:
        self.asked.append(target)
        if target.startswith(b"/relayed"):
            self.replies.append(reply)
            return True
        return b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlane" if target.startswith(b"/short") and b" " not in target else False


def test_a_lane_answers_what_it_can() -> None:
    lanes = LaneLog()
    with serving_lanes(lanes) as server, Peer(server) as peer:
        bodies = []
        for target in ("/short/1", "/short/2", "/long", "/short/3"):
            peer.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            bodies += [answer.body for answer in peer.answers(1)]
        assert bodies == [b"GET /short/1 0 ", b"lane", b"GET /long 0 ", b"lane"], "the first request tells which lane it is"
        assert lanes.asked == [b"/short/2", b"/long", b"/short/3"]
        assert len(lanes.headers) == 1


def test_what_is_no_single_plain_get_takes_no_lane() -> None:
    lanes = LaneLog()
    end = " HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving_lanes(lanes) as server, Peer(server) as peer:
        peer.send(f"GET /short{end}".encode())
        peer.answers(1)
        peer.send(f"GET /short/a{end}GET /short/b{end}".encode())
        assert [answer.body for answer in peer.answers(2)] == [b"GET /short/a 0 ", b"GET /short/b 0 "]
        peer.send(b"GET /sho")
        eventually(lambda: bool(lanes.asked))  # The two at once were offered as one, which is no target of a lane's.
        peer.send(f"rt/c{end}POST /short HTTP/1.1\r\nContent-Length: 2\r\n\r\nab".encode())
        assert [answer.body for answer in peer.answers(2)] == [b"GET /short/c 0 ", b"POST /short 2 ab"]
        other = end.replace("Host", "X-None: 1\r\nHost")
        for _ in range(2):
            peer.send(f"GET /short{other}".encode())
            assert [answer.body for answer in peer.answers(1)] == [b"GET /short 0 "]


def test_a_lane_keeps_the_order_of_answers() -> None:
    lanes = LaneLog()
    gate = asyncio.Event()

    async def later(request: Request) -> Response:
        await gate.wait()
        return Response(200, HEADERS, b"later")

    def handle(request: Request) -> object:
        return later(request) if request.target == b"/later" else echo(request)

    end = b" HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving_lanes(lanes, handle) as server, Peer(server) as peer:
        peer.send(b"GET /first" + end)
        peer.answers(1)
        peer.send(b"GET /later" + end)
        eventually(lambda: bool(server.pending))
        peer.send(b"GET /short" + end)
        with Peer(server) as other:
            other.send(b"GET /x" + end)
            other.answers(1)
        server.loop.call_soon_threadsafe(gate.set)
        assert [answer.body for answer in peer.answers(2)] == [b"later", b"GET /short 0 "]


RELAYED = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nrelayed"
END = b" HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def relaying(lanes: LaneLog) -> Iterator[tuple[HttpServer, Peer]]:
    """A server and a client of it whose request for /relayed waits for its reply."""
    with serving_lanes(lanes) as server, Peer(server) as peer:
        peer.send(b"GET /first" + END)
        peer.answers(1)
        peer.send(b"GET /relayed" + END)
        eventually(lambda: bool(lanes.replies))
        yield server, peer


@pytest.mark.parametrize(("reply", "body"), [(RELAYED, b"relayed"), (None, b"GET /relayed 0 ")])
def test_a_relayed_answer_comes_before_those_asked_for_later(reply: bytes | None, body: bytes) -> None:
    lanes = LaneLog()
    with relaying(lanes) as (server, peer):
        peer.send(b"GET /next" + END)
        with Peer(server) as other:
            other.send(b"GET /x" + END)
            other.answers(1)
        server.loop.call_soon_threadsafe(lanes.replies[0], reply)
        assert [answer.body for answer in peer.answers(2)] == [body, b"GET /next 0 "]
        assert server.pending == 0


def test_a_client_that_leaves_does_not_wait_for_its_reply() -> None:
    lanes = LaneLog()
    with relaying(lanes) as (server, peer):
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()  # A reset: a client that only closes its half may still wait.
        eventually(lambda: not server.pending)
        done = threading.Event()
        server.loop.call_soon_threadsafe(lanes.replies[0], RELAYED)
        server.loop.call_soon_threadsafe(done.set)
        assert done.wait(10)
        assert server.pending == 0


def test_a_reply_under_way_is_waited_for_when_the_server_stops() -> None:
    lanes = LaneLog()
    with relaying(lanes) as (server, peer):
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        eventually(lambda: server.stopping)
        server.loop.call_soon_threadsafe(lanes.replies[0], RELAYED)
        [answer] = peer.answers(1)
        assert answer.body == b"relayed"
        assert answer.headers[b"connection"] == b"close"
        stopper.join()
