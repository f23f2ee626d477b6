"""Clients showing who they are, and the opaque access tokens that they and people are known by.

Written small and not with Authlib's server: there is one grant, our client assertions carry the federation's own ``typ`` and
keys that Authlib's JWT client authentication does not check, and its server wants a framework's request object.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import unquote_plus

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.orm import Session

from locker.db.models import AccessToken, Client, Node, Registration, UsedAssertion
from locker.db.prepared import PreparedSelect
from locker.db.session import Database
from locker.services.directory import use_once
from locker.services.principal import AUDITOR, NODE, OPERATOR, REQUESTER, RESIDENT, Principal
from node.contract.identifiers import new_secret
from node.contract.problems import Conflict, InvalidCredential, MissingCredential
from node.contract.records import ASSERTION_TYPE, RequestRefused, verify_request
from node.contract.signing import CLIENT_ASSERTION, KeySet, SignatureRefused, read_claims_unverified
from node.contract.times import SECOND

APPLICANT = "applicant"
"""The role of a node that waits for approval: it may read its own registration and nothing else."""

ACTIVE = "active"
GRANT = "client_credentials"
_NO_SECRET = "0" * 64
_CLIENT_ID = re.compile(r"[!-~]{1,128}")


class TokenRefused(Exception):
    """An error of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400, reason: str | None = None) -> None:
        """``reason`` is for our own log: a stranger is told one thing for every cause."""
        super().__init__(description)
        self.error, self.description, self.status, self.reason = error, description, status, reason or error


@dataclass(frozen=True, slots=True)
class Issued:
    """A new access token, shown this once."""

    token: str
    expires_us: int


@dataclass(frozen=True, slots=True)
class _Proof:
    """Who has shown who it is, the stored credential that this was held against, and the assertion (client id, jti, exp) if any."""

    principal: Principal
    credential: str
    assertion: tuple[str, str, int] | None = None


class Tokens:
    """Access tokens and the clients' ways to get one."""

    def __init__(self, database: Database, *, iss: str, token_endpoint: str, lifetime: int) -> None:
        """``lifetime`` is in seconds."""
        self._database = database
        self._audiences = (token_endpoint, iss)
        self._lifetime = lifetime * SECOND

    def grant(self, form: Mapping[str, str], authorization: str | None, now_us: int) -> Issued:
        """Answer a request to the token endpoint (RFC 6749 section 4.4); raises TokenRefused."""
        if form.get("grant_type") != GRANT:
            raise TokenRefused("unsupported_grant_type", "Only client_credentials is taken here.")
        if form.get("scope"):
            raise TokenRefused(
                "invalid_scope", "Scopes are not asked for here; a client's scope is what it was approved for."
            )
        methods = (authorization is not None, "client_secret" in form, "client_assertion" in form)
        if sum(methods) == 0:
            raise _invalid_client("missing")
        if sum(methods) > 1:
            raise TokenRefused("invalid_request", "Use one way to authenticate.")
        if methods[2]:
            proof = self._by_assertion(form, now_us)
        elif authorization is not None:
            proof = self._by_secret(*_basic(authorization))
        else:
            proof = self._by_secret(form.get("client_id", ""), form["client_secret"])
        with self._database.write() as session:
            try:
                _use(session, proof)
            except InvalidCredential as error:
                raise _invalid_client(error.reason) from error
            return _issue(session, proof.principal, now_us, now_us + self._lifetime)

    def _by_secret(self, client_id: str, secret: str) -> _Proof:
        if not _is_client_id(client_id) or not secret.isprintable():
            raise _invalid_client("malformed")
        with self._database.read() as session:
            client = session.get(Client, client_id)
        stored = client.secret_hash if client is not None and client.secret_hash is not None else _NO_SECRET
        same = hmac.compare_digest(stored, digest_of(secret))
        if client is None or client.secret_hash is None or not same:
            raise _invalid_client("wrong-secret")
        return _Proof(Principal(client.kind, client_id), stored)

    def _by_assertion(self, form: Mapping[str, str], now_us: int) -> _Proof:
        """Authenticate by ``private_key_jwt`` (RFC 7523 section 2.2), in no transaction: checking a signature takes its time."""
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise TokenRefused("invalid_request", "The type of the client assertion is not known here.")
        token = form["client_assertion"]
        try:
            claims = read_claims_unverified(token)
            client_id = claims.get("sub")
            if (
                not _is_client_id(client_id)
                or claims.get("iss") != client_id
                or form.get("client_id", client_id) != client_id
            ):
                raise SignatureRefused(reason="malformed-claims")
            principal, jwks = self._signer(token, client_id, now_us)
            return _Proof(principal, jwks, (client_id, str(claims["jti"]), int(claims["exp"])))
        except InvalidCredential as error:
            raise _invalid_client(error.reason) from error

    def _signer(self, token: str, client_id: str, now_us: int) -> tuple[Principal, str]:
        """Return whose keys verify an assertion, and those keys: a client's, or those of a node that waits for approval."""
        with self._database.read() as session:
            client = session.get(Client, client_id)
            waiting = session.scalars(select(Registration).where(Registration.node_id == client_id)).all()
        if client is not None and client.jwks is not None:
            try:
                self._verify(token, KeySet.from_jwks(json.loads(client.jwks)), now_us)
            except SignatureRefused as error:
                if error.reason != "unknown-key":
                    raise
            else:
                return Principal(client.kind, client_id), client.jwks
        for row in waiting:
            try:
                self._verify(token, KeySet.from_jwks(json.loads(row.claims)["jwks"]), now_us)
            except SignatureRefused:
                continue
            return Principal(APPLICANT, row.registration_id), row.claims
        raise SignatureRefused(reason="unknown-key")

    def _verify(self, token: str, keys: KeySet, now_us: int) -> None:
        audience = read_claims_unverified(token).get("aud")
        if audience not in self._audiences:
            raise RequestRefused(reason="wrong-audience")
        verify_request(token, CLIENT_ASSERTION, keys, audience=str(audience), now_us=now_us)

    def authenticate(self, authorization: str | None, now_us: int) -> Principal:
        """Return who holds a bearer token; raises MissingCredential or InvalidCredential."""
        digest = bearer_digest(authorization)
        with self._database.read() as session:
            return principal_of(callers_of(session.connection(), [digest]).get(digest), now_us)

    def create(self, role: str, subject: str, expires_us: int, now_us: int) -> Issued:
        """Make a token for a resident or for one of the operator's people."""
        if role not in (RESIDENT, AUDITOR, OPERATOR):
            raise ValueError("clients get their tokens from the token endpoint")
        with self._database.write() as session:
            return _issue(session, Principal(role, subject), now_us, expires_us)

    def revoke(self, subject: str) -> int:
        """End all tokens of a subject at once and return how many there were."""
        with self._database.write() as session:
            ended = session.scalars(
                delete(AccessToken).where(AccessToken.subject == subject).returning(AccessToken.token_hash)
            )
            return len(ended.all())

    def add_requester(self, client_id: str, name: str, jwks: Mapping[str, Any] | None, now_us: int) -> str | None:
        """Register a requester; without keys a client secret is made and returned, this once. Raises Conflict."""
        if jwks is not None and not any(key.typ == CLIENT_ASSERTION for key in KeySet.from_jwks(jwks)):
            raise ValueError(f'the JWKS holds no Ed25519 key with "typ": "{CLIENT_ASSERTION}"')
        secret = None if jwks is not None else new_secret()
        with self._database.write() as session:
            if session.get(Client, client_id) is not None:
                raise Conflict("this client id is taken")
            session.add(
                Client(
                    client_id=client_id, kind=REQUESTER, name=name, state=ACTIVE, created_us=now_us,
                    secret_hash=None if secret is None else digest_of(secret),
                    jwks=None if jwks is None else json.dumps(jwks),
                )
            )  # fmt: skip
        return secret

    def requesters(self) -> list[dict[str, Any]]:
        """Return every requester, for the operator."""
        with self._database.read() as session:
            rows = session.scalars(select(Client).where(Client.kind == REQUESTER).order_by(Client.client_id))
            return [
                {
                    "client_id": row.client_id, "name": row.name, "state": row.state,
                    "authentication": "private_key_jwt" if row.jwks else "client_secret", "created_us": row.created_us,
                }
                for row in rows
            ]  # fmt: skip

    def purge(self, now_us: int) -> int:
        """Delete what has expired and return how many rows that were."""
        with self._database.write() as session:
            tokens = session.scalars(
                delete(AccessToken).where(AccessToken.expires_us <= now_us).returning(AccessToken.token_hash)
            )
            used = session.scalars(
                delete(UsedAssertion).where(UsedAssertion.expires_us <= now_us).returning(UsedAssertion.jti)
            )
            return len(tokens.all()) + len(used.all())


class Caller(NamedTuple):
    """A token that was issued, with its client as it stands; whether it may be used is another question."""

    token_hash: str
    role: str
    subject: str
    expires_us: int
    client_state: str | None


# One query, so that suspending a client acts at once.
_CALLERS = PreparedSelect(
    select(AccessToken.token_hash, AccessToken.role, AccessToken.subject, AccessToken.expires_us, Client.state)
    .outerjoin(Client, (Client.client_id == AccessToken.subject) & (Client.kind == AccessToken.role))
    .where(AccessToken.token_hash.in_(bindparam("hashes", expanding=True))),
    "hashes",
)


def callers_of(connection: Connection, hashes: Iterable[str]) -> dict[str, Caller]:
    """Return what is known of tokens, by their stored form."""
    return {row[0]: Caller._make(row) for row in _CALLERS.rows(connection, list(hashes))}


def principal_of(caller: Caller | None, now_us: int) -> Principal:
    """Return who may use a token; raises InvalidCredential with its reason."""
    if caller is None:
        raise InvalidCredential(reason="unknown-token")
    if caller.expires_us <= now_us:
        raise InvalidCredential("The access token has expired", reason="expired")
    if caller.role in (NODE, REQUESTER) and caller.client_state != ACTIVE:
        raise InvalidCredential(reason="suspended")
    return Principal(caller.role, caller.subject)


def bearer_digest(authorization: str | None) -> str:
    """Return the stored form of the bearer token in an Authorization header (RFC 6750 section 2.1)."""
    if not authorization:
        raise MissingCredential("send an access token", headers={"WWW-Authenticate": "Bearer"})
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > 2048:
        raise InvalidCredential(reason="malformed")
    return digest_of(token)


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a random secret; 256 random bits need no slow hash."""
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


def _issue(session: Session, principal: Principal, now_us: int, expires_us: int) -> Issued:
    token = new_secret()
    session.add(
        AccessToken(
            token_hash=digest_of(token), role=principal.role, subject=principal.subject,
            created_us=now_us, expires_us=expires_us,
        )
    )  # fmt: skip
    return Issued(token, expires_us)


def _is_client_id(value: object) -> TypeGuard[str]:
    """Tell whether an outsider's text can be a client id at all; what cannot does not reach the database."""
    return isinstance(value, str) and _CLIENT_ID.fullmatch(value) is not None


def _use(session: Session, proof: _Proof) -> None:
    """Hold a proof against what is stored now, and use its assertion up; raises SignatureRefused.

    The node's row is locked before its keys are looked at: an officer who replaces them locks it too, then ends the tokens that
    the old ones got, and so finds the one that is about to be given.
    """
    role, subject = proof.principal.role, proof.principal.subject
    if role == APPLICANT:
        waiting = session.get(Registration, subject)
        stored, state = (None, None) if waiting is None else (waiting.claims, ACTIVE)
    else:
        session.execute(select(Node.node_id).where(Node.node_id == subject).with_for_update(read=True))
        client = session.get(Client, subject)
        stored = None if client is None else client.jwks if proof.assertion else client.secret_hash
        state = None if client is None else client.state
    if stored != proof.credential:
        raise SignatureRefused(reason="unknown-key" if proof.assertion else "wrong-secret")
    if state != ACTIVE:
        raise SignatureRefused(reason="suspended")
    if proof.assertion is not None:
        use_once(session, *proof.assertion)


def _basic(authorization: str) -> tuple[str, str]:
    """Read HTTP Basic as RFC 6749 section 2.3.1 has it: both halves form-encoded before they are joined."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
    except ValueError as error:  # of base64, of UTF-8, or of a header that is not ASCII
        raise _invalid_client("malformed") from error
    if scheme.lower() != "basic" or not colon:
        raise _invalid_client("malformed")
    return unquote_plus(client_id), unquote_plus(secret)


def _invalid_client(reason: str) -> TokenRefused:
    return TokenRefused("invalid_client", "The client's authentication was not accepted.", 401, reason)
