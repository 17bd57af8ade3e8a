"""Laws of the catalog's fold: it depends on the records alone, and only one session at a time is taken."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.clock import ManualClock
from venice.control.catalog import Catalog, CatalogReader, Entity, encode_declaration, encode_entity, entity_key, fold, fold_all
from venice.control.session import Session
from venice.errors import Corrupt, Fenced
from venice.log import Entry
from venice.log.sqlite import SqliteLog
from venice.model import (
    Assignment,
    Checkpoint,
    Graveyard,
    Node,
    PartitionCheckpoints,
    Region,
    SnapshotRef,
    Store,
    StoreConfig,
    Version,
    VersionStatus,
    Worker,
)
from venice.naming import CATALOG_TOPIC
from venice.record import Kind, Record, encode

NAMES = ("a", "b")


def store(name: str, versions: int, owner: str = "") -> Store:
    made = tuple(
        Version(
            number=number,
            push_id=f"p{number}",
            status=VersionStatus.STARTED,
            partition_count=1,
            replication_factor=1,
            topic_id="t",
            created_ms=0,
            status_ms=0,
        )
        for number in range(1, versions + 1)
    )
    return Store(name=name, owner=owner, key_schema='"long"', value_schemas=(), config=StoreConfig(), versions=made)


def checkpoints(name: str, version: int, next_offset: int) -> PartitionCheckpoints:
    checkpoint = Checkpoint(
        snapshot=SnapshotRef(uri="u", sha256="s"), next_offset=next_offset, vector=(), row_count=1, byte_count=1, created_ms=0
    )
    return PartitionCheckpoints(store=name, version=version, partition=0, kept=(checkpoint,))


names = st.sampled_from(NAMES)
entities = st.one_of(
    st.builds(store, names, st.integers(0, 2), st.sampled_from(("", "me"))),
    st.builds(lambda name, version: Assignment(store=name, version=version, replicas=(("w",),)), names, st.integers(1, 2)),
    st.builds(checkpoints, names, st.integers(1, 2), st.integers(1, 3)),
    st.builds(lambda id_, url: Node(id=id_, region="r", workers=(Worker(id=id_, url=url, incarnation="i"),)), names, names),
    st.builds(lambda id_, name: Region(id=id_, name=name), st.integers(0, 3), names),
    st.builds(lambda name, largest: Graveyard(name=name, largest_version=largest, deleted_ms=0), names, st.integers(0, 5)),
)


@st.composite
def histories(draw: st.DrawFn) -> list[bytes]:
    """Payloads as several sessions might append them: mostly fitting, often stale, fenced, repeated or out of sequence."""
    payloads: list[bytes] = []
    catalog = Catalog()
    for _ in range(draw(st.integers(1, 14))):
        if not catalog.term or draw(st.integers(0, 4)) == 0:
            term, session = draw(st.integers(0, 4)), draw(st.integers(1, 3))
            payload = encode_declaration(term=term, session=session, now_ms=0)
        else:
            entity = draw(entities)
            payload = encode_entity(
                entity,
                term=catalog.term - draw(st.sampled_from((0, 0, 0, 0, 1))),
                session=draw(st.sampled_from((catalog.session, catalog.session, catalog.session, 1, 2))),
                sequence=catalog.session_sequence + draw(st.sampled_from((1, 1, 1, 1, 0, 2))),
                position=catalog.position(entity_key(entity)) + draw(st.sampled_from((0, 0, 0, 0, 1))),
                now_ms=0,
            )
        if draw(st.integers(0, 9)) == 0:
            payload = encode(Record(Kind.HEARTBEAT))
        payloads.append(payload)
        catalog = fold_all(Catalog(), entries(payloads))
    return payloads


def entries(payloads: list[bytes], gap: int = 1) -> list[Entry]:
    return [Entry(CATALOG_TOPIC, 0, index * gap, 0, payload) for index, payload in enumerate(payloads)]


@given(histories(), st.lists(st.integers(0, 14), max_size=4))
def test_however_the_records_arrive_the_catalog_is_the_same(payloads: list[bytes], cuts: list[int]) -> None:
    whole = fold_all(Catalog(), entries(payloads))
    singly = Catalog()
    for entry in entries(payloads):
        singly = fold(singly, entry)
    pieces = Catalog()
    at = 0
    for cut in [*sorted(cuts), len(payloads)]:
        pieces = fold_all(pieces, entries(payloads)[at:cut])
        at = max(at, cut)
    assert whole == singly == pieces


@given(histories())
def test_a_fold_leaves_its_input_as_it_was(payloads: list[bytes]) -> None:
    middle = fold_all(Catalog(), entries(payloads[: len(payloads) // 2]))
    again = fold_all(Catalog(), entries(payloads[: len(payloads) // 2]))
    fold_all(middle, entries(payloads)[len(payloads) // 2 :])
    assert middle == again


@given(histories())
def test_what_is_in_a_catalog_hangs_together(payloads: list[bytes]) -> None:
    catalog = fold_all(Catalog(), entries(payloads, gap=3))
    for name, number in catalog.assignments:
        assert catalog.stores[name].version(number) is not None
    for name, number, _ in catalog.checkpoints:
        assert catalog.stores[name].version(number) is not None
    present: list[Entity] = [
        *catalog.stores.values(),
        *catalog.assignments.values(),
        *catalog.nodes.values(),
        *catalog.regions.values(),
        *catalog.graveyards.values(),
        *catalog.checkpoints.values(),
    ]
    assert {entity_key(entity) for entity in present} == set(catalog.positions)
    assert all(0 < position <= catalog.sequence for position in catalog.positions.values())
    assert catalog.workers == {worker.id: worker for node in catalog.nodes.values() for worker in node.workers}


@given(histories(), st.randoms(use_true_random=False))
def test_a_record_of_another_session_changes_nothing(payloads: list[bytes], rng: Random) -> None:
    catalog = fold_all(Catalog(), entries(payloads))
    entity = store("a", 1, owner="intruder")
    for term, session in ((catalog.term, catalog.session + 1), (catalog.term + 1, catalog.session), (catalog.term - 1, 1), (0, 0)):
        if term < 0:
            continue
        payload = encode_entity(
            entity,
            term=term,
            session=session,
            sequence=catalog.session_sequence + 1,
            position=catalog.position(entity_key(entity)),
            now_ms=rng.randrange(1000),
        )
        after = fold(catalog, Entry(CATALOG_TOPIC, 0, catalog.sequence, 0, payload))
        assert replace(after, sequence=catalog.sequence) == catalog


@given(histories(), entities, st.integers(-2, 2), st.integers(-2, 2))
def test_a_record_counts_only_without_holes_and_from_what_it_replaces(
    payloads: list[bytes], entity: Entity, ahead: int, moved: int
) -> None:
    catalog = fold_all(Catalog(), entries([encode_declaration(term=9, session=9, now_ms=0), *payloads]))
    position, sequence = catalog.position(entity_key(entity)) + moved, catalog.session_sequence + 1 + ahead
    if position < 0 or sequence < 0:
        return
    payload = encode_entity(entity, term=9, session=9, sequence=sequence, position=position, now_ms=0)
    after = fold(catalog, Entry(CATALOG_TOPIC, 0, catalog.sequence, 0, payload))
    if ahead or moved:
        assert replace(after, sequence=catalog.sequence) == catalog
    elif not isinstance(entity, (Assignment, PartitionCheckpoints)):
        assert after.position(entity_key(entity)) == after.sequence


@given(histories(), st.integers(0, 4))
def test_only_a_higher_term_takes_over(payloads: list[bytes], term: int) -> None:
    catalog = fold_all(Catalog(), entries(payloads))
    declaration = encode_declaration(term=term, session=77, now_ms=0)
    after = fold(catalog, Entry(CATALOG_TOPIC, 0, catalog.sequence, 0, declaration))
    if term > catalog.term:
        assert (after.term, after.session, after.session_sequence) == (term, 77, 0)
    else:
        assert replace(after, sequence=catalog.sequence) == catalog


@given(st.binary(max_size=80))
def test_garbage_is_corrupt_and_names_its_offset(payload: bytes) -> None:
    with pytest.raises(Corrupt, match="catalog record 7"):
        fold(Catalog(sequence=7), Entry(CATALOG_TOPIC, 0, 7, 0, payload))


@given(
    st.sampled_from(("store/a", "store/b", "moon/a", "store", "\udcff")),
    st.one_of(st.binary(max_size=40), st.just(b"{}"), st.just(b"null")),
)
def test_a_well_formed_record_with_garbage_inside_is_corrupt(key: str, value: bytes) -> None:
    catalog = Catalog(term=1, session=5)
    record = Record(
        Kind.ENTITY, key=key.encode("utf-8", "surrogateescape"), value=value, term=1, session=5, sequence=1, vector=((-1, 0, 0),)
    )
    with pytest.raises(Corrupt, match="catalog record 0"):
        fold(catalog, Entry(CATALOG_TOPIC, 0, 0, 0, encode(record)))


Step = tuple[int, str, int]
steps = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(("begin", "write", "write", "write", "refresh")), st.integers(0, 2)), max_size=12
)


@given(steps)
def test_racing_controllers_agree_and_the_stale_one_is_fenced(steps: list[Step]) -> None:
    """Three controllers on one real log, in any order: what a write answered is what every fold holds."""
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as folder:
        logs = [SqliteLog(Path(folder), clock) for _ in range(3)]
        sessions = [Session(log, clock, Random(seed)) for seed, log in enumerate(logs)]
        holder: int | None = None
        truth: dict[str, str] = {}
        for number, (who, what, name) in enumerate(steps):
            session = sessions[who]
            if what == "begin":
                session.begin()
                holder = who
            elif what == "refresh" and holder == who:
                assert {key: value.owner for key, value in session.refresh().stores.items()} == truth
            elif session.term and what == "write":
                entity = store(f"s{name}", 0, owner=f"{who}/{number}")
                if holder == who:
                    session.write([entity])
                    truth[entity.name] = entity.owner
                else:
                    with pytest.raises(Fenced):
                        session.write([entity])
        readers = [CatalogReader(log) for log in logs]
        folded = [reader.catch_up() for reader in readers]
        assert folded[0] == folded[1] == folded[2]
        assert {key: value.owner for key, value in folded[0].stores.items()} == truth
        for session in sessions:
            session.close()
        for reader in readers:
            reader.close()
        for log in logs:
            log.close()
