"""Checking tickets offline: which locker's keys, and what was already checked a moment ago."""

import json
from collections import OrderedDict
from dataclasses import dataclass

from node.contract.signing import KeySet, SignatureRefused, read_claims_unverified
from node.contract.tickets import Ticket, TicketRefused, verify_ticket

CACHED_TICKETS = 4096


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """A locker's JWKS and the keys that its root revoked as they are stored, JSON texts; a new text means new keys."""

    iss: str
    jwks: str
    revoked: str = "[]"


class TicketVerifier:
    """Checks signatures, and remembers for a token text what it said, so that ranges of one read cost one check.

    Only signature and form are remembered; time, scope and revocation are judged anew each time. Not thread-safe: each
    admission thread has its own.
    """

    def __init__(self) -> None:
        self._key_sets: dict[str, tuple[PublishedKeys, KeySet]] = {}
        self._checked: OrderedDict[str, Ticket] = OrderedDict()

    def claimed_issuer(self, token: str) -> str:
        """Return the locker that a token says it is from; raises SignatureRefused when it is no token at all."""
        remembered = self._checked.get(token)
        if remembered is not None:
            return remembered.iss
        iss = read_claims_unverified(token).get("iss")
        if not isinstance(iss, str) or len(iss) > 255 or not iss.isprintable():
            raise SignatureRefused(reason="malformed")
        return iss

    def verify(self, token: str, published: PublishedKeys | None) -> Ticket:
        """Return the ticket; raises SignatureRefused or TicketRefused, ``unknown-locker`` when nobody here knows its locker."""
        if published is None:
            raise TicketRefused(reason="unknown-locker")
        known = self._key_sets.get(published.iss)
        if known is None or known[0] != published:
            known = (published, stored_keys(published.jwks, published.revoked))
            self._key_sets[published.iss] = known
            self._checked.clear()
        remembered = self._checked.get(token)
        if remembered is None:
            remembered = verify_ticket(token, known[1])
            if remembered.iss != published.iss:
                raise TicketRefused(reason="other-locker")
            self._checked[token] = remembered
            if len(self._checked) > CACHED_TICKETS:
                self._checked.popitem(last=False)
        return remembered


def stored_keys(jwks: str, revoked: str) -> KeySet:
    """Return a locker's keys from what is stored of them: its JWKS, and a list of the keys that its root revoked."""
    return KeySet.from_jwks(json.loads(jwks), json.loads(revoked))


def bearer_credential(authorization: str | None) -> str | None:
    """Return the credential of an Authorization header of the Bearer scheme (RFC 6750 section 2.1), None without a header.

    Raises SignatureRefused ``malformed`` for another scheme or an empty credential.
    """
    if authorization is None:
        return None
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip()
    if scheme.lower() != "bearer" or not credential or len(credential) > 16 * 1024:
        raise SignatureRefused("Use the Bearer scheme", reason="malformed")
    return credential
