"""The log: topics of partitions of records, appended and read in order.

One protocol, several drivers (`sqlite`, `kafka`); `venice.log.open.open_log` chooses by URL. A payload is opaque bytes
(`venice/record.py` gives it meaning). Offsets name the *next* record to read; they start at 0, only grow and are never
reused, not even after a prefix was deleted. Gaps are allowed: a reader takes the offset each entry carries.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, Protocol

from venice.errors import VeniceError

PAYLOAD_BYTES_MAX = 16 * 1024 * 1024
"""Largest payload a log takes: the largest value a store may allow by default, its metadata and more."""

PARTITIONS_MAX = 10_000
"""Most partitions a topic can have."""


class Entry(NamedTuple):
    """One record as the log holds it. A tuple, because a reader makes hundreds of thousands of them a second."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """When the log accepted the record (`LogAppendTime`); never smaller than the one before it in its partition."""
    payload: bytes


class Run(Sequence[Entry]):
    """Entries of one partition, ascending, as their reader was given them: each is made when it is asked for.

    Who needs nothing but what they carry takes `payloads`, at a fraction of the price.
    """

    @property
    @abstractmethod
    def payloads(self) -> Sequence[bytes]:
        """Of each entry, in their order."""


def payloads(entries: Sequence[Entry]) -> Sequence[bytes]:
    """What the entries carry, in their order."""
    return entries.payloads if isinstance(entries, Run) else [entry.payload for entry in entries]


_PLACE = itemgetter(0, 1)


def by_partition(entries: Iterable[Entry]) -> dict[tuple[str, int], list[Entry]]:
    """(topic, partition) → its entries, in their order. Readers return long runs of one partition, which makes this cheap."""
    found: dict[tuple[str, int], list[Entry]] = {}
    for place, run in groupby(entries, _PLACE):
        if place in found:
            found[place].extend(run)
        else:
            found[place] = list(run)
    return found


class Batch(NamedTuple):
    """Payloads for one partition, in order."""

    topic: str
    partition: int
    payloads: Sequence[bytes]


class Appending(Protocol):
    """Batches on their way into the log."""

    @property
    def is_done(self) -> bool:
        """Whether `refusals` would answer at once."""
        ...

    def refusals(self) -> list[VeniceError | None]:
        """Wait, and say for each batch None once its last record is acknowledged, or the error of `Log.append`."""
        ...


class Reader(Protocol):
    """A tailing reader of explicitly assigned partitions. One thread at a time."""

    def assign(self, topic: str, partition: int, offset: int) -> None:
        """Read this partition from `offset` on; assigning again seeks.

        Raises:
            NotFound: No such topic or partition.
            InvalidRequest: `offset` lies before the first kept record, or past the end: nothing is ever skipped silently.
        """
        ...

    def unassign(self, topic: str, partition: int) -> None:
        """Stop reading the partition; unknown ones are ignored."""
        ...

    def position(self, topic: str, partition: int) -> int:
        """Offset of the next entry `poll` will return for the partition."""
        ...

    def poll(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> list[Entry]:
        """Up to `records_max` entries, ordered within each partition, partitions served in turn.

        Returns at once when anything is there, after `timeout_s` with `[]` otherwise.

        Raises:
            NotFound: A topic was deleted under the reader.
            InvalidRequest: The position was overtaken by `delete_prefix`.
            Unavailable: The log cannot be reached; positions are kept, call again.
        """
        ...

    def poll_runs(self, *, records_max: int = 1000, timeout_s: float = 0.0) -> Mapping[tuple[str, int], Sequence[Entry]]:
        """As `poll`, by (topic, partition): what a fold takes them as. A driver may leave them as they came (`Run`)."""
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """Topics and their records. Safe to share between threads; several processes may open the same log."""

    def create_topic(self, topic: str, partitions: int) -> str:
        """Create the topic and return its id; an existing topic with as many partitions is returned as it is.

        Raises:
            Conflict: It exists with another number of partitions.
        """
        ...

    def delete_topic(self, topic: str) -> None:
        """Delete the topic and its records; a missing one is ignored."""
        ...

    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        ...

    def topic_id(self, topic: str) -> str:
        """Identity of the topic: another one after it was deleted and created again. Raises NotFound."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises NotFound."""
        ...

    def append(self, topic: str, partition: int, payloads: Sequence[bytes]) -> list[int]:
        """Append in order and return each record's offset once all are acknowledged.

        Acknowledged means: they survive a SIGKILL of any process. On an error some may have been appended all the same.

        Raises:
            NotFound: No such topic or partition.
            InvalidRequest: A payload is larger than the log takes; nothing was appended.
            Full: The disk is full; nothing was appended.
            Unavailable: The log cannot be reached.
        """
        ...

    def append_batches(self, batches: Sequence[Batch]) -> Appending:
        """Begin to append batches to several partitions, for whoever numbers records so that readers notice a missing one.

        Batches of a partition are appended in the order of the calls. In a batch of which the last record is acknowledged
        an earlier one may be missing all the same, if the cluster refused only that; so may a batch before it.
        """
        ...

    def start_offset(self, topic: str, partition: int) -> int:
        """Offset of the first record kept (equals `end_offset` when there is none)."""
        ...

    def end_offset(self, topic: str, partition: int) -> int:
        """Offset that the next appended record will have."""
        ...

    def end_offsets(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """`end_offset` of many (topic, partition) in as few questions as can be; those that are not there are left out.

        Raises:
            Unavailable: The log cannot be reached.
        """
        ...

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int:
        """Offset of the first kept record accepted at or after `timestamp_ms`; `end_offset` if there is none."""
        ...

    def delete_prefix(self, topic: str, partition: int, before_offset: int) -> None:
        """Delete the records before `before_offset`; deleting what is gone already does nothing.

        Raises:
            InvalidRequest: `before_offset` lies past the end.
        """
        ...

    def reader(self, offsets: Mapping[tuple[str, int], int] | None = None) -> Reader:
        """A new reader, assigned to `offsets`: (topic, partition) → offset."""
        ...

    def close(self) -> None: ...
