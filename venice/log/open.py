"""Which log a URL means."""

from __future__ import annotations

import re
from pathlib import Path

from venice.clock import Clock
from venice.errors import InvalidRequest
from venice.log import Log

_SERVERS = re.compile(r"[^,\s]+:[0-9]+(,[^,\s]+:[0-9]+)*")


def open_log(url: str, clock: Clock, *, timeout_s: float = 30.0) -> Log:
    """Open the log at `sqlite:FOLDER`, a folder that is made if it is missing, or `kafka:HOST:PORT[,HOST:PORT…]`.

    Args:
        url: Where it is.
        clock: For timestamps and waiting.
        timeout_s: After how long a log that does not answer is Unavailable; the embedded one is never waited for as long.

    Raises:
        InvalidRequest: No such URL.
    """
    # A driver is imported when it is used: each brings a library that the other's users may not have.
    kind, _, place = url.partition(":")
    if kind == "sqlite" and place:
        from venice.log.sqlite import SqliteLog
        from venice.log.sqlite_file import BUSY_S

        return SqliteLog(Path(place), clock, busy_s=min(timeout_s, BUSY_S))
    if kind == "kafka" and _SERVERS.fullmatch(place):
        from venice.log.kafka import KafkaLog

        return KafkaLog(place, clock, timeout_s=timeout_s)
    raise InvalidRequest(f"{url!r} names no log", hint="write sqlite:FOLDER or kafka:HOST:PORT")
