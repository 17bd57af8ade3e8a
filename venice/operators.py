"""Public Bytewax operators and connectors over Venice stores; our own flows are built from them.

Items that travel are *batches keyed by replica*, never single records: a record costs far less than an item.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from venice.leaders import Merged
from venice.log import Entry
from venice.node import WorkerRuntime

POLL_S = 0.01
"""How long the source waits for records before it lets the dataflow look at its other steps."""

ReplicaBatch = tuple[str, list[Entry]]
"""(replica name, its next version-topic entries in offset order)."""

RealTimeBatch = tuple[str, int, list[Entry]]
"""(name of the replica that leads, region, next real-time entries of one partition in offset order)."""


def run(flow: Dataflow) -> None:
    """Run a dataflow in this process and thread until its sources end."""
    cli_main(flow)  # type: ignore[no-untyped-call]  # Bytewax has no types for it


def version_topics(step_id: str, flow: Dataflow, runtime: WorkerRuntime) -> KeyedStream[ReplicaBatch]:
    """The version topics of all replicas the worker holds, from where each was folded to, keyed by replica.

    The worker is started when the dataflow runs and closed when it ends; assignments may change in between.
    """
    return op.input(step_id, flow, _VersionTopics(runtime))


def fold(step_id: str, up: KeyedStream[ReplicaBatch], runtime: WorkerRuntime) -> KeyedStream[int]:
    """Fold each batch into its replica: records, offset and vector in one write. Emits the data records applied."""
    return op.stateful_batch(step_id, up, lambda state: _Fold(runtime))


def real_time_topics(step_id: str, flow: Dataflow, runtime: WorkerRuntime) -> KeyedStream[RealTimeBatch]:
    """The real-time topics of the partitions the worker leads, from the folded vector of each, keyed by replica.

    The runtime is started by `version_topics`, which the same flow must have: who leads also folds.
    """
    return op.input(step_id, flow, _RealTimeTopics(runtime))


def merge(step_id: str, up: KeyedStream[RealTimeBatch], runtime: WorkerRuntime) -> KeyedStream[Merged]:
    """Resolve each batch against the replica and the images not yet folded. Emits the version-topic records to append."""
    return op.stateful_batch(step_id, up, lambda state: _Merge(runtime))


def append(step_id: str, up: KeyedStream[Merged], runtime: WorkerRuntime) -> None:
    """Append merged records to their version topic, acknowledged before the next batch."""
    op.output(step_id, up, _VersionTopicSink(runtime))


def discard(step_id: str, up: KeyedStream[int]) -> None:
    """End a stream whose effects have happened already."""
    op.output(step_id, up, _Discard())


class _VersionTopics(DynamicSource[tuple[str, ReplicaBatch]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _VersionTopicsPartition:
        # One process owns its replicas alone, so they are never spread over several Bytewax workers.
        assert worker_count == 1, "a worker process runs one Bytewax worker; start more worker processes instead"
        self._runtime.start()
        return _VersionTopicsPartition(self._runtime)


class _VersionTopicsPartition(StatelessSourcePartition[tuple[str, ReplicaBatch]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def next_batch(self) -> Iterable[tuple[str, ReplicaBatch]]:
        if self._runtime.stopping.is_set():
            raise StopIteration
        return [(name, (name, entries)) for name, entries in self._runtime.poll(timeout_s=POLL_S)]

    def next_awake(self) -> datetime | None:
        return None  # `poll` itself waits

    def close(self) -> None:
        self._runtime.close()


class _Fold(StatefulBatchLogic[ReplicaBatch, int, None]):
    """Stateless for Bytewax: the replica's own storage is the checkpoint, written with the records."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def on_batch(self, values: list[ReplicaBatch]) -> tuple[Iterable[int], bool]:
        # The builder is not told its key, so each batch carries its replica's name. Not retained: no state to keep.
        return [self._runtime.fold(name, entries) for name, entries in values], StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        return None


class _RealTimeTopics(DynamicSource[tuple[str, RealTimeBatch]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _RealTimeTopicsPartition:
        return _RealTimeTopicsPartition(self._runtime)


class _RealTimeTopicsPartition(StatelessSourcePartition[tuple[str, RealTimeBatch]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def next_batch(self) -> Iterable[tuple[str, RealTimeBatch]]:
        if self._runtime.stopping.is_set():
            raise StopIteration
        return [(batch[0], batch) for batch in self._runtime.poll_real_time()]

    def next_awake(self) -> datetime | None:
        return None  # the version topics' source, in the same loop, waits for both


class _Merge(StatefulBatchLogic[RealTimeBatch, Merged, None]):
    """Stateless for Bytewax: a session that is lost is begun anew from the folded vector."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def on_batch(self, values: list[RealTimeBatch]) -> tuple[Iterable[Merged], bool]:
        merged = (self._runtime.merge(name, region, entries) for name, region, entries in values)
        return [one for one in merged if one is not None], StatefulBatchLogic.DISCARD

    def snapshot(self) -> None:
        return None


class _VersionTopicSink(DynamicSink[tuple[str, Merged]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _VersionTopicSinkPartition:
        return _VersionTopicSinkPartition(self._runtime)


class _VersionTopicSinkPartition(StatelessSinkPartition[tuple[str, Merged]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime

    def write_batch(self, items: list[tuple[str, Merged]]) -> None:
        for _, merged in items:
            self._runtime.append(merged)


class _Discard(DynamicSink[tuple[str, int]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _DiscardPartition:
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition[tuple[str, int]]):
    def write_batch(self, items: list[tuple[str, int]]) -> None:
        pass
