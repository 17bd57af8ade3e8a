"""SQL and export of hybrid stores: pushed rows and what was written since, on both logs, without any process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from producer_kit import KEY_SCHEMA, Site, make_site

from venice import sql
from venice.clock import SystemClock
from venice.config import Settings, load
from venice.errors import Corrupt, Unavailable
from venice.ingest import ReplicaFold
from venice.log import Log
from venice.log.open import open_log
from venice.model import Checkpoint, PartitionCheckpoints, SnapshotRef, ValueSchema, Version, VersionStatus
from venice.naming import version_topic
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec
from venice.served import ServedVersion
from venice.storage import Identity
from venice.storage.format import encode_value
from venice.storage.manifest import Manifest, file_name
from venice.storage.memory import MemoryStorage
from venice.storage.snapshot import PartitionWriter, checkpoint, described, read_manifest, seal

PARTITIONS = 2
OLD = {"type": "record", "name": "Click", "fields": [{"name": "page", "type": "string"}, {"name": "n", "type": "int", "default": 0}]}
NEW = {**OLD, "fields": [OLD["fields"][0], {"name": "n", "type": "long"}, {"name": "by", "type": "string", "default": "?"}]}
CODECS = {1: Codec(json.dumps(OLD)), 2: Codec(json.dumps(NEW))}
KEYS = key_codec(KEY_SCHEMA)
PUSHED = {f"user {number}": {"page": "pushed", "n": number} for number in range(60)}


@dataclass
class World:
    """A store whose version was pushed, with what its leaders wrote to the version's topic by hand."""

    settings: Settings
    site: Site
    version: Version
    expected: dict[str, dict[str, Any]] = field(default_factory=lambda: {key: {**row, "by": "?"} for key, row in PUSHED.items()})
    _sequences: dict[tuple[int, int], Iterator[int]] = field(default_factory=dict)

    @property
    def log(self) -> Log:
        return self.site.log

    @property
    def name(self) -> str:
        return self.site.store.name

    @property
    def topic(self) -> str:
        return version_topic(self.name, 1)

    def lead(self, term: int = 1) -> None:
        for partition in range(PARTITIONS):
            self._sequences[term, partition] = count(1)
            self.log.append(self.topic, partition, [encode(Record(Kind.DECLARE_LEADERSHIP, timestamp_ms=1, term=term, session=term))])

    def write(self, key: str, row: Mapping[str, Any] | None, schema_id: int = 2, *, term: int = 1) -> None:
        """A put, or a delete, merged by the leader of a term; it counts if that is the newest."""
        raw = KEYS.encode(key)
        partition = partition_of(raw, PARTITIONS)
        record = Record(
            Kind.DELETE if row is None else Kind.PUT,
            key=raw,
            value=b"" if row is None else CODECS[schema_id].encode(row),
            schema_id=0 if row is None else schema_id,
            origin=Origin.REAL_TIME,
            timestamp_ms=5,
            region=0,
            term=term,
            session=term,
            sequence=next(self._sequences[term, partition]),
        )
        self.log.append(self.topic, partition, [encode(record)])
        if term == max(self._sequences)[0]:
            self.expected.pop(key, None)
            if row is not None:
                self.expected[key] = {"by": "?", **row}

    def checkpoint(self, partition: int) -> Checkpoint:
        """Seal what a replica of now holds, name it in the catalog, and trim the topic."""
        identity = Identity(store=self.name, version=1, partition=partition, topic_id=self.version.topic_id, incarnation="i")
        storage = MemoryStorage(identity)
        raws = {KEYS.encode(key): encode_value(1, CODECS[1].encode(row)) for key, row in PUSHED.items()}
        mutations = [(raw, stored, None) for raw, stored in raws.items() if partition_of(raw, PARTITIONS) == partition]
        storage.apply(mutations, storage.position)
        end = self.log.end_offset(self.topic, partition)
        reader = self.log.reader({(self.topic, partition): 0})
        while reader.position(self.topic, partition) < end:
            ReplicaFold(storage).fold(reader.poll(timeout_s=1.0))
        reader.close()
        ref = checkpoint(storage, self.settings.data / f"checkpoint {partition}", partition_count=PARTITIONS, created_ms=1)
        made = described(ref, read_manifest(ref))
        self.site.write(PartitionCheckpoints(store=self.name, version=1, partition=partition, kept=(made,)))
        self.log.delete_prefix(self.topic, partition, end)
        return made

    def read(self) -> dict[str, dict[str, Any]]:
        rows = sql.query(self.settings, f"FROM {self.name}").to_pylist()
        found = {row.pop("key"): row for row in rows}
        assert len(found) == len(rows)
        return found


def push_by_hand(folder: Path, store: str) -> SnapshotRef:
    folder.mkdir(parents=True)
    files = []
    for partition in range(PARTITIONS):
        writer = PartitionWriter(folder / file_name(partition))
        for raw, row in sorted((KEYS.encode(key), row) for key, row in PUSHED.items()):
            if partition_of(raw, PARTITIONS) == partition:
                writer.put(raw, encode_value(1, CODECS[1].encode(row)))
        files.append(writer.finish(partition))
    return seal(folder, Manifest(store=store, version=1, partition_count=PARTITIONS, created_ms=1, value_schema_id=1, files=tuple(files)))


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'log'}"
    log = open_log(url, SystemClock())
    site = make_site(log, url, partitions=PARTITIONS, value_schema=json.dumps(OLD))
    name = site.store.name
    version = Version(
        number=1,
        push_id="p1",
        status=VersionStatus.ONLINE,
        partition_count=PARTITIONS,
        replication_factor=1,
        topic_id=log.create_topic(version_topic(name, 1), PARTITIONS),
        created_ms=1,
        status_ms=1,
        snapshot=push_by_hand(tmp_path / "data" / "blobs", name),
        value_schema_id=1,
        row_count=len(PUSHED),
        hybrid=site.store.hybrid,
        real_time_partitions=PARTITIONS,
    )
    schemas = (*site.store.value_schemas, ValueSchema(id=2, text=json.dumps(NEW)))
    site.change(versions=(version,), current=1, largest_version=1, value_schemas=schemas)
    made = World(load(data=tmp_path / "data", log=url), site, version)
    yield made
    log.delete_topic(made.topic)
    site.remove()
    log.close()
    assert not list(made.settings.data.glob(".sql-*")), "replicas made for a query outlive it"


@pytest.fixture
def written(world: World) -> World:
    """Rows of all kinds: untouched, overwritten in both schemas, deleted, new, refused."""
    world.lead()
    world.write("user 1", {"page": "old schema", "n": 7}, 1)
    for number in range(2, 30):
        world.write(f"user {number}", {"page": "written", "n": 1 << 40, "by": "me"})
    for number in range(20, 40):
        world.write(f"user {number}", None)
    world.write("user 25", {"page": "back", "n": 1})
    world.write("somebody new", {"page": "new", "n": 2})
    world.lead(term=2)
    world.write("user 3", {"page": "by a leader that was replaced", "n": 0}, term=1)
    world.write("user 4", {"page": "by its successor", "n": 4}, term=2)
    return world


def test_a_version_nobody_wrote_to_has_its_pushed_rows(world: World) -> None:
    assert world.read() == world.expected


def test_a_store_is_what_its_replicas_serve(written: World) -> None:
    assert written.read() == written.expected
    assert {"user 3", "user 25", "somebody new"} <= set(written.expected)
    assert not {"user 20", "user 39"} & set(written.expected)


def test_an_export_is_too_and_says_up_to_where(written: World, tmp_path: Path) -> None:
    read: list[sql.AsOf] = []
    assert sql.export(written.settings, written.name, to=tmp_path / "out.parquet", on_read=read.append) == len(written.expected)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row.pop("key"): row for row in rows} == written.expected
    ends = tuple(written.log.end_offset(written.topic, partition) for partition in range(PARTITIONS))
    assert read == [sql.AsOf(written.name, 1, ends)]


def test_what_was_trimmed_is_read_from_the_checkpoint(written: World) -> None:
    first = written.checkpoint(0)
    written.write("user 50", {"page": "after the checkpoint", "n": 50}, term=2)
    written.write("user 51", {"page": "after the checkpoint", "n": 51}, term=2)
    assert written.log.start_offset(written.topic, 0) == first.next_offset > 0
    assert written.read() == written.expected


def test_a_topic_trimmed_while_it_is_read_is_read_again_from_the_checkpoint(written: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attach: Callable[..., Any] = ServedVersion._fold
    tried: list[int] = []

    def trimmed_first(served: ServedVersion, storage: Any, partition: int) -> None:
        if not tried:
            written.checkpoint(partition)
        tried.append(partition)
        attach(served, storage, partition)

    monkeypatch.setattr(ServedVersion, "_fold", trimmed_first)
    assert written.read() == written.expected
    assert tried == [0, 0, 1]


def test_without_a_checkpoint_for_what_was_trimmed_it_says_so(written: World) -> None:
    written.log.delete_prefix(written.topic, 1, 3)
    with pytest.raises(Unavailable, match="begins at offset 3"):
        written.read()


def test_a_value_of_a_schema_the_store_lacks_is_named(written: World) -> None:
    written.site.change(value_schemas=written.site.store.value_schemas[:1])
    with pytest.raises(Corrupt, match="schema 2, not 1"):
        written.read()


def test_a_batch_version_of_the_store_stays_what_was_pushed(written: World) -> None:
    written.site.change(versions=(replace(written.version, hybrid=None, real_time_partitions=0),))
    assert written.read() == PUSHED
