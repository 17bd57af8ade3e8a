"""What the control API answers beyond the nouns of `venice/model.py`: the same values on both ends of the wire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from venice.model import Compression, FaultCount, Leadership, Node, Version, VersionStatus, Worker
from venice.rules.lifecycle import Role


class Keep(Enum):
    """The argument for what a command shall leave as it is, where None has a meaning of its own."""

    KEEP = "keep"


class NodeChange(StrEnum):
    """What an operator may have done to a node."""

    DRAIN = "drain"
    """Its replicas move to other nodes, and it is given no more; it serves until they are ready there."""
    UNDRAIN = "undrain"
    """It is given replicas again."""
    REMOVE = "remove"
    """It is gone and does not come back: its replicas are made on other nodes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushGrant:
    """Leave to push: which version the push makes and where it writes."""

    store: str
    number: int
    status: VersionStatus
    partition_count: int
    record_bytes_max: int
    """Largest encoded value the push may write, in bytes."""
    compression: Compression
    """Of the values."""
    storage_quota_bytes: int
    """Largest size of the files the push may seal; `UNLIMITED`: any."""
    folder: str
    """Where this attempt writes its snapshot; no other attempt is ever given it."""
    attempt: str
    existing: bool
    """The push id was known: this is the version it made before."""
    sealed: bool
    """A snapshot is sealed already: write nothing, wait for the version."""
    lease_s: float
    """A push that has not sealed and is silent for so long is taken for dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """A version and how far its replicas are."""

    store: str
    version: Version
    status: str
    """Name of `version.status`."""
    role: Role
    ready_partitions: int
    """Partitions with enough replicas ready, as far as the controller has heard since it started."""
    placed: bool
    """Workers have been chosen for its partitions."""
    ready_replicas: int = 0
    """Of `partition_count * replication_factor` that are wanted; there can be fewer if there are fewer nodes."""
    leaders: tuple[Leadership | None, ...] = ()
    """Of a hybrid version, by partition: who merges real-time writes into it; None where nobody can yet."""
    lag_records: int = 0
    """Records that its replicas have left to merge or to fold, together, as far as they have reported."""
    lag_s: float = 0.0
    """Seconds by which the one furthest behind is late."""
    faults: tuple[FaultCount, ...] = ()
    """Faulty records that its replicas and their leaders have met since their workers started, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A worker as the controller knows it."""

    worker: Worker
    live: bool
    silent_s: float
    """Seconds since its last report; since the controller's start if it has not reported yet."""
    catalog_sequence: int
    replicas: int
    ready: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A node and its workers."""

    node: Node
    workers: tuple[WorkerInfo, ...]
    assigned: int = 0
    """Replicas it is to hold, of all versions that there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the controller works, and what troubles it."""

    ok: bool
    region: str
    term: int
    session: int
    catalog_sequence: int
    stores: int
    workers: int
    workers_live: int
    problems: tuple[str, ...]
    """The latest ones, newest last: reports that cannot be read, cleanups that failed."""
