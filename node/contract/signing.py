"""Compact JWS (RFC 7515) with Ed25519 (RFC 8037) and nothing else: one algorithm, one key purpose for each ``typ``.

A general JOSE library would have to be told what to refuse; here there is nothing to switch off. A key carries the ``typ`` it
may sign, in its JWK too, so a consent artefact can never pass for a ticket even when both are signed by one locker.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from node.contract.problems import InvalidCredential

TICKET = "locker-ticket+jwt"
CONSENT = "locker-consent+jwt"
REVOCATION = "locker-revocation+jwt"
PULL = "locker-pull+jwt"
LOG_GRANT = "locker-log-grant+jwt"
REGISTRATION = "locker-registration+jwt"
CLIENT_ASSERTION = "client-authentication+jwt"
REVOKED_KEYS = "locker-revoked-keys+jwt"
"""Signed by a locker's offline root alone, whose key is in no JWKS."""

LOCKER_PURPOSES = (TICKET, CONSENT, REVOCATION, PULL, LOG_GRANT)
NODE_PURPOSES = (REGISTRATION, CLIENT_ASSERTION)

MAX_TOKEN = 16 * 1024
MAX_REVOCATION_PAGE = 1024 * 1024


class SignatureRefused(InvalidCredential):
    """A token is malformed, of another kind, or not signed by a key that may sign it; ``reason`` says which."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key with its identifier and the one kind of token (JWS ``typ``) that it may sign."""

    kid: str
    typ: str
    key: Ed25519PublicKey

    def jwk(self) -> dict[str, str]:
        """Return the public JWK (RFC 8037 section 2) with the member ``typ`` that names the key's purpose."""
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": encode_base64url(self.key.public_bytes_raw()),
            "kid": self.kid,
            "use": "sig",
            "alg": "EdDSA",
            "typ": self.typ,
        }


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key for one kind of token; its identifier is the RFC 7638 thumbprint of the public half and the purpose."""

    typ: str
    key: Ed25519PrivateKey
    kid: str

    @classmethod
    def generate(cls, typ: str) -> "SigningKey":
        """Make a new key for one ``typ``."""
        return cls.of(typ, Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, typ: str, key: Ed25519PrivateKey) -> "SigningKey":
        """Wrap an Ed25519 private key for one ``typ``."""
        return cls(typ, key, thumbprint(key.public_key()))

    @classmethod
    def from_pem(cls, typ: str, pem: bytes) -> "SigningKey":
        """Load a PKCS #8 PEM; raises ValueError when it holds another kind of key."""
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 private key")
        return cls.of(typ, key)

    def pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM, for a file that only the service can read."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self.kid, self.typ, self.key.public_key())


class KeySet:
    """Public keys by identifier, as published in a JWKS (RFC 7517 section 5), and identifiers of keys that count no more."""

    def __init__(self, keys: Iterable[VerifyingKey] = (), revoked: Collection[str] = ()) -> None:
        """``revoked`` are RFC 7638 thumbprints: a revoked key that comes back under another identifier stays revoked."""
        self._keys = {key.kid: key for key in keys}
        again = (key.kid for key in self if revoked and thumbprint(key.key) in revoked)
        self._revoked = frozenset(revoked).union(again)

    @classmethod
    def from_jwks(cls, document: Mapping[str, Any], revoked: Collection[str] = ()) -> "KeySet":
        """Read a JWKS; keys of other kinds are passed over, a malformed Ed25519 key raises ValueError."""
        rows = document.get("keys")
        if not isinstance(rows, list) or len(rows) > 100:
            raise ValueError("a JWKS holds a list of at most 100 keys")
        return cls((key for row in rows if (key := _read_jwk(row)) is not None), revoked)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the JWKS document."""
        return {"keys": [key.jwk() for key in self._keys.values()]}

    def get(self, kid: str) -> VerifyingKey | None:
        """Return the key with an identifier, or None."""
        return self._keys.get(kid)

    def is_revoked(self, kid: str) -> bool:
        """Tell whether a key is revoked, published or not."""
        return kid in self._revoked

    def __iter__(self) -> Iterator[VerifyingKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)


def sign(claims: Mapping[str, Any], key: SigningKey) -> str:
    """Return the compact JWS of a claims object under a key, whose purpose becomes the ``typ``."""
    header = {"alg": "EdDSA", "kid": key.kid, "typ": key.typ}
    signed = f"{_encode_json(header)}.{_encode_json(claims)}"
    return f"{signed}.{encode_base64url(key.key.sign(signed.encode('ascii')))}"


def verify(token: str, typ: str, keys: KeySet, *, max_size: int = MAX_TOKEN) -> dict[str, Any]:
    """Return the claims of a compact JWS of one ``typ``, signed by a key whose purpose is that ``typ``.

    Raises SignatureRefused with reason ``malformed``, ``wrong-typ``, ``wrong-alg``, ``key-revoked``, ``unknown-key``,
    ``key-purpose`` or ``bad-signature``. Claims are read only after the signature holds.
    """
    header = read_header(token, max_size=max_size)
    if header.get("typ") != typ:
        raise SignatureRefused(reason="wrong-typ")
    if header.get("alg") != "EdDSA" or "crit" in header:
        raise SignatureRefused(reason="wrong-alg")
    kid = str(header.get("kid"))
    if keys.is_revoked(kid):
        raise SignatureRefused("The key that signed this was revoked", reason="key-revoked")
    key = keys.get(kid)
    if key is None:
        raise SignatureRefused(reason="unknown-key")
    if key.typ != typ:
        raise SignatureRefused(reason="key-purpose")
    signed, _, signature = token.rpartition(".")
    try:
        key.key.verify(decode_base64url(signature), signed.encode("ascii"))
    except (InvalidSignature, ValueError) as error:
        raise SignatureRefused(reason="bad-signature") from error
    return _decode_json(signed.partition(".")[2])


def read_header(token: str, *, max_size: int = MAX_TOKEN) -> dict[str, Any]:
    """Return a compact JWS's header without trusting it; raises SignatureRefused ``malformed``."""
    if len(token) > max_size or not token.isascii() or token.count(".") != 2:
        raise SignatureRefused(reason="malformed")
    return _decode_json(token.partition(".")[0])


def read_claims_unverified(token: str, *, max_size: int = MAX_TOKEN) -> dict[str, Any]:
    """Return a compact JWS's claims before its signature is checked, only to find out whose keys to check it with."""
    read_header(token, max_size=max_size)
    return _decode_json(token.split(".")[1])


def looks_like_jws(credential: str) -> bool:
    """Tell whether a bearer credential has the form of a compact JWS and not of an opaque token."""
    return credential.count(".") == 2


def thumbprint(key: Ed25519PublicKey) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of an Ed25519 key."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": encode_base64url(key.public_bytes_raw())}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    return encode_base64url(hashlib.sha256(text.encode("ascii")).digest())


def fingerprint(keys: KeySet) -> str:
    """Return what an officer compares by eye: SHA-256 over the sorted thumbprints, as eight groups of four hex digits."""
    digest = hashlib.sha256("\n".join(sorted(key.kid for key in keys)).encode("ascii")).hexdigest()
    return "-".join(digest[start : start + 4] for start in range(0, 32, 4))


def encode_base64url(data: bytes) -> str:
    """Encode without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str) -> bytes:
    """Decode unpadded base64url; raises ValueError for any other character, and for text that is not its own encoding."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64url") from error
    if encode_base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _read_jwk(row: Any) -> VerifyingKey | None:
    if not isinstance(row, dict) or row.get("kty") != "OKP" or row.get("crv") != "Ed25519":
        return None
    kid, typ, x = row.get("kid"), row.get("typ"), row.get("x")
    if not (isinstance(kid, str) and isinstance(typ, str) and isinstance(x, str)) or len(kid) > 128:
        raise ValueError("an Ed25519 JWK needs kid, typ and x")
    return VerifyingKey(kid, typ, Ed25519PublicKey.from_public_bytes(decode_base64url(x)))


def _encode_json(value: Mapping[str, Any]) -> str:
    return encode_base64url(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))


def _decode_json(part: str) -> dict[str, Any]:
    try:
        value = json.loads(decode_base64url(part))
    except (ValueError, RecursionError) as error:
        raise SignatureRefused(reason="malformed") from error
    if not isinstance(value, dict):
        raise SignatureRefused(reason="malformed")
    return value
