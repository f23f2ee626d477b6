"""Pull tickets: what a locker signs so that a node can answer without asking it (design section 3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.contract.problems import InvalidCredential
from node.contract.signing import TICKET, KeySet, SigningKey, sign, verify
from node.contract.times import SECOND

LIFETIME = 600
"""Seconds that a locker gives a ticket."""
MAX_LIFETIME = 900
"""Seconds beyond which a node refuses a ticket that is not bound to a key."""
MAX_BOUND_LIFETIME = 24 * 3600
"""Seconds beyond which a node refuses a bound ticket."""
SKEW = 30
"""Seconds by which the clocks of a locker and a node may differ."""

BASIS_CONSENT = "consent"
BASIS_HOLDER = "holder"


class TicketRefused(InvalidCredential):
    """A ticket is signed properly but not good here and now; ``reason`` says why."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket's claims. Times are seconds since 1970 (RFC 7519 NumericDate), ``issued_us`` microseconds.

    ``issued_us`` exists because a second is too coarse to tell a ticket from before a revocation from one after it.
    """

    iss: str
    aud: str
    client_id: str
    act: str | None
    issuer: str
    doc_type: str
    doc_id: str
    version: int | None
    representations: tuple[str, ...] | None
    holder_ref: str | None
    basis: str
    consent_id: str | None
    artefact: str | None
    purpose: str
    jti: str
    iat: int
    exp: int
    issued_us: int
    key_thumbprint: str | None = None

    def claims(self) -> dict[str, Any]:
        """Return the JWT claims; absent ones are left out."""
        claims: dict[str, Any] = {
            "iss": self.iss, "aud": self.aud, "client_id": self.client_id, "act": self.act,
            "issuer": self.issuer, "doc_type": self.doc_type, "doc_id": self.doc_id,
            "ver": self.version, "reps": list(self.representations) if self.representations is not None else None,
            "holder_ref": self.holder_ref, "basis": self.basis, "consent_id": self.consent_id,
            "artefact": self.artefact, "purpose": self.purpose, "jti": self.jti,
            "iat": self.iat, "exp": self.exp, "issued_us": self.issued_us,
            "cnf": {"jkt": self.key_thumbprint} if self.key_thumbprint else None,
        }  # fmt: skip
        return {name: value for name, value in claims.items() if value is not None}

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> "Ticket":
        """Read claims whose signature holds; raises TicketRefused ``malformed-claims`` when one is missing or of another kind."""
        try:
            ticket = cls(
                iss=_text(claims, "iss"), aud=_text(claims, "aud"), client_id=_text(claims, "client_id"),
                act=_optional_text(claims, "act"), issuer=_text(claims, "issuer"), doc_type=_text(claims, "doc_type"),
                doc_id=_text(claims, "doc_id"), version=_optional_integer(claims, "ver"),
                representations=_optional_texts(claims, "reps"), holder_ref=_optional_text(claims, "holder_ref"),
                basis=_text(claims, "basis"), consent_id=_optional_text(claims, "consent_id"),
                artefact=_optional_text(claims, "artefact"), purpose=_text(claims, "purpose"), jti=_text(claims, "jti"),
                iat=_integer(claims, "iat"), exp=_integer(claims, "exp"), issued_us=_integer(claims, "issued_us"),
                key_thumbprint=_confirmation(claims),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise TicketRefused(reason="malformed-claims") from error
        ticket._require_whole()
        return ticket

    def _require_whole(self) -> None:
        consented = self.consent_id is not None and self.artefact is not None
        if self.basis not in (BASIS_CONSENT, BASIS_HOLDER) or consented != (self.basis == BASIS_CONSENT):
            raise TicketRefused(reason="malformed-claims")
        if self.issued_us // SECOND != self.iat:
            raise TicketRefused(reason="malformed-claims")

    def require_current(self, now_us: int) -> None:
        """Raise TicketRefused ``not-yet-valid``, ``expired`` or ``lifetime-too-long`` unless the ticket is good at this moment."""
        now = now_us // SECOND
        if self.iat > now + SKEW:
            raise TicketRefused("The ticket is dated in the future; compare the clocks", reason="not-yet-valid")
        if self.exp + SKEW <= now:
            raise TicketRefused("The ticket has expired", reason="expired")
        longest = MAX_BOUND_LIFETIME if self.key_thumbprint else MAX_LIFETIME
        if not 0 < self.exp - self.iat <= longest:
            raise TicketRefused("The ticket's lifetime is longer than this node accepts", reason="lifetime-too-long")


def issue_ticket(ticket: Ticket, key: SigningKey) -> str:
    """Sign a ticket; the key must be one for tickets."""
    if key.typ != TICKET:
        raise ValueError("not a ticket key")
    return sign(ticket.claims(), key)


def verify_ticket(token: str, keys: KeySet) -> Ticket:
    """Check a ticket's signature and form, not its time or scope; raises SignatureRefused or TicketRefused."""
    return Ticket.from_claims(verify(token, TICKET, keys))


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims[name]
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise ValueError(name)
    return value


def _optional_text(claims: Mapping[str, Any], name: str) -> str | None:
    return None if claims.get(name) is None else _text(claims, name)


def _integer(claims: Mapping[str, Any], name: str) -> int:
    value = claims[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(name)
    return value


def _optional_integer(claims: Mapping[str, Any], name: str) -> int | None:
    return None if claims.get(name) is None else _integer(claims, name)


def _optional_texts(claims: Mapping[str, Any], name: str) -> tuple[str, ...] | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(name)
    return tuple(value)


def _confirmation(claims: Mapping[str, Any]) -> str | None:
    value = claims.get("cnf")
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("jkt"), str):
        raise ValueError("cnf")
    return str(value["jkt"])
