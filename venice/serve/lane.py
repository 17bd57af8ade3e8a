"""The short way of a get through a worker: from the target of a request to the bytes of its answer, in one function.

Read path: client → router → connection → **lane** → storage.

A lane takes only what it can answer at once; `server.py` takes the rest, and says what is wrong with it. Most of what a get
costs a worker beside its system calls is bytecode, so there is as little of it here as can be.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable

from venice.control.catalog import Catalog
from venice.errors import VeniceError
from venice.rules.partitioning import partition_of
from venice.serve.connection import Lane, Reply
from venice.serve.opened import Misdirected, OpenVersion, OpenVersions
from venice.storage.format import PREFIX_SIZE
from venice.wire import FROM_URL_SAFE, PADDING

_STORES_MAX = 1024


def make_lane(
    catalog: Callable[[], Catalog], replicas: Callable[[], OpenVersions], find: Callable[[bytes], OpenVersion], sequence: int
) -> Lane:
    """A lane for requests that differ in their targets only.

    Args:
        catalog: As a `WorkerHandler`'s.
        replicas: As a `WorkerHandler`'s.
        find: What answers for a store. Raises Misdirected, VeniceError.
        sequence: The catalog must have come so far.
    """
    versions: dict[bytes, OpenVersion] = {}
    """By the path before the key."""
    seen_catalog: Catalog | None = None
    seen_replicas: OpenVersions | None = None

    def answer(target: bytes, reply: Reply) -> bytes | bool:
        nonlocal seen_catalog, seen_replicas
        now_catalog, now_replicas = catalog(), replicas()
        if now_catalog is not seen_catalog or now_replicas is not seen_replicas:
            if now_catalog.sequence < sequence:
                return False
            versions.clear()
            seen_catalog, seen_replicas = now_catalog, now_replicas
        if target[-6:] != b"?f=b64":
            return False
        path, _, text = target[:-6].rpartition(b"/")
        try:
            version = versions.get(path)
            if version is None:
                if not path.startswith(b"/storage/") or len(versions) >= _STORES_MAX:
                    return False
                version = versions[path] = find(path[9:])
            key = a2b_base64(text.translate(FROM_URL_SAFE) + PADDING[len(text) & 3], strict_mode=True)
            count = version.count
            stored = version.storages[partition_of(key, count) if count != 1 else 0].get(key)
            if stored is None:
                version.check_missing(key)
                return version.missing_head
            head, offset = version.heads.get((stored[:PREFIX_SIZE], len(stored))) or version.head(stored)
        except (ValueError, KeyError, VeniceError, Misdirected):
            return False
        return head + stored[offset:]

    return answer
