"""Leaders that change, crash, linger and batch as they like: every replica ends with the write that stands, and none is lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from venice.ingest import ReplicaFold
from venice.leader import Leader, Standing, real_time_partitions
from venice.log import Entry
from venice.record import Kind, Origin, Record, encode
from venice.rules.merge import Write, stands
from venice.rules.partitioning import partition_of
from venice.storage import Identity
from venice.storage.format import decode_tombstone, decode_value
from venice.storage.memory import MemoryStorage

KEYS = [b"a", b"b", b"c"]
REPLICAS = 3
REGION = 0

writes = st.builds(
    Write,
    st.integers(1, 6),
    st.just(REGION),
    st.just(1),
    st.one_of(st.none(), st.sampled_from([b"1", b"2"])),
)


@given(st.lists(writes, max_size=6))
def test_the_write_that_stands_does_not_depend_on_the_order(history: list[Write]) -> None:
    def result(order: list[Write]) -> Write | None:
        state: Write | None = None
        for write in order:
            if stands(write, state):
                state = write
        return state

    shuffled = list(history)
    Random(5).shuffle(shuffled)
    # A delete's schema id says nothing: states are compared as merge keeps them.
    assert result(history) == result(shuffled) == result(history + history)


@dataclass
class World:
    """One partition: a real-time log, a version log, replicas at different offsets, leaders that may have been replaced."""

    rng: Random
    real_time: list[Entry] = field(default_factory=list)
    version: list[Entry] = field(default_factory=list)
    terms: int = 0
    sessions: int = 0
    leaders: list[tuple[int, Leader, list[bytes]]] = field(default_factory=list)
    """(replica, leader, what it has merged and not appended yet)"""

    def __post_init__(self) -> None:
        self.folds = [
            ReplicaFold(MemoryStorage(Identity(store="s", version=1, partition=0, topic_id="t", incarnation=str(i))))
            for i in range(REPLICAS)
        ]
        self.expected: dict[bytes, Write] = {}

    def write(self) -> None:
        key = self.rng.choice(KEYS)
        payload = self.rng.choice([b"1", b"2", b"3", None])
        write = Write(self.rng.randint(1, 30), REGION, 1 if payload is not None else 0, payload)
        kind = Kind.DELETE if payload is None else Kind.PUT
        record = Record(
            kind, key=key, value=payload or b"", schema_id=1, origin=Origin.REAL_TIME, timestamp_ms=write.timestamp_ms, region=REGION
        )
        self.real_time.append(Entry("s_rt", 0, len(self.real_time), 1000, encode(record)))
        if stands(write, self.expected.get(key)):
            self.expected[key] = write

    def elect(self) -> None:
        replica = self.rng.randrange(REPLICAS)
        self.terms += self.rng.randint(0, 1) or not self.terms
        self.sessions += 1  # never repeated, also when leaders are gone
        leader = Leader(self.folds[replica], partition_count=1, term=self.terms, session=self.sessions, start={(REGION, 0): 0})
        self.append([leader.declaration(0)])
        self.leaders.append((replica, leader, []))

    def append(self, payloads: list[bytes]) -> None:
        self.version += [Entry("s_v1", 0, len(self.version) + i, 0, payload) for i, payload in enumerate(payloads)]

    def lead(self, which: int) -> None:
        """One leader appends what it merged before, in part or whole, and merges on."""
        _, leader, pending = self.leaders[which]
        sent = self.rng.randint(0, len(pending)) if self.rng.random() < 0.2 else len(pending)
        self.append(pending[:sent])
        if sent < len(pending):  # it died in between: nothing more comes of this session
            self.leaders[which] = (*self.leaders[which][:2], [])
            del self.leaders[which]
            return
        pending.clear()
        if leader.standing is not Standing.LEADING:
            return
        first = leader.offsets[REGION, 0]
        pending += leader.opening() + leader.merge(REGION, self.real_time[first : first + self.rng.randint(1, 3)])
        if self.rng.random() < 0.3:
            pending += leader.progress(0)

    def fold(self, replica: int, at_most: int) -> None:
        fold = self.folds[replica]
        fold.fold(self.version[fold.next_offset : fold.next_offset + at_most])

    def run(self, steps: int) -> None:
        """So many times something happens, then everything comes to its end."""
        rng = self.rng
        for _ in range(steps):
            match rng.choice(
                ["write", "write", "write", "lead", "lead", "lead", "fold", "fold", "elect" if rng.random() < 0.3 else "write"]
            ):
                case "write":
                    self.write()
                case "elect":
                    self.elect()
                case "lead" if self.leaders:
                    # Old leaders linger: a stopped process that goes on must change nothing.
                    self.lead(rng.randrange(len(self.leaders)))
                case "fold":
                    self.fold(rng.randrange(REPLICAS), rng.randint(1, 5))
        self.finish()

    def check(self) -> None:
        """All replicas hold what the writes come to, at the same position."""
        states = [state_of(fold) for fold in self.folds]
        assert states[0] == self.expected
        assert all(state == states[0] for state in states)
        assert len({fold.storage.position for fold in self.folds}) == 1

    def finish(self) -> None:
        """A last leader brings everything to its end."""
        self.elect()
        which = len(self.leaders) - 1
        replica, leader, pending = self.leaders[which]
        self.fold(replica, len(self.version))
        while leader.offsets == {} or leader.offsets[REGION, 0] < len(self.real_time) or pending:
            assert leader.standing is Standing.LEADING
            self.append(pending)
            pending.clear()
            pending += leader.opening() + leader.merge(REGION, self.real_time[leader.offsets[REGION, 0] :][:3])
            self.fold(replica, len(self.version))
        for each in range(REPLICAS):
            self.fold(each, len(self.version))


def state_of(fold: ReplicaFold) -> dict[bytes, Write]:
    found: dict[bytes, Write] = {}
    for key, stored in fold.storage.scan():
        value = decode_value(stored)
        assert value.timestamp_ms is not None
        assert value.region is not None
        found[key] = Write(value.timestamp_ms, value.region, value.schema_id, stored[value.offset :])
    for key, metadata in fold.storage.scan_metadata():
        assert key not in found, "a value that the header describes has no metadata"
        tombstone = decode_tombstone(metadata)
        found[key] = Write(tombstone.timestamp_ms, tombstone.region, 0, None)
    return found


@given(st.integers(0, 2**32), st.integers(10, 80))
def test_no_write_is_lost_or_misordered_whoever_leads(seed: int, steps: int) -> None:
    world = World(Random(seed))
    world.run(steps)
    world.check()


@given(st.binary(max_size=8), st.integers(1, 64), st.integers(1, 64))
def test_a_partition_finds_its_keys_in_the_real_time_partitions_it_reads(key: bytes, count: int, real_time_count: int) -> None:
    read = real_time_partitions(partition_of(key, count), count, real_time_count)
    assert partition_of(key, real_time_count) in read
