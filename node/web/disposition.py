"""The Content-Disposition header for a file name in any script (RFC 6266, RFC 8187)."""

import re
import unicodedata
from typing import Literal
from urllib.parse import quote

_LONGEST_NAME = 200  # bytes of UTF-8: what every file system takes, with room for a browser's " (1)"
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}")
_UNSAFE_IN_FALLBACK = re.compile(r'["\\;%\'=,*<>?|:]')
_ATTR_CHAR = "!#$&+-.^_`|~"
_JOINERS = "\u200c\u200d"  # part of correct spelling in Indian scripts


def content_disposition(
    name: str, *, kind: Literal["attachment", "inline"] = "attachment", fallback: str = "document"
) -> str:
    """Return the header's value: an ASCII ``filename`` that is never bare, and the name itself in ``filename*``.

    Line breaks, other control characters, direction overrides and path separators are taken out, so that the value is one
    line and names no folder. ``fallback`` stands in for a name, or an ASCII form of one, with nothing left.
    """
    stem, extension = _split(_clean(name))
    stem = _cut(stem or fallback, _LONGEST_NAME - len(extension))
    ascii_stem = _ascii(stem) or fallback
    encoded = quote(stem + extension, safe=_ATTR_CHAR)
    return f"{kind}; filename=\"{ascii_stem}{extension}\"; filename*=UTF-8''{encoded}"


def _clean(name: str) -> str:
    text = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    return "".join(_replacement(character) for character in text).strip(" .")


def _replacement(character: str) -> str:
    if character in "/\\":
        return "_"
    if character in _JOINERS:
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return "" if category == "Cf" else character


def _split(name: str) -> tuple[str, str]:
    """Split off a short ASCII extension; a name that was nothing but one, such as ``.pdf``, arrives here without its dot."""
    at = name.rfind(".")
    if at > 0 and _EXTENSION.fullmatch(name[at:]):
        return name[:at].rstrip(" ."), name[at:]
    return name, ""


def _cut(text: str, length: int) -> str:
    return text.encode()[:length].decode("utf-8", "ignore").rstrip(" .")


def _ascii(text: str) -> str:
    """Return what ASCII can say of a text (José becomes Jose), without characters that need quoting."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    tidy = " ".join(_UNSAFE_IN_FALLBACK.sub("_", plain).split()).strip(" .")
    # A browser may take what follows a dot for the kind of file, so there must be something before it.
    return tidy if any(character.isalnum() for character in tidy.partition(".")[0]) else ""
