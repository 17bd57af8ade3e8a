"""Which log a URL means."""

from __future__ import annotations

from pathlib import Path

from venice.clock import Clock
from venice.errors import InvalidRequest
from venice.log import Log


def open_log(url: str, clock: Clock) -> Log:
    """Open the log at `sqlite:FOLDER`, which is made if it is missing.

    Raises:
        InvalidRequest: Not such a URL.
    """
    kind, _, place = url.partition(":")
    if kind == "sqlite" and place:
        from venice.log.sqlite import SqliteLog

        return SqliteLog(Path(place), clock)
    raise InvalidRequest(f"{url!r} names no log", hint="write sqlite:FOLDER, for example sqlite:venice-data/log")
