"""A file that appears whole and durable under its name, or not at all. Raises OSError."""

import fcntl
import os
import secrets
from contextlib import suppress
from time import time

# No key has an equals sign, so no key can name a temporary file.
TEMPORARY = ".tmp="


class NewFile:
    """A file being written under a temporary name of its folder, for its owner alone; whoever makes it closes it."""

    def __init__(self, folder: int) -> None:
        """Create it in an open folder, which stays the caller's. The lock on it tells that its writer lives."""
        self._folder = folder
        self._name = TEMPORARY + secrets.token_hex(8)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._name, flags, 0o600, dir_fd=folder)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError:
            self.close()
            raise

    def write(self, piece: bytes) -> None:
        """Append all of a piece."""
        left = memoryview(piece)
        while left:
            left = left[os.write(self._fd, left) :]

    def publish(self, name: str) -> os.stat_result:
        """Give the file its good name once its bytes are durable, and make the name durable; FileExistsError when it is taken."""
        os.fsync(self._fd)
        os.link(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=False)
        try:
            os.unlink(self._name, dir_fd=self._folder)
            os.fsync(self._folder)
            return os.fstat(self._fd)
        except OSError:
            # Not known to survive a crash, so it was not stored.
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)
            raise

    def close(self) -> None:
        """Remove the temporary name, if it is still there; what cannot be removed is left to the sweep."""
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)
        os.close(self._fd)


def remove_leftover(folder: int, name: str, age_seconds: float) -> bool:
    """Remove a temporary file unless it is young or its writer lives; tell whether it was removed."""
    try:
        # Open for writing, which NFS wants of a lock.
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return False
    try:
        # A young one may have been created just now and not be locked yet.
        if time() - os.fstat(fd).st_mtime < age_seconds:
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(fd)
    return True
