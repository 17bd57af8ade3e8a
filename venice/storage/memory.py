"""A replica in RAM: the twin of `rocks.RocksStorage`, for tests and simulation. Nothing outlives the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock

from venice.errors import Unavailable
from venice.storage import Change, Identity, Image, Position


class MemoryStorage:
    """One replica's storage in two dictionaries."""

    def __init__(self, identity: Identity, position: Position | None = None) -> None:
        self._identity = identity
        self._position = position or Position()
        self._values: dict[bytes, bytes] = {}
        self._metadata: dict[bytes, bytes] = {}
        self._lock = Lock()
        self._closed = False

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def position(self) -> Position:
        return self._position

    @property
    def row_count(self) -> int:
        self._check_open()
        return len(self._values)

    def get(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]:
        return self.get

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self._check_open()
        with self._lock:
            return [self._values.get(key) for key in keys]

    def get_metadata(self, key: bytes) -> bytes | None:
        self._check_open()
        return self._metadata.get(key)

    def scan(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            return self._scan(self._values, start)

    def scan_metadata(self, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            return self._scan(self._metadata, start)

    def image(self) -> Image:
        with self._lock:
            return Image(self._position, self._scan(self._values, b""), self._scan(self._metadata, b""))

    def apply(self, mutations: Sequence[Change], position: Position) -> None:
        self._check_open()
        with self._lock:
            for key, value, metadata in mutations:
                _put(self._values, key, value)
                _put(self._metadata, key, metadata)
            self._position = position

    def close(self) -> None:
        self._closed = True

    def _scan(self, rows: Mapping[bytes, bytes], start: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        return self._rows(sorted(row for row in rows.items() if row[0] >= start))

    def _rows(self, rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in rows:
            self._check_open()
            yield row
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(f"replica {self._identity.incarnation} is closed", hint="look it up again")


def _put(rows: dict[bytes, bytes], key: bytes, data: bytes | None) -> None:
    if data is None:
        rows.pop(key, None)
    else:
        rows[key] = data
