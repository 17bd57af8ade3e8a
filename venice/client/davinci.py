"""Da Vinci client: the whole store in this process, read with no network hop.

Read path: **client** → its own replica. Write path: snapshot and version topic → `venice/replicas.py` → storage.

A background thread, or a child process (`venice/client/own_process.py`), attaches each new version beside the one being
read; a thread follows the catalog and swaps when every partition is ready and the controller has made it current. A read
uses one version from beginning to end.
"""

from __future__ import annotations

import fcntl
import secrets
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from venice.client.own_process import ReplicaProcess
from venice.client.view import View, read, view_of
from venice.clock import Clock, SystemClock
from venice.config import Settings, load
from venice.control.catalog import Catalog, CatalogTail
from venice.errors import Conflict, Corrupt, NotFound, Unavailable, VeniceError
from venice.log.open import open_log
from venice.lookout import Lookout, measure, measure_faults
from venice.model import NO_VERSION, ReplicaReport, Store, Version, VersionStatus
from venice.replica import Wanted
from venice.replicas import ReplicaSet
from venice.rules.partitioning import partition_of
from venice.telemetry import Metrics

_SERVABLE = frozenset({VersionStatus.STARTED, VersionStatus.PUSHED, VersionStatus.ONLINE})
_POLL_S = 0.02


class DaVinciClient:
    """Reads a store from a replica of its own. Reads are safe from any thread.

    Args:
        settings: Settings, or the path of a `venice.toml`: where the log and the snapshots are.
        store: The store to hold.
        folder: Where the replica is kept, default `<data>/davinci/<store>`; one client at a time may use it. A restart
            with the same folder starts from what is there.
        process: Attach and fold in a child process, which leaves this one to its reads. What it folds is kept twice for a
            while, and the files are opened anew now and then, which stops this process for some milliseconds.
        cache_bytes: How much memory the rows of a batch version that were read last may take, beside the replica; 0: none.
        cache_objects: How many decoded values of a batch version to keep; 0 keeps none. Callers get copies, so what they
            do to a value changes nothing for the next caller.
        ready_timeout_s: How long the constructor waits for the current version.
        clock: For tests.

    Raises:
        NotFound: No such store.
        Conflict: Another client uses the folder.
        Unavailable: The store has no version yet, or it was not ready in time.
    """

    def __init__(
        self,
        settings: Settings | Path | str,
        store: str,
        *,
        folder: Path | str | None = None,
        process: bool = False,
        cache_bytes: int = 64 * 1024 * 1024,
        cache_objects: int = 0,
        ready_timeout_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings if isinstance(settings, Settings) else load(settings)
        self._clock = clock or SystemClock()
        self._cache_bytes = cache_bytes
        self._cache_objects = cache_objects
        self.store = store
        self._folder = Path(folder) if folder is not None else self._settings.data / "davinci" / store
        self._owner = _own(self._folder)
        self._view: View | None = None
        self._stopping = threading.Event()
        self._ready = threading.Condition()
        self._failure: VeniceError | None = None
        try:
            self._log = open_log(self._settings.log_url, self._clock)
            self._tail = CatalogTail(self._log, self._clock)
            self._replicas = self._hold(process=process)
            self._lookout = Lookout(self._log, self._replicas, self._clock) if isinstance(self._replicas, ReplicaSet) else None
            self._thread = threading.Thread(target=self._follow, name=f"davinci-{store}", daemon=True)
            self._tail.start()
            self._thread.start()
            self._wait_ready(ready_timeout_s)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        """The version that reads are answered from."""
        return self._current().version

    def get(self, key: Any) -> Any:
        """The value of `key` in the current version, or None.

        Raises:
            InvalidRequest: The key does not fit the store's key schema.
            Corrupt: What was pushed or written is no value of its schema.
            Unavailable: The client is closed; or the replica was found damaged, and is not back within 5 seconds.
        """
        view = self._view or self._current()
        while True:
            try:
                return view.get(key)
            except Unavailable:
                view = self._after(view)
            except Corrupt:
                if not self._condemned(view, (key,)):
                    raise
                view = self._after(view)

    def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """key → value of those keys that exist, all from one version.

        Raises:
            InvalidRequest: A key does not fit the key schema, or no dict can hold it (a record): then use `streaming_batch_get`.
            Unavailable: The client is closed.
        """
        return dict(self._pairs(keys, hashed=True))

    def streaming_batch_get(self, keys: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(key, value) of those keys that exist, all from one version, in the order of `keys`. Raises as `get`."""
        yield from self._pairs(keys)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """How each replica is, by version and partition: of a hybrid store how many records and seconds it is behind its topic, as of
        the last second, up to when all writes are in it, and the faulty records met since it was opened by this process, or by the
        child that holds it.
        """
        return tuple(sorted(self._replicas.reports(), key=lambda one: (one.version, one.partition)))

    def measure(self, metrics: Metrics) -> None:
        """Have `metrics` show what `reports` says: lag, freshness and faulty records by store, version and partition."""
        measure(metrics, self.reports, self._clock)
        measure_faults(metrics, self.reports)

    def close(self) -> None:
        """Stop following and release the folder. Closing again does nothing."""
        self._stopping.set()
        self._view = None
        thread = getattr(self, "_thread", None)
        if thread is not None and thread.is_alive():
            thread.join()
            self._view = None  # It may have been at the point of setting a new one.
        for part in ("_tail", "_replicas", "_log"):
            opened = getattr(self, part, None)
            if opened is not None:
                opened.close()
        self._owner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _hold(self, *, process: bool) -> ReplicaSet | ReplicaProcess:
        folder = self._folder / "replicas"
        if process:
            return ReplicaProcess(folder, self._settings.log_url, clock=self._clock)
        return ReplicaSet(folder, self._log, clock=self._clock, ids=lambda: secrets.token_hex(8), grace_s=1.0)

    def _pairs(self, keys: Iterable[Any], *, hashed: bool = False) -> list[tuple[Any, Any]]:
        wanted = list(keys)
        view = self._current()
        while True:
            try:
                return read(view, wanted, hashed=hashed)
            except Unavailable:
                view = self._after(view)
            except Corrupt:
                if not self._condemned(view, wanted):
                    raise
                view = self._after(view)

    def _condemned(self, view: View, keys: Iterable[Any]) -> bool:
        """Whether replicas hold bytes for these keys that cannot be read: then they are being attached afresh."""
        found = False
        for raw in map(view.encode_key, keys):
            partition = partition_of(raw, len(view.storages))
            storage = view.storages[partition]
            try:
                storage.get(raw)
            except Corrupt:
                found = True
                self._replicas.condemn(self.store, view.version, partition, storage)
            except Unavailable:  # another read has found it before
                found = True
        return found

    def _current(self) -> View:
        view = self._view
        if view is None:
            raise self._failure or Unavailable(f"the Da Vinci client of {self.store!r} is closed", hint="open a new one")
        return view

    def _after(self, seen: View) -> View:
        """The view to retry with after a storage of `seen` was closed under a read."""
        view = self._current()
        if view is not seen:
            return view
        with self._ready:
            self._ready.wait_for(lambda: self._view is not seen, timeout=5.0)
        view = self._current()
        if view is seen:
            raise Unavailable(f"version {seen.version} of {self.store!r} was closed and no other is ready", hint="try again")
        return view

    def _wait_ready(self, timeout_s: float) -> None:
        with self._ready:
            self._ready.wait_for(lambda: self._view is not None or self._failure is not None, timeout=timeout_s)
        if self._failure is not None:
            raise self._failure
        if self._view is None:
            errors = sorted({report.error for report in self._replicas.reports() if report.error})
            raise Unavailable(
                f"no version of {self.store!r} was ready within {timeout_s:g} s" + (f": {errors[0]}" if errors else ""),
                hint="push the store first, or wait longer with ready_timeout_s",
            )

    def _follow(self) -> None:
        try:
            self._follow_catalog()
        except BaseException as error:
            # Nobody would keep the rows new any more: better no answers than ever older ones.
            self._view = None
            self._fail(Unavailable(f"the Da Vinci client of {self.store!r} has stopped: {error}", hint="open a new one"))
            raise

    def _follow_catalog(self) -> None:
        seen = -1
        generation = -1
        while not self._stopping.is_set():
            catalog = self._tail.catalog
            if catalog.sequence != seen:
                seen = catalog.sequence
                generation = -1
                self._want(catalog)
            for name, entries in self._replicas.poll(timeout_s=_POLL_S):
                self._replicas.fold(name, entries)
            if self._lookout is not None:
                self._lookout.look()
            if self._replicas.generation != generation:
                generation = self._replicas.generation
                self._swap(catalog)

    def _want(self, catalog: Catalog) -> None:
        store = catalog.stores.get(self.store)
        if store is None:
            if catalog.sequence > 0 and self._view is None:
                known = ", ".join(sorted(catalog.stores)) or "none"
                self._fail(NotFound(f"no store {self.store!r}", hint=f"stores there are: {known}"))
            return
        serving = self._view.version if self._view is not None else NO_VERSION
        schemas = frozenset(schema.id for schema in store.value_schemas)
        wanted = [
            Wanted(self.store, version, partition, catalog.kept(self.store, version.number, partition), schemas)
            for version in store.versions
            if version.snapshot is not None and _concerns(version, store, serving)
            for partition in range(version.partition_count)
        ]
        self._replicas.want(wanted)

    def _swap(self, catalog: Catalog) -> None:
        store = catalog.stores.get(self.store)
        if store is None or store.current == NO_VERSION:
            return
        schemas = tuple(schema.id for schema in store.value_schemas)
        if self._view is not None and (self._view.version, self._view.schemas) == (store.current, schemas):
            replicas = self._replicas.open.get((self.store, store.current), {})
            if len(replicas) == len(self._view.storages) and all(replicas[p] is storage for p, storage in enumerate(self._view.storages)):
                return
        version = store.version(store.current)
        opened = self._replicas.open.get((self.store, store.current), {})
        if version is None or len(opened) < version.partition_count:
            return
        storages = tuple(opened[p] for p in range(version.partition_count))
        view = view_of(store, version, storages, cache_bytes=self._cache_bytes, cache_objects=self._cache_objects)
        with self._ready:
            self._view = view
            self._ready.notify_all()
        self._want(catalog)

    def _fail(self, error: VeniceError) -> None:
        with self._ready:
            self._failure = error
            self._ready.notify_all()


def _concerns(version: Version, store: Store, serving: int) -> bool:
    """Whether to hold the version: the one being read, the current one, and those that may become current next."""
    if version.number in (serving, store.current):
        return True
    return version.number > max(store.current, serving) and version.status in _SERVABLE


def _own(folder: Path) -> IO[bytes]:
    """Take the folder's lock for as long as the returned file is open."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = (folder / "OWNER").open("ab")
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner.close()
        raise Conflict(f"another Da Vinci client uses {folder}", hint="give each client a folder of its own: folder=…") from error
    return owner


class AsyncDaVinciClient:
    """`DaVinciClient` for asyncio code: the same reads, which answer in microseconds and so run in the loop.

    Opening and closing take longer and run in a thread: `async with AsyncDaVinciClient(settings, store) as client`.
    """

    def __init__(self, settings: Settings | Path | str, store: str, **options: Any) -> None:
        self._open = lambda: DaVinciClient(settings, store, **options)
        self._client: DaVinciClient | None = None

    async def __aenter__(self) -> Self:
        import asyncio

        self._client = await asyncio.to_thread(self._open)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def version(self) -> int:
        """The version that reads are answered from."""
        return self._opened().version

    async def get(self, key: Any) -> Any:
        """As `DaVinciClient.get`."""
        return self._opened().get(key)

    async def batch_get(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """As `DaVinciClient.batch_get`."""
        return self._opened().batch_get(keys)

    async def streaming_batch_get(self, keys: Iterable[Any]) -> AsyncIterator[tuple[Any, Any]]:
        """As `DaVinciClient.streaming_batch_get`."""
        for pair in self._opened().streaming_batch_get(keys):
            yield pair

    def reports(self) -> tuple[ReplicaReport, ...]:
        """As `DaVinciClient.reports`."""
        return self._opened().reports()

    def measure(self, metrics: Metrics) -> None:
        """As `DaVinciClient.measure`."""
        self._opened().measure(metrics)

    async def close(self) -> None:
        """As `DaVinciClient.close`."""
        import asyncio

        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)

    def _opened(self) -> DaVinciClient:
        if self._client is None:
            raise Unavailable("this AsyncDaVinciClient is not open", hint="use it inside 'async with'")
        return self._client
