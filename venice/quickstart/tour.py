"""The order of everything, from an empty folder to three commands to try."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.quickstart import batch, live
from venice.quickstart.flights import KEY_SCHEMA, OWNER, STORE, VALUE_SCHEMA, Flights, push_edition, unpack
from venice.quickstart.place import BROKER, check_log, kafka, make_folder, settings_for
from venice.quickstart.screen import Screen
from venice.sql import query
from venice.supervisor import Cluster

SAMPLE_KEYS = 10_000
SAMPLES, SAMPLES_SMALL = 20_000, 2_000


def run(folder: Path, *, on_kafka: bool = False, small: bool = False) -> None:
    """All steps, with their data in `folder`, which is made anew.

    Args:
        folder: Its contents are deleted first.
        on_kafka: The log is on Apache Kafka instead of SQLite.
        small: The flights of January only, and fewer measurements.
    """
    screen = Screen()
    make_folder(folder)
    flights = unpack(folder, small=small)
    screen.console.print(
        f"[bold]Venice[/]: {flights.rows:,} real flights, pushed, served, swapped, queried, and updated while they are read\n"
    )
    with ExitStack() as stack:
        log = stack.enter_context(kafka(screen, folder)) if on_kafka else ""
        settings = settings_for(folder, log)
        left_over = check_log(settings)
        cluster = Cluster(settings)
        try:
            with screen.step("start a controller, a router and a worker") as said:
                cluster.start()
                said.append(f"controller, router and worker are up ({', '.join(cluster.supervisor.pids())})")
            _data(screen, settings, folder, flights, left_over=left_over, samples=SAMPLES_SMALL if small else SAMPLES)
        finally:
            with screen.step("stop everything"):
                cluster.stop()
    _try_next(screen, folder, own_broker=(folder / "kafka").exists())


def _data(screen: Screen, settings: Settings, folder: Path, flights: Flights, *, left_over: bool, samples: int) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock())
    with screen.step(f"create the store {STORE}"):
        if left_over:
            controller.delete_store(STORE)
        controller.create_store(STORE, key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, owner=OWNER)
    push_edition(screen, settings, flights, 1)
    with ExitStack() as stack:
        with screen.step("open a thin client and a Da Vinci client") as said:
            thin = stack.enter_context(ThinClient(settings.router_url, STORE))
            davinci = stack.enter_context(DaVinciClient(settings, STORE))
            keys = query(settings, f"SELECT key FROM {STORE} USING SAMPLE {SAMPLE_KEYS} ROWS (reservoir, 7)").column("key").to_pylist()
            said.append(f"a thin client and a Da Vinci client are open, {len(keys):,} keys are drawn")
        batch.second_version(screen, settings, controller, flights, (thin, davinci), keys)
        batch.query_and_export(screen, settings, flights, folder)
        batch.measure_gets(screen, settings, (thin, davinci), keys[: len(keys) // 2], samples)
        live.stream(screen, settings, controller, flights, davinci, keys)


def _try_next(screen: Screen, folder: Path, *, own_broker: bool) -> None:
    venice, python = Path(sys.executable).with_name("venice"), _shown(Path(sys.executable))
    program = _shown(venice) if venice.exists() else f"{python} -m venice.cli"
    # No `cd`: each line works wherever the one before it was pasted.
    shown = f"{program} --config {_shown(folder / 'venice.toml')}"
    broker = f"{python} {_shown(BROKER)} start {_shown(folder / 'kafka')} && " if own_broker else ""
    screen.console.print("\nTry next, in a terminal that runs the cluster and in another one:")
    screen.console.print(f"  {broker}{shown} up")
    screen.console.print(f"  {shown} get {STORE} live-0")
    screen.console.print(f'  {shown} sql "SELECT dest, count(*) FROM {STORE} GROUP BY dest ORDER BY 2 DESC LIMIT 5"')


def _shown(path: Path) -> str:
    """As it is typed in the folder where the quickstart was started."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
