"""One document on its way from its node through the locker: headers that pass, bytes that are not kept, ends that are told."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import structlog
from starlette.types import Message, Receive, Scope, Send

from locker.services.tickets import Granted
from node.contract.problems import (
    BadRequest,
    DocumentNotFound,
    DocumentRevoked,
    NodeFault,
    NodeUnavailable,
    NotAcceptable,
    PreconditionFailed,
    ProblemError,
    RangeNotSatisfiable,
    TooManyRequests,
)
from node.web.problems import ResponseBroken, request_id_of
from node.web.stream import StreamEnd, connection_of, send_stream

log = structlog.get_logger("locker.gateway")

_T = TypeVar("_T")

TO_NODE = ("range", "if-range", "if-match", "if-none-match", "accept", "accept-language")
FROM_NODE = (
    "content-type", "content-length", "content-range", "content-disposition", "content-language", "accept-ranges",
    "etag", "repr-digest", "document-status", "document-version", "link", "vary",
)  # fmt: skip
PASSED = (200, 206, 304)
RETRY_SECONDS = "30"

_REFUSALS: dict[int, type[ProblemError]] = {
    error.status: error
    for error in (DocumentNotFound, DocumentRevoked, NotAcceptable, PreconditionFailed, RangeNotSatisfiable)
}


class Upstream(Protocol):
    """A node's answer, taken chunk by chunk."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers by lower-case name."""

    async def next_chunk(self) -> bytes:
        """Return the next bytes, ``b""`` at the end."""


class NodeClient(Protocol):
    """The way to the nodes."""

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Upstream]:
        """Send a request and give the answer; leaving early closes the connection."""


class ClientLeft(Exception):
    """The client went away before the node had answered."""


def headers_to_node(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the request headers that go on to the node; who asks is in the ticket alone. Raises BadRequest."""
    passed = {name: headers[name] for name in TO_NODE if name in headers}
    if not all(value.isascii() and value.isprintable() for value in passed.values()):
        raise BadRequest("a header has characters that are not allowed there")
    return passed


class Passage:
    """Streams documents through."""

    def __init__(self, client: NodeClient, *, send_timeout: float) -> None:
        """``send_timeout`` is in seconds."""
        self._client = client
        self._send_timeout = send_timeout

    async def pass_through(
        self, granted: Granted, passed_on: Mapping[str, str], place: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Fetch a document with a ticket and send it on as it comes.

        ``passed_on`` are the request's headers for the node (``headers_to_node``), ``place`` is this plane's prefix of documents.
        Raises ProblemError while nothing has been sent; after that the connection is broken, so that a part never looks whole.
        """
        url = f"{granted.base_url}/v1/documents/{granted.uri}"
        asking = {
            **passed_on,
            "authorization": f"Bearer {granted.ticket}",
            "x-request-id": request_id_of(scope),
        }
        try:
            await self._exchange(granted.node_id, scope["method"], url, asking, place, scope, receive, send)
        except NodeUnavailable as error:
            if "Retry-After" in error.headers:
                raise
            raise NodeUnavailable(error.detail, reason=error.reason, headers={"Retry-After": RETRY_SECONDS}) from error
        except ClientLeft:
            log.info("gateway read", node_id=granted.node_id, outcome="aborted", sent=0)
            raise ResponseBroken from None

    async def _exchange(
        self,
        node_id: str,
        method: str,
        url: str,
        asking: Mapping[str, str],
        place: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        answer = self._client.stream(method, url, headers=asking)
        upstream = await _unless_client_leaves(receive, answer.__aenter__())
        error: BaseException | None = None
        try:
            if upstream.status not in PASSED:
                raise _refusal(upstream)
            start = {
                "type": "http.response.start",
                "status": upstream.status,
                "headers": _answer_headers(upstream, place),
            }
            if method == "HEAD" or upstream.status == 304:
                await send(start)
                await send({"type": "http.response.body", "body": b""})
            else:
                await self._stream(node_id, upstream, start, scope, receive, send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            await answer.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)

    async def _stream(
        self, node_id: str, upstream: Upstream, start: Message, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def note(end: StreamEnd) -> None:
            log.info("gateway read", node_id=node_id, outcome=end.outcome, sent=end.sent)

        await send_stream(
            receive, send, start, upstream.next_chunk, send_timeout=self._send_timeout, on_end=note,
            connection=connection_of(scope),
        )  # fmt: skip


async def _unless_client_leaves(receive: Receive, asking: Coroutine[Any, Any, _T]) -> _T:
    """Wait for the node's answer, but no longer than the client does; raises ClientLeft."""
    answered = asyncio.ensure_future(asking)
    leaving = asyncio.ensure_future(_until_disconnected(receive))
    try:
        await asyncio.wait((answered, leaving), return_when=asyncio.FIRST_COMPLETED)
        if answered.done():
            return answered.result()
        raise ClientLeft
    finally:
        leaving.cancel()
        if not answered.done():
            answered.cancel()
            await asyncio.wait((answered,))


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer_headers(upstream: Upstream, place: str) -> list[tuple[bytes, bytes]]:
    """Return the node's headers that come back, a link to another document made one through this plane."""
    kept = {name: upstream.headers[name] for name in FROM_NODE if name in upstream.headers}
    if "link" in kept:
        kept["link"] = kept["link"].replace("</v1/documents/", f"<{place}")
    kept["cache-control"] = "private, no-store"
    return [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in kept.items()]


def _refusal(upstream: Upstream) -> ProblemError:
    """Tell a node's refusal in our own words; a refused ticket is between the node and us, not the client's fault."""
    refusal = _REFUSALS.get(upstream.status)
    if refusal is RangeNotSatisfiable:
        names = {"content-range": "Content-Range"}
        return refusal(headers={names[n]: v for n, v in upstream.headers.items() if n in names})
    if refusal is not None:
        return refusal()
    wait = upstream.headers.get("retry-after", "")
    retry = {"Retry-After": wait if wait.isdigit() and len(wait) < 6 else RETRY_SECONDS}
    if upstream.status == TooManyRequests.status:
        return TooManyRequests("the issuer's node takes no more requests for now", headers=retry)
    if upstream.status == NodeUnavailable.status:
        return NodeUnavailable(reason="node-says-503", headers=retry)
    return NodeFault(reason=f"node-status-{upstream.status}")
