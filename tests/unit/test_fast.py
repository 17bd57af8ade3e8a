"""Fast clients, sync and async: one hop, swaps, workers that die or stall, metadata that lies.

What they have in common with thin clients is in test_thin.py.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from serving_kit import VALUE_SCHEMA, WIDER_SCHEMA, ServedCluster, a_store, cluster_of, row
from test_thin import AsyncFastInSync
from waiting import eventually

from venice import wire
from venice.client.direct import ATTEMPT_S, Await, Begin, Directory, Pause
from venice.client.fast import FastClient
from venice.client.gather import Reads
from venice.client.route import Peer, Route
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.message import Headers, Request, Response
from venice.model import ValueSchema, Worker
from venice.schema.codec import Codec
from venice.serve.http import HttpServer
from venice.storage.memory import MemoryStorage

ROWS = 200
Open = Callable[..., Any]


@pytest.fixture
def cluster() -> Iterator[ServedCluster]:
    with cluster_of(2) as made:
        made.add_store(a_store("rows"))
        made.push("rows", {key: row(key, 1) for key in range(ROWS)}, partition_count=8, replication=2)
        yield made


@pytest.fixture(params=[FastClient, AsyncFastInSync], ids=["sync", "async"])
def open_client(request: pytest.FixtureRequest) -> Open:
    opened: Open = request.param
    return opened


def reads(client: Any, keys: range) -> list[dict[int, Any]]:
    """The same keys, read in each way."""
    single = {key: value for key in keys if (value := client.get(key)) is not None}
    return [single, client.batch_get(keys), dict(client.streaming_batch_get(keys))]


ALL = {key: row(key, 1) for key in range(ROWS)}


# ------------------------------------------------------------------ one hop


def test_reads_go_on_without_the_router(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        cluster.server.stop()
        assert reads(client, range(ROWS + 10)) == [ALL] * 3
        assert client.last_version == 1


def test_the_url_may_be_that_of_a_worker(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.workers[1].url, "rows") as client:
        assert reads(client, range(ROWS + 10)) == [ALL] * 3


def test_each_worker_is_asked_for_what_it_holds_and_for_a_batch_once(open_client: Open) -> None:
    with cluster_of(3) as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", ALL, partition_count=6)
        with open_client(cluster.url, "rows") as client:
            assert reads(client, range(ROWS)) == [ALL] * 3
            # One kept connection to each is enough for one reader.
            assert all(len(worker.server._connections) <= 2 for worker in cluster.workers if worker.server)


def test_threads_share_a_client(cluster: ServedCluster) -> None:
    faults: list[object] = []
    with FastClient(cluster.url, "rows") as client:

        def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(100):
                keys = rng.sample(range(ROWS + 50), 5)
                found = {key: value for key in keys[:2] if (value := client.get(key)) is not None}
                if found != {key: row(key, 1) for key in keys[:2] if key < ROWS}:
                    faults.append(found)
                many = client.batch_get(keys)
                if many != {key: row(key, 1) for key in keys if key < ROWS}:
                    faults.append(many)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(not peer.pending for peer in client._directory.peers())
    assert faults == []


def test_large_answers_and_batches_of_large_rows(open_client: Open) -> None:
    large = {key: {"edition": 1, "name": f"{key}" * 60_000} for key in range(20)}
    with cluster_of(2) as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", large)
        with open_client(cluster.url, "rows") as client:
            assert reads(client, range(25)) == [large] * 3


def test_a_closed_client_says_so_and_leaves_no_thread(cluster: ServedCluster) -> None:
    client = FastClient(cluster.url, "rows")
    assert client.get(7) == row(7, 1)
    eventually(lambda: any(thread.name == "fast-client-rows" for thread in threading.enumerate()), timeout_s=10)
    client.close()
    client.close()
    for read in (client.get, lambda key: client.batch_get([key]), lambda key: list(client.streaming_batch_get([key]))):
        with pytest.raises(InvalidRequest, match="closed"):
            read(7)
    eventually(lambda: not any(thread.name == "fast-client-rows" for thread in threading.enumerate()), timeout_s=10)


def test_the_client_of_threads_needs_no_asyncio() -> None:
    code = "import sys, venice.client.fast; print(*{'asyncio', 'ssl', 'uvloop', 'zstandard', 'numpy'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.split() == []


# ------------------------------------------------------------------ versions


def test_a_swap_is_followed_and_so_is_a_rollback(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        cluster.push("rows", {7: row(7, 2)}, partition_count=3)
        eventually(lambda: client.get(7) == row(7, 2), timeout_s=10)
        cluster.swap("rows", 1)
        eventually(lambda: client.batch_get([7, 8]) == {7: row(7, 1), 8: row(8, 1)}, timeout_s=10)
        assert client.last_version == 1


@pytest.mark.parametrize("how", ["get", "batch_get", "streaming_batch_get"])
def test_a_version_that_is_gone_costs_no_read(cluster: ServedCluster, open_client: Open, how: str) -> None:
    """Every worker says 421, and the call is redone on what they say."""
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        cluster.push("rows", {key: row(key, 2) for key in range(ROWS)}, partition_count=5)
        cluster.retire("rows", 1)
        cluster.drop("rows", 1)
        found = client.get(7) if how == "get" else dict(getattr(client, how)(range(ROWS)))
        assert found == (row(7, 2) if how == "get" else {key: row(key, 2) for key in range(ROWS)})
        assert client.last_version == 2


def test_metadata_of_a_router_that_is_behind_is_not_believed(cluster: ServedCluster) -> None:
    with FastClient(cluster.url, "rows") as client:
        behind = cluster.catalog
        cluster.push("rows", {key: row(key, 2) for key in range(ROWS)})
        assert client.get(7) is not None
        client.look()
        assert client.get(7) == row(7, 2)
        directory = client._directory
        route = directory.route
        assert route is not None
        older = replace(_metadata(cluster), sequence=behind.sequence, version=1)
        assert directory.take(directory._route_of(older)) is route
        assert client.get(7) == row(7, 2)


def test_a_newer_schema_is_fetched_when_it_is_met(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        store = cluster.catalog.stores["rows"]
        cluster.add_store(replace(store, value_schemas=a_store("rows", '"long"', VALUE_SCHEMA, WIDER_SCHEMA).value_schemas))
        cluster.push("rows", {key: {**row(key, 2), "extra": 2.5} for key in range(ROWS)}, schema_id=2)
        eventually(lambda: client.batch_get([7]) == {7: {**row(7, 2), "extra": 2.5}}, timeout_s=10)
        # Rows written with the old schema are read as the newest one from now on.
        cluster.swap("rows", 1)
        eventually(lambda: client.get(7) == {**row(7, 1), "extra": 0.5}, timeout_s=10)
        assert dict(client.streaming_batch_get([7])) == {7: {**row(7, 1), "extra": 0.5}}


def test_a_store_that_is_deleted_and_made_anew(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows") as client:
        assert client.get(7) == row(7, 1)
        store = cluster.catalog.stores["rows"]
        cluster.retire("rows", 1)
        cluster.drop("rows", 1)
        cluster.advance(stores={})
        with pytest.raises(NotFound, match="rows"):
            client.get(7)
        cluster.add_store(replace(a_store("rows", '"string"'), largest_version=store.largest_version))
        with pytest.raises(Unavailable, match="no version"):
            client.get(7)
        cluster.push("rows", {"seven": row(7, 2)})
        with pytest.raises(InvalidRequest):
            client.batch_get([7])
        assert client.batch_get(["seven"]) == {"seven": row(7, 2)}


def test_readers_that_loop_while_versions_swap_see_whole_versions_in_order(cluster: ServedCluster) -> None:
    done = threading.Event()
    faults: list[str] = []
    seen: dict[tuple[str, type], list[int]] = {
        (how, kind): [] for how in ("get", "batch_get", "streaming_batch_get") for kind in (FastClient, AsyncFastInSync)
    }

    def read(how: str, kind: type) -> None:
        rng = random.Random(how)
        with kind(cluster.url, "rows") as client:
            while not done.is_set():
                keys = rng.sample(range(ROWS), 100)
                try:
                    if how == "get":
                        keys = keys[:1]
                        rows = {keys[0]: client.get(keys[0])}
                    else:
                        rows = dict(getattr(client, how)(keys))
                except VeniceError as error:
                    faults.append(f"{how}: {error!r}")
                    return
                edition = rows[keys[0]]["edition"]
                if rows != {key: row(key, edition) for key in keys}:
                    faults.append(f"{how}: not whole at edition {edition}")
                seen[how, kind].append(edition)

    readers = [threading.Thread(target=read, args=who) for who in seen]
    for reader in readers:
        reader.start()
    for edition in range(2, 22):
        cluster.push("rows", {key: row(key, edition) for key in range(ROWS)}, partition_count=3 + edition % 4, replication=2)
        if edition > 2:
            cluster.retire("rows", edition - 2)
        if edition > 3:
            cluster.drop("rows", edition - 3)
        while not faults and any(not editions or editions[-1] < edition for editions in seen.values()):
            done.wait(0.001)
    done.set()
    for reader in readers:
        reader.join()
    assert faults == []
    for editions in seen.values():
        assert editions == sorted(editions), "a reader went back"
        assert set(editions) >= set(range(2, 22))


# ------------------------------------------------------------------ workers that die or stall


def test_a_dead_worker_costs_no_read(cluster: ServedCluster, open_client: Open) -> None:
    with open_client(cluster.url, "rows", timeout_s=5) as client:
        assert reads(client, range(ROWS)) == [ALL] * 3
        for worker in cluster.workers:
            worker.stop()
            assert reads(client, range(ROWS)) == [ALL] * 3
            worker.start(lambda: cluster.catalog)
        assert reads(client, range(ROWS)) == [ALL] * 3


def test_a_worker_that_was_down_is_asked_again(cluster: ServedCluster) -> None:
    with FastClient(cluster.url, "rows") as client:
        assert client.batch_get(range(ROWS)) == ALL
        cluster.workers[0].stop()
        assert reads(client, range(ROWS)) == [ALL] * 3
        assert any(peer.down for peer in client._directory.peers())
        cluster.workers[0].start(lambda: cluster.catalog)
        eventually(lambda: not any(peer.down for peer in client._directory.peers()), timeout_s=10)


def test_the_only_replica_is_waited_for(open_client: Open) -> None:
    with cluster_of() as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", ALL)
        with open_client(cluster.url, "rows", timeout_s=20) as client:
            assert client.get(7) == row(7, 1)
            cluster.workers[0].stop()
            timer = threading.Timer(0.3, lambda: cluster.workers[0].start(lambda: cluster.catalog))
            timer.start()
            assert client.get(7) == row(7, 1)
            timer.join()
            assert reads(client, range(ROWS)) == [ALL] * 3


def test_nobody_is_left(open_client: Open) -> None:
    with cluster_of(2) as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", ALL, replication=2)
        with open_client(cluster.url, "rows", timeout_s=0.4) as client:
            assert client.get(7) == row(7, 1)
            for worker in cluster.workers:
                worker.stop()
            for read in (client.get, lambda key: client.batch_get([key]), lambda key: list(client.streaming_batch_get([key]))):
                with pytest.raises(Unavailable, match="cannot be read now"):
                    read(7)


def test_a_replica_that_is_not_there_yet_is_passed_over(cluster: ServedCluster, open_client: Open) -> None:
    """A worker that has restarted and holds nothing says 421, and knows no more than the client."""
    cluster.workers[0].replicas = {}
    with open_client(cluster.url, "rows") as client:
        assert reads(client, range(ROWS)) == [ALL] * 3


def test_a_worker_that_stalls_is_overtaken(cluster: ServedCluster, open_client: Open) -> None:
    """A suspended process: its kernel takes connections and requests, and nothing comes back."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        stalled = Worker(id="w0", url=url, incarnation="2")
        cluster.advance(workers={**cluster.catalog.workers, "w0": stalled})
        with open_client(cluster.url, "rows", timeout_s=5) as client:
            assert reads(client, range(ROWS)) == [ALL] * 3


class SlowStorage(MemoryStorage):
    """Of a disk that takes longer than a client waits before it asks again."""

    reads = 0

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]:
        return self.get

    def get(self, key: bytes) -> bytes | None:
        SlowStorage.reads += 1
        threading.Event().wait(1.25 * ATTEMPT_S)  # what is tested is what takes so long
        return super().get(key)


def test_what_is_slow_is_waited_for_as_long_as_the_caller_says(open_client: Open) -> None:
    """With nobody else to ask, the answer to the first request counts whenever it comes; the worker is not asked every two seconds."""
    with cluster_of(1, attempt_s=60) as cluster:
        cluster.add_store(a_store("rows"))
        cluster.push("rows", {7: row(7, 1)}, partition_count=1, storage=SlowStorage)
        with open_client(cluster.url, "rows", timeout_s=60) as client:
            SlowStorage.reads = 0
            assert client.get(7) == row(7, 1)
        assert SlowStorage.reads <= 2


def test_a_late_answer_counts_and_each_attempt_is_given_more_time() -> None:
    """All of a call's steps, at a time of its own: one worker, which answers the first request after 12 of 30 seconds."""
    now = [0.0]
    directory = Directory("http://127.0.0.1:1", "rows", None, Peer, lambda: now[0])
    peer = Peer("http://127.0.0.1:2")
    metadata = wire.Metadata(
        store="rows", version=1, partition_count=1, key_schema='"long"', sequence=3, compression="none",
        value_schemas=(ValueSchema(id=1, text=VALUE_SCHEMA),), replicas=((peer.url,),),
    )  # fmt: skip
    directory.take(Route(metadata, lambda _: peer, {}))
    reads = Reads(directory, 30.0)
    asked: list[Any] = []
    steps, given = reads.get(7), None
    headers = Headers({wire.API_VERSION_HEADER: b"1", wire.STORE_VERSION: b"1", wire.SCHEMA_ID: b"1"})
    late: list[Any] = [Response(200, headers, Codec(VALUE_SCHEMA).encode(row(7, 1)))]
    with pytest.raises(StopIteration) as done:
        while True:
            step, given = steps.send(given), None
            if isinstance(step, Begin):
                asked += [(ask, now[0]) for ask in step.asks if b"/storage/" in ask.request.target]
            elif isinstance(step, Await) and late and now[0] + step.timeout_s >= 12:
                now[0], given = 12.0, (asked[0][0], late.pop())
            elif isinstance(step, Await):
                now[0] += step.timeout_s + 0.001  # a clock goes on, whatever a sum of floats comes to
            elif isinstance(step, Pause):
                now[0] += step.seconds
    assert done.value.value == row(7, 1)
    assert 2 <= len(asked) <= 4, [at for _, at in asked]


def test_few_reads_are_asked_twice() -> None:
    directory = Directory("http://127.0.0.1:1", "rows", None, Peer, lambda: 0.0)
    assert sum(directory.may_retry() for _ in range(1000)) == 10
    directory.calls = 1000
    assert sum(directory.may_retry() for _ in range(1000)) == 100


def test_a_port_that_somebody_else_has_now(cluster: ServedCluster, open_client: Open) -> None:
    def answer(request: Request) -> Response:
        return Response(404, Headers(), b"<html>Not Found</html>")

    other = HttpServer(answer, "127.0.0.1", 0)
    other.start()
    try:
        cluster.advance(workers={**cluster.catalog.workers, "w0": Worker(id="w0", url=other.url, incarnation="2")})
        with open_client(cluster.url, "rows", timeout_s=5) as client:
            assert reads(client, range(ROWS)) == [ALL] * 3
    finally:
        other.stop()


# ------------------------------------------------------------------ metadata that lies


def _metadata(cluster: ServedCluster) -> wire.Metadata:
    from venice.serve.metadata import metadata_of

    return metadata_of(cluster.catalog, cluster.catalog.stores["rows"])


WRONG: list[dict[str, Any] | bytes] = [
    b"\xff",
    b"{}",
    b"[]",
    b"[" * 100_000,
    {"store": "others"},
    {"partition_count": 3},
    {"partition_count": 0},
    {"partition_count": 10**12, "replicas": []},
    {"replicas": [["ftp://x"]] * 8},
    {"replicas": [[7]] * 8},
    {"replicas": 8},
    {"key_schema": '"loooong"'},
    {"key_schema": "{"},
    {"value_schemas": [{"id": "one", "schema": "x"}]},
    {"sequence": -1},
    {"version": "1"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:40])
def test_metadata_that_is_none(cluster: ServedCluster, open_client: Open, wrong: dict[str, Any] | bytes) -> None:
    facts = wire.metadata_facts(_metadata(cluster))
    lies = [True]

    def answer(request: Request) -> Response:
        body = wire.encode_json(facts)
        if lies[0]:
            body = wrong if isinstance(wrong, bytes) else wire.encode_json({**facts, "sequence": 10**6, **wrong})
        return Response(200, Headers(wire.COMMON), body)

    server = HttpServer(answer, "127.0.0.1", 0)
    server.start()
    try:
        with open_client(server.url, "rows", timeout_s=5) as client:
            for read in (client.get, lambda key: client.batch_get([key]), lambda key: list(client.streaming_batch_get([key]))):
                with pytest.raises(Corrupt):
                    read(7)
            lies[0] = False
            assert reads(client, range(ROWS)) == [ALL] * 3, "it asks again"
            lies[0] = True
            if isinstance(client, FastClient):
                client.look()
            assert reads(client, range(ROWS)) == [ALL] * 3, "it keeps what it knows"
    finally:
        server.stop()


def test_value_schemas_that_are_none(cluster: ServedCluster, open_client: Open) -> None:
    facts = {**wire.metadata_facts(_metadata(cluster)), "value_schemas": [{"id": 1, "schema": "{"}]}
    server = HttpServer(lambda request: Response(200, Headers(wire.COMMON), wire.encode_json(facts)), "127.0.0.1", 0)
    server.start()
    try:
        with open_client(server.url, "rows", timeout_s=5) as client, pytest.raises(Corrupt, match="value schema 1"):
            client.get(7)
    finally:
        server.stop()


def test_the_token_goes_to_router_and_workers() -> None:
    said: list[bytes | None] = []

    def listen(request: Request) -> Response:
        said.append(request.headers.get(b"authorization"))
        if request.target.startswith(b"/metadata"):
            return Response(200, Headers(wire.COMMON), json.dumps({**facts, "replicas": [[server.url]]}).encode())
        return Response(404, Headers({**wire.COMMON, wire.STORE_VERSION: b"1"}))

    facts = {
        "store": "rows",
        "sequence": 1,
        "version": 1,
        "partition_count": 1,
        "compression": "none",
        "key_schema": '"long"',
        "value_schemas": [{"id": 1, "schema": '"int"'}],
    }
    server = HttpServer(listen, "127.0.0.1", 0)
    server.start()
    try:
        with FastClient(server.url, "rows", "secret") as client:
            assert client.get(7) is client.get(8) is None
    finally:
        server.stop()
    assert set(said) == {b"Bearer secret"}
