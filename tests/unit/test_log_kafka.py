"""The Kafka log where it differs from others: what it makes of topics, of strangers' messages, and of brokers that fall over."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
import waiting
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]  # it exports them unnamed
from kafka_broker import run_broker, start_or_skip

from venice.clock import SystemClock
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log import Entry, Reader
from venice.log.kafka import KafkaLog

pytestmark = pytest.mark.kafka

DEADLINE_S = 60.0
eventually = partial(waiting.eventually, timeout_s=DEADLINE_S)


@pytest.fixture
def log(kafka_url: str) -> Iterator[KafkaLog]:
    log = KafkaLog(servers(kafka_url), SystemClock())
    yield log
    log.close()


@pytest.fixture
def topic() -> str:
    return f"flights_{os.urandom(6).hex()}_rt"


def servers(url: str) -> str:
    return url.removeprefix("kafka:")


def read(reader: Reader, count: int) -> list[Entry]:
    """The next `count` entries; a broker that is away meanwhile is waited for."""
    entries: list[Entry] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(entries) < count and time.monotonic() < deadline:
        try:
            entries += reader.poll(timeout_s=0.5)
        except Unavailable:
            continue
    assert len(entries) == count
    return entries


def test_a_topic_is_never_compacted_and_keeps_everything(kafka_url: str, log: KafkaLog, topic: str) -> None:
    log.create_topic(topic, 1)
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient({"bootstrap.servers": servers(kafka_url)})
    config = admin.describe_configs([resource])[resource].result()
    wanted = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "message.timestamp.type": "LogAppendTime"}
    assert {name: config[name].value for name in wanted} == wanted


def test_a_record_of_a_stranger_is_read_all_the_same(kafka_url: str, log: KafkaLog, topic: str) -> None:
    """Without our key, a check that the topic is still the same one decides."""
    log.create_topic(topic, 1)
    reader = log.reader({(topic, 0): 0})
    stranger = Producer({"bootstrap.servers": servers(kafka_url)})
    stranger.produce(topic, b"from outside", partition=0)
    stranger.produce(topic, b"from outside", key=b"key", partition=0)
    assert stranger.flush(DEADLINE_S) == 0
    log.append(topic, 0, [b"ours"])
    assert [entry.payload for entry in read(reader, 3)] == [b"from outside", b"from outside", b"ours"]
    reader.close()


def test_a_topic_created_again_never_shows_its_records_to_an_old_reader(kafka_url: str, log: KafkaLog, topic: str) -> None:
    """At once, and with more records than before: the client library itself would not notice."""
    other = KafkaLog(servers(kafka_url), SystemClock())
    for _ in range(3):
        log.create_topic(topic, 1)
        log.append(topic, 0, [b"old"] * 3)
        reader = other.reader({(topic, 0): 0})
        assert len(read(reader, 3)) == 3
        log.delete_topic(topic)
        log.create_topic(topic, 1)
        log.append(topic, 0, [b"new"] * 10)
        with pytest.raises(NotFound, match=topic):
            read(reader, 1)
        with pytest.raises(NotFound, match="unassign"):
            reader.assign(topic, 0, 0)
        reader.unassign(topic, 0)
        reader.assign(topic, 0, 0)
        assert [entry.payload for entry in read(reader, 10)] == [b"new"] * 10
        reader.close()
        log.delete_topic(topic)
    other.close()


def test_a_forked_child_is_told_to_open_the_log_again(log: KafkaLog, topic: str) -> None:
    log.create_topic(topic, 1)
    reader = log.reader({(topic, 0): 0})
    child = os.fork()
    if child == 0:
        calls = (lambda: log.append(topic, 0, [b"y"]), log.topics, reader.poll, lambda: log.reader({(topic, 0): 0}))
        told = 0
        for call in calls:
            try:
                call()
            except InvalidRequest:
                told += 1
            except VeniceError:
                pass
        os._exit(0 if told == len(calls) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.append(topic, 0, [b"x"])
    assert len(read(reader, 1)) == 1
    reader.close()


def test_a_broker_that_is_not_there_is_unavailable() -> None:
    log = KafkaLog("127.0.0.1:9", SystemClock(), timeout_s=0.5)
    for call in (log.topics, lambda: log.create_topic("t", 1), lambda: log.append("t", 0, [b"x"]), lambda: log.reader({("t", 0): 0})):
        with pytest.raises(Unavailable, match=r"Kafka|127\.0\.0\.1:9|'t'"):
            call()
    log.close()


class OwnBroker:
    """A broker that may be killed and suspended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""

    def start(self) -> None:
        self.url = start_or_skip(self.folder)

    @property
    def pid(self) -> int:
        return int((self.folder / "broker.pid").read_text())

    def send(self, sign: signal.Signals) -> None:
        os.kill(self.pid, sign)


@pytest.fixture(scope="module")
def broker(kafka_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    broker = OwnBroker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    run_broker("stop", broker.folder)


def test_acknowledged_records_survive_a_sigkill_of_the_broker(broker: OwnBroker, topic: str) -> None:
    log = KafkaLog(servers(broker.url), SystemClock(), timeout_s=DEADLINE_S)
    log.create_topic(topic, 1)
    reader = log.reader({(topic, 0): 0})
    acknowledged: dict[int, int] = {}
    stop = threading.Event()

    def append() -> None:
        number = 0
        while not stop.is_set():
            acknowledged[number] = log.append(topic, 0, [b"%d" % number])[0]
            number += 1

    thread = threading.Thread(target=append)
    thread.start()
    try:
        eventually(lambda: len(acknowledged) > 50)
        broker.send(signal.SIGKILL)
        broker.start()
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 50)
    finally:
        stop.set()
        thread.join()
    entries = read(reader, log.end_offset(topic, 0))
    assert [int(entry.payload) for entry in entries] == list(range(len(entries))), "nothing lost, nothing twice, in order"
    assert all(entries[offset].payload == b"%d" % number for number, offset in acknowledged.items())
    reader.close()
    log.close()


def test_a_suspended_broker_acknowledges_nothing(broker: OwnBroker, topic: str) -> None:
    log = KafkaLog(servers(broker.url), SystemClock(), timeout_s=DEADLINE_S)
    log.create_topic(topic, 1)
    log.append(topic, 0, [b"before"])
    reader = log.reader({(topic, 0): 0})
    read(reader, 1)
    waiting.suspend(broker.pid, timeout_s=DEADLINE_S)
    try:
        thread = threading.Thread(target=log.append, args=(topic, 0, [b"meanwhile"]))
        thread.start()
        with pytest.raises(Unavailable):
            KafkaLog(servers(broker.url), SystemClock(), timeout_s=1.0).append(topic, 0, [b"x"])
        assert thread.is_alive(), "nobody can have acknowledged it"
        assert reader.poll(timeout_s=0.1) == []
    finally:
        broker.send(signal.SIGCONT)
    thread.join()
    assert [entry.payload for entry in read(reader, 1)] == [b"meanwhile"]
    reader.close()
    log.close()


def test_a_reader_says_that_the_broker_is_away_and_goes_on_when_it_is_back(broker: OwnBroker, topic: str) -> None:
    log = KafkaLog(servers(broker.url), SystemClock(), timeout_s=2.0)
    log.create_topic(topic, 1)
    log.append(topic, 0, [b"a", b"b"])
    reader = log.reader({(topic, 0): 0})
    read(reader, 2)
    broker.send(signal.SIGKILL)
    with pytest.raises(Unavailable, match="Kafka"):
        poll_for_ever(reader)
    with pytest.raises(Unavailable, match=topic):
        log.append(topic, 0, [b"lost"])
    assert reader.position(topic, 0) == 2
    broker.start()
    eventually(lambda: outcome(lambda: log.append(topic, 0, [b"c"])) is None)
    entries = read(reader, log.end_offset(topic, 0) - 2)
    assert entries[-1].payload == b"c"
    assert entries[0].offset == 2
    reader.close()
    log.close()


def poll_for_ever(reader: Reader) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert reader.poll(timeout_s=1.0) == []


def outcome(call: Callable[[], Any]) -> type[BaseException] | None:
    try:
        call()
    except VeniceError as error:
        return type(error)
    return None


def test_a_partition_that_was_overtaken_is_told_of_although_others_are_read_on(log: KafkaLog, topic: str) -> None:
    log.create_topic(topic, 2)
    log.append(topic, 0, [b"x"] * 10)
    reader = log.reader({(topic, 0): 10, (topic, 1): 0})
    log.delete_prefix(topic, 0, 5)
    # As if the deletion had come between the check of the offset and the first fetch.
    reader._drop([(topic, 0)])
    reader._consumer.incremental_assign([TopicPartition(topic, 0, 2)])
    reader._next[topic, 0] = 2
    stop = threading.Event()

    def append() -> None:
        while not stop.is_set():
            log.append(topic, 1, [b"y"] * 50)

    appender = threading.Thread(target=append)
    appender.start()
    entries: list[Entry] = []
    told: list[dict[str, Any]] = []
    try:
        deadline = time.monotonic() + DEADLINE_S
        while len(told) < 3 or len(entries) < 200:
            assert time.monotonic() < deadline, (told, len(entries))
            try:
                entries += reader.poll(records_max=10, timeout_s=1)
            except InvalidRequest as error:
                told.append(error.data)
    finally:
        stop.set()
        appender.join()
        reader.close()
    assert {(one["topic"], one["partition"]) for one in told} == {(topic, 0)}
    assert [entry.offset for entry in entries] == list(range(len(entries))), "nothing of the other one is lost in between"


def flip(segment: Path, payload: bytes) -> None:
    """Change one bit of a record on the broker's disk."""
    data = bytearray(segment.read_bytes())
    data[data.index(payload)] ^= 1
    with segment.open("r+b") as file:  # in place: the broker has it open
        file.write(data)


def test_nothing_behind_damaged_records_is_handed_out_and_once_repaired_they_are_read(broker: OwnBroker, topic: str) -> None:
    """The library says so once and goes on behind them, as if what they held had never been."""
    log = KafkaLog(servers(broker.url), SystemClock())
    log.create_topic(topic, 2)
    for payload in (b"first", b"second", b"third"):
        log.append(topic, 0, [payload])
    (segment,) = broker.folder.glob(f"**/{topic}-0/*.log")
    flip(segment, b"second")
    reader = log.reader({(topic, 0): 0, (topic, 1): 0})
    found: list[bytes] = []
    damages = 0

    def poll_twice_damaged() -> bool:
        nonlocal damages
        try:
            found.extend(entry.payload for entry in reader.poll(timeout_s=0.2))
        except Corrupt:
            damages += 1
        return damages >= 2

    log.append(topic, 1, [b"beside"])
    eventually(poll_twice_damaged)
    eventually(lambda: poll_twice_damaged() and b"beside" in found)
    assert sorted(found) == [b"beside", b"first"]
    assert reader.position(topic, 0) == 1
    flip(segment, bytes([b"second"[0] ^ 1]) + b"econd")
    eventually(lambda: poll_twice_damaged() and len(found) >= 4)
    assert [payload for payload in found if payload != b"beside"] == [b"first", b"second", b"third"]
    reader.close()
    log.close()


def test_a_producer_that_has_given_up_is_replaced(log: KafkaLog, topic: str) -> None:
    log.create_topic(topic, 1)
    log.append(topic, 0, [b"before"])
    appender = log._appender
    assert appender is not None
    (library,) = Path(confluent_kafka.__file__).parent.parent.glob("confluent_kafka.libs/librdkafka*")
    give_up = ctypes.CDLL(str(library)).rd_kafka_test_fatal_error
    give_up.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    # The library's own way to provoke it; its handle is the first thing behind an object's head.
    give_up(ctypes.c_void_p.from_address(id(appender._producer) + object.__basicsize__), 45, b"a test")
    for refused in (lambda: log.append(topic, 0, [b"lost"]), lambda: log.append(topic, 0, [b"after"])):
        outcome(refused)
    assert log.append(topic, 0, [b"last"]) == [log.end_offset(topic, 0) - 1]
    assert log._appender is not appender
