"""Where the quickstart runs: a folder made anew, free ports, and the log: in the folder, or on Apache Kafka."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import venice.quickstart
from venice.config import BROKER_VARIABLE, Settings, load, named_broker
from venice.control.reading import read_catalog
from venice.errors import Conflict, NotFound, Unavailable
from venice.quickstart.flights import OWNER, STORE
from venice.quickstart.screen import Screen

BROKER = Path(venice.quickstart.__path__[0]).resolve().parents[1] / "docker" / "kafka" / "broker.py"
"""Of a checkout; an installed package has none."""


def make_folder(folder: Path) -> None:
    """An empty folder in the place of what an earlier quickstart left; a broker that still runs there is stopped first."""
    if (folder / "kafka").exists():
        _broker("stop", str(folder / "kafka"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def settings_for(folder: Path, log: str = "") -> Settings:
    """Settings of a cluster in `folder`, on the default ports if they are free, and the file that says so."""
    ports = _ports(3)
    file = folder / "venice.toml"
    file.write_text(
        f'data = "data"\ncontroller_url = "http://127.0.0.1:{ports[0]}"\nrouter_url = "http://127.0.0.1:{ports[1]}"\n'
        f"worker_port = {ports[2]}\n" + (f'log = "{log}"\n' if log else ""),
        encoding="utf-8",
    )
    return load(file, **({"log": log} if log else {}))


@contextmanager
def kafka(screen: Screen, folder: Path) -> Iterator[str]:
    """URL of a Kafka log: of the broker that the environment names, or of one that runs in `folder` for as long as this.

    Raises:
        NotFound: Nothing here can run a broker; the message says in one line what to install.
    """
    named = named_broker()
    if named:
        screen.console.print(f"     the log is on the Kafka broker that {BROKER_VARIABLE} names: {named}")
        yield f"kafka:{named.removeprefix('kafka:')}"
        return
    if not BROKER.exists():
        raise NotFound(f"the quickstart starts Kafka from a checkout only: elsewhere name a broker by {BROKER_VARIABLE}=HOST:PORT")
    place = folder / "kafka"
    with screen.step("start Apache Kafka (fetched by Maven the first time)") as said:
        _broker("fetch")
        url = _broker("start", str(place))
        said.append(f"Apache Kafka is up: {url}")
    try:
        yield url
    finally:
        with screen.step("stop Apache Kafka"):
            _broker("stop", str(place))


def check_log(settings: Settings) -> bool:
    """Whether a quickstart before this one left its store on this log.

    Raises:
        Conflict: Somebody else's stores are there.
    """
    try:
        stores = read_catalog(settings).stores
    except NotFound:
        return False
    others = sorted(name for name, store in stores.items() if (name, store.owner) != (STORE, OWNER))
    if others:
        raise Conflict(f"{settings.log_url} is the log of a cluster with the store {others[0]!r}", hint="name a broker of its own")
    return STORE in stores


def _broker(*arguments: str) -> str:
    """What docker/kafka/broker.py prints. Raises Unavailable with its one line if it refuses."""
    done = subprocess.run([sys.executable, str(BROKER), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable((done.stderr.strip() or done.stdout.strip() or "Kafka could not be started").splitlines()[-1])
    return done.stdout.strip()


def _ports(count: int) -> list[int]:
    """Ports that are free now: the defaults where they are, others otherwise."""
    chosen: list[int] = []
    for default in (7070, 7071, 7100)[:count]:
        for port in (default, 0):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                chosen.append(probe.getsockname()[1])
                break
    return chosen
