"""The controller: commands in, catalog records out; and what it does by itself when workers report or time passes.

Control path: command → **controller** → log → catalog → every process.

A command is checked against the folded catalog, appended as whole entities, folded back, and only then answered. All
state that matters is in the log: a controller that is killed at any moment is replaced by starting another. What it keeps
in memory (who reported, which push was heard of) is learnt again within a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from random import Random

from venice.clock import Clock
from venice.control import nodes, placing, pushes, stores, swaps, topics, upkeep
from venice.control.answers import Health, Keep, NodeChange, NodeInfo, PushGrant, VersionInfo
from venice.control.balance import Balance
from venice.control.blobs import Blobs
from venice.control.catalog import Catalog, Entity
from venice.control.checkpoints import Trimmer, recorded, reported
from venice.control.cleanup import Cleanup
from venice.control.policy import Policy
from venice.control.reports import Reports
from venice.control.session import Session
from venice.control.views import health, node_info, node_infos, version_info
from venice.errors import Conflict, Unavailable, VeniceError
from venice.log import Entry, Log
from venice.model import HybridConfig, Rollout, SnapshotRef, Store, StoreConfig, ValueSchema, Version, VersionStatus
from venice.rules import lifecycle
from venice.storage.snapshot import read_manifest

_Ending = Callable[[Store, int, str, int], Store]

_WAIT_S = 0.25
_TICK_S = 0.25
_SWEEP_S = 2.0
_PAUSE_S = 5.0


class Controller:
    """The one writer of a catalog. Commands may come from any thread; `open` first, or `start` to run by itself as well.

    Args:
        log: Holds the catalog and the reports; both topics are created if missing.
        clock: All waiting and all times.
        policy: Where snapshots lie and how long to wait for whom.
        rng: Makes the session's number and the names of attempts: seed it from the system, or two sessions may be alike.
        on_stop: Called once if the controller ends by itself, fenced by a newer one or at a catalog it cannot read.
    """

    def __init__(
        self, log: Log, clock: Clock, policy: Policy, *, rng: Random, on_stop: Callable[[VeniceError], None] = lambda error: None
    ) -> None:
        self._log = log
        self._clock = clock
        self._policy = policy
        self._rng = rng
        self._on_stop = on_stop
        self._blobs = Blobs(policy.blobs_url)
        self._cleanup = Cleanup(log, self._blobs, clock, 2 * policy.retire_grace_s)
        self._trimmer = Trimmer(log, self._blobs, clock, policy.topic_margin_s)
        self._session = Session(log, clock, rng)
        self._reports = Reports(log, clock)
        self._balance = Balance(clock)
        self._lock = threading.RLock()
        self._opened_s = clock.monotonic_s()
        self._advanced_s = self._looked_s = clock.monotonic_s()
        self._heard_s: dict[tuple[str, int], float] = {}
        """(store, version) → when its push was last heard of."""
        self._stopping = threading.Event()
        self._stopped_by: VeniceError | None = None
        self._threads: list[threading.Thread] = []
        self._problems: list[str] = []

    def open(self) -> None:
        """Take over: end every earlier controller's session.

        Raises:
            Corrupt: The catalog cannot be read.
            Unavailable: The log cannot be reached.
        """
        with self._lock:
            self._opened_s = self._advanced_s = self._looked_s = self._clock.monotonic_s()
            self._session.begin()
            self._write(*upkeep.regions(self.catalog, self._policy))

    def start(self) -> None:
        """`open`, then look after things in threads until `close`."""
        self.open()
        for name, step in (("controller", self._follow_reports), ("cleanup", self._follow_leftovers)):
            thread = threading.Thread(target=self._loop, args=(step,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop; the session stays valid in the log until another one begins."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._reports.close()
        self._session.close()

    @property
    def catalog(self) -> Catalog:
        """As last folded by this controller."""
        return self._session.catalog

    # Stores and schemas.

    def create_store(
        self,
        name: str,
        *,
        key_schema: str,
        value_schema: str | None = None,
        owner: str = "",
        config: StoreConfig | None = None,
        hybrid: HybridConfig | None = None,
    ) -> Store:
        """Raises Conflict, InvalidRequest as `stores.created`."""
        with self._command() as catalog:
            store = stores.created(
                catalog,
                name,
                owner=owner,
                key_schema=key_schema,
                value_schema=value_schema,
                config=config if config is not None else StoreConfig(),
                hybrid=hybrid,
                now_ms=self._clock.now_ms(),
            )
            topics.make_real_time(self._log, None, store)
            return self._write(store).stores[name]

    def get_store(self, name: str) -> Store:
        """Raises NotFound."""
        return stores.find(self.catalog, name)

    def list_stores(self) -> tuple[Store, ...]:
        """By name."""
        return tuple(store for _, store in sorted(self.catalog.stores.items()))

    def update_store(
        self,
        name: str,
        *,
        owner: str | None = None,
        config: Mapping[str, int | str] | None = None,
        hybrid: HybridConfig | Keep | None = Keep.KEEP,
    ) -> Store:
        """Raises NotFound, InvalidRequest."""
        with self._command() as catalog:
            store = stores.find(catalog, name)
            changed = stores.updated(catalog, store, owner, config or {}, hybrid)
            topics.make_real_time(self._log, store, changed)
            return self._write(changed).stores[name]

    def delete_store(self, name: str) -> None:
        """Raises NotFound, and Conflict while a push is under way."""
        with self._command() as catalog:
            self._write(stores.buried(stores.find(catalog, name), self._clock.now_ms()))

    def add_schema(self, name: str, text: str) -> ValueSchema:
        """Raises NotFound, InvalidRequest, Incompatible."""
        with self._command() as catalog:
            store = stores.find(catalog, name)
            changed, schema = stores.with_schema(catalog, store, text)
            if changed != store:
                self._write(changed)
            return schema

    # Versions.

    def create_version(
        self,
        name: str,
        *,
        push_id: str,
        deferred_swap: bool = False,
        rollout: Rollout | None = None,
        config: Mapping[str, int | str] | None = None,
    ) -> PushGrant:
        """Begin a push, or find the one `push_id` began before; a push that begins may change its store's configuration with it.

        Raises:
            NotFound: No such store, or no such node.
            Conflict: Another push is under way, or a version rolled back from bars the way.
            InvalidRequest: The push id is empty or too long, or the configuration is not allowed.
        """
        pushes.check_push_id(push_id)
        with self._command() as catalog:
            store = stores.find(catalog, name)
            known = pushes.known(store, push_id)
            if known is not None:
                self._heard_s[name, known.number] = self._clock.monotonic_s()
                return self._grant(store, known, existing=True)
            now_ms, region = self._clock.now_ms(), catalog.regions[self._policy.region].id
            store = upkeep.without_dead_push(store, self._policy, self._silent_s, now_ms)
            pushes.refuse_second(store, now_ms, self._silent_s(name, store.largest_version))
            store = pushes.with_room(stores.updated(catalog, store, None, config or {}), now_ms, self._policy)
            version = topics.new_version(
                self._log, store, region=region, push_id=push_id, deferred_swap=deferred_swap,
                rollout=swaps.planned(catalog, self._reports, name, rollout), now_ms=now_ms,
            )  # fmt: skip
            self._heard_s[name, version.number] = self._clock.monotonic_s()
            self._write(lifecycle.started(store, version))
            return self._grant(self.catalog.stores[name], version, existing=False)

    def heartbeat(self, name: str, number: int) -> VersionInfo:
        """The push is alive; the answer says whether its version still counts. Raises NotFound."""
        with self._lock:
            store = stores.find(self.catalog, name)
            version = lifecycle.find(store, number)
            self._heard_s[name, number] = self._clock.monotonic_s()
            return version_info(self.catalog, self._reports, store, version)

    def seal(self, name: str, number: int, *, uri: str, sha256: str, rows: int, bytes_: int, value_schema_id: int) -> VersionInfo:
        """Take the snapshot over from the push and choose workers for it. Sealing the same snapshot again does nothing.

        Raises:
            NotFound: No such version, or no manifest there.
            Conflict: The version has failed, was killed, or has another snapshot.
            Corrupt: The manifest does not hash to `sha256` or is not that of this version.
            InvalidRequest: The folder is not one of this version's, or the value schema is not registered.
        """
        snapshot = SnapshotRef(uri=uri, sha256=sha256)
        version = lifecycle.find(stores.find(self.catalog, name), number)
        if version.snapshot != snapshot:
            self._blobs.check_attempt(uri, name, number)
            manifest = read_manifest(snapshot)
            self._blobs.check_files(uri, manifest)
            with self._command() as catalog:
                sealed = pushes.sealed(stores.find(catalog, name), number, snapshot, manifest, value_schema_id, rows, bytes_)
                topics.begin(self._log, name, lifecycle.find(sealed, number), self._clock.now_ms())
                self._write(sealed)
                self._write(*placing.placements(self.catalog, self._reports, self._policy))
        return self.get_version(name, number)

    def kill(self, name: str, number: int, reason: str = "") -> VersionInfo:
        """Give up a version that does not serve; killing it again does nothing. Raises NotFound, Conflict."""
        return self._end(name, number, VersionStatus.KILLED, lifecycle.killed, reason or "killed by an operator")

    def fail(self, name: str, number: int, reason: str) -> VersionInfo:
        """The push says that it failed; saying so again does nothing. Raises NotFound, and Conflict once it is sealed."""
        return self._end(name, number, VersionStatus.ERROR, lifecycle.failed, reason or "the push gave no reason")

    def get_version(self, name: str, number: int) -> VersionInfo:
        """Raises NotFound, also for a version that was retired."""
        with self._lock:
            store = stores.find(self.catalog, name)
            return version_info(self.catalog, self._reports, store, lifecycle.find(store, number))

    def list_versions(self, name: str) -> tuple[VersionInfo, ...]:
        """By number. Raises NotFound."""
        with self._lock:
            store = stores.find(self.catalog, name)
            return tuple(version_info(self.catalog, self._reports, store, version) for version in store.versions)

    def rollback(self, name: str) -> Store:
        """Serve the largest backup again. Raises NotFound, Conflict; Unavailable while its replicas are not ready."""
        return self._swap(name, lifecycle.rolled_back)

    def roll_forward(self, name: str) -> Store:
        """Serve the newest complete version above the current one: deferred, or rolled back from. Raises as `rollback`."""
        return self._swap(name, lifecycle.rolled_forward)

    # The cluster.

    def nodes(self) -> tuple[NodeInfo, ...]:
        """By id."""
        with self._lock:
            return node_infos(self.catalog, self._reports)

    def change_node(self, node_id: str, change: NodeChange) -> NodeInfo:
        """Drain a node, take it back, or remove one that is gone. Raises NotFound, Conflict, Unavailable, as `nodes.changed`."""
        with self._command() as catalog:
            if (changed := nodes.changed(catalog, self._reports, node_id, change)) != (before := catalog.nodes[node_id]):
                self._reports.forget(nodes.removed(before, changed))
                self._write(changed)
                self._write(*placing.placements(self.catalog, self._reports, self._policy))
            return node_info(self.catalog, self._reports, node_id)

    def health(self) -> Health:
        """Always answers, also when the controller has stopped."""
        with self._lock:
            return health(self._policy.region, self._session, self._reports, self._problems, self._stopped_by)

    # What happens by itself.

    def tick(self) -> None:
        """One round of all that the threads of `start` do: reports, leases, placement, swaps, retirement, cleanup."""
        self._looked_s = self._clock.monotonic_s()
        self._advance(self._reports.poll(), due=True)
        self._sweep()

    def _follow_reports(self) -> None:
        entries = self._reports.poll(timeout_s=_WAIT_S)
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s > _PAUSE_S:
            with self._lock:
                self._opened_s = now_s
        self._looked_s = now_s
        due = now_s - self._advanced_s >= _TICK_S
        if entries or due:
            self._advance(entries, due=due)

    def _follow_leftovers(self) -> None:
        if not self._stopping.wait(_SWEEP_S):
            self._sweep()

    def _advance(self, entries: list[Entry], *, due: bool) -> None:
        with self._lock:
            if not self._reports.take(entries) and not due:
                return
            self._advanced_s = self._clock.monotonic_s()
            self._session.refresh()
            self._write(*upkeep.nodes(self.catalog, self._reports, self._policy))
            self._write(*placing.placements(self.catalog, self._reports, self._policy))
            self._write(*self._balance.plan(self.catalog, self._reports, self._policy))
            self._write(*upkeep.leaders(self.catalog, self._reports, self._policy))
            self._write(*upkeep.stores(self.catalog, self._reports, self._policy, self._silent_s, self._clock.now_ms()))
            pushing = {(name, version.number) for name, store in self.catalog.stores.items() if (version := lifecycle.ongoing(store))}
            self._heard_s = {key: heard_s for key, heard_s in self._heard_s.items() if key in pushing}
            self._reports.forget_old()

    def _sweep(self) -> None:
        with self._lock:
            catalog = self._session.refresh()
            self._cleanup.sweep_real_time(catalog)
            found = reported(catalog, self._reports)
        # Reading and deleting large folders takes its time: commands and swaps must not wait for it.
        sound, problems = self._trimmer.check(found)
        with self._lock:
            now_ms = self._clock.now_ms()
            self._write(*recorded(self._session.refresh(), sound))
            catalog = self.catalog
        self._problems = [*problems, *self._cleanup.sweep(catalog), *self._trimmer.trim(catalog, now_ms)]

    def _loop(self, step: Callable[[], None]) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    step()
                except Unavailable as error:
                    self._problems = [str(error)]
                    self._clock.sleep(_TICK_S)
        except VeniceError as error:
            self._stop(error)
        finally:
            # Whatever ended this thread, half a controller must not live on.
            if not self._stopping.is_set():
                self._stop(VeniceError("the controller's thread died", hint="its trace is on stderr"))

    def _stop(self, error: VeniceError) -> None:
        if not self._stopping.is_set():
            self._stopped_by = error
            self._stopping.set()
            self._on_stop(error)

    # Below, the lock is held.

    @contextmanager
    def _command(self) -> Iterator[Catalog]:
        with self._lock:
            yield self._session.refresh()

    def _write(self, *entities: Entity) -> Catalog:
        return self._session.write(entities) if entities else self.catalog

    def _swap(self, name: str, change: Callable[[Store, int], Store]) -> Store:
        with self._command() as catalog:
            return self._write(swaps.swapped(catalog, self._reports, name, change, self._clock.now_ms())).stores[name]

    def _end(
        self, name: str, number: int, status: VersionStatus, change: Callable[[Store, int, str, int], Store], reason: str
    ) -> VersionInfo:
        with self._command() as catalog:
            store = stores.find(catalog, name)
            version = lifecycle.find(store, number)
            if number == store.current:
                raise Conflict(f"version {number} of store {name!r} is serving", hint="roll back first")
            if status is VersionStatus.ERROR and version.status is VersionStatus.STARTED and version.snapshot is not None:
                # It is an attempt that lost which says so: another one has sealed.
                raise Conflict(f"version {number} of store {name!r} is sealed and completes by itself", hint="kill it to stop it")
            if version.status is not status:
                self._write(change(store, number, reason, self._clock.now_ms()))
            return self.get_version(name, number)

    def _silent_s(self, name: str, number: int) -> float:
        # Only silence that this process was awake to hear counts: after a SIGSTOP every push gets its lease again.
        now_s = min(self._clock.monotonic_s(), self._looked_s + _PAUSE_S)
        return now_s - max(self._heard_s.get((name, number), self._opened_s), self._opened_s)

    def _grant(self, store: Store, version: Version, *, existing: bool) -> PushGrant:
        attempt = f"{self._rng.getrandbits(64):016x}"
        folder = self._blobs.attempt(store.name, version.number, attempt)
        return pushes.granted(store, version, folder=folder, attempt=attempt, existing=existing, lease_s=self._policy.push_lease_s)
