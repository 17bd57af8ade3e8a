"""The documentation is true: every code block runs, every setting, command, error, event and metric is described.

The blocks of a page run in order, in one temporary folder, with this environment's `venice` first on PATH:

- ```` ```bash ````: by `bash -euo pipefail`;
- ```` ```bash background ````: started and left running until the page ends; waits until the cluster it starts answers;
- ```` ```python ````: as a program, warnings are errors;
- ```` ```toml ````, ```` ```json ````: parsed; a TOML block that begins with `# venice.toml` must load as settings.

Any other block is prose. The default ports are replaced by free ones, in the text and by the environment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

from venice import cli
from venice.cli_output import EXIT_CODES
from venice.config import Settings, load
from venice.errors import BY_KIND
from venice.supervisor import healthy
from venice.telemetry import METRICS, EventName

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_LINES_MAX = 120
OPERATING = ROOT / "docs" / "operating.md"
READY_S = 60.0


class Block(NamedTuple):
    """One fenced block of a page: its info string, the line it begins at, and its text."""

    info: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    info: str | None = None
    start, body = 0, [""]
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.fullmatch(r"```(.*)", line)
        if fence is None:
            body.append(line)
        elif info is None:
            info, start, body = fence[1].strip(), number, []
        else:
            found.append(Block(info, start, "\n".join(body) + "\n"))
            info = None
    assert info is None, f"{page.name}: the block at line {start} has no end"
    return found


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Page:
    """Runs the blocks of one page."""

    def __init__(self, folder: Path, free_port: Callable[..., int]) -> None:
        self.folder = folder
        controller, router, worker = free_port(), free_port(), free_port(4)
        self.ports = {"7070": str(controller), "7071": str(router), "7100": str(worker)}
        self.health = [f"http://127.0.0.1:{place}/health" for place in (f"{controller}/api/v1", router, worker)]
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONWARNINGS": "error",
            "VENICE_CONTROLLER_URL": f"http://127.0.0.1:{controller}",
            "VENICE_ROUTER_URL": f"http://127.0.0.1:{router}",
            "VENICE_WORKER_PORT": str(worker),
        }
        self.running = ExitStack()

    def run(self, block: Block) -> None:
        text = re.sub(r"(?<=127\.0\.0\.1:)(7070|7071|7100)\b", lambda port: self.ports[port[0]], block.text)
        match block.info.split():
            case ["bash", "background"]:
                self.running.enter_context(self._background(text))
            case ["bash"]:
                self._finish(["bash", "-euo", "pipefail", "-c", text])
            case ["python"]:
                self._finish([sys.executable, "-c", text])
            case ["json"]:
                json.loads(text)
            case ["toml"]:
                tomllib.loads(text)
                if text.startswith("# venice.toml"):
                    (self.folder / "checked.toml").write_text(text, encoding="utf-8")
                    load(self.folder / "checked.toml")
            case ["bash" | "python" | "json" | "toml", *rest]:
                raise AssertionError(f"{rest} means nothing after the language")

    def _finish(self, command: list[str]) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"

    @contextmanager
    def _background(self, text: str) -> Iterator[None]:
        with (self.folder / "background.log").open("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"exec {text}"],
                cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
            try:
                deadline = time.monotonic() + READY_S
                while not all(map(healthy, self.health)):
                    output.seek(0)
                    assert process.poll() is None, f"it ended: {output.read()}"
                    assert time.monotonic() < deadline, f"not ready after {READY_S} s: {output.read()}"
                    time.sleep(0.05)  # it tells by its answers alone that it is ready
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                code = process.wait(30)
            output.seek(0)
            assert code == 0, f"it stopped with {code}: {output.read()}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_runs(page: Path, tmp_path: Path, free_port: Callable[..., int]) -> None:
    runner = Page(tmp_path, free_port)
    with runner.running:
        for block in blocks(page):
            try:
                runner.run(block)
            except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
                pytest.fail(f"{name_of(page)}, the block at line {block.line}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_short_and_their_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= PAGE_LINES_MAX
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert not (dead := [link for link in links if not (page.parent / link).exists()]), dead


def test_every_page_is_reachable_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents}
    missing = sorted(page for page in pages - {"index.md"} if f"]({page})" not in index and not page.startswith("decisions/"))
    assert not missing, missing


def test_every_setting_is_described() -> None:
    text = OPERATING.read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        default = str(field.default) if isinstance(field.default, Path) else json.dumps(field.default)
        row = f"| `{name}` | `{default}` | {field.description} |"
        assert row in text, f"docs/operating.md lacks or misstates this row:\n{row}"


def commands(group: Any, path: str = "venice") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_every_command_is_described() -> None:
    import typer

    text = OPERATING.read_text(encoding="utf-8")
    missing = [command for command in commands(typer.main.get_command(cli.app)) if f"`{command}" not in text]
    assert not missing, f"docs/operating.md says nothing of {missing}"


def test_every_error_has_its_exit_code_and_is_described() -> None:
    assert set(EXIT_CODES) == set(BY_KIND)
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    text = OPERATING.read_text(encoding="utf-8")
    for kind, code in EXIT_CODES.items():
        assert f"| {code} | `{kind}` |" in text, f"docs/operating.md lacks the row of exit code {code}, {kind}"


def test_every_event_is_described_and_emitted_and_every_metric_is_described_and_kept() -> None:
    text = (ROOT / "docs" / "observing.md").read_text(encoding="utf-8")
    shipped = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "venice").rglob("*.py") if path.name != "telemetry.py")
    for name in get_args(EventName):
        assert f"`{name}`" in text, name
        assert f'"{name}"' in shipped, f"nothing says {name}"
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        assert f"| `{metric.name}` | {labels}{' ' if labels else ''}| {metric.meaning} |" in text, metric.name
        assert metric.name.removeprefix("venice_").upper() in shipped, f"nobody keeps {metric.name}"
