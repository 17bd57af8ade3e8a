"""The p99 of reads in the two seconds after a swap begins, beside that of the two seconds before.

    python tests/bench/bench_swap.py [--rounds 5] [--rate 400] [--rows 100000]

Each round pushes a version with its swap deferred, waits until all is calm, and swaps it in while a client reads at fixed times; a read
counts from when it was due. The versions before are retired at the swap, so their replicas are closed and deleted within the window.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_get import free_port
from open_loop import OpenLoop, between, p50_ms, p99_ms

from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import load
from venice.control.remote import ControllerClient
from venice.push.batch import push
from venice.supervisor import Cluster

STORE = "bench"
BEFORE_S = 2.0
AFTER_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=400)
    parser.add_argument("--rows", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = load(
            data=Path(folder) / "data",
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
            retire_grace_s=0.5,
        )
        cluster = Cluster(settings)
        cluster.start()
        try:
            controller = ControllerClient(settings.controller_url, SystemClock())
            controller.create_store(STORE, key_schema='"long"', value_schema='"string"')
            rows = f"FROM range({asked.rows}) t(i)"
            push(settings, STORE, sql=f"SELECT i AS key, 'first ' || i AS value {rows}")
            with ThinClient(settings.router_url, STORE) as thin, FastClient(settings.router_url, STORE) as fast:
                print(f"{'':6}{'before: p50':>12}{'p99 ms':>8}{'after: p50':>13}{'p99 ms':>8}{'ratio':>7}{'failed':>8}")
                for name, client in (("thin", thin), ("fast", fast)):
                    ratios = []
                    for number in range(asked.rounds):
                        push(settings, STORE, sql=f"SELECT i AS key, '{name} {number} ' || i AS value {rows}", deferred_swap=True)
                        time.sleep(0.5)  # the push's own work is done
                        with OpenLoop(client, asked.rows, asked.rate) as loop:
                            time.sleep(0.3 + BEFORE_S)  # the time before, which is measured
                            swapped = time.perf_counter()
                            controller.roll_forward(STORE)
                            time.sleep(AFTER_S)  # the time after
                        before = between(loop.reads, swapped - BEFORE_S, swapped)
                        after = between(loop.reads, swapped, swapped + AFTER_S)
                        ratios.append(p99_ms(after) / p99_ms(before))
                        failed = sum(bool(read.failure) for read in loop.reads)
                        figures = f"{p50_ms(before):12.2f}{p99_ms(before):8.2f}{p50_ms(after):13.2f}{p99_ms(after):8.2f}"
                        print(f"{name:6}{figures}{ratios[-1]:7.2f}{failed:8}")
                    print(f"{name:6}median of {asked.rounds}: {statistics.median(ratios):.2f}  ({min(ratios):.2f}–{max(ratios):.2f})")
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
