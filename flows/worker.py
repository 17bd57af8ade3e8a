"""Dataflow: everything a worker runs, composed into one."""

from __future__ import annotations

from pathlib import Path

from bytewax.dataflow import Dataflow

from venice.config import Settings, load
from venice.node import WorkerRuntime
from venice_flows import active_active, ingest


def build(settings: Settings | Path | str | None = None, worker: int = 0) -> Dataflow:
    """The dataflow of one worker process. Arguments as `venice_flows.ingest.build`."""
    flow = Dataflow("worker")
    runtime = WorkerRuntime(settings if isinstance(settings, Settings) else load(settings), worker)
    ingest.steps(flow, runtime)
    active_active.steps(flow, runtime)
    return flow
