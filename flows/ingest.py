"""Dataflow: fold the version topics of the worker's replicas into them.

version_topics (source, keyed by replica) → fold → end
"""

from __future__ import annotations

from pathlib import Path

from bytewax.dataflow import Dataflow

from venice import operators
from venice.config import Settings, load
from venice.node import WorkerRuntime


def build(settings: Settings | Path | str | None = None, worker: int = 0) -> Dataflow:
    """The ingestion dataflow of one worker; it also serves the worker's replicas while it runs.

    Args:
        settings: Settings or the path of a `venice.toml`; default: the one of the working folder.
        worker: Which of the node's workers this is, from 0.
    """
    flow = Dataflow("ingest")
    steps(flow, WorkerRuntime(settings if isinstance(settings, Settings) else load(settings), worker))
    return flow


def steps(flow: Dataflow, runtime: WorkerRuntime) -> None:
    """Add the steps of this dataflow to `flow`."""
    batches = operators.version_topics("version_topics", flow, runtime)
    folded = operators.fold("fold", batches, runtime)
    operators.discard("end", folded)
