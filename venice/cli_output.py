"""What all commands of `venice` share: where settings come from, how results are printed, what an error becomes."""

from __future__ import annotations

import base64
import json
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from venice.errors import InvalidRequest, NotFound, VeniceError

if TYPE_CHECKING:
    from venice.config import Settings
    from venice.control.remote import ControllerClient
    from venice.model import FaultCount

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
"""The option every command takes."""

EXIT_CODES: Final = {
    "error": 1,
    "invalid_request": 3,
    "not_found": 4,
    "conflict": 5,
    "incompatible": 6,
    "unavailable": 7,
    "corrupt": 8,
    "fenced": 9,
    "full": 10,
}
"""Exit code of each kind of error. 2 is a command line that makes no sense, 70 a bug in Venice, 130 Ctrl-C."""

EXIT_BUG: Final = 70

WIDE: Final = {"max_content_width": 120}
"""Help as wide as a terminal that is wider than 80 columns."""

_PREVIEW_BYTES: Final = 60

_PRIMITIVES: Final = frozenset(("null", "boolean", "int", "long", "float", "double", "bytes", "string"))


def group(purpose: str) -> typer.Typer:
    """A group of commands. Without rich markup: loading rich costs more than everything else `--help` does."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=purpose, context_settings=WIDE)


def settings_of(ctx: typer.Context, **overrides: Any) -> Settings:
    """The settings of this invocation: `--config` or `venice.toml`, the environment, then `overrides` that are not None."""
    chosen: Path | None = ctx.find_root().params.get("config")
    return load_settings(chosen, {name: value for name, value in overrides.items() if value is not None})


def load_settings(file: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """`venice.config.load`, imported when a command needs it. So is every heavy module: `venice --help` stays quick."""
    from venice.config import load

    return load(file, **overrides)


def controller_of(ctx: typer.Context, **overrides: Any) -> ControllerClient:
    """A client of the controller that the settings name."""
    from venice.clock import SystemClock
    from venice.control.remote import ControllerClient

    # A person waits: one who forgot to start the cluster should hear so soon, a restarting controller takes a second.
    return ControllerClient(settings_of(ctx, **overrides).controller_url, SystemClock(), retry_s=3.0)


def schema_text(argument: str) -> str:
    """An Avro schema given on the command line: a file, a primitive's name, or the JSON itself.

    Raises:
        NotFound: It looks like none of them: no such file.
        InvalidRequest: The file is not text.
    """
    if argument in _PRIMITIVES:
        return json.dumps(argument)
    if argument.lstrip()[:1] in ("{", "[", '"'):
        return argument
    path = Path(argument.removeprefix("@"))
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NotFound(
            f"no schema at {path} ({error.strerror})", hint="pass a file (.avsc), a primitive such as string or long, or the JSON itself"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not a text file", hint="an Avro schema is JSON") from error


def say(text: str) -> None:
    """One line (or several) for the person or program that reads our output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """What a person should know although the command has done its work; on stderr, away from what programs read."""
    sys.stderr.write(f"warning: {text}\n")


def say_json(value: object) -> None:
    """A value as JSON, on one line."""
    say(json.dumps(value, default=plain, ensure_ascii=False))


def model_json(value: object) -> Any:
    """A dataclass of the model (or a sequence of them) as what JSON is made of."""
    from venice.control.encoding import to_json

    if isinstance(value, tuple | list):
        return [model_json(item) for item in value]
    return json.loads(to_json(value))


def plain(value: object) -> Any:
    """What stands in JSON for a value JSON does not know: bytes as base64, times in ISO 8601, anything else as text."""
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
    return str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under a heading, in columns as wide as they need to be; numbers stand to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(head[column]), *(len(row[column]) for row in cells), 0) for column in range(len(head))]
    numeric = [bool(cells) and all(_is_number(row[column]) for row in cells) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        aligned = (text.rjust(width) if right else text.ljust(width) for text, width, right in zip(row, widths, numeric, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line([name.upper() for name in head]), *map(line, cells)])


def moment(timestamp_ms: int) -> str:
    """A time for people: UTC, to the second; `-` for none."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") if timestamp_ms else "-"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def compression_text(name: str, value_bytes: int, compressed_bytes: int) -> str:
    """A compression, and how many times smaller it made the values."""
    return f"{name} {value_bytes / compressed_bytes:.2f}x" if compressed_bytes else name


def lag_text(records: int, seconds: float) -> str:
    """How far something is behind, for people."""
    return f"{records:,} ({seconds:.1f} s)" if records else "0"


def faults_text(faults: Iterable[FaultCount]) -> str:
    """Faulty records for people: how many of which kind; those of the real-time topic are marked."""
    return ", ".join(f"{one.count:,} {one.fault}{' (rt)' if one.topic == 'real_time' else ''}" for one in faults) or "-"


def preview(data: bytes) -> str:
    """Bytes for people: text if they are text, hex otherwise; only their beginning."""
    cut = "…" if len(data) > _PREVIEW_BYTES else ""
    try:
        text = data[:_PREVIEW_BYTES].decode("utf-8", errors="strict" if not cut else "ignore")
        if text.isprintable():
            return text + cut
    except UnicodeDecodeError:
        pass
    return f"0x{data[:_PREVIEW_BYTES].hex()}{cut}"


def report_error(error: VeniceError, *, as_json: bool) -> int:
    """Tell of an error on stderr, and return the exit code of its kind."""
    if as_json:
        facts = {"error": error.kind, "message": error.message, "hint": error.hint, "data": error.data}
        sys.stderr.write(json.dumps(facts, default=plain, ensure_ascii=False) + "\n")
    else:
        sys.stderr.write(f"error: {error.message}\n" + (f"hint:  {error.hint}\n" if error.hint else ""))
    return EXIT_CODES[error.kind]


def report_bug(error: BaseException) -> int:
    """Tell of an error that Venice did not raise on purpose, in one line; the trace goes to a file."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="venice-trace-", suffix=".txt", delete=False, encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
        where = file.name
    except OSError as failure:
        where = f"nowhere ({failure.strerror})"
    sys.stderr.write(f"error: {type(error).__name__}: {error} (this is a bug in Venice; its trace is in {where})\n")
    return EXIT_BUG


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).lstrip("-").isdigit()
