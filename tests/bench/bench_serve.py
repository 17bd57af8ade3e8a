"""One worker's read endpoint under 32 connections, beside redis-server: 250-byte values of random keys out of a million.

    python tests/bench/bench_serve.py [--rows 1000000] [--rounds 5] [--seconds 2] [--router]

A round asks each server in turn, so that both see the same moods of the machine; printed are the medians over the rounds and
the ratio to redis-server within the round, with its spread. The worker is asked by wrk, redis-server by redis-benchmark; each
runs alone, client and server on one core each. `--router` adds the way through a router. wrk and redis come from the system's
packages.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from venice import wire
from venice.control.catalog import Catalog
from venice.model import Assignment, Store, StoreConfig, ValueSchema, Version, VersionStatus, Worker
from venice.schema.varint import encode_long
from venice.serve.http import HttpServer
from venice.serve.router import Router
from venice.serve.server import WorkerHandler
from venice.storage import Identity
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import PartitionWriter, seal
from venice.storage.snapshot import attach

CONNECTIONS = 32
VALUE = bytes(range(250))
STORE = "bench"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_replica(folder: Path, rows: int) -> None:
    """A sealed and attached partition of `rows` keys of type long."""
    (folder / "sealed").mkdir(parents=True)
    writer = PartitionWriter(folder / "sealed" / file_name(0))
    stored = encode_value(1, VALUE)
    for key in sorted(encode_long(number) for number in range(rows)):
        writer.put(key, stored)
    manifest = Manifest(store=STORE, version=1, partition_count=1, created_ms=0, value_schema_id=1, files=(writer.finish(0),))
    ref = seal(folder / "sealed", manifest)
    identity = Identity(store=STORE, version=1, partition=0, topic_id="t", incarnation="i", snapshot_sha256=ref.sha256)
    attach(ref, manifest, identity, folder / "replica").close()


def catalog_of(worker_url: str) -> Catalog:
    version = Version(
        number=1,
        push_id="p",
        status=VersionStatus.ONLINE,
        partition_count=1,
        replication_factor=1,
        topic_id="t",
        created_ms=0,
        status_ms=0,
        value_schema_id=1,
    )
    schemas = (ValueSchema(id=1, text='{"type": "fixed", "name": "Value", "size": 250}'),)
    store = Store(
        name=STORE,
        owner="",
        key_schema='"long"',
        value_schemas=schemas,
        config=StoreConfig(),
        versions=(version,),
        current=1,
        largest_version=1,
    )
    return Catalog(
        sequence=1,
        stores={STORE: store},
        assignments={(STORE, 1): Assignment(store=STORE, version=1, replicas=(("w",),))},
        workers={"w": Worker(id="w", url=worker_url, incarnation="i")},
    )


def serve_worker(folder: Path, port: int) -> HttpServer:
    replica = RocksStorage(folder / "replica" / "i")
    catalog, replicas = catalog_of(f"http://127.0.0.1:{port}"), {(STORE, 1): {0: replica}}
    handler = WorkerHandler(lambda: catalog, lambda: replicas)
    return HttpServer(handler.handle, "127.0.0.1", port, lanes=handler.lane)


def serve_router(worker_port: int, port: int) -> HttpServer:
    class Source:
        catalog = catalog_of(f"http://127.0.0.1:{worker_port}")

    router = Router(Source())
    return HttpServer(router.handle, "127.0.0.1", port, on_stop=router.close, lanes=router.lane)


def run_server(arguments: list[str]) -> None:
    """The child process: one server until SIGTERM."""
    role, folder, port, worker_port = arguments
    server = serve_worker(Path(folder), int(port)) if role == "worker" else serve_router(int(worker_port), int(port))
    server.start()
    signal.sigwait({signal.SIGTERM})
    server.stop()


@contextmanager
def child(*command: str, port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, f"{command} did not start"
                time.sleep(0.02)  # an open port is the only sign of life that redis-server and ours have in common
        yield
    finally:
        process.terminate()
        process.wait()


def wrk_script(folder: Path, rows: int) -> Path:
    """Random keys for wrk: paths made beforehand, so that its own work is small."""
    rng = random.Random(1)
    paths = [f"/storage/{STORE}/{wire.path_of_key(encode_long(rng.randrange(rows))).decode()}?f=b64" for _ in range(50_000)]
    script = folder / "keys.lua"
    listed = ",".join(f'"{path}"' for path in paths)
    script.write_text(
        f"local paths = {{{listed}}}\nlocal requests, at = {{}}, 0\n"
        'function init() for i, path in ipairs(paths) do requests[i] = wrk.format("GET", path) end end\n'
        "function request() at = at % #requests + 1; return requests[at] end\n"
    )
    return script


def asked_by_wrk(script: Path, port: int, seconds: int) -> float:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    assert found, said
    return float(found[1])


def asked_by_redis_benchmark(port: int, rows: int, requests: int) -> float:
    command = [
        "redis-benchmark",
        "-p",
        str(port),
        "-c",
        str(CONNECTIONS),
        "-n",
        str(requests),
        "-r",
        str(rows),
        "--csv",
        "GET",
        "key:__rand_int__",
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(said.strip().splitlines()[-1].split(",")[1].strip('"'))


def fill_redis(port: int, rows: int) -> None:
    """The same rows, by the protocol's own bulk loading."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for first in range(0, rows, 10_000):
            names = [b"key:%012d" % number for number in range(first, min(first + 10_000, rows))]
            connection.sendall(b"".join([b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$250\r\n%b\r\n" % (name, VALUE) for name in names]))
            answers = b""
            while answers.count(b"+OK\r\n") < len(names):
                answers += connection.recv(1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--router", action="store_true")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run_server(options.serve)
        return
    missing = [name for name in ("wrk", "redis-server", "redis-benchmark") if not shutil.which(name)]
    if missing:
        raise SystemExit(f"{', '.join(missing)} not found: install the system's wrk and redis packages")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_replica(folder, options.rows)
        script = wrk_script(folder, options.rows)
        worker, router, redis = free_port(), free_port(), free_port()
        stack.enter_context(child(sys.executable, __file__, "--serve", "worker", name, str(worker), "0", port=worker))
        stack.enter_context(child("redis-server", "--port", str(redis), "--save", "", "--dir", name, port=redis))
        fill_redis(redis, options.rows)
        variants: dict[str, Callable[[], float]] = {
            "redis-server GET": lambda: asked_by_redis_benchmark(redis, options.rows, 60_000 * options.seconds),
            "worker GET /storage": lambda: asked_by_wrk(script, worker, options.seconds),
        }
        if options.router:
            stack.enter_context(child(sys.executable, __file__, "--serve", "router", name, str(router), str(worker), port=router))
            variants["router GET /storage"] = lambda: asked_by_wrk(script, router, options.seconds)
        for ask in variants.values():
            ask()
        rounds = [{name: ask() for name, ask in variants.items()} for _ in range(options.rounds)]
    print(f"{'':22}{'requests/s':>12}{'ratio':>8}   spread")
    for name in variants:
        rates, ratios = [one[name] for one in rounds], [one[name] / one["redis-server GET"] for one in rounds]
        print(f"{name:22}{statistics.median(rates):12,.0f}{statistics.median(ratios):8.2f}   {min(ratios):.2f}–{max(ratios):.2f}")


if __name__ == "__main__":
    main()
