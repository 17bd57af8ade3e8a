"""How the progress of a push is shown: a bar for each phase on a terminal, lines where there is none, or JSON."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from venice.cli_output import say_json, size
from venice.push.progress import Event, Phase, PhaseEnded, Progress, PushBegun

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

LINE_S: Final = 2.0
"""Where there is no terminal, a phase says so often how far it is."""

_NAMES: Final[dict[type[Event], str]] = {PushBegun: "push_begun", Progress: "progress", PhaseEnded: "phase_ended"}


class JsonLines:
    """One JSON object an event, on stdout; `event` names its kind."""

    def __call__(self, event: Event) -> None:
        say_json({"event": _NAMES[type(event)], **asdict(event)})

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()


class Lines:
    """A line when a phase ends, and every few seconds of a long one."""

    def __init__(self) -> None:
        self._said_s = 0.0

    def __call__(self, event: Event) -> None:
        match event:
            case PushBegun():
                _say(begun(event))
            case Progress(elapsed_s=elapsed_s) if elapsed_s - self._said_s >= LINE_S:
                self._said_s = elapsed_s
                eta = f", {event.eta_s:.0f} s left" if event.eta_s is not None else ""
                _say(f"  {event.phase.value}: {amount(event.rows, event.rows_total, event.bytes)}, {event.rows_per_s:,.0f} rows/s{eta}")
            case PhaseEnded():
                self._said_s = 0.0
                _say(f"✓ {ended(event)}")

    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()


class Bar:
    """A bar for each phase on a terminal: rows of how many, rows/s, bytes, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, highlight=False)
        self._bars: Bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description:<6}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case PushBegun():
                self._console.print(begun(event), markup=False)
            case Progress():
                said = amount(event.rows, event.rows_total, event.bytes) if event.rows or event.rows_total else ""
                if event.rows:
                    said += f"  {event.rows_per_s:,.0f} rows/s"
                if self._task is None:
                    self._task = self._bars.add_task(event.phase.value, total=event.rows_total, said=said)
                self._bars.update(self._task, completed=event.rows, total=event.rows_total, said=said)
            case PhaseEnded():
                if self._task is not None:
                    self._bars.remove_task(self._task)
                    self._task = None
                self._console.print(f"[green]✓[/] {ended(event)}")

    def shown(self) -> AbstractContextManager[object]:
        return self._bars


def choose(*, as_json: bool) -> JsonLines | Lines | Bar:
    """How to show progress here."""
    if as_json:
        return JsonLines()
    return Bar() if sys.stderr.isatty() else Lines()


def begun(event: PushBegun) -> str:
    """What is going to be pushed, in words."""
    what = f"version {event.version} of {event.store}" if event.version is not None else f"{event.store} (dry run)"
    ignored = f"; columns that feed nothing: {', '.join(event.columns_ignored)}" if event.columns_ignored else ""
    defaulted = f"; fields that get their defaults: {', '.join(event.fields_defaulted)}" if event.fields_defaulted else ""
    return f"{event.source} → {what}, {event.partition_count} partitions, push {event.push_id}{ignored}{defaulted}"


def ended(event: PhaseEnded) -> str:
    """What a phase has done, in words."""
    # While it loads, rows are counted by whole partitions, as far as they were heard of: no figure to end on.
    counted = event.rows if event.phase is not Phase.LOAD else 0
    done = f"  {amount(counted, None, event.bytes)}" if counted else ""
    rate = f", {counted / event.seconds:,.0f} rows/s" if counted and event.seconds > 0 else ""
    return f"{event.phase.value:<5}{done}{rate}  {event.seconds:.1f} s"


def amount(rows: int, rows_total: int | None, count: int) -> str:
    """So many rows of so many, and their bytes."""
    of = f" of {rows_total:,}" if rows_total is not None else ""
    stored = f", {size(count)}" if count else ""
    return f"{rows:,}{of} rows{stored}"


def _say(line: Any) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
