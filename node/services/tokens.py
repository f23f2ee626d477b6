"""Role tokens for people and tools at a node: 256 random bits, shown once, kept as a hash, with scope and expiry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from node.contract.identifiers import new_secret
from node.contract.problems import MalformedURI, UnacceptableContent
from node.contract.times import DAY, parse_date
from node.contract.uri import require_doc_type, require_issuer
from node.services.access import TOKEN_ROLES, TokenGrant, TokenScope
from node.services.errors import TokenNotFound

DEFAULT_DAYS = 90
MAX_DAYS = 365
MAX_NAME = 200


class TokenStore(Protocol):
    """Where tokens are kept; each call is one transaction."""

    def add(self, token: str, *, name: str, role: str, scope: TokenScope, now_us: int, expires_us: int) -> str:
        """Store a new token's hash and return the token's identifier."""

    def all(self) -> list[TokenGrant]:
        """Return all tokens, oldest first."""

    def revoke(self, token_id: str, now_us: int) -> bool:
        """End a token; False when there is none that has not been ended."""


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token just made; ``token`` is shown now and never again. Time in microseconds UTC."""

    token_id: str
    token: str
    expires_us: int

    def __repr__(self) -> str:
        return f"NewToken(token_id={self.token_id!r}, token='***')"


class TokenService:
    """Makes, lists and ends role tokens."""

    def __init__(self, tokens: TokenStore, *, clock: Callable[[], int]) -> None:
        self._tokens = tokens
        self._clock = clock

    def create(self, name: str, role: str, scope: TokenScope | None = None, days: int = DEFAULT_DAYS) -> NewToken:
        """Make a token that lasts 1 to 365 days; raises UnacceptableContent naming what cannot be taken."""
        scope = scope or TokenScope()
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise UnacceptableContent(f"A token's name says who uses it, in 1 to {MAX_NAME} characters on one line")
        if role not in TOKEN_ROLES:
            raise UnacceptableContent(f"A role is one of {', '.join(TOKEN_ROLES)}")
        if not 1 <= days <= MAX_DAYS:
            raise UnacceptableContent(f"A token lasts 1 to {MAX_DAYS} days")
        _require_scope(scope)
        token, now_us = new_secret(), self._clock()
        expires_us = now_us + days * DAY
        token_id = self._tokens.add(token, name=name, role=role, scope=scope, now_us=now_us, expires_us=expires_us)
        return NewToken(token_id, token, expires_us)

    def all(self) -> list[TokenGrant]:
        """Return all tokens, ended ones too, oldest first."""
        return self._tokens.all()

    def revoke(self, token_id: str) -> None:
        """End a token at once; raises TokenNotFound."""
        if not self._tokens.revoke(token_id, self._clock()):
            raise TokenNotFound("there is no token with this identifier that is still good")


def _require_scope(scope: TokenScope) -> None:
    try:
        for issuer in scope.issuers:
            require_issuer(issuer)
        for doc_type in scope.doc_types:
            require_doc_type(doc_type)
    except MalformedURI as error:
        raise UnacceptableContent(str(error)) from None
    if scope.office is not None and not scope.office.strip():
        raise UnacceptableContent("An office has a name")
    try:
        days = [parse_date(text) for text in (scope.from_date, scope.until_date) if text is not None]
    except ValueError:
        raise UnacceptableContent("A date is written YYYY-MM-DD") from None
    if days != sorted(days):
        raise UnacceptableContent("The period ends before it begins")
