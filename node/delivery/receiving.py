"""Taking a document's bytes in: to a temporary file with a bound, a time-out and a digest, never to memory."""

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from node.contract.problems import BadRequest, BodyTooLarge, DigestMismatch, RequestTimeout
from node.web.digest import parse_sha256

BLOCK = 256 * 1024

Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class BodyIncomplete(BadRequest):
    """The client left before the body was whole."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """A body on disk: its file, rewound, its size in bytes and SHA-256 in hex. The receiver closes the file."""

    file: IO[bytes]
    size: int
    sha256: str


async def spool(
    receive: Receive, headers: Mapping[str, str], folder: Path, pool: Executor, *, limit: int, idle_seconds: float
) -> Spooled:
    """Read a request's body into an unnamed temporary file.

    Raises BodyTooLarge over ``limit`` bytes, DigestMismatch when ``Repr-Digest`` or ``Content-Digest`` differs, RequestTimeout,
    BodyIncomplete, and BadRequest for an empty body. Nothing is left behind in any of these cases.
    """
    expected = [value for name in ("repr-digest", "content-digest") if (value := _digest(headers.get(name)))]
    loop = asyncio.get_running_loop()
    # Without a name nothing is left behind, however the process ends.
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # handed on to whoever stores it
    digest = hashlib.sha256()
    size = 0
    try:
        async for block in _blocks(receive, idle_seconds):
            size += len(block)
            if size > limit:
                raise BodyTooLarge(f"A document has at most {limit} bytes here")
            await loop.run_in_executor(pool, _take, file, digest, block)
        if size == 0:
            raise BadRequest("A document cannot be empty", reason="empty-body")
        if any(digest.digest() != value for value in expected):
            raise DigestMismatch()
        await loop.run_in_executor(pool, file.seek, 0)
    except BaseException:
        file.close()
        raise
    return Spooled(file, size, digest.hexdigest())


def require_length_within(headers: Mapping[str, str], limit: int) -> None:
    """Raise BodyTooLarge before anything is read when ``Content-Length`` is already over the limit."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise BodyTooLarge(f"A document has at most {limit} bytes here")


async def _blocks(receive: Receive, idle_seconds: float) -> Any:
    """Gather the body's pieces to blocks worth a hop to another thread."""
    gathered = bytearray()
    more = True
    while more:
        try:
            message = await asyncio.wait_for(receive(), idle_seconds)
        except TimeoutError as error:
            raise RequestTimeout(reason="body-stalled", headers={"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise BodyIncomplete(reason="client-left")
        gathered += message.get("body", b"")
        more = message.get("more_body", False)
        if gathered and (len(gathered) >= BLOCK or not more):
            yield bytes(gathered)
            gathered.clear()


def _take(file: IO[bytes], digest: Any, block: bytes) -> None:
    digest.update(block)
    file.write(block)


def _digest(header: str | None) -> bytes | None:
    return parse_sha256(header) if header else None
