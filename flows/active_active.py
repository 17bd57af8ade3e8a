"""Dataflow: merge the real-time topics of the partitions the worker leads into their version topics.

real_time_topics (source, keyed by replica) → merge → append
"""

from __future__ import annotations

from bytewax.dataflow import Dataflow

from venice import operators
from venice.node import WorkerRuntime


def steps(flow: Dataflow, runtime: WorkerRuntime) -> None:
    """Add the steps of this dataflow to `flow`, beside those of `venice_flows.ingest`: a leader folds what it appends."""
    batches = operators.real_time_topics("real_time_topics", flow, runtime)
    merged = operators.merge("merge", batches, runtime)
    operators.append("append", merged, runtime)
