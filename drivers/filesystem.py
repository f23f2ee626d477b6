"""A store in a folder: each object a file whose path beneath the folder is its key."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Self

from drivers.beneath import Beneath
from drivers.newfile import TEMPORARY, NewFile, remove_leftover
from node.storage.errors import (
    AccessRefused,
    InvalidKey,
    ObjectDamaged,
    ObjectExists,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StoreBusy,
    StoreFull,
    StoreUnreachable,
)
from node.storage.interface import (
    ByteSource,
    Capabilities,
    Finding,
    ObjectInfo,
    ObjectStream,
    StorageDriver,
    StorageHealth,
)
from node.storage.keys import is_key
from node.storage.options import Options
from node.storage.pieces import pieces

SWEEP_AGE_SECONDS = 60

# EIO tells that the device did not answer, not that the bytes differ from those recorded: nothing is known of the object, a cable or
# a mount may come back, and calling it damaged would send an operator to a backup. So it counts as unreachable, as does all that
# is not named here.
_ERRORS: dict[int, type[StorageError]] = {
    errno.ENOENT: ObjectMissing,
    errno.ENOTDIR: ObjectMissing,
    # A link, or a device, where an object should be: we put none, so there is no object.
    errno.ELOOP: ObjectMissing,
    errno.ENXIO: ObjectMissing,
    errno.EEXIST: ObjectExists,
    errno.ENAMETOOLONG: InvalidKey,
    # A path that leads out of the root; the guard lets none through.
    errno.EXDEV: InvalidKey,
    errno.EACCES: AccessRefused,
    errno.EPERM: AccessRefused,
    errno.EROFS: AccessRefused,
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EFBIG: ObjectTooLarge,
    errno.EMFILE: StoreBusy,
    errno.ENFILE: StoreBusy,
    errno.ENOMEM: StoreBusy,
    errno.EAGAIN: StoreBusy,
    errno.EBUSY: StoreBusy,
}
# In a put, a folder that is not there is a store that is gone, and a file or link in a folder's place is an object in the way.
_PUT_ERRORS = {
    **_ERRORS,
    errno.ENOENT: StoreUnreachable,
    errno.ENOTDIR: ObjectExists,
    errno.ELOOP: ObjectExists,
}


class FilesystemDriver(StorageDriver):
    """Options: ``root``, a folder that exists; ``reserve_bytes`` that puts leave free; ``sweep_age_seconds`` of a leftover."""

    capabilities = Capabilities(ranges=True, list=True, put=True, delete=True, local=True)
    path_options = frozenset({"root"})

    def __init__(self, root: Path, *, reserve_bytes: int = 0, sweep_age_seconds: int = SWEEP_AGE_SECONDS) -> None:
        """Open the folder; raises StorageError when it cannot be opened."""
        with _in_our_words():
            self._beneath = Beneath(root)
        self._reserve = reserve_bytes
        self._sweep_age = sweep_age_seconds

    @classmethod
    def from_settings(cls, options: Mapping[str, object]) -> Self:
        """Make a driver from a store's options; raises SettingsError, and StorageError when the folder cannot be opened."""
        given = Options(options)
        root = given.folder("root")
        reserve = given.count("reserve_bytes", 0)
        age = given.count("sweep_age_seconds", SWEEP_AGE_SECONDS)
        given.finish()
        return cls(root, reserve_bytes=reserve, sweep_age_seconds=age)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> ObjectStream:
        fd, status = self._open_object(key)
        left = max(0, status.st_size - offset)
        return _FileStream(fd, offset, left if length is None else min(left, length))

    def stat(self, key: str) -> ObjectInfo:
        fd, status = self._open_object(key)
        os.close(fd)
        return _info(key, status)

    def put(self, key: str, source: ByteSource, size: int) -> ObjectInfo:
        with suppress(ObjectMissing):
            self.stat(key)
            raise ObjectExists()
        self._require_room(size)
        path, _, name = key.rpartition("/")
        with _in_our_words(_PUT_ERRORS):
            folder = self._beneath.open_or_make_folder(path)
        try:
            return _info(key, _write_new(folder, name, pieces(source, size)))
        finally:
            os.close(folder)

    def delete(self, key: str) -> None:
        with suppress(ObjectMissing), _in_our_words():
            folder, name = self._beneath.open_parent(key)
            try:
                if stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=folder)
                    os.fsync(folder)
            finally:
                os.close(folder)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder, _, _ = prefix.rpartition("/")
        self._require_root()
        with suppress(ObjectMissing), _in_our_words():
            for key, entry in self._beneath.files(folder):
                if key.startswith(prefix) and is_key(key):
                    with suppress(FileNotFoundError):
                        yield _info(key, entry.stat(follow_symlinks=False))

    def sweep(self) -> int:
        with _in_our_words():
            swept = [path for path, entry in self._beneath.files("") if entry.name.startswith(TEMPORARY)]
            return sum(self._remove_leftover(path) for path in swept)

    def health(self) -> StorageHealth:
        read = _try(self._try_read, "The folder can be read")
        write = _try(self._try_write, "A file can be written, made durable and removed")
        refused = [finding.sentence for finding, error in (read, write) if isinstance(error, AccessRefused)]
        space, free = self._look_at_space()
        credential = Finding(False, refused[0]) if refused else Finding(True, "The node's account may use the folder")
        return StorageHealth(read[0], write[0], space, credential, free)

    def close(self) -> None:
        self._beneath.close()

    def _open_object(self, key: str) -> tuple[int, os.stat_result]:
        """Return an object's file, which the caller closes; anything but a plain file is no object."""
        with _in_our_words():
            try:
                fd = self._beneath.open_file(key)
            except FileNotFoundError:
                self._require_root()
                raise
            status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise ObjectMissing()
        return fd, status

    def _require_root(self) -> None:
        """Raise StoreUnreachable when the whole folder was removed: then nothing can be said of an object."""
        if os.fstat(self._beneath.fd).st_nlink == 0:
            raise StoreUnreachable()

    def _require_room(self, size: int) -> None:
        with _in_our_words():
            status = os.fstatvfs(self._beneath.fd)
        if self._reserve and status.f_bavail * status.f_frsize - size < self._reserve:
            raise StoreFull()

    def _remove_leftover(self, path: str) -> bool:
        folder, name = self._beneath.open_parent(path)
        try:
            return remove_leftover(folder, name, self._sweep_age)
        finally:
            os.close(folder)

    def _try_read(self) -> None:
        with _in_our_words():
            self._require_root()
            with os.scandir(self._beneath.fd) as entries:
                next(entries, None)

    def _try_write(self) -> None:
        """Go the way of a put, under names that no key can have."""
        folder, probe = self._beneath.fd, f"{TEMPORARY}probe-{token_hex(8)}"
        _write_new(folder, probe, [b"probe"])
        with _in_our_words(_PUT_ERRORS):
            os.unlink(probe, dir_fd=folder)

    def _look_at_space(self) -> tuple[Finding, int | None]:
        try:
            status = os.fstatvfs(self._beneath.fd)
        except OSError:
            return Finding(None, "The free space cannot be read"), None
        free = status.f_bavail * status.f_frsize
        if status.f_files and not status.f_favail:
            return Finding(False, "The file system has no inodes left"), free
        if free <= self._reserve:
            return Finding(False, f"{_size(free)} free, the reserve is {_size(self._reserve)}"), free
        return Finding(True, f"{_size(free)} free"), free


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class _FileStream:
    """A part of an open file; its length was fixed when it was opened."""

    __slots__ = ("_at", "_fd", "_left")

    def __init__(self, fd: int, offset: int, length: int) -> None:
        self._fd = fd
        self._at = offset
        self._left = length

    def read(self, size: int, /) -> bytes:
        if self._fd < 0:
            raise ValueError("the stream is closed")
        if not self._left:
            return b""
        with _in_our_words():
            piece = os.pread(self._fd, min(size, self._left), self._at)
        if not piece:
            raise ObjectDamaged("The object was cut short while it was read")
        self._at += len(piece)
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _in_our_words(table: Mapping[int, type[StorageError]] = _ERRORS) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise table.get(error.errno or 0, StoreUnreachable)() from error


def _write_new(folder: int, name: str, content: Iterable[bytes]) -> os.stat_result:
    """Write a new file; the content's own errors pass through, an OSError among them."""
    with _in_our_words(_PUT_ERRORS):
        new = NewFile(folder)
    try:
        for piece in content:
            with _in_our_words(_PUT_ERRORS):
                new.write(piece)
        with _in_our_words(_PUT_ERRORS):
            return new.publish(name)
    finally:
        new.close()


def _try(attempt: Callable[[], None], sentence: str) -> tuple[Finding, StorageError | None]:
    try:
        attempt()
    except StorageError as error:
        cause = error.__cause__
        said = f": {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else ""
        return Finding(False, f"{error}{said}"), error
    return Finding(True, sentence), None


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, status.st_mtime_ns // 1000)
