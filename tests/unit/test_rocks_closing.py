"""Closing a replica under its readers: the directory is released, and each reader is told so in the usual way."""

from __future__ import annotations

import threading
from pathlib import Path

from venice.errors import Unavailable
from venice.model import SnapshotRef
from venice.storage import Identity, Mutation, Position
from venice.storage.manifest import Manifest
from venice.storage.rocks import RocksStorage
from venice.storage.sealed import read_manifest, seal
from venice.storage.snapshot import attach, open_replica

KEYS = [b"%05d" % number for number in range(2000)]


def attached(folder: Path) -> RocksStorage:
    (folder / "sealed").mkdir()
    ref: SnapshotRef = seal(folder / "sealed", Manifest(store="s", version=1, partition_count=1, created_ms=1, value_schema_id=1, files=()))
    identity = Identity(store="s", version=1, partition=0, topic_id="t", incarnation="life", snapshot_sha256=ref.sha256)
    return attach(ref, read_manifest(ref), identity, folder / "s_v1.000000")


def read(storage: RocksStorage, begun: threading.Event, said: list[BaseException]) -> None:
    """Read until that is refused, and keep how."""
    try:
        while True:
            storage.multi_get(KEYS)
            begun.set()
    except BaseException as error:  # noqa: BLE001 - judged by the test
        said.append(error)


def test_a_replica_that_is_being_read_is_closed_all_the_same(tmp_path: Path) -> None:
    storage = attached(tmp_path)
    storage.apply([Mutation(key, bytes(2000)) for key in KEYS], Position(next_offset=1))
    for _ in range(20):
        said: list[BaseException] = []
        reading = [threading.Event() for _ in range(3)]

        readers = [threading.Thread(target=read, args=(storage, begun, said)) for begun in reading]
        for reader in readers:
            reader.start()
        for begun in reading:
            begun.wait()
        storage.apply([Mutation(key, bytes(2000)) for key in KEYS[:200]], Position(next_offset=1))
        storage.close()
        for reader in readers:
            reader.join()
        assert [type(error) for error in said] == [Unavailable] * 3, said
        again = open_replica(tmp_path / "s_v1.000000")
        assert again is not None
        storage = again
    storage.close()
