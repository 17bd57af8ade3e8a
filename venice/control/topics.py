"""The topics of a store, as the controller makes them: version topics, begun when the version is sealed, and the real-time topic."""

from __future__ import annotations

from venice.control.encoding import to_json
from venice.errors import Conflict
from venice.log import Log
from venice.model import Rollout, StartOffset, Store, Version, VersionStatus
from venice.naming import real_time_topic, version_topic
from venice.record import Kind, Record, encode


def new_version(log: Log, store: Store, *, region: int, push_id: str, deferred_swap: bool, rollout: Rollout | None, now_ms: int) -> Version:
    """The store's next version, with a version topic without records; what is fixed at a version's creation is fixed here."""
    number = store.largest_version + 1
    return Version(
        number=number,
        push_id=push_id,
        status=VersionStatus.STARTED,
        partition_count=store.config.partition_count,
        replication_factor=store.config.replication_factor,
        topic_id=_fresh(log, version_topic(store.name, number), store.config.partition_count),
        created_ms=now_ms,
        status_ms=now_ms,
        compression=store.config.compression,
        deferred_swap=deferred_swap,
        rollout=rollout,
        start_offsets=_start_offsets(log, store, region, now_ms),
        hybrid=store.hybrid,
        real_time_partitions=store.real_time_partitions if store.hybrid is not None else 0,
    )


def begin(log: Log, store: str, version: Version, now_ms: int) -> None:
    """Each partition begins with what it is the log of. A seal that is repeated after a crash finds that there."""
    topic = version_topic(store, version.number)
    payload = encode(Record(Kind.START_OF_VERSION, value=to_json(version), schema_id=version.value_schema_id, timestamp_ms=now_ms))
    for partition in range(version.partition_count):
        if log.end_offset(topic, partition) == 0:
            log.append(topic, partition, [payload])


def make_real_time(log: Log, before: Store | None, after: Store) -> None:
    """Make the real-time topic that `after` has and `before` had not; call it before `after` is written to the catalog.

    What a controller that died in between left is used; what a deleted store of the name left is replaced.
    """
    if after.real_time_partitions and (before is None or not before.real_time_partitions):
        _fresh(log, real_time_topic(after.name), after.real_time_partitions)


def _fresh(log: Log, topic: str, partitions: int) -> str:
    """The id of a topic without records; one that has some, or another number of partitions, is replaced."""
    try:
        topic_id = log.create_topic(topic, partitions)
        if all(log.end_offset(topic, partition) == 0 for partition in range(partitions)):
            return topic_id
    except Conflict:
        pass
    log.delete_topic(topic)
    return log.create_topic(topic, partitions)


def _start_offsets(log: Log, store: Store, region: int, now_ms: int) -> tuple[StartOffset, ...]:
    """Where the version to come begins to read the real-time topic: `rewind_s` before its push began."""
    if store.hybrid is None:
        return ()
    topic = real_time_topic(store.name)
    since_ms = max(0, now_ms - store.hybrid.rewind_s * 1000)
    offsets: list[StartOffset] = []
    for partition in range(store.real_time_partitions):
        # The end first: a record that arrives between the two calls must not be passed over.
        end = log.end_offset(topic, partition)
        next_offset = min(end, log.offset_for_time(topic, partition, since_ms))
        offsets.append(StartOffset(region=region, partition=partition, next_offset=next_offset))
    return tuple(offsets)
