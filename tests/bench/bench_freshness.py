"""How fresh reads are while a store is written to: a cluster of processes, a producer, thin clients.

    python tests/bench/bench_freshness.py [--kafka HOST:PORT] [--writes 10000] [--reads 1000] [--seconds 20] [--partitions 8]

Processes write and read at fixed rates, whatever the answers take (open loop). Freshness is the time from the moment a write
is acknowledged to the moment a thin client reads it: every 50 ms a write is watched by a client, in another process, that asks
again and again. A read's latency counts from the moment it was due.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from venice.client.producer import Producer
from venice.client.thin import AsyncThinClient, ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster

STORE = "pages"
KEYS = 100_000
VALUE = "x" * 240
WARM_S = 10.0
"""A broker that was just started compiles itself for so long, at the cost of everything else."""
WATCH_S = 0.05
ASK_S = 0.001
TICK_S = 0.005


def quantiles(values: Sequence[float]) -> str:
    if not values:
        return ""
    ordered = sorted(values)
    p50, p99 = (ordered[int(len(ordered) * q)] for q in (0.5, 0.99))
    return f"p50 {p50 * 1000:7.2f} ms   p99 {p99 * 1000:7.2f} ms   max {ordered[-1] * 1000:7.2f} ms   ({len(ordered):,})"


def write(settings: Settings, rate: int, seconds: float, acknowledged: Any, results: Any) -> None:
    """Write at a rate; now and then tell who watches that a write of a key of its own is acknowledged."""

    def tell(key: str, n: int, _: object) -> None:
        acknowledged.put((key, n, time.perf_counter()))

    rng = random.Random(1)
    with Producer(settings, STORE) as producer:
        start_s = next_watch_s = time.perf_counter()
        written = 0
        while (now_s := time.perf_counter()) < start_s + WARM_S + seconds:
            for _ in range(int((now_s - start_s) * rate) - written):
                producer.put(f"page {rng.randrange(KEYS)}", {"text": VALUE, "n": written})
                written += 1
            if now_s >= next_watch_s:
                next_watch_s = now_s + WATCH_S
                n = written if now_s > start_s + WARM_S else 0
                key = f"watched {written}"
                producer.put(key, {"text": VALUE, "n": n}).add_done_callback(partial(tell, key, n))
            time.sleep(TICK_S)  # a steady rate: what is due by now is written, then the next tick is waited for
        producer.flush()
        took_s = time.perf_counter() - start_s
    acknowledged.put(None)
    results.put(("writes", [], written / took_s))


def watch(settings: Settings, acknowledged: Any, results: Any) -> None:
    """Ask for each watched key until it is there. In a process of its own: beside a busy writer it would wait for the interpreter."""
    freshness: list[float] = []
    with ThinClient(settings.router_url, STORE) as client:
        while (one := acknowledged.get()) is not None:
            key, n, acknowledged_s = one
            while client.get(key) is None:
                time.sleep(ASK_S)  # how finely freshness is told; asking without a pause would be a load of its own
            if n:
                freshness.append(time.perf_counter() - acknowledged_s)
    results.put(("freshness", freshness, len(freshness)))


def read(settings: Settings, rate: int, seconds: float, results: Any) -> None:
    """Read at a rate; latencies from when each read was due."""
    rng = random.Random(2)
    latencies: list[float] = []

    async def one(client: AsyncThinClient, due_s: float, counts: bool) -> None:
        await client.get(f"page {rng.randrange(KEYS)}")
        if counts:
            latencies.append(time.perf_counter() - due_s)

    async def run() -> None:
        async with AsyncThinClient(settings.router_url, STORE) as client, asyncio.TaskGroup() as reads:
            start_s = due_s = time.perf_counter()
            while due_s < start_s + WARM_S + seconds:
                due_s += rng.expovariate(rate)
                if (wait_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s)  # an open loop: reads come when they are due, however long the last one took
                reads.create_task(one(client, due_s, due_s > start_s + WARM_S))

    asyncio.run(run())
    results.put(("reads", latencies, len(latencies) / seconds))


def ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    found = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="of a broker that holds no other cluster")
    parser.add_argument("--writes", type=int, default=10_000)
    parser.add_argument("--reads", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--partitions", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        controller, router, worker = ports(3)
        settings = Settings(
            log=f"kafka:{options.kafka}" if options.kafka else "",
            data=Path(folder) / "data",
            controller_url=f"http://127.0.0.1:{controller}",
            router_url=f"http://127.0.0.1:{router}",
            worker_port=worker,
        )
        cluster = Cluster(settings)
        cluster.start()
        try:
            control = ControllerClient(settings.controller_url, SystemClock())
            schema = '{"type":"record","name":"Page","fields":[{"name":"text","type":"string"},{"name":"n","type":"long"}]}'
            config = StoreConfig(partition_count=options.partitions)
            control.create_store(STORE, key_schema='"string"', value_schema=schema, config=config, hybrid=HybridConfig(rewind_s=60))
            push(settings, STORE, sql=f"SELECT 'page ' || i AS key, '{VALUE}' AS text, 0::BIGINT AS n FROM range({KEYS}) t(i)")
            spawn = multiprocessing.get_context("spawn")
            results, acknowledged = spawn.Queue(), spawn.Queue()
            loads = [
                spawn.Process(target=write, args=(settings, options.writes, options.seconds, acknowledged, results)),
                spawn.Process(target=watch, args=(settings, acknowledged, results)),
                spawn.Process(target=read, args=(settings, options.reads, options.seconds, results)),
            ]
            for load in loads:
                load.start()
            for _ in loads:
                what, values, rate = results.get(timeout=options.seconds + 60)
                print(f"  {what:10} {quantiles(values)}   at {rate:,.0f}/s", flush=True)
            for load in loads:
                load.join()
            control.delete_store(STORE)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
