"""A hybrid store under a real controller, whose worker only reports and whose checkpoints are real folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, push

from venice.clock import Clock
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog
from venice.model import Checkpoint, HybridConfig, ReplicaReport, ReplicaState, StoreConfig
from venice.naming import checkpoint_name, snapshot_folder
from venice.storage import Identity, Mutation, Position
from venice.storage.memory import MemoryStorage
from venice.storage.snapshot import checkpoint, described, read_manifest

REWIND_S = 60
MARGIN_S = 30


class Hybrid:
    """A store of one partition with a version that serves, one worker, and its topics filled by hand."""

    def __init__(
        self, folder: Path, log: SqliteLog, clock: Clock, *, seed: int = 1, margin_s: float = MARGIN_S, grace_s: float = 5
    ) -> None:
        self.log, self.clock = log, clock
        self.policy = replace(make_policy(folder), topic_margin_s=margin_s, retire_grace_s=grace_s)
        self.controller = open_controller(log, clock, self.policy, seed)
        self.workers = Workers(log, clock, "a-0")
        self.names = Random(seed)
        self.workers.report(self.controller)
        self.controller.tick()
        if "s" not in self.controller.catalog.stores:
            self._create()

    def _create(self) -> None:
        self.controller.create_store(
            "s",
            key_schema=KEY_SCHEMA,
            value_schema=VALUE_SCHEMA,
            config=StoreConfig(partition_count=1, versions_preserved=1),
            hybrid=HybridConfig(rewind_s=REWIND_S),
        )
        push(self.controller, self.workers, "s", "p1")

    def restart(self, seed: int = 2) -> Controller:
        self.controller = open_controller(self.log, self.clock, self.policy, seed)
        return self.controller

    def fill(self, topic: str, count: int = 10) -> int:
        """Append, and say where the topic ends; the records are as old as they are when this is called."""
        self.log.append(topic, 0, [b"x"] * count)
        return self.log.end_offset(topic, 0)

    def write(self, next_offset: int, merged: int, version: int = 1) -> Checkpoint:
        """A checkpoint as a worker writes it, of a replica that was folded so far."""
        found = self.controller.catalog.stores["s"].version(version)
        assert found is not None, f"version {version} was made before it is checkpointed"
        storage = MemoryStorage(Identity(store="s", version=version, partition=0, topic_id=found.topic_id, incarnation="i"))
        storage.apply([Mutation(b"k", b"\0\1\0\0\0v")], Position(next_offset=next_offset, vector=((0, 0, merged),), term=1, session=1))
        name = checkpoint_name(0, next_offset, "0" * 8, f"{self.names.getrandbits(32):x}")
        folder = Path(self.policy.blobs_url) / snapshot_folder("s", version, name)
        ref = checkpoint(storage, folder, partition_count=1, created_ms=self.clock.now_ms())
        return described(ref, read_manifest(ref))

    def report(self, one: Checkpoint | None, version: int = 1) -> None:
        """The worker reports, and the controller looks after things."""
        replica = ReplicaReport(store="s", version=version, partition=0, state=ReplicaState.READY, checkpoint=one)
        self.workers.send(self.workers.workers["a-0"], (replica,))
        self.controller.tick()

    def tick(self, seconds: float = 0) -> None:
        """Time passes, and the worker is heard."""
        self.clock.sleep(seconds)
        self.report(None)

    def kept(self, version: int = 1) -> tuple[Checkpoint, ...]:
        return self.controller.catalog.kept("s", version, 0)

    def folders(self) -> set[str]:
        return {folder.name for folder in (Path(self.policy.blobs_url) / "s" / "s_v1").iterdir() if folder.name.startswith("checkpoint")}

    def starts(self) -> tuple[int, int]:
        """Where the version topic and the real-time topic begin."""
        return self.log.start_offset("s_v1", 0), self.log.start_offset("s_rt", 0)
