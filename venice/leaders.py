"""The partitions one process leads: sessions begun, real-time topics read, merged records appended.

Write path: producer → real-time topic → **leaders** → version topic → ingest → storage. One thread drives a `LeaderSet`, the
one that drives the `ReplicaSet` beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from venice.clock import Clock
from venice.dead_letter import DeadLetters
from venice.errors import Corrupt, InvalidRequest, NotFound, Unavailable, VeniceError
from venice.faults import FaultLedger
from venice.lag import Ends, Lag, LagMeter
from venice.leader import Leader, Standing
from venice.leading import LAG_S, PROGRESS_S, Leading, Led
from venice.log import PAYLOAD_BYTES_MAX, Appending, Batch, Entry, Log, Reader, by_partition
from venice.model import Fault
from venice.naming import real_time_topic, version_topic
from venice.replicas import ReplicaSet
from venice.storage.packed import packing_of
from venice.telemetry import log_event

APPENDS_MAX = 8
"""Appends under way: what merging goes on beside. Each is of no more than `MERGE_RECORDS_MAX` writes and some marks."""

MERGE_RECORDS_MAX = 500
"""Real-time records merged at a time, per version."""


@dataclass(frozen=True, slots=True)
class Merged:
    """Version-topic payloads of one partition, to append in order."""

    name: str
    session: int
    topic: str
    partition: int
    payloads: Sequence[bytes]


@dataclass(slots=True)
class _Stream:
    """The real-time topic as one version reads it: partitions may lie at other offsets than for another version."""

    reader: Reader
    sessions: dict[int, Leading] = field(default_factory=dict)
    """By partition of the version."""


class LeaderSet:
    """All leaders of one process.

    Args:
        replicas: The replicas that lead; a partition is led once its replica is attached.
        log: Where the topics are.
        clock: For pauses and the times of marks.
        sessions: Makes a new session number at each call: positive, below 2⁶⁴, never repeated.
        faults: Where records that cannot be merged are counted.
        is_registered: Whether a store has a value schema of an id, as the newest catalog says; may raise Unavailable.
        value_bytes_max: Largest value that a store takes now.
        heartbeat_s: Between the heartbeats of a partition to which nothing is written.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        log: Log,
        *,
        clock: Clock,
        sessions: Callable[[], int],
        faults: FaultLedger | None = None,
        is_registered: Callable[[str, int], bool] = lambda store, schema_id: True,
        value_bytes_max: Callable[[str], int] = lambda store: PAYLOAD_BYTES_MAX,
        heartbeat_s: float = 30.0,
    ) -> None:
        self._replicas = replicas
        self._log = log
        self._clock = clock
        self._new_session = sessions
        self._faults = faults or FaultLedger(clock)
        self._is_registered = is_registered
        self._value_bytes_max = value_bytes_max
        self._heartbeat_s = heartbeat_s
        self._dead_letters = DeadLetters(log)
        self._wanted: Mapping[str, Led] = {}
        self._settled: Mapping[str, Led] | None = None
        """What was wanted when all of it was last seen to be led; None: there is something to begin or to end."""
        self._sessions: dict[str, Leading] = {}
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._retry_at_s: dict[str, float] = {}
        self._appending: deque[tuple[list[Leading], Appending]] = deque()
        self._ends: Ends = {}
        self._ends_until_s = 0.0
        """How long the ends are taken to be those of now."""

    @property
    def leads(self) -> bool:
        """Whether there is any session."""
        return bool(self._sessions)

    def want(self, led: Iterable[Led]) -> None:
        """From now on, lead exactly these partitions. From any thread; takes effect at the next `poll`."""
        self._wanted = {one.name: one for one in led}

    def poll(self) -> list[tuple[str, int, list[Entry]]]:
        """Begin and end sessions as wanted, and read what the real-time topics have; never waits.

        Returns:
            (replica name, region, entries of one real-time partition in offset order); no entries where only marks are due.
        """
        self._hear()
        now_s = self._clock.monotonic_s()
        if self._settled is not self._wanted:
            self._reconcile(self._wanted, now_s)
        batches = [batch for key in list(self._streams) for batch in self._read(key)]
        return batches + [(name, s.led.region, []) for name, s in self._sessions.items() if now_s >= s.due_s and s.reading]

    def _reconcile(self, wanted: Mapping[str, Led], now_s: float) -> None:
        for name in [name for name, session in self._sessions.items() if not _is_same(session.led, wanted.get(name))]:
            self._end(name)
        for name, led in wanted.items():
            session = self._sessions.get(name)
            if session is None:
                self._begin(led, now_s)
            elif not session.reading:
                self._follow_declaration(session)
        if len(self._sessions) == len(wanted) and all(session.reading for session in self._sessions.values()):
            self._settled = wanted

    def merge(self, name: str, region: int, entries: Sequence[Entry]) -> Merged | None:
        """Merge entries that `poll` returned, and add the marks that are due; None if there is nothing to append.

        Everything of a partition goes through here, so that its records are appended in the order of their sequence.
        """
        session = self._sessions.get(name)
        if session is None or not session.reading or not self._leads(session):
            return None
        led = session.led
        leader = session.leader
        try:
            payloads = leader.opening() + leader.merge(region, entries)
            if leader.poison:
                self._set_aside(session)
            payloads += session.marks(
                self._clock.monotonic_s(),
                self._clock.now_ms(),
                busy=bool(payloads),
                pause_max_s=self._heartbeat_s,
                ends=partial(self._ends_of, session),
            )
        except Corrupt as error:
            self._fail(session, error)
            self._replicas.condemn(led.store, led.version.number, led.partition)
            return None
        except VeniceError as error:  # The replica was closed under the merge, for a corrupt block; or the log does not answer.
            self._fail(session, error)
            return None
        if entries:
            session.read_ms[entries[-1].topic, entries[-1].partition] = entries[-1].timestamp_ms
        if not payloads:
            return None
        return Merged(name, session.number, version_topic(led.store, led.version.number), led.partition, payloads)

    def _ends_of(self, session: Leading) -> Ends:
        """The ends of what a session merges. All sessions that have not caught up are told of at once: asking takes its time, and
        nothing is merged meanwhile."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._ends_until_s or not self._ends.keys() >= set(session.sources):
            waiting = {at for one in self._sessions.values() if one.reading and not one.caught_up for at in one.sources}
            try:
                self._ends = self._log.end_offsets(waiting | set(session.sources))
            except VeniceError:  # Of another store's topics, perhaps: those say nothing about this one.
                self._ends = self._log.end_offsets(session.sources)
            self._ends_until_s = self._clock.monotonic_s() + LAG_S
        return self._ends

    def _set_aside(self, session: Leading) -> None:
        """Keep what cannot be merged on the dead-letter topic, byte for byte, for whoever finds out what it is."""
        poison, led = session.leader.poison, session.led
        try:
            self._dead_letters.keep(led.store, poison)
        except VeniceError as error:
            raise Unavailable(f"records of {poison[0].topic} that cannot be merged cannot be set aside: {error}") from error
        for letter in poison:
            self._faults.add(led.name, "real_time", letter.fault, topic=letter.topic, partition=letter.partition, offset=letter.offset)
        poison.clear()

    def append(self, merged: Sequence[Merged]) -> None:
        """Append what was merged, all of it at once. If the log does not take it the session ends, and another one merges it again.

        That holds for what is missing without a word, too: the replicas, and the leader, stand still at a hole in a session.
        So nobody waits here for the log to acknowledge it, unless much is under way.
        """
        sessions = [self._sessions.get(one.name) for one in merged]
        live = [(s, one) for s, one in zip(sessions, merged, strict=True) if s is not None and s.number == one.session]
        if live:
            appending = self._log.append_batches([Batch(one.topic, one.partition, one.payloads) for _, one in live])
            self._appending.append(([session for session, _ in live], appending))
        self._hear()

    def _hear(self) -> None:
        """Take note of appends that are done, and wait for the oldest until few enough are under way."""
        while self._appending and (len(self._appending) > APPENDS_MAX or self._appending[0][1].is_done):
            sessions, appending = self._appending.popleft()
            for session, refusal in zip(sessions, appending.refusals(), strict=True):
                if refusal is not None and self._sessions.get(session.led.name) is session:
                    self._fail(session, refusal)

    def sources(self) -> list[tuple[str, int]]:
        """(topic, partition) of everything that is merged here: what `look` wants the ends of. From any thread."""
        return [at for session in list(self._sessions.values()) if session.reading for at in session.sources]

    def look(self, now_ms: int, ends: Ends) -> None:
        """Take note how far each leader is behind `ends`, which were asked for at `now_ms`. From any thread, one at a time."""
        for session in list(self._sessions.values()):
            if session.reading:
                session.look(now_ms, ends)

    def lag(self, name: str) -> Lag | None:
        """How far a leader is behind, as of the last look; None if the partition is not led here. From any thread."""
        session = self._sessions.get(name)
        return session.lag if session is not None else None

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
        try:
            packing = packing_of(version)
        except VeniceError as error:  # tried again after the pause
            log_event("leader_failed", replica=led.name, reason=str(error))
            return
        number = self._new_session()
        leader = Leader(
            fold,
            partition_count=version.partition_count,
            term=led.term,
            session=number,
            start={
                (start.region, start.partition): start.next_offset
                for start in version.start_offsets
                if start.partition in led.real_time_partitions
            },
            is_registered=partial(self._is_registered, led.store),
            packing=packing,
            value_bytes_max=partial(self._value_bytes_max, led.store),
        )
        try:
            self._log.append(version_topic(led.store, version.number), led.partition, [leader.declaration(self._clock.now_ms())])
        except VeniceError:
            return  # tried again after the pause
        self._sessions[led.name] = Leading(led, leader, number, LagMeter(version.created_ms))

    def _follow_declaration(self, session: Leading) -> None:
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
        log_event("leader_started", replica=led.name, term=led.term)

    def _assign(self, stream: _Stream, led: Led) -> None:
        """Read each of the partition's real-time partitions from the least offset any session of the stream needs."""
        topic = real_time_topic(led.store)
        for partition in led.real_time_partitions:
            needed = {
                session.led.name: session.leader.offsets.get((session.led.region, partition), 0)
                for session in stream.sessions.values()
                if partition in session.led.real_time_partitions
            }
            start = self._log.start_offset(topic, partition)
            stream.reader.assign(topic, partition, max(min(needed.values()), start))
            if needed[led.name] < start:
                lost = start - needed[led.name]
                self._faults.add(led.name, "real_time", Fault.MISSING, topic=topic, partition=partition, offset=start, count=lost)

    def _read(self, key: tuple[str, int]) -> list[tuple[str, int, list[Entry]]]:
        stream = self._streams[key]
        try:
            entries = stream.reader.poll(records_max=MERGE_RECORDS_MAX)
        except (Unavailable, NotFound):
            return []  # positions are kept; a deleted topic goes with its store
        except Corrupt as error:  # positions are kept: what cannot be read is not passed over
            log_event("leader_failed", replica=real_time_topic(key[0]), reason=str(error))
            return []
        except InvalidRequest:  # What was to be read was deleted: what is left is merged, what is lost is counted.
            for session in stream.sessions.values():
                with suppress(VeniceError):
                    self._assign(stream, session.led)
            return []
        return [
            (session.led.name, session.led.region, batch)
            for (_, partition), batch in by_partition(entries).items()
            for session in stream.sessions.values()
            if partition in session.led.real_time_partitions
        ]

    def _leads(self, session: Leading) -> bool:
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

    def _fail(self, session: Leading, error: VeniceError) -> None:
        """End a session that the log let down; another one begins after a pause, from what was folded of this one."""
        log_event("leader_failed", replica=session.led.name, reason=str(error))
        self._end(session.led.name)

    def _end(self, name: str) -> None:
        session = self._sessions.pop(name)
        self._settled = None
        key = (session.led.store, session.led.version.number)
        stream = self._streams.get(key)
        if stream is None or stream.sessions.pop(session.led.partition, None) is None:
            return
        if not stream.sessions:
            stream.reader.close()
            del self._streams[key]


def _is_same(led: Led, wanted: Led | None) -> bool:
    """Whether a session goes on: a version whose status changes, at its swap, is led as before."""
    return wanted is not None and (led.term, led.region, led.version.topic_id) == (wanted.term, wanted.region, wanted.version.topic_id)
