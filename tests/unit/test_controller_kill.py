"""SIGKILL of a controller at random moments: what was answered holds, what was begun is finished by the next one."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

from control_kit import Workers, make_policy, open_controller

from venice.clock import SystemClock
from venice.control.catalog import CatalogReader
from venice.log.sqlite import SqliteLog
from venice.model import Store, VersionStatus
from venice.naming import version_topic
from venice.storage.snapshot import read_manifest

CHILD = Path(__file__).resolve().parent.parent / "control_child.py"
LIVES = 12


def test_a_controller_killed_in_the_middle_of_commands(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    largest_served = 0
    for life in range(1, LIVES + 1):
        said = live_and_die(tmp_path, rng)
        assert said[0] == f"term {life}", said
        largest_served = max([largest_served, *(int(line.split()[1]) for line in said if line.startswith("serving"))])
        clock = SystemClock()
        log = SqliteLog(tmp_path / "log", clock)
        reader = CatalogReader(log)
        store = reader.catch_up().stores.get("s")
        assert (store is not None) or largest_served == 0
        if store is not None:
            check(log, store, said, largest_served)
        reader.close()
        log.close()
    assert largest_served > LIVES / 2, "it was killed too soon to have done anything"
    finish(tmp_path, largest_served)


def live_and_die(folder: Path, rng: random.Random) -> list[str]:
    """One life of the child, killed after a random number of lines and a random while; what it said."""
    lines = rng.randint(2, 12)
    command = [sys.executable, str(CHILD), str(folder), str(rng.getrandbits(32))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        said = [child.stdout.readline() for _ in range(lines)]
        killer = threading.Timer(rng.uniform(0, 0.05), child.kill)
        killer.start()
        said += list(child.stdout)
        errors = child.stderr.read()
        killer.join()
    assert errors == "", errors
    return [line.strip() for line in said if line.endswith("\n")]  # the last one may have been cut by the kill


def check(log: SqliteLog, store: Store, said: list[str], largest_served: int) -> None:
    assert store.largest_version >= largest_served
    current = store.version(store.current)
    if largest_served:
        assert current is not None
        assert current.status is VersionStatus.ONLINE
    # Killed after the last answer, the controller may have done one command more: a swap, or one roll.
    verb, number = said[-1].split()
    if verb in {"serving", "rolled-back", "rolled-forward"}:
        assert abs(store.current - int(number)) <= 1
    for version in store.versions:
        topic = version_topic("s", version.number)
        assert log.topic_id(topic) == version.topic_id
        if version.snapshot is not None:
            assert read_manifest(version.snapshot).version == version.number
            assert all(log.end_offset(topic, partition) == 1 for partition in range(version.partition_count))


def finish(folder: Path, largest_served: int) -> None:
    """The last controller has nothing to be told: one round of reports, and whatever was sealed serves."""
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    controller = open_controller(log, clock, make_policy(folder), seed=99)
    workers = Workers(log, clock, "a-0", "b-0")
    for _ in range(2):
        workers.report(controller)
        controller.tick()
    store = controller.get_store("s")
    assert not [version for version in store.versions if version.status is VersionStatus.STARTED and version.snapshot is not None]
    assert store.largest_version >= largest_served
    controller.close()
    log.close()
