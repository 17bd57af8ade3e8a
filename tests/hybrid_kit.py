"""A hybrid version in a log and on disk, without any process: pushed rows, and what leaders wrote since, by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from producer_kit import KEY_SCHEMA, Site, make_site

from venice.clock import SystemClock
from venice.config import Settings, load
from venice.ingest import ReplicaFold
from venice.log import Log
from venice.log.open import open_log
from venice.model import Checkpoint, PartitionCheckpoints, SnapshotRef, ValueSchema, Version, VersionStatus
from venice.naming import version_topic
from venice.record import Kind, Origin, Record, encode
from venice.rules.partitioning import partition_of
from venice.schema.codec import Codec, key_codec
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

    def append(self, partition: int, record: Record, *, skipped: int = 0) -> None:
        """A record of the session of its term, after so many that are missing."""
        for _ in range(skipped):
            next(self._sequences[record.term, partition])
        whole = record._replace(session=record.term, sequence=next(self._sequences[record.term, partition]))
        self.log.append(self.topic, partition, [encode(whole)])

    def catch_up(self) -> None:
        """Leaders of the first term say that they have."""
        for partition in range(PARTITIONS):
            self.append(partition, Record(Kind.CAUGHT_UP, timestamp_ms=1, term=1))

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
        )
        self.append(partition, record)
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


@contextmanager
def hybrid_world(url: str, folder: Path) -> Iterator[World]:
    """Version 1 of a new store, which serves; nobody leads it yet."""
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
        snapshot=push_by_hand(folder / "data" / "blobs", name),
        value_schema_id=1,
        row_count=len(PUSHED),
        hybrid=site.store.hybrid,
        real_time_partitions=PARTITIONS,
    )
    schemas = (*site.store.value_schemas, ValueSchema(id=2, text=json.dumps(NEW)))
    site.change(versions=(version,), current=1, largest_version=1, value_schemas=schemas)
    made = World(load(data=folder / "data", log=url), site, version)
    yield made
    log.delete_topic(made.topic)
    site.remove()
    log.close()
