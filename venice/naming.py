"""Every name of a topic, a replica or a directory is built and parsed here, and nowhere else."""

from __future__ import annotations

import re

from venice.errors import InvalidRequest

CATALOG_TOPIC = "venice_catalog"
REPORTS_TOPIC = "venice_reports"
RESERVED_PREFIX = "venice_"

_STORE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,127}")
_TOPIC = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}")
_CHECKPOINT = re.compile(r"checkpoint-(?P<partition>[0-9]{6,9})-(?P<offset>[0-9]{1,19})-(?P<writer>[0-9a-f]{8})-[0-9a-f]{1,32}", re.ASCII)
_VERSION_TOPIC = re.compile(r"(?P<store>.+)_v(?P<version>[1-9][0-9]*)")


def check_store_name(name: str) -> str:
    """`name` itself if it may name a store.

    Raises:
        InvalidRequest: Letters, digits, `_` and `-` only, at most 128, not starting with `venice_`.
    """
    if not _STORE.fullmatch(name):
        raise InvalidRequest(
            f"store name {name!r} is not allowed", hint="use 1 to 128 letters, digits, '_' or '-', starting with a letter or digit"
        )
    if name.startswith(RESERVED_PREFIX):
        raise InvalidRequest(f"store name {name!r} is reserved", hint=f"choose one that does not start with {RESERVED_PREFIX!r}")
    return name


def check_topic_name(name: str) -> str:
    """`name` itself if it may name a topic, in any log.

    Raises:
        InvalidRequest: Letters, digits, `.`, `_` and `-` only, at most 200.
    """
    if not _TOPIC.fullmatch(name):
        raise InvalidRequest(
            f"topic name {name!r} is not allowed", hint="use 1 to 200 letters, digits, '.', '_' or '-', starting with a letter or digit"
        )
    return name


def version_topic(store: str, version: int) -> str:
    """`<store>_v<N>`: the log of one version."""
    return f"{store}_v{version}"


def parse_version_topic(topic: str) -> tuple[str, int] | None:
    """(store, version) of a version topic's name, or None for any other name."""
    found = _VERSION_TOPIC.fullmatch(topic)
    return (found["store"], int(found["version"])) if found else None


def real_time_topic(store: str) -> str:
    """`<store>_rt`: what is written to a store in one region."""
    return f"{store}_rt"


def dead_letter_topic(store: str) -> str:
    """`<store>_dead`: real-time records that could not be read, as they came."""
    return f"{store}_dead"


def replica_name(store: str, version: int, partition: int) -> str:
    """`<store>_v<N>.<partition>`, the partition zero-padded so that names sort as partitions do."""
    return replica_of_topic(version_topic(store, version), partition)


def replica_of_topic(topic: str, partition: int) -> str:
    """Name of the replica that folds a partition of a version topic."""
    return f"{topic}.{partition:06d}"


def parse_replica_name(name: str) -> tuple[str, int, int] | None:
    """(store, version, partition) of a replica's name, or None."""
    topic, dot, partition = name.rpartition(".")
    parsed = parse_version_topic(topic)
    if not dot or parsed is None or not partition.isdigit():
        return None
    return (*parsed, int(partition))


def snapshot_folder(store: str, version: int, attempt: str) -> str:
    """Path of one push attempt's snapshot below the blob folder."""
    return f"{store}/{version_topic(store, version)}/{attempt}"


def checkpoint_name(partition: int, next_offset: int, writer: str, attempt: str) -> str:
    """Name of a checkpoint's folder, which lies beside the version's snapshot.

    Partition and offset are in it, so that whoever cleans up knows what a folder is that was never sealed.

    Args:
        partition: Of the version.
        next_offset: Where the checkpoint ends.
        writer: Who writes it: 8 hexadecimal digits.
        attempt: Never repeated by that writer: hexadecimal digits.
    """
    return f"checkpoint-{partition:06d}-{next_offset}-{writer}-{attempt}"


def parse_checkpoint_name(name: str) -> tuple[int, int, str] | None:
    """(partition, offset, writer) of a checkpoint's folder, or None for any other name."""
    found = _CHECKPOINT.fullmatch(name)
    return (int(found["partition"]), int(found["offset"]), found["writer"]) if found else None
