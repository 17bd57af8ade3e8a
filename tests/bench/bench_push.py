"""A push, from the start of its process to the first read of the new version, beside pipelined redis-py + msgpack.

    python tests/bench/bench_push.py [--shape narrow|feature] [--rows 10000000] [--rounds 3] [--memory-limit 1GB]
        [--compression none --compression zstd …]

Both load the same Parquet file. Each round loads a stretch of it into a redis-server, then pushes all of it with the
`venice push` command into a running cluster (controller, router, one worker) on the same cores, and reads one key of the
new version through the router. Printed per round: rows per second of both, their ratio, seconds per phase, and the largest
sum of the resident memory of all processes of the push. redis-server is left out when it is not installed. Venice's modules are
compiled beforehand, as pip does where it installs them.
"""

from __future__ import annotations

import argparse
import compileall
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgpack
import psutil  # type: ignore[import-untyped]  # has no types, and those on PyPI would be one more package for a benchmark
import pyarrow.parquet as pq

import venice
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment, load
from venice.control.remote import ControllerClient
from venice.model import Compression, StoreConfig
from venice.supervisor import Cluster

KEY = "(i * 2654435761) % 1099511627776"
"""Every key once, in no order: a bijection of the numbers below 2**40."""
NARROW: list[dict[str, Any]] = [{"name": "name", "type": "string"}, {"name": "score", "type": "double"}, {"name": "count", "type": "int"}]
FEATURE: list[dict[str, Any]] = [
    *NARROW,
    *({"name": name, "type": "string"} for name in ("country", "device", "segment")),
    {"name": "embedding", "type": {"type": "array", "items": "float"}},
]
FIELDS: dict[str, list[dict[str, Any]]] = {"narrow": NARROW, "feature": FEATURE}
FLOATS = ", ".join(f"((hash(i * 32 + {j}) % 2000000) / 1000000.0 - 1)::FLOAT" for j in range(32))
NUMBERS = "(hash(i + 1) % 1000000) / 1000.0::DOUBLE AS score, (hash(i + 2) % 1000)::INT AS count"
COLUMNS = {
    "narrow": f"'name ' || hash(i) % 100000000 AS name, {NUMBERS}",
    "feature": f"'member ' || md5(i::VARCHAR) || ' of the northern region' AS name, {NUMBERS}, "
    "'country ' || i % 190 AS country, 'device ' || i % 17 || ' rev ' || i % 5 AS device, "
    f"'segment ' || hash(i) % 1000 AS segment, [{FLOATS}] AS embedding",
}
PIPELINE_ROWS = 1000


@dataclass
class Round:
    """What one round measured."""

    redis_rows_s: float | None
    push_rows_s: float
    seconds: dict[str, float]
    memory_mb: float


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def redis_server(folder: Path) -> Iterator[Any]:
    """A redis-py client of a server of its own, or None without redis-server."""
    if not shutil.which("redis-server"):
        yield None
        return
    import redis

    (port,) = free_ports(1)
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder), "--bind", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with closing(redis.Redis(port=port)) as client:
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


def load_redis(client: Any, file: Path, rows_max: int) -> float:
    """Rows per second of SETs in pipelines of a thousand, each value a msgpack map, until the first one is read back."""
    client.flushall()
    started = time.perf_counter()
    rows = 0
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(PIPELINE_ROWS):
            pipeline = client.pipeline(transaction=False)
            for row in batch.to_pylist():
                pipeline.set(row.pop("key"), msgpack.packb(row))
            pipeline.execute()
            rows += batch.num_rows
            if rows >= rows_max:
                break
    assert client.dbsize() == rows
    return rows / (time.perf_counter() - started)


class Memory:
    """The largest sum of the resident memory of a process and its children, looked at four times a second.

    Not more often: each look goes through all processes of the machine, on the cores that are measured.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = psutil.Process(process.pid)
        self._done = threading.Event()
        self.largest = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Megabytes."""
        self._done.set()
        self._thread.join()
        return self.largest / 1e6

    def _watch(self) -> None:
        while not self._done.wait(0.25):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.largest = max(self.largest, sum(process.memory_info().rss for process in family))
            except psutil.NoSuchProcess:
                continue


def push(
    settings: Settings, store: str, file: Path, thin: ThinClient, arguments: argparse.Namespace
) -> tuple[float, dict[str, float], float]:
    """(seconds from the process's start to the first read, seconds per phase, peak memory in MB)."""
    limit = ["--memory-limit", arguments.memory_limit] if arguments.memory_limit else []
    command = [sys.executable, "-m", "venice.cli", "push", store, "--input", str(file), "--json", *limit]
    variables = environment(settings)
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    started = time.perf_counter()
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        memory = Memory(process)
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
        ended = time.perf_counter()
    assert process.returncode == 0, events[-1:]
    assert thin.get(0) is not None
    taken = time.perf_counter() - started
    done = events[-1]
    assert done["rows"] == arguments.rows, done
    if done["value_bytes"]:
        print(
            f"  values {done['value_bytes'] / done['compressed_bytes']:.2f} times smaller, files {done['bytes'] / 1e6:,.0f} MB", flush=True
        )
    phases = {"start": ended - started - sum(done["seconds"].values()), **done["seconds"]}
    return taken, phases, memory.stop()


def bench(settings: Settings, file: Path, arguments: argparse.Namespace, folder: Path) -> list[Round]:
    store = f"{arguments.shape}-{arguments.packed}"
    value = json.dumps({"type": "record", "name": "Row", "fields": FIELDS[arguments.shape]})
    config = StoreConfig(compression=Compression(arguments.packed))
    ControllerClient(settings.controller_url, SystemClock()).create_store(store, key_schema='"long"', value_schema=value, config=config)
    rounds = []
    for _ in range(arguments.rounds):
        with redis_server(folder) as client:
            redis_rows_s = load_redis(client, file, arguments.redis_rows) if client is not None else None
        with ThinClient(settings.router_url, store) as thin:
            taken, seconds, memory_mb = push(settings, store, file, thin, arguments)
        rounds.append(Round(redis_rows_s, arguments.rows / taken, seconds, memory_mb))
        report_round(rounds[-1])
    return rounds


def report_round(one: Round) -> None:
    phases = "  ".join(f"{name} {seconds:.2f}" for name, seconds in one.seconds.items())
    beside = f"redis-py {one.redis_rows_s:,.0f} rows/s, ratio {one.push_rows_s / one.redis_rows_s:.1f}" if one.redis_rows_s else ""
    print(f"  venice push {one.push_rows_s:,.0f} rows/s, {beside}  [s: {phases}]  {one.memory_mb:,.0f} MB resident", flush=True)


def report(shape: str, rounds: list[Round]) -> None:
    ratios = [one.push_rows_s / one.redis_rows_s for one in rounds if one.redis_rows_s]
    if ratios:
        print(
            f"{shape}: {statistics.median(ratios):.1f}x redis-py + msgpack [{min(ratios):.1f}, {max(ratios):.1f}] in {len(ratios)} rounds"
        )
    print(f"{shape}: {statistics.median(one.push_rows_s for one in rounds):,.0f} rows/s, {max(one.memory_mb for one in rounds):,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(FIELDS), action="append")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--redis-rows", type=int, default=200_000, help="rows of the file that redis is given in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compression", choices=[one.value for one in Compression], action="append", help="may be repeated")
    parser.add_argument("--memory-limit", help="for DuckDB, such as 1GB")
    parser.add_argument("--folder", help="where to keep data; default: a temporary folder")
    arguments = parser.parse_args()
    compileall.compile_dir(Path(venice.__file__).parent, quiet=1)
    for shape in arguments.shape or sorted(FIELDS, reverse=True):
        arguments.shape = shape
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name, ExitStack() as stack:
            folder = Path(name)
            file = folder / "rows.parquet"
            query = f"SELECT {KEY} AS key, {COLUMNS[shape]} FROM range({arguments.rows}) t(i)"
            with duckdb.connect() as connection:
                connection.execute(f"COPY ({query}) TO '{file}' (FORMAT parquet)")
            print(f"{shape}: {arguments.rows:,} rows, {file.stat().st_size / 1e6:,.0f} MB of Parquet", flush=True)
            controller, router, worker = free_ports(3)
            urls = {"controller_url": f"http://127.0.0.1:{controller}", "router_url": f"http://127.0.0.1:{router}"}
            cluster = Cluster(load(data=folder / "data", worker_port=worker, **urls))
            cluster.start()
            stack.callback(cluster.stop)
            for packed in arguments.compression or ["none"]:
                arguments.packed = packed
                report(f"{shape}, {packed}", bench(cluster.settings, file, arguments, folder))


if __name__ == "__main__":
    main()
