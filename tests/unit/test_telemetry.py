"""Events are whole lines of known names; metrics are those of the catalogue."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import get_args

import pytest

from venice import telemetry
from venice.clock import ManualClock
from venice.telemetry import CATALOG_SEQUENCE, METRICS, REPLICAS, EventName, Metrics, log_event, log_nothing, log_to_stderr


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    yield io.StringIO()
    log_nothing()


def test_a_plain_line_names_time_level_process_event_and_fields(clock: ManualClock, stream: io.StringIO) -> None:
    log_to_stderr("node-1-w0", clock.now_ms, stream=stream)
    log_event("replica_failed", store="flights", version=3, reason="disk full: 0 bytes")
    assert stream.getvalue() == (
        "2023-11-14T22:13:20.000Z error   node-1-w0    replica_failed store=flights version=3 reason='disk full: 0 bytes'\n"
    )


def test_a_json_line_is_one_object(clock: ManualClock, stream: io.StringIO) -> None:
    log_to_stderr("router", clock.now_ms, as_json=True, stream=stream)
    log_event("process_started", url="http://127.0.0.1:7071")
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "info",
        "process": "router",
        "event": "process_started",
        "url": "http://127.0.0.1:7071",
    }


def test_a_line_break_in_a_field_stays_inside_its_line(clock: ManualClock, stream: io.StringIO) -> None:
    log_to_stderr("router", clock.now_ms, stream=stream)
    log_event("replica_failed", reason="one\ntwo")
    assert stream.getvalue().count("\n") == 1


def test_a_closed_stream_stops_nobody(clock: ManualClock, stream: io.StringIO) -> None:
    stream.close()
    log_to_stderr("router", clock.now_ms, stream=stream)
    log_event("process_started")
    log_event("process_stopped")


def test_nothing_is_said_before_a_process_asks_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    log_event("process_started")
    assert capfd.readouterr() == ("", "")


def test_metrics_are_read_when_they_are_asked_for() -> None:
    metrics = Metrics()
    held = [4.0]
    metrics.watch(REPLICAS, lambda: held[0], state="ready")
    metrics.watch(REPLICAS, lambda: 1, state="error")
    metrics.watch(CATALOG_SEQUENCE, lambda: 12)
    held[0] = 5
    text = metrics.exposition().decode()
    assert 'venice_replicas{state="ready"} 5.0' in text
    assert 'venice_replicas{state="error"} 1.0' in text
    assert "venice_catalog_sequence 12.0" in text
    assert f"# HELP venice_replicas {REPLICAS.meaning}" in text


def test_two_processes_worth_of_metrics_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.watch(CATALOG_SEQUENCE, lambda: 1)
    assert second.exposition() == b""


def test_the_catalogue_is_sound() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(metric.meaning and metric.name.startswith("venice_") for metric in METRICS)
    in_module = {value for value in vars(telemetry).values() if isinstance(value, telemetry.Metric)}
    assert in_module == set(METRICS)
    events = get_args(EventName)
    assert len(events) == len(set(events))
