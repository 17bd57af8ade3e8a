"""The partitions one process leads: sessions begun, real-time topics read, merged records appended.

Write path: producer → real-time topic → **leaders** → version topic → ingest → storage. One thread drives a `LeaderSet`, the
one that drives the `ReplicaSet` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from venice.clock import Clock
from venice.errors import Corrupt, NotFound, Unavailable, VeniceError
from venice.leader import Leader, Standing, real_time_partitions
from venice.log import Entry, Log, Reader
from venice.model import Version
from venice.naming import dead_letter_topic, real_time_topic, replica_name, version_topic
from venice.replicas import ReplicaSet
from venice.telemetry import log_event

MERGE_RECORDS_MAX = 500
"""Real-time records merged at a time, per version."""

LAG_S = 0.1
"""How often the lag of a leader that has not caught up is looked at."""

PROGRESS_S = 1.0
"""How often inputs that changed nothing are covered by a mark, and how long a refused session waits for its next try."""


@dataclass(frozen=True, slots=True)
class Led:
    """A partition this process should lead, in its own region."""

    store: str
    version: Version
    partition: int
    term: int
    region: int

    @property
    def name(self) -> str:
        return replica_name(self.store, self.version.number, self.partition)


@dataclass(frozen=True, slots=True)
class Merged:
    """Version-topic payloads of one partition, to append in order."""

    name: str
    session: int
    topic: str
    partition: int
    payloads: Sequence[bytes]


@dataclass(slots=True)
class _Session:
    led: Led
    leader: Leader
    number: int
    reading: bool = False
    caught_up: bool = False
    looked_s: float = 0.0


@dataclass(slots=True)
class _Stream:
    """The real-time topic as one version reads it: partitions may lie at other offsets than for another version."""

    reader: Reader
    sessions: dict[int, _Session] = field(default_factory=dict)
    """By partition of the version."""


class LeaderSet:
    """All leaders of one process.

    Args:
        replicas: The replicas that lead; a partition is led once its replica is attached.
        log: Where the topics are.
        clock: For pauses and the times of marks.
        sessions: Makes a new session number at each call: positive, below 2⁶⁴, never repeated.
    """

    def __init__(self, replicas: ReplicaSet, log: Log, *, clock: Clock, sessions: Callable[[], int]) -> None:
        self._replicas = replicas
        self._log = log
        self._clock = clock
        self._new_session = sessions
        self._wanted: Mapping[str, Led] = {}
        self._sessions: dict[str, _Session] = {}
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._retry_at_s: dict[str, float] = {}

    def want(self, led: Iterable[Led]) -> None:
        """From now on, lead exactly these partitions. From any thread; takes effect at the next `poll`."""
        self._wanted = {one.name: one for one in led}

    def poll(self) -> list[tuple[str, int, list[Entry]]]:
        """Begin and end sessions as wanted, and read what the real-time topics have; never waits.

        Returns:
            (replica name, region, entries of one real-time partition in offset order); no entries where only marks are due.
        """
        wanted = self._wanted
        now_s = self._clock.monotonic_s()
        for name in [name for name, session in self._sessions.items() if not _is_same(session.led, wanted.get(name))]:
            self._end(name)
        for name, led in wanted.items():
            session = self._sessions.get(name)
            if session is None:
                self._begin(led, now_s)
            elif not session.reading:
                self._follow_declaration(session, now_s)
        batches = [batch for key in list(self._streams) for batch in self._read(key)]
        return batches + [(name, s.led.region, []) for name, s in self._sessions.items() if s.reading and _is_due(s, now_s)]

    def merge(self, name: str, region: int, entries: Sequence[Entry]) -> Merged | None:
        """Merge entries that `poll` returned, and add the marks that are due; None if there is nothing to append.

        Everything of a partition goes through here, so that its records are appended in the order of their sequence.
        """
        session = self._sessions.get(name)
        if session is None or not session.reading or not self._leads(session):
            return None
        led = session.led
        try:
            payloads = session.leader.merge(region, entries) + self._marks(session)
        except Corrupt as error:
            self._fail(session, error)
            self._replicas.condemn(led.store, led.version.number, led.partition)
            return None
        except Unavailable as error:  # The replica was closed under the merge: a reader has found a corrupt block in it.
            self._fail(session, error)
            return None
        self._set_aside(session)
        if not payloads:
            return None
        return Merged(name, session.number, version_topic(led.store, led.version.number), led.partition, payloads)

    def _set_aside(self, session: _Session) -> None:
        """Keep what could not be read on the dead-letter topic, byte for byte, for whoever finds out what it is."""
        poison = session.leader.poison
        if not poison:
            return
        topic = dead_letter_topic(session.led.store)
        try:
            self._log.create_topic(topic, 1)
            offsets = self._log.append(topic, 0, [entry.payload for _, entry in poison])
        except Unavailable:
            return  # kept, and tried again with the next batch
        for (region, entry), offset in zip(poison, offsets, strict=True):
            log_event("record_refused", topic=entry.topic, region=region, partition=entry.partition, offset=entry.offset, kept_at=offset)
        poison.clear()

    def _marks(self, session: _Session) -> list[bytes]:
        """Inputs that changed nothing, and that a leader has caught up: said when it is time to look."""
        now_s = self._clock.monotonic_s()
        if not _is_due(session, now_s):
            return []
        session.looked_s = now_s
        hybrid = session.led.version.hybrid
        assert hybrid is not None, "only hybrid versions have leaders"
        now_ms = self._clock.now_ms()
        marks = session.leader.progress(now_ms)
        if not session.caught_up:
            # Asking the log takes its time, so this thread does it only until then.
            lag_records = self._lag(session)
            if lag_records is not None and lag_records <= hybrid.lag_records_max:
                session.caught_up = True
                marks += session.leader.caught_up(now_ms)
        return marks

    def append(self, merged: Merged) -> None:
        """Append what was merged. If the log does not take it the session ends, and another one merges it again."""
        session = self._sessions.get(merged.name)
        if session is None or session.number != merged.session:
            return
        try:
            self._log.append(merged.topic, merged.partition, merged.payloads)
        except VeniceError as error:
            self._fail(session, error)

    def lag(self, name: str) -> int | None:
        """Real-time records left to merge; None if the partition is not led here, or the log cannot say. From any thread."""
        session = self._sessions.get(name)
        return self._lag(session) if session is not None and session.reading else None

    def close(self) -> None:
        """Stop reading; what was merged and not appended is merged again by the next session."""
        for name in list(self._sessions):
            self._end(name)

    def _begin(self, led: Led, now_s: float) -> None:
        fold = self._replicas.fold_of(led.name)
        if fold is None or fold.storage.position.term > led.term or now_s < self._retry_at_s.get(led.name, 0.0):
            return
        self._retry_at_s[led.name] = now_s + PROGRESS_S
        version = led.version
        number = self._new_session()
        leader = Leader(
            fold,
            partition_count=version.partition_count,
            term=led.term,
            session=number,
            start={
                (start.region, start.partition): start.next_offset for start in version.start_offsets if self._reads(led, start.partition)
            },
        )
        try:
            self._log.append(version_topic(led.store, version.number), led.partition, [leader.declaration(self._clock.now_ms())])
        except VeniceError:
            return  # tried again after the pause
        self._sessions[led.name] = _Session(led, leader, number)

    def _follow_declaration(self, session: _Session, now_s: float) -> None:
        if not self._leads(session):
            return
        led = session.led
        key = (led.store, led.version.number)
        try:
            stream = self._streams.get(key)
            if stream is None:
                stream = self._streams[key] = _Stream(self._log.reader())
            stream.sessions[led.partition] = session
            self._assign(stream, led)
        except VeniceError as error:
            self._fail(session, error)
            return
        session.reading = True
        session.looked_s = now_s
        log_event("leader_started", replica=led.name, term=led.term)

    def _assign(self, stream: _Stream, led: Led) -> None:
        """Read each of the partition's real-time partitions from the least offset any session of the stream needs."""
        topic = real_time_topic(led.store)
        for partition in self._real_time_partitions(led):
            needed = [
                session.leader.offsets.get((session.led.region, partition), 0)
                for session in stream.sessions.values()
                if self._reads(session.led, partition)
            ]
            stream.reader.assign(topic, partition, max(min(needed), self._log.start_offset(topic, partition)))

    def _read(self, key: tuple[str, int]) -> list[tuple[str, int, list[Entry]]]:
        stream = self._streams[key]
        try:
            entries = stream.reader.poll(records_max=MERGE_RECORDS_MAX)
        except (Unavailable, NotFound):
            return []  # positions are kept; a deleted topic goes with its store
        by_partition: dict[int, list[Entry]] = {}
        for entry in entries:
            by_partition.setdefault(entry.partition, []).append(entry)
        return [
            (session.led.name, session.led.region, batch)
            for partition, batch in by_partition.items()
            for session in stream.sessions.values()
            if self._reads(session.led, partition)
        ]

    def _leads(self, session: _Session) -> bool:
        """Whether the session is accepted; one that is over is ended, and begun anew after a pause if still wanted."""
        fold = self._replicas.fold_of(session.led.name)
        if fold is None:
            self._end(session.led.name)
            return False
        standing = session.leader.standing
        if standing is Standing.FENCED:
            log_event("leader_fenced", replica=session.led.name, term=session.led.term)
            self._end(session.led.name)
        return standing is Standing.LEADING

    def _fail(self, session: _Session, error: VeniceError) -> None:
        """End a session that the log let down; another one begins after a pause, from what was folded of this one."""
        log_event("leader_failed", replica=session.led.name, reason=str(error))
        self._end(session.led.name)

    def _end(self, name: str) -> None:
        session = self._sessions.pop(name)
        key = (session.led.store, session.led.version.number)
        stream = self._streams.get(key)
        if stream is None or stream.sessions.pop(session.led.partition, None) is None:
            return
        if not stream.sessions:
            stream.reader.close()
            del self._streams[key]

    def _lag(self, session: _Session) -> int | None:
        topic = real_time_topic(session.led.store)
        offsets = session.leader.offsets
        try:
            return sum(
                max(0, self._log.end_offset(topic, partition) - offsets.get((session.led.region, partition), 0))
                for partition in self._real_time_partitions(session.led)
            )
        except (Unavailable, NotFound):
            return None

    @staticmethod
    def _real_time_partitions(led: Led) -> Sequence[int]:
        return real_time_partitions(led.partition, led.version.partition_count, led.version.real_time_partitions)

    def _reads(self, led: Led, partition: int) -> bool:
        return partition in self._real_time_partitions(led)


def _is_same(led: Led, wanted: Led | None) -> bool:
    """Whether a session goes on: a version whose status changes, at its swap, is led as before."""
    return wanted is not None and (led.term, led.region, led.version.topic_id) == (wanted.term, wanted.region, wanted.version.topic_id)


def _is_due(session: _Session, now_s: float) -> bool:
    return now_s - session.looked_s >= (PROGRESS_S if session.caught_up else LAG_S)
