"""The data plane: one small ASGI application, the only code that moves document bytes."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import structlog

from node.contract.identifiers import uuid7
from node.contract.problems import (
    MethodNotAllowed,
    ProblemError,
    UnsupportedMediaType,
    as_problem,
)
from node.contract.uri import DocumentURI
from node.delivery.admission import Admitted, EventWork, PutAllowed, PutWork, ReadWork, Result, Work
from node.delivery.answers import EXTENSIONS, stored_answer
from node.delivery.receiving import Spooled, require_length_within, spool
from node.delivery.stores import store_of
from node.services.audit import Outcome
from node.services.events import Caller, end_of_read, refusal
from node.services.ports import Placement
from node.storage.guard import GuardedDriver
from node.storage.interface import CHUNK, LARGEST_READ, ObjectStream
from node.web.batches import BatchWorker
from node.web.problems import send_problem
from node.web.stream import StreamEnd, connection_of, send_stream

log = structlog.get_logger()

PREFIX = "/v1/documents/"
METHODS = ("GET", "HEAD", "PUT")
FIRST_LOOK_SECONDS = 0.005
LAST_LOOK_SECONDS = 1.0
END_ROW_SECONDS = 0.02
"""How long the row of a read's end waits for others to share a commit with."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ENDS = {
    "complete": Outcome.COMPLETE,
    "aborted": Outcome.ABORTED,
    "stalled": Outcome.ABORTED,
    "failed": Outcome.FAILED,
}


@dataclass(slots=True)
class _Ending:
    """How a read ended, as far as it is known; until anything else is, it failed."""

    outcome: Outcome = Outcome.FAILED
    sent: int = 0
    reason: str | None = "internal-error"

    async def note(self, end: StreamEnd) -> None:
        """Take over what the transfer says; a store's own reason for a failure is kept."""
        self.outcome, self.sent = _ENDS[end.outcome], end.sent
        if end.outcome == "complete":
            self.reason = None
        elif end.outcome != "failed":
            self.reason = "client-left" if end.outcome == "aborted" else "client-stalled"


class _Source:
    """An object's stream that may be closed while a thread is still reading: closing waits for its turn."""

    def __init__(self, stream: ObjectStream) -> None:
        self._stream = stream
        self._turn = threading.Lock()

    def read(self, size: int) -> bytes:
        with self._turn:
            return self._stream.read(size)

    def close(self) -> None:
        with self._turn:
            self._stream.close()


class StoredPut(Protocol):
    """What became of a PUT."""

    @property
    def created(self) -> bool:
        """Tell whether the URI is new."""

    @property
    def changed(self) -> bool:
        """Tell whether anything was stored."""

    @property
    def placement(self) -> Placement:
        """Where the bytes lie, with their SHA-256."""


class PutService(Protocol):
    """Stores a document's bytes and its log row in one go."""

    def require_room(self) -> None:
        """Raise StorageFull when only the reserve for the access log is left."""

    def store(
        self, uri: DocumentURI, body: Spooled, *, media_type: str, language: str | None, if_match: str | None,
        if_none_match: str | None, attempt: Mapping[str, Any],
    ) -> StoredPut:  # fmt: skip
        """Store the body as a new document or version; raises Conflict, PreconditionFailed, StorageError or UnacceptableContent."""


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """Bounds of the data plane; seconds and bytes."""

    process_id: str
    spool_folder: Path
    max_document_bytes: int
    send_timeout: float
    receive_timeout: float


class DeliveryApp:
    """Answers GET, HEAD and PUT of ``/v1/documents/{uri}``."""

    def __init__(
        self,
        admission: BatchWorker[Work, Result],
        stores: Mapping[str, GuardedDriver],
        puts: PutService,
        pool: ThreadPoolExecutor,
        settings: DeliverySettings,
    ) -> None:
        self._admission = admission
        self._stores = stores
        self._puts = puts
        self._pool = pool
        self._settings = settings

    @staticmethod
    def routes() -> frozenset[tuple[str, str]]:
        """Return (method, path template) of all that this plane answers; the specification must mark the same."""
        return frozenset((method, PREFIX + "{uri}") for method in METHODS)

    @staticmethod
    def owns(path: bytes) -> bool:
        """Tell whether a raw path is this plane's: one segment after the prefix, whatever is percent-encoded in it."""
        prefix = PREFIX.encode()
        return path.startswith(prefix) and b"/" not in path[len(prefix) :] and len(path) > len(prefix)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure leaves as a problem document, or as a broken connection once bytes are out."""
        state = scope.setdefault("state", {})
        state["route"] = PREFIX + "{uri}"
        caller = Caller(state.get("request_id", ""), _source(scope), self._settings.process_id)
        head = scope["method"] == "HEAD"
        try:
            await self._answer(scope, receive, send, caller)
        except ProblemError as error:
            await send_problem(send, error, caller.request_id, head=head)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        method = scope["method"]
        if method not in METHODS:
            raise MethodNotAllowed(headers={"Allow": ", ".join(METHODS)})
        headers = _headers(scope)
        uri_text = _uri_text(scope)
        if method == "PUT":
            await self._put(uri_text, headers, receive, send, caller)
            return
        admitted = await self._admission.submit(ReadWork(uri_text, method, headers, caller))
        if not isinstance(admitted, Admitted):
            raise TypeError("a read was admitted as something else")
        if admitted.plan.has_body:
            await self._deliver(admitted, scope, receive, send)
        else:
            await send(_start(admitted))
            await send({"type": "http.response.body", "body": b""})

    async def _deliver(self, admitted: Admitted, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body of a read whose row is durable, and log how it ended, however it ends."""
        ending = _Ending()
        try:
            if admitted.small is not None:
                content = admitted.small.content
                body = content.result() if content.done() else await asyncio.wrap_future(content)
                await send(_start(admitted))
                await send({"type": "http.response.body", "body": body})
                ending = await self._taken(scope, len(body))
            else:
                await self._stream(admitted, scope, receive, send, ending)
        except ProblemError as error:
            ending.reason = error.reason
            raise
        except asyncio.CancelledError:
            ending.outcome, ending.reason = Outcome.ABORTED, "server-stopping"
            raise
        finally:
            self._post(end_of_read(admitted.begun, ending.outcome, ending.sent, ending.reason))

    async def _taken(self, scope: Scope, size: int) -> "_Ending":
        """Wait until the client's side has taken a small body: the kernel alone would hold it for a client that reads nothing.

        A client that leaves with bytes unread, or takes nothing for ``send_timeout`` seconds, is logged as such; the latter is cut
        off. Bytes are counted by acknowledgements, so what follows on the same connection does not disturb.
        """
        connection = connection_of(scope)
        unsent = connection.unsent() if connection else 0
        if connection is None or unsent == 0:
            return _Ending(Outcome.COMPLETE, size, None)
        loop = asyncio.get_running_loop()
        taken = connection.taken() or 0
        whole = taken + unsent
        pause, deadline = FIRST_LOOK_SECONDS, loop.time() + self._settings.send_timeout
        while loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_LOOK_SECONDS)
            now_taken = connection.taken()
            if now_taken is None and connection.was_reset:
                return _Ending(Outcome.ABORTED, max(0, size - (whole - taken)), "client-left")
            if now_taken is None or now_taken >= whole:
                return _Ending(Outcome.COMPLETE, size, None)
            if now_taken > taken:
                taken, deadline = now_taken, loop.time() + self._settings.send_timeout
        connection.abort()
        return _Ending(Outcome.ABORTED, max(0, size - (whole - taken)), "client-stalled")

    async def _stream(self, admitted: Admitted, scope: Scope, receive: Receive, send: Send, ending: "_Ending") -> None:
        """Open the object and read its first chunk before the status goes out, so that a store's fault can still be told."""
        plan, loop = admitted.plan, asyncio.get_running_loop()
        placement = plan.placement
        opened: ObjectStream = await loop.run_in_executor(
            self._pool, store_of(self._stores, placement.store).open_verified, placement.object_key, placement.size, placement.sha256,
            plan.offset, plan.length,
        )  # fmt: skip
        source = _Source(opened)
        try:
            first = [await loop.run_in_executor(self._pool, source.read, CHUNK)]

            async def next_chunk() -> bytes:
                try:
                    return first.pop() if first else await loop.run_in_executor(self._pool, source.read, LARGEST_READ)
                except ProblemError as error:
                    ending.reason = error.reason
                    raise

            await send_stream(
                receive, send, _start(admitted), next_chunk, send_timeout=self._settings.send_timeout,
                on_end=ending.note, connection=connection_of(scope),
            )  # fmt: skip
        finally:
            # Not waited for: a store that hangs must not keep the read's end out of the log.
            loop.run_in_executor(self._pool, source.close)

    async def _put(
        self, uri_text: str, headers: Mapping[str, str], receive: Receive, send: Send, caller: Caller
    ) -> None:
        allowed = await self._admission.submit(PutWork(uri_text, headers, caller))
        if not isinstance(allowed, PutAllowed):
            raise TypeError("a PUT was admitted as something else")
        try:
            stored = await self._store_body(allowed, headers, receive)
        except asyncio.CancelledError:
            with suppress(ProblemError):
                await self._admission.submit(
                    EventWork({**allowed.attempt, "outcome": Outcome.ABORTED, "reason": "server-stopping"})
                )
            raise
        except Exception as error:
            problem = as_problem(error)
            if problem is not error:
                log.error("put_fault", error=type(error).__name__, request_id=caller.request_id)
            await self._admission.submit(EventWork({**allowed.attempt, **refusal(problem)}))
            raise problem from error
        status, fields, body = stored_answer(
            allowed.uri, stored.placement, created=stored.created, changed=stored.changed
        )
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _store_body(self, allowed: PutAllowed, headers: Mapping[str, str], receive: Receive) -> StoredPut:
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in EXTENSIONS:
            raise UnsupportedMediaType(f"A document here is one of: {', '.join(sorted(EXTENSIONS))}")
        require_length_within(headers, self._settings.max_document_bytes)
        # Before a byte is received: bodies that wait for their turn must not take the log's last space.
        await asyncio.get_running_loop().run_in_executor(self._pool, self._puts.require_room)
        body = await spool(
            receive, headers, self._settings.spool_folder, self._pool,
            limit=self._settings.max_document_bytes, idle_seconds=self._settings.receive_timeout,
        )  # fmt: skip
        try:
            storing = asyncio.get_running_loop().run_in_executor(
                self._pool,
                lambda: self._puts.store(
                    allowed.uri, body, media_type=media_type, language=headers.get("content-language"),
                    if_match=headers.get("if-match"), if_none_match=headers.get("if-none-match"),
                    attempt=allowed.attempt,
                ),
            )  # fmt: skip
            return await _to_its_end(storing)
        finally:
            body.file.close()

    def _post(self, event: Mapping[str, Any]) -> None:
        # A full queue or a stopping worker: the read stays open in the log and is closed as interrupted.
        with suppress(ProblemError):
            self._admission.post_within(EventWork({**event, "event_id": uuid7()}), END_ROW_SECONDS)


async def _to_its_end(storing: asyncio.Future[StoredPut]) -> StoredPut:
    """Wait for a document that a thread is storing, also when the server stops meanwhile.

    Only the end tells whether it was stored, and its row with it; a cancelled request has a few seconds for that.
    """
    try:
        return await asyncio.shield(storing)
    except asyncio.CancelledError:
        await asyncio.wait([storing])
        return storing.result()


def _start(admitted: Admitted) -> Message:
    return {"type": "http.response.start", "status": admitted.plan.status, "headers": admitted.plan.headers}


def _headers(scope: Scope) -> dict[str, str]:
    """Return the request's headers by lower-case name; repeated ones are joined as RFC 9110 section 5.3 allows."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _uri_text(scope: Scope) -> str:
    raw: bytes = scope["raw_path"].partition(b"?")[0]
    # What is not UTF-8 is no document URI either; it goes on as such, so that the attempt is logged.
    return unquote_to_bytes(raw[len(PREFIX) :]).decode("utf-8", "replace")


def _source(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
