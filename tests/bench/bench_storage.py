"""A replica's storage: gets, batch gets, scans and applied batches, beside RocksDB with its default table.

    python tests/bench/bench_storage.py [--rows 1000000] [--rounds 20]

Keys of 10 and values of 250 bytes, all in the page cache. Each round times every variant over the same random keys, in
turn; printed are the medians over the rounds and the ratio to the default table in the same round.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from rocksdict import Options, Rdict, WriteBatch

from venice.storage import Identity, Mutation, Position
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import PartitionWriter, seal
from venice.storage.snapshot import attach

GETS = 3000
BATCH = 100


def key_of(number: int) -> bytes:
    return b"%010d" % number


def attached(folder: Path, rows: int, value: bytes) -> RocksStorage:
    folder.mkdir()
    start = perf_counter_ns()
    writer = PartitionWriter(folder / file_name(0))
    for first in range(0, rows, 50_000):
        keys = [key_of(number) for number in range(first, min(first + 50_000, rows))]
        writer.put_all(keys, [value] * len(keys))
    file = writer.finish(0)
    written = perf_counter_ns()
    manifest = Manifest(store="s", version=1, partition_count=1, created_ms=0, value_schema_id=1, files=(file,))
    ref = seal(folder, manifest)
    identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i", snapshot_sha256=ref.sha256)
    storage = attach(ref, manifest, identity, folder / "replica")
    done = perf_counter_ns()
    print(
        f"wrote {file.size / 1e6:.0f} MB in {(written - start) / 1e9:.2f} s ({rows / (written - start) * 1e6:.0f} k rows/s), "
        f"sealed and attached it in {(done - written) / 1e9:.2f} s"
    )
    return storage


def default_table(folder: Path, rows: int, value: bytes) -> Rdict:
    rocks = Rdict(str(folder), Options(raw_mode=True))
    for first in range(0, rows, 1000):
        batch = WriteBatch(raw_mode=True)
        for number in range(first, min(first + 1000, rows)):
            batch[key_of(number)] = value
        rocks.write(batch)
    rocks.flush()
    rocks.compact_range(None, None)
    return rocks


def percentiles(act: Callable[[bytes], object], keys: list[bytes]) -> tuple[float, float]:
    """Median and 99th percentile of one call each, in microseconds."""
    took = []
    for key in keys:
        start = perf_counter_ns()
        act(key)
        took.append(perf_counter_ns() - start)
    took.sort()
    return took[len(took) // 2] / 1e3, took[len(took) * 99 // 100] / 1e3


def mean(act: Callable[[], object], times: int) -> float:
    """Microseconds per one of `times`, all done by one call."""
    start = perf_counter_ns()
    act()
    return (perf_counter_ns() - start) / times / 1e3


def reads(get: Callable[[bytes], object], multi_get: Callable[[Any], object], keys: list[bytes]) -> dict[str, float]:
    """Microseconds of each kind of read over the same keys."""
    p50, p99 = percentiles(get, keys)
    batches = [keys[at : at + BATCH] for at in range(0, len(keys), BATCH)]
    missing = [key + b"?" for key in keys]
    return {
        "get p50": p50,
        "get p99": p99,
        f"batch of {BATCH}": mean(lambda: [multi_get(batch) for batch in batches], len(batches)),
        "missing key": mean(lambda: [get(key) for key in missing], len(missing)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    source = random.Random(1)
    value = encode_value(1, source.randbytes(245))
    folder = Path(tempfile.mkdtemp(prefix="venice-bench-"))
    tuned = attached(folder / "tuned", asked.rows, value)
    default = default_table(folder / "default", asked.rows, value)
    for _ in tuned.scan():
        pass
    for _ in default.items():
        pass
    figures: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        keys = [key_of(source.randrange(asked.rows)) for _ in range(GETS)]
        ours = reads(tuned.get, tuned.multi_get, keys)
        theirs = reads(default.get, default.get, keys)
        for name, one in ours.items():
            figures.setdefault(name, []).append(one)
            ratios.setdefault(name, []).append(one / theirs[name])
        batch = [Mutation(key, value) for key in keys[:200]]
        figures.setdefault("apply, per record", []).append(mean(partial(tuned.apply, batch, Position()), len(batch)))
    figures["scan, per row"] = [mean(lambda: [None for _ in tuned.scan()], asked.rows)]
    for name, found in figures.items():
        spread = f"{min(found):.2f}..{max(found):.2f}"
        ratio = f"{statistics.median(ratios[name]):.2f} of the default table" if name in ratios else ""
        print(f"{name:18} {statistics.median(found):8.2f} µs  ({spread})  {ratio}")
    tuned.close()
    default.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
