"""`/metrics` in front of a process's own paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from venice.message import Headers, Request, Response, Streamed
from venice.serve.connection import Handler
from venice.serve.http import HttpServer
from venice.telemetry import PENDING_REQUESTS, REQUEST_SECONDS, REQUESTS_TOTAL, Metrics

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PATH = b"/metrics"


def measure_requests(metrics: Metrics, server: Callable[[], HttpServer]) -> None:
    """Have `metrics` show what a server answers; it is asked for when somebody looks."""
    metrics.watch(PENDING_REQUESTS, lambda: server().pending)
    metrics.watch_all(REQUESTS_TOTAL, lambda: [((), server().times.answered)])
    metrics.watch_histogram(REQUEST_SECONDS, lambda: server().times.histogram())


def with_metrics(handle: Handler, metrics: Metrics) -> Handler:
    """`handle`, with `/metrics` answered from `metrics`."""

    def answer(request: Request) -> Response | Awaitable[Response | Streamed]:
        if request.target == _PATH:
            return Response(200, Headers({b"content-type": CONTENT_TYPE}), metrics.exposition())
        return handle(request)

    return answer
