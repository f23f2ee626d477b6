"""Writing files that hold secrets: each whole or not at all, readable by the service alone; in the folder of keys one writer at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def keep_others_out() -> None:
    """Have whatever this process and its children make from now on be their own alone: the database holds who read what."""
    os.umask(0o077)


def write_private(path: Path, data: bytes) -> None:
    """Create or replace a file; after a crash there is the old one or the new one. What root writes is the folder's owner's."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        _give_to_owner(file.fileno(), path.parent)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    replace_file(draft, path)


def private_folder(path: Path) -> None:
    """Make a folder in another if it is not there, durably and as private as a file."""
    path.mkdir(mode=0o700, exist_ok=True)
    _give_to_owner(path, path.parent)
    sync_folder(path.parent)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file over another, durably."""
    source.replace(target)
    sync_folder(target.parent)


def remove_file(path: Path) -> None:
    """Remove a file if it is there, durably."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other commands that change keys waiting; the lock goes with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _give_to_owner(target: Path | int, folder: Path) -> None:
    """Have what a command under sudo makes readable for the service, which owns the folder."""
    if os.geteuid() == 0:
        owner = folder.stat()
        if isinstance(target, int):
            os.fchown(target, owner.st_uid, owner.st_gid)
        else:
            os.lchown(target, owner.st_uid, owner.st_gid)  # no link leads root elsewhere
