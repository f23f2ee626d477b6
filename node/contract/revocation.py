"""Revocation pages: a signed, hash-linked list that voids tickets issued before a moment (design section 3).

Pages are numbered from 1. Each names the SHA-256 of the page before it. A reader that has page n takes only n + 1 whose link
fits, so a gap, a fork and a replayed older page all show. A reader without any page starts at the latest page's ``horizon``:
entries before it can no longer concern a ticket that is alive.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.contract.problems import InvalidCredential
from node.contract.signing import MAX_REVOCATION_PAGE, REVOCATION, KeySet, SigningKey, sign, verify
from node.contract.times import HOUR, format_time, parse_time

HORIZON_AGE = 25 * HOUR
"""Microseconds after which no ticket that an entry could void is alive: the longest bound lifetime and an hour."""
MAX_ENTRIES = 5000


class PageRefused(InvalidCredential):
    """A revocation page cannot follow the one before it; ``reason`` is ``gap``, ``rollback``, ``broken-link`` or ``malformed-claims``."""


@dataclass(frozen=True, slots=True)
class RevocationEntry:
    """Tickets under a consent that were issued at or before a moment (microseconds UTC) are void."""

    consent_id: str
    void_before_us: int


@dataclass(frozen=True, slots=True)
class RevocationPage:
    """One page; times are microseconds UTC, ``previous`` is the hex SHA-256 of the page before as sent, or None for the first."""

    iss: str
    sequence: int
    previous: str | None
    horizon: int
    issued_us: int
    next_update_us: int
    entries: tuple[RevocationEntry, ...]

    def claims(self) -> dict[str, Any]:
        """Return the JWS claims."""
        return {
            "iss": self.iss,
            "seq": self.sequence,
            "prev": self.previous,
            "horizon": self.horizon,
            "issued_at": format_time(self.issued_us),
            "next_update": format_time(self.next_update_us),
            "entries": [
                {"consent_id": entry.consent_id, "void_before": format_time(entry.void_before_us)}
                for entry in self.entries
            ],
        }

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> "RevocationPage":
        """Read claims whose signature holds; raises PageRefused ``malformed-claims``."""
        try:
            entries = claims["entries"]
            if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
                raise ValueError("entries")
            page = cls(
                iss=str(claims["iss"]),
                sequence=_number(claims["seq"]),
                previous=None if claims["prev"] is None else str(claims["prev"]),
                horizon=_number(claims["horizon"]),
                issued_us=parse_time(claims["issued_at"]),
                next_update_us=parse_time(claims["next_update"]),
                entries=tuple(
                    RevocationEntry(str(entry["consent_id"]), parse_time(entry["void_before"])) for entry in entries
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise PageRefused(reason="malformed-claims") from error
        if not 1 <= page.horizon <= page.sequence or (page.previous is None) != (page.sequence == 1):
            raise PageRefused(reason="malformed-claims")
        return page

    def require_follows(self, sequence: int, digest: str, issued_us: int) -> None:
        """Raise PageRefused unless this is the page right after the given one and not dated before it."""
        if self.sequence <= sequence:
            raise PageRefused(reason="rollback")
        if self.sequence != sequence + 1:
            raise PageRefused(reason="gap")
        if self.previous != digest:
            raise PageRefused(reason="broken-link")
        if self.issued_us < issued_us:
            raise PageRefused(reason="rollback")


def issue_page(page: RevocationPage, key: SigningKey) -> str:
    """Sign a page; the key must be one for revocation pages."""
    if key.typ != REVOCATION:
        raise ValueError("not a revocation key")
    return sign(page.claims(), key)


def verify_page(token: str, keys: KeySet) -> RevocationPage:
    """Check a page's signature and form, not its place in the sequence; raises SignatureRefused or PageRefused."""
    return RevocationPage.from_claims(verify(token, REVOCATION, keys, max_size=MAX_REVOCATION_PAGE))


def page_digest(token: str) -> str:
    """Return the hex SHA-256 of a page as sent: what the next page's ``prev`` names."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def _number(value: Any) -> int:
    """Return a page number as it is: Python reads ``Infinity`` and ``NaN`` as JSON numbers, and ``int`` takes texts too."""
    if type(value) is not int:
        raise ValueError("a page number is an integer")
    return value
