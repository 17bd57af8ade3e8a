"""Replicas that a child process owns, as a Da Vinci client sees them: what a `ReplicaSet` is to the client that folds itself.

Read path: client → view → storage beside its owner. A child that dies is started again and goes on from its own
checkpoints; reads go on meanwhile, from the files that are open and what is known to have changed since.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from venice.client.rows import Readable
from venice.clock import Clock
from venice.errors import VeniceError
from venice.log import Entry
from venice.model import ReplicaReport
from venice.replica import Wanted
from venice.replica_process import Changed, Condemned, Message, Opened, Order, Place, Present, Seen
from venice.storage.beside import BesideStorage
from venice.telemetry import log_event

RESTART_S = 0.2
RESTART_MAX_S = 5.0
"""Before the next child after many that said nothing: each costs a start of Python."""
STOP_S = 15.0


class ReplicaProcess:
    """Holds what is wanted in a child process. One thread calls `want`, `poll` and `close`; any thread reads `open`.

    Args:
        folder: Of the replicas; the child owns it.
        log_url: Where the version topics are.
        clock: For pauses.
    """

    def __init__(self, folder: Path, log_url: str, *, clock: Clock) -> None:
        # Not `-m`: what it says are objects of that module, whose name would be `__main__` there.
        self._command = [sys.executable, "-c", "from venice.replica_process import main; main()", str(folder), log_url]
        self._clock = clock
        self._wanted: list[Wanted] | None = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._storages: dict[Place, BesideStorage] = {}
        self._reports: tuple[ReplicaReport, ...] = ()
        self.open: Mapping[tuple[str, int], Mapping[int, Readable]] = MappingProxyType({})
        """Versions that can be read; replaced as a whole, never changed."""
        self.generation = 0
        """Grows with every change of `open`."""
        self._child = self._start()
        self._thread = threading.Thread(target=self._listen, name="davinci-replicas", daemon=True)
        self._thread.start()

    @property
    def process(self) -> int:
        """Id of the child."""
        return self._child.pid

    def want(self, wanted: Iterable[Wanted]) -> None:
        """From now on, hold exactly these replicas."""
        with self._lock:
            self._wanted = list(wanted)
            self._order(self._wanted)

    def condemn(self, store: str, version: int, partition: int, storage: Readable) -> None:
        """Have a replica replaced in whose storage corrupt bytes were read. From any thread."""
        assert isinstance(storage, BesideStorage), "all that is read here is beside its owner"
        with self._lock:
            self._order(Condemned((store, version, partition), str(storage.folder)))

    def poll(self, *, timeout_s: float) -> list[tuple[str, Sequence[Entry]]]:
        """Wait for a change of `open`; there is never anything to fold here."""
        self._changed.wait(timeout_s)
        self._changed.clear()
        return []

    def fold(self, name: str, entries: Sequence[Entry]) -> int:
        """The child folds."""
        raise AssertionError(f"{name} is folded by the child")

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The state of every wanted replica, as the child said last."""
        return self._reports

    def close(self) -> None:
        """Stop the child; its replicas stay as they are on disk. Reads under way end well."""
        self._stopping.set()
        with self._lock:
            child = self._child
            with suppress(OSError):
                if child.stdin is not None:
                    child.stdin.close()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
        self._thread.join()
        self.open = MappingProxyType({})
        self._reports = ()
        self._storages.clear()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def _order(self, order: Order) -> None:
        stdin = self._child.stdin
        if stdin is not None:
            # A child that is gone hears what is wanted when it is back.
            with suppress(OSError, ValueError):
                pickle.dump(order, stdin, protocol=pickle.HIGHEST_PROTOCOL)
                stdin.flush()

    def _listen(self) -> None:
        pause_s = RESTART_S
        while True:
            said = False
            messages = self._child.stdout
            assert messages is not None, "its output is a pipe"
            with suppress(EOFError, OSError, pickle.UnpicklingError, VeniceError):
                while True:
                    self._take(pickle.load(messages))
                    said = True
            # It has died, or what it said cannot be opened: a new one says everything again.
            self._child.kill()
            code = self._child.wait()
            messages.close()
            if self._stopping.is_set():
                return
            log_event("process_exited", child="davinci-replicas", code=code)
            pause_s = RESTART_S if said else min(2 * pause_s, RESTART_MAX_S)
            self._clock.sleep(pause_s)
            with self._lock:
                if self._stopping.is_set():
                    return
                if self._child.stdin is not None:
                    with suppress(OSError):
                        self._child.stdin.close()
                self._child = self._start()
                if self._wanted is not None:
                    self._order(self._wanted)

    def _take(self, message: Message) -> None:
        match message:
            case Changed():
                storage = self._storages.get(message.place)
                if storage is not None:
                    storage.change(message.changes, message.next_offset)
            case Opened():
                self._open(message.place, Path(message.folder))
            case Seen():
                self._reports = message.reports
            case Present():
                self._reports = message.reports
                self._publish()

    def _open(self, place: Place, folder: Path) -> None:
        known = self._storages.get(place)
        wanted = self._places().get(place)
        if wanted is None:
            return
        if known is None or known.folder != folder:
            self._storages[place] = BesideStorage(folder, self._clock, immutable=wanted.version.hybrid is None)
        elif not known.immutable:
            known.renew()

    def _publish(self) -> None:
        # What a child has not opened yet, because it was started anew, is read as it was.
        wanted = self._places()
        self._storages = {place: storage for place, storage in self._storages.items() if place in wanted}
        versions: dict[tuple[str, int], dict[int, Readable]] = {}
        for (store, version, partition), storage in self._storages.items():
            versions.setdefault((store, version), {})[partition] = storage
        self.open = MappingProxyType(versions)
        self.generation += 1
        self._changed.set()

    def _places(self) -> Mapping[Place, Wanted]:
        return {(one.store, one.version.number, one.partition): one for one in self._wanted or ()}
