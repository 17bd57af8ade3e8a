"""Stops a process at an exact moment of its work, from inside: loaded by every Python process whose path has it as `sitecustomize`.

Python announces what a program does with files before it does it (`sys.addaudithook`). The first process that is about to do what the
file `moment.json` beside this one describes takes that file away, writes its number and the path to `reached` and suspends itself for good.
The code of the process is the product's own, and the test may look around and kill while everything stands still.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

FOLDER = Path(__file__).parent
"""Not resolved: a link to this file stands in a folder of the test's own."""
EVENTS = frozenset({"open", "os.mkdir", "os.rename", "os.link", "shutil.rmtree"})

_busy = threading.local()


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS or getattr(_busy, "now", False):
        return
    _busy.now = True  # what is done here announces itself, too
    try:
        stop_if_it_is_now(event, " ".join(os.fsdecode(one) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)))
    except FileNotFoundError:
        pass  # no moment is waited for, or another process was first
    finally:
        _busy.now = False


def stop_if_it_is_now(event: str, paths: str) -> None:
    wanted = json.loads((FOLDER / "moment.json").read_text(encoding="utf-8"))
    process = " ".join(sys.orig_argv)
    if event != wanted["event"] or not re.search(wanted["path"], paths) or wanted["process"] not in process:
        return
    if wanted["function"] not in functions(sys._getframe()):
        return
    (FOLDER / "moment.json").unlink()
    (FOLDER / "reaching").write_text(f"{os.getpid()} {paths}", encoding="utf-8")
    (FOLDER / "reaching").rename(FOLDER / "reached")
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:  # the signal takes a moment to reach this thread, which must not go on
        signal.pause()


def functions(frame: FrameType | None) -> set[str]:
    """The names of those that are being called."""
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


sys.addaudithook(hook)
