"""The tailing reader of the Kafka log: assigned partitions only, no consumer group, nothing skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, NoReturn, overload

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from venice.errors import InvalidRequest, NotFound, Unavailable, VeniceError
from venice.log import Entry, Run
from venice.log.kafka_cluster import UNKNOWN, Cluster, Partition, description, translated

WAIT_S = 0.1  # One wait for records: the library cannot be interrupted in it.
CHECK_S = 1.0  # Between looks whether the topics are still the ones assigned: Kafka does not tell a waiting reader.
POLL_RECORDS_MAX = 10_000

# Tuples made and picked apart by C code: a poll loop over objects would cost more than Kafka's own client does.
_entry = partial(tuple.__new__, Entry)
_time = itemgetter(1)


class KafkaReader:
    """The `Reader` of a `KafkaLog`, through a consumer of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._consumer = Consumer(
            cluster.config(
                group_id="venice",  # Asked for by the library; nothing is ever stored under it.
                enable_auto_commit=False,
                enable_auto_offset_store=False,
                auto_offset_reset="error",  # The default would go on somewhere else without a word.
                fetch_queue_backoff_ms=2,  # The default of 1000 halves what a busy reader gets.
                fetch_wait_max_ms=100,  # A seek waits for the fetch under way, which lasts so long when nothing comes.
                check_crcs=True,
            )
            | {"error_cb": self._note_down}
        )
        self._next: dict[Partition, int] = {}
        self._topics: dict[str, str] = {}
        """The id that each topic had when it was assigned."""
        self._keys: set[bytes | None] = set()
        """What messages of those topics carry as their key. Ids are unique, so topics may share the set."""
        self._failed: dict[Partition, VeniceError] = {}
        self._resting: dict[Partition, float] = {}
        """Partitions of which something could not be read, with the time at which they are read again from there."""
        self._told = False
        """Whether the last thing that was handed out is a failure."""
        self._down: VeniceError | None = None
        self._held: list[Message[bytes, bytes]] = []
        self._asked: Mapping[str, Future[Any]] = {}
        self._check_s = cluster.clock.monotonic_s() + CHECK_S

    def assign(self, topic: str, partition: int, offset: int) -> None:
        self.assign_all({(topic, partition): offset})

    def assign_all(self, offsets: Mapping[Partition, int]) -> None:
        """Assign many at once, which asks Kafka only once. Raises as `assign`; nothing is assigned then."""
        # Asked first and afresh: were a topic created again in between, the check of ids that goes with reading would tell.
        described = self._cluster.describe_all(topic for topic, _ in offsets)
        for at, (start, end) in self._cluster.ranges(list(offsets)).items():
            if not start <= offsets[at] <= end:
                raise InvalidRequest(
                    f"{at[0]}[{at[1]}] cannot be read from offset {offsets[at]}: it has {start} to {end}",
                    hint="start from its start offset, its end offset or one in between",
                    topic=at[0],
                    partition=at[1],
                    start=start,
                    end=end,
                )
        for topic, found in described.items():
            if self._topics.get(topic, found.id) != found.id:
                raise _deleted(topic)
        self._drop([at for at in offsets if at in self._next])
        self._consumer.incremental_assign([TopicPartition(*at, offset) for at, offset in offsets.items()])
        self._next.update(offsets)
        for topic, found in described.items():
            self._topics[topic] = found.id
            self._keys.add(found.key)

    def unassign(self, topic: str, partition: int) -> None:
        if (topic, partition) in self._next:
            self._drop([(topic, partition)])
            if all(assigned != topic for assigned, _ in self._next):
                del self._topics[topic]

    def position(self, topic: str, partition: int) -> int:
        try:
            return self._next[topic, partition]
        except KeyError:
            raise NotFound(f"{topic}[{partition}] is not assigned to this reader", hint="assign it first", topic=topic) from None

    def poll(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> list[Entry]:
        runs = self.poll_runs(records_max=records_max, timeout_s=timeout_s)
        return [entry for run in runs.values() for entry in run.entries()]

    def poll_runs(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> dict[Partition, _MessageRun]:
        assert records_max > 0, "a poll takes at least one record"
        self._cluster.check_process()
        if self._resting:
            self._resume()
        if self._failed and not self._told:
            self._tell()  # However much comes of the other partitions, what failed is heard of.
        left_s = timeout_s
        while True:
            wait_s = min(left_s, WAIT_S)
            runs = self._take(min(records_max, POLL_RECORDS_MAX), wait_s)
            if runs:
                self._told = False
                return runs
            self._watch()
            if self._failed:
                self._tell()
            if self._down is not None:
                down, self._down = self._down, None
                raise down
            left_s -= wait_s
            if left_s <= 0:
                return runs

    def close(self) -> None:
        self._consumer.close()

    def _drop(self, partitions: list[Partition]) -> None:
        read = [TopicPartition(*at) for at in partitions if at not in self._resting]
        if read:
            self._consumer.incremental_unassign(read)
        for at in partitions:
            del self._next[at]
            self._failed.pop(at, None)
            self._resting.pop(at, None)
        if self._held:
            self._held = [message for message in self._held if (message.topic(), message.partition()) in self._next]

    def _take(self, records_max: int, wait_s: float) -> dict[Partition, _MessageRun]:
        if not self._held:
            self._held = self._consumer.consume(records_max, 0)
            if not self._held and wait_s > 0:
                # `consume` would wait for all of them, `poll` waits for the first.
                first = self._consumer.poll(wait_s)
                if first is not None:
                    self._held = [first, *(self._consumer.consume(records_max - 1, 0) if records_max > 1 else ())]
        if not self._held:
            return {}
        keys = list(map(Message.key, self._held))
        # A failure has no key; so where all messages carry the key of one topic, they are records of that topic.
        if keys[0] is None or keys[0] not in self._keys or keys.count(keys[0]) != len(keys):
            self._sift()
        held, self._held = self._held, []
        runs = {at: _MessageRun(*at, messages) for at, messages in _by_partition(held).items()}
        for at, run in runs.items():
            self._next[at] = run.next_offset
        return runs

    def _sift(self) -> None:
        """Leave only records of the assigned topics among what is held. Raises Unavailable: then all of it stays held."""
        good, broken = [], set()
        for message in self._held:
            at = message.topic(), message.partition()
            if message.error() is not None:
                self._note(message)
                broken.add(at)
            elif at not in broken:  # After what could not be read the library goes on behind it.
                good.append(message)
        self._held = good
        if not self._keys.issuperset(map(Message.key, self._held)):
            self._ask_about_strangers()
            self._held = [message for message in self._held if (message.topic(), message.partition()) not in self._failed]

    def _ask_about_strangers(self) -> None:
        """Records with another key: their topic was created again, or whoever appended them took it for another one."""
        for topic, key in {(str(message.topic()), message.key()) for message in self._held if message.key() not in self._keys}:
            if self._is_same(topic):
                self._keys.add(key)
            else:
                self._fail(topic)

    def _is_same(self, topic: str) -> bool:
        try:
            return self._cluster.describe(topic).id == self._topics[topic]
        except NotFound:
            return False

    def _note(self, message: Message[bytes, bytes]) -> None:
        error = message.error()
        at = str(message.topic()), int(message.partition() or 0)
        if error is None or at not in self._next:
            return
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._failed[at] = InvalidRequest(
                f"{at[0]}[{at[1]}] has no offset {self._next[at]} any more: the records there were deleted unread",
                hint="restore a newer snapshot, which covers them, and continue from there",
                topic=at[0],
                partition=at[1],
            )
            # That is also what is said of a topic which was created again and is still shorter than the old one.
            with suppress(Unavailable):
                if not self._is_same(at[0]):
                    self._fail(at[0])
        elif error.code() in UNKNOWN:
            self._fail(at[0])
        elif at not in self._resting:
            self._failed[at] = translated(error, f"{at[0]}[{at[1]}]")
            self._consumer.incremental_unassign([TopicPartition(*at)])
            self._resting[at] = self._cluster.clock.monotonic_s() + CHECK_S

    def _resume(self) -> None:
        """Read again, from where they failed, the partitions that have rested."""
        now_s = self._cluster.clock.monotonic_s()
        due = [at for at, due_s in self._resting.items() if now_s >= due_s]
        if due:
            self._consumer.incremental_assign([TopicPartition(*at, self._next[at]) for at in due])
            for at in due:
                del self._resting[at]

    def _tell(self) -> NoReturn:
        self._told = True
        at, error = next(iter(self._failed.items()))
        if at in self._resting:
            del self._failed[at]  # It may pass: if it does not, it is met again.
        raise error

    def _note_down(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
            self._down = Unavailable(f"Kafka cannot be reached: {error.str()}", hint="is it running?")

    def _watch(self) -> None:
        """Find out, without waiting, whether the topics are still the ones that were assigned."""
        if self._asked and all(answer.done() for answer in self._asked.values()):
            for topic, answer in self._asked.items():
                try:
                    same = topic not in self._topics or description(answer).id == self._topics[topic]
                except KafkaException as error:
                    same = error.args[0].code() not in UNKNOWN
                if not same:
                    self._fail(topic)
            self._asked = {}
        now_s = self._cluster.clock.monotonic_s()
        if not self._asked and self._topics and now_s >= self._check_s:
            self._check_s = now_s + CHECK_S
            self._asked = self._cluster.ask(self._topics)

    def _fail(self, topic: str) -> None:
        self._cluster.forget(topic)
        self._failed.update({at: _deleted(topic) for at in self._next if at[0] == topic})


class _MessageRun(Run):
    """Messages of one partition, at least one unless it was cut out of another run."""

    __slots__ = ("_messages", "_partition", "_topic")

    def __init__(self, topic: str, partition: int, messages: list[Message[bytes, bytes]]) -> None:
        self._topic = topic
        self._partition = partition
        self._messages = messages

    @property
    def next_offset(self) -> int:
        """Offset after the last entry."""
        return int(self._messages[-1].offset() or 0) + 1

    @property
    def payloads(self) -> Sequence[bytes]:
        values: Any = list(map(Message.value, self._messages))
        found: list[bytes] = values
        return found

    def entries(self) -> list[Entry]:
        """All of them at once."""
        columns: Any = [list(map(field, self._messages)) for field in (Message.offset, Message.value)]
        offsets, values = columns
        times = map(_time, map(Message.timestamp, self._messages))
        return list(map(_entry, zip(repeat(self._topic), repeat(self._partition), offsets, times, values, strict=False)))

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> _MessageRun: ...
    def __getitem__(self, index: int | slice) -> Entry | _MessageRun:
        if isinstance(index, slice):
            return _MessageRun(self._topic, self._partition, self._messages[index])
        message = self._messages[index]
        return Entry(self._topic, self._partition, int(message.offset() or 0), message.timestamp()[1], message.value() or b"")


def _by_partition(messages: list[Message[bytes, bytes]]) -> dict[Partition, list[Message[bytes, bytes]]]:
    if not messages:
        return {}
    partitions, topics = list(map(Message.partition, messages)), list(map(Message.topic, messages))
    if partitions.count(partitions[0]) == len(messages) == topics.count(topics[0]):
        # Kafka answers partition by partition, so a reader that is behind gets long runs of one.
        return {(str(topics[0]), int(partitions[0] or 0)): messages}
    found: dict[Partition, list[Message[bytes, bytes]]] = {}
    for topic, partition, message in zip(topics, partitions, messages, strict=True):
        found.setdefault((str(topic), int(partition or 0)), []).append(message)
    return found


def _deleted(topic: str) -> NotFound:
    return NotFound(f"topic {topic!r} was deleted", hint="unassign its partitions from this reader", topic=topic)
