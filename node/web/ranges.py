"""Range requests (RFC 9110 section 14): which bytes of a representation a request gets."""

import re
from dataclasses import dataclass

from node.contract.problems import RangeNotSatisfiable

_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_MORE_THAN_ANY_DOCUMENT = 10**18


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes ``start`` to ``start + length - 1`` of a representation of ``total`` bytes."""

    start: int
    length: int
    total: int

    @property
    def content_range(self) -> str:
        """The value of Content-Range for this part (RFC 9110 section 14.4)."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.total}"


def select_range(
    method: str, range_header: str | None, if_range: str | None, etag: str, total: int
) -> ByteRange | None:
    """Return the part that a request asks for, or None when it gets the whole representation with 200.

    Only GET has ranges; ``If-Range`` counts only when it is exactly the present strong ETag (section 13.1.5; no dates are
    sent, so none can match). Several ranges, an unknown unit and what is no range get the whole, as does any range of an
    empty representation. Raises RangeNotSatisfiable, with ``Content-Range``, for a range that begins beyond the end.
    """
    if range_header is None or method != "GET":
        return None
    if if_range is not None and (if_range.strip() != etag or not etag.startswith('"')):
        return None
    match = _ONE_RANGE.fullmatch(range_header.strip())
    if match is None or total == 0:
        return None
    return _resolve(match[1], match[2], total)


def _resolve(first: str, last: str, total: int) -> ByteRange | None:
    if not first:
        return _suffix(last, total)
    start, end = _number(first), _number(last) if last else total - 1
    if last and end < start:
        return None
    if start >= total:
        raise _beyond(total)
    return ByteRange(start, min(end, total - 1) - start + 1, total)


def _suffix(length: str, total: int) -> ByteRange | None:
    if not length:
        return None
    wanted = min(_number(length), total)
    if wanted == 0:
        raise _beyond(total)
    return ByteRange(total - wanted, wanted, total)


def _beyond(total: int) -> RangeNotSatisfiable:
    return RangeNotSatisfiable(headers={"Content-Range": f"bytes */{total}"})


def _number(digits: str) -> int:
    """Read digits without letting thousands of them cost anything."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 18 else _MORE_THAN_ANY_DOCUMENT
