"""What a store is. The docstrings here are the contract; ``node.storage.conformance`` holds a driver to it.

A driver never checks keys, hashes, times or bounds: ``GuardedDriver`` does that once for all of them. A driver may be called from
several threads at once.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Protocol, Self

from node.storage.errors import OperationNotSupported

CHUNK = 256 * 1024
"""Bytes of a piece, where nothing speaks for more; what is no larger is a small object."""

LARGEST_READ = 1024 * 1024
"""The most that one read of a checked stream gives: each read is a thread's turn, and a large object is read in few of them."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond reading whole objects; sizes in bytes, None for no bound.

    ``ranges`` says that ``open`` can begin and end inside an object. Without it the guard reads up to the place and throws away.
    ``local`` says that the bytes lie on this machine, so that one small object after the other is read sooner than by several
    threads at once.
    """

    ranges: bool = False
    list: bool = False
    put: bool = False
    delete: bool = False
    local: bool = False
    max_object_size: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as its store knows it: size in bytes, time of its last change in microseconds UTC."""

    key: str
    size: int
    modified_us: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that health looked at: ``ok`` is None when it could not be told or does not apply; a sentence says why."""

    ok: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class StorageHealth:
    """How a store is, each thing told apart. ``free_bytes`` is None where the store does not say."""

    read: Finding
    write: Finding
    space: Finding
    credential: Finding
    free_bytes: int | None = None

    @property
    def findings(self) -> dict[str, Finding]:
        """The findings by name."""
        return {"read": self.read, "write": self.write, "space": self.space, "credential": self.credential}

    @property
    def ok(self) -> bool:
        """Tell that nothing was found wrong."""
        return all(finding.ok is not False for finding in self.findings.values())


class ByteSource(Protocol):
    """What a put reads from; any binary file is one."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, and ``b""`` only at the end."""


class ObjectStream(Protocol):
    """Bytes of one object, read once from first to last by one thread at a time. Whoever opened it closes it."""

    def read(self, size: int, /) -> bytes:
        """Return at least one and at most ``size`` bytes (``size`` is 1 or more), and ``b""`` only at the end, then always.

        A connection that breaks raises StoreUnreachable: an early end must never look like the end. Raises ValueError once closed.
        """

    def close(self) -> None:
        """Give back what the stream holds, read to the end or not; closing again does nothing."""

    def __enter__(self) -> Self:
        """Return the stream itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close the stream."""


class StorageDriver(ABC):
    """A store of objects that are written once and never change.

    Three operations are enough for a store that is only read: ``open``, ``stat`` and ``health``. Every key that arrives here is in
    the grammar of ``node.storage.keys``; keys that differ in one character, or in case alone, name different objects. Of two keys
    of which one is the other followed by a slash, a store that has folders may refuse the second with ObjectExists.

    Every operation raises only ``StorageError``, with what the system or SDK raised as ``__cause__``. A store that cannot tell
    whether an object exists raises StoreUnreachable or AccessRefused, never ObjectMissing, and remembers nothing of it: the next
    call asks again, on a new connection where the old one is dead.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    path_options: ClassVar[frozenset[str]] = frozenset()
    """Options that are paths; a relative one is taken from the node's folder before ``from_settings`` sees it."""

    @classmethod
    @abstractmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        """Make a driver from a store's options; raises SettingsError naming one that is unknown, missing or wrong."""

    @abstractmethod
    def open(self, key: str, offset: int = 0, length: int | None = None) -> ObjectStream:
        """Return a stream of the object, or of ``length`` bytes from ``offset``; the caller closes it.

        A range that goes past the end gives what there is; one that begins at or past the end gives an empty stream. Without
        ``ranges`` in the capabilities only whole objects are asked for. Raises ObjectMissing now, not at the first read.
        """

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """Return what the store knows of an object, without its bytes; raises ObjectMissing."""

    @abstractmethod
    def health(self) -> StorageHealth:
        """Really try what the store must do, leave nothing behind, and say how it went; raises nothing."""

    def put(self, key: str, source: ByteSource, size: int) -> ObjectInfo:
        """Store exactly ``size`` bytes from ``source``, which the caller closes, and return once they survive a crash.

        All or nothing: until the end nobody sees the key, by ``open``, ``stat`` or ``list``, and whatever fails leaves nothing
        under it. Never overwrites: raises ObjectExists, and of several at once exactly one wins. Raises SizeMismatch when the
        source ends early or goes on, StoreFull when there is no room. An error of the source itself passes through unchanged.
        The source is read in pieces of at most ``CHUNK`` bytes and is not sought in.
        """
        raise OperationNotSupported()

    def delete(self, key: str) -> None:
        """Remove an object for good; idempotent, so one that is not there is no error. Open streams may go on or break."""
        raise OperationNotSupported()

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with ``prefix`` (any text of a key's characters), in no promised order.

        Objects put or deleted meanwhile may or may not be among them; nothing else ever is, and no half-written one.
        """
        raise OperationNotSupported()

    def sweep(self) -> int:
        """Remove what crashed puts have left, and nothing that a living one uses; return how many. For the start of a service."""
        return 0

    def close(self) -> None:  # noqa: B027  # optional: most drivers hold nothing
        """Give back connections and handles; closing again does nothing, using the driver afterwards is an error."""
