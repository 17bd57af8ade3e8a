"""A controller's session with the catalog log: one life of one process, fenced by any later one.

Control path: command → **session** → log → catalog → every process.

Nothing counts because it was appended; it counts because the fold of the log took it. So each write is appended, folded
back, and only then true.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from venice.clock import Clock
from venice.control.catalog import Catalog, CatalogReader, Entity, encode_declaration, encode_entity, entity_key
from venice.errors import Fenced, Unavailable
from venice.log import Log
from venice.model import Store, VersionStatus
from venice.naming import CATALOG_TOPIC
from venice.telemetry import log_event

_ATTEMPTS = 5


class Session:
    """Writes whole entities in one (term, session). One thread at a time; `catalog` may be read from any.

    Args:
        log: Holds the catalog topic; created if missing.
        clock: Stamps the records.
        rng: Gives the session its number, which no other may share.
    """

    def __init__(self, log: Log, clock: Clock, rng: Random) -> None:
        self._log = log
        self._clock = clock
        self._rng = rng
        self._reader = CatalogReader(log)
        self.term = 0
        self.id = 0

    @property
    def catalog(self) -> Catalog:
        """As of the last `refresh` or `write`."""
        return self._reader.catalog

    def begin(self) -> Catalog:
        """Declare the session: from here on every earlier one is fenced, wherever it runs.

        Raises:
            Unavailable: Others keep declaring themselves at the same time.
        """
        self.id = self._rng.getrandbits(63) | 1
        for _ in range(_ATTEMPTS):
            self.term = self._reader.catch_up().term + 1
            self._log.append(CATALOG_TOPIC, 0, [encode_declaration(term=self.term, session=self.id, now_ms=self._clock.now_ms())])
            if self._holds(self._reader.catch_up()):
                return self.catalog
        raise Unavailable("other controllers declare themselves over and over", hint="run one controller per catalog")

    def refresh(self) -> Catalog:
        """The catalog as it is at the log's end.

        Raises:
            Fenced: A later controller has declared itself.
        """
        catalog = self._reader.catch_up()
        if not self._holds(catalog):
            raise Fenced(
                f"a newer controller (term {catalog.term}) has taken over from this one (term {self.term})",
                hint="stop this process; the other one serves",
            )
        return catalog

    def write(self, entities: Sequence[Entity]) -> Catalog:
        """Replace entities, in order; each may be named once. They were made from `catalog`.

        A crash in between leaves the first ones written: order them so that each prefix makes sense.

        Raises:
            Fenced: A later controller has declared itself; what stands after its declaration was not written.
            Unavailable: The log cannot be reached; whether they were written shows after the next `refresh`.
        """
        before = self.catalog
        now_ms = self._clock.now_ms()
        payloads = [
            encode_entity(
                entity,
                term=self.term,
                session=self.id,
                sequence=before.session_sequence + index,
                position=before.position(entity_key(entity)),
                now_ms=now_ms,
            )
            for index, entity in enumerate(entities, 1)
        ]
        try:
            offsets = self._log.append(CATALOG_TOPIC, 0, payloads)
        except Unavailable as error:
            # It may be in the log all the same, so a client must look before it repeats the command.
            raise Unavailable(error.message, hint=error.hint, again=False) from error
        after = self._reader.catch_up()
        for entity, offset in zip(entities, offsets, strict=True):
            if after.position(entity_key(entity)) != offset + 1:
                self.refresh()
                raise Unavailable(
                    f"catalog record {offset} ({entity_key(entity)}) was not taken: another one of this session came before it",
                    hint="look what the command has done, then try again",
                    again=False,
                )
            if isinstance(entity, Store):
                _log_changes(before.stores.get(entity.name), entity)
        return after

    def close(self) -> None:
        self._reader.close()

    def _holds(self, catalog: Catalog) -> bool:
        return (catalog.term, catalog.session) == (self.term, self.id)


def _log_changes(before: Store | None, after: Store) -> None:
    """Say what became of the versions; every change of a status passes here."""
    was = {version.number: version.status for version in before.versions} if before is not None else {}
    for version in after.versions:
        previous = was.pop(version.number, None)
        if previous is version.status:
            continue
        match version.status:
            case VersionStatus.STARTED if previous is None:
                log_event("version_created", store=after.name, version=version.number, push=version.push_id)
            case VersionStatus.ERROR:
                log_event("version_failed", store=after.name, version=version.number, reason=version.reason)
            case VersionStatus.KILLED:
                log_event("version_killed", store=after.name, version=version.number, reason=version.reason)
            case _:
                pass
    if before is not None and after.current != before.current:
        log_event("version_swapped", store=after.name, version=after.current, before=before.current)
    for number in was:
        log_event("version_retired", store=after.name, version=number)
