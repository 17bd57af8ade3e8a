"""What retired versions leave behind: blob folders and version topics that no version of the catalog needs.

Nothing is kept on what is to be deleted: it is the difference between what is there and what the catalog names, so that
a controller that died in the middle needs no memory. Only names the catalog has given out are touched.
"""

from __future__ import annotations

from pathlib import Path

from venice.clock import Clock
from venice.control.blobs import Blobs
from venice.control.catalog import Catalog
from venice.control.checkpoints import is_superseded
from venice.log import Log
from venice.model import Version, VersionStatus
from venice.naming import dead_letter_topic, parse_checkpoint_name, parse_version_topic, real_time_topic
from venice.rules.lifecycle import FAILED


class Cleanup:
    """Deletes leftovers once they have been leftovers for `grace_s`. One thread at a time.

    The grace is longer than the time for which workers keep a retired version open; after a restart it begins anew.
    """

    def __init__(self, log: Log, blobs: Blobs, clock: Clock, grace_s: float) -> None:
        self._log = log
        self._blobs = blobs
        self._clock = clock
        self._grace_s = grace_s
        self._since_s: dict[str, float] = {}
        """Leftover → when it was first seen to be one."""
        self._buried_s: dict[str, float] = {}
        """Real-time topic of a deleted store → when it was first seen to be that."""

    def sweep_real_time(self, catalog: Catalog) -> None:
        """Delete the real-time topics of deleted stores that are due.

        Unlike a version's topic theirs may be wanted again, by a new store of the name: no command may run meanwhile.
        """
        deleted = [name for name in catalog.graveyards if name not in catalog.stores]
        buried = {topic for name in deleted for topic in (real_time_topic(name), dead_letter_topic(name))}
        found = buried.intersection(self._log.topics()) if buried else ()
        now_s = self._clock.monotonic_s()
        self._buried_s = {topic: self._buried_s.get(topic, now_s) for topic in found}
        for topic, since_s in self._buried_s.items():
            if now_s - since_s >= self._grace_s:
                self._log.delete_topic(topic)

    def sweep(self, catalog: Catalog) -> list[str]:
        """Delete what is due and return what could not be deleted: it is tried again at the next sweep.

        `catalog` must be the one of a session that still holds, or what a newer controller has begun would be deleted.
        """
        topics = {f"topic {name}": name for name in self._log.topics() if _is_left(catalog, *(parse_version_topic(name) or ("", 0)))}
        names = iter(sorted({*catalog.stores, *catalog.graveyards}))
        stale = [(store, uri) for store, number, uri in self._blobs.attempts(names) if _is_stale(catalog, store, number, uri)]
        folders = {f"folder {uri}": (uri, store not in catalog.stores) for store, uri in stale}
        now_s = self._clock.monotonic_s()
        self._since_s = {name: self._since_s.get(name, now_s) for name in (*topics, *folders)}
        problems: list[str] = []
        for name, since_s in self._since_s.items():
            if now_s - since_s < self._grace_s:
                continue
            if name in topics:
                self._log.delete_topic(topics[name])
                continue
            try:
                uri, store_is_gone = folders[name]
                self._blobs.delete(uri, store_is_gone=store_is_gone)
            except OSError as error:
                problems.append(f"{name} cannot be deleted: {error.strerror}")
        return problems


def _is_left(catalog: Catalog, store: str, number: int) -> bool:
    """This name has given out the number, and no version has it any more."""
    known = catalog.stores.get(store) or catalog.graveyards.get(store)
    return known is not None and 0 < number <= known.largest_version and _version(catalog, store, number) is None


def _is_stale(catalog: Catalog, store: str, number: int, uri: str) -> bool:
    version = _version(catalog, store, number)
    if version is None:
        return _is_left(catalog, store, number)
    if version.status in FAILED:
        return True
    if parse_checkpoint_name(Path(uri).name) is not None:
        return is_superseded(catalog, store, number, uri)
    # Attempts that lost to the sealed one; before the seal, any may still win.
    return version.snapshot is not None and version.snapshot.uri != uri and version.status is not VersionStatus.STARTED


def _version(catalog: Catalog, store: str, number: int) -> Version | None:
    found = catalog.stores.get(store)
    return found.version(number) if found is not None else None
