"""Replicas in a process of their own, a child of the one that reads them.

Write path: snapshot and version topic → `venice/replicas.py` → storage. A Da Vinci client that wants its process to itself
starts one: this process owns the replicas, attaches and folds; the client opens the same files to read
(`venice/storage/beside.py`).

Standard input: `Wanted` replicas, as often as they change, and those that are `Condemned`; its end is the order to stop.
Standard output: `Message`s. Both are pickles one after the other between two processes of one program.
"""

from __future__ import annotations

import os
import pickle
import queue
import secrets
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from venice.clock import SystemClock
from venice.log.open import open_log
from venice.lookout import Lookout
from venice.model import ReplicaReport
from venice.naming import replica_name
from venice.replica import Wanted
from venice.replicas import ReplicaSet
from venice.storage import Mutation, Position
from venice.storage.beside import Change
from venice.storage.rocks import RocksStorage

CHANGED_BYTES_MAX = 16 * 1024 * 1024
"""Changes of a replica that its reader keeps in memory before it opens the files anew."""
CHANGE_BYTES = 250
"""What a change takes beside its bytes."""
GRACE_S = 1.0
POLL_S = 0.02

Place = tuple[str, int, int]
"""(store, version, partition)."""


class Condemned(NamedTuple):
    """Corrupt bytes were read in this directory of a replica: it is to be replaced."""

    place: Place
    folder: str


Order = list[Wanted] | Condemned


class Opened(NamedTuple):
    """A replica can be read: its files hold everything said of it so far."""

    place: Place
    folder: str


class Changed(NamedTuple):
    """The owner has written this to a replica."""

    place: Place
    changes: list[Change]
    next_offset: int


class Present(NamedTuple):
    """All that can be read was said; this is how the replicas are."""

    reports: tuple[ReplicaReport, ...]


class Seen(NamedTuple):
    """How the replicas are by now: lag, freshness, faulty records."""

    reports: tuple[ReplicaReport, ...]


Message = Opened | Changed | Present | Seen


@dataclass
class _Told:
    """A storage that says what it writes. Everything else is asked of the storage itself."""

    storage: RocksStorage
    place: Place
    out: BinaryIO
    told_bytes: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)

    def apply(self, mutations: list[Mutation], position: Position) -> None:
        self.storage.apply(mutations, position)
        if mutations:
            changes = [(key, value) for key, value, _ in mutations]
            self.told_bytes += sum(CHANGE_BYTES + len(key) + len(value or b"") for key, value in changes)
            _say(self.out, Changed(self.place, changes, position.next_offset))

    def announce(self) -> None:
        self.storage.flush()
        self.told_bytes = 0
        _say(self.out, Opened(self.place, str(self.storage.folder)))


def run(folder: Path, log_url: str, orders: BinaryIO, out: BinaryIO) -> None:
    """Hold what is ordered until the orders end."""
    clock = SystemClock()
    log = open_log(log_url, clock)
    replicas = ReplicaSet(folder, log, clock=clock, ids=lambda: secrets.token_hex(8), grace_s=GRACE_S)
    lookout = Lookout(log, replicas, clock)
    stopping = threading.Event()
    condemned: queue.SimpleQueue[Condemned] = queue.SimpleQueue()

    def obey() -> None:
        try:
            while True:
                order: Order = pickle.load(orders)
                if isinstance(order, Condemned):
                    condemned.put(order)
                else:
                    replicas.want(order)
        except (EOFError, OSError, pickle.UnpicklingError):
            stopping.set()

    threading.Thread(target=obey, name="orders", daemon=True).start()
    generation = -1
    told: dict[Place, _Told] = {}
    try:
        while not stopping.is_set():
            while not condemned.empty():
                _condemn(replicas, condemned.get())
            for name, entries in replicas.poll(timeout_s=POLL_S):
                replicas.fold(name, entries)
            if replicas.generation != generation:
                generation = replicas.generation
                told = _announce(replicas, told, out)
            for one in told.values():
                if one.told_bytes > CHANGED_BYTES_MAX:
                    one.announce()
            if lookout.look():
                _say(out, Seen(replicas.reports()))
    except BrokenPipeError:
        pass  # nobody reads any more
    finally:
        replicas.close()
        log.close()


def _condemn(replicas: ReplicaSet, order: Condemned) -> None:
    store, version, partition = order.place
    storage: Any = replicas.open.get((store, version), {}).get(partition)
    if storage is not None and str(storage.folder) == order.folder:
        replicas.condemn(store, version, partition)


def _announce(replicas: ReplicaSet, told: dict[Place, _Told], out: BinaryIO) -> dict[Place, _Told]:
    """Say which replicas can be read; the ones that are new listen to their storages from here on."""
    present: dict[Place, _Told] = {}
    reports = replicas.reports()
    for report in reports:
        place = (report.store, report.version, report.partition)
        storage: Any = replicas.open.get(place[:2], {}).get(place[2])
        fold = replicas.fold_of(replica_name(*place))
        if storage is None or fold is None:
            continue
        if not isinstance(storage, _Told):
            # All of its writes go by the fold, whose thread is this one: none is missed between this and its announcement.
            storage = fold.storage if isinstance(fold.storage, _Told) else _Told(storage, place, out)
            fold.storage = storage
        if told.get(place) is not storage:
            storage.announce()
        present[place] = storage
    _say(out, Present(reports))
    return present


def _say(out: BinaryIO, message: Message) -> None:
    pickle.dump(message, out, protocol=pickle.HIGHEST_PROTOCOL)
    out.flush()


def main() -> None:
    """Entry point of the child; its arguments are the replicas' folder and the log's URL."""
    # Whatever prints must not print among the messages.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    run(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer, out)
    with suppress(OSError):
        out.close()
