"""How long gets take, measured with the finest timer there is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.config import Settings
from venice.quickstart.flights import STORE

PUBLISHED_P99 = {"thin": "10 ms", "Da Vinci": "10 µs", "Da Vinci, object cache": "10 µs"}
WARM_UP = 2_000


def measure(settings: Settings, thin: ThinClient, davinci: DaVinciClient, keys: Sequence[str], samples: int) -> dict[str, list[int]]:
    """Nanoseconds of each get, ascending, by client."""
    with DaVinciClient(settings, STORE, folder=settings.data / "davinci" / "cached", cache_objects=len(keys)) as cached:
        for key in keys:  # both Da Vinci clients keep what was read: measured is what a hot key costs
            cached.get(key)
            davinci.get(key)
        return {
            "thin": _timed(thin.get, keys, samples),
            "Da Vinci": _timed(davinci.get, keys, samples),
            "Da Vinci, object cache": _timed(cached.get, keys, samples),
        }


def table(figures: dict[str, list[int]]) -> Table:
    """The figures beside those that Venice publishes of itself."""
    shown = Table("client", "p50", "p99", "Venice's published p99")
    for client, taken in figures.items():
        shown.add_row(client, readable(percentile(taken, 50)), readable(percentile(taken, 99)), PUBLISHED_P99[client])
    return shown


def percentile(ascending: Sequence[int], share: int) -> int:
    """The value below which so many percent of a sorted sample lie."""
    return ascending[len(ascending) * share // 100]


def readable(nanoseconds: int) -> str:
    """In milliseconds or microseconds."""
    return f"{nanoseconds / 1e6:.2f} ms" if nanoseconds >= 1_000_000 else f"{nanoseconds / 1e3:.1f} µs"


def now_ns() -> int:
    """A moment, for the difference to another one."""
    return time.perf_counter_ns()


def _timed(get: Callable[[str], Any], keys: Sequence[str], samples: int) -> list[int]:
    rng = random.Random(7)
    chosen = [rng.choice(keys) for _ in range(samples)]
    for key in chosen[:WARM_UP]:
        get(key)
    now, taken = time.perf_counter_ns, []
    for key in chosen:
        started = now()
        get(key)
        taken.append(now() - started)
    return sorted(taken)
