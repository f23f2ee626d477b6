"""Identifiers: UUID version 7 for rows, URL-safe random text for secrets."""

import os
import secrets
import time


def uuid7() -> str:
    """Return a UUID version 7 (RFC 9562 section 5.7) as text.

    The twelve bits after the milliseconds hold the fraction of the millisecond (section 6.2, method 3), so that what one
    process makes a microsecond later also sorts later.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    random = os.urandom(8)
    variant = 0x80 | random[0] & 0x3F
    clock, tail = f"{milliseconds:012x}", random[1:].hex()
    return f"{clock[:8]}-{clock[8:]}-7{fraction:03x}-{variant:02x}{tail[:2]}-{tail[2:]}"


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)
