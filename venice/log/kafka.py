"""The log on Apache Kafka, for clusters of any size.

A topic's records live in the values of its messages; the key of each names the topic's id, so that a reader is not
fooled by a topic that was deleted and created again under its name. `docs/decisions/0008-kafka-log.md` says why.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from venice.clock import Clock
from venice.errors import Conflict, InvalidRequest, VeniceError
from venice.log import PARTITIONS_MAX, PAYLOAD_BYTES_MAX, Batch
from venice.log.kafka_cluster import MESSAGE_BYTES_MAX, UNKNOWN, Cluster, translated
from venice.log.kafka_reader import KafkaReader
from venice.naming import check_topic_name

QUEUE_FULL_S = 0.005  # Until the queue to the brokers has room again.
POLL_S = 0.1
# The producer says the last one of a message that it was handed just as it learnt that the topic is gone.
GONE = UNKNOWN | {KafkaError._DESTROY}


class KafkaLog:
    """The `Log` of one Kafka cluster; threads may share it, a forked child must open its own.

    Acknowledged means: in every in-sync replica (`acks=all`). How many those are is for the brokers to say:
    `default.replication.factor` and `min.insync.replicas`. Brokers must have `auto.create.topics.enable=false`.

    Args:
        servers: HOST:PORT of one or more brokers, comma-separated.
        clock: Used for waiting.
        timeout_s: How long a call may take before it is Unavailable.
    """

    def __init__(self, servers: str, clock: Clock, *, timeout_s: float = 30.0) -> None:
        self._clock = clock
        self._cluster = Cluster(servers, clock, timeout_s)
        self._lock = threading.Lock()
        self._appender: _Appender | None = None

    def create_topic(self, topic: str, partitions: int) -> str:
        check_topic_name(topic)
        if not 1 <= partitions <= PARTITIONS_MAX:
            raise InvalidRequest(f"topic {topic!r} cannot have {partitions} partitions", hint=f"use 1 to {PARTITIONS_MAX}")
        self._cluster.check_usable()
        self._cluster.create(topic, partitions)
        found = self._cluster.describe(topic)
        if found.partitions != partitions:
            raise Conflict(
                f"topic {topic!r} exists with {found.partitions} partitions, not {partitions}",
                hint="a topic keeps its number of partitions: use another name, or delete it first",
                topic=topic,
            )
        return found.id

    def delete_topic(self, topic: str) -> None:
        check_topic_name(topic)
        self._cluster.check_usable()
        self._cluster.delete(topic)

    def topics(self) -> list[str]:
        return self._cluster.names()

    def topic_id(self, topic: str) -> str:
        return self._cluster.describe(topic).id

    def partitions(self, topic: str) -> int:
        return self._cluster.describe(topic).partitions

    def append(self, topic: str, partition: int, payloads: Sequence[bytes]) -> list[int]:
        _check_sizes(topic, payloads)
        # Only the producer's ignorance of a new topic is tried again: anything else may have been appended.
        return self._cluster.on([(topic, partition)], lambda: self._append(topic, partition, payloads), retry=GONE)

    def append_batches(self, batches: Sequence[Batch]) -> _Appending:
        appender = self._usable_appender()
        begun = [self._begin(appender, batch) if batch.payloads else None for batch in batches]
        return _Appending(begun, lambda delivery: self._refusal(appender, delivery))

    def start_offset(self, topic: str, partition: int) -> int:
        return self._cluster.ranges([(topic, partition)])[topic, partition][0]

    def end_offset(self, topic: str, partition: int) -> int:
        return self._cluster.ranges([(topic, partition)])[topic, partition][1]

    def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return self._cluster.ends(list(partitions))

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        found = self._cluster.offset_for_time(topic, partition, max(timestamp_ms, 0))
        return self.end_offset(topic, partition) if found is None else found

    def delete_prefix(self, topic: str, partition: int, before_offset: int) -> None:
        start, end = self._cluster.ranges([(topic, partition)])[topic, partition]
        if before_offset > end:
            raise InvalidRequest(
                f"cannot delete records before {before_offset} of {topic}[{partition}], which ends at {end}",
                hint="name an offset up to its end",
            )
        if before_offset > start:
            self._cluster.delete_records(topic, partition, before_offset)

    def reader(self, offsets: Mapping[tuple[str, int], int] | None = None) -> KafkaReader:
        self._cluster.check_usable()
        reader = KafkaReader(self._cluster)
        try:
            reader.assign_all(offsets or {})
        except BaseException:
            reader.close()
            raise
        return reader

    def close(self) -> None:
        """Close the log; readers are closed by those who made them. Closing again does nothing."""
        self._cluster.close()
        with self._lock:
            appender, self._appender = self._appender, None
        if appender is not None:
            appender.close()

    def _append(self, topic: str, partition: int, payloads: Sequence[bytes]) -> list[int]:
        if not payloads:
            return []
        appender = self._usable_appender()
        delivery = _Delivery(topic, len(payloads))
        appender.produce(delivery, self._cluster.described(topic).key, partition, payloads)
        delivery.done.wait()
        if delivery.error is None:
            return delivery.offsets
        self._let_go(appender)
        if delivery.error.code() in GONE:
            if delivery.offsets:  # Some were appended before the topic went away, so this must not be tried again.
                raise translated(delivery.error, topic)
            appender.look_again(topic)
        raise KafkaException(delivery.error)

    def _usable_appender(self) -> _Appender:
        with self._lock:
            self._cluster.check_usable()
            if self._appender is None:
                self._appender = _Appender(self._cluster, self._clock)
            return self._appender

    def _let_go(self, appender: _Appender) -> None:
        if appender.broken:
            # The library gives up a producer whose sequence broke; a new one starts a new sequence.
            with self._lock:
                held = self._appender is appender
                if held:
                    self._appender = None
            if held:
                appender.close()

    def _begin(self, appender: _Appender, batch: Batch) -> _Delivery | VeniceError:
        """Hand a batch to the producer; of its deliveries only the last one is listened to."""
        try:
            _check_sizes(batch.topic, batch.payloads)
            key = self._cluster.described(batch.topic).key
        except VeniceError as error:
            return error
        delivery = _Delivery(batch.topic, 1)
        appender.produce_together(delivery, key, batch.partition, batch.payloads)
        return delivery

    def _refusal(self, appender: _Appender, delivery: _Delivery) -> VeniceError | None:
        delivery.done.wait()
        if delivery.error is None:
            return None
        self._let_go(appender)
        self._cluster.forget(delivery.topic)
        return translated(delivery.error, delivery.topic)


def _check_sizes(topic: str, payloads: Sequence[bytes]) -> None:
    for payload in payloads:
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise InvalidRequest(
                f"a record of {len(payload)} bytes for topic {topic!r} is too large", hint=f"the log takes {PAYLOAD_BYTES_MAX} bytes"
            )


_Message = dict[str, Any]
"""A message as the library takes it; it writes into it what went wrong."""


class _Appending:
    """Batches with the producer; those that never came to it are errors, empty ones None."""

    def __init__(self, begun: list[_Delivery | VeniceError | None], refusal: Callable[[_Delivery], VeniceError | None]) -> None:
        self._begun = begun
        self._refusal = refusal

    @property
    def is_done(self) -> bool:
        return all(one.done.is_set() for one in self._begun if isinstance(one, _Delivery))

    def refusals(self) -> list[VeniceError | None]:
        return [self._refusal(one) if isinstance(one, _Delivery) else one for one in self._begun]


class _Appender:
    """A producer, and the thread that hears what became of its messages."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._clock = clock
        self._timeout_s = cluster.timeout_s
        self._producer = Producer(
            cluster.config(
                enable_idempotence=True,
                acks="all",
                linger_ms=0,  # Whoever appends waits for it; callers that have many records pass them together.
                message_max_bytes=MESSAGE_BYTES_MAX,
                message_timeout_ms=int(self._timeout_s * 1000),
                topic_metadata_propagation_max_ms=1000,
                queue_buffering_max_kbytes=256 * 1024,
            )
        )
        self._closing = False
        self.broken = False
        """Whether it has failed for good: nothing more is taken, and what was under way has been refused."""
        self._thread = threading.Thread(target=self._listen, name="kafka-appender", daemon=True)
        self._thread.start()

    def produce(self, delivery: _Delivery, key: bytes, partition: int, payloads: Sequence[bytes]) -> None:
        """Produce the payloads; `delivery` hears what became of each."""
        self._produce(delivery, partition, [{"value": payload, "key": key, "callback": delivery} for payload in payloads])

    def produce_together(self, delivery: _Delivery, key: bytes, partition: int, payloads: Sequence[bytes]) -> None:
        """Produce the payloads; `delivery` hears what became of the last one.

        Each call back waits for the interpreter anew: beside a busy thread 500 of them take half a second.
        """
        messages: list[_Message] = [{"value": payload, "key": key} for payload in payloads]
        messages[-1]["callback"] = delivery
        self._produce(delivery, partition, messages)

    def _produce(self, delivery: _Delivery, partition: int, messages: list[_Message]) -> None:
        """Hand messages to the library, all at once as far as its queue has room: one by one takes it half as long again."""
        while True:
            try:
                self._producer.produce_batch(delivery.topic, messages, partition)
                messages = [message for message in messages if "_error" in message]
                if not messages:
                    return
                error = messages[0].pop("_error")
            except KafkaException as failure:
                error = failure.args[0]
            if error.code() != KafkaError._QUEUE_FULL:
                self.broken = self.broken or error.code() == KafkaError._FATAL
                delivery.refuse(error, sum("callback" in message for message in messages))
                return
            for message in messages[1:]:
                del message["_error"]
            self._clock.sleep(QUEUE_FULL_S)

    def look_again(self, topic: str) -> None:
        """Have the producer find out that a topic is there after all: it remembers a missing one for a while."""
        self._producer.list_topics(topic, self._timeout_s)

    def close(self) -> None:
        with suppress(KafkaException):  # of a producer that has given up: it has told each message's fate already
            self._producer.flush(self._timeout_s)
        self._closing = True
        self._thread.join()

    def _listen(self) -> None:
        while not self._closing:
            try:
                self._producer.poll(POLL_S)
            except KafkaException:
                # Said instead of what became of the messages, which is heard when it is asked again.
                self.broken = True


class _Delivery:
    """What became of the messages of one append that it listens to, in the order they were produced."""

    def __init__(self, topic: str, count: int) -> None:
        self.topic = topic
        self.offsets: list[int] = []
        self.error: KafkaError | None = None
        """The first one."""
        self.done = threading.Event()
        self._left = count
        self._lock = threading.Lock()

    def __call__(self, error: KafkaError | None, message: Message[bytes, bytes]) -> None:
        if error is not None:
            self.refuse(error, 1)
        else:
            self.offsets.append(int(message.offset() or 0))
            self._count(1)

    def refuse(self, error: KafkaError, count: int) -> None:
        self.error = self.error or error
        self._count(count)

    def _count(self, count: int) -> None:
        with self._lock:
            self._left -= count
            if not self._left:
                self.done.set()
