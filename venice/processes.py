"""What the processes of a cluster have in common: where they listen, how they stop, the topics they expect.

Light to import: the supervisor of a node needs nothing else of what its workers do.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from venice.config import Settings
from venice.errors import Conflict
from venice.naming import CATALOG_TOPIC, REPORTS_TOPIC

if TYPE_CHECKING:
    from venice.log import Log


def worker_id(settings: Settings, index: int) -> str:
    """Name of a node's worker, the same in each life of the process."""
    return f"{settings.node}-w{index}"


def worker_url(settings: Settings, index: int) -> str:
    """Where a node's worker listens."""
    return f"http://{settings.worker_host}:{settings.worker_port + index}"


def ensure_topics(log: Log) -> None:
    """Create the catalog's and the reports' topic if they are not there; any process may be the first."""
    log.create_topic(CATALOG_TOPIC, 1)
    log.create_topic(REPORTS_TOPIC, 1)


def wait_for_stop() -> None:
    """Block the main thread until SIGTERM or SIGINT."""
    stop = threading.Event()
    on_stop_signal(stop.set)
    stop.wait()


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGTERM or SIGINT; a second SIGINT ends the process at once. Main thread only."""

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def stop_with_parent() -> None:
    """Stop this process when the one that started it is gone.

    The parent holds the other end of our standard input; however it dies, the kernel closes that end.
    """

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def host_port(url: str) -> tuple[str, int]:
    """Host and port of an `http://` URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def check_port(host: str, port: int, name: str) -> None:
    """Raises Conflict if something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Conflict(
                f"port {port} for the {name} cannot be used: {error.strerror}",
                hint="stop the program that listens there, or choose other ports in venice.toml",
                port=port,
            ) from error
