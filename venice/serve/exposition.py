"""`/metrics` in front of a process's own paths."""

from __future__ import annotations

from collections.abc import Awaitable

from venice.message import Headers, Request, Response, Streamed
from venice.serve.connection import Handler
from venice.telemetry import Metrics

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PATH = b"/metrics"


def with_metrics(handle: Handler, metrics: Metrics) -> Handler:
    """`handle`, with `/metrics` answered from `metrics`."""

    def answer(request: Request) -> Response | Awaitable[Response | Streamed]:
        if request.target == _PATH:
            return Response(200, Headers({b"content-type": CONTENT_TYPE}), metrics.exposition())
        return handle(request)

    return answer
