"""What the Kafka driver asks a cluster about its topics, with the errors it answers turned into ours."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # it exports them unnamed

from venice.clock import Clock
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log import PAYLOAD_BYTES_MAX

T = TypeVar("T")
Partition = tuple[str, int]

RETRY_S = 0.02  # Between tries while leaders move or metadata spreads: that takes milliseconds to seconds.
MESSAGE_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024  # A message is its payload and Kafka's own headers and fields.

TOPIC_CONFIG = {
    # Compaction would drop records in an order that the fold of a topic does not survive, so nothing is ever compacted:
    # prefixes go when a snapshot covers them.
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "message.timestamp.type": "LogAppendTime",
    "max.message.bytes": str(MESSAGE_BYTES_MAX),
}

UNKNOWN = frozenset(
    (
        *(KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION),
        KafkaError._NOENT,  # What list_offsets says of a topic without leaders.
    )
)
_MOVING = frozenset(
    (
        *(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.REPLICA_NOT_AVAILABLE),
        *(KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.OFFSET_NOT_AVAILABLE),
    )
)
_PASSING = frozenset(
    (
        *_MOVING,
        *(KafkaError.BROKER_NOT_AVAILABLE, KafkaError.REQUEST_TIMED_OUT, KafkaError.NETWORK_EXCEPTION, KafkaError._TRANSPORT),
    )
)
_UNFIT = frozenset(
    (
        *(KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.TOPIC_EXCEPTION, KafkaError.POLICY_VIOLATION),
        *(KafkaError.INVALID_PARTITIONS, KafkaError.INVALID_REPLICATION_FACTOR, KafkaError.INVALID_CONFIG, KafkaError.OFFSET_OUT_OF_RANGE),
        *(KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaError._INVALID_ARG),
    )
)
_EARLIEST = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent_kafka has no types for it
_LATEST = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # as above
_DAMAGED = frozenset((KafkaError._BAD_MSG, KafkaError.INVALID_MSG, KafkaError._BAD_COMPRESSION))


@dataclass(frozen=True, slots=True)
class Described:
    """A topic as it is now. `key` is what every message of it carries as its key, and tells it from its namesakes."""

    id: str
    partitions: int
    key: bytes


class Cluster:
    """A Kafka cluster seen through its admin interface; threads may share it.

    Args:
        servers: HOST:PORT of one or more brokers, comma-separated.
        clock: Used for waiting between tries.
        timeout_s: How long a call may take before it is Unavailable.
    """

    def __init__(self, servers: str, clock: Clock, timeout_s: float) -> None:
        self.clock = clock
        self.timeout_s = timeout_s
        self._servers = servers
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._topics: dict[str, Described] = {}
        self._closed = False
        self._admin = self._made(lambda: AdminClient(self.config()))

    def config(self, **settings: Any) -> dict[str, Any]:
        """Settings of a client of this cluster; `_` in a name stands for `.`."""
        common = {
            "bootstrap.servers": self._servers,
            "client.id": "venice",
            "log_level": 2,  # What goes wrong reaches the caller as an error.
            "reconnect.backoff.max.ms": 1000,
            "socket.nagle.disable": True,
            "allow.auto.create.topics": False,
        }
        return common | {name.replace("_", "."): value for name, value in settings.items()}

    def close(self) -> None:
        self._closed = True

    def check_usable(self) -> None:
        if self._closed:
            raise InvalidRequest(f"the log at {self._servers} is closed", hint="open it again")
        self.check_process()

    def check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidRequest(f"the log at {self._servers} was opened before a fork", hint="open it again in the child process")

    def names(self) -> list[str]:
        self.check_usable()
        try:
            metadata: Any = self._admin.list_topics(timeout=self.timeout_s)
        except KafkaException as error:
            raise translated(error.args[0], self._servers) from error
        return sorted(name for name in metadata.topics if not name.startswith("__"))

    def create(self, topic: str, partitions: int) -> None:
        """Create the topic; one that exists is no error. It can be described afterwards."""
        created = self._admin.create_topics([NewTopic(topic, partitions, -1, config=TOPIC_CONFIG)], request_timeout=self.timeout_s)
        try:
            created[topic].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise translated(error.args[0], topic) from error
        self._until(lambda: self._exists(topic), f"topic {topic!r} was created but does not appear")

    def delete(self, topic: str) -> None:
        """Delete the topic; a missing one is no error. It is not described any more afterwards."""
        deleted = self._admin.delete_topics([topic], request_timeout=self.timeout_s)
        self.forget(topic)
        try:
            deleted[topic].result()
        except KafkaException as error:
            if error.args[0].code() not in UNKNOWN:
                raise translated(error.args[0], topic) from error
        self._until(lambda: not self._exists(topic), f"topic {topic!r} was deleted but does not disappear")

    def described(self, topic: str) -> Described:
        """The topic as it was when last asked about. Raises NotFound."""
        return self._topics.get(topic) or self.describe(topic)

    def describe(self, topic: str) -> Described:
        """The topic as it is now. Raises NotFound."""
        self.check_usable()
        deadline_s = self.clock.monotonic_s() + self.timeout_s
        while True:
            try:
                found = description(self.ask([topic])[topic])
                break
            except KafkaException as error:
                self.forget(topic)
                if error.args[0].code() in UNKNOWN:
                    raise no_topic(topic) from None
                if not _passes(error.args[0]) or self.clock.monotonic_s() >= deadline_s:
                    raise translated(error.args[0], topic) from error
            self.clock.sleep(RETRY_S)
        with self._lock:
            self._topics[topic] = found
        return found

    def describe_all(self, topics: Iterable[str]) -> dict[str, Described]:
        """Many topics as they are now, in the time of one. Raises NotFound."""
        self.check_usable()
        found: dict[str, Described] = {}
        for topic, answer in self.ask(dict.fromkeys(topics)).items():
            try:
                found[topic] = description(answer)
            except KafkaException:
                found[topic] = self.describe(topic)
        return found

    def ask(self, topics: Iterable[str]) -> Mapping[str, Future[Any]]:
        """Ask about topics without waiting; `description` reads the answers."""
        names = list(topics)
        return self._admin.describe_topics(TopicCollection(names), request_timeout=self.timeout_s) if names else {}

    def forget(self, topic: str) -> None:
        with self._lock:
            self._topics.pop(topic, None)

    def ranges(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """(start, end) offset of each partition. Raises NotFound."""

        def ask() -> dict[Partition, tuple[int, int]]:
            starts = self._offsets(partitions, _EARLIEST)
            ends = self._offsets(partitions, _LATEST)
            return {partition: (starts[partition], ends[partition]) for partition in partitions}

        return self.on(partitions, ask)

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The end offset of each partition that has a leader now, in one question."""
        self.check_usable()
        found: dict[Partition, int] = {}
        asked = {TopicPartition(topic, number): _LATEST for topic, number in partitions if number >= 0}
        for at, future in (self._admin.list_offsets(asked, request_timeout=self.timeout_s) if asked else {}).items():
            try:
                found[at.topic, at.partition] = int(future.result().offset)
            except KafkaException as error:
                refusal: KafkaError = error.args[0]
                if refusal.code() not in UNKNOWN and refusal.code() not in _MOVING:
                    raise translated(refusal, f"{at.topic}[{at.partition}]") from error
        return found

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None:
        """Offset of the first record accepted then or later, None if there is none."""
        asked = [(topic, partition)]
        found = self.on(asked, lambda: self._offsets(asked, OffsetSpec.for_timestamp(timestamp_ms)))[topic, partition]
        return found if found >= 0 else None

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None:
        position = TopicPartition(topic, partition, before_offset)

        def delete() -> None:
            for future in self._admin.delete_records([position], request_timeout=self.timeout_s).values():
                future.result()

        self.on([(topic, partition)], delete)

    def on(self, partitions: Sequence[Partition], operate: Callable[[], T], *, retry: frozenset[int] | None = None) -> T:
        """`operate`, again while the cluster says that leaders move, as long as the partitions exist.

        Args:
            partitions: What it operates on.
            operate: Raises KafkaException.
            retry: Errors after which trying again is safe; without it, those that pass by themselves.
        """
        deadline_s = self.clock.monotonic_s() + self.timeout_s
        while True:
            self.check_usable()
            for topic, number in partitions:
                count = self.described(topic).partitions
                if not 0 <= number < count:
                    raise NotFound(f"topic {topic!r} has no partition {number}", hint=f"it has {count}, counted from 0", topic=topic)
            try:
                return operate()
            except KafkaException as error:
                refusal: KafkaError = error.args[0]
                for topic, _ in partitions:
                    self.forget(topic)
                again = refusal.code() in retry if retry is not None else _passes(refusal) or refusal.code() in UNKNOWN
                if not again or self.clock.monotonic_s() >= deadline_s:
                    raise translated(refusal, ", ".join(f"{topic}[{number}]" for topic, number in partitions[:3])) from error
            self.clock.sleep(RETRY_S)

    def _offsets(self, partitions: Sequence[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        asked = {TopicPartition(topic, number): spec for topic, number in partitions}
        futures = self._admin.list_offsets(asked, request_timeout=self.timeout_s) if asked else {}
        return {(at.topic, at.partition): int(future.result().offset) for at, future in futures.items()}

    def _exists(self, topic: str) -> bool:
        try:
            self.describe(topic)
        except NotFound:
            return False
        return True

    def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        deadline_s = self.clock.monotonic_s() + self.timeout_s
        while not done():
            if self.clock.monotonic_s() >= deadline_s:
                raise Unavailable(otherwise, hint="look at the state of the Kafka cluster")
            self.clock.sleep(RETRY_S)

    def _made(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except KafkaException as error:
            raise InvalidRequest(f"no Kafka client for {self._servers}: {error.args[0].str()}", hint="write kafka:HOST:PORT") from error


def description(answer: Future[Any]) -> Described:
    """What `Cluster.ask` was answered. Raises KafkaException."""
    found = answer.result()
    if any(partition.leader is None for partition in found.partitions):
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, "a partition has no leader"))
    topic_id = str(found.topic_id)
    return Described(topic_id, len(found.partitions), hashlib.blake2b(topic_id.encode(), digest_size=8).digest())


def no_topic(topic: str) -> NotFound:
    return NotFound(f"there is no topic {topic!r} in Kafka", hint="'venice inspect topic' lists those that are there", topic=topic)


def _passes(error: KafkaError) -> bool:
    return error.retriable() or error.code() in _PASSING


def translated(error: KafkaError, what: str) -> VeniceError:
    """Kafka's error about `what`, in our terms."""
    code = error.code()
    if code in UNKNOWN:
        return NotFound(f"{what}: {error.str()}", hint="create the topic first")
    if code in _UNFIT:
        return InvalidRequest(f"{what}: {error.str()}", hint="compare the settings and the access rights of the Kafka cluster")
    if code in _DAMAGED:
        return Corrupt(f"{what}: {error.str()}", hint="read another replica of the partition, or restore it")
    return Unavailable(f"{what}: {error.str()}", hint="is Kafka running and reachable?")
