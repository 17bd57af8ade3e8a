"""A replica that another process owns and writes, read in this one.

Read path: client → view → **beside** → RocksDB, opened read-only as of a moment.

RocksDB's own way to follow a writer, a *secondary*, answers with values that were overwritten long ago, and opening anew
stops this process for milliseconds. So there are two layers: the files as of one position, and over them, in memory, what
the owner says it has written since. Whoever has both reads what the owner would read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from rocksdict import Rdict

from venice.clock import Clock
from venice.errors import NotFound, Unavailable, VeniceError
from venice.storage.rocks import read_meta
from venice.storage.tuning import open_rocks, translated

Change = tuple[bytes, bytes | None]
"""(key, stored value), or None for a key that is deleted."""

OPEN_TRIES = 100
OPEN_PAUSE_S = 0.02

_ABSENT: Final[Any] = object()


class _Layers(NamedTuple):
    """Replaced as a whole, so that a read uses files and changes that belong together."""

    rocks: Rdict
    base: int
    """Next offset of the version topic that the files do not hold."""
    changes: dict[bytes, bytes | None]


class BesideStorage:
    """Reads from any thread; `change` and `renew` from one at a time. Nothing is ever closed under a read.

    Args:
        folder: Directory of the replica, of which somebody else is the owner.
        immutable: Its rows never change: `change` is never called.
        clock: For tries to open it.

    Raises:
        Unavailable: It cannot be opened, however often it is tried: it is gone or damaged.
    """

    def __init__(self, folder: Path, clock: Clock, *, immutable: bool) -> None:
        self.folder = folder
        self.immutable = immutable
        self._clock = clock
        self._layers = self._opened()

    def renew(self) -> None:
        """Open the files as they are now; changes that they hold are forgotten. Raises as the constructor."""
        self._layers = self._opened()

    def change(self, changes: Sequence[Change], next_offset: int) -> None:
        """What the owner has just written, in the order in which it wrote.

        Args:
            changes: The last one of a key counts.
            next_offset: The owner's position after them.
        """
        layers = self._layers
        if next_offset > layers.base:
            layers.changes.update(changes)

    @property
    def bare_get(self) -> Callable[[bytes], bytes | None]:
        """`get`, whose errors are of any kind."""
        if self.immutable:
            return self._layers.rocks.get

        def get(key: bytes) -> bytes | None:
            layers = self._layers
            changed: bytes | None = layers.changes.get(key, _ABSENT)
            if changed is _ABSENT:
                changed = layers.rocks.get(key)
            return changed

        return get

    def get(self, key: bytes) -> bytes | None:
        """The stored value, or None. Raises Corrupt."""
        try:
            return self.bare_get(key)
        except Exception as error:
            raise translated(error, self.folder) from error

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Stored values in the order of `keys`, None for missing ones. Raises Corrupt."""
        layers = self._layers
        try:
            found: list[bytes | None] = layers.rocks.get(list(keys))  # type: ignore[assignment]  # typed for one key
        except Exception as error:
            raise translated(error, self.folder) from error
        if layers.changes:
            for index, key in enumerate(keys):
                changed = layers.changes.get(key, _ABSENT)
                if changed is not _ABSENT:
                    found[index] = changed
        return found

    def _opened(self) -> _Layers:
        for _ in range(OPEN_TRIES):
            with suppress(VeniceError):
                before = _list_of_files(self.folder)
                layers = self._open()
                if _list_of_files(self.folder) == before:
                    return layers
            self._clock.sleep(OPEN_PAUSE_S)
        raise Unavailable(f"replica {self.folder} cannot be opened beside its owner", hint="look at its owner")

    def _open(self) -> _Layers:
        rocks = open_rocks(self.folder, read_only=True)
        _, position = read_meta(rocks, self.folder)
        return _Layers(rocks, position.next_offset, {})


def _list_of_files(folder: Path) -> tuple[str, int]:
    """Name and size of RocksDB's list of files, which grows before a file or a part of the write-ahead log goes.

    If it grew while the directory was opened, what lay between the list and the log may be lacking: memory that was written
    to a file after the list was read, and cut from the log before the log was.
    """
    try:
        name = (folder / "CURRENT").read_text().strip()
        return name, (folder / name).stat().st_size
    except OSError as error:
        raise NotFound(f"no replica at {folder}") from error
