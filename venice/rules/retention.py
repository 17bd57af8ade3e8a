"""Which versions of a store go. Pure; Venice's rules."""

from __future__ import annotations

from venice.errors import InvalidRequest

_FAILED = frozenset({"ERROR", "KILLED"})


def versions_to_delete(versions: list[tuple[int, str]], current: int, preserve: int) -> list[int]:
    """Numbers of the versions to delete, newest first.

    The current version always stays and takes one of the `preserve` places; the newest ONLINE versions take the others.
    Failed ones go at once. A STARTED one goes if a newer version was created after it: nobody can complete it any more.
    PUSHED ones wait for an operator, and ROLLED_BACK ones for a window of their own: neither takes a place or goes here.

    Args:
        versions: (number, name of the status), in any order.
        current: Number of the serving version; one that is not in `versions` takes no place.
        preserve: How many complete versions stay.

    Raises:
        InvalidRequest: `preserve` is below 1.
    """
    if preserve < 1:
        raise InvalidRequest(f"cannot preserve {preserve} versions", hint="preserve at least 1: the version that serves")
    newest_first = sorted(versions, reverse=True)
    places = preserve - any(number == current for number, _ in versions)
    doomed: list[int] = []
    for index, (number, status) in enumerate(newest_first):
        if number == current:
            continue
        if status == "ONLINE" and places > 0:
            places -= 1
        elif status == "ONLINE" or status in _FAILED or (status == "STARTED" and index > 0):
            doomed.append(number)
    return doomed
