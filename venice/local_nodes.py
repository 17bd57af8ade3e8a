"""The nodes that `venice up` runs on one machine: what each is called, where it listens, where it keeps its data.

    <data>/                  the first node's, with the log and the blob folder that all share
    <data>/nodes/node-2/     the second node's, and so on
    <data>/nodes/count       how many there were, for who does not say

A node is the same one at its next start because its name and its folder are; its ports follow from the settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from venice.config import Settings
from venice.errors import InvalidRequest

_PORT_MAX = 65_535


def node_settings(settings: Settings, count: int) -> list[Settings]:
    """The settings of each of `count` nodes; `settings` are the first one's.

    Raises:
        InvalidRequest: There are not so many ports, or two would have the same name.
    """
    if settings.worker_port + count * settings.workers - 1 > _PORT_MAX:
        raise InvalidRequest(
            f"{count} nodes of {settings.workers} workers do not fit between port {settings.worker_port} and {_PORT_MAX}",
            hint="choose a lower worker_port, or fewer nodes",
        )
    if settings.node in map(node_name, range(1, count)):
        raise InvalidRequest(f"{settings.node!r} would be the name of two nodes", hint="choose another 'node' in venice.toml")
    shared = {"log": settings.log_url, "blobs": settings.blobs_url}
    nodes = [settings]
    for index in range(1, count):
        name = node_name(index)
        port = settings.worker_port + index * settings.workers
        # A flow runs once in a cluster, so the first node has them all.
        own = {"node": name, "data": _folder(settings) / name, "worker_port": port, "flows": ()}
        nodes.append(settings.model_copy(update={**shared, **own}))
    return nodes


def node_name(index: int) -> str:
    """Of a node after the first, which is called as the settings say."""
    return f"node-{index + 1}"


def remembered(settings: Settings) -> int:
    """How many nodes the last `venice up` ran on this data folder; 1 if there was none."""
    try:
        return max(1, int(_count_file(settings).read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 1


def remember(settings: Settings, count: int) -> None:
    """Keep how many nodes there are. A single one leaves no trace unless there were more before."""
    file = _count_file(settings)
    if count == remembered(settings):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(f"{count}\n", encoding="ascii")
    os.replace(unfinished, file)


def replica_folders(settings: Settings) -> Iterator[Path]:
    """Folders below which this machine's workers keep replicas, one for each node."""
    yield settings.replicas
    yield from sorted(path for path in _folder(settings).glob("*/replicas") if path.is_dir())


def _folder(settings: Settings) -> Path:
    return settings.data / "nodes"


def _count_file(settings: Settings) -> Path:
    return _folder(settings) / "count"
