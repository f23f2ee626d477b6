"""Objects that are stored before the catalogue knows of them, and what becomes of those it never hears of.

Before an object is put, its key is written to a small file in the node's folder; the file goes when the catalogue's transaction
has committed. What a killed process leaves is such a file: the next run reads it and removes each object that no representation
refers to. Whoever stores holds a shared lock on the folder, whoever removes the exclusive one, so an object that somebody is just
about to enter in the catalogue is never taken for an orphan. All processes of a node share the folder.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from node.contract.identifiers import uuid7
from node.contract.problems import ProblemError, StorageFull
from node.storage.errors import ObjectMissing
from node.storage.guard import GuardedDriver

Referenced = Callable[[str, Sequence[str]], set[str]]
"""Told a store and object keys, returns those that the catalogue refers to."""

_LOCK = "lock"
_SUFFIX = ".keys"


class PendingObjects:
    """The keys of objects that are on their way into the catalogue."""

    def __init__(
        self, folder: Path, stores: Mapping[str, GuardedDriver], referenced: Referenced, *, reserve_bytes: int = 0
    ) -> None:
        """``folder`` lies on the database's disk, of which ``reserve_bytes`` stay free for the access log."""
        self._folder = folder
        self._stores = stores
        self._referenced = referenced
        self._reserve = reserve_bytes

    def require_room(self) -> None:
        """Raise StorageFull when only the reserve is left for the database."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._reserve and shutil.disk_usage(self._folder).free < self._reserve:
            raise StorageFull("Only the reserve for the access log is free on the database's disk")

    @contextmanager
    def holding(self, store: str, keys: Sequence[str]) -> Iterator[None]:
        """Note keys durably while their objects are put and entered in the catalogue.

        When the block fails, objects that were put and are in no catalogue are removed: now, or by the next ``sweep`` if somebody
        else is storing at this moment.
        """
        self.require_room()
        record = self._folder / f"{uuid7()}{_SUFFIX}"
        try:
            with self._locked(fcntl.LOCK_SH):
                _write_durably(record, json.dumps({"store": store, "keys": list(keys)}))
                yield
                record.unlink()
        except Exception:
            with suppress(ProblemError, OSError):  # the first error is what counts; the record stays for the next run
                self.sweep(patience=0)
            raise

    def sweep(self, patience: float = 5) -> int | None:
        """Remove objects that failed or killed puts left; return how many, None when others went on storing for ``patience`` seconds."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self._folder.glob(f"*{_SUFFIX}")):
            return 0
        deadline = time.monotonic() + patience
        while True:
            try:
                with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    return sum(self._settle(record) for record in sorted(self._folder.glob(f"*{_SUFFIX}")))
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.05)

    def _settle(self, record: Path) -> int:
        removed = 0
        try:
            noted = json.loads(record.read_text(encoding="utf-8"))
            store, keys = noted["store"], noted["keys"]
        except ValueError:
            # Cut short by a power cut before it was durable, and nothing is put before that.
            store, keys = "", []
        driver = self._stores.get(store)
        if keys and driver is None:
            return 0  # the store is not in the settings at the moment; the record waits for it
        if driver is not None:
            removed = sum(_remove(driver, key) for key in sorted(set(keys) - self._referenced(store, keys)))
        record.unlink(missing_ok=True)
        return removed

    @contextmanager
    def _locked(self, operation: int) -> Iterator[None]:
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, operation)
            yield
        finally:
            os.close(descriptor)


def _remove(driver: GuardedDriver, key: str) -> int:
    try:
        driver.stat(key)
    except ObjectMissing:
        return 0
    driver.delete(key)
    return 1


def _write_durably(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
