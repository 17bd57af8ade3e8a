"""Events are whole lines of known names; metrics are those of the catalogue."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import get_args

import pytest

from venice import telemetry
from venice.clock import ManualClock
from venice.telemetry import METRICS, REPLICAS, REQUESTS, EventName, Telemetry


@pytest.fixture
def make(clock: ManualClock) -> Callable[..., tuple[Telemetry, io.StringIO]]:
    def build(**options: bool) -> tuple[Telemetry, io.StringIO]:
        stream = io.StringIO()
        return Telemetry("worker-0", clock.now_ms, stream=stream, **options), stream

    return build


def test_a_plain_line_names_time_level_process_event_and_fields(make: Callable[..., tuple[Telemetry, io.StringIO]]) -> None:
    said, stream = make()
    said.event("replica_failed", level="error", store="flights", version=3, reason="disk full: 0 bytes")
    assert stream.getvalue() == (
        "2023-11-14T22:13:20.000Z error   worker-0     replica_failed store=flights version=3 reason='disk full: 0 bytes'\n"
    )


def test_a_json_line_is_one_object(make: Callable[..., tuple[Telemetry, io.StringIO]]) -> None:
    said, stream = make(as_json=True)
    said.event("process_started", url="http://127.0.0.1:7100")
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.000Z",
        "level": "info",
        "process": "worker-0",
        "event": "process_started",
        "url": "http://127.0.0.1:7100",
    }


def test_a_line_break_in_a_field_stays_inside_its_line(make: Callable[..., tuple[Telemetry, io.StringIO]]) -> None:
    said, stream = make()
    said.event("replica_failed", reason="one\ntwo")
    assert stream.getvalue().count("\n") == 1


def test_a_closed_stream_stops_nobody(clock: ManualClock) -> None:
    stream = io.StringIO()
    stream.close()
    said = Telemetry("router", clock.now_ms, stream=stream)
    said.event("process_started")
    said.event("process_stopped")


def test_metrics_are_exposed_under_their_names(make: Callable[..., tuple[Telemetry, io.StringIO]]) -> None:
    said, _ = make()
    said.add(REQUESTS, kind="get", status="200")
    said.add(REQUESTS, 2, kind="get", status="200")
    held = [4.0]
    said.watch(REPLICAS, lambda: held[0], state="ready")
    said.set(REPLICAS, 1, state="error")
    held[0] = 5
    text = said.exposition().decode()
    assert 'venice_requests_total{kind="get",status="200"} 3.0' in text
    assert 'venice_replicas{state="ready"} 5.0' in text
    assert 'venice_replicas{state="error"} 1.0' in text


def test_two_telemetries_share_nothing(make: Callable[..., tuple[Telemetry, io.StringIO]]) -> None:
    first, _ = make()
    second, _ = make()
    first.add(REQUESTS, kind="get", status="200")
    assert b"venice_requests_total{" not in second.exposition()


def test_the_catalogue_is_sound() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    assert all(metric.meaning and metric.name.startswith("venice_") for metric in METRICS)
    in_module = {value for value in vars(telemetry).values() if isinstance(value, telemetry.Metric)}
    assert in_module == set(METRICS)
    events = get_args(EventName)
    assert len(events) == len(set(events))
