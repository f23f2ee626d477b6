"""Identifiers: UUID version 7 for rows, URL-safe random text for secrets."""

import os
import secrets
import threading
import time

_STORE = 4096
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class _Randomness(threading.local):
    """Random bytes fetched ahead, each thread's own; every one is given out once."""

    def __init__(self) -> None:
        self.bytes = b""
        self.used = 0


_randomness = _Randomness()
# A forked child must not give out what its parent gives out.
os.register_at_fork(after_in_child=_randomness.__init__)  # type: ignore[misc]  # run anew on purpose


def random_bytes(count: int) -> bytes:
    """Return bytes of the operating system's randomness, at most 4096.

    They are fetched in store: each call of the system lets go of the interpreter's lock, and a thread that does so six times
    for a row waits six times for the others.
    """
    used = _randomness.used
    if used + count > len(_randomness.bytes):
        if count > _STORE:
            raise ValueError("too many random bytes at once")
        _randomness.bytes, used = os.urandom(_STORE), 0
    _randomness.used = used + count
    return _randomness.bytes[used : used + count]


def uuid7() -> str:
    """Return a UUID version 7 (RFC 9562 section 5.7) as text.

    The twelve bits after the milliseconds hold the fraction of the millisecond (section 6.2, method 3), so that what one
    process makes a microsecond later also sorts later.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    clock, random = f"{milliseconds:012x}", random_bytes(8).hex()
    return f"{clock[:8]}-{clock[8:]}-7{fraction:03x}-{_VARIANTS[random[0]]}{random[1:4]}-{random[4:]}"


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def new_reference() -> str:
    """Return a reference that tells nothing of what it stands for: 128 random bits in hex."""
    return random_bytes(16).hex()
