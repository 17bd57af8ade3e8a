"""The progress of a push in its three forms."""

from __future__ import annotations

import json

import pytest

from venice.cli_progress import Bar, JsonLines, Lines, choose
from venice.push.progress import Event, Phase, PhaseEnded, Progress, PushBegun


def progress(rows: int, elapsed_s: float, phase: Phase = Phase.READ) -> Progress:
    return Progress(phase=phase, rows=rows, rows_total=1000, bytes=rows * 100, elapsed_s=elapsed_s, rows_per_s=rows / elapsed_s, eta_s=1.5)


EVENTS: list[Event] = [
    PushBegun(
        store="flights",
        version=3,
        push_id="nightly",
        source="a.parquet",
        partition_count=8,
        rows_total=1000,
        columns_ignored=("note",),
        fields_defaulted=("mayor",),
    ),
    progress(10, 0.5),
    progress(400, 2.1),
    progress(500, 3.0),
    progress(900, 4.2),
    PhaseEnded(phase=Phase.READ, rows=1000, bytes=100_000, seconds=5.0),
    PhaseEnded(phase=Phase.SEAL, rows=0, bytes=0, seconds=0.25),
]


def test_lines_come_every_two_seconds_and_at_the_end_of_a_phase(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    with lines.shown():
        for event in EVENTS:
            lines(event)
    out, err = capsys.readouterr()
    assert out == ""
    defaulted = "fields that get their defaults: mayor"
    assert err.splitlines() == [
        f"a.parquet → version 3 of flights, 8 partitions, push nightly; columns that feed nothing: note; {defaulted}",
        "  read: 400 of 1,000 rows, 40.0 kB, 190 rows/s, 2 s left",
        "  read: 900 of 1,000 rows, 90.0 kB, 214 rows/s, 2 s left",
        "✓ read   1,000 rows, 100.0 kB, 200 rows/s  5.0 s",
        "✓ seal   0.2 s",
    ]


def test_json_lines_carry_every_event_with_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines()
    with lines.shown():
        for event in EVENTS:
            lines(event)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in told] == ["push_begun", *["progress"] * 4, "phase_ended", "phase_ended"]
    assert told[1]["phase"] == "read"
    assert told[-1] == {"event": "phase_ended", "phase": "seal", "rows": 0, "bytes": 0, "seconds": 0.25}


def test_the_bar_leaves_a_line_for_each_phase(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    with bar.shown():
        for event in EVENTS:
            bar(event)
    err = capsys.readouterr().err
    assert "version 3 of flights" in err
    assert "✓ read" in err
    assert "✓ seal" in err


def test_what_is_shown_depends_on_who_reads() -> None:
    assert isinstance(choose(as_json=True), JsonLines)
    assert isinstance(choose(as_json=False), Lines)
