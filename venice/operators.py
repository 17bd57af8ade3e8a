"""Public Bytewax operators over stores: what users build their dataflows from, and what our own worker is built from.

Users': `changelog`, `write`, `lookup`, `kafka_in`, and `run`; `docs/write-a-dataflow.md` builds one. Building a flow opens
nothing; what a step needs is opened when the flow runs.

The worker's: `version_topics` → `fold` and `real_time_topics` → `merge` → `append`. The items that travel between those are
*batches keyed by replica*, never single records: a record costs far less than an item.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar, cast

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import KeyedStream, StatefulBatchLogic
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

from venice.client.changes import Change, Delete, Put, Start, key_text
from venice.client.lookup import Lookup
from venice.connectors import STOPPING, AnySettings, ChangeSource, WriteSink
from venice.errors import InvalidRequest, VeniceError
from venice.leaders import Merged
from venice.log import Entry
from venice.node import WorkerRuntime
from venice.processes import on_stop_signal

if TYPE_CHECKING:
    from venice.kafka_connector import KafkaFault
    from venice.schema.confluent import Schemas

__all__ = [
    "Change",
    "Delete",
    "KafkaOut",
    "Put",
    "append",
    "changelog",
    "discard",
    "fold",
    "kafka_in",
    "key_text",
    "lookup",
    "merge",
    "real_time_topics",
    "run",
    "version_topics",
    "write",
]

X = TypeVar("X")

RECOVERY_PARTS = 4
"""Files of a recovery folder: as many threads can write to it at a time."""

POLL_S = 0.01
"""How long the source waits for records before it lets the dataflow look at its other steps."""

IDLE_POLL_S = 0.05
"""The same after a second or so in which nothing was written: so long the first write waits for being merged."""

FOLLOWING_POLL_S = 0.2
"""The same in a worker that leads nothing: new entries end the wait, so only what is wanted of the worker has to wait for it."""

ReplicaBatch = tuple[str, Sequence[Entry]]
"""(replica name, its next version-topic entries in offset order)."""

RealTimeBatch = tuple[str, int, list[Entry]]
"""(name of the replica that leads, region, next real-time entries of one partition in offset order)."""


def run(flow: Dataflow, *, threads: int = 1, recovery: Path | None = None, snapshot_s: float = 10.0) -> None:
    """Run a dataflow in this process until its sources end, which those of this module do at SIGTERM and SIGINT.

    Args:
        flow: The dataflow. One of a Venice worker runs in one thread.
        threads: Bytewax workers of this process; more than one share out the parts of sources and the keys of streams.
        recovery: Folder in which Bytewax keeps the state of the flow; it is made if it is missing. None: nothing is kept,
            and the flow begins anew each time.
        snapshot_s: How often the state is kept, in seconds.

    Raises:
        VeniceError: What ended a step, without Bytewax's account of it.
    """
    kept = _recovery(recovery) if recovery is not None else None
    STOPPING.clear()
    on_stop_signal(STOPPING.set)
    try:
        cli_main(  # type: ignore[no-untyped-call]  # Bytewax has no types for it
            flow, workers_per_process=threads, epoch_interval=timedelta(seconds=snapshot_s), recovery_config=kept
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, VeniceError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def _recovery(folder: Path) -> RecoveryConfig:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            # All of its files or none: Bytewax refuses a folder that lacks some.
            made = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            init_db_dir(made, RECOVERY_PARTS)  # type: ignore[no-untyped-call]  # as above
            made.rename(folder)
    except OSError as error:
        raise InvalidRequest(f"{folder} cannot keep a flow's state: {error.strerror}", hint="name a folder of its own") from error
    return RecoveryConfig(str(folder))  # type: ignore[no-untyped-call]  # as above


def changelog(step_id: str, flow: Dataflow, settings: AnySettings, store: str, start: Start = "beginning") -> KeyedStream[Change]:
    """The changes of a hybrid store, keyed by the text of their key: every write that its leaders accepted, in order for each key.

    Rows of a push are no changes. Each is delivered at least once: after a crash from the last snapshot of a flow that
    has a recovery folder, from `start` without one, and what a push replays is delivered again when its version is swapped
    in. Another version is followed as soon as it is current. Of what was trimmed before it was read, the last write of each key
    is delivered.

    Args:
        step_id: Name of the step.
        flow: What it belongs to.
        settings: Settings, or the path of a `venice.toml`.
        store: A hybrid store.
        start: `"beginning"` of the current version, `"tail"` (only what comes), or what the log took since, in milliseconds.
    """
    return op.input(step_id, flow, ChangeSource(settings, store, start))


def write(step_id: str, up: KeyedStream[Put | Delete], settings: AnySettings, store: str) -> None:
    """Write to a hybrid store, acknowledged before the next batch.

    The items say when each write happened. So a flow that is replayed after a crash writes the same again, which changes nothing.

    Args:
        step_id: Name of the step.
        up: What to write; the keys of the stream are for Bytewax alone.
        settings: Settings, or the path of a `venice.toml`.
        store: A hybrid store.
    """
    op.output(step_id, up, WriteSink(settings, store))


def lookup(
    step_id: str,
    up: Stream[X],
    settings: AnySettings,
    store: str,
    key: Callable[[X], Any] = lambda item: item,
    via: str = "thin",
    fields: Sequence[str] | None = None,
) -> Stream[tuple[X, Any]]:
    """Each item with its row of a store, or None: one `batch_get` for each batch of items.

    Args:
        step_id: Name of the step.
        up: Items.
        settings: Settings, or the path of a `venice.toml`.
        store: Where to look.
        key: The key to look up for an item; None looks nothing up.
        via: `"thin"`, by the router; `"fast"`, straight from the workers; or `"davinci"`, in a replica of its own that each process
            of the flow keeps.
        fields: Of the row; default: all.

    Raises:
        InvalidRequest: There is no such way.
    """
    return op.flat_map_batch(step_id, up, Lookup(settings, store, f"{up.flow().flow_id}.{step_id}", key, via, fields))


@dataclass(frozen=True)
class KafkaOut:
    """What a Kafka topic gives."""

    oks: KeyedStream[Put | Delete]
    """Keyed by the text of their key, with the time Kafka gives the message: `write` takes them as they are."""
    errs: Stream[KafkaFault]
    """What could not be read or decoded. It goes nowhere until you connect it to an output."""


def kafka_in(
    step_id: str,
    flow: Dataflow,
    servers: str,
    topic: str,
    *,
    start: Start = "beginning",
    decode: Literal["json", "avro-confluent"] = "json",
    schema: Schemas | None = None,
    decode_key: Literal["text", "json", "avro-confluent"] = "text",
    key_schema: Schemas | None = None,
    registry: str | None = None,
) -> KafkaOut:
    """A Kafka topic of your own as puts and deletes (messages without a value), each partition in its order, at least once.

    Args:
        step_id: Name of the step.
        flow: What it belongs to.
        servers: HOST:PORT of one or more brokers, comma-separated.
        topic: An existing topic.
        start: `"beginning"`, `"tail"` (only what comes), or milliseconds since the epoch.
        decode: How values are written: JSON, or Avro as clients of a Confluent Schema Registry frame it.
        schema: What framed values were written with: one schema for all, or one for each schema id.
        decode_key: How keys are.
        key_schema: What framed keys were written with.
        registry: URL of the schema registry that knows the schemas of framed keys and values, where they are not given: the
            controller, whose ids are those of its stores' schemas, or any other.

    Raises:
        InvalidRequest: There is no such way to decode, or a schema is missing or is none.
    """
    # It brings a Kafka client and its metrics, which only flows that read Kafka themselves need.
    from venice.kafka_connector import KafkaMessages, message_decoder

    messages = op.input(step_id, flow, KafkaMessages(servers, topic, start))
    decoded = op.map(f"{step_id}_decode", messages, message_decoder(decode_key, decode, key_schema, schema, registry))
    branched = op.branch(f"{step_id}_split", decoded, _is_write)
    return KafkaOut(
        op.key_on(f"{step_id}_key", branched.trues, lambda write: key_text(write.key)), cast("Stream[KafkaFault]", branched.falses)
    )


def _is_write(item: Put | Delete | KafkaFault) -> TypeGuard[Put | Delete]:
    return isinstance(item, (Put, Delete))


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
    """Append merged records to their version topics; merging goes on while the log takes them."""
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
        # What is there now stays. The collector would go through all of it again and again, while records and reads wait.
        gc.freeze()
        return _VersionTopicsPartition(self._runtime)


class _VersionTopicsPartition(StatelessSourcePartition[tuple[str, ReplicaBatch]]):
    def __init__(self, runtime: WorkerRuntime) -> None:
        self._runtime = runtime
        self._wait_s = POLL_S

    def next_batch(self) -> Iterable[tuple[str, ReplicaBatch]]:
        if self._runtime.stopping.is_set():
            raise StopIteration
        batches = self._runtime.poll(timeout_s=self._wait_s)
        # A worker that nobody writes to looks at its real-time topics and at what is wanted of it less and less often.
        idle_s = IDLE_POLL_S if self._runtime.leads else FOLLOWING_POLL_S
        self._wait_s = POLL_S if self._runtime.merging else min(self._wait_s * 1.05, idle_s)
        return [(name, (name, entries)) for name, entries in batches]

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
        self._runtime.append([merged for _, merged in items])


class _Discard(DynamicSink[tuple[str, int]]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _DiscardPartition:
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition[tuple[str, int]]):
    def write_batch(self, items: list[tuple[str, int]]) -> None:
        pass
