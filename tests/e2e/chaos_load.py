"""Steady writes by processes that may be killed at any moment, and the ledger of what each said before and after a write."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import IO, Any

from venice.client.producer import Producer
from venice.config import Settings, environment, load
from venice.errors import Unavailable

STORE = "counts"
PRODUCERS = 3
WRITTEN = 120
"""Keys from 0 that are written; each belongs to one producer, so that its writes have an order."""
KEYS = 140
"""The others keep what the push gave them."""
BATCH = 10
PAUSE_S = 0.02
PUSHED = 0
"""Number of the row that a push wrote; those of producers count from 1."""

State = int | None
"""What a read of a key shows: the number of the write that put the row, None without a row."""


def keys_of(producer: int) -> range:
    return range(producer, WRITTEN, PRODUCERS)


class Ledger:
    """What the producers' journals say: every write is noted before it is made, and once more when it is acknowledged."""

    def __init__(self, journals: Iterable[Path]) -> None:
        self.issued: dict[int, dict[int, bool]] = {key: {} for key in range(KEYS)}
        """Key → number → whether it is a put, ascending by number."""
        self.acknowledged: dict[int, int] = dict.fromkeys(range(KEYS), PUSHED)
        """Key → the last write that was acknowledged."""
        self.failures: list[str] = []
        self._read = dict.fromkeys(journals, 0)

    def refresh(self) -> Ledger:
        """Take in what was noted meanwhile."""
        for journal, offset in self._read.items():
            with journal.open("rb") as file:
                file.seek(offset)
                whole = file.read().rpartition(b"\n")[0]
            for line in whole.decode().splitlines():
                self._take(*line.split(" ", 3))
            self._read[journal] = offset + len(whole) + bool(whole)
        return self

    def fits(self, key: int, state: State, floor: int) -> bool:
        """Whether a write of the key that is not older than number `floor` left this state."""
        if state is None:
            return any(number >= floor and not is_put for number, is_put in self.issued[key].items())
        return state >= floor and (state == PUSHED or self.issued[key].get(state, False))

    def misfits(self, states: dict[int, State], floors: dict[int, int]) -> dict[int, tuple[State, int]]:
        """Key → (what was read, the oldest write it might show), of those that show an older one."""
        return {key: (states[key], floor) for key, floor in floors.items() if not self.fits(key, states[key], floor)}

    def backwards(self, key: int, states: list[State]) -> str:
        """Where a sequence of reads goes back to an older write; empty if nowhere."""
        at = PUSHED
        for state in states:
            if state is None:
                after = [number for number, is_put in self.issued[key].items() if number >= at and not is_put]
                state = min(after, default=-1)
            if state < at:
                return f"key {key}: {states} goes back to {state} from {at}"
            at = state
        return ""

    def _take(self, what: str, key: str, number: str, more: str) -> None:
        if what == "issued":
            self.issued[int(key)][int(number)] = more == "put"
        elif what == "acknowledged":
            self.acknowledged[int(key)] = max(self.acknowledged[int(key)], int(number))
        else:
            self.failures.append(f"key {key}, write {number}: {more}")


class Load:
    """The producers, as processes that are started again when they were killed."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._environment = environment(settings)
        self._journals = [folder / f"journal-{number}" for number in range(PRODUCERS)]
        self._output = (folder / "producers.log").open("ab")
        for journal in self._journals:
            journal.touch()
        self.ledger = Ledger(self._journals)
        self._processes = [self._start(number) for number in range(PRODUCERS)]

    def kill(self, number: int) -> bool:
        """SIGKILL a producer and start its successor; False if it had ended by itself."""
        process = self._processes[number]
        running = process.poll() is None
        process.kill()
        process.communicate()
        self._processes[number] = self._start(number)
        return running

    def finish(self) -> list[int | None]:
        """Have the producers end when all they wrote is acknowledged. Their exit codes."""
        for process in self._processes:
            process.communicate()
        return [process.returncode for process in self._processes]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self._output.close()

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, __file__, str(number), str(self._journals[number])],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=self._environment,
        )


def write_until_told(producer: int, journal: Path) -> None:
    """Write until standard input is closed, then wait for what is not acknowledged."""
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    ledger = Ledger([journal]).refresh()
    number = max((n for issued in ledger.issued.values() for n in issued), default=PUSHED)
    rng = random.Random()
    with journal.open("ab", buffering=0) as notes, opened() as writer:
        while not stop.wait(PAUSE_S):
            writes = [(key, number + i, rng.random() < 0.9) for i, key in enumerate(rng.sample(keys_of(producer), BATCH), 1)]
            number += BATCH
            notes.write("".join(f"issued {key} {n} {'put' if is_put else 'delete'}\n" for key, n, is_put in writes).encode())
            for key, n, is_put in writes:
                done = writer.put(key, {"source": f"producer {producer}", "n": n}) if is_put else writer.delete(key)
                done.add_done_callback(partial(_note, notes, key, n))


def opened() -> Producer:
    """A producer, once the log can be reached: its broker may have been killed as well."""
    while True:
        try:
            return Producer(load(), STORE)
        except Unavailable:
            time.sleep(PAUSE_S)  # the broker is being started again, by another process


def _note(notes: IO[bytes], key: int, number: int, done: Future[Any]) -> None:
    error = done.exception()
    said = f"acknowledged {key} {number} -" if error is None else f"failed {key} {number} {error!r}"
    os.write(notes.fileno(), f"{said}\n".encode())


if __name__ == "__main__":
    write_until_told(int(sys.argv[1]), Path(sys.argv[2]))
