"""Checkpoints at the controller: what workers report goes into the catalog, and what topics need no more is deleted.

Control path: report → **checkpoints** → log → catalog → replicas made later.

Nothing here has a memory that matters: a round compares reports, catalog, blob folder and log as they are, so a controller
that is killed at any moment is replaced by another one's next round. The order is: a checkpoint is sealed, recorded, and only
then counted on. What is deleted is decided by offsets and times that only grow, so that a controller which was suspended, and
decides late what an old catalog told it, deletes less than it might and never more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from venice.clock import Clock
from venice.control.blobs import Blobs
from venice.control.catalog import Catalog
from venice.control.reports import LIVE_S, Reports
from venice.errors import Corrupt, NotFound, Unavailable, VeniceError
from venice.log import Log
from venice.model import Checkpoint, PartitionCheckpoints, Store, Version
from venice.naming import parse_checkpoint_name, real_time_topic, version_topic
from venice.rules.lifecycle import FAILED
from venice.rules.trimming import KEPT, real_time_needs, rewind_s, version_topic_cut
from venice.storage.snapshot import described, read_manifest
from venice.telemetry import log_event


@dataclass(frozen=True, slots=True)
class Reported:
    """A checkpoint that a worker says it has sealed."""

    store: str
    version: Version
    partition: int
    checkpoint: Checkpoint


def reported(catalog: Catalog, reports: Reports) -> list[Reported]:
    """What live workers report and the catalog could take."""
    found: dict[tuple[str, int, int], Reported] = {}
    for report in reports.reporting(LIVE_S):
        for replica in report.replicas:
            if replica.checkpoint is None:
                continue
            store = catalog.stores.get(replica.store)
            version = store.version(replica.version) if store is not None else None
            if version is None or not _takes(catalog, replica.store, version, replica.partition, replica.checkpoint):
                continue
            key = (replica.store, replica.version, replica.partition)
            if key not in found or found[key].checkpoint.next_offset < replica.checkpoint.next_offset:
                found[key] = Reported(replica.store, version, replica.partition, replica.checkpoint)
    return list(found.values())


def recorded(catalog: Catalog, sound: Iterable[Reported]) -> list[PartitionCheckpoints]:
    """The entities that take `sound` checkpoints in, as far as the catalog, which may be a newer one, still takes them."""
    changed: list[PartitionCheckpoints] = []
    for one in sound:
        store = catalog.stores.get(one.store)
        version = store.version(one.version.number) if store is not None else None
        if version is None or version.topic_id != one.version.topic_id:
            continue
        if _takes(catalog, one.store, version, one.partition, one.checkpoint):
            before = catalog.checkpoints.get((one.store, version.number, one.partition))
            kept = (one.checkpoint, *(before.kept if before is not None else ()))[:KEPT]
            changed.append(PartitionCheckpoints(store=one.store, version=version.number, partition=one.partition, kept=kept))
    return changed


class Trimmer:
    """Checks checkpoints, and deletes what they make superfluous. One thread at a time; holds no lock while it does.

    Args:
        log: Where the topics are.
        blobs: Where the checkpoints are.
        clock: Says when to look again.
        margin_s: Records younger than this stay whatever covers them, for readers that are a little behind.
    """

    def __init__(self, log: Log, blobs: Blobs, clock: Clock, margin_s: float) -> None:
        self._log = log
        self._blobs = blobs
        self._clock = clock
        self._margin_s = margin_s
        # Each look costs questions to the log, and what is left for an hour need not go to the second.
        self._pause_s = min(max(margin_s / 60, 1.0), 60.0)
        self._looked_s: float | None = None
        self._done: dict[tuple[str, int], int] = {}
        """(topic, partition) → the cut that was made: the log need not be asked again."""
        self._problems: list[str] = []

    def check(self, found: Iterable[Reported]) -> tuple[list[Reported], list[str]]:
        """Those that are as their workers say, as their manifests describe them; and what is wrong with the others."""
        sound: list[Reported] = []
        problems: list[str] = []
        for one in found:
            try:
                sound.append(self._described(one))
            except VeniceError as error:
                problems.append(f"checkpoint {one.checkpoint.snapshot.uri}: {error.message}")
        return sound, problems

    def trim(self, catalog: Catalog, now_ms: int) -> list[str]:
        """Delete what is due of version topics and real-time topics; what could not be, as text.

        Args:
            catalog: Of a session that still held at `now_ms`. A version begun later rewinds from a later time, so nothing
                it may want is deleted, however late this runs.
            now_ms: Taken when the catalog was.
        """
        now_s = self._clock.monotonic_s()
        if self._looked_s is not None and now_s - self._looked_s < self._pause_s:
            return self._problems
        self._looked_s = now_s
        self._problems = []
        done: dict[tuple[str, int], int] = {}
        younger_ms = now_ms - int(self._margin_s * 1000)
        for entity in catalog.checkpoints.values():
            version = catalog.stores[entity.store].version(entity.version)
            if version is not None and version.status not in FAILED:
                at, cut = (version_topic(entity.store, entity.version), entity.partition), version_topic_cut(entity.kept)
                if cut and (self._done.get(at, 0) >= cut or self._trim_version_topic(*at, cut, entity, younger_ms)):
                    done[at] = cut
        self._done = done
        # With several regions, leaders elsewhere read this topic too, and how far they are is not known here.
        if len(catalog.regions) == 1:
            (region,) = catalog.regions.values()
            for store in catalog.stores.values():
                self._trim_real_time(store, real_time_needs(store, catalog.checkpoints, region.id), younger_ms)
        return self._problems

    def _described(self, one: Reported) -> Reported:
        snapshot = one.checkpoint.snapshot
        self._blobs.check_attempt(snapshot.uri, one.store, one.version.number)
        manifest = read_manifest(snapshot)
        self._blobs.check_files(snapshot.uri, manifest)
        said = (manifest.store, manifest.version, manifest.partition_count, manifest.partition, manifest.topic_id)
        expected = (one.store, one.version.number, one.version.partition_count, one.partition, one.version.topic_id)
        if said != expected or manifest.position.next_offset != one.checkpoint.next_offset:
            raise Corrupt(f"its manifest is of {said} at offset {manifest.position.next_offset}", hint="look at the worker that wrote it")
        return Reported(one.store, one.version, one.partition, described(snapshot, manifest))

    def _trim_version_topic(self, topic: str, partition: int, cut: int, entity: PartitionCheckpoints, younger_ms: int) -> bool:
        try:
            # Counted on from here on, so looked at once more.
            for checkpoint in entity.kept:
                self._blobs.check_files(checkpoint.snapshot.uri, read_manifest(checkpoint.snapshot))
        except VeniceError as error:
            self._problems.append(f"topic {topic}[{partition}] is not trimmed: {error.message}")
            return False
        return self._trim(topic, partition, cut, younger_ms)

    def _trim_real_time(self, store: Store, needs: dict[int, int], younger_ms: int) -> None:
        older_ms = younger_ms - rewind_s(store) * 1000
        for partition in range(store.real_time_partitions):
            cut = needs.get(partition)
            if cut != 0:
                self._trim(real_time_topic(store.name), partition, cut, older_ms)

    def _trim(self, topic: str, partition: int, cut: int | None, younger_ms: int) -> bool:
        """Delete what lies before `cut` (None: no offset holds it back) and is older than `younger_ms`; whether all of it is gone."""
        try:
            start = self._log.start_offset(topic, partition)
            if cut is not None and cut <= start:
                return True
            older = self._log.offset_for_time(topic, partition, max(0, younger_ms))
            before = older if cut is None else min(cut, older)
            if before > start:
                self._log.delete_prefix(topic, partition, before)
                log_event("topic_trimmed", topic=topic, partition=partition, before=before)
            return before == cut
        except NotFound:
            return True  # with its version, or its store
        except Unavailable:
            raise
        except VeniceError as error:
            self._problems.append(f"topic {topic}[{partition}] cannot be trimmed before {cut}: {error.message}")
            return False


def is_superseded(catalog: Catalog, store: str, version: int, uri: str) -> bool:
    """Whether a checkpoint's folder is none of those kept, and can become none: the catalog takes only newer ones."""
    parsed = parse_checkpoint_name(Path(uri).name)
    assert parsed is not None, "only folders of checkpoints are asked about"
    found = catalog.checkpoints.get((store, version, parsed[0]))
    if found is None or parsed[1] > found.kept[0].next_offset:
        return False
    return Path(uri).name not in {Path(one.snapshot.uri).name for one in found.kept}


def _takes(catalog: Catalog, store: str, version: Version, partition: int, checkpoint: Checkpoint) -> bool:
    """Whether the catalog may take a checkpoint: of a hybrid version that lives, named as it is, and newer than all it has."""
    if version.hybrid is None or version.status in FAILED or not 0 <= partition < version.partition_count:
        return False
    parsed = parse_checkpoint_name(Path(checkpoint.snapshot.uri).name)
    if parsed is None or parsed[:2] != (partition, checkpoint.next_offset):
        return False
    before = catalog.checkpoints.get((store, version.number, partition))
    return before is None or checkpoint.next_offset > before.kept[0].next_offset
