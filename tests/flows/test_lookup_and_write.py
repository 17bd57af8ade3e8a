"""Rows for batches of items, writes that say when they happened, and what a user sees of a flow that fails."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow, Stream
from bytewax.testing import TestingSink, TestingSource
from waiting import eventually

from venice import operators
from venice.client.davinci import DaVinciClient
from venice.client.lookup import Lookup
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, environment
from venice.control.remote import ControllerClient
from venice.errors import InvalidRequest, NotFound
from venice.model import HybridConfig, StoreConfig
from venice.operators import Delete, Put
from venice.push.batch import push
from venice.supervisor import Cluster

SCHEMA = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "n", "type": "long"}, {"name": "text", "type": "string"}]})


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A flow takes the process's signals for itself; this process goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(start_cluster: Callable[..., Cluster]) -> Settings:
    """Of a cluster with a hybrid store of 20 rows."""
    found = start_cluster().settings
    controller = ControllerClient(found.controller_url, SystemClock(), retry_s=30)
    config = StoreConfig(partition_count=2)
    controller.create_store("rows", key_schema='"long"', value_schema=SCHEMA, config=config, hybrid=HybridConfig())
    push(found, "rows", sql="SELECT i AS key, 10 * i AS n, 'pushed' AS text FROM range(20) t(i)")
    return found


def test_each_item_gets_its_row(settings: Settings) -> None:
    items: list[dict[str, Any]] = [{"id": 3}, {"id": 99}, {"id": None}, {"id": 3}, {"id": 4}]
    for via in ("thin", "fast", "davinci"):
        found: list[Any] = []
        flow = Dataflow("enrich")
        source = op.input("items", flow, TestingSource(items, batch_size=5))
        rows = operators.lookup("rows", source, settings, "rows", key=lambda item: item["id"], via=via, fields=["n"])
        op.output("out", rows, TestingSink(found))
        operators.run(flow)
        assert found == [({"id": 3}, {"n": 30}), ({"id": 99}, None), ({"id": None}, None), ({"id": 3}, {"n": 30}), ({"id": 4}, {"n": 40})]
        del flow, source, rows
    gc.collect()
    # Closed with its flow: the replica's folder can be used again.
    DaVinciClient(settings, "rows", folder=settings.data / "davinci" / "enrich.rows.rows").close()


def test_many_keys_are_asked_for_in_batches_that_routers_take(settings: Settings) -> None:
    rows = Lookup[int](settings, "rows", "step", lambda item: item, "thin", None)(list(range(12_000)))
    assert [(item, row and row["n"]) for item, row in rows[:21]] == [(i, 10 * i) for i in range(20)] + [(20, None)]
    assert len(rows) == 12_000


def test_lookups_that_cannot_work_are_refused(settings: Settings) -> None:
    def lookup(via: str = "thin", fields: Any = None, key: Callable[[int], Any] = lambda item: item) -> Lookup[int]:
        return Lookup(settings, "rows", "step", key, via, fields)

    with pytest.raises(InvalidRequest, match="via 'router'"):
        lookup(via="router")
    with pytest.raises(InvalidRequest, match="one text"):
        lookup(fields="n")
    with pytest.raises(InvalidRequest, match="no field 'm'"):
        lookup(fields=["m"])([1])
    with pytest.raises(InvalidRequest, match="grouped"):
        lookup(key=lambda item: {"id": item})([1])
    with pytest.raises(NotFound):
        Lookup[int](settings, "missing", "step", lambda item: item, "thin", None)([1])


def write_flow(settings: Settings, items: list[Put | Delete]) -> Dataflow:
    flow = Dataflow("write")
    source: Stream[Put | Delete] = op.input("items", flow, TestingSource(items, batch_size=2))
    operators.write("rows", op.key_on("key", source, lambda item: operators.key_text(item.key)), settings, "rows")
    return flow


def test_a_replay_changes_nothing(settings: Settings) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"n": n, "text": "written"}

    items: list[Put | Delete] = [Put(1, row(1), 1000), Put(2, row(2), 1000), Put(1, row(3), 3000), Put(1, row(4), 2000), Delete(2, 4000)]
    expected = {1: row(3), 3: row(5)}
    with ThinClient(settings.router_url, "rows") as client:
        for _ in range(2):
            operators.run(write_flow(settings, [*items, Put(3, row(5), 1)]))
        operators.run(write_flow(settings, [Put(4, row(6), 1)]))
        eventually(
            lambda: dict(client.batch_get([1, 2, 3])) == expected and client.get(4) == row(6),
            lambda: client.batch_get([1, 2, 3, 4]),
            timeout_s=60,
        )


def test_a_write_that_does_not_fit_names_its_step_and_key(settings: Settings) -> None:
    with pytest.raises(InvalidRequest, match=r"write\.rows cannot write key 7: .*text"):
        operators.run(write_flow(settings, [Put(7, {"n": 1}, 1)]))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_flow_that_fails_ends_with_one_sentence(make_settings: Callable[..., Settings], tmp_path: Path, threads: str) -> None:
    (tmp_path / "flow.py").write_text(
        "from bytewax.dataflow import Dataflow\nfrom venice.operators import changelog, write\n"
        "def build(settings, worker):\n    flow = Dataflow('mine')\n"
        "    write('out', changelog('in', flow, settings, 'nowhere'), settings, 'elsewhere')\n    return flow\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "venice.cli", "worker", "run", "flow:build", "--threads", threads],
        cwd=tmp_path, env=environment(make_settings()), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no store 'nowhere'" in done.stderr
    assert "Traceback" not in done.stderr
