"""A storage read after any history of writes, flushes, compactions and restarts answers what a dict would."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rocks_replicas import attach_to, compact, flush, make

from venice.model import SnapshotRef
from venice.naming import replica_name
from venice.storage import Mutation, Position
from venice.storage.snapshot import checkpoint, open_replica

KEYS = [b"", *(b"key %02d" % number for number in range(20)), b"\xff"]
keys = st.sampled_from(KEYS)
contents = st.none() | st.binary(max_size=20) | st.integers(0, 9).map(lambda fill: bytes([fill]) * 2000)
mutations = st.builds(Mutation, keys, contents, st.none() | st.binary(max_size=5))


class LikeADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="venice-laws-"))
        self.lives = 0

    @initialize(rows=st.dictionaries(keys, st.binary(max_size=20), max_size=20))
    def start(self, rows: dict[bytes, bytes]) -> None:
        self.values = dict(rows)
        self.metadata: dict[bytes, bytes] = {}
        self.position = Position()
        self.storage = make(self.folder / "life-0", rows)

    @rule(batch=st.lists(mutations, max_size=12))
    def apply(self, batch: list[Mutation]) -> None:
        self.position = Position(next_offset=self.position.next_offset + len(batch), vector=((0, 1, len(batch)),))
        self.storage.apply(batch, self.position)
        for key, value, metadata in batch:
            for model, data in ((self.values, value), (self.metadata, metadata)):
                if data is None:
                    model.pop(key, None)
                else:
                    model[key] = data

    @rule()
    def flush(self) -> None:
        flush(self.storage)

    @rule()
    def compact(self) -> None:
        compact(self.storage)

    @rule()
    def restart(self) -> None:
        folder = self.storage.folder.parent
        self.storage.close()
        again = open_replica(folder)
        assert again is not None
        self.storage = again

    @rule()
    @precondition(lambda self: self.lives < 3)
    def move_by_checkpoint(self) -> None:
        self.lives += 1
        folder = self.folder / f"life-{self.lives}"
        ref = checkpoint(self.storage, folder / "checkpoint", partition_count=1, created_ms=1)
        self.storage.close()
        self.storage = attach_to(ref, folder)

    @invariant()
    def reads_are_those_of_a_dict(self) -> None:
        if not hasattr(self, "storage"):
            return
        assert self.storage.multi_get(KEYS) == [self.values.get(key) for key in KEYS]
        assert [self.storage.get(key) for key in KEYS] == [self.values.get(key) for key in KEYS]
        assert [self.storage.get_metadata(key) for key in KEYS] == [self.metadata.get(key) for key in KEYS]
        assert list(self.storage.scan()) == sorted(self.values.items())
        assert list(self.storage.scan_metadata(KEYS[9])) == sorted(row for row in self.metadata.items() if row[0] >= KEYS[9])
        assert self.storage.position == self.position

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()
        shutil.rmtree(self.folder)


TestLikeADict = LikeADict.TestCase
TestLikeADict.settings = settings(max_examples=8, stateful_step_count=20)


def batch_of(number: int) -> list[Mutation]:
    """Batch `number` of the history that a child writes and that its parent knows without being told."""
    source = random.Random(number)
    return [
        Mutation(
            b"key %02d" % source.randrange(60),
            source.choice([None, source.randbytes(source.randrange(300))]),
            source.choice([None, source.randbytes(4)]),
        )
        for _ in range(source.randrange(1, 20))
    ]


def write_until_killed(folder: Path) -> None:
    """Apply batch after batch from where the replica stands, saying each number once it is applied."""
    storage = open_replica(folder)
    assert storage is not None
    number = storage.position.next_offset
    while True:
        storage.apply(batch_of(number), Position(next_offset=number + 1))
        number += 1
        print(number, flush=True)
        if number % 37 == 0:
            flush(storage)
        if number % 101 == 0:
            compact(storage)


def test_what_was_applied_survives_sigkill(tmp_path: Path) -> None:
    make(tmp_path, {}).close()
    folder = tmp_path / replica_name("s", 1, 0)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    values: dict[bytes, bytes] = {}
    metadata: dict[bytes, bytes] = {}
    replayed = 0
    for _ in range(6):
        child = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(source.randrange(1, 250))]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().splitlines(keepends=True)
        child.stdout.close()
        child.wait()
        last = int(next(line for line in reversed(said) if line.endswith("\n")))
        storage = open_replica(folder)
        assert storage is not None
        reached = storage.position.next_offset
        assert last <= reached <= last + 1
        for number in range(replayed, reached):
            for key, value, data in batch_of(number):
                for model, content in ((values, value), (metadata, data)):
                    if content is None:
                        model.pop(key, None)
                    else:
                        model[key] = content
        replayed = reached
        assert list(storage.scan()) == sorted(values.items())
        assert list(storage.scan_metadata()) == sorted(metadata.items())
        storage.close()


def attach_until_killed(folder: Path) -> None:
    """Attach the sealed folder over and over, each replica in a folder of its own."""
    sealed = folder / "sealed"
    ref = SnapshotRef(uri=str(sealed), sha256=(folder / "sha256").read_text())
    for number in range(10_000):
        attach_to(ref, folder / f"attempt-{number}").close()
        print(number, flush=True)


def test_an_attachment_is_whole_or_nothing_after_sigkill(tmp_path: Path) -> None:
    rows = {b"%05d" % number: random.Random(number).randbytes(100) for number in range(20_000)}
    first = make(tmp_path, rows)
    (tmp_path / "sha256").write_text(first.identity.snapshot_sha256)
    first.close()
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    source = random.Random(seed)
    interrupted = 0
    for _ in range(6):
        child = subprocess.Popen([sys.executable, __file__, str(tmp_path), "attach"], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(timeout=source.random() * 0.1)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.stdout.read()
        child.stdout.close()
        child.wait()
        for attempt in tmp_path.glob("attempt-*"):
            interrupted += any(attempt.glob("*/.tmp-*"))
            storage = open_replica(attempt / replica_name("s", 1, 0))
            if storage is not None:
                assert storage.row_count == len(rows)
                assert storage.get(b"10000") == rows[b"10000"]
                storage.close()
            assert not any(attempt.glob("*/.tmp-*"))
            shutil.rmtree(attempt)
    print(f"{interrupted} attachments were interrupted")


if __name__ == "__main__":
    if sys.argv[2:] == ["attach"]:
        attach_until_killed(Path(sys.argv[1]))
    write_until_killed(Path(sys.argv[1]))
