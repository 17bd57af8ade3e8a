"""The main job from end to end on real data: `python -m venice.quickstart` (or `make quickstart`).

Pushes the 336,776 flights that left New York in 2013, reads them with every client, pushes a second version while a
reader loops, rolls back and forward, queries and exports; then streams live updates into the store and pushes a version
underneath them. Leaves a data folder with which `venice up` goes on.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from venice.config import BROKER_VARIABLE
from venice.errors import VeniceError
from venice.quickstart.tour import run


def main() -> int:
    """Run the quickstart in `./quickstart-data`, or in the folder named as the argument."""
    parser = argparse.ArgumentParser(prog="python -m venice.quickstart", description="Venice from end to end on real data.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("quickstart-data"), help="where everything is kept; made anew")
    parser.add_argument("--kafka", action="store_true", help=f"on Apache Kafka: the broker {BROKER_VARIABLE} names, or one started here")
    parser.add_argument("--small", action="store_true", help="the flights of January only")
    arguments = parser.parse_args()
    # As Ctrl-C does, SIGTERM unwinds, so that whatever was started is stopped.
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        run(arguments.folder.resolve(), on_kafka=arguments.kafka, small=arguments.small)
    except VeniceError as error:
        hint = f"\n[dim]hint:[/] {error.hint}" if error.hint else ""
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {error.message}{hint}", highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
