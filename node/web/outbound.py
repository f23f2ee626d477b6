"""Requests to outside addresses: checked, resolved once, bounded in size and time, never redirected."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from node.contract.problems import NodeFault, NodeUnavailable, ProblemError
from node.web.circuits import CircuitOpen, Circuits, DestinationBusy
from node.web.destinations import DestinationRefused, Destinations, DestinationUnreachable, Resolver

__all__ = [
    "AnswerTooLarge",
    "AnswerUnusable",
    "AsyncOutboundClient",
    "CircuitOpen",
    "DestinationBusy",
    "DestinationRefused",
    "DestinationTimeout",
    "DestinationUnreachable",
    "OutboundClient",
    "OutboundLimits",
    "OutboundResponse",
    "OutboundStream",
]


class DestinationTimeout(NodeUnavailable):
    """The host did not answer, or not go on answering, in time."""


class AnswerTooLarge(NodeFault):
    """The answer is larger than what was asked for can be."""


class AnswerUnusable(NodeFault):
    """The answer is a redirect, is compressed though that was not asked for, or is no HTTP."""


RECEIVE_BYTES = 1024 * 1024
"""What the kernel is asked to hold of an answer that is passed on and has not been read yet."""

_HOST_FAILURES = (DestinationUnreachable, DestinationTimeout)


@dataclass(frozen=True)
class OutboundLimits:
    """Times in seconds, sizes in bytes. ``total`` bounds a whole ``request``; streams are bounded by ``idle`` alone."""

    connect: float = 5.0
    first_byte: float = 15.0
    idle: float = 15.0
    total: float = 60.0
    most_bytes: int = 1024 * 1024


@dataclass(frozen=True)
class OutboundResponse:
    """An answer with its whole content; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class OutboundClient:
    """The client for requests with small answers: key sets, descriptors, pushes, webhooks.

    ``allow_private`` lists networks that are not public and may be connected to all the same, then also without TLS. Redirects
    are errors: what an operator has approved is this address. Safe to use from several threads.
    """

    def __init__(
        self,
        *,
        allow_private: Sequence[str] = (),
        limits: OutboundLimits | None = None,
        circuits: Circuits | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._limits = limits or OutboundLimits()
        self._circuits = circuits or Circuits()
        self._deadline = _Deadline()
        destinations = Destinations(allow_private, resolver)
        context = tls or ssl.create_default_context()
        self._client = httpx.Client(
            transport=_Transport(context, _Backend(destinations, True, self._deadline)),
            mounts={"http://": _Transport(context, _Backend(destinations, False, self._deadline))},
            trust_env=False,
            follow_redirects=False,
        )

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        most_bytes: int | None = None,
    ) -> OutboundResponse:
        """Send a request and return the answer, at most ``most_bytes`` of it.

        Raises DestinationRefused, DestinationUnreachable, DestinationTimeout, DestinationBusy, CircuitOpen, AnswerTooLarge or
        AnswerUnusable. An error status of the other side (400 and up) is an answer.
        """
        request = _build(self._client, method, url, headers, content, self._limits)
        with self._circuits.request(request.url.netloc.decode(), _HOST_FAILURES), _mapped_errors():
            started = time.monotonic()
            self._deadline.at = started + min(self._limits.connect + self._limits.first_byte, self._limits.total)
            response = self._client.send(request, stream=True)
            try:
                _check_head(response)
                request.extensions["timeout"]["read"] = self._limits.idle
                self._deadline.at = started + self._limits.total
                body = self._read(response, most_bytes or self._limits.most_bytes)
            finally:
                response.close()
        return OutboundResponse(response.status_code, _headers(response), body)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._client.close()

    def _read(self, response: httpx.Response, most_bytes: int) -> bytes:
        if _announced(response) > most_bytes:
            raise AnswerTooLarge
        chunks, length = [], 0
        for chunk in response.iter_raw():
            length += len(chunk)
            if length > most_bytes:
                raise AnswerTooLarge
            chunks.append(chunk)
        return b"".join(chunks)


class OutboundStream:
    """An answer whose content is taken chunk by chunk, no faster than it is asked for."""

    def __init__(self, response: httpx.Response, idle: float) -> None:
        self.status = response.status_code
        self.headers = _headers(response)
        self._chunks = response.aiter_raw()
        self._idle = idle

    async def next_chunk(self) -> bytes:
        """Return the next bytes, ``b""`` at the end.

        Raises DestinationTimeout when the other side gives nothing for the idle time, DestinationUnreachable when it breaks off:
        less than it announced is never taken for the whole.
        """
        with _mapped_errors():
            try:
                async with asyncio.timeout(self._idle):
                    return await anext(self._chunks, b"")
            except TimeoutError:
                raise DestinationTimeout(reason="idle") from None


class AsyncOutboundClient:
    """The client for large answers that are passed on as they come; used within one event loop."""

    def __init__(
        self,
        *,
        allow_private: Sequence[str] = (),
        limits: OutboundLimits | None = None,
        circuits: Circuits | None = None,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        connections: int = 100,
    ) -> None:
        self._limits = limits or OutboundLimits()
        self._circuits = circuits or Circuits()
        destinations = Destinations(allow_private, resolver)
        context = tls or ssl.create_default_context()
        self._client = httpx.AsyncClient(
            transport=_AsyncTransport(context, _AsyncBackend(destinations, True), connections),
            mounts={"http://": _AsyncTransport(context, _AsyncBackend(destinations, False), connections)},
            trust_env=False,
            follow_redirects=False,
        )

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> AsyncIterator[OutboundStream]:
        """Send a request and give the head of the answer, then its chunks.

        Leaving before the end closes the connection at once, so the other side sees that nobody reads on. Raises as
        ``OutboundClient.request`` does; size and total time are not bounded, since the reader bounds both.
        """
        request = _build(self._client, method, url, headers, content, self._limits)
        with self._circuits.request(request.url.netloc.decode(), _HOST_FAILURES):
            response = await self._head(request)
            try:
                _check_head(response)
                request.extensions["timeout"]["read"] = None  # bounded by next_chunk, which no trickle outlasts
                yield OutboundStream(response, self._limits.idle)
            finally:
                await response.aclose()

    async def _head(self, request: httpx.Request) -> httpx.Response:
        with _mapped_errors():
            try:
                async with asyncio.timeout(self._limits.connect + self._limits.first_byte):
                    return await self._client.send(request, stream=True)
            except TimeoutError:
                raise DestinationTimeout(reason="first-byte") from None

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._client.aclose()


def _build(
    client: httpx.Client | httpx.AsyncClient,
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    content: bytes | None,
    limits: OutboundLimits,
) -> httpx.Request:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise DestinationRefused(reason="bad-url") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise DestinationRefused(reason="bad-url")
    timeout = httpx.Timeout(connect=limits.connect, read=limits.first_byte, write=limits.idle, pool=limits.connect)
    ours = {"accept-encoding": "identity", "user-agent": "federated-locker"}
    return client.build_request(method, parsed, headers={**ours, **(headers or {})}, content=content, timeout=timeout)


def _check_head(response: httpx.Response) -> None:
    if 300 <= response.status_code < 400 and response.status_code != 304:
        raise AnswerUnusable(reason="redirect")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise AnswerUnusable(reason="encoded")


def _announced(response: httpx.Response) -> int:
    text = response.headers.get("content-length", "0")
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}


@contextmanager
def _mapped_errors() -> Iterator[None]:
    """Turn the library's errors into ours; its texts name addresses and stay behind."""
    try:
        yield
    except ProblemError:
        raise
    except httpx.TimeoutException as error:
        raise DestinationTimeout(reason=type(error).__name__) from None
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise DestinationUnreachable(reason=type(error).__name__) from None
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL) as error:
        raise AnswerUnusable(reason=type(error).__name__) from None


class _Transport(httpx.HTTPTransport):
    """httpx's transport over connections that our backend makes."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.NetworkBackend) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=30.0,
            network_backend=backend,
        )


class _AsyncTransport(httpx.AsyncHTTPTransport):
    """The same for an event loop."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend, connections: int) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=30.0,
            network_backend=backend,
            # Left to itself the kernel takes tens of megabytes ahead of a slow reader, and the other side would log as read what
            # nobody ever got.
            socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)],
        )


class _Deadline(threading.local):
    """When the request of this thread has to be over; reads are cut to it, so that no trickle of bytes goes on for ever."""

    at = float("inf")

    def cut(self, timeout: float | None) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if timeout is None else min(left, timeout)


class _Backend(httpcore.SyncBackend):
    """Connects to the addresses that were checked, and to nothing that a second look-up might give."""

    def __init__(self, destinations: Destinations, encrypted: bool, deadline: _Deadline) -> None:
        self._destinations = destinations
        self._encrypted = encrypted
        self._deadline = deadline
        self._lookups = ThreadPoolExecutor(max_workers=8, thread_name_prefix="lookup")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, check, connect; the name stays with the layers above, for TLS and the Host header."""
        lookup = self._lookups.submit(self._destinations.addresses, host, port, encrypted=self._encrypted)
        try:
            addresses = lookup.result(timeout)
        except FutureTimeoutError:
            raise httpcore.ConnectTimeout from None
        error: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                stream = super().connect_tcp(address, port, self._deadline.cut(timeout), local_address, socket_options)
                return _DeadlineStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
        raise error


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose reads and writes end with the request's time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.cut(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.cut(timeout))
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AnyIOBackend):
    """The same for an event loop; the look-up runs in a thread."""

    def __init__(self, destinations: Destinations, encrypted: bool) -> None:
        self._destinations = destinations
        self._encrypted = encrypted

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await asyncio.to_thread(self._destinations.addresses, host, port, encrypted=self._encrypted)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        error: Exception = httpcore.ConnectError()
        for address in addresses:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failure:
                error = failure
        raise error
