"""Reads at fixed times, whatever becomes of those before: what a user waits for, also while a server stands still."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self

THREADS = 8
"""Readers of one client, each with every eighth of the reads: so many may stand still at a time before one begins late."""


class Reader(Protocol):
    def get(self, key: Any) -> Any: ...


class Read(NamedTuple):
    """One read, in seconds of `time.perf_counter`."""

    due_s: float
    took_s: float
    """From when it was due, not from when it was begun."""
    failure: str
    """What was raised; empty for a value."""


class OpenLoop:
    """Reads random keys through one client, `rate` a second, between `with` and its end; `reads` holds them then.

    Args:
        client: Safe to share between threads.
        keys: Keys are from 0 up to here; all are there.
        rate: Reads a second.
    """

    def __init__(self, client: Reader, keys: int, rate: float) -> None:
        self.reads: list[Read] = []
        self._client = client
        self._keys = keys
        self._step_s = 1 / rate
        self._stop = threading.Event()
        self._found: list[list[Read]] = [[] for _ in range(THREADS)]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        start = time.perf_counter() + 0.1
        self._threads = [threading.Thread(target=self._run, args=(number, start), daemon=True) for number in range(THREADS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exit: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.reads = sorted(read for found in self._found for read in found)

    def _run(self, number: int, start: float) -> None:
        rng, found = random.Random(number), self._found[number]
        due = start + number * self._step_s
        while not self._stop.wait(max(0.0, due - time.perf_counter())):
            failure = ""
            try:
                if self._client.get(rng.randrange(self._keys)) is None:
                    failure = "no value"
            except Exception as error:  # noqa: BLE001 - a figure of the benchmark, whatever it is
                failure = repr(error)
            found.append(Read(due, time.perf_counter() - due, failure))
            due += THREADS * self._step_s


def between(reads: Sequence[Read], first_s: float, last_s: float) -> list[Read]:
    """Those that were due then."""
    return [read for read in reads if first_s <= read.due_s < last_s]


def p99_ms(reads: Sequence[Read]) -> float:
    return statistics.quantiles([read.took_s * 1e3 for read in reads], n=100)[98]


def p50_ms(reads: Sequence[Read]) -> float:
    return statistics.median(read.took_s * 1e3 for read in reads)
