"""How much a request may send: bytes of body, time between them, headers."""

import asyncio
from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.contract.problems import BodyTooLarge, HeadersTooLarge, RequestTimeout
from node.web.problems import send_problem_for

LINGER_SECONDS = 2.0
LINGER_BYTES = 8 * 1024 * 1024


class BodyLimit:
    """Refuse bodies over a limit with 413, at once by Content-Length, else while reading; and bodies that stall, with 408.

    ``overrides`` gives path prefixes a limit of their own, such as the documents that are put here. Reading past the limit
    raises BodyTooLarge inside the application, so nothing of the excess is held. After such an answer the rest is read and
    dropped for a moment: closing at once would reset the connection before the client has read why.
    """

    def __init__(
        self, app: ASGIApp, *, limit: int, overrides: Mapping[str, int] | None = None, stall_seconds: float = 60.0
    ) -> None:
        self._app = app
        self._limit = limit
        self._overrides = tuple(sorted((overrides or {}).items(), key=lambda item: -len(item[0])))
        self._stall_seconds = stall_seconds

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        announced = _announced_length(scope)
        if announced == 0:
            return self._app(scope, receive, send)
        limit = self._limit_for(scope["path"])
        body = _LimitedBody(receive, send, limit, self._stall_seconds)
        if announced is not None and announced > limit:
            body.refused = True
            return send_problem_for(scope, body.send, too_large())
        return self._app(scope, body.receive, body.send)

    def _limit_for(self, path: str) -> int:
        return next((limit for prefix, limit in self._overrides if path.startswith(prefix)), self._limit)


def too_large() -> BodyTooLarge:
    """Return the error for a body over its limit; the connection ends with it."""
    return BodyTooLarge(headers={"Connection": "close"})


class _LimitedBody:
    """The receive and send of one request whose body is counted."""

    def __init__(self, receive: Receive, send: Send, limit: int, stall_seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._left = limit
        self._stall_seconds = stall_seconds
        self._ended = False
        self.refused = False

    async def receive(self) -> Message:
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout(self._stall_seconds):
                message = await self._receive()
        except TimeoutError:
            self.refused = self._ended = True
            raise RequestTimeout(headers={"Connection": "close"}) from None
        self._count(message)
        return message

    async def send(self, message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not (last and self.refused):
            return await self._send(message)
        await self._send({**message, "more_body": True})
        await self._drop_the_rest()
        return await self._send({"type": "http.response.body", "body": b""})

    def _count(self, message: Message) -> None:
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.refused = True
            raise too_large()

    async def _drop_the_rest(self) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._ended and dropped < LINGER_BYTES:
                    message = await self._receive()
                    dropped += len(message.get("body", b""))
                    self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)
        except TimeoutError:
            return


def _announced_length(scope: Scope) -> int | None:
    """Return the Content-Length, 0 for a request that has no body, None for one that does not say (chunked)."""
    length: int | None = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
    return length


class HeaderLimit:
    """Refuse requests whose headers are more or longer than any real client's, with 431."""

    def __init__(self, app: ASGIApp, *, total_bytes: int = 16 * 1024, count: int = 100) -> None:
        self._app = app
        self._total_bytes = total_bytes
        self._count = count

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = scope["headers"]
            length = sum([len(name) + len(value) for name, value in headers])
            if len(headers) > self._count or length + len(scope.get("raw_path") or b"") > self._total_bytes:
                return send_problem_for(scope, send, HeadersTooLarge())
        return self._app(scope, receive, send)
