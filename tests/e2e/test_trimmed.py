"""Checkpoints of a hybrid store on processes that die: whoever lacks what was trimmed comes back with every acknowledged write."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from streaming import HYBRID, STREAMED, Stream, create, eventually, holds, pushed, streaming, worker_pids

from venice.client.changes import Change, ChangeFeed, ChangeReader, Cursor
from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.reading import read_catalog
from venice.log import Log
from venice.log.open import open_log
from venice.naming import parse_checkpoint_name
from venice.push.batch import push
from venice.storage.snapshot import verify
from venice.supervisor import Cluster

PARTITIONS = range(4)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """One node with two workers, which write a checkpoint whenever there is something to write, and topics without a margin."""
    eager = {"log": log_url, "checkpoint_records": 1, "checkpoint_s": 0.0, "topic_margin_s": 0.0}
    running = Cluster(make_settings(workers=2).model_copy(update=eager))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def log(cluster: Cluster) -> Iterator[Log]:
    opened = open_log(cluster.settings.log_url, SystemClock())
    yield opened
    opened.close()


def starts(log: Log, topic: str) -> list[int]:
    return [log.start_offset(topic, partition) for partition in PARTITIONS]


def with_short_rewind(settings: Settings) -> None:
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
                eventually(lambda: " Z " in Path(f"/proc/{pid}/stat").read_text(), lambda: pid)  # noqa: B023
        if (settings.replicas / worker).exists():  # not if the worker has just lost it and was killed before it made another
            shutil.rmtree(settings.replicas / worker)
    finally:
        os.kill(supervisor, signal.SIGCONT)


def read_changes(settings: Settings, start: str, cursors: dict[int, Cursor | None], expected: dict[int, int | None]) -> list[Change]:
    """Read until the newest change of each key is the one expected; the cursors move along."""
    feed = ChangeFeed(settings.log_url, "counts", SystemClock())
    readers = [ChangeReader(feed, part, cursors.get(part), start) for part in range(feed.parts)]
    found: list[Change] = []

    def read() -> bool:
        found.extend(change for reader in readers for change in reader.read())
        return {change.key: change.value and change.value["n"] for change in found}.items() >= expected.items()

    eventually(read, lambda: len(found))
    cursors.update({part: reader.cursor for part, reader in enumerate(readers)})
    for reader in readers:
        reader.close()
    feed.close()
    return found


def test_whoever_lacks_what_was_trimmed_comes_back_with_every_acknowledged_write(
    cluster: Cluster, log: Log, stack: ExitStack, tmp_path: Path
) -> None:
    settings = cluster.settings
    with_short_rewind(settings)
    cursors: dict[int, Cursor | None] = {}
    with streaming(settings, 1) as stream:
        eventually(lambda: len(stream.acknowledged) == len(STREAMED), lambda: stream.errors)
        with DaVinciClient(settings, "counts", folder=tmp_path / "away") as away:
            eventually(lambda: away.get(0)["source"] == "stream", lambda: away.get(0))
            ends = [log.end_offset("counts_v1", partition) for partition in PARTITIONS]
        read_changes(settings, "beginning", cursors, {})
        first = until_trimmed(log, stream, ends)
        lose_disk(cluster, "node-1-w0")
        with ThinClient(settings.router_url, "counts") as thin:
            floor = dict(stream.acknowledged)
            eventually(lambda: all(thin.get(key)["n"] >= n for key, n in floor.items()), lambda: floor)
        until_trimmed(log, stream, first)
        eventually(lambda: all(start > 0 for start in starts(log, "counts_rt")), lambda: starts(log, "counts_rt"))
        lose_disk(cluster, "node-1-w1")
        expected = stream.settle()
    thin = stack.enter_context(ThinClient(settings.router_url, "counts"))
    again = stack.enter_context(DaVinciClient(settings, "counts", folder=tmp_path / "away"))
    fresh = stack.enter_context(DaVinciClient(settings, "counts", folder=tmp_path / "fresh"))
    for client in (thin, again, fresh):
        eventually(holds(client, expected, "push 1"), lambda: starts(log, "counts_v1"))
    assert {change.key for change in read_changes(settings, "beginning", {}, expected)} == set(expected), "rows of the push are no changes"
    read_changes(settings, "tail", cursors, expected)
    catalog = read_catalog(settings)
    for partition, start in zip(PARTITIONS, starts(log, "counts_v1"), strict=True):
        kept = catalog.kept("counts", 1, partition)
        assert [verify(one.snapshot).position.next_offset for one in kept] == [one.next_offset for one in kept]
        assert start <= kept[-1].next_offset
    shown = json.loads(inspect(settings, "counts", "--check", "--json"))
    assert [one["partition"] for one in shown["checkpoints"]] == list(PARTITIONS)
    assert "checkpoints:" in inspect(settings, "counts")
    folder = shown["checkpoints"][2]["kept"][0]["snapshot"]["uri"]
    assert re.search(r"counts version 1 partition 2 in .*checkpoint at next_offset", inspect(settings, folder), re.DOTALL)


def inspect(settings: Settings, *arguments: str) -> str:
    command = [sys.executable, "-m", "venice.cli", "inspect", "snapshot", *arguments]
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=True, timeout=60).stdout


def test_kills_at_any_moment_of_it_lose_nothing_and_leave_nothing(cluster: Cluster, log: Log) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    settings = cluster.settings
    with_short_rewind(settings)
    with streaming(settings, seed) as stream:
        before = until_trimmed(log, stream)
        for _ in range(5):
            time.sleep(rng.uniform(0.5, 2.5))
            if rng.random() < 0.5:
                os.kill(cluster.supervisor.pids()["controller"], signal.SIGKILL)
            for pid in rng.sample(worker_pids(cluster, "node-1"), rng.randint(0, 1)):
                os.kill(pid, signal.SIGKILL)
            if rng.random() < 0.5:
                lose_disk(cluster, f"node-1-w{rng.randrange(2)}")
        until_trimmed(log, stream, before)
        expected = stream.settle()
    with ThinClient(settings.router_url, "counts") as thin:
        eventually(holds(thin, expected, "push 1"), lambda: starts(log, "counts_v1"))
    eventually(lambda: leftovers(settings) == set(), lambda: leftovers(settings), timeout_s=120)


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
