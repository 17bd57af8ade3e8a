"""The control API from another process: one method per command, the errors of `venice/errors.py`, values in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from venice.clock import Clock
from venice.control.answers import Health, Keep, NodeChange, NodeInfo, PushGrant, VersionInfo
from venice.control.encoding import from_json
from venice.errors import InvalidRequest, Unavailable
from venice.model import HybridConfig, Rollout, Store, StoreConfig, ValueSchema
from venice.wire import error_of

T = TypeVar("T")

_RETRY_FIRST_S = 0.05
_RETRY_MAX_S = 1.0


class ControllerClient:
    """A client of one controller. Safe to share between threads: each call has a connection of its own.

    A controller that cannot be reached is tried again for `retry_s` seconds (it may be restarting). Once a request has
    gone out it is sent again only if doing it twice does no more than doing it once.
    """

    def __init__(self, url: str, clock: Clock, *, retry_s: float = 10.0, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise InvalidRequest(f"controller URL {url!r} is not of the form http://HOST:PORT", hint="mend controller_url in the settings")
        self._url = url
        self._address = (parts.hostname, parts.port or 80)
        self._clock = clock
        self._retry_s = retry_s
        self._timeout_s = timeout_s

    def create_store(
        self,
        name: str,
        *,
        key_schema: str,
        value_schema: str | None = None,
        owner: str = "",
        config: StoreConfig | None = None,
        hybrid: HybridConfig | None = None,
    ) -> Store:
        """Create a store; schemas are Avro JSON. Raises Conflict if it exists, InvalidRequest, Incompatible."""
        body = {
            "name": name,
            "owner": owner,
            "key_schema": key_schema,
            "value_schema": value_schema,
            "config": _fields(config if config is not None else StoreConfig()),
            "hybrid": _fields(hybrid),
        }
        return from_json(Store, self._call("POST", "/stores", body, again=False), "store")

    def get_store(self, name: str) -> Store:
        """The store as the controller has it. Raises NotFound."""
        return from_json(Store, self._call("GET", f"/stores/{quote(name, safe='')}"), "store")

    def list_stores(self) -> tuple[Store, ...]:
        """All stores, by name."""
        return _many(Store, self._call("GET", "/stores"))

    def update_store(
        self, name: str, *, owner: str | None = None, hybrid: HybridConfig | Keep | None = Keep.KEEP, **config: int | str
    ) -> Store:
        """Change the owner or fields of `StoreConfig`, by name; versions that exist keep what they were made with.

        With `hybrid`, versions pushed from now on follow the store's real-time topic; with None, they do not.
        """
        body: dict[str, Any] = {"owner": owner, "config": config}
        if not isinstance(hybrid, Keep):
            body["hybrid"] = _fields(hybrid)
        return from_json(Store, self._call("PATCH", f"/stores/{quote(name, safe='')}", body), "store")

    def delete_store(self, name: str) -> None:
        """Delete the store and all its versions. Raises Conflict while a push is under way."""
        self._call("DELETE", f"/stores/{quote(name, safe='')}", again=False)

    def add_schema(self, store: str, schema: str) -> ValueSchema:
        """Register a value schema; an identical one gets the id it has. Raises Incompatible naming the field."""
        return from_json(ValueSchema, self._call("POST", f"/stores/{quote(store, safe='')}/schemas", {"schema": schema}), "schema")

    def list_schemas(self, store: str) -> tuple[ValueSchema, ...]:
        """The value schemas, by id."""
        return _many(ValueSchema, self._call("GET", f"/stores/{quote(store, safe='')}/schemas"))

    def create_version(
        self,
        store: str,
        *,
        push_id: str,
        deferred_swap: bool = False,
        rollout: Rollout | None = None,
        config: Mapping[str, int | str] | None = None,
    ) -> PushGrant:
        """Begin a push, or find the one that `push_id` began. Raises Conflict while another one runs.

        Args:
            rollout: Nodes that get the version first.
            config: Fields of `StoreConfig`, by name, that the store gets if the push begins.
        """
        first = asdict(rollout) if rollout is not None else None
        body = {"push_id": push_id, "deferred_swap": deferred_swap, "rollout": first, "config": dict(config or {})}
        return from_json(PushGrant, self._call("POST", f"/stores/{quote(store, safe='')}/versions", body), "push")

    def heartbeat(self, store: str, number: int) -> VersionInfo:
        """Say that the push is alive, and learn whether it still counts (its status)."""
        return self._version(store, number, "heartbeat", {})

    def seal(self, store: str, number: int, *, uri: str, sha256: str, rows: int, bytes_: int, value_schema_id: int) -> VersionInfo:
        """Hand over the sealed snapshot; from here on the version completes without the pusher."""
        body = {"uri": uri, "sha256": sha256, "rows": rows, "bytes": bytes_, "value_schema_id": value_schema_id}
        return self._version(store, number, "seal", body)

    def kill(self, store: str, number: int, reason: str = "") -> VersionInfo:
        """Give up a version that does not serve."""
        return self._version(store, number, "kill", {"reason": reason})

    def fail(self, store: str, number: int, reason: str) -> VersionInfo:
        """Say that the push has failed and why."""
        return self._version(store, number, "fail", {"reason": reason})

    def get_version(self, store: str, number: int) -> VersionInfo:
        """A version and how many of its partitions are ready. Raises NotFound, also for a retired one."""
        return from_json(VersionInfo, self._call("GET", f"/stores/{quote(store, safe='')}/versions/{number}"), "version")

    def list_versions(self, store: str) -> tuple[VersionInfo, ...]:
        """All versions, by number."""
        return _many(VersionInfo, self._call("GET", f"/stores/{quote(store, safe='')}/versions"))

    def rollback(self, store: str) -> Store:
        """Serve the largest backup again. Raises Conflict if there is none."""
        return from_json(Store, self._call("POST", f"/stores/{quote(store, safe='')}/rollback", {}, again=False), "store")

    def roll_forward(self, store: str) -> Store:
        """Serve the newest complete version above the current one. Raises Conflict if there is none."""
        return from_json(Store, self._call("POST", f"/stores/{quote(store, safe='')}/roll-forward", {}, again=False), "store")

    def nodes(self) -> tuple[NodeInfo, ...]:
        """All nodes with their workers."""
        return _many(NodeInfo, self._call("GET", "/nodes"))

    def change_node(self, node: str, change: NodeChange) -> NodeInfo:
        """Drain a node, take it back, or remove one that is gone. Raises NotFound, and Conflict if that cannot be done."""
        return from_json(NodeInfo, self._call("POST", f"/nodes/{quote(node, safe='')}/{change.value}", {}), "node")

    def health(self) -> Health:
        """Whether the controller works, and what troubles it."""
        return from_json(Health, self._call("GET", "/health"), "health")

    def _version(self, store: str, number: int, verb: str, body: dict[str, Any]) -> VersionInfo:
        path = f"/stores/{quote(store, safe='')}/versions/{number}/{verb}"
        return from_json(VersionInfo, self._call("POST", path, body), "version")

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, *, again: bool = True) -> bytes:
        payload = json.dumps(body).encode() if body is not None else None
        deadline = self._clock.monotonic_s() + self._retry_s
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                return self._send(method, path, payload, again)
            except Unavailable as error:
                if not error.data.get("again", True) or self._clock.monotonic_s() + pause_s > deadline:
                    raise
            self._clock.sleep(pause_s)
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    def _send(self, method: str, path: str, payload: bytes | None, again: bool) -> bytes:
        connection = HTTPConnection(*self._address, timeout=self._timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Unavailable(
                    f"no controller answers at {self._url} ({error})", hint="start one with 'venice up' or 'venice run controller'"
                ) from error
            try:
                headers = {"content-type": "application/json"} if payload is not None else {}
                connection.request(method, f"/api/v1{path}", payload, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, HTTPException) as error:
                raise Unavailable(
                    f"the controller at {self._url} broke off during {method} {path} ({error!r})",
                    hint="it may have been done or not: look before you repeat it",
                    again=again,
                ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise error_of(response.status, answer)
        return answer


def _fields(settings: StoreConfig | HybridConfig | None) -> dict[str, int | str] | None:
    return asdict(settings) if settings is not None else None


def _many(cls: type[T], answer: bytes) -> tuple[T, ...]:
    return from_json(tuple[cls, ...], answer, f"list of {cls.__name__}")  # type: ignore[valid-type]  # a type made of one
