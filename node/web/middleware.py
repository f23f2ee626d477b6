"""ASGI middleware around both planes, and the order in which it stands.

A layer that only looks, or changes what goes in, hands on the awaitable of the layer within: a coroutine of its own for every
layer and message is a tenth of what a small read costs.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from node.contract.identifiers import uuid7
from node.contract.problems import ProblemError
from node.web.limits import BodyLimit, HeaderLimit
from node.web.metrics import Metrics
from node.web.problems import ResponseBroken, request_id_of, send_problem_for, unexpected
from node.web.proxies import TrustedProxies

__all__ = [
    "BodyLimit",
    "HeaderLimit",
    "Metrics",
    "RequestId",
    "SecurityHeaders",
    "StripHeaders",
    "TrustedProxies",
    "UnhandledErrors",
    "WebSettings",
    "web_stack",
]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
STRICT_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class RequestId:
    """Give each request an id: the caller's ``X-Request-Id`` when it is a sane one, else a new UUIDv7.

    It is in ``scope["state"]["request_id"]``, in every log line of the request and in the answer's headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        request_id = _sane_request_id(scope) or uuid7()
        scope.setdefault("state", {})["request_id"] = request_id
        bind_contextvars(request_id=request_id)
        header = (b"x-request-id", request_id.encode())

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), header]}
            return send(message)

        return self._app(scope, receive, send_with_id)


def _sane_request_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _REQUEST_ID.fullmatch(value) else None
    return None


class SecurityHeaders:
    """Add the headers that tell a browser to be careful, where the application has not set its own, and drop ``Server``.

    ``content_policies`` gives path prefixes (pages with scripts of their own) another Content-Security-Policy.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        content_policies: Mapping[str, str] | None = None,
        hsts_seconds: int = 365 * 24 * 3600,
    ) -> None:
        self._app = app
        self._policies = tuple(sorted((content_policies or {}).items(), key=lambda item: -len(item[0])))
        self._plain = self._headers(STRICT_CONTENT_POLICY)
        self._by_prefix = tuple((prefix, self._headers(policy)) for prefix, policy in self._policies)
        self._hsts = (b"strict-transport-security", f"max-age={hsts_seconds}".encode())

    @staticmethod
    def _headers(content_policy: str) -> tuple[tuple[bytes, bytes], ...]:
        return (
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", content_policy.encode()),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message = {**message, "headers": self._joined(scope, message.get("headers", ()))}
            return send(message)

        return self._app(scope, receive, send_with_headers)

    def _joined(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        present = {name.lower() for name, _ in headers}
        path = scope["path"]
        ours = next((own for prefix, own in self._by_prefix if path.startswith(prefix)), self._plain)
        kept = [pair for pair in headers if pair[0].lower() != b"server"] if b"server" in present else list(headers)
        kept.extend([pair for pair in ours if pair[0] not in present])
        if scope.get("scheme") == "https":
            kept.append(self._hsts)
        return kept


class StripHeaders:
    """Remove request headers that only the edge may set, such as a verified client certificate, unless a trusted proxy sent them.

    ``prefixes`` takes whole families of names.
    """

    def __init__(self, app: ASGIApp, *, names: Sequence[str] = (), prefixes: Sequence[str] = ()) -> None:
        self._app = app
        self._names = frozenset(name.lower().encode() for name in names)
        self._prefixes = tuple(prefix.lower().encode() for prefix in prefixes)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and not (scope.get("state") or {}).get("from_proxy"):
            headers = scope["headers"]
            kept = [pair for pair in headers if not self._is_stripped(pair[0].lower())]
            if len(kept) != len(headers):
                scope["headers"] = kept
        return self._app(scope, receive, send)

    def _is_stripped(self, name: bytes) -> bool:
        # "_" and "-" are the same to WSGI, so X_Client_Cert would arrive as X-Client-Cert
        canonical = name.replace(b"_", b"-")
        return canonical in self._names or canonical.startswith(self._prefixes)


class UnhandledErrors:
    """Answer what nobody else answered: a known error as its problem document, an unknown one as a plain 500.

    When the answer has begun already the connection is broken, so that a part never passes for the whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        def noting_send(message: Message) -> Awaitable[None]:
            nonlocal started
            started = True
            return send(message)

        try:
            return await self._app(scope, receive, noting_send)
        except ResponseBroken:
            raise
        except Exception as error:
            if isinstance(error.__cause__, ResponseBroken):  # Starlette tells of it in words of its own
                raise error.__cause__ from None
            known = error if isinstance(error, ProblemError) else unexpected(error, request_id_of(scope))
        if started:
            raise ResponseBroken from None
        return await send_problem_for(scope, send, known)


@dataclass(frozen=True)
class WebSettings:
    """What an operator may set of the middleware; sizes in bytes."""

    body_limit: int = 1024 * 1024
    body_limits: Mapping[str, int] = field(default_factory=dict)
    body_stall_seconds: float = 60.0
    header_bytes: int = 16 * 1024
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    edge_headers: tuple[str, ...] = ()
    content_policies: Mapping[str, str] = field(default_factory=dict)


def web_stack(app: ASGIApp, settings: WebSettings, registry: CollectorRegistry) -> ASGIApp:
    """Put an application inside the middleware, in the one order that works.

    From the outside: the client is known before anything speaks of it, the id before anything is logged or answered, and
    every answer, refusals of the inner layers included, is counted and carries the security headers.
    """
    app = BodyLimit(
        app, limit=settings.body_limit, overrides=settings.body_limits, stall_seconds=settings.body_stall_seconds
    )
    app = StripHeaders(app, names=settings.edge_headers)
    app = HeaderLimit(app, total_bytes=settings.header_bytes)
    app = UnhandledErrors(app)
    app = SecurityHeaders(app, content_policies=settings.content_policies)
    app = Metrics(app, registry=registry)
    app = RequestId(app)
    return TrustedProxies(app, networks=settings.trusted_proxies, header=settings.forwarded_header)
