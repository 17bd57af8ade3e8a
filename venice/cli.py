"""The `venice` command: all verbs, and what becomes of their errors.

Every command prints text for people or, with `--json`, JSON for programs. An error is two lines on stderr and the exit
code of its kind (`venice/cli_output.py`); nobody ever sees a traceback.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

try:
    import typer
except ModuleNotFoundError:
    sys.exit("error: the 'venice' command needs more than the clients do\nhint:  pip install 'venice-data[all]'")

from venice import (
    cli_data,
    cli_doctor,
    cli_files,
    cli_inspect,
    cli_integrity,
    cli_nodes,
    cli_processes,
    cli_push,
    cli_stores,
    cli_top,
    cli_versions,
    cli_writes,
)
from venice.cli_output import WIDE, report_bug, report_error
from venice.errors import InvalidRequest, VeniceError

# No rich markup: loading rich costs more than everything else `venice --help` does.
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=WIDE)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"venice {package_version('venice-data')}\n")
        raise typer.Exit


@app.callback()
def root(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file; default: venice.toml of this folder.")] = None,
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Venice: immutable versions of precomputed data, swapped atomically and served in microseconds."""


app.command()(cli_processes.up)
app.command()(cli_processes.init)
app.command()(cli_doctor.doctor)
app.command()(cli_top.top)
app.add_typer(cli_stores.stores, name="store")
app.add_typer(cli_stores.schemas, name="schema")
app.command()(cli_push.push)
app.command()(cli_push.repush)
app.command()(cli_data.get)
app.command()(cli_writes.put)
app.command()(cli_writes.delete)
app.add_typer(cli_versions.versions, name="version")
app.add_typer(cli_nodes.nodes, name="node")
app.command()(cli_data.sql)
app.command()(cli_data.export)
cli_inspect.inspect.command("snapshot")(cli_files.snapshot)
cli_inspect.inspect.command("replica")(cli_files.replica)
cli_inspect.inspect.command("lag")(cli_integrity.lag)
cli_inspect.inspect.command("dead-letters")(cli_integrity.dead_letters)
app.add_typer(cli_inspect.inspect, name="inspect")
app.add_typer(cli_processes.run, name="run")
app.add_typer(cli_processes.worker, name="worker")


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        app(arguments, prog_name="venice")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except VeniceError as error:
        return report_error(error, as_json="--json" in arguments)
    except ModuleNotFoundError as error:
        # A part of Venice that this environment was installed without.
        missing = InvalidRequest(f"this command needs the package {error.name!r}", hint="pip install 'venice-data[all]'")
        return report_error(missing, as_json="--json" in arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a person
        # DuckDB answers Ctrl-C with an error of its own.
        return 130 if isinstance(error.__cause__, KeyboardInterrupt) else report_bug(error)
    return 0


def main() -> None:
    """Entry point of the `venice` script and of `python -m venice.cli`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
