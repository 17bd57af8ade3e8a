"""Single gets, decoded: Da Vinci with and without its object cache, the fast and the thin client, and redis-py with msgpack beside them.

    python tests/bench/bench_get.py [--rows 200000] [--gets 20000] [--rounds 5]

Each round times every variant in turn over the same keys; printed are the medians over the rounds, their spread, and the
ratio to redis-py in the same round. redis-server is left out when it is not installed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from venice.client.davinci import DaVinciClient
from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.push.batch import push
from venice.supervisor import Cluster

FIELDS: dict[str, list[dict[str, Any]]] = {
    "narrow": [{"name": "name", "type": "string"}, {"name": "score", "type": "double"}, {"name": "count", "type": "int"}],
    "feature": [
        {"name": "name", "type": "string"},
        {"name": "score", "type": "double"},
        {"name": "count", "type": "int"},
        *({"name": name, "type": "string"} for name in ("country", "device", "segment")),
        {"name": "embedding", "type": {"type": "array", "items": "float"}},
    ],
}
ROWS = {
    "narrow": "SELECT i AS key, 'member ' || i AS name, i * 0.5::DOUBLE AS score, (i % 1000)::INT AS count FROM range({rows}) t(i)",
    "feature": "SELECT i AS key, 'member ' || i AS name, i * 0.5::DOUBLE AS score, (i % 1000)::INT AS count,"
    " 'country ' || i % 90 AS country, 'device ' || i % 7 AS device, 'segment ' || i % 30 AS segment,"
    " list_transform(range(32), lambda j: ((i * 31 + j * 17) % 1000 / 1000)::FLOAT) AS embedding FROM range({rows}) t(i)",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis_server(folder: Path) -> Iterator[Any]:
    """A redis-py client of a server of its own, or None without redis-server."""
    if not shutil.which("redis-server"):
        yield None
        return
    import redis

    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder), "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL
    )
    client = redis.Redis(port=port)
    try:
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)  # redis-server tells nobody that it has started
        yield client
    finally:
        process.terminate()
        process.wait()


def fill_redis(client: Any, davinci: DaVinciClient, rows: int) -> None:
    import msgpack

    for first in range(0, rows, 1000):
        pipeline = client.pipeline(transaction=False)
        for key, row in davinci.batch_get(range(first, min(first + 1000, rows))).items():
            pipeline.set(f"row:{key}", msgpack.packb(row))
        pipeline.execute()


def timed(get: Callable[[int], Any], keys: list[int]) -> tuple[float, float]:
    """(p50, p99) in microseconds."""
    for key in keys[:500]:
        get(key)
    now, taken = time.perf_counter_ns, []
    for key in keys:
        started = now()
        get(key)
        taken.append(now() - started)
    taken.sort()
    return taken[len(taken) // 2] / 1e3, taken[len(taken) * 99 // 100] / 1e3


def bench(shape: str, settings: Settings, arguments: argparse.Namespace, folder: Path) -> None:
    store = f"{shape}-rows"
    value = json.dumps({"type": "record", "name": "Row", "fields": FIELDS[shape]})
    ControllerClient(settings.controller_url, SystemClock()).create_store(store, key_schema='"long"', value_schema=value)
    push(settings, store, sql=ROWS[shape].format(rows=arguments.rows))
    with ExitStack() as stack:
        davinci = stack.enter_context(DaVinciClient(settings, store))
        cold = stack.enter_context(DaVinciClient(settings, store, folder=folder / f"{store}-cold", cache_bytes=0))
        cached = stack.enter_context(DaVinciClient(settings, store, folder=folder / f"{store}-cached", cache_objects=arguments.rows))
        fast = stack.enter_context(FastClient(settings.router_url, store))
        thin = stack.enter_context(ThinClient(settings.router_url, store))
        variants: dict[str, Callable[[int], Any]] = {
            "Da Vinci": davinci.get,
            "Da Vinci, no row cache": cold.get,
            "Da Vinci, object cache": cached.get,
            "fast client": fast.get,
            "thin client": thin.get,
        }
        client = stack.enter_context(redis_server(folder))
        if client is not None:
            import msgpack

            fill_redis(client, davinci, arguments.rows)
            variants["redis-py GET + msgpack"] = lambda key: msgpack.unpackb(client.get(f"row:{key}"))
        report(shape, measure(variants, arguments))


def measure(variants: dict[str, Callable[[int], Any]], arguments: argparse.Namespace) -> dict[str, list[tuple[float, float]]]:
    rng = random.Random(11)
    keys = [rng.randrange(arguments.rows) for _ in range(arguments.gets)]
    for get in variants.values():
        for key in keys:
            get(key)
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(arguments.rounds):
        for name, get in variants.items():
            figures[name].append(timed(get, keys))
    return figures


def report(shape: str, figures: dict[str, list[tuple[float, float]]]) -> None:
    base = figures.get("redis-py GET + msgpack")
    print(f"\n{shape} row, µs: median of the rounds [least, most]; ratio to redis-py in the same round, p50")
    for name, rounds in figures.items():
        line = f"  {name:24}"
        for label, index in (("p50", 0), ("p99", 1)):
            values = [round_[index] for round_ in rounds]
            line += f"  {label} {statistics.median(values):7.2f} [{min(values):.2f}, {max(values):.2f}]"
        if base is not None:
            ratios = [mine[0] / theirs[0] for mine, theirs in zip(rounds, base, strict=True)]
            line += f"  {statistics.median(ratios):.3f}x [{min(ratios):.3f}, {max(ratios):.3f}]"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--gets", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = load(
            data=folder / "data",
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
        )
        cluster = Cluster(settings)
        cluster.start()
        try:
            for shape in FIELDS:
                bench(shape, settings, arguments, folder)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
