"""Numbers of the service for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

MEDIA_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters and times of one service."""

    def __init__(self, *, waiting: Callable[[], float], working: Callable[[], float], ready: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        names = ("verb", "status", "error")
        self.requests = Counter("latens_requests", "Answered requests; error is empty for results.", names, registry=registry)
        self.seconds = Histogram(
            "latens_request_seconds",
            "From the head of a request to its answer.",
            ("verb", "status"),
            buckets=SECONDS,
            registry=registry,
        )
        self.work = Histogram(
            "latens_work_seconds", "From taking a place to the result.", ("verb",), buckets=SECONDS, registry=registry
        )
        self.bytes_in = Counter("latens_body_bytes", "Bytes of bodies that arrived.", ("verb",), registry=registry)
        self.deaths = Counter("latens_worker_deaths", "Workers that crashed or were killed by others.", registry=registry)
        self.cancelled = Counter(
            "latens_cancelled", "Tasks that were ended, by deadline or because the client left.", ("why",), registry=registry
        )
        for name, text, value in (
            ("latens_waiting", "Accepted requests that wait for a worker.", waiting),
            ("latens_working", "Requests that a worker works on.", working),
            ("latens_workers_ready", "Workers that are ready or at work.", ready),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)
