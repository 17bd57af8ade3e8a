"""The storage of one replica: the values of a partition, their metadata and how far the log was folded into them.

One protocol, two drivers: `rocks.RocksStorage` (a RocksDB directory, one owner for its life) and
`memory.MemoryStorage` (its twin in RAM). Stored values are bytes in the layout of `venice/storage/format.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from venice.record import Vector


class Mutation(NamedTuple):
    """One change: `value` None deletes; `metadata` None removes the key's replication metadata. Both replace."""

    key: bytes
    value: bytes | None
    metadata: bytes | None = None


Change = tuple[bytes, bytes | None, bytes | None]
"""What a `Mutation` is, without its name: a fold makes hundreds of thousands of them a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a replica has folded its version topic; written in the same batch as the records it covers."""

    next_offset: int = 0
    vector: Vector = ()
    """Next real-time offset per (region, partition) that the fold has seen."""
    term: int = 0
    session: int = 0
    sequence: int = 0
    """Last sequence accepted within (term, session)."""
    caught_up_session: int = 0
    """The session whose CaughtUp was folded last; 0 = none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a replica directory is a replica of; fixed when it is made, checked when it is opened."""

    store: str
    version: int
    partition: int
    topic_id: str
    incarnation: str
    snapshot_sha256: str = ""
    """Of the manifest it was attached from; empty when it began empty."""


class Image(NamedTuple):
    """A whole replica as of one moment between two batches; the iterators yield (key, bytes) in key order."""

    position: Position
    values: Iterator[tuple[bytes, bytes]]
    metadata: Iterator[tuple[bytes, bytes]]


class PartitionStorage(Protocol):
    """Reads from any thread; `apply` and `close` from one thread at a time."""

    @property
    def identity(self) -> Identity: ...

    @property
    def position(self) -> Position: ...

    @property
    def row_count(self) -> int:
        """Live keys; an estimate for a replica that is written to."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """The stored value, or None.

        Raises:
            Corrupt: A block's checksum is wrong: the replica must be replaced.
            Unavailable: The storage was closed; look the replica up again.
        """
        ...

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]:
        """`get` for who calls it a hundred thousand times a second: its errors are of any kind. Ask `get` then what is wrong."""
        ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Stored values in the order of `keys`, None for missing ones. Raises as `get`."""
        ...

    def get_metadata(self, key: bytes) -> bytes | None:
        """Replication metadata of a key; there can be metadata without a value (a tombstone)."""
        ...

    def scan(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, stored value) in ascending unsigned byte order from `start` on, as of the call.

        Iterating raises as `get`; a storage that is closed meanwhile ends no scan early without Unavailable.
        """
        ...

    def scan_metadata(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, metadata) likewise."""
        ...

    def image(self) -> Image:
        """Everything at one position, from any thread, while batches are applied. Iterating raises as `scan`."""
        ...

    def apply(self, mutations: Sequence[Change], position: Position) -> None:
        """Write all mutations and the position atomically; later mutations of a key win.

        Raises:
            Full: The disk is full; nothing was applied.
        """
        ...

    def close(self) -> None:
        """Release the storage; reads in other threads get Unavailable. Closing again does nothing."""
        ...
