"""Versions made of the one that serves, while it is written: nothing acknowledged is lost, deleted keys stay deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from streaming import KEYS, STREAMED, VALUE_SCHEMA, Watch, eventually, holds, pushed, shows, streaming

from venice.client.changes import ChangeFeed, ChangeReader
from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.model import HybridConfig, StoreConfig, Version
from venice.push.batch import push
from venice.push.repush import repush
from venice.supervisor import Cluster

GONE = range(200, 210)
"""Rows of the push that are deleted before it is repushed."""


@pytest.fixture
def cluster(log_url: str, make_settings: Callable[..., Settings]) -> Iterator[Cluster]:
    """A cluster of one node with two workers."""
    running = Cluster(make_settings(workers=2).model_copy(update={"log": log_url}))
    running.start()
    yield running
    running.stop()


class Listener:
    """Reads the changes of the store in a thread, across its versions."""

    def __init__(self, settings: Settings) -> None:
        self.counts: set[int] = set()
        self.deleted: set[int] = set()
        self.errors: list[BaseException] = []
        self._feed = ChangeFeed(settings.log_url, "counts", SystemClock())
        self._readers = [ChangeReader(self._feed, part, None, "beginning") for part in range(self._feed.parts)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for reader in self._readers:
            reader.close()
        self._feed.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                for change in (change for reader in self._readers for change in reader.read()):
                    if change.value is None:
                        self.deleted.add(change.key)
                    else:
                        self.counts.add(change.value["n"])
                self._stop.wait(0.01)
        except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
            self.errors.append(error)


def test_repushes_underneath_a_stream_lose_no_write(cluster: Cluster) -> None:
    settings = cluster.settings
    controller = ControllerClient(settings.controller_url, SystemClock(), retry_s=30)
    # Nothing is replayed onto a version because it was written lately: only what a repush itself says.
    config, hybrid = StoreConfig(partition_count=4), HybridConfig(rewind_s=0, lag_records_max=10)
    controller.create_store("counts", key_schema='"long"', value_schema=VALUE_SCHEMA, config=config, hybrid=hybrid)
    push(settings, "counts", sql=pushed(1))
    with (
        ThinClient(settings.router_url, "counts") as thin,
        DaVinciClient(settings, "counts") as davinci,
        Producer(settings, "counts") as producer,
        closing(Listener(settings)) as listener,
        streaming(settings, 1) as stream,
    ):
        for key in GONE:
            producer.delete(key).result(60)
        eventually(lambda: len(stream.acknowledged) == len(STREAMED), lambda: stream.errors)
        floor = dict(stream.acknowledged)
        for client in (thin, davinci):
            eventually(lambda: all(shows(client.batch_get(floor).get(key), n) for key, n in floor.items()), lambda: floor)  # noqa: B023 - waited for right here
        with Watch(thin, floor) as through_router, Watch(davinci, floor) as at_home:
            assert repush(settings, "counts", partitions=6).version == 2
            second = controller.get_version("counts", 2).version
            assert repush(settings, "counts", partitions=3, compression="zstd").version == 3
            eventually(lambda: davinci.version == 3, lambda: davinci.version)
            reads = through_router.reads, at_home.reads
            eventually(lambda: through_router.went_on(reads[0]) and at_home.went_on(reads[1]), lambda: reads)
        assert through_router.faults == at_home.faults == []
        _is_bounded(second)
        expected = {**stream.settle(), **dict.fromkeys(GONE)}
        for client in (thin, davinci):
            eventually(holds(client, expected, "push 1"), lambda: controller.get_version("counts", 3))
        assert controller.get_version("counts", 3).version.partition_count == 3
        # What is late loses to what the rows and tombstones of the first version say, three versions on.
        for key in (*GONE, *STREAMED):
            producer.put(key, {"source": "late", "n": 0}, timestamp_ms=1).result(60)
        producer.put(KEYS, {"source": "stream", "n": -1}).result(60)
        for client in (thin, davinci):
            eventually(lambda: client.get(KEYS) is not None and holds(client, expected, "push 1")(), lambda: client.batch_get(range(KEYS)))  # noqa: B023 - waited for right here
        every = set(range(1, max(stream.acknowledged.values()) + 1))
        eventually(
            lambda: bool(listener.errors) or (listener.counts >= every and listener.deleted >= {*GONE}), lambda: every - listener.counts
        )
        assert listener.errors == []


def _is_bounded(version: Version) -> None:
    """It reads on from where the rows that it was made of end."""
    starts = {at.partition: at.next_offset for at in version.start_offsets}
    ends = {at.partition: at.next_offset for at in version.held_offsets}
    assert sorted(starts) == sorted(ends) == list(range(4))
    assert all(0 < starts[partition] <= ends[partition] for partition in starts), (starts, ends)
