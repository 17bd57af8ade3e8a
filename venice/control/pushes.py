"""What a push does to its store, as pure functions: who may begin, what goes to make room, what a snapshot must be."""

from __future__ import annotations

from dataclasses import replace

from venice.control.answers import PushGrant
from venice.control.policy import Policy
from venice.errors import Conflict, Corrupt, InvalidRequest
from venice.model import NO_VERSION, BackupStrategy, SnapshotRef, StartOffset, Store, Version, VersionStatus
from venice.record import Vector
from venice.rules import lifecycle
from venice.rules.quota import check_size
from venice.rules.retention import versions_to_delete
from venice.storage.manifest import Manifest

_PUSH_ID_MAX = 256


def check_push_id(push_id: str) -> str:
    """`push_id` itself. Raises InvalidRequest."""
    if not 1 <= len(push_id) <= _PUSH_ID_MAX or not push_id.isprintable():
        raise InvalidRequest(f"push id {push_id[:80]!r} is not allowed", hint=f"use 1 to {_PUSH_ID_MAX} printable characters")
    return push_id


def known(store: Store, push_id: str) -> Version | None:
    """The version that this push made or is making. One that failed does not count: the same push may try again."""
    return next((v for v in reversed(store.versions) if v.push_id == push_id and v.status not in lifecycle.FAILED), None)


def refuse_second(store: Store, now_ms: int, silent_s: float) -> None:
    """Raises Conflict naming the push under way, if there is one."""
    running = lifecycle.ongoing(store)
    if running is None:
        return
    age_s = (now_ms - running.created_ms) / 1000
    state = "its replicas are being made" if running.snapshot is not None else f"last heard of {silent_s:.0f} s ago"
    raise Conflict(
        f"store {store.name!r} is being pushed: version {running.number}, push {running.push_id!r}, for {age_s:.0f} s ({state})",
        hint=f"wait for it, or kill version {running.number}",
        version=running.number,
        push_id=running.push_id,
        age_s=age_s,
    )


def with_room(store: Store, now_ms: int, policy: Policy) -> Store:
    """The store as a new push may begin in it: without what it retires.

    With the version to come the store keeps what its configuration says, so one version less stays now (the current one
    always does), unless its strategy is to keep them all until the swap. A version whose swap was deferred and never made
    goes too: the new push takes its place.

    Raises:
        Conflict: A version above the current one was rolled back from and is still kept; or the last swap is too recent
            for the backups that would go.
    """
    kept = [v for v in store.versions if v.status is VersionStatus.ROLLED_BACK and v.number > store.current]
    barring = [v for v in kept if now_ms <= v.status_ms + policy.rolled_back_s * 1000]
    if barring:
        newest = barring[-1]
        left_s = policy.rolled_back_s - (now_ms - newest.status_ms) / 1000
        raise Conflict(
            f"store {store.name!r} was rolled back from version {newest.number}, which is kept for {left_s / 3600:.1f} h more",
            hint=f"roll forward to it, or kill version {newest.number} to push a new one now",
            version=newest.number,
        )
    numbered = [(v.number, v.status.name) for v in store.versions]
    early = store.config.backup_strategy is BackupStrategy.DELETE_ON_NEW_PUSH_START
    doomed = set(versions_to_delete(numbered, store.current, max(store.config.versions_preserved - early, 1)))
    doomed |= {v.number for v in store.versions if v.status is VersionStatus.PUSHED and v.number != store.current}
    doomed |= {v.number for v in kept}
    left_s = policy.cleanup_delay_s - (now_ms - store.swapped_ms) / 1000
    if doomed and store.current != NO_VERSION and left_s > 0:
        raise Conflict(
            f"store {store.name!r} swapped to version {store.current} less than {policy.cleanup_delay_s:.0f} s ago, "
            f"and a push would delete version{'s'[: len(doomed) > 1]} {', '.join(map(str, sorted(doomed)))}",
            hint=f"push again in {left_s:.0f} s, or lower the controller's cleanup_delay_s",
        )
    return lifecycle.retired(store, frozenset(doomed))


def expired(store: Store, now_ms: int, policy: Policy) -> frozenset[int]:
    """The versions that have been kept for long enough: backups, and those that were rolled back from."""
    since_swap_ms = now_ms - (store.swapped_ms or now_ms)
    return frozenset(
        version.number
        for version in store.versions
        if (version.status is VersionStatus.ROLLED_BACK and now_ms > version.status_ms + policy.rolled_back_s * 1000)
        or (lifecycle.role(store, version) is lifecycle.Role.BACKUP and since_swap_ms > store.config.backup_retention_s * 1000)
    )


def after_swap(store: Store) -> Store:
    """The store without the versions that the swap just made superfluous."""
    numbered = [(v.number, v.status.name) for v in store.versions]
    return lifecycle.retired(store, frozenset(versions_to_delete(numbered, store.current, store.config.versions_preserved)))


def granted(store: Store, version: Version, *, folder: str, attempt: str, existing: bool, lease_s: float) -> PushGrant:
    """What a push is told of its version; `folder` is this attempt's own."""
    return PushGrant(
        store=store.name,
        number=version.number,
        status=version.status,
        partition_count=version.partition_count,
        record_bytes_max=store.config.record_bytes_max,
        compression=version.compression,
        storage_quota_bytes=store.config.storage_quota_bytes,
        folder=folder,
        attempt=attempt,
        existing=existing,
        sealed=version.snapshot is not None,
        lease_s=lease_s,
    )


def sealed(store: Store, number: int, snapshot: SnapshotRef, manifest: Manifest, value_schema_id: int, rows: int, size: int) -> Store:
    """The store with the snapshot in its version.

    Raises:
        NotFound: No such version.
        Conflict: The version is not waiting for a snapshot, or has another one.
        Corrupt: The manifest is not that of this version, or says other counts than the push.
        InvalidRequest: The value schema is not registered.
        Full: The files are larger than the store's quota.
    """
    version = lifecycle.find(store, number)
    if version.status is not VersionStatus.STARTED:
        raise Conflict(
            f"version {number} of store {store.name!r} is {version.status.name}{': ' + version.reason if version.reason else ''}",
            hint="push again",
            status=version.status.name,
        )
    if version.snapshot is not None:
        raise Conflict(
            f"version {number} of store {store.name!r} has a snapshot already", hint="another attempt of this push was faster: wait for it"
        )
    if value_schema_id not in {schema.id for schema in store.value_schemas}:
        raise InvalidRequest(f"store {store.name!r} has no value schema {value_schema_id}", hint="register the schema before the push")
    said = (store.name, number, version.partition_count, None, version.compression, value_schema_id, rows, size)
    found = (
        manifest.store,
        manifest.version,
        manifest.partition_count,
        manifest.partition,
        manifest.compression,
        manifest.value_schema_id,
        manifest.rows,
        manifest.bytes,
    )
    names = ("store", "version", "partition count", "only partition", "compression", "value schema", "rows", "bytes")
    for name, expected, actual in zip(names, said, found, strict=True):
        if expected != actual:
            raise Corrupt(
                f"manifest of version {number} of store {store.name!r}: {name} is {actual!r}, not {expected!r}",
                hint="the folder was not written by this push",
            )
    if manifest.source_version not in (0, store.current):
        raise Conflict(
            f"version {number} of store {store.name!r} was made of version {manifest.source_version}, which serves no more",
            hint="repush the one that serves now",
        )
    if manifest.start_offsets and version.hybrid is not None:
        # The rows hold what was merged into another version: real-time writes are merged from where those end, not rewound.
        version = replace(version, start_offsets=_offsets(manifest.start_offsets), held_offsets=_offsets(manifest.held_offsets))
    check_size(store.name, store.config.storage_quota_bytes, size)
    changed = replace(
        version, snapshot=snapshot, value_schema_id=value_schema_id, row_count=rows, byte_count=size,
        value_bytes=manifest.value_bytes, compressed_bytes=manifest.compressed_bytes,
    )  # fmt: skip
    return lifecycle.with_version(store, changed)


def _offsets(vector: Vector) -> tuple[StartOffset, ...]:
    return tuple(StartOffset(region=region, partition=partition, next_offset=offset) for region, partition, offset in vector)
