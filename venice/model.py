"""The nouns of Venice as immutable values: store, version, assignment, worker, node, report.

They are what the catalog holds (`venice/control/catalog.py` writes them as JSON) and what every process reads. A change
is a new value; nothing here does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum

NO_VERSION = 0
"""`Store.current` before the first version is swapped in."""


class VersionStatus(IntEnum):
    """Where a version stands. DO NOT CHANGE THESE VALUES: they are written to the catalog log."""

    NOT_CREATED = 0
    STARTED = 1
    PUSHED = 2
    ONLINE = 3
    ERROR = 4
    CREATED = 5
    PARTIALLY_ONLINE = 6
    KILLED = 7
    ROLLED_BACK = 8


class Compression(StrEnum):
    """How the values of a version are compressed; fixed when the version is created. DO NOT CHANGE THESE VALUES: they are written to
    manifests and to the catalog log, and stand in answers."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    ZSTD_DICT = "zstd-dict"
    """zstd with a dictionary made of a sample of the push."""


class ReplicaState(StrEnum):
    """What a worker reports of one replica."""

    ATTACHING = "attaching"
    FOLLOWING = "following"
    """Attached and folding, but its leader has not caught up with the real-time topics yet: not ready to serve."""
    READY = "ready"
    ERROR = "error"


class Fault(StrEnum):
    """What can be wrong with a record of a version topic or a real-time topic."""

    MISSING = "missing"
    """Something before it is gone: it stands after a hole in its session, or the topic begins later than it should."""
    DUPLICATE = "duplicate"
    """Its session has passed its sequence already."""
    FENCED = "fenced"
    """Its session is not the one that leads, or was never declared."""
    CORRUPT = "corrupt"
    """It cannot be decoded."""
    UNREGISTERED = "unregistered"
    """Its value has a schema that the store does not have."""
    OVERSIZED = "oversized"
    """It is larger than the store takes, or what would be made of it is larger than a log takes."""
    UNSUPPORTED = "unsupported"
    """It asks for something that this release does not do."""


class EntityKind(Enum):
    """What a catalog record describes. DO NOT CHANGE THESE VALUES: they are written to the catalog log."""

    STORE = "store"
    ASSIGNMENT = "assignment"
    NODE = "node"
    REGION = "region"
    GRAVEYARD = "graveyard"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRef:
    """A sealed snapshot: where its manifest folder is and what the manifest's bytes hash to."""

    uri: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOffset:
    """Where a version starts reading one real-time partition of one region (offset = next to read)."""

    region: int
    partition: int
    next_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A sealed snapshot of one partition of a hybrid version: what folding its topic up to an offset gave."""

    snapshot: SnapshotRef
    next_offset: int
    """Of the version topic: where a replica made of it goes on folding."""
    vector: tuple[StartOffset, ...]
    """Up to where the real-time topics are merged into it."""
    row_count: int
    byte_count: int
    created_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionCheckpoints:
    """The checkpoints that are kept of one partition of a version."""

    store: str
    version: int
    partition: int
    kept: tuple[Checkpoint, ...]
    """Newest first, by falling offset; never empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """How a store that is written in real time follows its real-time topic; a version takes a copy."""

    rewind_s: int = 86_400
    """How far before a push's start real-time writes are replayed onto the new version."""
    lag_records_max: int = 1_000
    """A partition is ready to serve once its leader has no more real-time records than so many left to merge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A version goes to some nodes first; it can be read there by its number, and goes to the others before it serves."""

    nodes: tuple[str, ...]
    """Their names; in a request also a share of all, such as `25%`. Empty once it goes to the others."""
    after_s: int | None = None
    """So long after it is ready on them it goes to the others; None: when it is rolled forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable push of a store. Everything but status, snapshot, counts and times is fixed at creation."""

    number: int
    push_id: str
    status: VersionStatus
    partition_count: int
    replication_factor: int
    topic_id: str
    """Identity of the version topic: a replica refuses a topic with another id under the same name."""
    created_ms: int
    status_ms: int
    """When the status last changed."""
    compression: Compression = Compression.NONE
    chunking: bool = False
    deferred_swap: bool = False
    rollout: Rollout | None = None
    start_offsets: tuple[StartOffset, ...] = ()
    """From where on real-time writes are merged into it."""
    held_offsets: tuple[StartOffset, ...] = ()
    """Of a version made of another one's rows: from where on no real-time write is among those. What lies between the two may be."""
    hybrid: HybridConfig | None = None
    """None: a batch version, which nothing is merged into."""
    real_time_partitions: int = 0
    """Partitions of the real-time topic it reads; 0 for a batch version."""
    snapshot: SnapshotRef | None = None
    value_schema_id: int = 0
    row_count: int = 0
    byte_count: int = 0
    value_bytes: int = 0
    """Avro bytes of all values pushed, where they are compressed; 0 where they are not."""
    compressed_bytes: int = 0
    """What those were compressed to."""
    reason: str = ""
    """Why the version failed or was killed; empty otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueSchema:
    """A registered value schema; ids start at 1 and are never reused within a store's name."""

    id: int
    text: str


class BackupStrategy(StrEnum):
    """When a complete version makes room for the next. DO NOT CHANGE THESE VALUES: they are written to the catalog log."""

    DELETE_ON_NEW_PUSH_START = "delete-on-new-push-start"
    """As soon as a push begins: disks hold one version less."""
    KEEP_MIN_VERSIONS = "keep-min-versions"
    """When the push has been swapped in: there is something to roll back to all the time."""


UNLIMITED = -1
"""A quota that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What an owner may change; a version takes a copy of what concerns it when it is created."""

    partition_count: int = 8
    replication_factor: int = 1
    versions_preserved: int = 2
    """How many complete versions stay, the current one included."""
    record_bytes_max: int = 10 * 1024 * 1024
    """Largest encoded value, in bytes, before it is compressed; a larger one fails its push."""
    compression: Compression = Compression.NONE
    """Of the values of versions made from now on."""
    storage_quota_bytes: int = UNLIMITED
    """Largest size of a pushed version's files, each partition once; a larger push fails."""
    backup_strategy: BackupStrategy = BackupStrategy.DELETE_ON_NEW_PUSH_START
    backup_retention_s: int = 7 * 86_400
    """Backups are deleted so long after the last swap; at the next push they may go sooner."""
    superset_schema: bool = False
    """Whether the superset of all value schemas is registered whenever one is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A dataset: its schemas, its configuration, its versions and which of them serves."""

    name: str
    owner: str
    key_schema: str
    value_schemas: tuple[ValueSchema, ...]
    config: StoreConfig
    versions: tuple[Version, ...] = ()
    """Ascending by number."""
    current: int = NO_VERSION
    swapped_ms: int = 0
    """When that last changed, forward or back."""
    largest_version: int = 0
    """Largest number ever used under this name, deleted stores included."""
    created_ms: int = 0
    hybrid: HybridConfig | None = None
    """How versions pushed from now on follow the real-time topic; None: they do not."""
    real_time_partitions: int = 0
    """Of the real-time topic, fixed when it was first made; 0: there is none."""
    superset_schema_id: int = 0
    """The value schema that has every field of all the others; 0: none was made."""

    def version(self, number: int) -> Version | None:
        for version in self.versions:
            if version.number == number:
                return version
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Leadership:
    """Who merges real-time writes into a partition. A term is given out once and only grows."""

    worker: str
    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Which workers hold which partitions of a version: `replicas[p]` = worker ids, preferred first."""

    store: str
    version: int
    replicas: tuple[tuple[str, ...], ...]
    leaders: tuple[Leadership | None, ...] = ()
    """By partition; None until a replica can lead. Empty for a batch version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that owns replicas and serves them. `incarnation` is new in each life of the process."""

    id: str
    url: str
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine's share of the cluster."""

    id: str
    region: str
    workers: tuple[Worker, ...]
    draining: bool = False
    """It is given no replicas, and those it has are moved away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A region's number in records and vectors; never reused."""

    id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graveyard:
    """What outlives a deleted store: the largest numbers its name has given out."""

    name: str
    largest_version: int
    deleted_ms: int
    largest_schema_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCount:
    """Faulty records of one kind that a replica, or its leader, has met since its process started."""

    topic: str
    """`version` or `real_time`: which topic they stood in."""
    fault: Fault
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaReport:
    """What a worker says of one replica."""

    store: str
    version: int
    partition: int
    state: ReplicaState
    next_offset: int = 0
    row_count: int = 0
    error: str = ""
    lag_records: int = 0
    """Real-time records left to merge, if this replica leads; otherwise version-topic records left to fold."""
    lag_s: float = 0.0
    """Seconds since the log took the oldest of them, or a little more; 0 if there is none."""
    leads: bool = False
    fresh_ms: int = 0
    """All writes that the log took before then can be read from this replica, as its leader's newest heartbeat says; 0: none was
    folded since it was opened."""
    faults: tuple[FaultCount, ...] = ()
    """Those there were, since the worker's process started."""
    checkpoint: Checkpoint | None = None
    """One that this worker wrote and the catalog does not name yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """A worker's heartbeat: its full state, never a difference."""

    node: str
    region: str
    worker: Worker
    catalog_sequence: int
    """The catalog sequence the worker had folded when it reported."""
    reported_ms: int
    replicas: tuple[ReplicaReport, ...]
