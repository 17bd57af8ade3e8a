"""A reader that never stops, and judges every answer it gets."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from venice.errors import Unavailable

ROWS = 2_000
KEY_SCHEMA = '"long"'
VALUE_SCHEMA = json.dumps(
    {
        "type": "record",
        "name": "Row",
        "fields": [{"name": "edition", "type": "int"}, {"name": "square", "type": "long"}, {"name": "name", "type": "string"}],
    }
)


def rows(edition: int, count: int = ROWS) -> str:
    """SQL of a version whose every row says which edition it is of."""
    return f"SELECT i AS key, {edition}::INT AS edition, i * i + {edition} AS square, 'row ' || i AS name FROM range({count}) t(i)"


def right(key: int, row: Any) -> bool:
    """Whether a row is what its edition pushed under its key."""
    return isinstance(row, dict) and row["square"] == key * key + row["edition"] and row["name"] == f"row {key}"


class Client(Protocol):
    """What all clients have in common."""

    def get(self, key: Any) -> Any: ...

    def batch_get(self, keys: Any) -> Any: ...

    def close(self) -> None: ...


@dataclass
class Reader:
    """Reads through one client in a thread of its own, between `with` and its end.

    Args:
        open_client: Opens what is read through.
        seed: Chooses the keys.
        tolerant: Whether `Unavailable` is allowed (while processes are being killed); anything else never is.
    """

    open_client: Callable[[], Client]
    seed: int = 0
    tolerant: bool = False
    gets: int = 0
    batches: int = 0
    unavailable: int = 0
    faults: list[str] = field(default_factory=list)
    editions: list[int] = field(default_factory=list)
    """Each edition once per time that it came to be seen, in order."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = random.Random(self.seed)
        try:
            with closing(self.open_client()) as client:
                while not self._stop.is_set():
                    self._read(client, rng)
        except Exception as error:  # noqa: BLE001 - judged by the test, not lost with the thread
            self.faults.append(repr(error))

    def _read(self, client: Client, rng: random.Random) -> None:
        try:
            keys = rng.sample(range(ROWS), 100)
            found = client.batch_get(keys)
            self.batches += 1
            if len(found) != len(keys):
                self.faults.append(f"{len(found)} rows of {len(keys)}")
            self.faults += [f"{key}: {row}" for key, row in found.items() if not right(key, row)]
            editions = {row["edition"] for row in found.values()}
            if len(editions) > 1:
                self.faults.append(f"mixed batch of editions {editions}")
            self._saw(min(editions))
            key = rng.randrange(ROWS)
            row = client.get(key)
            self.gets += 1
            if not right(key, row):
                self.faults.append(f"{key}: {row}")
            self._saw(row["edition"])
        except Unavailable as error:
            self.unavailable += 1
            if not self.tolerant:
                self.faults.append(repr(error))

    def _saw(self, edition: int) -> None:
        if not self.editions or self.editions[-1] != edition:
            self.editions.append(edition)
