"""A store in memory, for tests and demonstrations: gone when the process ends."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from threading import Lock
from time import time_ns
from typing import Self

from node.storage.errors import ObjectExists, ObjectMissing
from node.storage.interface import (
    ByteSource,
    Capabilities,
    Finding,
    ObjectInfo,
    ObjectStream,
    StorageDriver,
    StorageHealth,
)
from node.storage.options import Options
from node.storage.pieces import pieces


class MemoryDriver(StorageDriver):
    """Objects in a dictionary; it has no options."""

    capabilities = Capabilities(ranges=True, list=True, put=True, delete=True, local=True)

    def __init__(self) -> None:
        self._objects: dict[str, tuple[ObjectInfo, bytes]] = {}
        self._lock = Lock()

    @classmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        """Make an empty store; raises SettingsError for any option."""
        Options(options).finish()
        return cls()

    def open(self, key: str, offset: int = 0, length: int | None = None) -> ObjectStream:
        _, content = self._find(key)
        return BytesIO(content[offset:] if length is None else content[offset : offset + length])

    def stat(self, key: str) -> ObjectInfo:
        info, _ = self._find(key)
        return info

    def put(self, key: str, source: ByteSource, size: int) -> ObjectInfo:
        if key in self._objects:
            raise ObjectExists()
        content = b"".join(pieces(source, size))
        info = ObjectInfo(key, size, time_ns() // 1000)
        with self._lock:
            if key in self._objects:
                raise ObjectExists()
            self._objects[key] = info, content
        return info

    def delete(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        with self._lock:
            found = [info for key, (info, _) in self._objects.items() if key.startswith(prefix)]
        yield from found

    def health(self) -> StorageHealth:
        fine = Finding(True, "Memory can be read and written")
        return StorageHealth(
            read=fine,
            write=fine,
            space=Finding(None, "Memory does not tell how much is free"),
            credential=Finding(None, "Memory needs no credential"),
        )

    def _find(self, key: str) -> tuple[ObjectInfo, bytes]:
        try:
            return self._objects[key]
        except KeyError:
            # The KeyError says nothing that ObjectMissing does not.
            raise ObjectMissing() from None
