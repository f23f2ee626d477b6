"""Request metrics for Prometheus."""

import os
import time
from collections.abc import Awaitable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.web.specification import Operation

METHODS = frozenset(("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"))
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class Metrics:
    """Count requests by method, route and status, and measure how long they take.

    The route is the template that the application wrote into ``scope["state"]["route"]``, else ``other``: a path holds
    document ids and never becomes a label.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self._app = app
        self._requests = Counter("http_requests", "Requests answered", ("method", "route", "status"), registry=registry)
        self._seconds = Histogram(
            "http_request_seconds",
            "Time until the answer was sent",
            ("method", "route"),
            registry=registry,
            buckets=BUCKETS,
        )
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[tuple[str, str], Histogram] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = time.perf_counter()
        status = 500

        def noting_send(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            return await self._app(scope, receive, noting_send)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = (scope.get("state") or {}).get("route") or "other"
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = self._requests.labels(method, route, str(status))
        timer = self._timers.get((method, route))
        if timer is None:
            timer = self._timers[method, route] = self._seconds.labels(method, route)
        counter.inc()
        timer.observe(seconds)


class RouteFromOperation:
    """Name the route of a request that Connexion has found the operation of; stands at ``MiddlewarePosition.BEFORE_SECURITY``."""

    def __init__(self, app: ASGIApp, *, operations: Iterable[Operation]) -> None:
        self._app = app
        self._paths = {operation.operation_id: operation.path for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = (scope.get("extensions") or {}).get("connexion_routing") or {}
        path = self._paths.get(found.get("operation_id") or "")
        if path:
            scope.setdefault("state", {})["route"] = path
        await self._app(scope, receive, send)


def render_metrics(registry: CollectorRegistry) -> tuple[bytes, str]:
    """Return the metrics page and its content type.

    With one process the page is the registry's. Where the supervisor started several it has set PROMETHEUS_MULTIPROC_DIR
    for them before they imported prometheus_client; every process then writes its values to files of its own there, and
    the page adds up all of them, whichever process answers.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library's own annotation is missing
    return generate_latest(registry), CONTENT_TYPE_LATEST
