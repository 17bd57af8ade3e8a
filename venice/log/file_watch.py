"""Being woken by the kernel when a file is written to, where the system can do that."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_IN_MODIFY = 0x2
_EVENTS_BYTES = 4096


class FileWatch:
    """A descriptor that becomes readable when somebody writes to a file: Linux's inotify(7).

    Of a burst of writes the kernel keeps one event. Somebody who maps the file goes unnoticed.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def drain(self) -> None:
        """Forget the writes so far. Look at the file after this, not before."""
        with suppress(BlockingIOError):
            os.read(self.descriptor, _EVENTS_BYTES)

    def close(self) -> None:
        os.close(self.descriptor)


def watch_file(path: Path) -> FileWatch | None:
    """A watch on an existing file; None where the system has none, or no more of them to give (128 a user by default)."""
    inotify = _inotify()
    if inotify is None:
        return None
    init, add = inotify
    descriptor = init(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if add(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(descriptor)
        return None
    return FileWatch(descriptor)


def _inotify() -> tuple[Callable[[int], int], Callable[[int, bytes, int], int]] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        init, add = libc.inotify_init1, libc.inotify_add_watch
    except (OSError, AttributeError):
        return None
    init.argtypes, init.restype = [ctypes.c_int], ctypes.c_int
    add.argtypes, add.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32], ctypes.c_int
    return init, add
