"""Checkpoints of a hybrid store on processes that die: whoever lacks what was trimmed comes back with every acknowledged write."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from streaming import STREAMED, eventually, holds, streaming, worker_pids
from trimming import PARTITIONS, create_with_short_rewind, leftovers, log, lose_disk, starts, trimmed_cluster, until_trimmed

from venice.client.changes import Change, ChangeFeed, ChangeReader, Cursor
from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.reading import read_catalog
from venice.log import Log
from venice.storage.snapshot import verify
from venice.supervisor import Cluster

__all__ = ["log", "trimmed_cluster"]  # Fixtures: pytest finds them by their names here.


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


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
    trimmed_cluster: Cluster, log: Log, stack: ExitStack, tmp_path: Path
) -> None:
    cluster, settings = trimmed_cluster, trimmed_cluster.settings
    create_with_short_rewind(settings)
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


def test_kills_at_any_moment_of_it_lose_nothing_and_leave_nothing(trimmed_cluster: Cluster, log: Log) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    cluster, settings = trimmed_cluster, trimmed_cluster.settings
    create_with_short_rewind(settings)
    with streaming(settings, seed) as stream:
        before = until_trimmed(log, stream)
        for _ in range(5):
            time.sleep(rng.uniform(0.5, 2.5))  # so that it happens at a random moment: nothing is waited for
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
