"""Counters and times of a server, as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.sessions = Gauge("svg_serve_sessions", "Open sessions.", registry=self._registry)
        self._opened = Counter("svg_serve_sessions_opened", "Sessions opened.", ["model"], registry=self._registry)
        self._closed = Counter("svg_serve_sessions_closed", "Sessions closed.", ["reason"], registry=self._registry)
        self._requests = Counter("svg_serve_requests", "Requests answered.", ["operation", "status"], registry=self._registry)
        self._seconds = Histogram(
            "svg_serve_request_seconds", "Seconds from a request's headers to the end of its answer.", ["operation"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip

    def opened(self, model: str) -> None:
        """Count a session."""
        self._opened.labels(model).inc()

    def closed(self, reason: str) -> None:
        """Count the end of a session: request, idle or end."""
        self._closed.labels(reason).inc()

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
