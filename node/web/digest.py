"""Content-Digest and Repr-Digest with SHA-256 (RFC 9530)."""

import base64
import binascii
import re

from node.contract.problems import BadRequest

_MEMBER = re.compile(r"[ \t]*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):(?:;[^,:]*)?[ \t]*")


def format_sha256(digest: bytes) -> str:
    """Return the header's value for a SHA-256 of 32 bytes."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def parse_sha256(header: str) -> bytes | None:
    """Return the SHA-256 that a digest header carries, or None when it carries other algorithms only.

    Raises BadRequest for what is no dictionary of digests (RFC 8941 section 3.2) and for a SHA-256 that is not 32 bytes. Of two
    members with one name the last counts.
    """
    members = [_MEMBER.fullmatch(member) for member in header.split(",")]
    found = None
    for member in members:
        if member is None:
            raise BadRequest("The digest header is not a dictionary of digests", reason="bad-digest")
        if member[1] == "sha-256":
            found = _decode(member[2])
    return found


def _decode(text: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise BadRequest("The sha-256 digest is not 32 bytes in base64", reason="bad-digest")
    return digest
