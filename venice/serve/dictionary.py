"""`GET /dictionary/{store}/{version}`: what values of a version that is compressed by `zstd-dict` are read with.

Read path: client → router → **dictionary** → snapshot. A worker reads it from the manifest of its version; a router asks a worker.
"""

from __future__ import annotations

from typing import Final

from venice import wire
from venice.errors import InvalidRequest, NotFound
from venice.message import Headers, Request, Response
from venice.model import Compression, Store, Version

PATH: Final = b"/dictionary/"


def asked_for(request: Request) -> tuple[str, int]:
    """Store and version of a request whose path begins with `PATH`. Raises InvalidRequest."""
    store, _, number = request.target.partition(b"?")[0][len(PATH) :].partition(b"/")
    if not number.isdigit() or len(number) > 9:
        raise InvalidRequest(f"{number[:20].decode('latin-1')!r} is not a version", hint="GET /dictionary/{store}/{version}")
    return store.decode("latin-1"), int(number)


def find(store: Store, version: Version | None, number: int) -> Version:
    """The version, if it has a dictionary. Raises NotFound."""
    if version is None:
        raise NotFound(f"store {store.name!r} has no version {number}", hint="ask for the dictionary of the version that answered")
    if version.compression is not Compression.ZSTD_DICT:
        raise NotFound(f"version {number} of {store.name!r} has no dictionary: its compression is {version.compression.value}")
    return version


def answer(number: int, sequence: int, data: bytes) -> Response:
    """The answer that has the dictionary of a version."""
    named = {wire.STORE_VERSION: b"%d" % number, wire.CATALOG_SEQUENCE: b"%d" % sequence}
    return Response(200, Headers({**wire.COMMON, **named, b"content-type": b"application/octet-stream"}), data)
