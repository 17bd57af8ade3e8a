"""A hybrid store whose topics are trimmed all the time, by checkpoints: what the tests of both share."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from streaming import HYBRID, Stream, create, eventually, pushed, worker_pids

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.reading import read_catalog
from venice.log import Log
from venice.log.open import open_log
from venice.naming import parse_checkpoint_name
from venice.push.batch import push
from venice.supervisor import Cluster

PARTITIONS = range(4)


@pytest.fixture
def trimmed_cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """One node with two workers, which write a checkpoint whenever there is something to write, and topics without a margin."""
    eager = {"log": log_url, "checkpoint_records": 1, "checkpoint_s": 0.0, "topic_margin_s": 0.0}
    running = Cluster(make_settings(workers=2).model_copy(update=eager))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def log(trimmed_cluster: Cluster) -> Iterator[Log]:
    opened = open_log(trimmed_cluster.settings.log_url, SystemClock())
    yield opened
    opened.close()


def starts(log: Log, topic: str) -> list[int]:
    return [log.start_offset(topic, partition) for partition in PARTITIONS]


def create_with_short_rewind(settings: Settings) -> None:
    """A store whose real-time topic is soon needed no more."""
    create(settings).update_store("counts", hybrid=replace(HYBRID, rewind_s=1))
    push(settings, "counts", sql=pushed(1))


def until_trimmed(log: Log, stream: Stream, beyond: list[int] | None = None) -> list[int]:
    """Wait until the version topic begins behind the given offsets, in every partition."""
    bounds = beyond or [0] * len(PARTITIONS)
    eventually(
        lambda: all(start > bound for start, bound in zip(starts(log, "counts_v1"), bounds, strict=True)),
        lambda: (starts(log, "counts_v1"), stream.errors),
        timeout_s=120,
    )
    return starts(log, "counts_v1")


def lose_disk(cluster: Cluster, worker: str) -> None:
    """Kill a worker, and delete what it had before it is started again."""
    settings = cluster.settings
    supervisor = cluster.supervisor.pids()["node-1"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        for pid in worker_pids(cluster, "node-1"):
            if f"--worker\0{worker[-1]}" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
                eventually(partial(is_dead, pid), partial(str, pid))
        if (settings.replicas / worker).exists():  # not if the worker has just lost it and was killed before it made another
            shutil.rmtree(settings.replicas / worker)
    finally:
        os.kill(supervisor, signal.SIGCONT)


def is_dead(pid: int) -> bool:
    """Of a child that its parent has not asked for yet."""
    return " Z " in Path(f"/proc/{pid}/stat").read_text()


def leftovers(settings: Settings) -> set[str]:
    """Folders of checkpoints that the catalog does not name and will not."""
    catalog = read_catalog(settings)
    left = set()
    for folder in (Path(settings.blobs_url) / "counts" / "counts_v1").iterdir():
        parsed = parse_checkpoint_name(folder.name)
        if parsed is not None:
            kept = catalog.kept("counts", 1, parsed[0])
            if parsed[1] <= kept[0].next_offset and folder.name not in {Path(one.snapshot.uri).name for one in kept}:
                left.add(folder.name)
    return left
