"""The transports of remote clients, for threads and for asyncio, against servers that behave and servers that do not."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Peer, ScriptedServer, answer, chunked

from venice.client.transport import IDLE_MAX, KnownHeads, SocketTransport
from venice.client.transport_async import AsyncTransport
from venice.clock import SystemClock
from venice.errors import Corrupt, InvalidRequest, Unavailable
from venice.message import Headers, Request, Response, ResponseParser

TIMEOUT_S = 10.0
SHORT_S = 0.15


class Stream(Protocol):
    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class Sender(Protocol):
    """Both transports, as a test sees them."""

    def send(self, request: Request) -> Response: ...

    def stream(self, request: Request) -> tuple[Response, Any]: ...

    def close(self) -> None: ...


class InLoop:
    """An `AsyncTransport`, driven from outside its loop."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.transport = AsyncTransport(url, timeout_s=timeout_s)
        self._runner = asyncio.Runner()

    def send(self, request: Request) -> Response:
        return self._runner.run(self.transport.send(request))

    def stream(self, request: Request) -> tuple[Response, Any]:
        response, body = self._runner.run(self.transport.stream(request))
        return response, InLoopBody(self._runner, body)

    def close(self) -> None:
        self._runner.run(self.transport.close())

    def end(self) -> None:
        self.close()
        self._runner.close()


class InLoopBody:
    def __init__(self, runner: asyncio.Runner, body: Any) -> None:
        self._runner = runner
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        async def following() -> bytes | None:
            async for part in self._body:
                return bytes(part)
            return None

        part = self._runner.run(following())
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        async def closing() -> None:
            self._body.close()

        self._runner.run(closing())


Opener = Callable[..., Sender]


@pytest.fixture(params=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """`connect(url)` → a transport of either kind, closed after the test."""
    opened: list[Any] = []

    def open_one(url: str, timeout_s: float = TIMEOUT_S) -> Sender:
        if request.param == "threads":
            opened.append(SocketTransport(url, timeout_s=timeout_s, clock=SystemClock()))
        else:
            opened.append(InLoop(url, timeout_s=timeout_s))
        sender: Sender = opened[-1]
        return sender

    yield open_one
    for transport in opened:
        getattr(transport, "end", transport.close)()


def get(target: str = "/") -> Request:
    return Request(b"GET", target.encode(), Headers({b"x-venice-api-version": b"1"}))


def echo(peer: Peer) -> None:
    """Answers each request with its target."""
    for head in peer.requests():
        peer.say(answer(head.split(b" ")[1]))


# ------------------------------------------------------------------ one answer


def test_a_connection_is_kept(connect: Opener) -> None:
    with ScriptedServer(echo) as server:
        transport = connect(server.url)
        for target in ("/a", "/b", "/a", "/longer/than/before", "/b"):
            assert transport.send(get(target)) == Response(200, Headers({b"content-length": b"%d" % len(target)}), target.encode())
        assert server.connections == 1


def test_what_is_sent(connect: Opener) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        seen.append(peer.request())
        peer.say(answer())

    with ScriptedServer(script) as server:
        connect(server.url).send(Request(b"POST", b"/storage/s", Headers({b"x-venice-streaming": b"1"}), b"body"))
        host = server.url.removeprefix("http://").encode()
    assert seen == [b"POST /storage/s HTTP/1.1\r\nHost: " + host + b"\r\nX-VENICE-STREAMING: 1\r\nContent-Length: 4\r\n\r\nbody"]


def test_large_answers_come_whole(connect: Opener) -> None:
    large = bytes(range(256)) * 4096 * 2

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.say(answer(large))
            if peer.request():
                peer.say(chunked(large[:1], large[1:]))

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        assert [transport.send(get()).body == large for _ in range(4)] == [True] * 4
        assert server.connections == 1


def test_an_answer_may_come_byte_by_byte(connect: Opener) -> None:
    text = answer(b"hello", "X-VENICE-SCHEMA-ID: 1")

    def script(peer: Peer) -> None:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in peer.requests():
            peer.say(text)
            for cut in range(1, len(text)):  # also cut in two: its head is known by then
                peer.request()
                peer.say(text[:cut])
                peer.say(text[cut:])
            peer.request()
            for at in range(len(text)):
                peer.say(text[at : at + 1])

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        assert {transport.send(get()).body for _ in range(len(text) + 1)} == {b"hello"}
        assert server.connections == 1


def test_an_interim_answer_is_passed_over(connect: Opener) -> None:
    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"real"))

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        assert [transport.send(get()).body for _ in range(2)] == [b"real"] * 2


# ------------------------------------------------------------------ connections that end


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_kept_connection_that_was_closed_is_replaced(connect: Opener, reset: bool) -> None:
    ended = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(answer(b"%d" % peer.number))
        if reset:
            peer.reset()
        else:
            peer.socket.shutdown(socket.SHUT_RDWR)
        ended.release()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        for number in range(4):
            assert transport.send(get()).body == b"%d" % number
            assert ended.acquire(timeout=TIMEOUT_S)


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_request_is_sent_twice_and_no_more(connect: Opener, reset: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        if peer.number == 0:
            peer.say(answer())
            peer.request()
        if reset:
            peer.reset()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        transport.send(get())
        with pytest.raises(Unavailable, match=server.url):
            transport.send(get())
        assert server.connections == 2


def test_a_server_that_closes_after_each_answer(connect: Opener) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(answer(b"bye", "Connection: close"))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        assert [transport.send(get()).body for _ in range(3)] == [b"bye"] * 3
        assert server.connections == 3


def test_an_answer_nobody_asked_for_ends_the_connection(connect: Opener) -> None:
    def script(peer: Peer) -> None:
        for head in peer.requests():
            target = head.split(b" ")[1]
            peer.say(answer(target) + answer(b"for another") if target == b"/twice" else answer(target))

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        for target in (b"/a", b"/twice", b"/a", b"/twice", b"/b"):
            assert transport.send(get(target.decode())).body == target
        assert server.connections == 3


WHOLE = answer(b"hello", "X-A: b")


@pytest.mark.parametrize(
    "text", [WHOLE[:5], WHOLE[:-6], WHOLE[:-1], chunked(b"hello", end=False), chunked(b"hello")[:-2], b"HTTP/1.1 200 OK\r\n\r\nall of it?"]
)
@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
def test_a_cut_answer_never_comes_out(connect: Opener, text: bytes, known: bool) -> None:
    def script(peer: Peer) -> None:
        if known and peer.number == 0:
            peer.request()
            peer.say(WHOLE)
        peer.request()
        peer.say(text)

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        if known:
            assert transport.send(get()).body == b"hello"
        with pytest.raises(Unavailable, match="before its answer was complete") as caught:
            transport.send(get())
        assert server.url in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    "text", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00" * 200, b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\r\n\r\n\r\n\r\nhello"]
)
def test_what_is_not_http_is_corrupt(connect: Opener, text: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(text if peer.number == 0 else answer(b"well"))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        with pytest.raises(Corrupt, match="not HTTP"):
            transport.send(get())
        assert transport.send(get()).body == b"well"


# ------------------------------------------------------------------ servers that are slow, or not there


@pytest.mark.parametrize("said", [b"", WHOLE[:-6], WHOLE[:-1], chunked(b"hello", end=False)])
def test_a_server_that_does_not_answer_in_time(connect: Opener, said: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(said)
        if peer.number:
            peer.say(answer(b"well")[len(said) :] if not said else answer(b"well"))
        peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url, SHORT_S)
        with pytest.raises(Unavailable, match=r"did not answer within 0\.15 s") as caught:
            transport.send(get())
        assert server.url in caught.value.message
        assert "timeout_s" in caught.value.hint


def test_a_server_that_never_ends_its_answer(connect: Opener) -> None:
    """Each piece is in time; the whole is not."""
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not stop.wait(0.01):
            peer.say(b"1\r\nx\r\n")

    with ScriptedServer(script) as server:
        try:
            with pytest.raises(Unavailable, match="did not answer within"):
                connect(server.url, SHORT_S).send(get())
        finally:
            stop.set()


def test_a_server_that_takes_no_request(connect: Opener) -> None:
    done = threading.Event()

    def script(peer: Peer) -> None:
        done.wait(TIMEOUT_S)

    with ScriptedServer(script) as server:
        try:
            with pytest.raises(Unavailable, match="did not answer within"):
                connect(server.url, SHORT_S).send(Request(b"POST", b"/", Headers(), bytes(16 * 1024 * 1024)))
        finally:
            done.set()


def test_time_is_kept_also_after_a_slow_answer(connect: Opener) -> None:
    """An answer in pieces sets the connection's clock back to what it was."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(WHOLE[:-1])
        peer.say(WHOLE[-1:])
        peer.request()
        peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url, SHORT_S)
        assert transport.send(get()).body == b"hello"
        with pytest.raises(Unavailable, match="did not answer within"):
            transport.send(get())


def test_nobody_listens(connect: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Unavailable, match=f"nothing listens at {url}") as caught:
        connect(url).send(get())
    assert "venice up" in caught.value.hint
    with pytest.raises(Unavailable, match="nothing listens"):
        connect(url).stream(get())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:7071",
        "https://h:1",
        "http://",
        "http://h:port",
        "http://h:70000",
        "http://u:p@h:1",
        "http://h:1/api",
        "http://h:1?a",
        "http://ho st",
    ],
)
def test_urls_that_are_none(connect: Opener, url: str) -> None:
    with pytest.raises(InvalidRequest, match="not the URL of a server"):
        connect(url)


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_times_nobody_can_wait(connect: Opener, timeout_s: float) -> None:
    with pytest.raises(InvalidRequest, match="timeout_s"):
        connect("http://127.0.0.1:1", timeout_s)


def test_closing(connect: Opener) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        echo(peer)
        closed.set()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        transport.send(get())
        transport.close()
        assert closed.wait(TIMEOUT_S), "idle connections are closed"
        transport.close()
        for call in (transport.send, transport.stream):
            with pytest.raises(InvalidRequest, match="is closed"):
                call(get())
        assert server.connections == 1


# ------------------------------------------------------------------ streams


def test_a_stream_comes_as_it_is_sent(connect: Opener) -> None:
    go_on = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        for _ in peer.requests():
            peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n")
            for part in (b"one", b"two", b"three"):
                assert go_on.acquire(timeout=TIMEOUT_S)
                peer.say(b"%x\r\n%b\r\n" % (len(part), part))
            peer.say(b"0\r\n\r\n")

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        for _ in range(2):
            head, body = transport.stream(get())
            assert head == Response(200, Headers({b"transfer-encoding": b"chunked", b"x-a": b"b"}))
            parts = iter(body)
            received = []
            for _ in range(3):
                go_on.release()
                received.append(next(parts))
            assert (received, list(parts)) == ([b"one", b"two", b"three"], [])
        assert server.connections == 1


def test_a_stream_that_comes_at_once(connect: Opener) -> None:
    def script(peer: Peer) -> None:
        for head in peer.requests():
            peer.say(chunked(b"a", b"b") if b"/chunked" in head else answer(b"ab"))

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        for target in ("/", "/chunked", "/", "/chunked"):
            head, body = transport.stream(get(target))
            assert (head.status, head.body, b"".join(body)) == (200, b"", b"ab")
        assert server.connections == 1


def test_a_stream_given_up_costs_its_connection(connect: Opener) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(chunked(b"part", end=False) if peer.number == 0 else answer(b"well"))
        peer.wait_closed()
        closed.set()

    with ScriptedServer(script) as server:
        transport = connect(server.url)
        _, body = transport.stream(get())
        assert next(iter(body)) == b"part"
        body.close()
        assert closed.wait(TIMEOUT_S)
        assert list(body) == []
        assert transport.send(get()).body == b"well"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_a_stream_that_never_begins(connect: Opener, said: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.say(said)
        if peer.number:
            peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url, SHORT_S)
        with pytest.raises(Unavailable, match="closed the connection"):
            transport.stream(get())
        with pytest.raises(Unavailable, match="did not answer within"):
            transport.stream(get())


def test_a_stream_that_breaks_off(connect: Opener) -> None:
    go_on = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(chunked(b"part", end=False))
        assert go_on.acquire(timeout=TIMEOUT_S)
        if peer.number == 1:
            peer.wait_closed()
        if peer.number == 2:
            peer.say(b"rubbish\r\n")
            peer.wait_closed()

    with ScriptedServer(script) as server:
        transport = connect(server.url, SHORT_S)
        for error, text in ((Unavailable, "closed the connection"), (Unavailable, "did not answer within"), (Corrupt, "not HTTP")):
            _, body = transport.stream(get())
            assert next(iter(body)) == b"part"
            go_on.release()
            with pytest.raises(error, match=text):
                next(iter(body))
            assert list(body) == []
            body.close()


def test_a_stream_faster_than_its_reader(connect: Opener) -> None:
    part = bytes(100_000)

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(chunked(*[part] * 50))

    with ScriptedServer(script) as server:
        _, body = connect(server.url).stream(get())
        assert sum(len(piece) for piece in body) == 50 * len(part)


# ------------------------------------------------------------------ many at a time


def test_threads_get_their_own_answers() -> None:
    with ScriptedServer(echo) as server:
        transport = SocketTransport(server.url, timeout_s=TIMEOUT_S, clock=SystemClock())
        wrong: list[bytes] = []

        def read(thread: int) -> None:
            for number in range(100):
                target = f"/{thread}/{number}"
                body = transport.send(get(target)).body
                if body != target.encode():
                    wrong.append(body)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        transport.close()
        assert not wrong
        assert server.connections <= 16


def test_no_thread_waits_for_another() -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        for head in peer.requests():
            if b"/slow" in head:
                assert release.wait(TIMEOUT_S)
            peer.say(answer(b"done"))

    with ScriptedServer(script) as server:
        transport = SocketTransport(server.url, timeout_s=TIMEOUT_S, clock=SystemClock())
        slow = threading.Thread(target=transport.send, args=(get("/slow"),))
        slow.start()
        assert transport.send(get("/fast")).body == b"done"
        release.set()
        slow.join()
        transport.close()


def test_a_transport_closed_under_a_request_lets_it_finish() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        begun.set()
        assert release.wait(TIMEOUT_S)
        peer.say(answer(b"done"))
        peer.wait_closed()
        ended.set()

    with ScriptedServer(script) as server:
        transport = SocketTransport(server.url, timeout_s=TIMEOUT_S, clock=SystemClock())
        bodies: list[bytes] = []
        thread = threading.Thread(target=lambda: bodies.append(transport.send(get()).body))
        thread.start()
        assert begun.wait(TIMEOUT_S)
        transport.close()
        release.set()
        thread.join()
        assert bodies == [b"done"]
        assert ended.wait(TIMEOUT_S), "its connection is not kept"


FORKING = """
import os, sys
from venice.client.transport import SocketTransport
from venice.clock import SystemClock
from venice.message import Headers, Request
transport = SocketTransport(sys.argv[1], timeout_s=10, clock=SystemClock())
ask = lambda target: transport.send(Request(b"GET", target, Headers())).body
assert ask(b"/before") == b"/before"
child = os.fork()
name = b"child" if child == 0 else b"parent"
right = all(ask(b"/%b/%d" % (name, number)) == b"/%b/%d" % (name, number) for number in range(200))
transport.close()
if child == 0:
    os._exit(not right)
assert os.waitpid(child, 0)[1] == 0 and right
"""


def test_a_forked_process_gets_its_own_answers() -> None:
    with ScriptedServer(echo) as server:
        subprocess.run([sys.executable, "-c", FORKING, server.url], check=True, timeout=60)
        assert server.connections == 2


def test_tasks_get_their_own_answers_over_a_bounded_number_of_connections() -> None:
    many = 20 * IDLE_MAX

    async def main(url: str) -> list[bytes]:
        transport = AsyncTransport(url, timeout_s=TIMEOUT_S)
        found = await asyncio.gather(*[transport.send(get(f"/{number}")) for number in range(many)])
        await transport.close()
        return [response.body for response in found]

    with ScriptedServer(echo) as server:
        assert asyncio.run(main(server.url)) == [b"/%d" % number for number in range(many)]
        assert server.connections <= IDLE_MAX


def test_a_cancelled_request_leaves_its_answer_to_nobody() -> None:
    asked, release = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        for head in peer.requests():
            target = head.split(b" ")[1]
            if target == b"/slow":
                asked.set()
                assert release.wait(TIMEOUT_S)
            peer.say(answer(target))

    async def main(url: str) -> None:
        transport = AsyncTransport(url, timeout_s=TIMEOUT_S)
        assert (await transport.send(get("/first"))).body == b"/first"
        slow = asyncio.create_task(transport.send(get("/slow")))
        assert await asyncio.to_thread(asked.wait, TIMEOUT_S)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        release.set()
        assert (await transport.send(get("/next"))).body == b"/next"
        await transport.close()

    with ScriptedServer(script) as server:
        asyncio.run(main(server.url))


def test_an_async_transport_belongs_to_one_loop() -> None:
    with ScriptedServer(echo) as server:
        transport = AsyncTransport(server.url, timeout_s=TIMEOUT_S)
        with asyncio.Runner() as first, asyncio.Runner() as second:
            first.run(transport.send(get()))
            with pytest.raises(InvalidRequest, match="belongs to another event loop"):
                second.run(transport.send(get()))
            first.run(transport.close())


# ------------------------------------------------------------------ known heads


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"a", b"bc" * 40]), st.sampled_from([b"1", b"2"])), min_size=1, max_size=12),
    st.sampled_from([b"Content-Length", b"content-length"]),
)
def test_known_heads_say_what_the_parser_says(answers: list[tuple[bytes, bytes]], name: bytes) -> None:
    heads = KnownHeads()
    for body, schema_id in answers * 2:
        text = b"HTTP/1.1 200 OK\r\nX-VENICE-SCHEMA-ID: %b\r\n%b: %d\r\n\r\n%b" % (schema_id, name, len(body), body)
        [parsed] = ResponseParser().feed(text)
        known = heads.answer(text)
        assert known in (None, parsed)
        if known is None:
            heads.learn(text, [parsed])
        assert heads.answer(text) == parsed
        assert heads.answer(text[:-1]) is None
        assert heads.answer(text + b"x") is None


@pytest.mark.parametrize(
    "text",
    [
        chunked(b"body"),
        answer(b"body", "Connection: close"),
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer(b"body"),
        answer(b"a") + answer(b"b"),
    ],
)
def test_heads_that_are_not_learnt(text: bytes) -> None:
    heads = KnownHeads()
    heads.learn(text, ResponseParser().feed(text))
    assert heads.answer(text) is None
