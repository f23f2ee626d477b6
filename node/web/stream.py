"""The transfer of a body: chunk by chunk, no faster than the client takes it, and never ended cleanly unless it is whole."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import structlog
from starlette.types import Message, Receive, Send

from node.contract.problems import StoreFault
from node.web.problems import ResponseBroken

log = structlog.get_logger("node.web.stream")

CHUNK_BYTES = 256 * 1024
WATCH_AFTER_SECONDS = 0.25

Outcome = Literal["complete", "aborted", "stalled", "failed"]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a transfer ended, and how many bytes of the body were handed to the connection.

    The bytes count when the server has put them into the connection's write buffer while the connection stood. Up to a chunk
    and the server's high-water mark (64 KiB) of them may not have left the process, and what the two kernels hold may never
    have reached the client: the number is the most that the client can have, not what it has.
    """

    outcome: Outcome
    sent: int


class Connection(Protocol):
    """What our server offers of a client's connection (``processes.run_asgi`` puts it into the scope)."""

    def unsent(self) -> int:
        """Return how many bytes the client has yet to take, those in the kernel included."""

    def taken(self) -> int | None:
        """Return how many bytes the other side has acknowledged in all; None once the connection is closed."""

    @property
    def was_reset(self) -> bool:
        """Tell whether the connection ended by a reset, as it does when a client leaves with bytes unread."""

    def abort(self) -> None:
        """Close at once, with a reset, whatever waits."""


def connection_of(scope: Mapping[str, Any]) -> Connection | None:
    """Return the connection of a request, None under a server that does not offer it."""
    extensions = scope.get("extensions") or {}
    return cast("Connection | None", extensions.get("federated_locker.connection"))


async def send_stream(
    receive: Receive,
    send: Send,
    start_message: Message,
    next_chunk: Callable[[], Awaitable[bytes]],
    *,
    send_timeout: float,
    on_end: Callable[[StreamEnd], Awaitable[None]] | None = None,
    connection: Connection | None = None,
) -> StreamEnd:
    """Send a response whose body comes from ``next_chunk``, which gives ``b""`` at the end and is asked only as the client takes.

    - A client that leaves is noticed within a second, also while ``next_chunk`` is waiting, which is then cancelled: aborted.
    - A client that takes nothing for ``send_timeout`` seconds is ended: stalled. With ``connection`` a byte taken counts; without
      it, a client must take about a chunk in that time.
    - When ``next_chunk`` raises, or gives more or less than Content-Length announces: failed. Nothing is sent before the first
      chunk is there, so an error in place of it is raised as it is (StoreFault for a wrong length) and can still be answered.

    ``on_end`` is awaited once, whatever happens, before the connection is broken; the place to close the source and write the
    log row. Returns for complete and aborted. For stalled and failed raises ResponseBroken, so that the server breaks the
    connection and a part is never taken for the whole. A cancelled task (a server that stops) counts as aborted.

    With Content-Length the last chunk ends the response and ``next_chunk`` is not asked again, so a source that checks what it
    gave does it before it gives the last chunk.
    """
    transfer = _Transfer(receive, send, send_timeout, connection, _content_length(start_message))
    outcome: Outcome = "aborted"
    try:
        outcome = await transfer.run(start_message, next_chunk)
    except Exception:
        outcome = "failed"
        raise
    finally:
        end = StreamEnd(outcome, transfer.sent)
        if on_end:
            await on_end(end)
    if outcome in ("stalled", "failed"):
        raise ResponseBroken
    return end


class _Transfer:
    """One body on its way. A single deadline ends whatever is being waited for, on a stall or when the client has left."""

    def __init__(
        self, receive: Receive, send: Send, send_timeout: float, connection: Connection | None, length: int | None
    ) -> None:
        self._receive = receive
        self._send = send
        self._send_timeout = send_timeout
        self._connection = connection
        self._length = length
        self._loop = asyncio.get_running_loop()
        self._deadline = asyncio.timeout(None)
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False
        self.sent = 0

    async def run(self, start_message: Message, next_chunk: Callable[[], Awaitable[bytes]]) -> Outcome:
        # A small document is one chunk and over in a moment: no task is made for it.
        watch = self._loop.call_later(WATCH_AFTER_SECONDS, self._watch)
        try:
            async with self._deadline:
                return await self._all(start_message, next_chunk)
        except TimeoutError:
            return "aborted" if self._gone else "stalled"
        finally:
            watch.cancel()
            if self._watcher:
                self._watcher.cancel()

    async def _all(self, start_message: Message, next_chunk: Callable[[], Awaitable[bytes]]) -> Outcome:
        started = False
        while True:
            try:
                chunk = self._checked(await next_chunk())
            except Exception as error:
                if not started:
                    raise
                log.error("source failed", error=type(error).__name__, sent=self.sent)
                return "failed"
            if not started:
                await self._send(start_message)
            last = self.sent + len(chunk) == self._length if self._length is not None else not chunk
            if last and not started:
                return await self._put(chunk, more=False)
            started = True
            if (outcome := await self._put(chunk, more=True)) != "complete":
                return outcome
            if last:
                return await self._put(b"", more=False)  # waits until the client has taken all but the low-water mark
            self._watch()
            await asyncio.sleep(0)  # a source that never waits would keep the loop from seeing that the client has left

    def _checked(self, chunk: bytes) -> bytes:
        if self._length is None:
            return chunk
        if self.sent + len(chunk) > self._length or not (chunk or self._length == 0):
            raise StoreFault(reason="wrong-length")
        return chunk

    async def _put(self, chunk: bytes, *, more: bool) -> Outcome:
        """Hand one chunk to the server once the client has taken enough of the one before."""
        self._deadline.reschedule(self._loop.time() + self._send_timeout)
        progress = self._follow_progress() if self._connection and self.sent else None
        try:
            await self._send({"type": "http.response.body", "body": chunk, "more_body": more})
        finally:
            if progress:
                progress.cancel()
        if self._gone:
            return "aborted"
        self.sent += len(chunk)
        self._deadline.reschedule(None)
        return "complete"

    def _follow_progress(self) -> "_Progress":
        assert self._connection is not None
        return _Progress(self._loop, self._connection, self._deadline, self._send_timeout)

    def _watch(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if not self._deadline.expired():
            self._deadline.reschedule(self._loop.time())


class _Progress:
    """Move the deadline on for as long as a slow client takes something."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: Connection, deadline: asyncio.Timeout, send_timeout: float
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._deadline = deadline
        self._send_timeout = send_timeout
        self._unsent: int | None = None
        self._timer = loop.call_later(send_timeout / 4, self._check)

    def _check(self) -> None:
        unsent = self._connection.unsent()
        if self._unsent is not None and unsent < self._unsent and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time() + self._send_timeout)
        self._unsent = unsent
        self._timer = self._loop.call_later(self._send_timeout / 4, self._check)

    def cancel(self) -> None:
        self._timer.cancel()


def _content_length(start_message: Message) -> int | None:
    for name, value in start_message.get("headers", ()):
        if name.lower() == b"content-length":
            return int(value)
    return None
