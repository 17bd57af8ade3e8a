"""What a push says while it runs: a stream of events, made and handed out in the caller's thread.

Whoever shows them (the command line as a bar, as lines or as JSON) decides how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from venice.clock import Clock


class Phase(StrEnum):
    """The steps of a push, in order."""

    PLAN = "plan"
    """Columns are matched with fields, the version is asked for."""
    READ = "read"
    """Rows are read, encoded, partitioned and sorted in runs."""
    WRITE = "write"
    """Runs are merged into one sorted file per partition."""
    SEAL = "seal"
    """The manifest is written and handed to the controller."""
    LOAD = "load"
    """Workers load their replicas; the version is swapped in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushBegun:
    """What is going to be pushed."""

    store: str
    version: int | None
    """None in a dry run, which makes no version."""
    push_id: str
    source: str
    partition_count: int
    rows_total: int | None
    """Rows of the input; None where only reading tells (CSV, JSON, queries)."""
    columns_ignored: tuple[str, ...]
    """Columns of the input that feed no field."""
    fields_defaulted: tuple[str, ...] = ()
    """Value fields that the input has no column for: every row gets their defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a phase is; comes a few times a second."""

    phase: Phase
    rows: int
    """Rows done in this phase."""
    rows_total: int | None
    bytes: int
    """Bytes of keys and stored values done in this phase."""
    elapsed_s: float
    """Since the phase began."""
    rows_per_s: float
    eta_s: float | None
    """Seconds this phase will take from now on; None where the total is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnded:
    """A phase is done."""

    phase: Phase
    rows: int
    bytes: int
    seconds: float


Event = PushBegun | Progress | PhaseEnded
Listener = Callable[[Event], None]


class Reporter:
    """Counts what threads have done, and says it from the thread that calls `tick`."""

    def __init__(self, clock: Clock, listener: Listener | None) -> None:
        self._clock = clock
        self._listener = listener
        self._lock = Lock()
        self._phase: Phase | None = None
        self._begun_s = clock.monotonic_s()
        self._rows = self._bytes = 0
        self._rows_total: int | None = None
        self.seconds: dict[Phase, float] = {}

    def begin(self, phase: Phase, rows_total: int | None = None) -> None:
        """End the phase before, if any, and begin this one."""
        self.end()
        with self._lock:
            self._phase, self._begun_s, self._rows_total = phase, self._clock.monotonic_s(), rows_total
            self._rows = self._bytes = 0
        self.tick()

    def count(self, rows: int, bytes_: int) -> None:
        """Add what was done; from any thread."""
        with self._lock:
            self._rows += rows
            self._bytes += bytes_

    def set(self, rows: int) -> None:
        """Say how many rows are done, where that can go down."""
        with self._lock:
            self._rows = rows

    def tick(self) -> None:
        """Tell the listener how far the phase is."""
        if self._listener is None or self._phase is None:
            return
        with self._lock:
            elapsed_s = self._clock.monotonic_s() - self._begun_s
            rows, total = self._rows, self._rows_total
            rate = rows / elapsed_s if elapsed_s > 0 else 0.0
            eta_s = (total - rows) / rate if total is not None and rate > 0 else None
            event = Progress(
                phase=self._phase, rows=rows, rows_total=total, bytes=self._bytes,
                elapsed_s=elapsed_s, rows_per_s=rate, eta_s=max(0.0, eta_s) if eta_s is not None else None,
            )  # fmt: skip
        self._listener(event)

    def end(self) -> None:
        """End the present phase, if any."""
        if self._phase is None:
            return
        seconds = self._clock.monotonic_s() - self._begun_s
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + seconds
        self.say(PhaseEnded(phase=self._phase, rows=self._rows, bytes=self._bytes, seconds=seconds))
        self._phase = None

    def say(self, event: Event) -> None:
        if self._listener is not None:
            self._listener(event)
