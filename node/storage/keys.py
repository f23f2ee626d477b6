"""Names of objects: one grammar that every store can hold, and the name that a representation gets.

Names are our own and never what an uploader called the file, so they fit every file system, S3 and SFTP alike.
"""

import hashlib
import re

from node.contract.uri import DocumentURI
from node.storage.errors import InvalidKey

MAX_KEY = 512
MAX_SEGMENT = 200
"""Bytes of one segment; file systems hold 255, and what a driver adds to a name for its own purposes counts in that."""

_SEGMENT = rf"(?!\.{{1,2}}(?:/|\Z))[A-Za-z0-9._~-]{{1,{MAX_SEGMENT}}}"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
_PREFIX = re.compile(r"[A-Za-z0-9._~/-]*\Z")

# One extension for one media type, so that two representations with the same bytes have two names.
EXTENSIONS = {
    "application/pdf": "pdf",
    "application/xml": "xml",
    "text/xml": "text.xml",
    "application/json": "json",
    "image/png": "png",
    "image/jpeg": "jpg",
}

_PLAIN_ID = re.compile(r"[a-z0-9_-](?:[a-z0-9._~-]{0,94}[a-z0-9_~-])?\Z")
# Names of devices on Windows, with any extension; a share of such a machine may be mounted as the store.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)")


def is_key(text: str) -> bool:
    """Tell whether a text is in the grammar of keys."""
    return len(text) <= MAX_KEY and _KEY.match(text) is not None


def require_key(key: str) -> str:
    """Return a key unchanged; raises InvalidKey unless it is 1 to 512 bytes of segments joined by single slashes.

    A segment is 1 to 200 ASCII letters, digits, or . _ ~ - and is neither ``.`` nor ``..``.
    """
    if not is_key(key):
        raise InvalidKey(f"A key has up to {MAX_KEY} bytes in segments of up to {MAX_SEGMENT}: A-Z a-z 0-9 . _ ~ -")
    return key


def require_prefix(prefix: str) -> str:
    """Return a prefix for listing unchanged; raises InvalidKey unless a key could begin like this."""
    *folders, _ = prefix.split("/")
    if len(prefix) > MAX_KEY or not _PREFIX.match(prefix) or (folders and not is_key("/".join(folders))):
        raise InvalidKey("No key begins like this")
    return prefix


def object_key(uri: DocumentURI, version: int, sha256: str, media_type: str, language: str | None) -> str:
    """Return the object's name of one representation, for example ``in.gov.x/incom/6f/9606.v1-en-0123456789abcdef.pdf``.

    Lower case throughout, so a store that folds case keeps all apart; documents are spread over 256 folders of each type, which
    keeps folders small and few. Read from the right, the last ``.v`` ends the document id, so no two representations share a name.
    """
    doc_id = uri.doc_id.lower()
    digest = hashlib.sha256(doc_id.encode()).hexdigest()
    is_plain = _PLAIN_ID.match(doc_id) and not _DEVICE.match(doc_id)
    # No plain id begins with a tilde, so a replaced one cannot meet it.
    name = doc_id if is_plain else f"~{digest[:32]}"
    spoken = f"{language.lower()}-" if language else ""
    file = f"{name}.v{version}-{spoken}{sha256[:16].lower()}.{_extension(media_type)}"
    return require_key(f"{_folder(uri.issuer)}/{_folder(uri.doc_type)}/{digest[:2]}/{file}")


def _folder(part: str) -> str:
    """Return an issuer id or a type in lower case; a device's name gets a tilde, which neither can hold."""
    folded = part.lower()
    return f"~{folded}" if _DEVICE.match(folded) else folded


def _extension(media_type: str) -> str:
    return EXTENSIONS.get(media_type) or f"x-{hashlib.sha256(media_type.encode()).hexdigest()[:8]}"
