"""A hybrid version in a log, without a controller, and its worker in this process: what benchmarks of the hybrid path share."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bytewax.dataflow import Dataflow
from producer_kit import Site, make_site

from venice.config import Settings
from venice.log import Log
from venice.model import Assignment, Leadership, ReplicaReport, ReplicaState, StartOffset, Version, VersionStatus
from venice.naming import version_topic
from venice.node import WorkerRuntime
from venice.operators import run
from venice.processes import worker_id
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, PartitionFile, file_name
from venice.storage.sealed import PartitionWriter, seal
from venice_flows import active_active, ingest

REGION = 0
SESSION = 77
LOOK_S = 0.02


@dataclass
class HybridVersion:
    """Version 1 of a store that began empty."""

    site: Site
    version: Version

    @property
    def topic(self) -> str:
        return version_topic(self.site.store.name, 1)

    def remove(self) -> None:
        self.site.log.delete_topic(self.topic)
        self.site.remove()

    def hold(self, worker: str, *, lead: bool) -> None:
        """Have the catalog say that the worker holds all partitions, and leads them or not."""
        count = self.version.partition_count
        leaders = (Leadership(worker=worker, term=1),) * count if lead else ()
        self.site.write(
            Assignment(store=self.site.store.name, version=1, replicas=((worker,),) * count, leaders=leaders),
        )


def make_version(log: Log, url: str, folder: Path, partitions: int, rows: Sequence[bytes] = ()) -> HybridVersion:
    """A version whose snapshot holds `rows`, ascending keys, in each of its partitions."""
    site = make_site(log, url, partitions=partitions)
    name = site.store.name
    topic_id = log.create_topic(version_topic(name, 1), partitions)
    blobs = folder / f"{name}-blobs"
    blobs.mkdir()
    files = tuple(_sorted_file(blobs, partition, rows) for partition in range(partitions)) if rows else ()
    manifest = Manifest(store=name, version=1, partition_count=partitions, created_ms=1, value_schema_id=1, files=files)
    version = Version(
        number=1,
        push_id="bench",
        status=VersionStatus.ONLINE,
        partition_count=partitions,
        replication_factor=1,
        topic_id=topic_id,
        created_ms=1,
        status_ms=1,
        snapshot=seal(blobs, manifest),
        value_schema_id=1,
        hybrid=site.store.hybrid,
        real_time_partitions=partitions,
        start_offsets=tuple(StartOffset(region=REGION, partition=p, next_offset=0) for p in range(partitions)),
    )
    site.change(versions=(version,), current=1, largest_version=1)
    return HybridVersion(site, version)


def _sorted_file(blobs: Path, partition: int, keys: Sequence[bytes]) -> PartitionFile:
    writer = PartitionWriter(blobs / file_name(partition))
    stored = encode_value(1, b"pushed")
    for key in keys:
        writer.put(key, stored)
    return writer.finish(partition)


def keys_by_partition(count: int, partitions: int) -> list[list[bytes]]:
    """So many keys of the store, by partition; each is the encoded form of a string."""
    found: list[list[bytes]] = [[] for _ in range(partitions)]
    for number in range(count):
        text = b"user %09d" % number
        key = bytes([2 * len(text)]) + text
        found[partition_of(key, partitions)].append(key)
    return found


def leader_records(partition: int, keys: Sequence[bytes], value: bytes, count: int) -> list[bytes]:
    """What a leader would append: its declaration, `count` puts that go round the keys, and that it has caught up."""
    payloads = [encode(Record(Kind.DECLARE_LEADERSHIP, timestamp_ms=1, term=1, session=SESSION))]
    for number in range(1, count + 2):
        put = number <= count
        payloads.append(
            encode(
                Record(
                    Kind.PUT if put else Kind.CAUGHT_UP,
                    key=keys[number % len(keys)] if put else b"",
                    value=value if put else b"",
                    schema_id=1 if put else 0,
                    origin=Origin.REAL_TIME,
                    timestamp_ms=number,
                    region=REGION,
                    term=1,
                    session=SESSION,
                    sequence=number,
                    vector=((REGION, partition, number),),
                )
            )
        )
    return payloads


def append_all(log: Log, topic: str, partition: int, payloads: Sequence[bytes], batch: int = 5000) -> None:
    for start in range(0, len(payloads), batch):
        log.append(topic, partition, payloads[start : start + batch])


class LocalWorker:
    """A worker of its own name: the true dataflow, in the main thread of this process, until it is told to stop."""

    def __init__(self, url: str, folder: Path) -> None:
        self.settings = Settings(
            log=url, data=folder / "data", node=f"bench{os.urandom(4).hex()}", worker_port=_free_port(), retire_grace_s=0.1
        )
        self.id = worker_id(self.settings, 0)
        self.runtime = WorkerRuntime(self.settings, 0)

    def run_beside(self, beside: Callable[[LocalWorker], None]) -> None:
        """Run the worker's dataflow while `beside`, in a thread, does something; its end stops the worker."""
        failure: list[BaseException] = []

        def watch() -> None:
            try:
                beside(self)
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                failure.append(error)
            finally:
                self.runtime.stopping.set()

        flow = Dataflow("bench")
        ingest.steps(flow, self.runtime)
        active_active.steps(flow, self.runtime)
        thread = threading.Thread(target=watch, name="beside")
        thread.start()
        run(flow)
        thread.join()
        if failure:
            raise failure[0]

    def reports(self) -> tuple[ReplicaReport, ...]:
        """Empty until the worker has started."""
        replicas = getattr(self.runtime, "_replicas", None)
        return replicas.reports() if replicas is not None else ()

    def until_folded(self, replicas: int, records: int, timeout_s: float = 120.0) -> float:
        """Wait until so many replicas have folded so many version-topic records between them.

        Returns:
            Records per second, from the first look that saw some folded and all replicas attached.
        """
        deadline_s = time.perf_counter() + timeout_s
        first: tuple[float, int] | None = None
        while time.perf_counter() < deadline_s:
            reports = self.reports()
            folded = sum(report.next_offset for report in reports)
            now_s = time.perf_counter()
            if first is None and folded and sum(report.state is not ReplicaState.ATTACHING for report in reports) == replicas:
                first = now_s, folded
            elif first is not None and folded >= records:
                return (folded - first[1]) / (now_s - first[0])
            time.sleep(LOOK_S)  # each look is a figure, so it is not `eventually`
        raise TimeoutError(f"{self.reports()} have not folded {records} records")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
