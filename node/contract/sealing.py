"""Sealing a holder's identifier to the locker's encryption key: HPKE (RFC 9180), X25519, HKDF-SHA256, ChaCha20-Poly1305."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from node.contract.signing import decode_base64url, encode_base64url

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
_LABEL = b"federated-locker holder v1\x00"
MAX_SEALED = 1024


class CannotOpen(ValueError):
    """A sealed value was not sealed to this key for this purpose, or was changed."""


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A locker's public encryption key."""

    kid: str
    key: X25519PublicKey

    @classmethod
    def from_jwk(cls, row: Mapping[str, Any]) -> "SealingKey":
        """Read a public JWK; raises ValueError for anything but an X25519 key with a ``kid``."""
        if row.get("kty") != "OKP" or row.get("crv") != "X25519" or not isinstance(row.get("kid"), str):
            raise ValueError("not an X25519 JWK")
        return cls(row["kid"], X25519PublicKey.from_public_bytes(decode_base64url(str(row.get("x")))))

    def jwk(self) -> dict[str, str]:
        """Return the public JWK (RFC 8037)."""
        x = encode_base64url(self.key.public_bytes_raw())
        return {"kty": "OKP", "crv": "X25519", "x": x, "kid": self.kid, "use": "enc"}

    def seal(self, value: bytes, context: str) -> str:
        """Seal a value so that only the key's owner opens it, and only for the same context; base64url text."""
        return encode_base64url(_SUITE.encrypt(value, self.key, info=_LABEL + context.encode("utf-8")))


@dataclass(frozen=True, slots=True)
class OpeningKey:
    """A locker's private encryption key."""

    kid: str
    key: X25519PrivateKey

    @classmethod
    def generate(cls) -> "OpeningKey":
        """Make a new key; its identifier is a digest of the public half."""
        return cls.of(X25519PrivateKey.generate())

    @classmethod
    def of(cls, key: X25519PrivateKey) -> "OpeningKey":
        """Wrap an X25519 private key."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(key.public_key().public_bytes_raw())
        return cls(encode_base64url(digest.finalize()[:16]), key)

    @classmethod
    def from_pem(cls, pem: bytes) -> "OpeningKey":
        """Load a PKCS #8 PEM; raises ValueError when it holds another kind of key."""
        key = serialization.load_pem_private_key(pem, password=None)
        if not isinstance(key, X25519PrivateKey):
            raise ValueError("not an X25519 private key")
        return cls.of(key)

    def pem(self) -> bytes:
        """Return the key as unencrypted PKCS #8 PEM, for a file that only the service can read."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> SealingKey:
        """The public half."""
        return SealingKey(self.kid, self.key.public_key())

    def open(self, sealed: str, context: str) -> bytes:
        """Open a sealed value; raises CannotOpen when key, context or bytes do not fit."""
        if len(sealed) > MAX_SEALED:
            raise CannotOpen("the sealed value is too long")
        try:
            return _SUITE.decrypt(decode_base64url(sealed), self.key, info=_LABEL + context.encode("utf-8"))
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("the sealed value does not open with this key") from error
