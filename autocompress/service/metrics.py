"""What a server counts of its requests and of the searches of its database, for Prometheus.

Labels name routes, states and statuses alone: never people or studies.
"""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
API = "/api/v1"
NO_ROUTE = "none"  # of what was refused before a route was looked for, or has none


class Metrics:
    """One server's counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "autocompress_requests", "Requests that were answered.", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "autocompress_request_seconds",
            "Seconds until an answer began; a stream's own length does not count.",
            labels,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._streams = Gauge("autocompress_event_streams", "Open streams of events.", registry=self._registry)
        self._searches = Gauge("autocompress_searches", "Searches by state.", ["state"], registry=self._registry)
        self._leases = Gauge(
            "autocompress_leases",
            "Searches that a server holds: held, or lapsed without a sign of life.",
            ["state"],
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        labels = (method if method in METHODS else "other", route, str(status))
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)

    def text(self, searches: dict[str, int], leases: dict[str, int], streams: int) -> bytes:
        """All counts in Prometheus' format, with searches by state, leases by whether they hold, and open streams."""
        for state, count in searches.items():
            self._searches.labels(state).set(count)
        for state, count in leases.items():
            self._leases.labels(state).set(count)
        self._streams.set(streams)
        return generate_latest(self._registry)


class Measured:
    """Counts every request, whoever answers it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request, and look at how its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - began
                self._metrics.answered(scope["method"], _route(scope), message["status"], seconds)
            await send(message)

        await self._app(scope, receive, seen)


def _route(scope: Scope) -> str:
    """The template of a route, without what was filled in; routes of the API know it without their prefix."""
    path = str(getattr(scope.get("route"), "path", NO_ROUTE))
    inside = scope["path"].startswith(f"{API}/") and path != NO_ROUTE
    return path if not inside or path.startswith(API) else API + path
