"""A controller that makes, changes and deletes one hybrid store until it is killed, and writes to it as a producer would.

python control_hybrid_child.py FOLDER SEED
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path
from random import Random

from control_kit import KEY_SCHEMA, VALUE_SCHEMA, make_policy

from venice.clock import SystemClock
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig, StoreConfig


def say(what: str, name: str) -> None:
    sys.stdout.write(f"{what} {name}\n")
    sys.stdout.flush()


def work(folder: Path, rng: Random) -> None:
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    # No grace: what is left over is deleted at once, while the commands go on.
    controller = Controller(log, clock, replace(make_policy(folder), retire_grace_s=0.0), rng=rng)
    controller.open()
    say("open", "-")

    def look_after() -> None:
        while True:
            controller.tick()

    threading.Thread(target=look_after, daemon=True).start()
    while True:
        if "s" not in controller.catalog.stores:
            # The owner tells this store of the name from all before and after it.
            hybrid = HybridConfig() if rng.random() < 0.5 else None
            config = StoreConfig(partition_count=rng.randint(1, 3))
            controller.create_store(
                "s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, owner=f"{rng.getrandbits(64)}", config=config, hybrid=hybrid
            )
        store = controller.update_store("s", config={"partition_count": rng.randint(1, 3)}, hybrid=HybridConfig())
        for _ in range(rng.randint(0, 4)):
            log.append("s_rt", rng.randrange(store.real_time_partitions), [store.owner.encode()])
            say("wrote", store.owner)
        controller.update_store("s", hybrid=None)
        controller.update_store("s", hybrid=HybridConfig(rewind_s=0))
        if rng.random() < 0.5:
            controller.delete_store("s")
            say("deleted", store.owner)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Random(int(sys.argv[2])))
