"""A push that is alive says so, from a thread of its own, and learns whether its version still counts."""

from __future__ import annotations

from threading import Event, Thread
from types import TracebackType
from typing import Self

from venice.control.remote import ControllerClient
from venice.errors import Conflict, NotFound, Unavailable, VeniceError
from venice.model import VersionStatus


class Heartbeat:
    """Heartbeats while its `with` block runs.

    Args:
        lease_s: A push silent for so long is taken for dead.
    """

    def __init__(self, client: ControllerClient, store: str, number: int, lease_s: float) -> None:
        self._client = client
        self._store = store
        self._number = number
        self._interval_s = lease_s / 4
        self._done = Event()
        self._lost: VeniceError | None = None
        self._thread = Thread(target=self._beat, name="push-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        # A call under way is not waited for: it changes nothing that the push relies on.

    def check(self) -> None:
        """Raises Conflict once the version no longer counts: it was killed, or taken for dead."""
        if self._lost is not None:
            raise self._lost

    def _beat(self) -> None:
        while not self._done.wait(self._interval_s):
            try:
                version = self._client.heartbeat(self._store, self._number).version
            except NotFound as error:
                self._lost = error
                return
            except Unavailable:
                continue  # The controller may be restarting; the lease decides.
            except VeniceError as error:
                self._lost = error
                return
            if version.status in (VersionStatus.KILLED, VersionStatus.ERROR):
                self._lost = Conflict(
                    f"version {self._number} of store {self._store!r} is {version.status.name}: {version.reason}",
                    hint="push again",
                    status=version.status.name,
                )
                return
