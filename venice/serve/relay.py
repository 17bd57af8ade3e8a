"""The short way of a get through a router: the request goes to a worker, and the worker's answer to the client, unread.

Read path: client → connection → **relay** → upstream → worker.

A relay takes only what one worker can be asked at once. What goes wrong on the way, and what cannot be answered so,
`router.py` does from the beginning: gets change nothing, so asking twice does no harm.
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable

from venice.control.catalog import Catalog
from venice.errors import VeniceError
from venice.rules.partitioning import partition_of
from venice.rules.routing import choose
from venice.serve.connection import Lane, Reply
from venice.serve.table import Table
from venice.serve.upstream import Upstream
from venice.wire import FROM_URL_SAFE, PADDING

_STORES_MAX = 1024


def make_relay(catalog: Callable[[], Catalog], find: Callable[[str], Table], sequence: int) -> Lane:
    """A lane for requests that differ in their targets only.

    Args:
        catalog: The latest.
        find: Where a store's version is. Raises VeniceError.
        sequence: The catalog must have come so far.
    """
    tables: dict[bytes, Table] = {}
    """By the path before the key."""
    seen: Catalog | None = None

    def answer(target: bytes, reply: Reply) -> bool:
        nonlocal seen
        now = catalog()
        if now is not seen:
            if now.sequence < sequence:
                return False
            tables.clear()
            seen = now
        if target[-6:] != b"?f=b64":
            return False
        path, _, text = target[:-6].rpartition(b"/")
        try:
            table = tables.get(path)
            if table is None:
                if not path.startswith(b"/storage/") or len(tables) >= _STORES_MAX:
                    return False
                table = tables[path] = find(path[9:].decode("latin-1"))
            key = a2b_base64(text.translate(FROM_URL_SAFE) + PADDING[len(text) & 3], strict_mode=True)
        except (ValueError, VeniceError):
            return False
        replicas = table.replicas[partition_of(key, table.count)]
        upstream = replicas[0] if len(replicas) == 1 else choose(replicas, Upstream.load, ())
        return upstream is not None and upstream.relay(table.get_request(upstream, target), reply, table)

    return answer
