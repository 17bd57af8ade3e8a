"""The streaming half: updates flow into the store while it serves, and a version pushed underneath loses none of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from venice.client.acknowledgement import Accepted
from venice.client.davinci import DaVinciClient
from venice.client.producer import Producer
from venice.client.thin import ThinClient
from venice.clock import SystemClock
from venice.config import Settings
from venice.control.remote import ControllerClient
from venice.errors import VeniceError
from venice.model import HybridConfig
from venice.quickstart.figures import now_ns, percentile, readable
from venice.quickstart.flights import LIVE, STORE, Flights, push_edition
from venice.quickstart.reading import LoopingReader, wait_until
from venice.quickstart.screen import Screen

UPDATES_PER_S = 1_000
TICK_S = 0.02
PROBE_S = 0.005
"""Pause after an update that was watched until it could be read."""
STREAM_S = 3.0
"""How long the stream runs before the push underneath begins, and again after the swap."""
READ_BACK_KEYS = 1_000
LAG_RECORDS_MAX = 20
"""The new version is swapped in once no partition is further behind the stream: what is left then is old for a moment."""

Row = dict[str, Any]


@dataclass
class LiveUpdates:
    """Writes updates at a steady rate from entering to leaving it, no flight twice: delays of flights that were pushed, and
    flights that no push has ever seen, in turn. Some are watched from their acknowledgement until the router answers them."""

    producer: Producer
    watcher: ThinClient
    pushed: Mapping[str, Row]
    """Key → row: what is updated, and what new flights are made after."""
    written: list[tuple[str, Row, Future[Accepted]]] = field(default_factory=list)
    waited_ns: list[int] = field(default_factory=list)
    """Acknowledged → readable, of each watched update."""
    error: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._changes = _changes(self.pushed)
        self._lock = threading.Lock()

    def __enter__(self) -> LiveUpdates:
        self._threads = [threading.Thread(target=self._until_stopped, args=(work,)) for work in (self._write, self._watch)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.producer.flush()

    @property
    def acknowledged(self) -> dict[str, Row]:
        """What the log has taken: whatever the readers are promised."""
        return {key: row for key, row, done in list(self.written) if done.done() and done.exception() is None}

    def _until_stopped(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the stream is judged
            self.error = error
            self._stop.set()

    def _write(self) -> None:
        clock = SystemClock()
        started_s, count = clock.monotonic_s(), 0
        while not self._stop.wait(TICK_S):
            # As many as are due by now: a tick that came late is made up for.
            for _ in range(int((clock.monotonic_s() - started_s) * UPDATES_PER_S) - count):
                self._put()
                count += 1

    def _watch(self) -> None:
        while not self._stop.wait(PROBE_S):
            key, row, done = self._put()
            done.result()
            acknowledged_ns = now_ns()
            wait_until(lambda: self.watcher.get(key) == row, f"the update of {key}")  # noqa: B023 - waited for right here
            self.waited_ns.append(now_ns() - acknowledged_ns)

    def _put(self) -> tuple[str, Row, Future[Accepted]]:
        with self._lock:
            key, row = next(self._changes)
            one = (key, row, self.producer.put(key, row))
            self.written.append(one)
        return one


def _changes(pushed: Mapping[str, Row]) -> Iterator[tuple[str, Row]]:
    known = list(pushed.items())
    for number in itertools.count():
        key, row = known[number % len(known)]
        if number < len(known) and number % 2:
            yield key, {**row, "edition": LIVE, "dep_delay": number, "arr_delay": number + 1}
        else:
            yield f"live-{number}", {**row, "edition": LIVE, "dep_delay": None, "arr_delay": None, "air_time": None, "flight": number}


@dataclass(frozen=True, slots=True)
class _Outcome:
    updates: int
    before_push: int
    watched_before_push: int
    version: int
    answered_by: set[int]
    missing: dict[str, int]
    """Updates that cannot be read, by client."""


def stream(
    screen: Screen,
    settings: Settings,
    controller: ControllerClient,
    flights: Flights,
    davinci: DaVinciClient,
    keys: Sequence[str],
) -> None:
    """All steps: make the store hybrid, stream, push underneath, and read every acknowledged update back from the new version."""
    clock = SystemClock()
    with screen.step(f"let {STORE} take live updates") as said:
        controller.update_store(STORE, hybrid=HybridConfig(lag_records_max=LAG_RECORDS_MAX))
        said.append(f"{STORE} is a hybrid store now: versions pushed from here on replay its live updates")
    serving = push_edition(screen, settings, flights, 3).version
    with (
        ThinClient(settings.router_url, STORE) as thin,
        ThinClient(settings.router_url, STORE) as watcher,
        Producer(settings, STORE) as producer,
    ):
        pushed = davinci.batch_get(keys)
        with LoopingReader(thin, keys, pause_s=0.01) as reader:
            with LiveUpdates(producer, watcher, pushed) as live:
                with screen.step(f"stream {UPDATES_PER_S:,} live updates a second into it while it serves") as said:
                    clock.sleep(STREAM_S)
                    before_push, watched = len(live.acknowledged), len(live.waited_ns)
                    said.append(f"live updates are streaming into version {serving}, {before_push:,} are acknowledged so far")
                version = push_edition(screen, settings, flights, 4, " underneath the stream").version
                assert version is not None, "only a dry run makes no version"
                with screen.step("go on streaming, into the new version now"):
                    wait_until(lambda: davinci.version == version, "the Da Vinci client to swap")
                    clock.sleep(STREAM_S)
            with screen.step("read every update back, from the router and from the Da Vinci client"):
                expected = _judged(live)
                missing = {"router": _read_back(thin, expected), "Da Vinci client": _read_back(davinci, expected)}
        outcome = _Outcome(len(expected), before_push, watched, version, {thin.last_version, davinci.version}, missing)
    _verdict(screen, live, reader, outcome)


def _judged(live: LiveUpdates) -> dict[str, Row]:
    """What was acknowledged; the stream must have run to its end."""
    if isinstance(live.error, VeniceError):
        raise live.error
    assert live.error is None, f"the stream broke off: {live.error!r}"
    expected = live.acknowledged
    assert len(expected) == len(live.written), f"{len(live.written) - len(expected)} updates were not acknowledged"
    return expected


def _read_back(client: ThinClient | DaVinciClient, expected: Mapping[str, Row]) -> int:
    """How many updates cannot be read; the last ones are given the moment they need."""
    keys = list(expected)
    for start in range(0, len(keys), READ_BACK_KEYS):
        part = {key: expected[key] for key in keys[start : start + READ_BACK_KEYS]}
        try:
            wait_until(lambda: client.batch_get(part) == part, f"{len(part)} updates")  # noqa: B023 - waited for right here
        except AssertionError:
            found = client.batch_get(keys)
            return sum(found.get(key) != row for key, row in expected.items())
    return 0


def _verdict(screen: Screen, live: LiveUpdates, reader: LoopingReader, outcome: _Outcome) -> None:
    lost = sum(outcome.missing.values())
    kept = not lost and outcome.answered_by == {outcome.version}
    screen.verdict(
        kept,
        f"stream: {outcome.updates:,} updates acknowledged, {outcome.updates - lost:,} read back from version {outcome.version}",
        f" ({outcome.before_push:,} of them were made before its push began)",
    )
    good = not reader.failed and not reader.mixed and reader.editions == [3, 4]
    screen.verdict(
        good,
        f"reads meanwhile: {len(reader.failed)} failed, {reader.mixed} mixed of {reader.reads:,}",
        f" (versions seen in order: {reader.editions})",
    )
    watched = outcome.watched_before_push
    for when, waited in (("", live.waited_ns[:watched]), (" under push and swap", live.waited_ns[watched:])):
        ascending = sorted(waited)
        screen.console.print(
            f"     freshness{when}, acknowledged → readable through the router: p50 {readable(percentile(ascending, 50))},"
            f" p99 {readable(percentile(ascending, 99))} of {len(ascending)} watched updates"
        )
    assert kept, f"updates that cannot be read: {outcome.missing}, versions that answered: {outcome.answered_by}"
    assert good, f"reads failed: {reader.failed[:3]}, versions seen: {reader.editions}"
