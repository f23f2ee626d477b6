"""One web process: uvicorn, with what it leaves to others set right."""

import asyncio
import contextlib
import ctypes
import socket
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from node.contract.identifiers import uuid7
from node.contract.problems import BadRequest, HeadersTooLarge, ProblemError, ServiceUnavailable
from node.web.problems import ResponseBroken, problem_answer, send_problem_for

MOST_HEAD_BYTES = 64 * 1024
ABORT_SECONDS = 5.0
_TCP_INFO_BYTES = 192
_BYTES_ACKED_OFFSET = 120
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

# fcntl.ioctl lets go of the interpreter's lock for a call that takes no time, and each small read would queue for it again.
_ioctl = ctypes.PyDLL(None, use_errno=True).ioctl
_ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.POINTER(ctypes.c_int)]


@dataclass(frozen=True)
class ServerSettings:
    """What an operator may set of a web process; times in seconds."""

    certificate: Path | None = None
    private_key: Path | None = None
    drain_seconds: float = 30.0
    keep_alive_seconds: int = 75
    head_seconds: float = 30.0
    most_requests: int | None = None
    backlog: int = 2048


def run_asgi(app: ASGIApp, sockets: Sequence[socket.socket], settings: ServerSettings | None = None) -> None:
    """Serve an application on bound sockets until SIGTERM or SIGINT.

    Then nothing more is accepted, requests under way have ``drain_seconds`` to end, the rest is cancelled and has a few seconds
    to write down that it was, and only then does the application's lifespan end.
    """
    build_server(app, settings).run(sockets=list(sockets))


def build_server(app: ASGIApp, settings: ServerSettings | None = None) -> "Server":
    """Return the server that ``run_asgi`` runs; setting its ``should_exit`` stops it, in whatever thread it runs."""
    settings = settings or ServerSettings()
    config = uvicorn.Config(
        _Outermost(app, settings.most_requests),
        interface="asgi3",
        http=_protocol(settings),
        loop="uvloop",
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=settings.backlog,
        timeout_keep_alive=settings.keep_alive_seconds,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )
    return Server(config, settings.drain_seconds)


class _Connection:
    """A client's connection as ``stream.Connection`` has it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.was_reset = False

    def taken(self) -> int | None:
        """Return the kernel's count of acknowledged bytes (``tcpi_bytes_acked`` of tcp(7)); None once closed."""
        peer = self._transport.get_extra_info("socket")
        if peer is None or self._transport.is_closing():
            return None
        try:
            information = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return None
        return int(struct.unpack_from("Q", information, _BYTES_ACKED_OFFSET)[0])

    def unsent(self) -> int:
        """Count what waits here and what the kernel holds: that can be megabytes, which a slow client takes for minutes."""
        peer = self._transport.get_extra_info("socket")
        if peer is None or self._transport.is_closing():
            return self._transport.get_write_buffer_size()
        in_kernel = ctypes.c_int()
        if _ioctl(peer.fileno(), termios.TIOCOUTQ, in_kernel) < 0:
            raise OSError(ctypes.get_errno(), "TIOCOUTQ")
        return self._transport.get_write_buffer_size() + in_kernel.value

    def abort(self) -> None:
        """Close with a reset: an orderly end would look like the end of a body that has no announced length."""
        peer: socket.socket | None = self._transport.get_extra_info("socket")
        if peer is not None:
            with contextlib.suppress(OSError):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()


class _Outermost:
    """Break connections as applications ask for it, and refuse requests beyond the most that run at once."""

    def __init__(self, app: ASGIApp, most_requests: int | None) -> None:
        self._app = app
        self._most_requests = most_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if self._most_requests is not None and self._running >= self._most_requests:
            return await send_problem_for(scope, send, ServiceUnavailable(headers={"Retry-After": "1"}))
        self._running += 1
        try:
            return await self._app(scope, receive, send)
        except (ResponseBroken, asyncio.CancelledError):  # cancelled: the server stops
            scope["extensions"]["federated_locker.connection"].abort()
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._running -= 1


class _LockerProtocol(HttpToolsProtocol):
    """HTTP/1.1 that offers its connection to the application, bounds the head of a request in size and time, and answers
    what is no HTTP with a problem document. uvicorn bounds neither."""

    head_seconds = 30.0

    _head_bytes = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._connection = _Connection(transport)
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timing()
        self._connection.was_reset = exc is not None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head = self._in_head
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data) if was_in_head else 0
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(HeadersTooLarge())
            elif self._head_timer is None:
                self._time_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        extensions: dict[str, Any] = {"federated_locker.connection": self._connection}
        self.scope["extensions"] = extensions

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._stop_timing()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("This is not an HTTP request", reason="bad-http"))

    def _refuse(self, error: ProblemError) -> None:
        status, headers, body = problem_answer(error, uuid7())
        lines = [STATUS_LINE[status], b"connection: close\r\n"]
        lines += [name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        self.transport.write(b"".join([*lines, b"\r\n", body]))
        self.transport.close()

    def _time_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop_timing(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _protocol(settings: ServerSettings) -> type[asyncio.Protocol]:
    return type("LockerProtocol", (_LockerProtocol,), {"head_seconds": settings.head_seconds})


class Server(uvicorn.Server):
    """uvicorn's server, whose stop waits for cancelled requests before it ends the application's lifespan.

    uvicorn ends the lifespan, and with it the database, while cancelled requests have yet to write how they ended. What
    ``drain_seconds`` is when the stop begins counts.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Note the signal without raising it again at the end: an orderly stop is exit status 0."""
        self.should_exit = True

    async def _wait_tasks_to_complete(self) -> None:
        state = self.server_state
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.drain_seconds
        while (state.tasks or state.connections) and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn keeps sets, no events
            await asyncio.sleep(0.05)
        cancelled = list(state.tasks)
        for task in cancelled:
            task.cancel()
        if cancelled:
            await asyncio.wait(cancelled, timeout=ABORT_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
