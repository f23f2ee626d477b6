"""Who may read what: a pure decision over a principal, a document and the revocations known. No I/O, no clock of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from node.contract.problems import (
    DocumentNotFound,
    DocumentRevoked,
    Forbidden,
    InvalidCredential,
    MissingCredential,
    OutOfScope,
    ProblemError,
)
from node.contract.tickets import Ticket, TicketRefused
from node.contract.times import SECOND, parse_date
from node.contract.uri import DocumentURI
from node.services.ports import CatalogueDocument, Placement

OPERATOR = "operator"
AUDITOR = "auditor"
MONITOR = "monitor"
TICKET_ROLE = "ticket"
GATEWAY = "gateway"
TOKEN_ROLES = (OPERATOR, AUDITOR, MONITOR)


@dataclass(frozen=True, slots=True)
class TokenScope:
    """What a role token is limited to; empty tuples do not limit. Dates are ISO calendar dates of the rows seen."""

    issuers: tuple[str, ...] = ()
    doc_types: tuple[str, ...] = ()
    office: str | None = None
    from_date: str | None = None
    until_date: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the members that limit."""
        members = {
            "issuers": list(self.issuers), "doc_types": list(self.doc_types), "office": self.office,
            "from_date": self.from_date, "until_date": self.until_date,
        }  # fmt: skip
        return {name: value for name, value in members.items() if value}

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "TokenScope":
        """Read what ``as_json`` wrote."""
        return cls(
            tuple(members.get("issuers", ())), tuple(members.get("doc_types", ())), members.get("office"),
            members.get("from_date"), members.get("until_date"),
        )  # fmt: skip

    def covers(self, uri: DocumentURI, office: str | None = None) -> bool:
        """Tell whether a document lies within the limits."""
        return (
            _within(uri.issuer, self.issuers)
            and _within(uri.doc_type, self.doc_types)
            and (self.office is None or self.office == office)
        )


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """A role token as stored; times are microseconds UTC."""

    token_id: str
    name: str
    role: str
    scope: TokenScope
    created_us: int
    expires_us: int
    revoked_us: int | None

    def require_current(self, now_us: int) -> None:
        """Raise InvalidCredential ``token-revoked`` or ``token-expired`` unless the token is good now."""
        if self.revoked_us is not None:
            raise InvalidCredential(reason="token-revoked")
        if self.expires_us <= now_us:
            raise InvalidCredential("The access token has expired", reason="token-expired")


@dataclass(frozen=True, slots=True)
class LockerScope:
    """A registered locker as the decision needs it: whether it is trusted now, and what it may give tickets for."""

    iss: str
    state: str
    issuers: tuple[str, ...] = ()
    doc_types: tuple[str, ...] = ()

    def covers(self, issuer: str, doc_type: str) -> bool:
        """Tell whether an issuer's documents of a type are this locker's concern."""
        return _within(issuer, self.issuers) and _within(doc_type, self.doc_types)


class LockerLimit(Protocol):
    """What the settings say of one locker; empty sequences do not limit."""

    @property
    def iss(self) -> str:
        """The locker."""

    @property
    def issuers(self) -> tuple[str, ...]:
        """The issuers that it may speak of."""

    @property
    def doc_types(self) -> tuple[str, ...]:
        """The document types that it may speak of."""


def locker_scopes(limits: Iterable[LockerLimit]) -> dict[str, LockerScope]:
    """Return what the settings let each locker speak of, by locker; empty when they list none."""
    return {limit.iss: LockerScope(limit.iss, "active", limit.issuers, limit.doc_types) for limit in limits}


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What this node accepts at all: its own identifier, and whether only the locker's gateway may read."""

    node_id: str
    gateway_only: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: exactly one of a ticket, a role token, or nobody."""

    ticket: Ticket | None = None
    token: TokenGrant | None = None

    @property
    def role(self) -> str:
        """The role as the specification's ``x-roles`` names it."""
        if self.ticket is not None:
            return TICKET_ROLE
        return self.token.role if self.token else "public"


def require_valid(
    principal: Principal, rules: NodeRules, locker: LockerScope | None, void_before_us: int | None, now_us: int
) -> None:
    """Raise unless the credential itself is good here and now, whatever it is used for."""
    if principal.token is not None:
        principal.token.require_current(now_us)
    elif principal.ticket is not None:
        _require_valid_ticket(principal.ticket, rules, locker, void_before_us, now_us)
    else:
        raise MissingCredential()


def require_in_scope(
    principal: Principal, rules: NodeRules, locker: LockerScope | None, uri: DocumentURI, office: str | None
) -> None:
    """Raise unless a valid credential covers this document; ``office`` is the document's, None when it is not known."""
    if principal.ticket is not None:
        _require_ticket_covers(principal.ticket, rules, locker, uri)
    elif principal.token is not None and not principal.token.scope.covers(uri, office):
        raise OutOfScope(reason="token-out-of-scope")


def require_role(principal: Principal, *roles: str) -> None:
    """Raise Forbidden unless the principal has one of the roles."""
    if principal.role not in roles:
        raise Forbidden(reason="role-not-allowed")


def require_served(document: CatalogueDocument, principal: Principal) -> None:
    """Raise DocumentRevoked when the document may no longer be given out, whoever asks."""
    if document.status == "revoked":
        raise DocumentRevoked()
    ticket = principal.ticket
    if ticket is not None and ticket.version is not None and not document.of_version(ticket.version):
        raise DocumentNotFound(reason="version-not-known")


def allowed_placements(document: CatalogueDocument, principal: Principal) -> tuple[Placement, ...]:
    """Return the representations among which the request's headers may choose."""
    ticket = principal.ticket
    if ticket is None:
        return document.of_version(document.current_version)
    placements = document.of_version(ticket.version or document.current_version)
    if ticket.representations is None:
        return placements
    allowed = tuple(placement for placement in placements if placement.media_type in ticket.representations)
    if not allowed:
        raise Forbidden(
            "The ticket does not name a representation of this document", reason="representation-not-allowed"
        )
    return allowed


def is_expired(document: CatalogueDocument, now_us: int) -> bool:
    """Tell whether a document's last day of validity is over, in UTC."""
    if document.expires_on is None:
        return False
    return parse_date(document.expires_on) < datetime.fromtimestamp(now_us / SECOND, UTC).date()


def credential_refused(error: ProblemError) -> bool:
    """Tell whether a refusal means that the caller has no valid credential at all: what floods are made of."""
    return isinstance(error, MissingCredential | InvalidCredential)


def _require_valid_ticket(
    ticket: Ticket, rules: NodeRules, locker: LockerScope | None, void_before_us: int | None, now_us: int
) -> None:
    if ticket.aud != rules.node_id:
        raise TicketRefused("The ticket is for another node", reason="other-audience")
    ticket.require_current(now_us)
    if locker is None or locker.state != "active":
        raise TicketRefused("The ticket's locker is not accepted here", reason="locker-not-active")
    if ticket.key_thumbprint is not None:
        raise TicketRefused("This node takes no tickets that are bound to a key", reason="bound-ticket")
    if void_before_us is not None and ticket.issued_us <= void_before_us:
        raise TicketRefused("The consent behind this ticket was revoked or narrowed", reason="consent-revoked")


def _require_ticket_covers(ticket: Ticket, rules: NodeRules, locker: LockerScope | None, uri: DocumentURI) -> None:
    if locker is None or not locker.covers(ticket.issuer, ticket.doc_type):
        raise OutOfScope("This locker may not give tickets for this issuer or type", reason="locker-out-of-scope")
    if f"{ticket.issuer}-{ticket.doc_type}-{ticket.doc_id}".lower() != uri.key:
        raise Forbidden("The ticket is for another document", reason="other-document")
    if rules.gateway_only and ticket.act != GATEWAY:
        raise Forbidden("This node is read through the locker's gateway only", reason="gateway-only")


def _within(value: str, allowed: tuple[str, ...]) -> bool:
    return not allowed or value.lower() in (item.lower() for item in allowed)
