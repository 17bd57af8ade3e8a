"""Lag from the ends of topics, faulty records told once a minute, dead letters that come back as they went."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from venice import dead_letter, telemetry
from venice.clock import ManualClock, SystemClock
from venice.dead_letter import DeadLetter, DeadLetters, decode_letters, encode_letter
from venice.errors import Corrupt
from venice.faults import TOLD_S, FaultLedger
from venice.lag import NO_LAG, LagMeter
from venice.log import Entry
from venice.log.sqlite import SqliteLog
from venice.model import Fault, FaultCount
from venice.record import Kind, Record, encode

A, B = ("t", 0), ("t", 1)


def test_who_has_read_everything_is_as_fresh_as_the_question() -> None:
    meter = LagMeter(1_000)
    assert meter.look(5_000, {A: 3, B: 0}, {A: 3}, {}) == NO_LAG
    assert meter.fresh_ms == 5_000


def test_the_lag_is_as_old_as_what_was_certainly_read() -> None:
    meter = LagMeter(1_000)
    assert meter.look(2_000, {A: 10}, {A: 4}, {}) == (6, 1.0)
    assert meter.look(3_000, {A: 20}, {A: 9}, {}) == (11, 2.0)
    assert meter.look(4_000, {A: 30}, {A: 10}, {}) == (20, 2.0), "it has reached the end that was asked for at 2 000"
    assert meter.look(5_000, {A: 30}, {A: 30}, {}) == NO_LAG


def test_a_reader_that_replays_old_records_is_as_late_as_they_are() -> None:
    meter = LagMeter(0)
    assert meter.look(90_000, {A: 10, B: 10}, {A: 5, B: 5}, {A: 30_000, B: 50_000}) == (10, 60.0)
    assert meter.look(91_000, {A: 10, B: 10}, {A: 10, B: 5}, {A: 80_000, B: 50_000}) == (5, 41.0), "what is left counts"


def test_a_topic_that_always_grows_does_not_keep_a_reader_from_being_fresh() -> None:
    meter = LagMeter(0)
    for second in range(1, 20):
        meter.look(second * 1_000, {A: second * 100}, {A: (second - 2) * 100}, {})
    assert meter.fresh_ms >= 14_000


def test_a_fault_is_told_at_once_and_then_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, object]] = []
    monkeypatch.setattr("venice.faults.log_event", lambda name, **fields: told.append((fields["fault"], fields["count"])))
    clock = ManualClock()
    ledger = FaultLedger(clock)

    def met(fault: Fault, count: int = 1) -> None:
        ledger.add("s_v1.000000", "version", fault, topic="s_v1", partition=0, offset=7, count=count)

    for _ in range(5):
        met(Fault.CORRUPT)
    met(Fault.MISSING, 3)
    assert told == [("corrupt", 1), ("missing", 3)]
    clock.sleep(TOLD_S)
    met(Fault.CORRUPT)
    assert told[2:] == [("corrupt", 6)]
    assert ledger.of("s_v1.000000") == (
        FaultCount(topic="version", fault=Fault.CORRUPT, count=6),
        FaultCount(topic="version", fault=Fault.MISSING, count=3),
    )
    assert [name for name, _ in ledger.all()] == ["s_v1.000000"] * 2
    assert ledger.of("s_v1.000001") == ()


letters = st.builds(
    DeadLetter,
    topic=st.sampled_from(["s_rt", "a/b"]),
    partition=st.integers(0, 99),
    offset=st.integers(0, 2**60),
    region=st.integers(-1, 9),
    timestamp_ms=st.integers(0, 2**50),
    fault=st.sampled_from(Fault),
    reason=st.text(max_size=20),
    payload=st.binary(max_size=40),
)


@given(st.lists(letters, max_size=5), st.integers(1, 9))
def test_letters_come_back_as_they_went(sent: list[DeadLetter], part_bytes: int) -> None:
    before, dead_letter.PART_BYTES = dead_letter.PART_BYTES, part_bytes
    try:
        payloads = [payload for letter in sent for payload in encode_letter(letter)]
    finally:
        dead_letter.PART_BYTES = before
    entries = [Entry("s_dead", 0, offset, 0, payload) for offset, payload in enumerate(payloads)]
    assert [letter for _, letter in decode_letters(entries)] == sent
    assert all(letter in sent for _, letter in decode_letters(entries[1:])), "parts without their first are passed over"


@pytest.mark.parametrize("payload", [b"garbage", encode(Record(Kind.PUT, key=b"s_rt/0/0")), encode(Record(Kind.DEAD_LETTER, key=b"x"))])
def test_what_is_no_letter_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        list(decode_letters([Entry("s_dead", 0, 0, 0, payload)]))


def test_a_letter_is_kept_once_by_a_process(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log", SystemClock())
    letter = DeadLetter(
        topic="s_rt", partition=0, offset=5, region=0, timestamp_ms=1, fault=Fault.CORRUPT, reason="it is garbage", payload=b"garbage"
    )
    kept = DeadLetters(log)
    kept.keep("s", [letter, letter])
    kept.keep("s", [letter])
    assert log.end_offset("s_dead", 0) == 1
    DeadLetters(log).keep("s", [letter])
    assert log.end_offset("s_dead", 0) == 2
    log.close()


def test_metrics_of_replicas_come_and_go() -> None:
    metrics = telemetry.Metrics()
    counts: dict[tuple[str, ...], float] = {("s", "1", "0", "version", "corrupt"): 3}
    metrics.watch_all(telemetry.FAULTY_RECORDS_TOTAL, counts.items)
    metrics.watch_all(telemetry.REPLICA_LAG_SECONDS, lambda: [(("s", "1", "0"), 1.5)])
    shown = metrics.exposition().decode()
    assert 'venice_faulty_records_total{fault="corrupt",partition="0",store="s",topic="version",version="1"} 3.0' in shown
    assert "# TYPE venice_faulty_records_total counter" in shown
    assert 'venice_replica_lag_seconds{partition="0",store="s",version="1"} 1.5' in shown
    counts.clear()
    assert "venice_faulty_records_total{" not in metrics.exposition().decode()
