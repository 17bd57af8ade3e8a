"""Who looks at a store in a test of chaos: it reads all keys over and over, and keeps each change of what they show."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from chaos_load import KEYS, PRODUCERS, PUSHED, Ledger, State

from venice.client.davinci import DaVinciClient
from venice.client.thin import ThinClient
from venice.errors import Unavailable

READ_S = 0.05
"""Between two reads of a thread that reads all the time."""

Floor = Mapping[int, int]
"""Key → the oldest write that it may still show."""
NO_FLOOR: Floor = dict.fromkeys(range(KEYS), PUSHED)


class Client(Protocol):
    def batch_get(self, keys: Iterable[Any]) -> Mapping[Any, Any]: ...


class Seen(NamedTuple):
    """What one read showed of a key, and what it is held to."""

    version: int
    floor: Floor
    key: int
    state: State


class Observer:
    """Reads all keys in a thread of its own. Versions may follow each other meanwhile: each read is of one of them."""

    def __init__(self, name: str, client: ThinClient | DaVinciClient) -> None:
        self.name = name
        self.seen: list[Seen] = []
        """Every change, in the order they were read."""
        self.errors: list[str] = []
        self._client = client
        self._bound: tuple[int, Floor] = (0, NO_FLOOR)
        self._reading = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def read(self) -> tuple[int, dict[int, State]]:
        """The version that answered, and what it says of all keys.

        Raises:
            Unavailable: Nobody answers just now.
        """
        with self._reading:
            while True:
                before = self._client.version if isinstance(self._client, DaVinciClient) else None
                states = states_of(self._client)
                after = self._client.version if isinstance(self._client, DaVinciClient) else self._client.last_version
                if before in (None, after):
                    return after, states

    def reads(self, version: int) -> bool:
        return self.read()[0] == version

    def hold(self, version: int, floor: Floor) -> None:
        """From now on whatever it reads of this version must fit the floor. A later version may be a little behind at first."""
        self._bound = version, floor

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wrong(self, ledger: Ledger, *, one_replica: bool) -> list[object]:
        """What it must never have seen. Of a version and key, a single replica shows later and later writes only."""
        found: list[object] = [*self.errors, *(one for one in self.seen if not ledger.fits(one.key, one.state, one.floor[one.key]))]
        versions = [one.version for one in self.seen]
        if versions != sorted(versions):
            found.append(f"versions {list(dict.fromkeys(versions))} are out of order")
        if one_replica:
            sequences: dict[tuple[int, int], list[State]] = {}
            for one in self.seen:
                sequences.setdefault((one.version, one.key), []).append(one.state)
            found += [said for (_, key), states in sequences.items() if (said := ledger.backwards(key, states))]
        return found

    def _run(self) -> None:
        last: dict[int, Seen] = {}
        while not self._stop.wait(READ_S):
            bound_version, floor = self._bound
            try:
                version, states = self.read()
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
                self.errors.append(repr(error))
                return
            for key, state in states.items():
                seen = Seen(version, floor if version == bound_version else NO_FLOOR, key, state)
                before = last.get(key)
                if before is None or (before.version, before.state) != (version, state) or before.floor is not seen.floor:
                    last[key] = seen
                    self.seen.append(seen)


def states_of(client: Client) -> dict[int, State]:
    rows = client.batch_get(range(KEYS))
    for key, row in rows.items():
        assert row["source"] == ("push" if row["n"] == PUSHED else f"producer {key % PRODUCERS}"), (key, row)
    return {key: rows[key]["n"] if key in rows else None for key in range(KEYS)}
