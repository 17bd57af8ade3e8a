"""Rows for a batch of items: what `venice.operators.lookup` is made of.

Read path: dataflow → **lookup** → thin, fast or Da Vinci client.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from venice.client.fast import FastClient
from venice.client.thin import ThinClient
from venice.clock import Clock, SystemClock
from venice.config import Settings, load
from venice.errors import InvalidRequest, VeniceError

X = TypeVar("X")

KEYS_MAX = 5000
"""Keys asked for at a time; routers take twice as many."""

RETRY_S = 60.0
"""How long a batch waits for a cluster that cannot answer, before the flow fails."""

PAUSE_S = 0.2


class _Client(Protocol):
    def batch_get(self, keys: Sequence[Any], /) -> dict[Any, Any]: ...

    def close(self) -> None: ...


class Lookup(Generic[X]):
    """`lookup(items)` → (item, row or None) of each, in order. Safe to share between threads.

    The client is opened with the first batch, one for a process, and closed when the process ends.

    Args:
        settings: Settings, or the path of a `venice.toml`.
        store: Where to look.
        name: Of the step: a Da Vinci replica is kept under it.
        key: Of an item; None looks nothing up.
        via: `"thin"`, `"fast"` or `"davinci"`.
        fields: Of the row; None: all.
    """

    def __init__(
        self,
        settings: Settings | Path | str,
        store: str,
        name: str,
        key: Callable[[X], Any],
        via: str,
        fields: Sequence[str] | None,
    ) -> None:
        if via not in ("thin", "fast", "davinci"):
            raise InvalidRequest(f"{name}: nothing can be looked up via {via!r}", hint='say "thin", "fast" or "davinci"')
        if isinstance(fields, str):
            raise InvalidRequest(f"{name}: fields is one text, {fields!r}", hint=f"give a list: [{fields!r}]")
        self._settings = settings
        self._store = store
        self._name = name
        self._key = key
        self._via = via
        self._fields = fields
        self._clock: Clock = SystemClock()
        self._lock = threading.Lock()
        self._client: _Client | None = None

    def __call__(self, items: list[X]) -> list[tuple[X, Any]]:
        """Raises what `batch_get` of the client raises, Unavailable only after a while."""
        keys = [self._key(item) for item in items]
        try:
            wanted = list(dict.fromkeys(key for key in keys if key is not None))
        except TypeError as error:
            raise InvalidRequest(
                f"{self._name}: a key cannot be grouped by: {error}", hint="look up by keys that are no records"
            ) from error
        rows: dict[Any, Any] = {}
        for at in range(0, len(wanted), KEYS_MAX):
            rows.update(self._batch_get(wanted[at : at + KEYS_MAX]))
        return [(item, self._of(rows.get(key))) for item, key in zip(items, keys, strict=True)]

    def _batch_get(self, keys: list[Any]) -> Mapping[Any, Any]:
        deadline_s = self._clock.monotonic_s() + RETRY_S
        while True:
            try:
                return self._opened().batch_get(keys)
            except VeniceError as error:
                if not error.retryable or self._clock.monotonic_s() > deadline_s:
                    raise
            self._clock.sleep(PAUSE_S)

    def _opened(self) -> _Client:
        with self._lock:
            if self._client is None:
                settings = self._settings if isinstance(self._settings, Settings) else load(self._settings)
                self._client = self._open(settings)
                # Bytewax does not tell a step that it is over.
                weakref.finalize(self, self._client.close)
            return self._client

    def _open(self, settings: Settings) -> _Client:
        if self._via == "thin":
            return ThinClient(settings.router_url, self._store)
        if self._via == "fast":
            return FastClient(settings.router_url, self._store)
        # It brings RocksDB with it, which those who look up by the router need not have.
        from venice.client.davinci import DaVinciClient

        return DaVinciClient(settings, self._store, folder=settings.data / "davinci" / f"{self._name}.{self._store}")

    def _of(self, row: Any) -> Any:
        if row is None or self._fields is None:
            return row
        try:
            return {field: row[field] for field in self._fields}
        except (KeyError, TypeError) as error:
            raise InvalidRequest(
                f"{self._name}: rows of {self._store!r} have no field {error}", hint="name fields of its schema"
            ) from error
