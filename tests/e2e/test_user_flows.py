"""Dataflows of users as workers of a node: started with it, restarted when killed, shown by `venice doctor`, stopped in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import waiting

from venice.cli_doctor import Finding, examine
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Flow, Settings, environment
from venice.control.remote import ControllerClient
from venice.deployed import lives, read_state
from venice.model import HybridConfig, StoreConfig
from venice.push.batch import push
from venice.supervisor import Cluster, Supervisor, _add_flow

eventually = partial(waiting.eventually, timeout_s=90)
COUNTS = """
import bytewax.operators as op
from bytewax.dataflow import Dataflow

from venice.operators import Put, changelog, write


def build(settings, worker):
    flow = Dataflow("counts")
    clicks = changelog("clicks", flow, settings, "clicks")
    by_page = op.map("page", clicks, lambda item: (item[1].value["page"], 1))
    counts = op.stateful_map("count", by_page, lambda count, one: ((count or 0) + one,) * 2)
    puts = op.map("put", counts, lambda item: (item[0], Put(item[0], {"clicks": item[1]}, timestamp_ms=item[1])))
    write("write", puts, settings, "counts")
    return flow
"""

FINITE = """
import os
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource


def build(settings, worker):
    flow = Dataflow("finite")
    items = op.input("items", flow, TestingSource([1, 2, 3]))
    op.output("out", items, TestingSink([]))
    with Path("starts").open("a") as starts:
        starts.write(f"{os.getpid()}\\n")
    return flow
"""


def with_flow(settings: Settings, flow: Flow) -> Settings:
    return settings.model_copy(update={"flows": (flow,)})


def finding(settings: Settings, name: str) -> Finding:
    (found,) = [finding for finding in examine(lambda: settings) if finding.name == name]
    return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def supervised(tmp_path: Path, make_settings: Callable[..., Settings], stack: ExitStack) -> Callable[[Flow], Settings]:
    """Run a flow under a supervisor that has nothing else to do."""

    def run(flow: Flow) -> Settings:
        settings = with_flow(make_settings(), flow)
        supervisor = Supervisor(settings.data / "logs")
        _add_flow(supervisor, settings, flow)
        supervisor.start()
        stack.callback(supervisor.stop)
        return settings

    return run


def make_stores(settings: Settings) -> None:
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    for store, field, kind, empty in (("clicks", "page", "string", "''"), ("counts", "clicks", "long", "0::BIGINT")):
        schema = json.dumps({"type": "record", "name": "Row", "fields": [{"name": field, "type": kind}]})
        config = StoreConfig(partition_count=2)
        controller.create_store(store, key_schema='"string"', value_schema=schema, config=config, hybrid=HybridConfig())
        push(settings, store, sql=f"SELECT '' AS key, {empty} AS {field} WHERE false")


def click(settings: Settings, first: int, last: int) -> None:
    with Producer(settings, "clicks") as clicks:
        for number in range(first, last):
            clicks.put(f"click {number}", {"page": f"page {number % 5}"})


def test_a_killed_flow_is_started_again_and_counts_right(tmp_path: Path, make_settings: Callable[..., Settings], stack: ExitStack) -> None:
    (tmp_path / "my_counts.py").write_text(COUNTS, encoding="utf-8")
    flow = Flow(name="counts", target="my_counts:build", folder=tmp_path, snapshot_s=0.5)
    settings = with_flow(make_settings(), flow)
    cluster = Cluster(settings)
    cluster.start()
    stack.callback(cluster.stop)
    make_stores(settings)
    counts = stack.enter_context(ThinClient(settings.router_url, "counts"))

    def counted() -> int:
        return sum(row["clicks"] for row in counts.batch_get([f"page {page}" for page in range(5)]).values())

    killed: set[int] = set()

    def runs_anew() -> bool:
        state = read_state(settings, flow)
        return state is not None and state.state == "runs" and lives(state.process) and state.process not in killed

    for kills in range(3):
        click(settings, kills * 500, kills * 500 + 500)
        eventually(lambda: counted() == kills * 500 + 500, lambda: (counted(), (settings.data / "logs" / "flow-counts.log").read_text()))  # noqa: B023 - waited for right here
        state = read_state(settings, flow)
        assert state is not None
        assert state.process not in killed
        os.kill(state.process, signal.SIGKILL)
        killed.add(state.process)
        eventually(runs_anew)
    state = read_state(settings, flow)
    assert state is not None
    assert state.exit_code == -signal.SIGKILL
    eventually(lambda: finding(settings, "flow counts").state == "ok", lambda: finding(settings, "flow counts"))
    click(settings, 1500, 1600)
    eventually(lambda: counted() == 1600)
    assert "child=flow-counts code=-9" in (settings.data / "logs" / "node-1.log").read_text()

    state = read_state(settings, flow)
    assert state is not None
    cluster.stop()
    assert not lives(state.process)
    state = read_state(settings, flow)
    assert state is not None
    assert state.state == "stopped"
    assert finding(settings, "flow counts").state == "off"
    log = (settings.data / "logs" / "flow-counts.log").read_text()
    assert log.rstrip().splitlines()[-1].split()[3] == "process_stopped", "SIGTERM lets it end in order"
    assert "Traceback" not in log


def test_a_flow_that_cannot_run_is_tried_again_and_named(tmp_path: Path, supervised: Callable[[Flow], Settings]) -> None:
    flow = Flow(name="lost", target="no_such_module:build", folder=tmp_path)
    settings = supervised(flow)
    eventually(lambda: (state := read_state(settings, flow)) is not None and state.starts >= 2)
    eventually(lambda: finding(settings, "flow lost").state == "wrong")
    assert "logs/flow-lost.log" in finding(settings, "flow lost").fix
    log = (settings.data / "logs" / "flow-lost.log").read_text()
    assert "no module 'no_such_module'" in log
    assert "Traceback" not in log


def test_a_folder_that_is_gone_does_not_stop_the_supervisor(tmp_path: Path, supervised: Callable[[Flow], Settings]) -> None:
    flow = Flow(name="homeless", target="my_finite:build", folder=tmp_path / "gone")
    settings = supervised(flow)
    eventually(lambda: (state := read_state(settings, flow)) is not None and state.starts >= 2)
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "my_finite.py").write_text(FINITE, encoding="utf-8")
    eventually(lambda: (state := read_state(settings, flow)) is not None and state.state == "finished")
    assert "cannot be started" in (settings.data / "logs" / "flow-homeless.log").read_text()


def test_a_flow_at_the_end_of_its_input_is_not_started_again(
    tmp_path: Path, supervised: Callable[[Flow], Settings], stack: ExitStack
) -> None:
    (tmp_path / "my_finite.py").write_text(FINITE, encoding="utf-8")
    flow = Flow(name="finite", target="my_finite:build", folder=tmp_path, recovery=False)
    settings = supervised(flow)
    eventually(lambda: (state := read_state(settings, flow)) is not None and state.state == "finished")
    stack.close()
    assert len((tmp_path / "starts").read_text().split()) == 1
    assert finding(settings, "flow finite").state == "ok"
    assert not (settings.data / "flows" / "finite" / "recovery").exists()


def test_a_flow_does_not_outlive_its_node(tmp_path: Path, make_settings: Callable[..., Settings]) -> None:
    (tmp_path / "my_endless.py").write_text(COUNTS, encoding="utf-8")
    flow = Flow(name="endless", target="my_endless:build", folder=tmp_path)
    settings = with_flow(make_settings(), flow)
    node = subprocess.Popen([sys.executable, "-m", "venice.cli", "run", "node"], env=environment(settings), stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (state := read_state(settings, flow)) is not None and state.state == "runs")
        state = read_state(settings, flow)
        assert state is not None
    finally:
        node.kill()
        node.wait()
    eventually(lambda: not lives(state.process))
    assert finding(settings, "flow endless").state == "off"
