"""A user's own Kafka topic as a Bytewax source of puts and deletes.

It is Bytewax's connector, made to keep every offset: nothing is skipped where records are missing, and nothing is logged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bytewax.connectors.kafka import KafkaError, KafkaSource, KafkaSourceMessage
from bytewax.inputs import StatefulSourcePartition
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka import KafkaError as Code

from venice.client.changes import Delete, Put, Start, check_start
from venice.client.schemas import SchemaIds
from venice.clock import Clock, SystemClock
from venice.connectors import STOPPING, awake_after
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable
from venice.schema.confluent import Schemas, decoder

Message = KafkaSourceMessage[bytes | None, bytes | None]
Fault = KafkaError[bytes | None, bytes | None]

KAFKA_S = 30.0
_LOST = frozenset((Code._AUTO_OFFSET_RESET, Code.OFFSET_OUT_OF_RANGE, Code.UNKNOWN_TOPIC_OR_PART, Code._UNKNOWN_PARTITION))


@dataclass(frozen=True, slots=True)
class KafkaFault:
    """A message that could not be read or decoded, as it came, and why."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None


class KafkaMessages(KafkaSource):
    """Bytewax's own Kafka source, begun at a time if wanted, which never goes on silently where records are missing."""

    def __init__(self, servers: str, topic: str, start: Start) -> None:
        check_start(start)
        config = {"auto.offset.reset": "error", "fetch.queue.backoff.ms": "2", "reconnect.backoff.max.ms": "1000", "log_level": "2"}
        super().__init__(servers.split(","), [topic], add_config=config, raise_on_errors=False)
        self._servers = servers
        self._topic = topic
        self._start = start

    def list_parts(self) -> list[str]:
        consumer = Consumer(self._config())
        try:
            found: Any = consumer.list_topics(self._topic, timeout=KAFKA_S)
        except KafkaException as error:
            raise Unavailable(f"Kafka at {self._servers} cannot be reached: {error.args[0].str()}", hint="is it running?") from error
        finally:
            consumer.close()
        topic = found.topics[self._topic]
        if topic.error is not None:
            raise NotFound(f"Kafka at {self._servers} has no topic {self._topic!r}: {topic.error.str()}", hint="name an existing one")
        return [f"{partition}-{self._topic}" for partition in topic.partitions]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _KafkaPart:  # type: ignore[override]  # of parts of this kind only
        # From here on it is an offset, so that a part which has read nothing yet resumes where it stood, not at a later "tail".
        offset = self._first(int(for_part.split("-", 1)[0])) if resume_state is None else resume_state
        return _KafkaPart(super().build_part(step_id, for_part, offset), offset, SystemClock())

    def _first(self, partition: int) -> int:
        consumer = Consumer(self._config())
        try:
            at = TopicPartition(self._topic, partition, self._start if isinstance(self._start, int) else 0)
            low, high = consumer.get_watermark_offsets(at, timeout=KAFKA_S)
            if self._start == "tail":
                return high
            if self._start == "beginning":
                return low
            offset = consumer.offsets_for_times([at], timeout=KAFKA_S)[0].offset
            return offset if offset >= 0 else high
        except KafkaException as error:
            raise Unavailable(f"{self._topic}[{partition}] cannot be looked up: {error.args[0].str()}", hint="try again") from error
        finally:
            consumer.close()

    def _config(self) -> dict[str, Any]:
        return {"bootstrap.servers": self._servers, "group.id": "venice", "enable.auto.commit": False, "log_level": 2}


class _KafkaPart(StatefulSourcePartition[Message | Fault, int | None]):
    """Bytewax's part, with an offset that no error moves."""

    def __init__(self, part: StatefulSourcePartition[Message | Fault, int | None], offset: int, clock: Clock) -> None:
        self._part = part
        self._offset = offset
        self._clock = clock
        self._idle = False

    def next_batch(self) -> Iterable[Message | Fault]:
        if STOPPING.is_set():
            raise StopIteration
        batch = list(self._part.next_batch())
        for one in batch:
            if isinstance(one, KafkaError):
                if one.err.code() in _LOST:
                    raise InvalidRequest(
                        f"{one.msg.topic}[{one.msg.partition}] cannot be read from offset {self._offset}: {one.err.str()}",
                        hint="what was there is gone: start the flow anew, without its recovery folder",
                    )
            elif one.offset is not None:
                self._offset = one.offset + 1
        self._idle = not batch
        return batch

    def next_awake(self) -> datetime | None:
        return awake_after(self._clock) if self._idle else None

    def snapshot(self) -> int:
        return self._offset

    def close(self) -> None:
        self._part.close()


def message_decoder(
    key: str, value: str, key_schema: Schemas | None, schema: Schemas | None, registry: str | None = None
) -> Callable[[Message | Fault], Put | Delete | KafkaFault]:
    """Makes a put of a message, a delete of one without a value, and a fault of one that cannot be read.

    Args:
        key: How keys are written: `"text"`, `"json"` or `"avro-confluent"`.
        value: How values are: `"json"` or `"avro-confluent"`.
        key_schema: Of framed keys; by schema id if there are several.
        schema: Of framed values, likewise.
        registry: Where to ask for schemas that are not given.

    Raises:
        InvalidRequest: There is no such way, or a schema is missing or is none.
    """
    ids = SchemaIds(registry) if registry is not None else None
    decode_key = _decoder("key", key, key_schema if key_schema is not None else ids)
    decode_value = _decoder("value", value, schema if schema is not None else ids)

    def decode(message: Message | Fault) -> Put | Delete | KafkaFault:
        if isinstance(message, KafkaError):
            return _fault(message.msg, message.err.str())
        timestamp_ms = message.timestamp[1] if message.timestamp is not None else 0
        try:
            if message.key is None:
                return _fault(message, "the message has no key")
            found = decode_key(message.key)
            if timestamp_ms <= 0:
                return _fault(message, "the message has no time")
            return Delete(found, timestamp_ms) if message.value is None else Put(found, decode_value(message.value), timestamp_ms)
        except (Corrupt, ValueError) as error:
            return _fault(message, str(error))

    return decode


def _decoder(of: str, way: str, schemas: Schemas | None) -> Callable[[bytes], Any]:
    if way == "avro-confluent":
        if schemas is None:
            hint = "give its text, a text for each schema id, or the URL of a registry"
            raise InvalidRequest(f"framed Avro {of}s need their schema", hint=hint)
        return decoder(schemas)
    if way == "json":
        return json.loads
    if way == "text" and of == "key":
        return bytes.decode
    raise InvalidRequest(f"{of}s cannot be decoded as {way!r}", hint='say "json" or "avro-confluent", for keys also "text"')


def _fault(message: Message, reason: str) -> KafkaFault:
    at = message.topic or "", message.partition or 0, message.offset if message.offset is not None else -1
    return KafkaFault(*at, reason, message.key, message.value)
