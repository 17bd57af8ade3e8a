"""Entities and reports as JSON: their exact form, what a newer writer may add, and what is refused."""

from __future__ import annotations

import json

import pytest

from venice.control.catalog import Entity, entity_key
from venice.control.encoding import decode_report, encode_report, from_json, to_json
from venice.errors import Corrupt
from venice.model import (
    Assignment,
    Checkpoint,
    Graveyard,
    Node,
    PartitionCheckpoints,
    Region,
    ReplicaReport,
    ReplicaState,
    SnapshotRef,
    StartOffset,
    Store,
    StoreConfig,
    ValueSchema,
    Version,
    VersionStatus,
    Worker,
    WorkerReport,
)
from venice.record import Kind, Record, encode

VERSION = Version(
    number=3,
    push_id="p",
    status=VersionStatus.ONLINE,
    partition_count=2,
    replication_factor=1,
    topic_id="t",
    created_ms=5,
    status_ms=6,
    snapshot=SnapshotRef(uri="/b/s", sha256="ab"),
    value_schema_id=1,
    row_count=7,
    byte_count=8,
)
STORE = Store(
    name="s",
    owner="ü",
    key_schema='"long"',
    value_schemas=(ValueSchema(id=1, text='"int"'),),
    config=StoreConfig(),
    versions=(VERSION,),
    current=3,
    largest_version=3,
    created_ms=4,
)
CHECKPOINT = Checkpoint(
    snapshot=SnapshotRef(uri="/b/c", sha256="cd"),
    next_offset=9,
    vector=(StartOffset(region=0, partition=1, next_offset=7),),
    row_count=3,
    byte_count=4,
    created_ms=5,
)
REPORT = WorkerReport(
    node="n",
    region="r",
    worker=Worker(id="w", url="http://w", incarnation="i"),
    catalog_sequence=9,
    reported_ms=10,
    replicas=(ReplicaReport(store="s", version=3, partition=0, state=ReplicaState.ERROR, error="disk", checkpoint=CHECKPOINT),),
)


FIRST_RELEASE = (
    '{"name":"s","owner":"ü","key_schema":"\\"long\\"","value_schemas":[{"id":1,"text":"\\"int\\""}],'
    '"config":{"partition_count":8,"replication_factor":1,"versions_preserved":2,"record_bytes_max":10485760},'
    '"versions":[{"number":3,"push_id":"p","status":3,"partition_count":2,"replication_factor":1,"topic_id":"t","created_ms":5,'
    '"status_ms":6,"compression":"none","chunking":false,"deferred_swap":false,"start_offsets":[],'
    '"snapshot":{"uri":"/b/s","sha256":"ab"},"value_schema_id":1,"row_count":7,"byte_count":8,"reason":""}],'
    '"current":3,"largest_version":3,"created_ms":4}'
)
"""STORE as the first release wrote it. Never changed: it stands in logs."""


def test_what_the_first_release_wrote_is_read_for_ever() -> None:
    assert from_json(Store, FIRST_RELEASE.encode(), "it") == STORE


def test_members_are_added_and_never_changed() -> None:
    assert contains(json.loads(to_json(STORE)), json.loads(FIRST_RELEASE))


def contains(now: object, before: object) -> bool:
    if isinstance(now, dict) and isinstance(before, dict):
        return all(name in now and contains(now[name], value) for name, value in before.items())
    if isinstance(now, list) and isinstance(before, list):
        return len(now) == len(before) and all(map(contains, now, before))
    return now == before


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        (STORE, "store/s"),
        (Assignment(store="s", version=3, replicas=(("a", "b"), ())), "assignment/s_v3"),
        (Node(id="n", region="r", workers=(REPORT.worker,)), "node/n"),
        (Region(id=0, name="r"), "region/r"),
        (Graveyard(name="s", largest_version=3, deleted_ms=1, largest_schema_id=2), "graveyard/s"),
        (PartitionCheckpoints(store="s", version=3, partition=1, kept=(CHECKPOINT,)), "checkpoint/s_v3.000001"),
    ],
)
def test_every_entity_comes_back(entity: Entity, key: str) -> None:
    assert from_json(type(entity), to_json(entity), "it") == entity
    assert entity_key(entity) == key


def test_what_a_newer_writer_adds_is_ignored() -> None:
    newer = json.loads(to_json(STORE))
    newer["color"] = "red"
    newer["versions"][0]["weight"] = {"kg": 3}
    assert from_json(Store, json.dumps(newer).encode(), "it") == STORE


def test_what_an_older_writer_left_out_has_its_default() -> None:
    older = json.loads(to_json(STORE))
    del older["versions"][0]["compression"]
    assert from_json(Store, json.dumps(older).encode(), "it") == STORE


@pytest.mark.parametrize(
    ("path", "value"),
    [(("name",), 3), (("current",), "3"), (("versions",), None), (("versions", 0, "status"), 99), (("config", "partition_count"), 1.5)],
)
def test_a_field_of_another_type_is_corrupt_and_named(path: tuple[str | int, ...], value: object) -> None:
    broken = json.loads(to_json(STORE))
    at = broken
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(Corrupt, match=r"it is not a valid Store: " + r"\.".join(str(part) for part in path)):
        from_json(Store, json.dumps(broken).encode(), "it")


def test_reports_come_back() -> None:
    assert decode_report(encode_report(REPORT)) == REPORT


def test_a_report_under_another_name_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="report of worker 'w' stands under key b'worker/x'"):
        decode_report(encode(Record(Kind.REPORT, key=b"worker/x", value=to_json(REPORT))))
