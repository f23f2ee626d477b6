"""Whether a document that somebody describes is theirs: how texts are compared, and the rule that a document type declares.

Pure functions over plain records. Stored text keeps its issuer's spelling; only what is compared is brought into a normal form.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from typing import Any

SELF_DECLARED = "self-declared"
SOURCES = ("mobile-verified", "identity-provider-verified", "issuer-confirmed")

HOLDER_REQUIRED = "required"
HOLDER_IF_KNOWN = "if-known"

# Marks that are not seen and not of category Cf: combining grapheme joiner, Hangul fillers, variation selectors.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u3164\uffa0\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_DAY_FIRST = re.compile(r"([0-9]{1,2})[-/. ]([0-9]{1,2})[-/. ]([0-9]{4})\Z")
_YEAR_FIRST = re.compile(r"([0-9]{4})[-/. ]([0-9]{1,2})[-/. ]([0-9]{1,2})\Z")
_YEAR = re.compile(r"[0-9]{4}\Z")


class Verdict(IntEnum):
    """What a comparison says; of several the lowest counts. NEAR is for an officer to decide."""

    NO = 0
    NEAR = 1
    MATCH = 2


def normal_form(text: str) -> str:
    """Return the form in which texts are compared: what looks the same and means the same is equal, look-alikes are not.

    NFKC, case folded, runs of any white space as one space, without characters that cannot be seen, decimal digits of any script
    as ASCII. Letters of different scripts stay different however much they look alike.
    """
    seen = "".join(
        character for character in _UNSEEN.sub("", text) if unicodedata.category(character) != "Cf"
    )  # fmt: skip
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    digits = "".join(_ascii_digit(character) for character in folded)
    return " ".join(digits.split())


def parameter_form(value: str) -> str:
    """Return the form in which search parameters are compared: a calendar date as YYYY-MM-DD, everything else as ``normal_form``."""
    form = normal_form(value)
    day = read_date(form)
    return form if day is None else day.isoformat()


def parameter_hash(key: bytes, name: str, value: str) -> str:
    """Return what is stored and looked up of a search parameter: HMAC-SHA-256 over name and normal form, in hex."""
    message = f"{name}\x00{parameter_form(value)}".encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def compare_exact(stored: str, asked: str) -> Verdict:
    """Compare two texts in their normal form."""
    return Verdict.MATCH if normal_form(stored) == normal_form(asked) else Verdict.NO


def compare_names(stored: str, asked: str) -> Verdict:
    """Compare two names of a person.

    Equal ones match. Names that differ by order, punctuation, initials or left-out parts, and share a whole word, are near.
    """
    if compare_exact(stored, asked) is Verdict.MATCH:
        return Verdict.MATCH
    shorter, longer = sorted((_words(stored), _words(asked)), key=len)
    return Verdict.NEAR if shorter and _fits_into(shorter, longer) else Verdict.NO


def compare_dates(stored: str, asked: str) -> Verdict:
    """Compare two dates of birth; registers write 1 January, or the year alone, when only the year is known, so that is near."""
    left, right = _day_or_year(stored), _day_or_year(asked)
    if left is None or right is None:
        return Verdict.NO
    if isinstance(left, date) and left == right:
        return Verdict.MATCH
    if _year(left) == _year(right) and (_year_only(left) or _year_only(right)):
        return Verdict.NEAR
    return Verdict.NO


COMPARISONS: Mapping[str, Callable[[str, str], Verdict]] = {
    "exact": compare_exact, "name": compare_names, "date": compare_dates,
}  # fmt: skip
USUAL_COMPARISON = {"full_name": "name", "date_of_birth": "date"}


@dataclass(frozen=True, slots=True)
class AttributeRule:
    """An attribute of the resident's profile that must agree with one of the document's parameters."""

    attribute: str
    parameter: str
    comparison: str


@dataclass(frozen=True, slots=True)
class MatchRule:
    """When a document is a resident's.

    ``holder`` is ``required``: the document's holder is one of the resident's identifiers; or ``if-known``: so it must be if the
    document names one, and the attributes decide alone if it names none. ``sources`` are those that an attribute may come from.
    """

    attributes: tuple[AttributeRule, ...] = ()
    sources: tuple[str, ...] = SOURCES
    holder: str = HOLDER_REQUIRED

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "MatchRule":
        """Read a document type's rule; ``{}`` asks for the holder alone. Raises ValueError naming what is wrong.

        ``{"attributes": {"full_name": {"parameter": "name", "compare": "name"}}, "sources": […], "holder": "required"}``
        """
        unknown = members.keys() - {"attributes", "sources", "holder"}
        if unknown:
            raise ValueError(f"a match rule has no member {sorted(unknown)[0]!r}")
        attributes = tuple(_attribute_rule(name, row) for name, row in dict(members.get("attributes", {})).items())
        sources = tuple(members.get("sources", SOURCES))
        holder = members.get("holder", HOLDER_REQUIRED)
        if not sources or not set(sources) <= set(SOURCES):
            raise ValueError(f"sources of a match rule are among {', '.join(SOURCES)}")
        if holder not in (HOLDER_REQUIRED, HOLDER_IF_KNOWN):
            raise ValueError(f"holder is {HOLDER_REQUIRED!r} or {HOLDER_IF_KNOWN!r}")
        if holder == HOLDER_IF_KNOWN and not attributes:
            raise ValueError(
                "a rule without a required holder names attributes, or a number alone would give the document"
            )
        return cls(attributes, sources, holder)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document with the search parameters that were asked for."""

    document_id: str
    uri: str
    holder_hash: str | None
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Described:
    """What a locker says of a resident: keyed hashes of the identifiers, attributes as (value, source) by name."""

    holder_hashes: frozenset[str]
    attributes: Mapping[str, tuple[str, str]]


NOBODY = Candidate("", "", "0" * 64, {})
"""What is judged when no document was found, so that finding none takes the same work."""


def judge(rule: MatchRule, candidate: Candidate, described: Described) -> Verdict:
    """Apply a rule to a document and a resident: every part is looked at, the lowest counts."""
    parts = [_judge_holder(rule, candidate, described)]
    parts += [_judge_attribute(rule, part, candidate, described) for part in rule.attributes]
    return min(parts)


def best(rule: MatchRule, candidates: Sequence[Candidate], described: Described) -> tuple[Verdict, Candidate]:
    """Return the best verdict among candidates and whose it is; of equal ones the last."""
    judged = [(judge(rule, candidate, described), candidate) for candidate in (candidates or [NOBODY])]
    highest = max(verdict for verdict, _ in judged)
    return highest, [candidate for verdict, candidate in judged if verdict is highest][-1]


def read_date(text: str) -> date | None:
    """Read a calendar date written day first or year first, None for any other text."""
    if found := _DAY_FIRST.match(text):
        day, month, year = found.groups()
    elif found := _YEAR_FIRST.match(text):
        year, month, day = found.groups()
    else:
        return None
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _judge_holder(rule: MatchRule, candidate: Candidate, described: Described) -> Verdict:
    if candidate.holder_hash is None:
        return Verdict.NO if rule.holder == HOLDER_REQUIRED else Verdict.MATCH
    same = [hmac.compare_digest(candidate.holder_hash, known) for known in described.holder_hashes]
    return Verdict.MATCH if any(same) else Verdict.NO


def _judge_attribute(rule: MatchRule, part: AttributeRule, candidate: Candidate, described: Described) -> Verdict:
    value, source = described.attributes.get(part.attribute, ("", SELF_DECLARED))
    stored = candidate.parameters.get(part.parameter, "")
    verdict = COMPARISONS[part.comparison](stored, value)
    return verdict if stored and value and source in rule.sources else Verdict.NO


def _attribute_rule(name: str, row: Any) -> AttributeRule:
    members = dict(row)
    unknown = members.keys() - {"parameter", "compare"}
    comparison = members.get("compare", USUAL_COMPARISON.get(name, "exact"))
    if unknown or comparison not in COMPARISONS:
        raise ValueError(f"an attribute has 'parameter' and 'compare', which is one of {', '.join(COMPARISONS)}")
    return AttributeRule(name, str(members.get("parameter", name)), comparison)


def _ascii_digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def _words(name: str) -> list[str]:
    """Return a name's words; punctuation separates them, apostrophes belong to them."""
    plain = normal_form(name).replace("'", "").replace("\u2019", "")
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in plain).split()


def _fits_into(shorter: Iterable[str], longer: Sequence[str]) -> bool:
    """Tell whether each word finds a word of its own, whole or as an initial, and at least one finds a whole one."""
    left = list(longer)
    initials = []
    whole = 0
    for word in shorter:
        if word in left:
            left.remove(word)
            whole += len(_letters(word)) > 1
        else:
            initials.append(word)
    return whole > 0 and all(_take_initial(word, left) for word in initials)


def _take_initial(word: str, left: list[str]) -> bool:
    for other in left:
        short, long = sorted((_letters(word), _letters(other)), key=len)
        if len(short) == 1 and long.startswith(short):
            left.remove(other)
            return True
    return False


def _letters(word: str) -> str:
    return "".join(c for c in word if unicodedata.category(c)[0] != "M")


def _day_or_year(text: str) -> date | int | None:
    form = normal_form(text)
    return int(form) if _YEAR.match(form) else read_date(form)


def _year(value: date | int) -> int:
    return value.year if isinstance(value, date) else value


def _year_only(value: date | int) -> bool:
    return not isinstance(value, date) or (value.month, value.day) == (1, 1)
