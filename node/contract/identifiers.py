"""Identifiers: UUID version 7 for rows, URL-safe random text for secrets."""

import os
import secrets
import time
import uuid


def uuid7() -> str:
    """Return a UUID version 7 (RFC 9562 section 5.7) as text.

    The twelve bits after the milliseconds hold the fraction of the millisecond (section 6.2, method 3), so that what one
    process makes a microsecond later also sorts later.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | random))


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)
