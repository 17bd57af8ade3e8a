"""A sealed partition of 1 GB becomes a replica, beside a copy of its file.

    python tests/bench/bench_attach.py [--gigabytes 1] [--rounds 5] [--other-disk FOLDER]

Attaching links the sealed file, hashes it whole, ingests it and brings what is new to the disk; on another file system than the
snapshot's (`--other-disk`, for example /dev/shm) it copies the file while it hashes it. The copy is `shutil.copyfile`, which leaves all of
it in the page cache, and once more with an fsync: a replica that is attached has survived a power cut. A round does each in turn; printed
are the medians over the rounds and the ratio to the copy within the round, with its spread.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from venice.model import SnapshotRef
from venice.storage import Identity
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, PartitionFile, file_name
from venice.storage.sealed import PartitionWriter, check_file, seal, sync
from venice.storage.snapshot import attach

VALUE_BYTES = 245


def sealed(folder: Path, size: int) -> tuple[SnapshotRef, Manifest]:
    """A partition of about so many bytes."""
    folder.mkdir(parents=True)
    rows = size // (VALUE_BYTES + 20)
    source = random.Random(1)
    values = [encode_value(1, source.randbytes(VALUE_BYTES)) for _ in range(1000)]
    writer = PartitionWriter(folder / file_name(0))
    for first in range(0, rows, 50_000):
        keys = [b"%010d" % number for number in range(first, min(first + 50_000, rows))]
        writer.put_all(keys, [values[number % 1000] for number in range(len(keys))])
    manifest = Manifest(store="s", version=1, partition_count=1, created_ms=0, value_schema_id=1, files=(writer.finish(0),))
    return seal(folder, manifest), manifest


def attached(ref: SnapshotRef, manifest: Manifest, folder: Path) -> float:
    """Seconds until the replica can be read."""
    identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i", snapshot_sha256=ref.sha256)
    start = perf_counter()
    storage = attach(ref, manifest, identity, folder)
    took = perf_counter() - start
    assert storage.get(b"%010d" % 7) is not None
    storage.close()
    shutil.rmtree(folder)
    return took


def copied(source: Path, folder: Path, *, to_stay: bool = False) -> float:
    folder.mkdir(parents=True)
    start = perf_counter()
    shutil.copyfile(source, folder / source.name)
    if to_stay:
        sync(folder / source.name)
    took = perf_counter() - start
    shutil.rmtree(folder)
    return took


def hashed(source: Path, file: PartitionFile) -> float:
    start = perf_counter()
    check_file(source, file)
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--other-disk", type=Path)
    asked = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="venice-bench-"))
    other = Path(tempfile.mkdtemp(prefix="venice-bench-", dir=asked.other_disk)) if asked.other_disk else None
    try:
        ref, manifest = sealed(place / "sealed", int(asked.gigabytes * 1e9))
        (file,) = manifest.files
        source = place / "sealed" / file.name
        variants: dict[str, Callable[[], float]] = {"copy": lambda: copied(source, place / "copy")}
        variants["attach"] = lambda: attached(ref, manifest, place / "replica")
        variants["copy and fsync"] = lambda: copied(source, place / "copy", to_stay=True)
        variants["hash alone"] = lambda: hashed(source, file)
        if other is not None:
            away = other
            variants["copy to other disk"] = lambda: copied(source, away / "copy")
            variants["attach on other disk"] = lambda: attached(ref, manifest, away / "replica")
        found: dict[str, list[float]] = {name: [] for name in variants}
        for number in range(asked.rounds + 1):
            for name, act in variants.items():
                gc.collect()
                took = act()
                if number:  # the first round only warms up
                    found[name].append(took)
        print(f"{file.size / 1e6:,.0f} MB, {file.rows:,} rows")
        print(f"{'':22}{'seconds':>9}{'MB/s':>8}{'of the copy':>13}   spread")
        for name, times in found.items():
            ratios = [one / copy for one, copy in zip(times, found["copy"], strict=True)]
            median = statistics.median(times)
            spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
            print(f"{name:22}{median:9.2f}{file.size / 1e6 / median:8,.0f}{statistics.median(ratios):13.2f}   {spread}")
    finally:
        for folder in (place, other):
            if folder is not None:
                shutil.rmtree(folder)


if __name__ == "__main__":
    main()
