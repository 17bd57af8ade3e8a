"""What a cluster costs while nobody writes or reads: processor time of each of its processes.

    python tests/bench/bench_idle.py [--kafka HOST:PORT] [--replicas 100] [--seconds 20] [--rounds 3]

One store with a partition per replica, all on one worker, hybrid, so that each also has a leader; then the same without writes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # has no types, and those on PyPI would be one more package for a benchmark
from bench_freshness import ports

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster

SETTLED_S = 10.0


def name_of(process: psutil.Process) -> str:
    """What a process of the cluster is, as the command line that started it says; empty for others."""
    words = process.cmdline()
    return next((word for word in ("worker", "controller", "router", "node") if word in words), "")


def used_s(processes: Mapping[str, psutil.Process]) -> dict[str, float]:
    times = {name: process.cpu_times() for name, process in processes.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}


def measure(title: str, seconds: float, rounds: int) -> None:
    processes = {name: child for child in psutil.Process().children(recursive=True) if (name := name_of(child))}
    shares: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        before = used_s(processes)
        time.sleep(seconds)  # the measurement: what is used while nothing happens
        for name, after_s in used_s(processes).items():
            shares[name].append((after_s - before[name]) / seconds)
    print(f"\n{title}: share of a core, median [least, most]")
    for name, found in sorted(shares.items()):
        print(f"  {name:12} {statistics.median(found):6.2%} [{min(found):.2%}, {max(found):.2%}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="of a broker that holds no other cluster")
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
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
            for store, hybrid in (("read", None), ("written", HybridConfig(rewind_s=60))):
                config = StoreConfig(partition_count=options.replicas)
                control.create_store(store, key_schema='"long"', value_schema='"string"', config=config, hybrid=hybrid)
                push(settings, store, sql="SELECT i AS key, 'v' || i AS value FROM range(10000) t(i)")
                time.sleep(SETTLED_S)  # what a push leaves to do: old sessions, reports, first marks
                measure(f"{options.replicas} replicas of a {'hybrid' if hybrid else 'batch'} store", options.seconds, options.rounds)
                control.delete_store(store)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
