"""A controller that works until it is killed: pushes one store over and over, saying what was answered, line by line.

python control_child.py FOLDER SEED
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from random import Random

from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, push, seal_push

from venice.clock import SystemClock
from venice.control.controller import Controller
from venice.errors import Conflict
from venice.log.sqlite import SqliteLog
from venice.model import StoreConfig
from venice.rules import lifecycle


def say(what: str, number: int) -> None:
    sys.stdout.write(f"{what} {number}\n")
    sys.stdout.flush()


def work(folder: Path, rng: Random) -> None:
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    controller = Controller(log, clock, make_policy(folder), rng=rng)
    controller.open()
    say("term", controller.catalog.term)
    workers = Workers(log, clock, "a-0", "b-0")
    workers.report(controller)
    controller.tick()
    if "s" not in controller.catalog.stores:
        controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=StoreConfig(partition_count=2))
        say("store", 1)
    while True:
        left = lifecycle.ongoing(controller.get_store("s"))
        if left is not None and left.snapshot is None:
            # What the last life left in the middle is finished under its push id.
            seal_push(controller, controller.create_version("s", push_id=left.push_id))
        workers.report(controller)
        controller.tick()
        with suppress(Conflict):
            controller.roll_forward("s")
        grant = push(controller, workers, "s", f"p{rng.getrandbits(32)}")
        say("serving", controller.get_store("s").current)
        assert controller.get_store("s").current == grant.number
        with suppress(Conflict):
            say("rolled-back", controller.rollback("s").current)
            say("rolled-forward", controller.roll_forward("s").current)


if __name__ == "__main__":
    work(Path(sys.argv[1]), Random(int(sys.argv[2])))
