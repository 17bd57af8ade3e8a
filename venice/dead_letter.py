"""Records that were set aside: on the store's dead-letter topic, byte for byte, with where they stood and why.

Write path: producer → real-time topic → leader → **dead letter**. A letter is kept before anything that covers its record is
appended, so that no record is ever dropped without one. The same record may be kept several times: by a leader that was
killed in between, and by the leaders of another version of the store; where it stood tells that it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from venice import record as log_record
from venice.errors import Corrupt
from venice.log import PAYLOAD_BYTES_MAX, Entry, Log
from venice.model import Fault
from venice.naming import dead_letter_topic
from venice.record import Kind, Record

PART_BYTES = PAYLOAD_BYTES_MAX // 2
"""Of a record that with its letter around it would be larger than a log takes, so much at a time."""

REMEMBERED = 10_000
"""Records set aside lately that are not set aside again by the same process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that was set aside."""

    topic: str
    """Where it stood."""
    partition: int
    offset: int
    region: int
    timestamp_ms: int
    """When the log took it."""
    fault: Fault
    reason: str
    """For people."""
    payload: bytes
    """The record as it came."""


def encode_letter(letter: DeadLetter) -> list[bytes]:
    """What to append, in order: one payload, or several for a very large record. Each names its part (term) and how many follow."""
    key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
    metadata = f"{letter.fault.value}: {letter.reason}".encode()
    parts = [letter.payload[at : at + PART_BYTES] for at in range(0, len(letter.payload), PART_BYTES)] or [b""]
    return [
        log_record.encode(
            Record(
                Kind.DEAD_LETTER,
                key=key,
                value=part,
                timestamp_ms=letter.timestamp_ms,
                region=letter.region,
                metadata=metadata,
                term=number,
                sequence=len(parts) - 1 - number,
            )
        )
        for number, part in enumerate(parts)
    ]


def decode_letters(entries: Iterable[Entry]) -> Iterator[tuple[int, DeadLetter]]:
    """(offset of its last part, letter) of what a dead-letter topic holds, in order; parts whose others are missing are passed over.

    Raises:
        Corrupt: The topic holds something else.
    """
    parts: dict[bytes, list[bytes]] = {}
    for entry in entries:
        record = log_record.decode(entry.payload)
        try:
            topic, partition, offset = record.key.decode().rsplit("/", 2)
            fault, _, reason = record.metadata.decode().partition(": ")
            found = {"partition": int(partition), "offset": int(offset)}
            if record.kind is not Kind.DEAD_LETTER:
                raise ValueError(record.kind.name)
            letter_fault = Fault(fault)
        except ValueError as error:
            raise Corrupt(f"{entry.topic}[{entry.partition}] offset {entry.offset} is no dead letter: {error}") from error
        if record.term == 0:
            parts[record.key] = []
        so_far = parts.setdefault(record.key, [])
        so_far.append(record.value)
        if len(so_far) != record.term + 1:
            del parts[record.key]
        elif record.sequence == 0:
            payload = b"".join(parts.pop(record.key))
            yield (
                entry.offset,
                DeadLetter(
                    topic=topic, **found, region=record.region, timestamp_ms=record.timestamp_ms,
                    fault=letter_fault, reason=reason, payload=payload,
                ),
            )  # fmt: skip


class DeadLetters:
    """The dead-letter topics of a process's stores. One thread at a time."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._kept: dict[tuple[str, int, int], None] = {}

    def keep(self, store: str, letters: Sequence[DeadLetter]) -> None:
        """Append those that this process has not kept yet. When it returns, they survive.

        Raises:
            VeniceError: The log does not take them: nothing that covers their records may be appended.
        """
        fresh = {(letter.topic, letter.partition, letter.offset): letter for letter in letters}
        payloads = [payload for at, letter in fresh.items() if at not in self._kept for payload in encode_letter(letter)]
        if not payloads:
            return
        topic = dead_letter_topic(store)
        self._log.create_topic(topic, 1)
        self._log.append(topic, 0, payloads)
        self._kept.update(dict.fromkeys(fresh))
        while len(self._kept) > REMEMBERED:
            del self._kept[next(iter(self._kept))]
