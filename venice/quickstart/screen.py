"""What the person in front of the quickstart sees: numbered steps with a tick, and never silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from venice.clock import SystemClock

QUIET_S = 4.0
"""Nobody is left without a word for longer."""


class Screen:
    """Numbered steps, each with a tick and the seconds it took; says what it is at, so that it is never silent for long."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._number = 0
        self._clock = SystemClock()

    @contextmanager
    def step(self, doing: str) -> Iterator[list[str]]:
        """Runs one step; what the body appends to the list replaces `doing` in the line with the tick."""
        self._number += 1
        said: list[str] = []
        started_s = self._clock.monotonic_s()
        if self.console.is_terminal:
            with self.console.status(f"{self._number} {doing} …"):
                yield said
        else:
            self.console.print(f"{self._number:2} … {doing}")
            with self._still(doing, started_s):
                yield said
        seconds = self._clock.monotonic_s() - started_s
        self.console.print(f"{self._number:2} [green]✓[/] {said[0] if said else doing}  [dim]{seconds:.1f} s[/]")
        for line in said[1:]:
            self.console.print(f"     {line}")

    def verdict(self, good: bool, fact: str, more: str = "") -> None:
        """A counted fact below the step it belongs to: green if it is what was promised."""
        self.console.print(f"     [bold {'green' if good else 'red'}]{fact}[/]{more}")

    @contextmanager
    def _still(self, doing: str, started_s: float) -> Iterator[None]:
        """Where there is no terminal to turn a wheel on, a line every few seconds."""
        done = threading.Event()

        def say() -> None:
            while not done.wait(QUIET_S):
                self.console.print(f"     [dim]still at it: {doing}, {self._clock.monotonic_s() - started_s:.0f} s[/]")

        thread = threading.Thread(target=say, name="still", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
