"""The list with which a locker's offline root revokes the locker's own keys (design section 3).

The root signs nothing else and its key is in no JWKS: a node pins it when it registers. Each list names every key revoked so far, so
the newest one is enough. It has no date by which the next is due, because the root is not at hand; lists only ever grow.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.contract.problems import InvalidCredential
from node.contract.signing import REVOKED_KEYS, KeySet, SigningKey, VerifyingKey, fingerprint, sign, thumbprint, verify
from node.contract.times import format_time, parse_time

MAX_KEY_LIST = 256 * 1024
MAX_REVOKED = 1000
REASONS = ("compromised", "lost", "retired")


class KeyListRefused(InvalidCredential):
    """A list of revoked keys cannot be taken; ``reason`` is ``malformed-claims``, ``other-locker``, ``rollback`` or ``fork``."""


@dataclass(frozen=True, slots=True)
class RevokedKey:
    """A key by its identifier, when it was revoked (microseconds UTC) and why: all that it signed counts no more, of whatever date."""

    kid: str
    revoked_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeyRevocationList:
    """Every key that a locker's root has revoked; ``sequence`` grows with each list, ``issued_us`` is microseconds UTC."""

    iss: str
    sequence: int
    issued_us: int
    keys: tuple[RevokedKey, ...]

    @property
    def kids(self) -> frozenset[str]:
        """The identifiers of the revoked keys."""
        return frozenset(key.kid for key in self.keys)

    def claims(self) -> dict[str, Any]:
        """Return the JWS claims."""
        return {
            "iss": self.iss,
            "seq": self.sequence,
            "issued_at": format_time(self.issued_us),
            "revoked_keys": [
                {"kid": key.kid, "revoked_at": format_time(key.revoked_us), "reason": key.reason} for key in self.keys
            ],
        }

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> "KeyRevocationList":
        """Read claims whose signature holds; raises KeyListRefused ``malformed-claims``."""
        try:
            rows = claims["revoked_keys"]
            if type(claims["seq"]) is not int or not 1 <= claims["seq"] < 2**53 or not isinstance(claims["iss"], str):
                raise ValueError("iss and seq")
            if not isinstance(rows, list) or len(rows) > MAX_REVOKED:
                raise ValueError("revoked_keys")
            keys = tuple(
                RevokedKey(_kid(row["kid"]), parse_time(row["revoked_at"]), str(row["reason"])) for row in rows
            )
            return cls(claims["iss"], claims["seq"], parse_time(claims["issued_at"]), keys)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise KeyListRefused(reason="malformed-claims") from error

    def is_after(self, sequence: int, digest: str | None, own_digest: str) -> bool:
        """Tell whether this list is newer than the one known, False for that one itself.

        Raises KeyListRefused ``rollback`` for an older one and ``fork`` for another of the same number.
        """
        if self.sequence < sequence:
            raise KeyListRefused(reason="rollback")
        if self.sequence == sequence and own_digest != digest:
            raise KeyListRefused(reason="fork")
        return self.sequence > sequence


def issue_key_list(listed: KeyRevocationList, root: SigningKey) -> str:
    """Sign a list; the key must be a root."""
    if root.typ != REVOKED_KEYS:
        raise ValueError("not a root key")
    return sign(listed.claims(), root)


def verify_key_list(token: str, root: VerifyingKey, iss: str) -> KeyRevocationList:
    """Check a list under a root, for one locker; raises SignatureRefused or KeyListRefused."""
    listed = KeyRevocationList.from_claims(verify(token, REVOKED_KEYS, KeySet([root]), max_size=MAX_KEY_LIST))
    if listed.iss != iss:
        raise KeyListRefused(reason="other-locker")
    return listed


def key_list_digest(token: str) -> str:
    """Return the hex SHA-256 of a list as sent, by which two lists of one number are told apart."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def read_root(row: Mapping[str, Any]) -> VerifyingKey:
    """Read the public JWK of a root; raises ValueError for any other key, and for one under another name than its thumbprint."""
    (key,) = KeySet.from_jwks({"keys": [row]})
    if key.typ != REVOKED_KEYS or key.kid != thumbprint(key.key):
        raise ValueError("not the public key of a root")
    return key


def root_fingerprint(root: VerifyingKey) -> str:
    """Return what an operator compares by eye before a root is pinned."""
    return fingerprint(KeySet([root]))


def _kid(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise ValueError("kid")
    return value
