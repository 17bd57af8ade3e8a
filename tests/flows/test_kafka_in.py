"""A user's own Kafka topic as input: every message becomes a write or a fault, from where it was asked to, once."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from bytewax.testing import TestingSink
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it exports them unnamed
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from served_controller import Served

from venice import operators
from venice.errors import Corrupt, InvalidRequest, NotFound
from venice.kafka_connector import KafkaFault, KafkaMessages
from venice.operators import Delete, Put
from venice.schema.codec import Codec
from venice.schema.confluent import decoder

ORDER = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "amount", "type": "long"}]})
LATER = json.dumps({"type": "record", "name": "Order", "fields": [{"name": "sum", "type": "string"}]})


def framed(schema_id: int, schema: str, value: Any) -> bytes:
    return b"\0" + schema_id.to_bytes(4, "big") + Codec(schema).encode(value)


def test_framed_avro_is_read_with_the_schema_of_its_id() -> None:
    one = decoder(ORDER)
    assert one(framed(7, ORDER, {"amount": 3})) == {"amount": 3}
    both = decoder({7: ORDER, 9: LATER})
    assert [both(framed(7, ORDER, {"amount": 3})), both(framed(9, LATER, {"sum": "3"}))] == [{"amount": 3}, {"sum": "3"}]
    for bad in (b"", b"\0\0\0", b"\1\0\0\0\7\6", framed(8, ORDER, {"amount": 3}), b"\0\0\0\0\7", framed(7, ORDER, {"amount": 3}) + b"!"):
        with pytest.raises(Corrupt):
            both(bad)
    with pytest.raises(InvalidRequest, match="no schema"):
        decoder({})


def test_wrong_arguments_are_refused_when_the_flow_is_built() -> None:
    wrong: list[dict[str, Any]] = [
        {"start": "begin"}, {"decode": "avro-confluent"}, {"decode": "text"}, {"decode_key": "xml"}, {"decode_key": "avro-confluent"},
    ]  # fmt: skip
    for number, options in enumerate(wrong):
        with pytest.raises(InvalidRequest):
            operators.kafka_in("orders", Dataflow(f"flow_{number}"), "nowhere.invalid:9092", "orders", **options)


@pytest.fixture
def topic(kafka_url: str) -> tuple[str, str]:
    """(servers, a new topic of two partitions)."""
    servers, name = kafka_url.removeprefix("kafka:"), f"orders-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(30)
    return servers, name


def produce(servers: str, topic: str, messages: list[tuple[bytes | None, bytes | None, int]], partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": servers})
    for key, value, timestamp in messages:
        producer.produce(topic, value=value, key=key, partition=partition, timestamp=timestamp)
    assert producer.flush(30) == 0


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a flow until `done()`, in this thread."""

    def run_until(flow: Dataflow, done: Callable[[], bool], recovery: Path | None = None) -> None:
        stopping = threading.Event()
        monkeypatch.setattr("venice.kafka_connector.STOPPING", stopping)

        def watch() -> None:
            deadline = time.monotonic() + 60
            while not done() and time.monotonic() < deadline:
                stopping.wait(0.02)
            stopping.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        kept = None
        if recovery is not None:
            if not recovery.exists():
                recovery.mkdir()
                init_db_dir(recovery, 1)  # type: ignore[no-untyped-call]  # Bytewax has no types for it
            kept = RecoveryConfig(str(recovery))  # type: ignore[no-untyped-call]  # Bytewax has no types for it
        try:
            cli_main(flow, recovery_config=kept)  # type: ignore[no-untyped-call]  # Bytewax has no types for it
        finally:
            stopping.set()
            watcher.join()
        assert done(), "nothing more came"

    return run_until


def flow_of(servers: str, topic: str, oks: list[Any], errs: list[Any], **options: Any) -> Dataflow:
    flow = Dataflow("orders")
    kafka = operators.kafka_in("orders", flow, servers, topic, **options)
    op.output("oks", kafka.oks, TestingSink(oks))
    op.output("errs", kafka.errs, TestingSink(errs))
    return flow


@pytest.mark.kafka
def test_every_message_is_a_write_or_a_fault(topic: tuple[str, str], run: Callable[..., None], tmp_path: Path) -> None:
    good: list[tuple[bytes | None, bytes | None, int]] = [(b"a", b'{"amount": 1}', 1000), (b"b", b"null", 2000), (b"a", None, 3000)]
    bad: list[tuple[bytes | None, bytes | None, int]] = [(None, b"{}", 4000), (b"c", b"{", 5000), (b"\xff", b"{}", 6000)]
    produce(*topic, good + bad)
    produce(*topic, [(b"d", b"[1]", 7000)], partition=1)
    oks: list[Any] = []
    errs: list[KafkaFault] = []
    run(flow_of(*topic, oks, errs), lambda: len(oks) + len(errs) == 7, tmp_path / "state")
    assert sorted(oks, key=lambda item: item[1].timestamp_ms) == [
        ("a", Put("a", {"amount": 1}, 1000)), ("b", Put("b", None, 2000)), ("a", Delete("a", 3000)), ("d", Put("d", [1], 7000)),
    ]  # fmt: skip
    assert [(fault.topic, fault.partition, fault.offset, fault.key, fault.value) for fault in errs] == [
        (topic[1], 0, 3, None, b"{}"), (topic[1], 0, 4, b"c", b"{"), (topic[1], 0, 5, b"\xff", b"{}"),
    ]  # fmt: skip
    oks.clear()
    produce(*topic, [(b"e", b"2", 8000)])
    run(flow_of(*topic, oks, errs), lambda: len(oks) > 0, tmp_path / "state")
    assert oks == [("e", Put("e", 2, 8000))], "goes on where it was"


@pytest.mark.kafka
def test_framed_keys_and_values_from_a_moment_on(topic: tuple[str, str], run: Callable[..., None]) -> None:
    at = [
        (framed(1, '"long"', n), framed(2 + n % 2, (ORDER, LATER)[n % 2], ({"amount": n}, {"sum": str(n)})[n % 2]), 1000 * n)
        for n in range(1, 7)
    ]
    produce(*topic, [*at, (framed(1, '"long"', 7), framed(4, ORDER, {"amount": 7}), 7000)])
    oks: list[Any] = []
    errs: list[KafkaFault] = []
    options: dict[str, Any] = {
        "decode": "avro-confluent",
        "schema": {2: ORDER, 3: LATER},
        "decode_key": "avro-confluent",
        "key_schema": '"long"',
    }
    run(flow_of(*topic, oks, errs, start=5000, **options), lambda: len(oks) + len(errs) == 3)
    assert oks == [("5", Put(5, {"sum": "5"}, 5000)), ("6", Put(6, {"amount": 6}, 6000))]
    assert "schema 4" in errs[0].reason


@pytest.mark.kafka
def test_schemas_of_a_registry_are_looked_up(
    topic: tuple[str, str], run: Callable[..., None], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A topic written by Confluent's serializers against the controller's registry, the schema evolving on the way."""
    served = Served(tmp_path, free_port())
    registry = SchemaRegistryClient({"url": served.url})
    try:
        # Their names for subjects: that of the topic, which is the store's here.
        served.client.create_store(topic[1], key_schema='"string"', value_schema=ORDER)
        later = json.dumps(
            {**json.loads(ORDER), "fields": [*json.loads(ORDER)["fields"], {"name": "note", "type": "string", "default": ""}]}
        )
        for number, (schema, value) in enumerate([(ORDER, {"amount": 1}), (later, {"amount": 2, "note": "late"})]):
            key = AvroSerializer(registry, '"string"')(f"order {number}", SerializationContext(topic[1], MessageField.KEY))
            body = AvroSerializer(registry, schema)(value, SerializationContext(topic[1], MessageField.VALUE))
            produce(*topic, [(key, body, 1000 + number)])
        produce(*topic, [(key, framed(4711, ORDER, {"amount": 3}), 3000)])
        oks: list[Any] = []
        errs: list[KafkaFault] = []
        options = {"decode": "avro-confluent", "decode_key": "avro-confluent", "registry": served.url}
        run(flow_of(*topic, oks, errs, **options), lambda: len(oks) + len(errs) == 3)
    finally:
        registry.close()
        served.close()
    assert [put for _, put in oks] == [Put("order 0", {"amount": 1}, 1000), Put("order 1", {"amount": 2, "note": "late"}, 1001)]
    assert "schema 4711, which is not known" in errs[0].reason


@pytest.mark.kafka
def test_missing_topics_and_records_end_the_flow(topic: tuple[str, str]) -> None:
    with pytest.raises(NotFound, match="has no topic"):
        KafkaMessages(topic[0], f"{topic[1]}-missing", "beginning").list_parts()
    source = KafkaMessages(*topic, "beginning")
    assert sorted(source.list_parts()) == [f"0-{topic[1]}", f"1-{topic[1]}"]
    part = source.build_part("orders", f"0-{topic[1]}", 5)
    deadline = time.monotonic() + 60
    try:
        with pytest.raises(InvalidRequest, match="cannot be read from offset 5"):
            read_until(part, deadline)
        assert part.snapshot() == 5
    finally:
        part.close()


def read_until(part: Any, deadline: float) -> None:
    while time.monotonic() < deadline:
        part.next_batch()
