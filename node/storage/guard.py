"""What every store needs, done once: keys, bounds, checksums, timing, and stray errors."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self

import structlog

from node.contract.problems import RangeNotSatisfiable
from node.storage.errors import (
    ObjectDamaged,
    ObjectTooLarge,
    OperationNotSupported,
    StorageError,
    UnexpectedStoreError,
)
from node.storage.interface import (
    CHUNK,
    LARGEST_READ,
    ByteSource,
    Capabilities,
    Finding,
    ObjectInfo,
    ObjectStream,
    StorageDriver,
    StorageHealth,
)
from node.storage.keys import require_key, require_prefix

log = structlog.get_logger()

HASHED_AT_ONCE = 64 * 1024
"""Bytes from which a document is hashed without the interpreter's lock."""

Observer = Callable[[str, float, str], None]
"""Told the operation, its seconds, and ``ok`` or the reason of its failure."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that was put and read back: size in bytes, SHA-256 in hex."""

    key: str
    size: int
    sha256: str


class GuardedDriver:
    """A driver that can be trusted with keys from anywhere and whose answers can be trusted."""

    def __init__(self, driver: StorageDriver, *, name: str = "store", observe: Observer | None = None) -> None:
        """``name`` is the store's name in the settings, for the log."""
        self.name = name
        self._driver = driver
        self._observe = observe

    @property
    def capabilities(self) -> Capabilities:
        """What the store can do beyond reading."""
        return self._driver.capabilities

    def open_verified(
        self, key: str, size: int, sha256: str, offset: int = 0, length: int | None = None
    ) -> ObjectStream:
        """Return a stream of an object recorded with this size and SHA-256, or of a range of it; the caller closes it.

        A whole object's last chunk is handed out only once length and SHA-256 agree; a range must give its exact length. Else the
        stream raises ObjectDamaged. It never holds more than 1 MiB of it. Raises RangeNotSatisfiable for a range that is
        not inside the recorded size, InvalidKey, ObjectMissing.
        """
        require_key(key)
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise RangeNotSatisfiable(reason="range-outside-object")
        is_whole = length == size
        with self.calling("open"):
            if is_whole or not self.capabilities.ranges:
                stream = self._driver.open(key)
            else:
                stream = self._driver.open(key, offset, length)
        skip = 0 if self.capabilities.ranges else offset
        return _CheckedStream(self, stream, skip, length, sha256 if is_whole else None)

    def read_whole(self, key: str, size: int, sha256: str) -> bytes:
        """Return a small object's bytes, at most 256 KiB, checked; raises ObjectDamaged, ObjectMissing."""
        require_key(key)
        if size > CHUNK:
            raise ValueError("read_whole is for objects of at most one chunk")
        with self.calling("read"):
            stream = self._driver.open(key)
            try:
                # One byte more than recorded shows an object that goes on.
                content = _fill(stream, size + 1)
            finally:
                stream.close()
            if len(content) != size or _digest_of_small(content) != sha256:
                raise ObjectDamaged()
        return content

    def verify(self, key: str, size: int, sha256: str) -> None:
        """Read an object through; raises ObjectDamaged or ObjectMissing unless it is there as recorded."""
        with self.open_verified(key, size, sha256) as stream:
            while stream.read(LARGEST_READ):
                pass

    def put(self, key: str, source: ByteSource, size: int) -> StoredObject:
        """Store ``size`` bytes durably under a new key and read them back.

        What a store has taken down wrongly is deleted again and raises ObjectDamaged. Raises also InvalidKey, ObjectExists,
        SizeMismatch, StoreFull, ObjectTooLarge, OperationNotSupported, and whatever the source itself raises.
        """
        require_key(key)
        if size < 0:
            raise ValueError("a size is not negative")
        if not self.capabilities.put:
            raise OperationNotSupported()
        limit = self.capabilities.max_object_size
        if limit is not None and size > limit:
            raise ObjectTooLarge(f"This store takes objects of at most {limit} bytes")
        measured = _MeasuredSource(source)
        with self.calling("put", measured):
            info = self._driver.put(key, measured, size)
        stored = StoredObject(key, size, measured.sha256)
        try:
            if not measured.size == info.size == size:
                raise ObjectDamaged()
            self.verify(key, size, stored.sha256)
        except BaseException:
            self._discard(key)
            raise
        return stored

    def stat(self, key: str) -> ObjectInfo:
        """Return what the store knows of an object; raises InvalidKey, ObjectMissing."""
        require_key(key)
        with self.calling("stat"):
            return self._driver.stat(key)

    def delete(self, key: str) -> None:
        """Remove an object for good, which may be gone already; raises InvalidKey, OperationNotSupported."""
        require_key(key)
        with self.calling("delete"):
            self._driver.delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with a prefix; raises InvalidKey, OperationNotSupported at the first one."""
        require_prefix(prefix)
        with self.calling("list"):
            yield from self._driver.list(prefix)

    def health(self) -> StorageHealth:
        """Return how the store is, whatever the driver does."""
        try:
            return self._driver.health()
        except Exception as error:
            log.error("store_health_failed", store=self.name, cause=_describe(error))
            unknown = Finding(None, "The driver could not say")
            return StorageHealth(Finding(False, "The driver failed while it looked"), unknown, unknown, unknown)

    def sweep(self) -> int:
        """Remove what crashed puts have left; return how many."""
        with self.calling("sweep"):
            return self._driver.sweep()

    def close(self) -> None:
        """Give back what the driver holds."""
        with self.calling("close"):
            self._driver.close()

    @contextmanager
    def calling(self, operation: str, source: "_MeasuredSource | None" = None) -> Iterator[None]:
        """Time a call of the driver, log its fault and see that only our errors come out."""
        started = perf_counter()
        outcome = "ok"
        try:
            yield
        except Exception as error:
            if source is not None and source.failure is not None:
                outcome = "source-failed"
                raise source.failure from None
            outcome = self.report(operation, error)
            if isinstance(error, StorageError):
                raise
            raise UnexpectedStoreError() from error
        finally:
            self.observe(operation, perf_counter() - started, outcome)

    def report(self, operation: str, error: Exception) -> str:
        """Log a store's fault with its cause, but no key: a key tells which document it is. Return the reason."""
        reason = error.reason if isinstance(error, StorageError) else UnexpectedStoreError.word
        if not isinstance(error, StorageError) or error.status >= 500:
            cause = error if not isinstance(error, StorageError) else error.__cause__
            log.warning("store_fault", store=self.name, operation=operation, reason=reason, cause=_describe(cause))
        return reason

    def observe(self, operation: str, seconds: float, outcome: str) -> None:
        """Hand a timing to the observer, if there is one."""
        if self._observe is not None:
            self._observe(operation, seconds, outcome)

    def _discard(self, key: str) -> None:
        """Remove an object that was taken down wrongly; failing to is logged, the first error is what counts."""
        try:
            self.delete(key)
        except StorageError as error:
            log.error("store_discard_failed", store=self.name, reason=error.reason)


class _CheckedStream:
    """One object, or a range, that ends as recorded or with ObjectDamaged."""

    def __init__(self, guard: GuardedDriver, stream: ObjectStream, skip: int, length: int, sha256: str | None) -> None:
        self._guard = guard
        self._stream = stream
        self._skip = skip
        self._left = length
        self._expected = sha256
        self._digest = hashlib.sha256() if sha256 is not None else None
        self._ended = False
        self._seconds = 0.0
        self._failure: StorageError | None = None
        self._closed = False

    def read(self, size: int, /) -> bytes:
        if self._closed:
            raise ValueError("the stream is closed")
        if self._failure is not None:
            raise self._failure
        if self._ended:
            return b""
        started = perf_counter()
        try:
            return self._next(min(size, LARGEST_READ, self._left))
        except Exception as error:
            self._guard.report("read", error)
            self._failure = error if isinstance(error, StorageError) else UnexpectedStoreError()
            raise self._failure from (error.__cause__ if error is self._failure else error)
        finally:
            self._seconds += perf_counter() - started

    def _next(self, size: int) -> bytes:
        self._skip_ahead()
        chunk = _fill(self._stream, size)
        if len(chunk) != size:
            raise ObjectDamaged()
        self._left -= size
        if self._digest is not None:
            self._digest.update(chunk)
        if self._left == 0:
            self._require_whole()
            self._ended = True
        return chunk

    def _skip_ahead(self) -> None:
        while self._skip:
            passed = self._stream.read(min(CHUNK, self._skip))
            if not passed:
                raise ObjectDamaged()
            self._skip -= len(passed)

    def _require_whole(self) -> None:
        """Compare before the last chunk goes out, for after it nothing can be taken back."""
        if self._digest is None:
            return
        if self._stream.read(1) or self._digest.hexdigest() != self._expected:
            raise ObjectDamaged()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        outcome = self._failure.reason if self._failure else "ok" if self._ended else "left"
        self._guard.observe("read", self._seconds, outcome)
        with self._guard.calling("close"):
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _MeasuredSource:
    """A put's source that counts and hashes what the driver takes, and keeps apart the source's own failure."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.size = 0
        self.failure: Exception | None = None

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int, /) -> bytes:
        try:
            piece = self._source.read(size)
        except Exception as error:
            self.failure = error
            raise
        self._digest.update(piece)
        self.size += len(piece)
        return piece


def _digest_of_small(content: bytes) -> str:
    """Return the SHA-256 in hex, made without letting go of the interpreter's lock.

    hashlib lets go of it for pieces of 2048 bytes and more, and waiting for it again takes longer than hashing a small document.
    """
    digest = hashlib.sha256()
    if len(content) > HASHED_AT_ONCE:
        digest.update(content)
    else:
        view = memoryview(content)
        for start in range(0, len(content), 2047):
            digest.update(view[start : start + 2047])
    return digest.hexdigest()


def _fill(stream: ObjectStream, size: int) -> bytes:
    """Return ``size`` bytes, fewer only at the end of the stream."""
    found: list[bytes] = []
    missing = size
    while missing:
        piece = stream.read(missing)
        if not piece:
            break
        if len(piece) > missing:
            raise ObjectDamaged("The store gave more than it was asked for")
        found.append(piece)
        missing -= len(piece)
    return found[0] if len(found) == 1 else b"".join(found)


def _describe(error: BaseException | None) -> str | None:
    """Return an error's type and number for the log; its text may hold a path."""
    if error is None:
        return None
    number = getattr(error, "errno", None)
    return f"{type(error).__name__} {number}" if number else type(error).__name__
