"""Small signed requests between locker and node: registration, pull, log grant, client assertion."""

from collections.abc import Mapping
from typing import Any

from node.contract.identifiers import uuid7
from node.contract.problems import InvalidCredential
from node.contract.signing import CLIENT_ASSERTION, KeySet, SigningKey, sign, verify
from node.contract.times import SECOND

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_REQUEST_LIFETIME = 300
SKEW = 30


class RequestRefused(InvalidCredential):
    """A signed request is for somebody else, too old, or dated in the future; ``reason`` says which."""


def sign_request(claims: Mapping[str, Any], key: SigningKey, *, audience: str, now_us: int, lifetime: int = 60) -> str:
    """Sign claims for one audience with ``jti``, ``iat`` and ``exp`` (seconds) added."""
    now = now_us // SECOND
    return sign({**claims, "aud": audience, "jti": uuid7(), "iat": now, "exp": now + lifetime}, key)


def verify_request(
    token: str,
    typ: str,
    keys: KeySet,
    *,
    audience: str,
    now_us: int,
    max_lifetime: int = MAX_REQUEST_LIFETIME,
    max_size: int = 65536,
) -> dict[str, Any]:
    """Check signature, audience and time of a signed request and return its claims; raises SignatureRefused or RequestRefused."""
    claims = verify(token, typ, keys, max_size=max_size)
    now, iat, exp = now_us // SECOND, claims.get("iat"), claims.get("exp")
    if claims.get("aud") != audience:
        raise RequestRefused(reason="wrong-audience")
    if not (type(iat) is int and type(exp) is int and isinstance(claims.get("jti"), str)):
        raise RequestRefused(reason="malformed-claims")
    if iat > now + SKEW:
        raise RequestRefused("The request is dated in the future; compare the clocks", reason="not-yet-valid")
    if exp + SKEW <= now:
        raise RequestRefused("The request has expired", reason="expired")
    if not 0 < exp - iat <= max_lifetime:
        raise RequestRefused(reason="lifetime-too-long")
    return claims


def client_assertion(client_id: str, key: SigningKey, *, audience: str, now_us: int) -> str:
    """Return a ``private_key_jwt`` client assertion (RFC 7523 section 2.2)."""
    if key.typ != CLIENT_ASSERTION:
        raise ValueError("not a client authentication key")
    return sign_request({"iss": client_id, "sub": client_id}, key, audience=audience, now_us=now_us)
