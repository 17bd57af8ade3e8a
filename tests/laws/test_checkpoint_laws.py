"""A replica made of a checkpoint is the one it was taken of, whoever led before and after, and whoever leads from it."""

from __future__ import annotations

import tempfile
from itertools import count
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from test_leader_laws import REPLICAS, World, state_of

from venice.ingest import ReplicaFold
from venice.naming import replica_name
from venice.storage import Identity, PartitionStorage
from venice.storage.rocks import RocksStorage
from venice.storage.snapshot import attach, checkpoint, read_manifest


class Checkpoints:
    """Checkpoints of a world's replicas on a real disk, and the replicas that were made of them."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.world = world
        self.opened: list[RocksStorage] = []
        self._names = count()

    def restored(self, storage: PartitionStorage) -> ReplicaFold:
        name = f"c{next(self._names)}"
        ref = checkpoint(storage, self.folder / "blobs" / name, partition_count=1, created_ms=0)
        identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation=name, snapshot_sha256=ref.sha256)
        made = attach(ref, read_manifest(ref), identity, self.folder / name / replica_name("s", 1, 0))
        self.opened.append(made)
        assert made.position == storage.position
        return ReplicaFold(made)

    def close(self) -> None:
        for storage in self.opened:
            storage.close()


def rows(fold: ReplicaFold) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
    return list(fold.storage.scan()), list(fold.storage.scan_metadata())


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(10, 60))
def test_folding_from_a_checkpoint_is_folding_from_the_beginning(seed: int, steps: int) -> None:
    rng = Random(seed)
    world = World(rng)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), world)
        try:
            late: list[ReplicaFold] = []
            for _ in range(steps):
                match rng.choice(["write", "write", "write", "lead", "lead", "fold", "fold", "elect", "take"]):
                    case "write":
                        world.write()
                    case "elect" if rng.random() < 0.4:
                        world.elect()
                    case "lead" if world.leaders:
                        world.lead(rng.randrange(len(world.leaders)))
                    case "fold":
                        world.fold(rng.randrange(REPLICAS), rng.randint(1, 5))
                    case "take" if len(checkpoints.opened) < 4:
                        made = checkpoints.restored(rng.choice(world.folds).storage)
                        if rng.random() < 0.5:
                            # It takes the place of one that was lost, and may lead from here on.
                            world.folds[rng.randrange(REPLICAS)] = made
                        else:
                            late.append(made)
            world.finish()
            for fold in late:
                # What was before its position is trimmed: only the rest is there to be folded.
                rest = world.version[fold.next_offset :]
                while rest:
                    cut = rng.randint(1, len(rest))
                    fold.fold(rest[:cut])
                    rest = rest[cut:]
            everyone = [*world.folds, *late, checkpoints.restored(world.folds[0].storage)]
            assert state_of(world.folds[0]) == world.expected
            assert all(rows(fold) == rows(everyone[0]) for fold in everyone)
            assert len({fold.storage.position for fold in everyone}) == 1
        finally:
            checkpoints.close()
