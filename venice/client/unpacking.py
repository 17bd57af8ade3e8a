"""How a remote client decompresses values: as their answer says, with the dictionary of its version. No I/O.

Read path: client → **unpacking** → wire → router → worker → storage.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Final

from venice.compression import packing
from venice.errors import Corrupt, NotFound, Unavailable
from venice.message import Headers, Request, Response
from venice.model import Compression
from venice.wire import API_VERSION_HEADER, check_api_version, error_of

PLAIN: Final = Compression.NONE.value.encode()
KNOWN: Final = frozenset(one.value.encode() for one in Compression)
"""What `X-VENICE-COMPRESSION-STRATEGY` may say."""
_KEPT_MAX: Final = 8
"""Versions whose dictionaries are kept."""

Unpack = Callable[[bytes], bytes]
"""Compressed value → Avro bytes. Raises Corrupt."""


class Unpackers:
    """What decompresses the values of a store's versions. Safe to share between threads."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: dict[tuple[bytes, int], Unpack] = {}
        """By compression and version."""

    def find(self, name: bytes, version: int, headers: Headers) -> Generator[Request, Response, Unpack]:
        """What decompresses values of a version; asks for its dictionary the first time.

        Args:
            name: Of a compression in `KNOWN`, and not `PLAIN`.
            version: The version that the values are of.
            headers: To ask with.

        Raises:
            Unavailable: The dictionary is not to be had any more.
            Corrupt: It is none.
        """
        found = self._kept.get((name, version))
        if found is not None:
            return found
        compression = Compression(name.decode("latin-1"))
        dictionary = b""
        if compression is Compression.ZSTD_DICT:
            dictionary = yield from self._dictionary(version, headers)
        made = packing(compression, dictionary)
        assert made is not None, "only compressed values are unpacked"
        with self._lock:
            while len(self._kept) >= _KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[name, version] = made.decompress
        return made.decompress

    def _dictionary(self, version: int, headers: Headers) -> Generator[Request, Response, bytes]:
        response = yield Request(b"GET", b"/dictionary/%b/%d" % (self._store.encode(), version), headers)
        check_api_version(response.headers)
        if response.status == 200:
            if API_VERSION_HEADER not in response.headers:
                raise Corrupt(f"the answer is not one of Venice: {response.body[:80]!r}", hint="check that the URL names a Venice router")
            return response.body
        error = error_of(response.status, response.body)
        if isinstance(error, NotFound):
            raise Unavailable(f"version {version} of {self._store!r} was retired while it was read", hint="try again") from error
        raise error
