"""How long requests take, from a server's counts through its metrics to the figure that `venice top` shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from venice.cli_top import _grown, _p99_ms, read_metrics
from venice.clock import ManualClock
from venice.errors import Unavailable
from venice.message import Headers, Response
from venice.serve.exposition import measure_requests, with_metrics
from venice.serve.http import HttpServer
from venice.serve.timing import EVERY, RequestTimes
from venice.telemetry import Metrics


class Clock(ManualClock):
    """A clock that moves by itself at each look, by what the handler takes."""

    took_s = 0.0

    def monotonic_s(self) -> float:
        self.sleep(self.took_s)
        return super().monotonic_s() + 1.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> Iterator[HttpServer]:
    metrics = Metrics()
    made = HttpServer(with_metrics(lambda _: Response(200, Headers({}), b""), metrics), "127.0.0.1", 0, clock=clock)
    measure_requests(metrics, lambda: made)
    made.start()
    yield made
    made.stop()


def test_one_of_eight_requests_is_timed_and_all_are_counted(clock: Clock) -> None:
    clock.took_s = 0.003
    times = RequestTimes(clock)
    for _ in range(10 * EVERY):
        times.ended(times.began())
    bounds, counts, total_s = times.histogram()
    assert times.answered == 10 * EVERY
    assert sum(counts) == 10
    assert total_s == pytest.approx(10 * 0.003)
    (bucket,) = [index for index, count in enumerate(counts) if count]
    assert bounds[bucket - 1] < 0.003 <= bounds[bucket]


def test_what_a_server_answers_is_read_from_its_metrics(clock: Clock, server: HttpServer) -> None:
    before = read_metrics(server.url)
    clock.took_s = 0.003
    for _ in range(EVERY * 4):
        after = read_metrics(server.url)
    grown = _grown(before, after)
    assert grown["venice_requests_total", ()] == EVERY * 4
    p99_ms = _p99_ms(grown)
    assert p99_ms is not None
    assert 3.0 <= p99_ms < 3.0 * 2**0.5


def test_a_process_that_began_anew_has_grown_by_what_it_is() -> None:
    key = ("venice_requests_total", ())
    assert _grown({key: 100.0}, {key: 7.0}) == {key: 7.0}
    assert _grown({}, {key: 7.0}) == {key: 7.0}


def test_nothing_that_was_timed_has_no_percentile() -> None:
    assert _p99_ms({}) is None


def test_one_slow_request_of_a_hundred_is_not_the_99th_and_two_are() -> None:
    def samples(slow: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        name = "venice_request_seconds_bucket"
        return {(name, (("le", "0.001"),)): 100.0 - slow, (name, (("le", "1.0"),)): 100.0, (name, (("le", "+Inf"),)): 100.0}

    assert _p99_ms(samples(1)) == 1.0
    assert _p99_ms(samples(2)) == 1000.0


def test_who_does_not_answer_metrics_is_unavailable(server: HttpServer) -> None:
    server.stop()
    with pytest.raises(Unavailable, match="does not answer"):
        read_metrics(server.url)
