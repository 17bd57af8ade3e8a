"""A reader that never stops and judges every answer, and waiting for what must come true."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.errors import VeniceError
from venice.quickstart.flights import LIVE

BATCH_KEYS = 100
WAIT_S = 60.0


@dataclass
class LoopingReader:
    """Reads while versions are swapped, batches and single gets in turn, from entering to leaving it."""

    client: ThinClient
    keys: Sequence[str]
    pause_s: float = 0.0
    """Between two rounds: a reader without pause leaves nothing of this process to anybody else."""
    reads: int = 0
    failed: list[str] = field(default_factory=list)
    mixed: int = 0
    editions: list[int] = field(default_factory=list)
    """Each edition once, in the order in which they came to be seen; live rows aside."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def run(self) -> None:
        """Until told to stop."""
        rng = random.Random(13)
        while not self._stop.wait(self.pause_s):
            try:
                rows = list(self.client.batch_get(rng.sample(self.keys, BATCH_KEYS)).values())
                single = self.client.get(rng.choice(self.keys))
            except VeniceError as error:
                self.failed.append(str(error))
                continue
            self.reads += 2
            if single is None:
                self.failed.append("a row that was pushed was not found")
                continue
            batch = {row["edition"] for row in rows} - {LIVE}
            if len(batch) != 1 or len(rows) != BATCH_KEYS:
                self.mixed += 1
            for edition in (*batch, *({single["edition"]} - {LIVE})):
                if not self.editions or self.editions[-1] != edition:
                    self.editions.append(edition)

    def __enter__(self) -> LoopingReader:
        self._thread = threading.Thread(target=self.run, name="reader")
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that is on its way."""
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + WAIT_S
    while not holds():
        assert clock.monotonic_s() < deadline_s, f"waited {WAIT_S:.0f} seconds for {what}"
        clock.sleep(0.002)
