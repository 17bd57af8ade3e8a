"""Keys written long ago and written again, around flushes, compactions, restarts and moves: a read gives the last write that stands."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rocks_replicas import attach_to, compact, flush, make

from venice.ingest import ReplicaFold
from venice.leader import Leader, Standing
from venice.log import Entry
from venice.record import Kind, Origin, Record, encode
from venice.rules.merge import BATCH_TIMESTAMP_MS, NO_REGION, Write, stands
from venice.storage.format import decode_tombstone, decode_value, encode_value
from venice.storage.rocks import RocksStorage
from venice.storage.snapshot import checkpoint, open_replica

REGION = 0
KEYS = [b"cold %02d" % number for number in range(12)]
FILLERS = [b"between %03d" % number for number in range(200)]
"""Keys that push others out of the memtable, and into files of their own."""

keys = st.sampled_from(KEYS)
payloads = st.none() | st.binary(max_size=8) | st.integers(0, 9).map(lambda fill: bytes([fill]) * 3000)


class ColdKeys(RuleBasedStateMachine):
    """One partition whose replica leads: a real-time log, a version log, and a dict per key of what was written in what order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="venice-laws-"))
        self.real_time: list[Entry] = []
        self.writes: list[tuple[bytes, Write]] = []
        self.version: list[Entry] = []
        self.sessions = 0
        self.lives = 0

    @initialize(rows=st.dictionaries(keys, st.binary(max_size=8)))
    def start(self, rows: dict[bytes, bytes]) -> None:
        self.pushed = rows
        self.fold = ReplicaFold(make(self.folder / "life-0", {key: encode_value(1, row) for key, row in rows.items()}))
        self.begin()

    @property
    def rocks(self) -> RocksStorage:
        assert isinstance(self.fold.storage, RocksStorage)
        return self.fold.storage

    def begin(self) -> None:
        """A new session of the replica that leads, which begins with what it has folded."""
        self.sessions += 1
        self.leader = Leader(self.fold, partition_count=1, term=1, session=self.sessions, start={(REGION, 0): 0})
        self.append([self.leader.declaration(0)])
        self.follow()

    def append(self, records: list[bytes]) -> None:
        self.version += [Entry("s_v1", 0, len(self.version) + i, 0, record) for i, record in enumerate(records)]

    def follow(self) -> None:
        self.fold.fold(self.version[self.fold.next_offset :])

    def write(self, key: bytes, payload: bytes | None, at_ms: int) -> None:
        write = Write(at_ms, REGION, 1 if payload is not None else 0, payload)
        kind = Kind.PUT if payload is not None else Kind.DELETE
        record = Record(kind, key=key, value=payload or b"", schema_id=write.schema_id, origin=Origin.REAL_TIME, timestamp_ms=at_ms)
        self.real_time.append(Entry("s_rt", 0, len(self.real_time), 1_000_000, encode(record)))
        self.writes.append((key, write))

    @rule(key=keys, payload=payloads, late=st.integers(0, 5))
    def put_or_delete(self, key: bytes, payload: bytes | None, late: int) -> None:
        self.write(key, payload, max(1, len(self.writes) + 1 - late))

    @rule(key=keys, first=payloads, second=payloads, late=st.booleans(), between=st.sampled_from(["flush", "compact", "restart", "lead"]))
    def write_twice(self, key: bytes, first: bytes | None, second: bytes | None, late: bool, between: str) -> None:
        at_ms = len(self.writes) + 10
        self.write(key, first, at_ms)
        self.lead()
        if between != "lead":  # the first is still on its way through the log then
            self.follow()
            getattr(self, between)()
        self.write(key, second, at_ms - 1 if late else at_ms + 1)
        self.lead()
        self.follow()
        assert self.shown(key) == self.expected().get(key)

    @rule(seed=st.integers(0, 2**32))
    def fill(self, seed: int) -> None:
        rng = random.Random(seed)
        for key in rng.sample(FILLERS, 40):
            self.write(key, rng.randbytes(rng.randrange(200)), len(self.writes) + 1)

    @rule()
    def lead(self) -> None:
        """Merge what has come, and append it; the replica folds it later, so the overlay stands in for it."""
        if self.leader.standing is Standing.LEADING:
            self.append(self.leader.merge(REGION, self.real_time[self.leader.offsets[REGION, 0] :]))

    @rule(count=st.integers(1, 50))
    def fold_some(self, count: int) -> None:
        self.fold.fold(self.version[self.fold.next_offset :][:count])

    @rule()
    def flush(self) -> None:
        flush(self.rocks)

    @rule()
    def compact(self) -> None:
        compact(self.rocks)

    @rule()
    def restart(self) -> None:
        folder = self.rocks.folder.parent
        self.rocks.close()
        storage = open_replica(folder)
        assert storage is not None
        self.fold = ReplicaFold(storage)
        self.begin()

    @rule()
    @precondition(lambda self: self.lives < 3)
    def move_by_checkpoint(self) -> None:
        self.lives += 1
        folder = self.folder / f"life-{self.lives}"
        ref = checkpoint(self.rocks, folder / "checkpoint", partition_count=1, created_ms=1)
        self.rocks.close()
        self.fold = ReplicaFold(attach_to(ref, folder))
        self.begin()

    @invariant()
    def the_replica_shows_what_its_vector_covers(self) -> None:
        if not hasattr(self, "fold"):
            return
        expected = self.expected()
        assert [self.shown(key) for key in KEYS] == [expected.get(key) for key in KEYS]

    def expected(self) -> dict[bytes, Write]:
        """Pushed rows, then every write the replica has folded the merging of: the one that stands."""
        position = self.fold.storage.position
        covered = next((offset for region, partition, offset in position.vector if (region, partition) == (REGION, 0)), 0)
        found = {key: Write(BATCH_TIMESTAMP_MS, NO_REGION, 1, row) for key, row in self.pushed.items()}
        for key, write in self.writes[:covered]:
            if stands(write, found.get(key)):
                found[key] = write
        return found

    def shown(self, key: bytes) -> Write | None:
        """What a read of the replica gives, as a write."""
        stored, metadata = self.rocks.get(key), self.rocks.get_metadata(key)
        assert stored == self.rocks.multi_get([key])[0]
        if stored is None:
            if metadata is None:
                return None
            tombstone = decode_tombstone(metadata)
            return Write(tombstone.timestamp_ms, tombstone.region, 0, None)
        assert metadata is None
        value = decode_value(stored)
        if value.region is None:
            return Write(BATCH_TIMESTAMP_MS, NO_REGION, value.schema_id, stored[value.offset :])
        assert value.timestamp_ms is not None
        return Write(value.timestamp_ms, value.region, value.schema_id, stored[value.offset :])

    def teardown(self) -> None:
        if hasattr(self, "fold"):
            self.rocks.close()
        shutil.rmtree(self.folder)


TestColdKeys = ColdKeys.TestCase
TestColdKeys.settings = settings(max_examples=12, stateful_step_count=30)
