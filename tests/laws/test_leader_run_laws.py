"""A run of a leader's writes is what folding them one by one says, whatever lies in the topic and however it is cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from hypothesis import given
from hypothesis import strategies as st

from venice.ingest import ReplicaFold
from venice.log import Entry, Run
from venice.record import Kind, Origin, Record, encode
from venice.storage import Change, Identity, Position
from venice.storage.leader_run import leader_run
from venice.storage.memory import MemoryStorage

IDENTITY = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i")
START = Position(term=2, session=7)

sources = st.lists(st.sampled_from([(0, 0), (0, 3), (1, 0)]), unique=True, max_size=3).map(sorted)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Nearly all of the session, most of them puts and deletes; sequences are given later."""
    kind = draw(st.sampled_from([Kind.PUT] * 6 + [Kind.DELETE] * 2 + [Kind.PROGRESS, Kind.CAUGHT_UP, Kind.DECLARE_LEADERSHIP]))
    return Record(
        kind,
        key=draw(st.binary(max_size=3)),
        value=draw(st.binary(max_size=8)) if kind is Kind.PUT else b"",
        schema_id=draw(st.sampled_from([1, 1, 1, 2])),
        origin=draw(st.sampled_from([Origin.REAL_TIME] * 9 + [Origin.BATCH])),
        timestamp_ms=draw(st.integers(0, 2**40)),
        region=draw(st.integers(-1, 3)),
        metadata=draw(st.sampled_from([b"", b"", b"tombstone"])),
        term=draw(st.sampled_from([2] * 9 + [1, 3])),
        session=draw(st.sampled_from([7] * 9 + [8])),
        vector=tuple((region, partition, draw(st.integers(0, 99))) for region, partition in draw(sources)),
    )


@st.composite
def topics(draw: st.DrawFn) -> list[Entry]:
    """Mostly dense sequences, now and then a hole, a repetition or bytes that are no record."""
    entries: list[Entry] = []
    sequence = 0
    for record in draw(st.lists(records(), max_size=30)):
        sequence = 0 if record.kind is Kind.DECLARE_LEADERSHIP else sequence + draw(st.sampled_from([1] * 12 + [0, 2]))
        payload = encode(record._replace(sequence=sequence))
        if draw(st.integers(0, 20)) == 0:
            at = draw(st.integers(0, len(payload) - 1))
            payload = payload[:at] + bytes([payload[at] ^ 0x55]) + payload[at + 1 :]
        entries.append(Entry("s_v1", 0, len(entries) * 2, 1, payload))
    return entries


def one_by_one(entries: Sequence[Entry]) -> ReplicaFold:
    """Folded by the general path alone: a run never reaches over a batch, and one entry at a time goes without."""
    fold = ReplicaFold(MemoryStorage(IDENTITY, START))
    for entry in entries:
        mutations: list[Change] = []
        after = fold._accept(entry, fold.storage.position, mutations)
        fold.storage.apply(mutations, after)
        fold.counts.applied += len(mutations)
    return fold


class Columns(Run):
    """Entries that are made one by one when they are asked for."""

    def __init__(self, entries: list[Entry]) -> None:
        self.held = entries

    @property
    def payloads(self) -> list[bytes]:
        return [entry.payload for entry in self.held]

    def __len__(self) -> int:
        return len(self.held)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Columns: ...
    def __getitem__(self, index: int | slice) -> Entry | Columns:
        return Columns(self.held[index]) if isinstance(index, slice) else self.held[index]


@given(topics(), st.lists(st.integers(1, 9), min_size=1, max_size=30), st.sampled_from([list, Columns]))
def test_batches_come_to_what_single_records_come_to(
    entries: list[Entry], sizes: list[int], form: Callable[[list[Entry]], Sequence[Entry]]
) -> None:
    fold = ReplicaFold(MemoryStorage(IDENTITY, START))
    left = entries
    while left:
        size = sizes[len(left) % len(sizes)]
        fold.fold(form(left[:size]))
        left = left[size:]
    expected = one_by_one(entries)
    assert list(fold.storage.scan()) == list(expected.storage.scan())
    assert list(fold.storage.scan_metadata()) == list(expected.storage.scan_metadata())
    assert fold.counts == expected.counts
    position, theirs = fold.storage.position, expected.storage.position
    assert (position.term, position.session, position.sequence, position.vector) == (
        theirs.term,
        theirs.session,
        theirs.sequence,
        theirs.vector,
    )
    assert position.next_offset == (entries[-1].offset + 1 if entries else 0)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_garbage_begins_no_run(garbage: bytes, tail: bytes) -> None:
    start = encode(Record(Kind.PUT, b"k", b"v", 1, origin=Origin.REAL_TIME, term=2, session=7, sequence=1, vector=((0, 0, 1),)))
    for payload in (garbage, start[:44] + garbage, start + tail + b"x"):
        assert leader_run([payload], START) == ([], ())


def test_a_schema_that_is_not_known_ends_the_run() -> None:
    puts = [
        Record(Kind.PUT, b"k", b"v", schema, origin=Origin.REAL_TIME, term=2, session=7, sequence=n, vector=((0, 0, n),))
        for n, schema in enumerate((1, 1, 2, 1), 1)
    ]
    payloads = [encode(put) for put in puts]
    assert len(leader_run(payloads, START, {1}).mutations) == 2
    assert len(leader_run(payloads, START, {1, 2}).mutations) == 4
    assert leader_run(payloads, START, {1, 2}).vector == ((0, 0, 4),)
