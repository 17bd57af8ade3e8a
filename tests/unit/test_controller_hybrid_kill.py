"""SIGKILL of a controller while it makes and deletes real-time topics: a store has its own topic, whole, or none yet."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from control_kit import make_policy, open_controller

from venice.clock import SystemClock
from venice.control.catalog import Catalog, CatalogReader
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig

CHILD = Path(__file__).resolve().parent.parent / "control_hybrid_child.py"
LIVES = 12


def test_a_controller_killed_between_topic_and_record(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # shown when the test fails
    rng = random.Random(seed)
    said: list[str] = []
    for _ in range(LIVES):
        said += live_and_die(tmp_path, rng)
        log = SqliteLog(tmp_path / "log", SystemClock())
        reader = CatalogReader(log)
        check(log, reader.catch_up(), said)
        reader.close()
        log.close()
    assert sum(line.startswith("deleted") for line in said) > LIVES / 2, "it was killed too soon to have done anything"
    finish(tmp_path)


def live_and_die(folder: Path, rng: random.Random) -> list[str]:
    """One life of the child, killed after a random number of lines and a random while; what it said."""
    command = [sys.executable, str(CHILD), str(folder), str(rng.getrandbits(32))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        said = [child.stdout.readline() for _ in range(rng.randint(1, 20))]
        killer = threading.Timer(rng.uniform(0, 0.05), child.kill)
        killer.start()
        said += list(child.stdout)
        errors = child.stderr.read()
        killer.join()
    assert errors == "", errors
    return [line.strip() for line in said if line.endswith("\n")]  # the last one may have been cut by the kill


def check(log: SqliteLog, catalog: Catalog, said: list[str]) -> None:
    store = catalog.stores.get("s")
    if store is None or not store.real_time_partitions:
        return
    assert log.partitions("s_rt") == store.real_time_partitions
    found = Counter(payload for partition in range(store.real_time_partitions) for payload in read(log, partition))
    written = Counter(line.split()[1].encode() for line in said if line.startswith("wrote"))
    mine = store.owner.encode()
    assert set(found) <= {mine}, "a store never sees what was written to a deleted one of its name"
    assert written[mine] <= found[mine] <= written[mine] + LIVES, "what was acknowledged is there, and each life may not have said its last"


def read(log: SqliteLog, partition: int) -> list[bytes]:
    end = log.end_offset("s_rt", partition)
    reader = log.reader({("s_rt", partition): 0})
    found: list[bytes] = []
    while reader.position("s_rt", partition) < end:
        found += [entry.payload for entry in reader.poll(timeout_s=1.0)]
    reader.close()
    return found


def finish(folder: Path) -> None:
    """The last controller makes, uses and buries the store as if nothing had ever happened."""
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    controller = open_controller(log, clock, make_policy(folder), seed=99)
    if "s" in controller.catalog.stores:
        controller.delete_store("s")
    controller.create_store("s", key_schema='"long"', hybrid=HybridConfig())
    assert (log.partitions("s_rt"), sum(log.end_offset("s_rt", partition) for partition in range(8))) == (8, 0)
    controller.close()
    log.close()
