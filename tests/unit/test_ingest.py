"""The fold of one replica: which records count, and that they are applied once."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice.errors import Corrupt, Unavailable
from venice.ingest import Met, ReplicaFold
from venice.log import Entry
from venice.model import Fault
from venice.record import Kind, Origin, Record, Vector, encode
from venice.storage import Identity
from venice.storage.format import encode_value
from venice.storage.memory import MemoryStorage

IDENTITY = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="i")


def entries(*records: Record | bytes, first: int = 0) -> list[Entry]:
    payloads = [record if isinstance(record, bytes) else encode(record) for record in records]
    return [Entry("s_v1", 0, first + offset, 0, payload) for offset, payload in enumerate(payloads)]


def declare(term: int, session: int) -> Record:
    return Record(Kind.DECLARE_LEADERSHIP, term=term, session=session)


def put(key: bytes, value: bytes, *, term: int, session: int, sequence: int) -> Record:
    return Record(
        Kind.PUT,
        key=key,
        value=value,
        schema_id=1,
        origin=Origin.REAL_TIME,
        timestamp_ms=5,
        region=0,
        term=term,
        session=session,
        sequence=sequence,
        vector=((0, 0, sequence),),
    )


def folded(*records: Record | bytes) -> ReplicaFold:
    fold = ReplicaFold(MemoryStorage(IDENTITY))
    fold.fold(entries(*records))
    return fold


def values(fold: ReplicaFold) -> dict[bytes, bytes]:
    return {key: value[-1:] for key, value in fold.storage.scan()}


def test_records_of_the_declared_session_are_applied_with_position_and_vector() -> None:
    fold = folded(declare(1, 7), put(b"a", b"1", term=1, session=7, sequence=1), put(b"a", b"2", term=1, session=7, sequence=2))
    assert values(fold) == {b"a": b"2"}
    position = fold.storage.position
    assert (position.next_offset, position.term, position.session, position.sequence) == (3, 1, 7, 2)
    assert position.vector == ((0, 0, 2),)
    assert fold.counts.applied == 2


def test_a_batch_row_keeps_its_schema_id_and_own_time() -> None:
    row = Record(Kind.PUT, key=b"a", value=b"1", schema_id=3, timestamp_ms=9, term=1, session=7, sequence=1)
    assert folded(declare(1, 7), row).storage.get(b"a") == encode_value(3, b"1", 9)


def test_a_delete_removes_the_value_and_keeps_its_metadata() -> None:
    gone = Record(Kind.DELETE, key=b"a", metadata=b"rmd", term=1, session=7, sequence=2)
    fold = folded(declare(1, 7), put(b"a", b"1", term=1, session=7, sequence=1), gone)
    assert fold.storage.get(b"a") is None
    assert fold.storage.get_metadata(b"a") == b"rmd"


def test_a_superseded_leader_changes_nothing() -> None:
    fold = folded(
        declare(1, 7),
        put(b"a", b"1", term=1, session=7, sequence=1),
        declare(2, 8),
        put(b"a", b"9", term=1, session=7, sequence=2),
        declare(1, 9),
        put(b"a", b"8", term=1, session=9, sequence=1),
        put(b"b", b"2", term=2, session=8, sequence=1),
    )
    assert values(fold) == {b"a": b"1", b"b": b"2"}
    assert fold.counts.fenced == 3


def test_a_new_session_of_the_same_term_takes_over() -> None:
    fold = folded(
        declare(1, 7), declare(1, 8), put(b"a", b"1", term=1, session=7, sequence=1), put(b"a", b"2", term=1, session=8, sequence=1)
    )
    assert values(fold) == {b"a": b"2"}


def test_nobody_leads_before_a_declaration() -> None:
    fold = folded(put(b"a", b"1", term=1, session=7, sequence=1))
    assert values(fold) == {}
    assert fold.counts.fenced == 1


def test_after_a_hole_nothing_of_the_session_counts() -> None:
    """Its vector would skip the input of the record that is missing: a write would be lost in silence."""
    fold = folded(
        declare(1, 7),
        put(b"a", b"1", term=1, session=7, sequence=1),
        put(b"b", b"3", term=1, session=7, sequence=3),
        put(b"c", b"4", term=1, session=7, sequence=4),
    )
    assert values(fold) == {b"a": b"1"}
    assert fold.counts.missing == 2
    assert fold.storage.position.vector == ((0, 0, 1),)


def test_what_was_folded_is_not_folded_again() -> None:
    records = entries(declare(1, 7), put(b"a", b"1", term=1, session=7, sequence=1), put(b"a", b"1", term=1, session=7, sequence=1))
    fold = ReplicaFold(MemoryStorage(IDENTITY))
    assert [fold.fold(records), fold.fold(records)] == [1, 0]
    assert fold.counts.duplicate == 1
    assert fold.next_offset == 3


def test_garbage_is_counted_and_passed_over() -> None:
    fold = folded(declare(1, 7), b"garbage", put(b"a", b"1", term=1, session=7, sequence=1))
    assert values(fold) == {b"a": b"1"}
    assert fold.counts.corrupt == 1
    assert fold.next_offset == 3


def test_marks_move_the_vector_and_say_who_caught_up() -> None:
    progress = Record(Kind.PROGRESS, term=1, session=7, sequence=1, vector=((0, 0, 40),))
    caught_up = Record(Kind.CAUGHT_UP, term=1, session=7, sequence=2, vector=((0, 0, 41),))
    position = folded(declare(1, 7), progress, caught_up).storage.position
    assert (position.vector, position.caught_up_session) == (((0, 0, 41),), 7)


@given(
    st.lists(
        st.one_of(
            st.builds(declare, st.integers(0, 3), st.integers(1, 3)),
            st.builds(
                put,
                st.sampled_from([b"a", b"b"]),
                st.sampled_from([b"1", b"2", b"3"]),
                term=st.integers(0, 3),
                session=st.integers(1, 3),
                sequence=st.integers(1, 4),
            ),
            st.binary(max_size=5),
        ),
        max_size=30,
    ),
    st.lists(st.integers(1, 7), min_size=30, max_size=30),
)
def test_how_entries_are_batched_changes_nothing(records: list[Record | bytes], sizes: list[int]) -> None:
    at_once = folded(*records)
    in_parts = ReplicaFold(MemoryStorage(IDENTITY))
    rest = entries(*records)
    for size in sizes:
        in_parts.fold(rest[:size])
        rest = rest[size:]
    assert values(in_parts) == values(at_once)
    assert in_parts.storage.position == at_once.storage.position
    assert in_parts.counts == at_once.counts


class Topic:
    """A version topic, and a fold whose reader passes over what it is told to."""

    def __init__(self, *records: Record | bytes) -> None:
        self.log = entries(*records)
        self.read_anew: list[tuple[int, int]] = []
        self.fold = ReplicaFold(MemoryStorage(IDENTITY), reread=self._reread)

    def _reread(self, first: int, end: int) -> list[Entry]:
        self.read_anew.append((first, end))
        return [entry for entry in self.log if first <= entry.offset < end]

    def folded(self, *, without: Collection[int] = ()) -> ReplicaFold:
        for entry in self.log:
            if entry.offset not in without:
                self.fold.fold([entry])
        return self.fold


def lead(session: int, *values: bytes) -> list[Record]:
    puts = [put(b"k%d" % i, value, term=1, session=session, sequence=i) for i, value in enumerate(values, 1)]
    return [declare(1, session), *puts]


@pytest.mark.parametrize("skipped", [{2}, {2, 3}, {1}, {0}, {0, 1, 2}])
def test_what_a_reader_passed_over_is_read_again(skipped: set[int]) -> None:
    records = lead(7, b"1", b"2", b"3", b"4")
    topic = Topic(*records)
    fold = topic.folded(without=skipped)
    assert values(fold) == values(folded(*records))
    assert fold.storage.position == folded(*records).storage.position
    assert fold.counts.missing + fold.counts.fenced == len(topic.read_anew) == 1
    assert fold.stuck_at is None


def test_a_whole_session_that_a_reader_passed_over_is_read_again() -> None:
    records = [*lead(7, b"1", b"2"), *lead(8, b"3", b"4")]
    fold = Topic(*records).folded(without={2, 3, 4})
    assert values(fold) == values(folded(*records))


def test_who_passes_over_a_declaration_accepts_nothing_of_a_leader_that_lingers() -> None:
    lingering = put(b"x", b"9", term=1, session=7, sequence=2)
    records = [*lead(7, b"1"), declare(1, 8), lingering, *lead(8, b"2")[1:]]
    fold = Topic(*records).folded(without={2})
    assert values(fold) == values(folded(*records)) == {b"k1": b"2"}
    assert (fold.counts.missing, fold.counts.fenced) == (1, 1)


def test_offsets_that_a_log_leaves_out_are_no_fault() -> None:
    fold = ReplicaFold(MemoryStorage(IDENTITY), reread=lambda first, end: [])
    fold.fold(entries(*lead(7, b"1"), first=5))
    assert values(fold) == {b"k1": b"1"}
    assert fold.counts.missing == 0


def test_a_hole_in_the_log_is_looked_up_once_and_stands_until_another_session() -> None:
    records = lead(7, b"1", b"2", b"3", b"4", b"5")
    del records[2]
    topic = Topic(*records)
    fold = topic.folded()
    assert topic.read_anew == [(2, 3)]
    assert (fold.counts.missing, fold.met[Fault.MISSING], fold.stuck_at) == (3, Met(3, 4), 2)
    fold.fold(entries(*lead(8, b"7"), first=5))
    assert fold.stuck_at is None
    assert values(fold) == {b"k1": b"7"}


def test_a_hole_is_looked_up_again_if_the_log_could_not_be_asked() -> None:
    records = lead(7, b"1", b"2", b"3")
    log, asked = entries(*records), 0

    def reread(first: int, end: int) -> list[Entry]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("the log is away")
        return [entry for entry in log if first <= entry.offset < end]

    fold = ReplicaFold(MemoryStorage(IDENTITY), reread=reread)
    fold.fold(log[:2])
    with pytest.raises(Unavailable):
        fold.fold(log[3:])
    fold.fold(log[3:])
    assert values(fold) == values(folded(*records))
    assert fold.stuck_at is None


def test_damaged_bytes_are_a_hole_as_well() -> None:
    records: list[Record | bytes] = [*lead(7, b"1", b"2", b"3")]
    records[2] = b"garbage"
    fold = Topic(*records).folded()
    assert (fold.counts.corrupt, fold.counts.missing, fold.stuck_at) == (1, 1, 2)


def test_records_of_former_sessions_are_looked_up_once_or_not_at_all() -> None:
    lingering = [put(b"x", b"9", term=1, session=7, sequence=i) for i in (2, 3)]
    topic = Topic(*lead(7, b"1"), *lead(8, b"2"), *lingering)
    fold = topic.folded()
    assert (fold.counts.fenced, len(topic.read_anew), fold.stuck_at) == (2, 1, None)
    older = Topic(declare(3, 9), *lingering)
    assert (older.folded().counts.fenced, older.read_anew) == (2, [])


def heartbeat(vector: Vector, *, sequence: int = 1, at_ms: int = 0) -> Record:
    return Record(Kind.HEARTBEAT, term=2, session=9, sequence=sequence, vector=vector, timestamp_ms=at_ms)


def test_a_replica_that_lacks_what_its_leader_has_folded_says_so() -> None:
    whole = [*lead(7, b"1", b"2"), declare(2, 9), heartbeat(((0, 0, 2),))]
    assert folded(*whole).storage.position.sequence == 1
    cut = ReplicaFold(MemoryStorage(IDENTITY))
    cut.fold(entries(*lead(7, b"1"), declare(2, 9)))
    with pytest.raises(Corrupt, match="never read"):
        cut.fold(entries(heartbeat(((0, 0, 2),)), first=3))
    assert cut.counts.missing == 1


def test_a_leader_that_was_behind_is_followed() -> None:
    """It merges again what it lacks, and the same comes out."""
    fold = folded(*lead(7, b"1", b"2"), declare(2, 9), heartbeat(((0, 0, 1),)))
    assert fold.storage.position.vector == ((0, 0, 1),)


def test_the_newest_heartbeat_says_how_fresh_a_replica_is() -> None:
    fold = folded(declare(2, 9), heartbeat(()), heartbeat(((0, 0, 5),), sequence=2, at_ms=70), heartbeat((), sequence=3, at_ms=60))
    assert (fold.fresh_ms, fold.storage.position.vector) == (70, ((0, 0, 5),))


def test_values_of_a_schema_that_is_not_known_are_applied_and_noted() -> None:
    fold = ReplicaFold(MemoryStorage(IDENTITY), schemas=(2,))
    fold.fold(entries(*lead(7, b"1", b"2")))
    assert values(fold) == {b"k1": b"1", b"k2": b"2"}
    assert fold.strange == {1: Met(2, 2)}


def test_a_record_out_of_turn_does_not_end_the_session_that_goes_on() -> None:
    forged = put(b"x", b"9", term=1, session=7, sequence=9)
    records = [*lead(7, b"1"), forged, put(b"k2", b"2", term=1, session=7, sequence=2)]
    topic = Topic(*records)
    topic.fold.fold(topic.log[:3])
    stuck_at = topic.fold.stuck_at
    assert stuck_at == 2
    topic.fold.fold(topic.log)
    stuck_at = topic.fold.stuck_at
    assert stuck_at is None
    assert topic.fold.counts.missing == 1
    assert values(topic.fold) == {b"k1": b"1", b"k2": b"2"}
