"""The process of a controller: settings in, the controller and its API running."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from random import Random

import uvicorn
from fastapi.responses import PlainTextResponse

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.api import build_app
from venice.control.controller import Controller
from venice.control.policy import Policy
from venice.errors import VeniceError
from venice.log.open import open_log
from venice.processes import check_port, ensure_topics, host_port, on_stop_signal
from venice.serve.exposition import CONTENT_TYPE
from venice.telemetry import CATALOG_SEQUENCE, STORES, WORKERS, Metrics


def run_controller(settings: Settings) -> None:
    """Run the controller until SIGTERM or SIGINT."""
    clock = SystemClock()
    log = open_log(settings.log_url, clock)
    ensure_topics(log)
    host, port = host_port(settings.controller_url)
    check_port(host, port, "controller")
    stopped_by: list[VeniceError] = []

    def stop(error: VeniceError) -> None:
        stopped_by.append(error)
        server.should_exit = True

    controller = Controller(log, clock, Policy.of(settings), rng=Random(secrets.randbits(128)), on_stop=stop)
    app = build_app(controller)
    app.get("/metrics", include_in_schema=False)(_controller_metrics(controller))
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2, access_log=False))
    # uvicorn stops at a signal and then raises it again: without a handler of ours that would end the process right there.
    on_stop_signal(lambda: None)
    controller.start()
    try:
        server.run()
        if stopped_by:
            raise stopped_by[0]
    finally:
        controller.close()
        log.close()


def _controller_metrics(controller: Controller) -> Callable[[], PlainTextResponse]:
    metrics = Metrics()
    metrics.watch(CATALOG_SEQUENCE, lambda: controller.health().catalog_sequence)
    metrics.watch(STORES, lambda: controller.health().stores)
    metrics.watch(WORKERS, lambda: controller.health().workers_live, state="live")
    metrics.watch(WORKERS, lambda: controller.health().workers - controller.health().workers_live, state="silent")
    return lambda: PlainTextResponse(metrics.exposition(), media_type=CONTENT_TYPE.decode())
