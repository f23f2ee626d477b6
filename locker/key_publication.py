"""What of the locker's keys is public at this moment, read again every few seconds: a new key is published without a restart.

What a process signs with it read at its start. When the root has revoked such a key, or one that signed the revocation pages before its
own, the process ends, and ``serve`` starts another.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from locker.keys import KeysRefused, LockerKeys, load_keys, load_root
from node.contract.problems import NotFound
from node.contract.signing import REVOCATION, KeySet
from node.contract.times import SECOND

log = structlog.get_logger("locker.keys")

EVERY = 5 * SECOND
"""Microseconds between two looks at the files."""

LAST_SECONDS = 15.0
"""What a process that was told to end has for it: nothing it waits for is worth signing with a revoked key."""


class KeyPublication:
    """Public keys and the list of revoked ones; may be used from several threads."""

    def __init__(self, folder: Path, keys: LockerKeys, clock: Callable[[], int]) -> None:
        """``keys`` are those that this process uses."""
        self._folder = folder
        self._in_use = keys
        self._clock = clock
        self._lock = threading.Lock()
        self._read = (keys, clock())

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public signing keys: those in the files, and those that this process signs with, less the revoked ones."""
        keys = self._current()
        in_use = (key.public for key in self._in_use.signing.values() if key.kid not in keys.revoked)
        return KeySet([*in_use, *keys.published(self._clock())]).jwks()

    def described(self) -> dict[str, Any]:
        """Return what the descriptor says of keys: what to seal to, which this process must be able to open, and the root."""
        root = self._current().root
        shown = {"encryption_keys": self._in_use.encryption_keys}
        return {**shown, "root_key": root.key.jwk()} if root else shown

    def revoked_keys(self) -> str:
        """Return the newest list of revoked keys as signed; raises NotFound before the first."""
        root = self._current().root
        if root is None or root.token is None:
            raise NotFound("no key was revoked yet")
        return root.token

    def _current(self) -> LockerKeys:
        now_us = self._clock()
        with self._lock:
            keys, read_us = self._read
            if not read_us <= now_us < read_us + EVERY:
                self._read = keys, now_us = self._look(keys), now_us
        return keys

    def _look(self, known: LockerKeys) -> LockerKeys:
        try:
            return load_keys(self._folder)
        except KeysRefused as error:
            log.error("the keys cannot be read again", error=str(error))
        try:
            # A list of revoked keys goes out even while a file of keys is out of order.
            return replace(known, root=load_root(self._folder))
        except KeysRefused:
            return known


def end_when_revoked(
    folder: Path, keys: LockerKeys, seconds: float = EVERY / SECOND, *, before: Callable[[], None] = lambda: None
) -> None:
    """Have this process stop as on SIGTERM as soon as the root has revoked a key that what it signs rests on.

    ``before`` is called first, in a thread of its own. A process that does not heed it is gone for certain some seconds later.
    """
    threading.Thread(target=_watch, args=(folder, keys, seconds, before), name="revoked-keys", daemon=True).start()


def _watch(folder: Path, keys: LockerKeys, seconds: float, before: Callable[[], None]) -> None:
    of_pages_before = {key.kid for key, _ in keys.retired if key.typ == REVOCATION}
    # What was revoked before its start this process knows; at one that is revoked now, a list of pages begins anew.
    held = {key.kid for key in keys.signing.values()} | of_pages_before - keys.revoked
    while not held & _revoked(folder):
        time.sleep(seconds)
    log.error("a key of this process was revoked, so it ends")
    before()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LAST_SECONDS)
    os._exit(1)


def _revoked(folder: Path) -> frozenset[str]:
    try:
        root = load_root(folder)
    except KeysRefused:
        return frozenset()
    return root.revoked if root else frozenset()
