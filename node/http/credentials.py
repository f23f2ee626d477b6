"""From an Authorization header to a principal: role token, ticket, or a request or grant that a locker signed."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from node.contract.problems import InvalidCredential, MissingCredential
from node.contract.records import verify_request
from node.contract.signing import (
    LOG_GRANT,
    PULL,
    TICKET,
    KeySet,
    SignatureRefused,
    looks_like_jws,
    read_claims_unverified,
    read_header,
)
from node.contract.tickets import TicketRefused, verify_ticket
from node.contract.times import MINUTE
from node.db.tokens import token_hash
from node.http.ports import CredentialRecords, KnownLocker
from node.http.principals import ControlPrincipal, LockerRequest, LogGrant
from node.services import access
from node.services.access import LockerScope, NodeRules
from node.services.events import shown
from node.services.verifying import bearer_credential, stored_keys

REFRESH_INTERVAL_US = MINUTE

RefreshKeys = Callable[[str], bool]
"""Fetch a registered locker's JWKS now and store it; True when what is stored has changed. Never raises for a locker that is down."""


class Credentials:
    """Identifies callers; blocking, and may be used from several threads."""

    def __init__(
        self,
        records: CredentialRecords,
        rules: NodeRules,
        limits: Mapping[str, LockerScope],
        refresh_keys: RefreshKeys,
        clock: Callable[[], int],
    ) -> None:
        """``limits`` are the settings' limits by locker; none at all leave a registered locker to its registration."""
        self._records = records
        self._rules = rules
        self._limits = limits
        self._refresh_keys = refresh_keys
        self._clock = clock
        self._refreshed_us: dict[str, int] = {}
        self._lock = threading.Lock()

    def identify(self, authorization: str | None) -> ControlPrincipal:
        """Return who calls, with a credential that is good now; raises MissingCredential or InvalidCredential."""
        credential = bearer_credential(authorization)
        if credential is None:
            raise MissingCredential()
        return self._signed(credential) if looks_like_jws(credential) else self._token(credential)

    def scope_of(self, locker: KnownLocker | None) -> LockerScope | None:
        """Return what a registered locker may do; settings that list lockers shut out those they do not list."""
        if locker is None:
            return None
        if not self._limits:
            return LockerScope(locker.iss, locker.state)
        limit = self._limits.get(locker.iss)
        return LockerScope(locker.iss, locker.state, limit.issuers, limit.doc_types) if limit else None

    def ticket_scope(self, principal: access.Principal) -> LockerScope | None:
        """Return the scope of the locker that signed a principal's ticket."""
        return self.scope_of(self._records.locker(principal.ticket.iss)) if principal.ticket else None

    def _token(self, credential: str) -> ControlPrincipal:
        token = self._records.token(token_hash(credential))
        if token is None:
            raise InvalidCredential(reason="unknown-token")
        token.require_current(self._clock())
        return ControlPrincipal(access.Principal(token=token))

    def _signed(self, credential: str) -> ControlPrincipal:
        readers: dict[str, Callable[[str, KnownLocker], ControlPrincipal]] = {
            TICKET: self._ticket,
            PULL: self._pull,
            LOG_GRANT: self._log_grant,
        }
        read = readers.get(str(read_header(credential).get("typ")))
        if read is None:
            raise SignatureRefused(reason="wrong-typ")
        locker = self._claimed_locker(credential)
        try:
            return read(credential, locker)
        except SignatureRefused as error:
            if error.reason != "unknown-key" or not self._refresh(locker.iss):
                raise
        return read(credential, self._claimed_locker(credential))

    def _claimed_locker(self, credential: str) -> KnownLocker:
        iss = read_claims_unverified(credential).get("iss")
        # What is not printable is no name, and some of it no database takes as text.
        plausible = isinstance(iss, str) and len(iss) <= 255 and iss.isprintable()
        locker = self._records.locker(str(iss)) if plausible else None
        if locker is None:
            raise TicketRefused(reason="unknown-locker")
        return locker

    def _refresh(self, iss: str) -> bool:
        """Fetch the locker's keys for a key that is not known, at most once a minute whatever is asked."""
        now_us = self._clock()
        with self._lock:
            if now_us - self._refreshed_us.get(iss, now_us - REFRESH_INTERVAL_US) < REFRESH_INTERVAL_US:
                return False
            self._refreshed_us[iss] = now_us
        return self._refresh_keys(iss)

    def _ticket(self, credential: str, locker: KnownLocker) -> ControlPrincipal:
        principal = access.Principal(ticket=verify_ticket(credential, _keys(locker)))
        ticket = principal.ticket
        if ticket is None or ticket.iss != locker.iss:
            raise TicketRefused(reason="other-locker")
        void_us = self._records.void_before_us(ticket.iss, ticket.consent_id) if ticket.consent_id else None
        access.require_valid(principal, self._rules, self.scope_of(locker), void_us, self._clock())
        return ControlPrincipal(principal)

    def _pull(self, credential: str, locker: KnownLocker) -> ControlPrincipal:
        scope, claims = self._request(credential, PULL, locker)
        return ControlPrincipal(locker=LockerRequest(scope, claims))

    def _log_grant(self, credential: str, locker: KnownLocker) -> ControlPrincipal:
        scope, claims = self._request(credential, LOG_GRANT, locker)
        named = {"holder": "holder_ref", "client": "client_id"}.get(str(claims.get("scope")))
        value = claims.get(named) if named else None
        if not isinstance(value, str) or not 0 < len(value) <= 128 or not value.isprintable():
            raise TicketRefused(reason="malformed-claims")
        grant = LogGrant(
            scope, shown(claims["jti"]),
            holder_ref=value if named == "holder_ref" else None, client_id=value if named == "client_id" else None,
        )  # fmt: skip
        return ControlPrincipal(log_grant=grant)

    def _request(self, credential: str, typ: str, locker: KnownLocker) -> tuple[LockerScope, Mapping[str, Any]]:
        claims = verify_request(
            credential, typ, _keys(locker), audience=self._rules.node_id, now_us=self._clock(), max_size=16 * 1024
        )
        scope = self.scope_of(locker)
        if scope is None or scope.state != "active":
            raise TicketRefused("The credential's locker is not accepted here", reason="locker-not-active")
        return scope, claims


def _keys(locker: KnownLocker) -> KeySet:
    return stored_keys(locker.jwks, locker.revoked_keys)
