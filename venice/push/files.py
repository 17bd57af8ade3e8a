"""Files by path or URL: found, measured, opened. URLs go through fsspec, with whatever credentials its file systems find.

Write path: **read** → encode → partition → sort → seal.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from venice.errors import InvalidRequest, NotFound, Unavailable, VeniceError
from venice.push.masking import mask

_Found = TypeVar("_Found")
_ABSENT: Final = "check the path; a relative one is looked up from the working folder"
_EMPTY: Final = "the folder has no files, but for those in or named as what begins with '.' or '_', which do not count"
_PACKAGES: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_AWAY: Final = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "ClientConnectorError")


def protocol_of(name: str) -> str:
    """`s3` of `s3://bucket/key`; empty for a path."""
    head, mark, _ = name.partition("://")
    return head.lower() if mark and head.isalnum() else ""


def expand(given: str) -> list[str]:
    """The files that a path, a URL, a glob or a folder names, sorted by name.

    In a folder, files and folders whose names begin with `.` or `_` do not count: other tools leave their marks there.

    Raises:
        NotFound: Nothing is there.
        InvalidRequest: The URL is of no file system that is installed, or what it names may not be read.
        Unavailable: The file system does not answer.
    """
    protocol = protocol_of(given)
    if protocol == "file":
        given, protocol = given[len("file://") :], ""
    found = _expand_url(given) if protocol else _expand_path(given)
    if not found:
        hint = "check the URL, and its glob if it has one" if protocol else _EMPTY if Path(given).is_dir() else _ABSENT
        raise NotFound(f"no file at {mask(given)}", hint=hint)
    return sorted(found)


def _expand_path(given: str) -> list[str]:
    path = Path(given)
    if path.is_dir():
        found = []
        for folder, folders, names in os.walk(path):
            folders[:] = filter(_counts_by_name, folders)  # What is below the others may be much, and is not looked at.
            found += [str(file) for name in filter(_counts_by_name, names) if (file := Path(folder, name)).is_file()]
        return found
    if path.is_file():
        return [given]
    return [file for file in glob.glob(given, recursive=True) if Path(file).is_file()]


def _expand_url(given: str) -> list[str]:
    system = file_system(given)

    def look() -> list[str]:
        system.invalidate_cache()  # What was listed a push ago may have changed.
        if any(mark in given for mark in "*?["):
            found = [name for name, facts in system.glob(given, detail=True).items() if facts["type"] == "file"]
        elif system.isfile(given):
            return [given]
        else:
            root = cast(str, system._strip_protocol(given)).rstrip("/") + "/"
            found = [name for name in system.find(given) if _counts(name.removeprefix(root).split("/"))]
            if not found:
                system.info(given)  # Looking for files, HTTP takes a server that does not answer for one without them.
        return [system.unstrip_protocol(name) for name in found]

    return _asked(given, look)


def _counts(parts: list[str]) -> bool:
    return all(map(_counts_by_name, parts))


def _counts_by_name(name: str) -> bool:
    return name[:1] not in (".", "_")


def size_of(name: str) -> int:
    """Bytes of a file. Raises as `expand`."""
    if not protocol_of(name):
        return _asked(name, lambda: Path(name).stat().st_size)
    return _asked(name, lambda: int(file_system(name).size(name) or 0))


def open_file(name: str) -> BinaryIO:
    """A file to read and seek in. Raises as `expand`."""
    if not protocol_of(name):
        return _asked(name, lambda: Path(name).open("rb"))
    return _asked(name, lambda: cast(BinaryIO, file_system(name).open(name, "rb")))


def first_bytes(name: str, count: int) -> bytes:
    """What a file begins with. Raises as `expand`."""
    with open_file(name) as opened:
        return opened.read(count)


def file_system(name: str) -> Any:
    """The fsspec file system of a URL. Raises InvalidRequest if there is none."""
    import fsspec

    protocol = protocol_of(name)
    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else "copy the files to a folder, or to an object store such as s3://"
        raise InvalidRequest(f"{mask(name)}: nothing here reads {protocol}:// URLs", hint=hint) from error


def _asked(name: str, ask: Callable[[], _Found]) -> _Found:
    try:
        return ask()
    except FileNotFoundError as error:
        if isinstance(error.__cause__, Exception) and _is_away(error.__cause__):
            raise refusal(name, error.__cause__) from error
        raise NotFound(f"no file at {mask(name)}", hint=_ABSENT if not protocol_of(name) else "check bucket and key") from error
    except VeniceError:
        raise
    except Exception as error:  # Each file system has errors of its own, and all of them are about this name.
        raise refusal(name, error) from error


def _is_away(error: BaseException) -> bool:
    return any(kind.__name__ in _AWAY for found in (error, error.__cause__, error.__context__) for kind in type(found).__mro__)


def refusal(name: str, error: BaseException) -> VeniceError:
    """Why a file system did not read `name`."""
    said = mask(str(error)).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if _is_away(error):
        address = " (AWS_ENDPOINT_URL)" if _PACKAGES.get(protocol_of(name)) == "s3fs" else ""
        return Unavailable(f"{mask(name)} does not answer: {said}", hint=f"check that its server runs, and the address{address}")
    hint = "check the credentials of this environment, and what they may read" if protocol_of(name) else "check who may read it"
    return InvalidRequest(f"cannot read {mask(name)}: {said}", hint=hint)
