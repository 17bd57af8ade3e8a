"""The graphs of our dataflows are those of the docs, building one opens nothing, and Bytewax's own runner runs them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.visualize import to_mermaid
from waiting import eventually

import venice_flows.ingest
import venice_flows.worker
from venice import operators
from venice.config import Settings, environment
from venice.supervisor import healthy

ROOT = Path(__file__).resolve().parent.parent.parent
BUILDS = {"ingest": venice_flows.ingest.build, "worker": venice_flows.worker.build}


def described() -> dict[str, str]:
    """Dataflow → its picture in the docs."""
    page = (ROOT / "docs" / "dataflows.md").read_text(encoding="utf-8")
    pictures = re.findall(r"^```mermaid\n(.*?)\n^```$", page, re.DOTALL | re.MULTILINE)
    names = [re.search(r'subgraph "(\w+) \(Dataflow\)"', picture) for picture in pictures]
    return {name[1]: picture for name, picture in zip(names, pictures, strict=True) if name}


def test_every_flow_has_its_picture() -> None:
    assert set(described()) == set(BUILDS)
    shipped = {path.stem for path in (ROOT / "flows").glob("*.py") if "def build(" in path.read_text(encoding="utf-8")}
    assert shipped == set(BUILDS)


@pytest.mark.parametrize("name", BUILDS)
def test_the_pictures_are_what_bytewax_draws(name: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    assert to_mermaid(BUILDS[name](settings)) == described()[name]
    assert not settings.data.exists(), "building a flow opens nothing"


def test_building_a_users_flow_opens_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "venice.toml"
    flow = Dataflow("mine")
    kafka = operators.kafka_in("orders", flow, "nowhere.invalid:9092", "orders")
    changes = operators.changelog("clicks", flow, missing, "clicks", start="tail")
    rows = operators.lookup("flights", changes, missing, "flights", key=lambda item: item[0], via="davinci")
    op.output("rows", rows, StdOutSink())
    op.output("faults", kafka.errs, StdOutSink())
    operators.write("write", kafka.oks, missing, "orders")
    steps = re.findall(r'\["(\w+) \(', to_mermaid(flow))
    assert steps == ["orders", "orders_decode", "orders_split", "orders_key", "clicks", "flights", "rows", "faults", "write"]


@pytest.mark.parametrize("name", BUILDS)
def test_bytewax_runs_them(name: str, make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings()
    (tmp_path / "venice.toml").write_text(f'data = "{settings.data}"\n', encoding="utf-8")
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "bytewax.run", f'venice_flows.{name}:build("venice.toml")'],
            cwd=tmp_path, env=environment(settings), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        eventually(
            lambda: process.poll() is not None or healthy(f"http://127.0.0.1:{settings.worker_port}/health"),
            lambda: output.read_text(encoding="utf-8"),
            timeout_s=60,
        )
        assert process.poll() is None, output.read_text(encoding="utf-8")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, output.read_text(encoding="utf-8")
    finally:
        process.kill()
        process.wait()
