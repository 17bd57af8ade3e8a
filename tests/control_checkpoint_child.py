"""A controller that works until it is killed: a worker reports one checkpoint after another, and topics are trimmed.

python control_checkpoint_child.py FOLDER SEED; a line is the offset of a checkpoint that the catalog has.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checkpoint_kit import Hybrid

from venice.clock import SystemClock
from venice.log.sqlite import SqliteLog


def work(folder: Path, seed: int) -> None:
    clock = SystemClock()
    log = SqliteLog(folder / "log", clock)
    hybrid = Hybrid(folder, log, clock, seed=seed, margin_s=0, grace_s=0)
    while True:
        one = hybrid.write(hybrid.fill("s_v1", 5), hybrid.fill("s_rt", 5))
        hybrid.report(one)
        assert hybrid.kept()[0] == one
        sys.stdout.write(f"{one.next_offset}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
