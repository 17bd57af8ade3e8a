"""The dataflow of docs/write-a-dataflow.md, killed again and again: its counts are exact in the end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import waiting

from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.remote import ControllerClient
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster

eventually = partial(waiting.eventually, timeout_s=90)
ROOT = Path(__file__).resolve().parent.parent.parent
CODE_LINES_MAX = 25
CLICKS = 3000
DESTINATIONS = ["IAH", "MIA", "BOS", "LAX", "SFO", "ATL", "ORD"]
KILLED_AT = (0.1, 0.4, 0.8)
"""Shares of all clicks that are counted when the flow is killed."""


def code() -> str:
    page = (ROOT / "docs" / "write-a-dataflow.md").read_text(encoding="utf-8")
    found = re.search(r"cat > my_app/flow\.py <<'END'\n(.*?)^END$", page, re.DOTALL | re.MULTILINE)
    assert found is not None, "the page writes my_app/flow.py"
    return found[1]


class Worker:
    """`venice worker run my_app.flow:build`, as a process that can be killed."""

    def __init__(self, folder: Path, settings: Settings, options: list[str]) -> None:
        (folder / "my_app").mkdir(exist_ok=True)
        (folder / "my_app" / "flow.py").write_text(code(), encoding="utf-8")
        self.output = folder / "flow.log"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "venice.cli", "worker", "run", "my_app.flow:build", *options],
                cwd=folder,
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def runs(self) -> bool:
        assert self.process.poll() is None, self.output.read_text(encoding="utf-8")
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def make_stores(settings: Settings) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    for store, (field, type_, hybrid) in {
        "flights": ("dest", "string", None),
        "clicks": ("flight", "string", HybridConfig()),
        "counts": ("clicks", "long", HybridConfig()),
    }.items():
        schema = json.dumps({"type": "record", "name": "Row", "fields": [{"name": field, "type": type_}]})
        controller.create_store(store, key_schema='"string"', value_schema=schema, config=StoreConfig(partition_count=4), hybrid=hybrid)
    flights = ", ".join(f"('flight {number}', '{DESTINATIONS[number % len(DESTINATIONS)]}')" for number in range(100))
    push(settings, "flights", sql=f"SELECT * FROM (VALUES {flights}) AS t(key, dest)")
    push(settings, "clicks", sql="SELECT '' AS key, '' AS flight WHERE false")
    push(settings, "counts", sql="SELECT '' AS key, 0::BIGINT AS clicks WHERE false")


def test_the_page_keeps_its_promise() -> None:
    lines = [line for line in code().splitlines() if line.strip()]
    assert len(lines) <= CODE_LINES_MAX


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--threads", "1"], id="1-worker"),
        pytest.param(["--threads", "2"], id="2-workers"),
        pytest.param(["--threads", "2", "--recovery", "state", "--snapshot-s", "0.5"], id="2-workers-with-state"),
    ],
)
def test_counts_are_exact_however_often_the_flow_is_killed(
    start_cluster: Callable[..., Cluster], tmp_path: Path, stack: ExitStack, options: list[str]
) -> None:
    settings = start_cluster().settings
    make_stores(settings)
    expected: Counter[str] = Counter()
    with Producer(settings, "clicks") as clicks:
        for number in range(CLICKS):
            flight = number * 31 % 110  # some are unknown
            clicks.put(f"click {number}", {"flight": f"flight {flight}"})
            if flight < 100:
                expected[DESTINATIONS[flight % len(DESTINATIONS)]] += 1
    counts = stack.enter_context(ThinClient(settings.router_url, "counts"))

    def counted() -> dict[str, int]:
        return {dest: row["clicks"] for dest, row in counts.batch_get(DESTINATIONS).items()}

    for share in KILLED_AT:
        worker = Worker(tmp_path, settings, options)
        stack.callback(worker.kill)
        eventually(lambda: worker.runs() and sum(counted().values()) >= share * expected.total(), lambda: (share, counted()))  # noqa: B023 - waited for right here
        worker.kill()
    worker = Worker(tmp_path, settings, options)
    stack.callback(worker.kill)
    eventually(lambda: worker.runs() and counted() == expected, lambda: (counted(), expected))
    # One more click is counted once: the flow is at the end of its input, and nothing before it was lost or counted twice.
    with Producer(settings, "clicks") as clicks:
        clicks.put("the last click", {"flight": "flight 0"})
    expected[DESTINATIONS[0]] += 1
    eventually(lambda: worker.runs() and counted() == expected, lambda: (counted(), expected))
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(30) == 0, worker.output.read_text(encoding="utf-8")
    assert counted() == expected
