"""Logs that hold garbage, repeats, strangers and holes, and readers that pass records over: no replica is ever wrong, all end alike."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_leader_laws import REPLICAS, World

from venice.clock import SystemClock
from venice.errors import Corrupt
from venice.faults import FaultLedger
from venice.ingest import ReplicaFold
from venice.integrity import Integrity
from venice.log import Entry, Log
from venice.log.open import open_log
from venice.model import Fault
from venice.naming import replica_name, version_topic
from venice.record import Kind, Origin, Record, decode, encode
from venice.storage import Identity
from venice.storage.memory import MemoryStorage


class FaultyWorld(World):
    """Its version log damages, repeats and invents records, and its readers pass some over, declarations too, until `calm` is set."""

    calm = False
    made_anew = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.folds = [self.new_fold(replica) for replica in range(REPLICAS)]

    def new_fold(self, replica: int) -> ReplicaFold:
        identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation=str(replica))
        return ReplicaFold(MemoryStorage(identity), reread=lambda first, end: list(self.version[first:end]))

    def append(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            if not self.calm and self.rng.random() < 0.1:
                payload = b"damaged"
            super().append([payload])
            if not self.calm and self.rng.random() < 0.1:
                super().append([self.planted()])

    def planted(self) -> bytes:
        before = self.rng.choice(self.version).payload
        try:
            record = decode(before)
        except Corrupt:
            return b"garbage"
        if record.kind is Kind.DECLARE_LEADERSHIP:
            return b"garbage"
        return encode(record._replace(sequence=record.sequence + self.rng.choice([0, 0, 500])))

    def fold(self, replica: int, at_most: int) -> None:
        fold = self.folds[replica]
        entries = self.version[fold.next_offset : fold.next_offset + at_most]
        if not self.calm:
            entries = [entry for entry in entries if self.rng.random() > 0.1]
        try:
            fold.fold(entries)
        except Corrupt:
            # It lacks what its leader has, and is made anew; whoever led with it leads no more.
            self.made_anew += 1
            self.folds[replica] = self.new_fold(replica)
            self.leaders = [one for one in self.leaders if one[0] != replica]

    def finish(self) -> None:
        self.calm = True
        # Whoever finds out now that it must be made anew is, before one of them is chosen to lead.
        for replica in 2 * tuple(range(REPLICAS)):
            self.fold(replica, len(self.version))
        super().finish()
        for replica in range(REPLICAS):
            self.fold(replica, len(self.version))


@given(st.integers(0, 2**32), st.integers(10, 80))
def test_no_write_is_lost_or_misordered_whatever_the_log_and_its_readers_do(seed: int, steps: int) -> None:
    world = FaultyWorld(Random(seed))
    world.run(steps)
    world.check()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest, tmp_path: object) -> Iterator[Log]:
    opened = open_log(request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path}/log", SystemClock())
    yield opened
    opened.close()


def put(sequence: int, *, session: int = 7, schema_id: int = 1) -> bytes:
    return encode(
        Record(
            Kind.PUT, key=b"k%d" % sequence, value=b"v", schema_id=schema_id, origin=Origin.REAL_TIME, timestamp_ms=5, region=0, term=1,
            session=session, sequence=sequence, vector=((0, 0, sequence),),
        )
    )  # fmt: skip


def test_every_fault_is_found_in_a_real_topic(log: Log) -> None:
    store = f"s{log.topics().__len__()}_{id(log)}"
    topic, replica = version_topic(store, 1), replica_name(store, 1, 0)
    log.create_topic(topic, 1)
    declared = encode(Record(Kind.DECLARE_LEADERSHIP, term=1, session=7))
    log.append(topic, 0, [declared, *map(put, range(1, 6)), b"garbage", put(2), put(6, session=9), put(6), put(8), put(9)])
    log.append(topic, 0, [encode(Record(Kind.DECLARE_LEADERSHIP, term=1, session=8)), put(1, session=8, schema_id=3)])
    entries: list[Entry] = []
    reader = log.reader({(topic, 0): 0})
    while len(entries) < 14:
        entries += reader.poll(timeout_s=1)
    reader.close()
    faults = FaultLedger(SystemClock())
    integrity = Integrity(log, SystemClock(), faults)
    fold = integrity.fold(
        MemoryStorage(Identity(store=store, version=1, partition=0, topic_id="t", incarnation="i")), topic, 0, frozenset({1})
    )
    for skipped in entries[:3] + entries[5:12]:
        fold.fold([skipped])
    assert fold.stuck_at == entries[10].offset
    fold.fold(entries)
    integrity.tell(fold, topic, 0)
    assert [key for key, _ in fold.storage.scan()] == [b"k1", b"k2", b"k3", b"k4", b"k5", b"k6"]
    found = {one.fault: one.count for one in faults.of(replica)}
    assert found == {Fault.MISSING: 3, Fault.CORRUPT: 1, Fault.DUPLICATE: 1, Fault.FENCED: 1}
    assert fold.strange.keys() == {3}
    position = fold.storage.position
    assert (position.session, position.next_offset) == (8, entries[-1].offset + 1), "it goes on"
