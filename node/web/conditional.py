"""Conditional requests by ETag (RFC 9110 section 13)."""

import re

from node.contract.problems import PreconditionFailed

_ETAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_ONE_ETAG = re.compile(_ETAG)
_ETAG_LIST = re.compile(rf"[ \t,]*{_ETAG}(?:[ \t]*,[ \t,]*{_ETAG})*[ \t,]*")


def not_modified(method: str, if_match: str | None, if_none_match: str | None, etag: str | None) -> bool:
    """Tell whether a GET or HEAD is answered with 304; raises PreconditionFailed where the answer is 412 (section 13.2.2).

    ``etag`` is the selected representation's, with its quotes, or None when there is none yet.
    """
    if if_match is not None and not matches(if_match, etag, weak=False):
        raise PreconditionFailed(reason="if-match")
    if if_none_match is None or not matches(if_none_match, etag, weak=True):
        return False
    if method in ("GET", "HEAD"):
        return True
    raise PreconditionFailed(reason="if-none-match")


def matches(header: str, etag: str | None, *, weak: bool) -> bool:
    """Tell whether a list of ETags, or ``*``, names an ETag by weak or strong comparison (section 8.8.3.2).

    A header that is no list of ETags names none.
    """
    if etag is None:
        return False
    if header.strip() == "*":
        return True
    return any(_same(listed, etag, weak=weak) for listed in parse_etags(header))


def parse_etags(header: str) -> tuple[str, ...]:
    """Return the ETags of a list as written; an empty tuple for what is no such list."""
    return tuple(_ONE_ETAG.findall(header)) if _ETAG_LIST.fullmatch(header) else ()


def _same(one: str, other: str, *, weak: bool) -> bool:
    if weak:
        return one.removeprefix("W/") == other.removeprefix("W/")
    return one == other and not one.startswith("W/")
