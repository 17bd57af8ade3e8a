"""The life of a version: one table, and what its events do to a store. Pure.

    STARTED ──► ONLINE                 every partition is ready: swapped in
    STARTED ──► PUSHED ──► ONLINE      the swap was deferred: an operator rolls forward
    STARTED ──► PUSHED ──► STARTED     it is ready on its first nodes: it goes to the others
    ONLINE  ──► ROLLED_BACK ──► ONLINE an operator rolls back, and forward again

`Store.current` names the version that serves. Above it a version is *future*, below it an ONLINE one is *backup*.
CREATED and PARTIALLY_ONLINE are codes of several regions under one parent; a region never gives them.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from venice.errors import Conflict, NotFound
from venice.model import NO_VERSION, Rollout, Store, Version, VersionStatus


class Event(StrEnum):
    """What happens to a version."""

    START = "start"
    COMPLETE = "complete"
    COMPLETE_DEFERRED = "complete, swap deferred"
    FAIL = "fail"
    KILL = "kill"
    ROLL_BACK = "roll back"
    ROLL_FORWARD = "roll forward"
    ROLL_OUT = "roll out"
    RETIRE = "retire"


class Role(StrEnum):
    """What a version is to its store."""

    CURRENT = "current"
    FUTURE = "future"
    BACKUP = "backup"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


_S = VersionStatus
_E = Event

TRANSITIONS: dict[tuple[VersionStatus, Event], VersionStatus | None] = {
    (_S.NOT_CREATED, _E.START): _S.STARTED,
    (_S.STARTED, _E.COMPLETE): _S.ONLINE,
    (_S.STARTED, _E.COMPLETE_DEFERRED): _S.PUSHED,
    (_S.STARTED, _E.FAIL): _S.ERROR,
    (_S.STARTED, _E.KILL): _S.KILLED,
    (_S.STARTED, _E.RETIRE): None,
    (_S.PUSHED, _E.ROLL_FORWARD): _S.ONLINE,
    (_S.PUSHED, _E.ROLL_OUT): _S.STARTED,
    (_S.PUSHED, _E.FAIL): _S.ERROR,
    (_S.PUSHED, _E.KILL): _S.KILLED,
    (_S.PUSHED, _E.RETIRE): None,
    (_S.ONLINE, _E.ROLL_BACK): _S.ROLLED_BACK,
    (_S.ONLINE, _E.RETIRE): None,
    (_S.ROLLED_BACK, _E.ROLL_FORWARD): _S.ONLINE,
    (_S.ROLLED_BACK, _E.KILL): _S.KILLED,
    (_S.ROLLED_BACK, _E.RETIRE): None,
    (_S.ERROR, _E.RETIRE): None,
    (_S.KILLED, _E.RETIRE): None,
}
"""(status, event) → next status; None = the version leaves the store. What is not here cannot happen."""

ONGOING = _S.STARTED
FAILED = frozenset({_S.ERROR, _S.KILLED})
WAITING = frozenset({_S.PUSHED, _S.ROLLED_BACK})
"""Complete, and served as soon as an operator says so."""


def next_status(store: str, version: Version, event: Event) -> VersionStatus | None:
    """Where `event` takes `version`; None = out of the store.

    Raises:
        Conflict: The version's status does not allow it.
    """
    key = (version.status, event)
    if key not in TRANSITIONS:
        raise Conflict(
            f"version {version.number} of store {store!r} is {version.status.name}: {event} is not possible",
            hint="'venice version list' shows where each version stands",
            status=version.status.name,
        )
    return TRANSITIONS[key]


def role(store: Store, version: Version) -> Role:
    """What `version` is to `store`."""
    if version.number == store.current:
        return Role.CURRENT
    if version.status in FAILED:
        return Role.FAILED
    if version.status is _S.ROLLED_BACK:
        return Role.ROLLED_BACK
    return Role.FUTURE if version.number > store.current else Role.BACKUP


def ongoing(store: Store) -> Version | None:
    """The push under way, if there is one: at most one at a time."""
    return next((version for version in reversed(store.versions) if version.status is ONGOING), None)


def started(store: Store, version: Version) -> Store:
    """The store with a new version, whose number is the next one."""
    assert version.number == store.largest_version + 1
    assert version.status is TRANSITIONS[_S.NOT_CREATED, _E.START]
    return replace(store, versions=(*store.versions, version), largest_version=version.number)


def completed(store: Store, number: int, now_ms: int) -> Store:
    """Every partition of a STARTED version is ready: it serves from now on, unless its swap is deferred or it has more nodes to go to."""
    version = find(store, number)
    if version.deferred_swap or is_first(version):
        return _moved(store, version, Event.COMPLETE_DEFERRED, now_ms)
    return replace(_moved(store, version, Event.COMPLETE, now_ms), current=number, swapped_ms=now_ms)


def failed(store: Store, number: int, reason: str, now_ms: int) -> Store:
    """The version cannot be completed; whatever serves goes on serving."""
    return _moved(store, find(store, number), Event.FAIL, now_ms, reason)


def killed(store: Store, number: int, reason: str, now_ms: int) -> Store:
    """An operator, or the pusher, gave the version up."""
    return _moved(store, find(store, number), Event.KILL, now_ms, reason)


def rolled_back(store: Store, now_ms: int) -> Store:
    """Serve the largest ONLINE version below the current one again.

    Raises:
        Conflict: There is none.
    """
    backup = max((v.number for v in store.versions if v.status is _S.ONLINE and v.number < store.current), default=NO_VERSION)
    if backup == NO_VERSION:
        raise Conflict(
            f"store {store.name!r} has no backup to roll back to (current version: {store.current or 'none'})",
            hint="a backup is kept from a swap until the next push starts; 'venice version list' shows what is there",
        )
    return replace(_moved(store, find(store, store.current), Event.ROLL_BACK, now_ms), current=backup, swapped_ms=now_ms)


def rolled_forward(store: Store, now_ms: int) -> Store:
    """Serve the newest complete version above the current one: one whose swap was deferred, or one rolled back from.

    One that is on its first nodes only is on its way from now on; it serves when it is on the others as well.

    Raises:
        Conflict: There is none.
    """
    waiting = [v for v in store.versions if v.number > store.current and v.status in WAITING]
    if not waiting:
        raise Conflict(
            f"store {store.name!r} has no complete version above its current one ({store.current or 'none'})",
            hint="push with a deferred swap, or roll back first; 'venice version list' shows what is there",
        )
    newest = waiting[-1]
    if is_first(newest):
        moved = _moved(store, newest, Event.ROLL_OUT, now_ms)
        return with_version(moved, replace(find(moved, newest.number), deferred_swap=False, rollout=Rollout(nodes=())))
    return replace(_moved(store, newest, Event.ROLL_FORWARD, now_ms), current=newest.number, swapped_ms=now_ms)


def is_first(version: Version) -> bool:
    """Whether the version is, so far, meant for some nodes only."""
    return version.rollout is not None and bool(version.rollout.nodes)


def retired(store: Store, numbers: frozenset[int]) -> Store:
    """The store without these versions; never the current one."""
    assert store.current not in numbers, "the current version is never retired"
    for number in numbers:
        assert next_status(store.name, find(store, number), Event.RETIRE) is None
    return replace(store, versions=tuple(v for v in store.versions if v.number not in numbers))


def find(store: Store, number: int) -> Version:
    """The version. Raises NotFound."""
    version = store.version(number)
    if version is None:
        gone = "was deleted" if 0 < number <= store.largest_version else "does not exist"
        raise NotFound(f"version {number} of store {store.name!r} {gone}", hint="'venice version list' shows which are there")
    return version


def with_version(store: Store, version: Version) -> Store:
    """The store with `version` in the place of the one of its number."""
    return replace(store, versions=tuple(version if v.number == version.number else v for v in store.versions))


def _moved(store: Store, version: Version, event: Event, now_ms: int, reason: str = "") -> Store:
    status = next_status(store.name, version, event)
    assert status is not None, "only `retired` takes versions out"
    return with_version(store, replace(version, status=status, status_ms=now_ms, reason=reason))


def mermaid() -> str:
    """The table as a Mermaid state diagram, as it stands in `docs/versions.md`."""
    lines = ["stateDiagram-v2"]
    for (status, event), target in TRANSITIONS.items():
        source = "[*]" if status is _S.NOT_CREATED else status.name
        lines.append(f"    {source} --> {target.name if target is not None else '[*]'}: {event}")
    return "\n".join(lines)
