"""Work shared by a few threads under the eye of the one that started them.

The work of a push is done by libraries that let go of the interpreter (DuckDB, Arrow, NumPy) or by other processes, so
threads are enough to keep the cores busy; the calling thread only watches, reports, and stops everything when it must.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final

_TICK_S: Final = 0.2


def run_lanes(lanes: Sequence[Callable[[], None]], *, tick: Callable[[], None], stop: Callable[[], None]) -> None:
    """Run each of `lanes` in a thread until all have returned.

    Args:
        tick: Called in this thread a few times a second; what it raises ends the work.
        stop: Makes the lanes return soon; called once if one of them, `tick` or an interrupt (Ctrl-C) ends the work early.

    Raises:
        Exception: The first one that a lane or `tick` raised.
    """
    with ThreadPoolExecutor(len(lanes), thread_name_prefix="push") as pool:
        pending: set[Future[None]] = {pool.submit(lane) for lane in lanes}
        try:
            while pending:
                done, pending = wait(pending, timeout=_TICK_S, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                tick()
        except BaseException:
            stop()
            raise


def cores() -> int:
    """Those this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
