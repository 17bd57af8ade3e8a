"""Who leads: the first replica that can, until it cannot; every change under a term that is larger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from control_kit import KEY_SCHEMA, VALUE_SCHEMA, Workers, make_policy, open_controller, seal_push

from venice.clock import ManualClock
from venice.control.controller import Controller
from venice.log.sqlite import SqliteLog
from venice.model import HybridConfig, Leadership, ReplicaReport, ReplicaState, StoreConfig

READY, FOLLOWING, ATTACHING, ERROR = ReplicaState.READY, ReplicaState.FOLLOWING, ReplicaState.ATTACHING, ReplicaState.ERROR


class Bench:
    """A controller, and the workers of two nodes that hold all partitions of a hybrid store."""

    def __init__(self, folder: Path, clock: ManualClock, partitions: int = 1) -> None:
        self.folder = folder
        self.clock = clock
        self.partitions = partitions
        self.log = SqliteLog(folder / "log", clock)
        self.controllers: list[Controller] = []
        self.restart()
        self.workers = Workers(self.log, clock, "a-0", "b-0")
        self.workers.report(self.controller)
        self.controller.tick()
        config = StoreConfig(partition_count=partitions, replication_factor=2)
        self.controller.create_store("s", key_schema=KEY_SCHEMA, value_schema=VALUE_SCHEMA, config=config, hybrid=HybridConfig())
        self.push()

    @property
    def controller(self) -> Controller:
        return self.controllers[-1]

    def restart(self) -> None:
        """A new life of the controller, which has heard nothing yet."""
        self.controllers.append(open_controller(self.log, self.clock, make_policy(self.folder), seed=len(self.controllers) + 1))

    def push(self) -> None:
        grant = self.controller.create_version("s", push_id=f"p{self.clock.now_ms()}")
        seal_push(self.controller, grant)

    def hear(self, **states: ReplicaState | None) -> Sequence[Leadership | None]:
        """Workers `a` and `b` report their replicas in this state (None: none); who leads after that."""
        for name, state in states.items():
            replicas = tuple(
                ReplicaReport(store="s", version=version.number, partition=partition, state=state)
                for version in self.controller.get_store("s").versions
                for partition in range(self.partitions)
                if state is not None
            )
            self.workers.send(self.workers.workers[f"{name}-0"], replicas)
        self.controller.tick()
        return self.leaders()

    def leaders(self, version: int = 1) -> Sequence[Leadership | None]:
        return self.controller.get_version("s", version).leaders

    @property
    def first(self) -> str:
        """The preferred worker of partition 0, as `hear` names it."""
        return self.controller.catalog.assignments["s", 1].replicas[0][0][0]

    @property
    def second(self) -> str:
        return "b" if self.first == "a" else "a"

    def close(self) -> None:
        for controller in self.controllers:
            controller.close()
        self.log.close()


@pytest.fixture
def bench(tmp_path: Path, clock: ManualClock) -> Iterator[Bench]:
    made = Bench(tmp_path, clock)
    yield made
    made.close()


def led_by(worker: str, term: int) -> tuple[Leadership, ...]:
    return (Leadership(worker=f"{worker}-0", term=term),)


def test_nobody_leads_before_a_replica_can(bench: Bench) -> None:
    assert bench.hear(a=None, b=ATTACHING) == ()
    assert bench.hear(a=ERROR, b=ATTACHING) == ()


def test_the_preferred_one_of_those_that_follow_leads(bench: Bench) -> None:
    assert bench.hear(a=FOLLOWING, b=FOLLOWING) == led_by(bench.first, 1)


def test_one_that_is_ready_is_preferred(bench: Bench) -> None:
    assert bench.hear(**{bench.first: FOLLOWING, bench.second: READY}) == led_by(bench.second, 1)


def test_a_leader_stays_though_a_better_one_comes(bench: Bench) -> None:
    assert bench.hear(**{bench.second: FOLLOWING}) == led_by(bench.second, 1)
    sequence = bench.controller.catalog.sequence
    assert bench.hear(**{bench.first: FOLLOWING}) == led_by(bench.second, 1)
    assert bench.controller.catalog.sequence == sequence, "nothing new, nothing written"
    assert bench.hear(a=READY, b=READY) == led_by(bench.second, 1)


@pytest.mark.parametrize("state", [ERROR, ATTACHING, None])
def test_one_that_cannot_lead_any_more_is_replaced(bench: Bench, state: ReplicaState | None) -> None:
    bench.hear(a=READY, b=READY)
    assert bench.hear(**{bench.first: state}) == led_by(bench.second, 2)
    assert bench.hear(**{bench.first: READY}) == led_by(bench.second, 2)
    assert bench.hear(**{bench.second: state}) == led_by(bench.first, 3)


def test_a_silent_leader_is_replaced_by_one_that_speaks(bench: Bench) -> None:
    bench.hear(a=READY, b=READY)
    bench.clock.advance(4)
    assert bench.hear(**{bench.second: READY}) == led_by(bench.first, 1)
    bench.clock.advance(2)
    assert bench.hear(**{bench.second: READY}) == led_by(bench.second, 2)


def test_with_nobody_to_follow_it_a_leader_keeps_its_term(bench: Bench) -> None:
    bench.hear(a=READY, b=READY)
    bench.clock.advance(6)
    assert bench.hear(**{bench.second: ERROR}) == led_by(bench.first, 1)
    bench.workers.restart(f"{bench.first}-0", life=2)
    assert bench.hear(**{bench.first: ATTACHING}) == led_by(bench.first, 1)
    assert bench.hear(**{bench.first: FOLLOWING}) == led_by(bench.first, 1)


def test_terms_go_on_when_replicas_move(bench: Bench) -> None:
    bench.hear(a=READY, b=READY)
    lost = bench.first
    bench.workers.workers["c-0"] = type(bench.workers.workers["a-0"])(id="c-0", url="http://c", incarnation="c")
    for _ in range(8):
        bench.clock.advance(4)
        bench.hear(**{name: READY for name in "abc" if name != lost})
    (row,) = bench.controller.catalog.assignments["s", 1].replicas
    assert f"{lost}-0" not in row
    (leader,) = bench.leaders()
    assert leader is not None
    assert (leader.worker in row, leader.term) == (True, 2)


def test_a_controller_that_has_just_started_waits_for_the_leader_to_speak(bench: Bench) -> None:
    bench.hear(a=READY, b=READY)
    first, second = bench.first, bench.second
    bench.restart()
    assert bench.hear(**{second: READY}) == led_by(first, 1)
    assert bench.hear(**{first: READY}) == led_by(first, 1)
    bench.restart()
    bench.clock.advance(6)
    assert bench.hear(**{second: READY}) == led_by(second, 2)
    bench.restart()
    bench.clock.advance(6)
    assert bench.hear(**{first: READY}) == led_by(first, 3)


def test_each_version_has_terms_of_its_own_and_all_that_can_serve_are_led(bench: Bench) -> None:
    bench.hear(a=READY, b=READY)
    bench.hear(**{bench.first: ERROR})
    bench.clock.advance(1)
    bench.push()
    bench.hear(a=READY, b=READY)
    assert bench.controller.get_store("s").current == 2
    assert [leader.term for leader in bench.leaders(1) if leader] == [2]
    assert [leader.term for leader in bench.leaders(2) if leader] == [1]
    bench.controller.rollback("s")
    assert bench.hear(**{bench.second: ERROR})[0] == led_by(bench.first, 3)[0]
    assert [leader.term for leader in bench.leaders(2) if leader] == [1]


def test_a_version_that_was_killed_is_led_by_nobody_new(bench: Bench) -> None:
    bench.hear(**{bench.first: FOLLOWING})
    bench.controller.kill("s", 1)
    assert bench.hear(**{bench.first: ERROR, bench.second: READY}) == led_by(bench.first, 1)


def test_partitions_are_led_by_the_workers_that_hold_them_first(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, partitions=8)
    leaders = bench.hear(a=FOLLOWING, b=FOLLOWING)
    assert [leader.worker if leader else None for leader in leaders] == [
        row[0] for row in bench.controller.catalog.assignments["s", 1].replicas
    ]
    assert {leader.worker for leader in leaders if leader} == {"a-0", "b-0"}
    bench.close()


def test_leaders_are_shared_out_once_all_is_calm(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, partitions=8)

    def wait(seconds: int) -> list[Leadership | None]:
        for _ in range(seconds // 4):
            clock.advance(4)
            bench.hear(a=READY, b=READY)
        return list(bench.leaders())

    bench.hear(a=FOLLOWING)
    assert {leader.worker for leader in wait(56) if leader} == {"a-0"}, "it came first, and nobody is in a hurry"
    bench.workers.restart("b-0", life=2)
    assert {leader.worker for leader in wait(56) if leader} == {"a-0"}, "a worker that is new is not trusted at once"
    shared = wait(12)
    assert sorted((leader.worker, leader.term) for leader in shared if leader) == [("a-0", 1)] * 4 + [("b-0", 2)] * 4
    assert wait(200) == shared
    bench.close()


def test_what_is_not_ready_is_given_no_leadership(tmp_path: Path, clock: ManualClock) -> None:
    bench = Bench(tmp_path, clock, partitions=8)
    bench.hear(a=READY)
    for state in (FOLLOWING, ATTACHING, ERROR, None):
        for _ in range(20):
            clock.advance(4)
            leaders = bench.hear(a=READY, b=state)
        assert {leader.worker for leader in leaders if leader} == {"a-0"}
    bench.close()


@pytest.mark.parametrize("seed", range(5))
def test_terms_only_grow_whatever_happens(tmp_path: Path, clock: ManualClock, seed: int) -> None:
    rng = Random(seed)
    bench = Bench(tmp_path, clock, partitions=3)
    given_out: list[dict[int, str]] = [{} for _ in range(bench.partitions)]
    """By partition: term → worker. A term belongs to one worker for ever."""
    for _ in range(60):
        match rng.randrange(8):
            case 0:
                bench.restart()
            case 1:
                clock.advance(rng.choice([1, 4, 6, 40]))
            case 2:
                name = rng.choice("ab")
                bench.workers.restart(f"{name}-0", life=clock.now_ms() + rng.randrange(1000))
            case _:
                pass
        bench.hear(**{name: rng.choice([READY, READY, FOLLOWING, ATTACHING, ERROR, None]) for name in "ab" if rng.random() < 0.7})
        for partition, leader in enumerate(bench.leaders()):
            terms = given_out[partition]
            if leader is None:
                assert not terms, "once led, a partition never forgets its term"
                continue
            assert leader.term in {max(terms, default=0), max(terms, default=0) + 1}
            assert terms.setdefault(leader.term, leader.worker) == leader.worker
    assert any(len(terms) > 3 for terms in given_out), "nothing happened"
    bench.close()
