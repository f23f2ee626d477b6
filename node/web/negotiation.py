"""Which of a document's representations a request gets (RFC 9110 section 12)."""

import re
from collections.abc import Sequence
from functools import lru_cache

_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar rule, no secret
_MEDIA_RANGE = re.compile(rf"({_TOKEN})/({_TOKEN})")
_LANGUAGE_RANGE = re.compile(r"\*|[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*")
_MOST_ELEMENTS = 64

MediaRange = tuple[str, str, frozenset[str], int]


def choose(
    offers: Sequence[tuple[str, str | None]], accept: str | None = None, accept_language: str | None = None
) -> int | None:
    """Return the index of the offer (media type, language) that suits a request best, or None when Accept takes none.

    Media type counts before language, and the order of the offers decides between equals. Accept-Language is a wish and
    never refuses: a resident whose browser asks for English still gets the certificate that exists in Telugu only.
    Elements that are no media range or language range are passed over; a header without any good one counts as absent.
    """
    best, best_rank = None, (0, -1)
    ranges = _media_ranges(accept) if accept else ()
    languages = _language_ranges(accept_language) if accept_language else ()
    for index, (media_type, language) in enumerate(offers):
        rank = (_media_quality(media_type, ranges) if ranges else 1000, _language_rank(language, languages))
        if rank[0] > 0 and rank > best_rank:
            best, best_rank = index, rank
    return best


def _media_quality(media_type: str, ranges: tuple[MediaRange, ...]) -> int:
    """Return the quality, 0 to 1000, that the most specific matching range gives a media type."""
    name, *parameters = (part.strip().lower() for part in media_type.split(";"))
    main, _, sub = name.partition("/")
    best, quality = -1, 0
    for range_main, range_sub, range_parameters, range_quality in ranges:
        if range_main not in ("*", main) or range_sub not in ("*", sub) or not range_parameters <= set(parameters):
            continue
        specificity = (range_main != "*") + (range_sub != "*") + len(range_parameters)
        if specificity > best:
            best, quality = specificity, range_quality
    return quality


def _language_rank(language: str | None, ranges: tuple[tuple[str, int], ...]) -> int:
    """Rank a language: 1 to 1000 by quality, 0 for one not named (or a document without language), -1 for one refused."""
    if language is None or not ranges:
        return 0
    tag = language.lower()
    best, rank = -1, 0
    for named, quality in ranges:
        specificity = _language_match(named, tag)
        if specificity > best:
            best, rank = specificity, quality or -1
    return rank


def _language_match(named: str, tag: str) -> int:
    """Return how closely a range names a tag, -1 for not at all (RFC 4647: filtering, then lookup)."""
    if named == "*":
        return 0
    if tag == named or tag.startswith(named + "-"):
        return 1 + len(named)
    return 1 if named.startswith(tag + "-") else -1


@lru_cache(maxsize=256)
def _media_ranges(header: str) -> tuple[MediaRange, ...]:
    ranges = []
    for element, parameters, quality in _elements(header):
        match = _MEDIA_RANGE.fullmatch(element)
        if match and not (match[1] == "*" and match[2] != "*"):
            ranges.append((match[1].lower(), match[2].lower(), frozenset(parameters), quality))
    return tuple(ranges)


@lru_cache(maxsize=256)
def _language_ranges(header: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (element.lower(), quality) for element, _, quality in _elements(header) if _LANGUAGE_RANGE.fullmatch(element)
    )


def _elements(header: str) -> list[tuple[str, list[str], int]]:
    """Split a list header into (element, parameters, quality in thousandths); bad elements are left out."""
    elements = []
    for text in header.split(",", _MOST_ELEMENTS)[:_MOST_ELEMENTS]:
        element, *parameters = (part.strip() for part in text.split(";"))
        names = [parameter.lower() for parameter in parameters if parameter]
        qualities = [name[2:] for name in names if name.startswith("q=")]
        if element and len(qualities) <= 1 and all(_QUALITY.fullmatch(quality) for quality in qualities):
            quality = round(float(qualities[0]) * 1000) if qualities else 1000
            elements.append((element, [name for name in names if not name.startswith("q=")], quality))
    return elements
