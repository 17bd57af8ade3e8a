"""A version made of another one, against a real cluster: other partitions and compression, writes streaming in, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from push_kit import LONG, record
from waiting import eventually

from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.control.remote import ControllerClient
from venice.errors import Conflict, InvalidRequest, NotFound
from venice.model import Compression, HybridConfig, StartOffset, StoreConfig, Version, VersionStatus
from venice.push.batch import push
from venice.push.progress import Event, Phase, PhaseEnded, PushBegun
from venice.push.repush import offsets, repush
from venice.sql import query

SCHEMA = record(("n", "long"), ("name", "string"))
WIDER = SCHEMA.replace('"fields": [', '"fields": [{"name": "more", "type": "long", "default": 7}, ')
ROWS = 3_000
SQL = f"SELECT i AS key, i * 3 AS n, 'the name of ' || i AS name FROM range({ROWS}) t(i)"
EXPECTED = {key: {"n": 3 * key, "name": f"the name of {key}"} for key in range(ROWS)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[..., int]) -> Iterator[Settings]:
    from venice.supervisor import Cluster  # Not above: see `tests/clusters.py`.

    cluster = Cluster(
        load(
            data=tmp_path_factory.mktemp("data"),
            controller_url=f"http://127.0.0.1:{free_port()}",
            router_url=f"http://127.0.0.1:{free_port()}",
            worker_port=free_port(),
            push_lease_s=3.0,
        )
    )
    cluster.start()
    yield cluster.settings
    cluster.stop()


@pytest.fixture
def client(settings: Settings) -> ControllerClient:
    return ControllerClient(settings.controller_url, SystemClock())


def test_a_version_with_other_partitions_and_compressions_reads_the_same(settings: Settings, client: ControllerClient) -> None:
    client.create_store("shapes", key_schema=LONG, value_schema=SCHEMA, config=StoreConfig(partition_count=3))
    push(settings, "shapes", sql=SQL)
    events: list[Event] = []
    for number, (partitions, compression) in enumerate(
        [(5, None), (None, "zstd-dict"), (2, None), (None, "gzip"), (4, "zstd"), (3, "none")], start=2
    ):
        result = repush(settings, "shapes", partitions=partitions, compression=compression, on_event=events.append)
        version = client.get_version("shapes", number).version
        assert (result.version, result.rows, sum(result.partition_rows)) == (number, ROWS, ROWS)
        assert version.partition_count == len(result.partition_rows) == client.get_store("shapes").config.partition_count
        assert (result.value_bytes > 0) is (version.compression is not Compression.NONE)
        with closing(ThinClient(settings.router_url, "shapes")) as reader:
            assert (reader.batch_get(range(ROWS)), reader.last_version) == (EXPECTED, number)
            assert reader.get(ROWS) is None
    assert [event.phase for event in events if isinstance(event, PhaseEnded)][:5] == [
        Phase.PLAN, Phase.READ, Phase.WRITE, Phase.SEAL, Phase.LOAD,
    ]  # fmt: skip
    assert [event.source for event in events if isinstance(event, PushBegun)] == [f"version {number}" for number in range(1, 7)]
    assert query(settings, "SELECT sum(n) AS n FROM shapes").to_pylist() == [{"n": 3 * sum(range(ROWS))}]


def test_rows_of_several_schemas_stay_what_they_are(settings: Settings, client: ControllerClient) -> None:
    client.create_store("mixed", key_schema=LONG, value_schema=SCHEMA, config=StoreConfig(partition_count=2), hybrid=HybridConfig())
    push(settings, "mixed", sql=SQL)
    client.add_schema("mixed", WIDER)
    expected = {key: {"more": 7, **row} for key, row in EXPECTED.items()} | {1: {"more": 1, "n": 1, "name": "wide"}}
    del expected[2]
    with closing(Producer(settings, "mixed")) as producer:
        producer.put(1, expected[1]).result(60)
        producer.delete(2).result(60)
    client.update_store("mixed", hybrid=None)
    for number, compression in enumerate(("zstd-dict", "none"), start=2):
        assert repush(settings, "mixed", partitions=3, compression=compression).rows == ROWS - 1
        version = client.get_version("mixed", number).version
        assert (version.hybrid, version.start_offsets, version.value_schema_id) == (None, (), 2)
        assert {row.pop("key"): row for row in query(settings, "FROM mixed").to_pylist()} == expected
    with closing(ThinClient(settings.router_url, "mixed")) as reader:
        assert reader.batch_get(range(ROWS)) == expected


def test_what_cannot_be_repushed_changes_nothing(settings: Settings, client: ControllerClient) -> None:
    before = client.create_store("bare", key_schema=LONG, value_schema=SCHEMA)
    with pytest.raises(NotFound, match="no version that serves"):
        repush(settings, "bare", partitions=3)
    with pytest.raises(NotFound, match="nobody"):
        repush(settings, "nobody")
    push(settings, "bare", sql=f"{SQL} LIMIT 9")
    for partitions, compression in ((0, None), (None, "lz4")):
        with pytest.raises(InvalidRequest):
            repush(settings, "bare", partitions=partitions, compression=compression)
    grant = client.create_version("bare", push_id="another")
    with pytest.raises(Conflict, match="is being pushed"):
        repush(settings, "bare", partitions=3)
    client.kill("bare", grant.number)
    assert client.get_store("bare").config == before.config
    assert repush(settings, "bare", push_id="once").version == 3
    again = repush(settings, "bare", push_id="once", partitions=5)
    assert (again.version, again.existing, client.get_store("bare").config) == (3, True, before.config)


def test_a_version_of_one_that_serves_no_more_is_refused(settings: Settings, client: ControllerClient) -> None:
    client.create_store("back", key_schema=LONG, value_schema=SCHEMA, config=StoreConfig(versions_preserved=3))
    push(settings, "back", sql=f"{SQL} LIMIT 9")
    push(settings, "back", sql=f"{SQL} LIMIT 8")

    def roll_back(event: Event) -> None:
        if isinstance(event, PhaseEnded) and event.phase is Phase.READ:
            client.rollback("back")

    with pytest.raises(Conflict, match="made of version 2, which serves no more"):
        repush(settings, "back", on_event=roll_back)
    assert (client.get_store("back").current, sorted(Path(settings.blobs_url).glob("back/back_v3/*"))) == (1, [])


REPUSHER = """
import sys
from pathlib import Path
from venice.config import load
from venice.push.progress import PushBegun
from venice.push.repush import repush
def say(event):
    print(type(event).__name__, getattr(event, "phase", ""), flush=True)
repush(load(Path(sys.argv[1])), "killed", partitions=int(sys.argv[2]), push_id=sys.argv[3], on_event=say)
"""


@pytest.mark.parametrize("moment", ["PhaseEnded read", "Progress load"])
def test_one_that_is_killed_has_failed_or_completes(settings: Settings, client: ControllerClient, tmp_path: Path, moment: str) -> None:
    if "killed" not in {store.name for store in client.list_stores()}:
        client.create_store("killed", key_schema=LONG, value_schema=SCHEMA, config=StoreConfig(partition_count=3))
        push(settings, "killed", sql=SQL)
    settings_file = tmp_path / "venice.toml"
    settings_file.write_text(
        f'data = "{settings.data}"\ncontroller_url = "{settings.controller_url}"\nrouter_url = "{settings.router_url}"\n'
    )
    command = [sys.executable, "-c", REPUSHER, str(settings_file), "4", moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith(moment) for line in process.stdout), "it ended before"
        os.kill(process.pid, signal.SIGKILL)
    number = client.get_store("killed").largest_version
    eventually(lambda: client.get_version("killed", number).version.status is not VersionStatus.STARTED, lambda: number, timeout_s=60)
    completed = client.get_version("killed", number).version.status is VersionStatus.ONLINE
    result = repush(settings, "killed", partitions=4, push_id=moment)
    assert (result.existing, result.version) == (completed, number if completed else number + 1)
    with closing(ThinClient(settings.router_url, "killed")) as reader:
        assert reader.batch_get(range(ROWS)) == EXPECTED
    folders = Path(settings.blobs_url) / "killed"
    eventually(lambda: not list(folders.glob("*/*/scratch")), lambda: sorted(folders.glob("*/*")), timeout_s=60)


def test_offsets_of_a_version_whose_partitions_are_not_equally_far() -> None:
    def at(*offsets: int) -> tuple[StartOffset, ...]:
        return tuple(StartOffset(region=0, partition=partition, next_offset=offset) for partition, offset in enumerate(offsets))

    version = Version(
        number=1, push_id="p", status=VersionStatus.ONLINE, partition_count=4, replication_factor=1, topic_id="t",
        created_ms=1, status_ms=1, hybrid=HybridConfig(), real_time_partitions=2, start_offsets=at(5, 6), held_offsets=at(20, 0),
    )  # fmt: skip
    # Partitions 0 and 2 read real-time partition 0; 1 and 3 read 1, of which 3 has merged nothing yet.
    start, held = offsets(version, {0: ((0, 0, 9),), 1: ((0, 1, 30),), 2: ((0, 0, 12),), 3: ()})
    assert (start, held) == (((0, 0, 9), (0, 1, 6)), ((0, 0, 20), (0, 1, 30)))
