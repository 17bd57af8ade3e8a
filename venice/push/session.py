"""What a push does with the controller, from leave to push to the version that serves; whatever makes its rows.

Write path: **leave → … → seal → load**. Files and queries (`venice/push/batch.py`), another version (`venice/push/repush.py`) and data
frames of Spark (`venice/push/spark.py`) become versions by the same session.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from venice.clock import Clock
from venice.control.answers import PushGrant, VersionInfo
from venice.control.remote import ControllerClient
from venice.errors import Conflict, Unavailable, VeniceError
from venice.model import Compression, Rollout, Store, Version, VersionStatus
from venice.push.heartbeat import Heartbeat
from venice.push.progress import Phase, Reporter
from venice.push.snapshot import Built
from venice.storage.manifest import FileKind

_POLL_FIRST_S: Final = 0.02
_POLL_MAX_S: Final = 0.1
_COMPLETE: Final = frozenset((VersionStatus.ONLINE, VersionStatus.PUSHED, VersionStatus.ROLLED_BACK))

Build = Callable[[PushGrant, Callable[[], None]], Built]
"""(leave to push, a check to call a few times a second, which raises when the push must end) → the sealed folder."""


class Stop(Protocol):
    """Whether somebody wants the push to stop."""

    wanted: bool

    def check(self) -> None:
        """Raises KeyboardInterrupt if somebody does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult:
    """What a push did."""

    store: str
    version: int | None
    """The version that now serves (or waits, if its swap is deferred); None after a dry run."""
    push_id: str
    existing: bool
    """The push id was known and its version complete: nothing was read."""
    rows: int
    """Rows of the version."""
    bytes: int
    """Size of its files."""
    duplicates: int
    """Rows dropped because another one has the same key."""
    skipped: int
    """Rows left out because all their value columns are null."""
    compression: Compression
    value_bytes: int
    """Avro bytes of all values that were read, if the version is compressed; 0 if it is not."""
    compressed_bytes: int
    """What those were compressed to."""
    partition_rows: tuple[int, ...]
    """Rows of each partition; empty if `existing`."""
    seconds: Mapping[Phase, float]
    """How long each phase took."""


class Session:
    """One push of a store. One thread at a time.

    Args:
        push_id: Names the push; None: a new name.
        rollout: Nodes that get the version first; the push ends when it is ready on them.
        wait_s: How long to wait for workers.
    """

    def __init__(
        self,
        client: ControllerClient,
        store: str,
        *,
        push_id: str | None,
        deferred_swap: bool,
        rollout: Rollout | None = None,
        wait_s: float,
        clock: Clock,
        reporter: Reporter,
        stop: Stop,
    ) -> None:
        self._client = client
        self._store = store
        self.push_id = push_id or f"push-{clock.now_ms()}-{os.getpid()}"
        self._deferred_swap = deferred_swap
        self._rollout = rollout
        self._wait_s = wait_s
        self._clock = clock
        self._reporter = reporter
        self._stop = stop

    def done(self, store: Store) -> PushResult | None:
        """What this push did, if it is complete and its version still there: then there is nothing left to do."""
        version = _complete(store, self.push_id)
        if version is None:
            return None
        self._reporter.end()
        return self._found(version)

    def run(self, build: Build, *, config: Mapping[str, int | str] | None = None) -> PushResult:
        """Make the version: `build` its folder while heartbeats go out, seal it, and wait until it serves.

        Args:
            config: Fields of `StoreConfig`, by name, that the store gets if the push begins.
        """
        self._stop.check()
        grant = self._client.create_version(
            self._store, push_id=self.push_id, deferred_swap=self._deferred_swap, rollout=self._rollout, config=config
        )
        if grant.sealed:
            version = self._wait(grant)
            self._reporter.end()
            return self._found(version)
        try:
            with Heartbeat(self._client, self._store, grant.number, grant.lease_s) as heartbeat:

                def check() -> None:
                    self._stop.check()
                    heartbeat.check()

                built = build(grant, check)
                heartbeat.check()
                self._stop.check()
        except BaseException as error:
            self._give_up(grant, error)
            raise
        try:
            self._seal(grant, built)
            self._wait(grant, built.manifest.rows)
        except (KeyboardInterrupt, VeniceError) as error:
            if not self._stopped(error):
                raise
            with suppress(VeniceError):  # It may have been swapped in meanwhile, or the controller may be gone.
                self._client.kill(self._store, grant.number, "the push was stopped")
            raise
        self._reporter.end()
        return self.result(grant.number, built)

    def _seal(self, grant: PushGrant, built: Built) -> None:
        try:
            self._client.seal(
                self._store,
                grant.number,
                uri=built.ref.uri,
                sha256=built.ref.sha256,
                rows=built.manifest.rows,
                bytes_=built.manifest.bytes,
                value_schema_id=built.manifest.value_schema_id,
            )
        except Unavailable:
            raise  # It may have been sealed: the files stay, and the same push id finds out.
        except VeniceError as error:
            self._give_up(grant, error)
            raise

    def _give_up(self, grant: PushGrant, error: BaseException) -> None:
        _remove(Path(grant.folder))
        with suppress(VeniceError):  # The first error is the one to report; a version that is never heard of again ends by itself.
            if self._stopped(error):
                self._client.kill(self._store, grant.number, "the push was stopped")
            else:
                self._client.fail(self._store, grant.number, str(error) or repr(error))

    def _stopped(self, error: BaseException) -> bool:
        """Whether it is no fault of the push: somebody wants it to stop."""
        return self._stop.wanted or isinstance(error, KeyboardInterrupt)

    def _wait(self, grant: PushGrant, rows: int = 0) -> Version:
        """The version, once it serves (or waits for its swap)."""
        self._reporter.begin(Phase.LOAD, rows or None)
        deadline_s = self._clock.monotonic_s() + self._wait_s
        pause_s = _POLL_FIRST_S
        while True:
            info = self._client.get_version(self._store, grant.number)
            if info.version.status in _COMPLETE:
                return info.version
            if info.version.status is not VersionStatus.STARTED:
                raise Conflict(
                    f"version {grant.number} of store {self._store!r} is {info.status}: {info.version.reason}",
                    hint="push again",
                    status=info.status,
                )
            self._stop.check()
            self._reporter.set(rows * info.ready_partitions // grant.partition_count)
            self._reporter.tick()
            if self._clock.monotonic_s() > deadline_s:
                raise _not_loaded(info, self._wait_s)
            self._clock.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _POLL_MAX_S)

    def result(self, version: int | None, built: Built) -> PushResult:
        """What a push did that made this folder; no version: it was a rehearsal."""
        manifest = built.manifest
        by_partition = dict.fromkeys(range(manifest.partition_count), 0)
        by_partition.update((file.partition, file.rows) for file in manifest.files if file.kind is FileKind.VALUES)
        return PushResult(
            store=self._store,
            version=version,
            push_id=self.push_id,
            existing=False,
            rows=manifest.rows,
            bytes=manifest.bytes,
            duplicates=built.duplicates,
            skipped=built.skipped,
            compression=manifest.compression,
            value_bytes=manifest.value_bytes,
            compressed_bytes=manifest.compressed_bytes,
            partition_rows=tuple(by_partition.values()),
            seconds=dict(self._reporter.seconds),
        )

    def _found(self, version: Version) -> PushResult:
        """What a push that was complete before did, as far as its version tells."""
        return PushResult(
            store=self._store,
            version=version.number,
            push_id=self.push_id,
            existing=True,
            rows=version.row_count,
            bytes=version.byte_count,
            duplicates=0,
            skipped=0,
            compression=version.compression,
            value_bytes=version.value_bytes,
            compressed_bytes=version.compressed_bytes,
            partition_rows=(),
            seconds=dict(self._reporter.seconds),
        )


def _complete(store: Store, push_id: str) -> Version | None:
    """The complete version that this push made, if it is still there."""
    return next((v for v in store.versions if v.push_id == push_id and v.status in _COMPLETE), None)


def _not_loaded(info: VersionInfo, wait_s: float) -> Unavailable:
    version = info.version
    where = f"{info.ready_partitions} of {version.partition_count} partitions are ready" if info.placed else "no workers hold it"
    return Unavailable(
        f"version {version.number} of store {info.store!r} is sealed, but after {wait_s:.0f} s {where}",
        hint="it serves as soon as workers have loaded it: look at 'venice version list' and 'venice doctor'",
        version=version.number,
    )


def _remove(folder: Path) -> None:
    """Remove an attempt's folder, and the version's around it if that is now empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
