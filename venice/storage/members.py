"""JSON objects read strictly: what the replica's identity and the manifest of a sealed folder are written in.

Anything but an object with the members and types asked for is `Corrupt`, whatever the bytes are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from venice.errors import Corrupt, InvalidRequest

_Parsed = TypeVar("_Parsed")
_HINT = "it is not what was written: take it from its source again"


def dump(members: dict[str, Any]) -> bytes:
    """The object as bytes: sorted members, no spaces, ASCII. Equal objects give equal bytes."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def load(what: str, data: bytes, format_newest: int) -> dict[str, Any]:
    """The members of the object that `data` is. Raises Corrupt; `what` names the thing in its message."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{what} is not JSON: {error}", hint=_HINT) from error
    if type(members) is not dict:
        raise Corrupt(f"{what} is not a JSON object", hint=_HINT)
    check_format(what, members.get("format"), format_newest)
    return members


def check_format(what: str, format_: object, format_newest: int) -> None:
    """Refuse, as Corrupt, a format that does not exist or is newer than `format_newest`."""
    if type(format_) is not int or format_ < 1:
        raise Corrupt(f"{what} has no format that exists: {format_!r}", hint=_HINT)
    if format_ > format_newest:
        message = f"{what} format {format_} is newer than this release reads ({format_newest})"
        raise Corrupt(message, hint="upgrade this process", format=format_)


def parse(what: str, build: Callable[[], _Parsed]) -> _Parsed:
    """What `build` makes of members; a missing or wrong one is Corrupt."""
    try:
        return build()
    except KeyError as error:
        raise Corrupt(f"{what} lacks member {error}", hint=_HINT) from error
    except (ValueError, TypeError, InvalidRequest) as error:
        raise Corrupt(f"{what} is not as it is written: {error}", hint=_HINT) from error


def string(members: dict[str, Any], name: str) -> str:
    """Member `name`, a string; ValueError or KeyError otherwise, as in the functions below."""
    found = members[name]
    if type(found) is not str:
        raise ValueError(f"{name} is {found!r}, not a string")
    return found


def count(members: dict[str, Any], name: str) -> int:
    """Member `name`, an integer from 0 on."""
    found = members[name]
    if type(found) is not int or found < 0:
        raise ValueError(f"{name} is {found!r}, not a count")
    return found


def items(members: dict[str, Any], name: str) -> list[Any]:
    """Member `name`, a list of anything."""
    found = members[name]
    if type(found) is not list:
        raise ValueError(f"{name} is {found!r}, not a list")
    return found
