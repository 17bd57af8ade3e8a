"""The process of a router: settings in, a router and its endpoint running."""

from __future__ import annotations

from venice.clock import SystemClock
from venice.config import Settings
from venice.control.catalog import CatalogTail
from venice.log.open import open_log
from venice.processes import ensure_topics, host_port, wait_for_stop
from venice.serve.exposition import measure_requests, with_metrics
from venice.serve.http import HttpServer
from venice.serve.router import Router
from venice.telemetry import CATALOG_SEQUENCE, Metrics


def run_router(settings: Settings) -> None:
    """Run a router until SIGTERM or SIGINT."""
    clock = SystemClock()
    log = open_log(settings.log_url, clock)
    ensure_topics(log)
    tail = CatalogTail(log, clock)
    tail.start()
    host, port = host_port(settings.router_url)
    router = Router(tail)
    metrics = Metrics()
    metrics.watch(CATALOG_SEQUENCE, lambda: tail.catalog.sequence)
    measure_requests(metrics, lambda: server)
    server = HttpServer(with_metrics(router.handle, metrics), host, port, on_stop=router.close, lanes=router.lane)
    server.start()
    try:
        wait_for_stop()
    finally:
        server.stop()
        tail.close()
        log.close()
