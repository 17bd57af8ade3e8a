"""Stored rows by key: of all partitions of one version, those read last from a dictionary.

Read path: client → view → **rows** → storage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Protocol

from venice.rules.partitioning import partition_of

ROW_OVERHEAD_BYTES = 200
"""What a kept row takes beside its bytes: two objects, an entry and its place in the order."""


class Readable(Protocol):
    """What a client needs of a storage: the methods of `PartitionStorage` of these names."""

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]: ...

    def get(self, key: bytes) -> bytes | None: ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]: ...


class Rows:
    """The rows of a version. Safe to share between threads.

    First in, first out: cheaper than recency at the price of a lookup, and a row that is asked for often is back after one
    read of its partition.

    Args:
        storages: One of each partition.
        room_bytes: How much the kept rows may take; 0 keeps none, as is right for rows that change.
    """

    def __init__(self, storages: tuple[Readable, ...], room_bytes: int) -> None:
        self.kept: OrderedDict[bytes, bytes] = OrderedDict()
        """Stored values by key, for who wants to look here before `find`; never an empty one."""
        self._storages = storages
        self._gets = tuple(storage.bare_get for storage in storages)
        self._lock = Lock()
        self._room_bytes = room_bytes
        self._taken_bytes = 0

    def find(self, key: bytes) -> bytes | None:
        """The stored value from its partition, or None. Raises Corrupt, Unavailable."""
        partition = partition_of(key, len(self._gets))
        try:
            stored = self._gets[partition](key)
        except Exception:  # noqa: BLE001 - of any kind: `get` tells which
            stored = self._storages[partition].get(key)
        if stored and self._room_bytes:
            self._keep(key, stored)
        return stored

    def _keep(self, key: bytes, stored: bytes) -> None:
        with self._lock:
            if key in self.kept:
                return
            self.kept[key] = stored
            self._taken_bytes += len(key) + len(stored) + ROW_OVERHEAD_BYTES
            while self._taken_bytes > self._room_bytes:
                dropped_key, dropped = self.kept.popitem(last=False)
                self._taken_bytes -= len(dropped_key) + len(dropped) + ROW_OVERHEAD_BYTES
