"""Schemas by their ids, from a schema registry: our controller's routes, or anybody else's that speaks as Confluent's does."""

from __future__ import annotations

import json
from base64 import b64encode
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import unquote, urlsplit

from venice.clock import Clock, SystemClock
from venice.errors import Corrupt, InvalidRequest, Unavailable

_TIMEOUT_S: Final = 10.0
_PAUSE_S: Final = 0.5
_UNKNOWN_S: Final = 5.0
"""A schema that was not there is asked for again after so long: many messages may name it."""


class SchemaIds:
    """`ids(schema_id)` is the schema's text, or None if the registry has none of that id. One thread at a time.

    Args:
        url: Of the registry, such as `http://127.0.0.1:7070`; a user and a password in it are sent along.
        retry_s: For so long a registry that does not answer is asked again.

    Raises:
        InvalidRequest: The URL is none. Calls raise it too, where the registry wants to be asked otherwise.
        Corrupt: In calls: the schema is of another kind than Avro.
        Unavailable: In calls: it did not answer.
    """

    def __init__(self, url: str, clock: Clock | None = None, *, retry_s: float = 20.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise _no_url(url) from None  # Its words may repeat the password.
        if parts.scheme not in ("http", "https") or not host or "@" in parts.path:  # An @ there ends a password with a slash in it.
            raise _no_url(url)
        self._make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._address = (host, port)
        self._path = parts.path.rstrip("/")
        self._name = f"{parts.scheme}://{host}{f':{port}' if port else ''}"
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {b64encode(account.encode()).decode()}"
        self._clock = clock if clock is not None else SystemClock()
        self._retry_s = retry_s
        self._texts: dict[int, str] = {}
        self._unknown_s: dict[int, float] = {}
        """Id → when it was found to be unknown."""
        self._kinds: dict[int, str] = {}
        """Id → of which kind, for schemas that are not Avro."""

    def __call__(self, schema_id: int) -> str | None:
        known = self._texts.get(schema_id)
        if known is not None:
            return known
        now_s = self._clock.monotonic_s()
        if now_s - self._unknown_s.get(schema_id, -_UNKNOWN_S) < _UNKNOWN_S:
            return None
        found = None if schema_id in self._kinds else self._ask(schema_id, now_s + self._retry_s)
        if schema_id in self._kinds:
            raise Corrupt(f"schema {schema_id} is {self._kinds[schema_id]}, not Avro", hint="only messages of Avro schemas can be read")
        if found is None:
            self._unknown_s[schema_id] = now_s
        else:
            self._texts[schema_id] = found
        return found

    def _ask(self, schema_id: int, deadline_s: float) -> str | None:
        while True:
            try:
                return self._get(schema_id)
            except Unavailable:
                if self._clock.monotonic_s() + _PAUSE_S > deadline_s:
                    raise
            self._clock.sleep(_PAUSE_S)

    def _get(self, schema_id: int) -> str | None:
        connection = self._make(*self._address, timeout=_TIMEOUT_S)
        try:
            connection.request("GET", f"{self._path}/schemas/ids/{schema_id}", headers=self._headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, HTTPException) as error:
            raise Unavailable(f"the schema registry at {self._name} does not answer ({error!r})", hint="is it running?") from error
        finally:
            connection.close()
        if status == 404:
            return None
        if status >= 500 or status == 429:
            raise Unavailable(f"the schema registry at {self._name} answered {status}", hint="try again later")
        try:
            answer = json.loads(body)
            if status == 200:
                kind = answer.get("schemaType", "AVRO")
                if kind == "AVRO":
                    return str(answer["schema"])
                self._kinds[schema_id] = str(kind)
                return None
        except (ValueError, KeyError, AttributeError):
            pass
        raise InvalidRequest(
            f"the schema registry at {self._name} answered {status} for schema {schema_id}: {body[:200]!r}",
            hint="name the registry of Avro schemas that wrote the messages",
        )


def _no_url(url: str) -> InvalidRequest:
    """What it says leaves out all that may be a password: what stands before an @, and what stands for a port and is none."""
    _, account, rest = url.rpartition("@")
    scheme, slashes, place = rest.rpartition("//")
    host, colon, port = place.partition(":")
    if colon and not host.startswith("[") and not port.partition("/")[0].isdigit():
        place = f"{host}:…"
    return InvalidRequest(
        f"registry {('…@' if account else '') + scheme + slashes + place!r} is not of the form http://HOST:PORT",
        hint="name a schema registry, or our controller; in a user or a password, write : as %3A, / as %2F and @ as %40",
    )
