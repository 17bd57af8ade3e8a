"""The version topics, as the controller makes them: empty at creation, begun when the version is sealed."""

from __future__ import annotations

from venice.control.encoding import to_json
from venice.errors import Conflict
from venice.log import Log
from venice.model import Version
from venice.naming import version_topic
from venice.record import Kind, Record, encode


def fresh(log: Log, store: str, number: int, partitions: int) -> str:
    """The id of a version topic without records; what a controller that died before it used the number left is replaced."""
    topic = version_topic(store, number)
    try:
        topic_id = log.create_topic(topic, partitions)
        if all(log.end_offset(topic, partition) == 0 for partition in range(partitions)):
            return topic_id
    except Conflict:
        pass
    log.delete_topic(topic)
    return log.create_topic(topic, partitions)


def begin(log: Log, store: str, version: Version, now_ms: int) -> None:
    """Each partition begins with what it is the log of. A seal that is repeated after a crash finds that there."""
    topic = version_topic(store, version.number)
    payload = encode(Record(Kind.START_OF_VERSION, value=to_json(version), schema_id=version.value_schema_id, timestamp_ms=now_ms))
    for partition in range(version.partition_count):
        if log.end_offset(topic, partition) == 0:
            log.append(topic, partition, [payload])
