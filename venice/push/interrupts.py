"""Ctrl-C and SIGTERM during a push, told at moments that can bear them.

Python raises KeyboardInterrupt wherever the main thread happens to be. Inside an import it can leave the interpreter's
import lock taken for ever, and a library that tries an optional import takes it for a missing package: the push then hangs,
or goes on as if nobody had said anything. So the handler only notes the signal and wakes DuckDB up.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import duckdb

_OURS: Final[dict[signal.Signals, Any]] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
"""Signals that are taken over, and what they must do until then: a program that handles one itself goes on doing so."""


class Interrupts:
    """Whether somebody wants the push to stop."""

    def __init__(self) -> None:
        self.wanted = False
        self._connection: duckdb.DuckDBPyConnection | None = None

    def watch(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Interrupt this connection, whatever it does, when a signal comes."""
        self._connection = connection

    def check(self) -> None:
        """Raises KeyboardInterrupt if somebody does."""
        if self.wanted:
            raise KeyboardInterrupt

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """The signal handler. A second signal does not wait for a good moment."""
        self.check()
        self.wanted = True
        if self._connection is not None:
            self._connection.interrupt()


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Notes signals inside `with`; whatever error they lead to leaves it as KeyboardInterrupt. Outside the main thread: nothing."""
    noted = Interrupts()
    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [number for number, usual in _OURS.items() if signal.getsignal(number) is usual]
    for number in taken:
        signal.signal(number, noted.handle)
    try:
        yield noted
        noted.check()
    except Exception as error:
        if noted.wanted:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number in taken:
            signal.signal(number, _OURS[number])
