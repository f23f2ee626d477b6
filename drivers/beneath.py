"""Opening files beneath a folder, with no way out of it: no symbolic link is followed, whoever planted it."""

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
# A pipe planted in the store must not make an open wait.
_FILE = _READ | os.O_NONBLOCK
_FOLDER = _READ | os.O_DIRECTORY

# openat2(2), Linux 5.6: the kernel walks the path in one call, at half the time of a walk from here. One number on all machines
# but Alpha, where, as on older kernels and under filters of system calls, the walk takes over.
_OPENAT2 = 437
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_HOW = _OpenHow(_FILE, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS)
_HOW_POINTER = ctypes.byref(_HOW)
_HOW_SIZE = ctypes.sizeof(_HOW)


class Beneath:
    """A folder that is opened once; renaming or mounting over its path later changes nothing. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._kernel_walks = _has_openat2(self.fd)
        self._durable: set[str] = set()

    def close(self) -> None:
        """Close the folder; closing again does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open_file(self, path: str) -> int:
        """Return a descriptor for reading what lies at a relative path, whatever kind it is; the caller closes it."""
        if self._kernel_walks:
            return _openat2(self.fd, path)
        folder, name = self.open_parent(path)
        try:
            return os.open(name, _FILE, dir_fd=folder)
        finally:
            os.close(folder)

    def open_folder(self, path: str) -> int:
        """Return a descriptor of a folder, walked to one part after the other; the caller closes it."""
        current = os.dup(self.fd)
        for part in path.split("/") if path else ():
            try:
                _require_downward(part)
                deeper = os.open(part, _FOLDER, dir_fd=current)
            finally:
                os.close(current)
            current = deeper
        return current

    def open_parent(self, path: str) -> tuple[int, str]:
        """Return the folder of a relative path, opened, and the last part of the path; the caller closes the folder."""
        folder, _, name = path.rpartition("/")
        _require_downward(name)
        return self.open_folder(folder), name

    def files(self, path: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Yield all plain files beneath a folder with their relative paths."""
        folder = self.open_folder(path)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    below = f"{path}/{entry.name}" if path else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        yield from self.files(below)
                    elif entry.is_file(follow_symlinks=False):
                        yield below, entry
        finally:
            os.close(folder)

    def open_or_make_folder(self, path: str) -> int:
        """Return a descriptor of a folder that survives a crash, made where it is missing; the caller closes it."""
        self._make_folder(path)
        try:
            return self.open_folder(path)
        except FileNotFoundError:
            # Somebody removed it since it was made.
            self._durable.clear()
            self._make_folder(path)
            return self.open_folder(path)

    def _make_folder(self, path: str) -> None:
        """See that a folder exists, for its owner alone, and that it survives a crash.

        One that was there may be another's whose entry is not on the disk yet, so the first look at each is paid with an fsync.
        """
        if not path or path in self._durable:
            return
        above, _, _ = path.rpartition("/")
        self._make_folder(above)
        parent, name = self.open_parent(path)
        try:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                # Is it a folder, and not a link to one?
                os.close(os.open(name, _FOLDER, dir_fd=parent))
            os.fsync(parent)
        finally:
            os.close(parent)
        self._durable.add(path)


def _require_downward(part: str) -> None:
    """Raise what openat2 raises for a path that leads out."""
    if part in ("", ".", ".."):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _openat2(folder: int, path: str) -> int:
    fd: int = _libc.syscall(_OPENAT2, folder, path.encode("ascii"), _HOW_POINTER, _HOW_SIZE)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def _has_openat2(folder: int) -> bool:
    try:
        os.close(_openat2(folder, "."))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True
