"""Da Vinci on a hybrid store: what its application's death in the middle of folding, and damage on its disk, leave of it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hybrid_kit import PARTITIONS, PUSHED, World, hybrid_world
from waiting import eventually

from venice.client.davinci import DaVinciClient
from venice.errors import Conflict
from venice.storage.rocks import RocksStorage

TIMEOUT_S = 60.0
APPLICATION = """
import sys, time
from venice.client.davinci import DaVinciClient
from venice.config import load
data, log, store, folder, process = sys.argv[1:]
with DaVinciClient(load(data=data, log=log), store, folder=folder, process=process == "True") as davinci:
    while True:
        print(sum(report.next_offset for report in davinci.reports()), flush=True)
        time.sleep(0.01)  # it is killed in the middle of something, and not of printing
"""
"""Says how far it has folded, until it is killed."""

in_thread_and_process = pytest.mark.parametrize("process", [False, True], ids=["thread", "process"])


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}"
    with hybrid_world(url, tmp_path) as made:
        made.lead()
        made.catch_up()
        yield made


@contextmanager
def being_written(world: World) -> Iterator[None]:
    """Its keys are written over and over meanwhile."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            world.write(f"user {number % 80}", {"page": "written", "n": number} if number % 7 else None)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def incarnations(folder: Path) -> set[Path]:
    return {path for path in (folder / "replicas").glob("*/*") if not path.name.startswith(".")}


def reads(davinci: DaVinciClient, world: World) -> bool:
    return davinci.batch_get([*PUSHED, *(f"user {number}" for number in range(80))]) == world.expected


def folded_by(application: subprocess.Popen[str]) -> int:
    assert application.stdout is not None
    line = application.stdout.readline()
    assert line, f"the application ended by itself with {application.wait()}"
    return int(line)


@in_thread_and_process
def test_an_application_killed_while_it_folds_goes_on_from_its_own_files(world: World, tmp_path: Path, process: bool) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    folder = tmp_path / "own"
    command = [sys.executable, "-c", APPLICATION, str(world.settings.data), world.settings.log_url, world.name, str(folder), str(process)]
    folded = 0
    with being_written(world):
        for life in range(4):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as application:
                said = folded_by(application)
                assert said >= folded, f"life {life} begins with less than the one before it said that it had"
                target = said + rng.randrange(1, 60)
                while (folded := folded_by(application)) < target:
                    pass
                application.send_signal(signal.SIGKILL)
            if life == 0:
                first = incarnations(folder)
                # Nothing can be made anew from here on: what comes back comes from the client's own files.
                assert world.version.snapshot is not None
                shutil.move(world.version.snapshot.uri, tmp_path / "away")
    assert len(first) == PARTITIONS
    with DaVinciClient(world.settings, world.name, folder=folder, process=process) as davinci:
        assert sum(report.next_offset for report in davinci.reports()) >= folded
        eventually(lambda: reads(davinci, world), davinci.reports, timeout_s=TIMEOUT_S)
        eventually(lambda: not any(one.lag_records for one in davinci.reports()), davinci.reports, timeout_s=TIMEOUT_S)
        assert incarnations(folder) == first


@in_thread_and_process
def test_a_partition_damaged_on_disk_is_fetched_again(world: World, tmp_path: Path, process: bool) -> None:
    folder = tmp_path / "own"
    world.write("user 1", {"page": "written", "n": 1})
    world.write("user 2", None)
    with DaVinciClient(world.settings, world.name, folder=folder, process=process) as davinci:
        eventually(lambda: reads(davinci, world), davinci.reports, timeout_s=TIMEOUT_S)
    before = incarnations(folder)
    damaged = next(path for path in before if path.parent.name.endswith("1"))
    damage(damaged)
    with DaVinciClient(world.settings, world.name, folder=folder, process=process) as davinci:
        eventually(lambda: all(davinci.get(key) == row for key, row in world.expected.items()), davinci.reports, timeout_s=TIMEOUT_S)
        assert reads(davinci, world)
        world.write("user 3", {"page": "written after", "n": 3})
        eventually(lambda: reads(davinci, world), davinci.reports, timeout_s=TIMEOUT_S)
        eventually(lambda: damaged not in incarnations(folder), lambda: incarnations(folder), timeout_s=TIMEOUT_S)
        assert len(incarnations(folder) & before) == PARTITIONS - 1, "the other partition stays what it was"


def damage(replica: Path) -> None:
    """Flip bits in the first block of the rows that were pushed; the sealed file, of which this one is a link, stays whole."""
    with_lock_free(replica)
    file = max(replica.glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[20] ^= 0xFF
    file.unlink()
    file.write_bytes(data)


def with_lock_free(replica: Path) -> None:
    """Wait until nobody has the replica open: a child ends a moment after its application."""

    def is_free() -> bool:
        try:
            RocksStorage(replica).close()
        except Conflict:
            return False
        return True

    eventually(is_free, lambda: os.listdir(replica), timeout_s=TIMEOUT_S)
