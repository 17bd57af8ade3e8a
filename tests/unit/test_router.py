"""The router between real sockets: two workers, swaps, deaths; whole answers of one version, or an error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest
from serving_kit import KEY_SCHEMA, VALUE_SCHEMA, ServedCluster, a_store, cluster_of, row
from waiting import eventually

from venice import wire
from venice.errors import InvalidRequest, NotFound, Unavailable, VeniceError
from venice.model import Worker
from venice.schema.codec import Codec, key_codec
from venice.serve.http import HttpServer
from venice.serve.upstream import Upstream

KEYS, VALUES = key_codec(KEY_SCHEMA), Codec(VALUE_SCHEMA)
ROWS = 200


@pytest.fixture
def cluster() -> Iterator[ServedCluster]:
    with cluster_of(2) as made:
        made.add_store(a_store("rows"))
        made.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=8, replication=2)
        yield made


class Browser:
    """Plain HTTP to the router."""

    def __init__(self, cluster: ServedCluster) -> None:
        self._connection = HTTPConnection(cluster.server.host, cluster.server.port, timeout=30)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, target: str, body: bytes = b"", /, **headers: str) -> tuple[int, dict[str, str], bytes]:
        names = {name: name if name == "accept" else "X-VENICE-" + name.replace("_", "-") for name in headers}
        self._connection.request(method, target, body or None, {names[name]: value for name, value in headers.items()})
        answer = self._connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def get(self, key: int, **headers: str) -> Any:
        status, _, body = self.ask("GET", f"/storage/rows/{wire.path_of_key(KEYS.encode(key)).decode()}?f=b64", **headers)
        if status not in (200, 404):
            raise wire.error_of(status, body)
        return VALUES.decode(body) if status == 200 else None

    def batch(self, keys: list[int], **headers: str) -> tuple[int, dict[int, Any]]:
        """Version and found rows."""
        status, said, body = self.ask("POST", "/storage/rows", wire.encode_keys([KEYS.encode(key) for key in keys]), **headers)
        if status != 200:
            raise wire.error_of(status, body)
        stream = wire.RowStream()
        rows = {keys[found.position]: VALUES.decode(found.value) for found in stream.feed(body)}
        stream.finish()
        if "streaming" in headers:
            assert stream.footer is not None
            if stream.footer.status != 200:
                raise wire.error_of(stream.footer.status, stream.footer.detail)
            assert sorted(stream.missing) == [position for position, key in enumerate(keys) if key not in rows]
        return int(said["x-venice-store-version"]), rows


def expected(keys: list[int], edition: int) -> dict[int, Any]:
    return {key: row(key, edition) for key in keys if key < ROWS}


def test_gets_and_batches_come_through(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        assert [browser.get(key) for key in (0, 7, 199)] == [row(0, 1), row(7, 1), row(199, 1)]
        assert browser.get(ROWS) is None
        keys = list(range(150, 250))
        assert browser.batch(keys) == (1, expected(keys, 1))
        assert browser.batch(keys, streaming="1") == (1, expected(keys, 1))
        assert browser.batch([]) == (1, {})
        assert browser.batch([], streaming="1") == (1, {})


def test_an_answer_says_what_it_was_decided_by(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        for target in ("/storage/rows/Dg?f=b64", "/storage/rows/zpoM?f=b64"):
            _, headers, _ = browser.ask("GET", target)
            assert headers["x-venice-store-version"] == "1"
            assert headers["x-venice-catalog-seq"] == str(cluster.catalog.sequence)


def test_curl_gets_json(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        status, headers, body = browser.ask("GET", "/storage/rows/7", accept="application/json")
        assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", row(7, 1))
        assert browser.ask("GET", "/storage/rows/7777", accept="application/json")[0] == 404
        keys = wire.encode_keys([KEYS.encode(7), KEYS.encode(8)])
        status, _, body = browser.ask("POST", "/storage/rows", keys, accept="application/json", streaming="1")
        assert json.loads(body) == [{"key": key, "value": row(key, 1)} for key in (7, 8)]


def test_metadata_paths(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        assert json.loads(browser.ask("GET", "/health")[2])["status"] == "ok"
        metadata = wire.decode_metadata(browser.ask("GET", "/metadata/rows")[2])
        assert metadata.replicas[0] == (cluster.workers[0].url, cluster.workers[1].url)
        assert browser.ask("GET", "/nope")[0] == 404
        assert browser.ask("DELETE", "/storage/rows")[0] == 405


@pytest.mark.parametrize(
    ("method", "target", "body", "kind"),
    [
        ("GET", "/storage/nope/Dg?f=b64", b"", NotFound),
        ("GET", "/storage/nope/7", b"", NotFound),
        ("POST", "/storage/nope", b"", NotFound),
        ("GET", "/storage/rows/!!!?f=b64", b"", InvalidRequest),
        ("GET", "/storage/rows/____________________?f=b64", b"", InvalidRequest),
        ("GET", "/storage/rows/seven", b"", InvalidRequest),
        ("GET", "/storage/rows", b"", InvalidRequest),
        ("POST", "/storage/rows", b"\xff\xff", InvalidRequest),
        ("POST", "/storage/rows", wire.encode_keys([b"\xff\xff", b"\x02"]), InvalidRequest),
    ],
)
def test_wrong_requests_are_400_and_told(cluster: ServedCluster, method: str, target: str, body: bytes, kind: type[VeniceError]) -> None:
    with Browser(cluster) as browser:
        for headers in ({}, {"streaming": "1"}):
            status, said, answer = browser.ask(method, target, body, **headers)
            assert status == 400
            error = wire.error_of(status, answer)
            assert isinstance(error, kind)
            assert said["x-venice-error"] == error.kind
            assert error.hint


def test_limits_have_their_status(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        assert browser.ask("POST", "/storage/rows", wire.encode_keys([b"\x02"] * 10_001))[0] == 413
        assert browser.ask("GET", "/health", api_version="2")[0] == 400
        assert browser.ask("GET", "/storage/rows/7", catalog_seq="x")[0] == 400


def test_a_store_without_a_version_is_unavailable(cluster: ServedCluster) -> None:
    cluster.add_store(a_store("empty"))
    with Browser(cluster) as browser:
        status, _, body = browser.ask("GET", "/storage/empty/7")
        assert status == 503
        assert "venice push" in wire.error_of(status, body).hint


def test_a_version_may_be_named(cluster: ServedCluster) -> None:
    cluster.push("rows", {key: row(key, 2) for key in range(ROWS)})
    with Browser(cluster) as browser:
        assert browser.get(7) == row(7, 2)
        assert browser.get(7, store_version="1") == row(7, 1)
        assert browser.batch([7], store_version="1") == (1, {7: row(7, 1)})
        with pytest.raises(Unavailable):
            browser.get(7, store_version="9")


def test_a_read_waits_until_the_catalog_is_as_new_as_the_client(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        sequence = cluster.catalog.sequence
        timer = threading.Timer(0.1, lambda: cluster.push("rows", {key: row(key, 2) for key in range(ROWS)}))
        timer.start()
        assert browser.get(7, catalog_seq=str(sequence + 1)) == row(7, 2)
        assert browser.ask("GET", "/metadata/rows", catalog_seq=str(sequence + 1))[0] == 200
        timer.join()


def test_a_catalog_that_does_not_come_is_unavailable() -> None:
    with cluster_of(1, deadline_s=0.1) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {7: row(7, 1)})
        for _ in range(2):
            with pytest.raises(Unavailable, match="999"):
                browser.get(7, catalog_seq="999")


def test_a_dead_worker_is_replaced_by_the_other_replica(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        keys = list(range(ROWS))
        assert browser.batch(keys) == (1, expected(keys, 1))
        cluster.workers[0].stop()
        assert browser.batch(keys) == (1, expected(keys, 1))
        assert browser.batch(keys, streaming="1") == (1, expected(keys, 1))
        assert [browser.get(key) for key in keys] == [row(key, 1) for key in keys]


def test_a_worker_that_comes_back_in_time_is_waited_for() -> None:
    with cluster_of(1) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)})
        assert browser.get(7) == row(7, 1)
        worker = cluster.workers[0]
        for ask in (lambda: browser.get(7) == row(7, 1), lambda: browser.batch([7, 8]) == (1, expected([7, 8], 1))):
            worker.stop()
            timer = threading.Timer(0.3, lambda: worker.start(lambda: cluster.catalog))
            timer.start()
            assert ask()
            timer.join()


def test_no_replica_at_all_is_unavailable_and_says_what_to_do() -> None:
    with cluster_of(1, deadline_s=0.2) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {7: row(7, 1)})
        cluster.workers[0].stop()
        for ask in (lambda: browser.get(7), lambda: browser.batch([7]), lambda: browser.batch([7], streaming="1")):
            with pytest.raises(Unavailable, match="rows") as caught:
                ask()
            assert "venice doctor" in caught.value.hint
        cluster.advance(workers={})
        with pytest.raises(Unavailable, match="no worker"):
            browser.get(7)


def test_a_moved_worker_is_found_by_the_catalog(cluster: ServedCluster) -> None:
    with Browser(cluster) as browser:
        assert browser.get(7) == row(7, 1)
        for worker in cluster.workers:
            worker.stop()
            worker.port = 0
            worker.start(lambda: cluster.catalog)
        moved = {worker.id: Worker(id=worker.id, url=worker.url, incarnation="2") for worker in cluster.workers}
        timer = threading.Timer(0.1, lambda: cluster.advance(workers=moved))
        timer.start()
        assert browser.batch([7, 8]) == (1, expected([7, 8], 1))
        timer.join()


def test_a_corrupt_replica_is_replaced_by_the_other(cluster: ServedCluster) -> None:
    from test_server import BrokenStorage

    broken: Any = {partition: BrokenStorage() for partition in range(8)}
    cluster.workers[0].replicas = {("rows", 1): broken}
    with Browser(cluster) as browser:
        keys = list(range(ROWS))
        assert browser.batch(keys) == (1, expected(keys, 1))
        assert [browser.get(key) for key in range(20)] == [row(key, 1) for key in range(20)]
    assert cluster.workers[0].corrupt


def test_a_version_that_workers_have_closed_is_redone_on_the_next(cluster: ServedCluster) -> None:
    """The router is behind: its catalog still names version 1 when the workers have dropped it."""
    with Browser(cluster) as browser:
        behind = cluster.catalog
        cluster.push("rows", {key: row(key, 2) for key in range(ROWS)})
        ahead = cluster.catalog
        cluster.drop("rows", 1)
        router_sees = [behind]
        cluster.router._source = type("Source", (), {"catalog": property(lambda _: router_sees[0])})()
        threading.Timer(0.1, lambda: router_sees.__setitem__(0, ahead)).start()
        keys = list(range(ROWS))
        assert browser.batch(keys) == (2, expected(keys, 2))
        router_sees[0] = behind
        threading.Timer(0.1, lambda: router_sees.__setitem__(0, ahead)).start()
        assert browser.batch(keys, streaming="1") == (2, expected(keys, 2))
        router_sees[0] = behind
        threading.Timer(0.1, lambda: router_sees.__setitem__(0, ahead)).start()
        assert browser.get(7) == row(7, 2)


class Saboteur:
    """Listens where a worker should and misbehaves: sends `answer` to every request, then closes, resets or hangs.

    Before that, it gives the `good` answer so many `times` on each connection.
    """

    def __init__(self, answer: bytes, ending: str, good: bytes = b"", times: int = 0) -> None:
        self._good, self._times = good, times
        self.asked = 0
        self.probed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer, self._ending = answer, ending
        self._held: list[socket.socket] = []
        self._serving: socket.socket | None = None
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._closing = True
            if self._serving is not None:
                with contextlib.suppress(OSError):
                    self._serving.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for held in self._held:
            held.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:  # A connection taken while another thread closes must not be waited on.
                if self._closing:
                    connection.close()
                    return
                self._serving = connection
            with contextlib.suppress(ConnectionError):  # whoever has had enough of it closes
                for answer in (*[self._good] * self._times, self._answer):
                    request = connection.recv(65536)
                    self.asked += bool(request)
                    self.probed += request[:12] == b"GET /health "
                    connection.sendall(answer)
            if self._ending == "hang":
                self._held.append(connection)
                continue
            if self._ending == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


_PART = b"HTTP/1.1 200 OK\r\nX-VENICE-SCHEMA-ID: 1\r\nContent-Length: 500\r\n\r\n" + bytes(100)


@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        _PART,
        b"HTTP/1.1 200 OK\r\nX-VENICE-SCHEMA-ID: 1\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 421 No\r\nContent-Length: 4\r\n\r\nnope",
    ],
)
def test_a_worker_that_dies_within_its_answer_never_makes_half_an_answer(answer: bytes, ending: str) -> None:
    with cluster_of(2, attempt_s=0.2) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=8, replication=2)
        saboteur = Saboteur(answer, ending)
        try:
            workers = dict(cluster.catalog.workers)
            workers["w0"] = replace(workers["w0"], url=saboteur.url)
            cluster.advance(workers=workers)
            keys = list(range(ROWS))
            assert browser.batch(keys) == (1, expected(keys, 1))
            assert browser.batch(keys, streaming="1") == (1, expected(keys, 1))
            assert [browser.get(key) for key in range(8)] == [row(key, 1) for key in range(8)]
        finally:
            saboteur.close()


@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        _PART,
        b"HTTP/1.1 200 OK\r\nX-VENICE-SCHEMA-ID: 1\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 421 No\r\nContent-Length: 4\r\n\r\nnope",
    ],
)
def test_a_relayed_get_is_asked_elsewhere_if_its_worker_dies(answer: bytes, ending: str) -> None:
    value = VALUES.encode(row(7, 1))
    named = b"X-VENICE-API-VERSION: 1\r\nX-VENICE-STORE-VERSION: 1\r\nX-VENICE-CATALOG-SEQ: 1\r\nX-VENICE-SCHEMA-ID: 1\r\n"
    good = b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (named, len(value), value)
    with cluster_of(2, attempt_s=0.2) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=1, replication=2)
        saboteur = Saboteur(answer, ending, good, 5)
        try:
            first = cluster.catalog.assignments["rows", 1].replicas[0][0]
            workers = dict(cluster.catalog.workers)
            workers[first] = replace(workers[first], url=saboteur.url)
            cluster.advance(workers=workers)
            for _ in range(8):
                assert browser.get(7) == row(7, 1)
            assert saboteur.asked >= 6
            eventually(lambda: not cluster.server.pending, timeout_s=60)  # The count falls just after the answer is out.
        finally:
            saboteur.close()


@pytest.mark.parametrize("ending", ["close", "hang"])
def test_who_did_not_answer_is_asked_for_nothing_before_it_has_answered_a_probe(ending: str) -> None:
    with cluster_of(2, attempt_s=0.2) as cluster, Browser(cluster) as browser:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=1, replication=2)
        saboteur = Saboteur(b"", ending)
        try:
            first = cluster.catalog.assignments["rows", 1].replicas[0][0]
            there = cluster.catalog.workers
            cluster.advance(workers={**there, first: replace(there[first], url=saboteur.url)})
            assert browser.get(7) == row(7, 1)
            eventually(lambda: saboteur.probed >= 2, timeout_s=60)
            read = saboteur.asked - saboteur.probed
            for key in range(ROWS):
                assert browser.get(key) == row(key, 1)
                assert browser.batch([key]) == (1, expected([key], 1))
            eventually(lambda: saboteur.probed >= 4, timeout_s=60)
            assert saboteur.asked - saboteur.probed == read, "only probes go there"
        finally:
            saboteur.close()


def test_readers_that_loop_while_versions_swap_see_whole_versions_in_order() -> None:
    swaps = 25
    with cluster_of(2) as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=8, replication=2)
        done = threading.Event()
        faults: list[str] = []
        seen: tuple[list[int], list[int]] = ([], [])

        def read(seed: int, editions: list[int], **headers: str) -> None:
            rng = random.Random(seed)
            with Browser(cluster) as browser:
                while not done.is_set():
                    keys = rng.sample(range(ROWS), 100)
                    try:
                        version, rows = browser.batch(keys, **headers)
                        value = browser.get(keys[0])
                    except VeniceError as error:
                        faults.append(str(error))
                        return
                    if rows != expected(keys, version):
                        faults.append(f"a batch of version {version} is not whole")
                    editions += [version, value["edition"]]

        readers = [
            threading.Thread(target=read, args=(1, seen[0])),
            threading.Thread(target=read, args=(2, seen[1]), kwargs={"streaming": "1"}),
        ]
        for reader in readers:
            reader.start()
        for edition in range(2, swaps + 2):
            number = cluster.push("rows", {key: row(key, edition) for key in range(ROWS)}, partition_count=4 + edition % 5, replication=2)
            assert number == edition
            if edition > 3:
                cluster.retire("rows", edition - 2)
            if edition > 4:
                cluster.drop("rows", edition - 3)
            before = [len(editions) for editions in seen]
            while any(len(editions) < count + 4 for editions, count in zip(seen, before, strict=True)) and not faults:
                done.wait(0.001)
        done.set()
        for reader in readers:
            reader.join()
        assert faults == []
        for editions in seen:
            assert editions == sorted(editions)
            assert set(editions) >= set(range(2, swaps + 2))


def test_a_worker_killed_and_restarted_while_readers_loop(cluster: ServedCluster) -> None:
    done = threading.Event()
    faults: list[str] = []

    def read(seed: int, **headers: str) -> None:
        rng = random.Random(seed)
        with Browser(cluster) as browser:
            while not done.is_set():
                keys = rng.sample(range(ROWS), 50)
                try:
                    if browser.batch(keys, **headers) != (1, expected(keys, 1)) or browser.get(keys[0]) != row(keys[0], 1):
                        faults.append("not whole")
                except VeniceError as error:
                    faults.append(str(error))

    readers = [threading.Thread(target=read, args=(1,)), threading.Thread(target=read, args=(2,), kwargs={"streaming": "1"})]
    for reader in readers:
        reader.start()
    for number in range(6):
        worker = cluster.workers[number % 2]
        kill(worker.server)
        worker.server = None
        worker.start(lambda: cluster.catalog)
        done.wait(0.1)
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []


def kill(server: HttpServer | None) -> None:
    """Cut all connections in the middle of whatever they do, then end the server."""
    assert server is not None
    running = server

    def cut() -> None:
        for connection in tuple(running._connections):
            connection.abort()

    running.loop.call_soon_threadsafe(cut)
    running.stop()


def test_connections_to_workers_are_shared_and_bounded(cluster: ServedCluster) -> None:
    keys = wire.encode_keys([KEYS.encode(key) for key in range(100)])

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection(cluster.server.host, cluster.server.port)
        writer.write(b"POST /storage/rows HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(keys), keys))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def scenario() -> list[bytes]:
        return await asyncio.gather(*[one() for _ in range(100)])

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in asyncio.run(scenario()))
    for worker in cluster.workers:
        assert worker.server is not None
        assert 1 <= len(worker.server._connections) <= 4


def test_an_upstream_that_is_closed_sends_nothing() -> None:
    async def scenario() -> None:
        upstream = Upstream("http://127.0.0.1:1")
        upstream.close()
        with pytest.raises(Unavailable, match="no longer"):
            await upstream.send(b"")

    asyncio.run(scenario())
