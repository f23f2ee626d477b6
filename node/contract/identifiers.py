"""Identifiers: UUID version 7 for rows, URL-safe random text for secrets."""

import os
import secrets
import time
import uuid


def uuid7() -> str:
    """Return a UUID version 7 (RFC 9562 section 5.7) in its usual text form; sorts roughly by time."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)
