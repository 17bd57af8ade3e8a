"""Where a replica comes from: what is in its folder already, a checkpoint of its partition, or the version's snapshot.

Write path: push → snapshot → **attaching** → ingest → storage. Whatever it comes from, it goes on folding its version topic from
the position it holds, and is the same as any other replica at equal offset. Checkpoints are tried from the newest on; the
snapshot is the beginning of the topic, so it serves only as long as the topic reaches back there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from venice.errors import Corrupt, NotFound, Unavailable, VeniceError
from venice.log import Log
from venice.model import Checkpoint, SnapshotRef, Version
from venice.naming import replica_name, version_topic
from venice.storage import Identity, PartitionStorage
from venice.storage.snapshot import FileKind, Manifest, attach, open_replica, read_manifest
from venice.telemetry import log_event


class Manifests:
    """Manifests by reference, read once for all partitions of a version. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._by_sha: dict[str, Manifest] = {}

    def get(self, ref: SnapshotRef) -> Manifest:
        """As `read_manifest`."""
        with self._lock:
            found = self._by_sha.get(ref.sha256)
            if found is None:
                found = self._by_sha[ref.sha256] = read_manifest(ref)
                while len(self._by_sha) > 8:
                    del self._by_sha[next(iter(self._by_sha))]
            return found


@dataclass(frozen=True, slots=True)
class Attacher:
    """Opens or attaches the replicas below one folder. Safe in any thread, for different replicas at a time.

    Args:
        folder: Replica directories live below it.
        log: Where the version topics are.
        ids: Makes a new, never repeated incarnation name at each call.
    """

    folder: Path
    log: Log
    ids: Callable[[], str]
    _manifests: Manifests = field(default_factory=Manifests)

    def open_or_attach(self, store: str, version: Version, partition: int, checkpoints: Sequence[Checkpoint]) -> PartitionStorage:
        """A partition's replica, from which the log can be read on.

        Args:
            store: Its store.
            version: A sealed one.
            partition: Of the version.
            checkpoints: Those of the partition, newest first.

        Raises:
            NotFound: The snapshot, or the topic, is gone.
            Corrupt: Nothing from which the log can be read on is as it was sealed.
            Conflict: The replica is open already.
            Full: The disk is full.
            Unavailable: The topic begins after all that is known to this process, which hears of a checkpoint soon.
        """
        assert version.snapshot is not None, "only sealed versions are wanted"
        folder = self.folder / replica_name(store, version.number, partition)
        first = self.log.start_offset(version_topic(store, version.number), partition) if version.hybrid is not None else 0
        found = _opened(folder, version, first)
        if found is not None:
            missing = self._difference(found, version, partition)
            if not missing:
                return found
            found.close()
            log_event("replica_failed", replica=folder.name, reason=missing)
        shutil.rmtree(folder, ignore_errors=True)
        sources = [one.snapshot for one in checkpoints if one.next_offset >= first]
        if first == 0:
            sources.append(version.snapshot)
        failures: list[VeniceError] = []
        for source in sources:
            identity = Identity(
                store=store,
                version=version.number,
                partition=partition,
                topic_id=version.topic_id,
                incarnation=self.ids(),
                snapshot_sha256=source.sha256,
            )
            try:
                return attach(source, self._manifests.get(source), identity, folder)
            except (Corrupt, NotFound) as error:
                failures.append(error)
                if len(sources) > 1:
                    log_event("checkpoint_unusable", replica=folder.name, folder=source.uri, reason=error.message)
        if not failures:
            raise Unavailable(
                f"topic of {folder.name} begins at offset {first}, and this process knows of no checkpoint that reaches it",
                hint="it is tried again when the catalog names one",
            )
        raise failures[0] if len(failures) == 1 else _all_failed(folder.name, first, failures)

    def _difference(self, found: PartitionStorage, version: Version, partition: int) -> str:
        """How a replica that was attached before differs in its rows from what the push sealed; empty if it does not.

        Nothing changes a version until somebody has led it; after that, only its log can tell what it holds.
        """
        assert version.snapshot is not None, "only sealed versions are wanted"
        if found.position.session or found.identity.snapshot_sha256 != version.snapshot.sha256:
            return ""
        try:
            files = self._manifests.get(version.snapshot).of(partition)
        except (Corrupt, NotFound):
            return ""  # The replica is whole as far as anybody can tell, and there is nothing to make a new one of.
        rows, held = sum(file.rows for file in files if file.kind is FileKind.VALUES), found.row_count
        return "" if rows == held else f"it holds {held} rows, and {rows} were pushed: it is attached afresh"


def _opened(folder: Path, version: Version, first: int) -> PartitionStorage | None:
    """The replica that is in its folder, if it is of this version and the topic still has what it lacks."""
    assert version.snapshot is not None, "only sealed versions are wanted"
    found: PartitionStorage | None = None
    with suppress(Corrupt):
        found = open_replica(folder)
    if found is None:
        return None
    # A replica made of a checkpoint names that; the topic's identity says that both are of one version.
    same = version.hybrid is not None or found.identity.snapshot_sha256 == version.snapshot.sha256
    if same and found.identity.topic_id == version.topic_id and found.position.next_offset >= first:
        return found
    found.close()
    return None


def _all_failed(name: str, first: int, failures: Sequence[VeniceError]) -> Corrupt:
    return Corrupt(
        f"replica {name} cannot be made: its topic begins at offset {first}, and none of {len(failures)} snapshots is as it was sealed: "
        + "; ".join(error.message for error in failures),
        hint="put the folders back, or push the store again",
    )
