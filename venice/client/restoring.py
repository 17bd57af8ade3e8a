"""What was trimmed of a version topic, as a change reader makes up for it: the newest write of each key, from a checkpoint.

Read path: checkpoint → **restoring** → `venice/client/changes.py`. A replica is made of the checkpoint in a temporary folder, which
checks every byte, and read through once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from venice.errors import Corrupt, NotFound, VeniceError
from venice.model import Checkpoint, Version
from venice.naming import replica_name
from venice.record import Kind, Origin, Record
from venice.storage import Identity, Position
from venice.storage.format import decode_tombstone, decode_value
from venice.storage.snapshot import attach, read_manifest


class Restored:
    """The real-time writes that a checkpoint holds: deletes first, then values. One thread at a time; end with `close`.

    Args:
        store: Its name.
        version: The version.
        partition: The partition.
        checkpoint: Of that partition.

    Raises:
        NotFound: The checkpoint was deleted.
        Corrupt: It is not what was sealed.
        Full: There is no room for a copy, if its folder is on another disk than temporary files.
    """

    def __init__(self, store: str, version: Version, partition: int, checkpoint: Checkpoint) -> None:
        manifest = read_manifest(checkpoint.snapshot)
        self.position = manifest.position
        """Where reading the topic goes on."""
        self._folder = tempfile.TemporaryDirectory(prefix="venice-changes-")
        identity = Identity(
            store=store,
            version=version.number,
            partition=partition,
            topic_id=version.topic_id,
            incarnation="changes",
            snapshot_sha256=checkpoint.snapshot.sha256,
        )
        try:
            place = Path(self._folder.name) / replica_name(store, version.number, partition)
            self._storage = attach(checkpoint.snapshot, manifest, identity, place)
        except BaseException:
            self._folder.cleanup()
            raise
        self._records = chain(self._deletes(), self._values())

    def take(self, records_max: int) -> list[Record]:
        """The next ones; empty at the end. Rows of the push, which are no changes, are passed over. Raises Corrupt."""
        return list(islice(self._records, records_max))

    def close(self) -> None:
        """Give the disk back. Closing again does nothing."""
        self._storage.close()
        self._folder.cleanup()

    def _deletes(self) -> Iterator[Record]:
        for key, metadata in self._storage.scan_metadata():
            tombstone = decode_tombstone(metadata)
            yield Record(Kind.DELETE, key=key, origin=Origin.REAL_TIME, timestamp_ms=tombstone.timestamp_ms, region=tombstone.region)

    def _values(self) -> Iterator[Record]:
        for key, stored in self._storage.scan():
            found = decode_value(stored)
            if found.region is not None and found.timestamp_ms is not None:
                yield Record(
                    Kind.PUT,
                    key=key,
                    value=stored[found.offset :],
                    schema_id=found.schema_id,
                    origin=Origin.REAL_TIME,
                    timestamp_ms=found.timestamp_ms,
                    region=found.region,
                )


def covering(
    store: str, version: Version, partition: int, kept: Sequence[Checkpoint], first: int, emit_from: int
) -> Restored | Position | None:
    """Where to read a partition on whose topic begins at `first`; None if no checkpoint reaches that.

    Of those that end before anything is to be delivered the newest, and only its position: who leads, and what comes next. Else
    the oldest, so that most writes are delivered singly.

    Args:
        store: Its name.
        version: The version.
        partition: The partition.
        kept: Its checkpoints, newest first.
        first: Offset of the first record that is kept.
        emit_from: Changes from this offset on are to be delivered.

    Raises:
        NotFound, Corrupt: None of those that reach it is as it was sealed.
    """
    reaching = [one for one in kept if one.next_offset >= first]
    silent = [one for one in reaching if one.next_offset <= emit_from]
    failures: list[VeniceError] = []
    for one in [*silent, *reversed(reaching[: len(reaching) - len(silent)])]:
        try:
            if one.next_offset <= emit_from:
                return read_manifest(one.snapshot).position
            return Restored(store, version, partition, one)
        except (NotFound, Corrupt) as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return None
