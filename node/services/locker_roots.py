"""A locker's offline root: pinned when the node registers, and the only key under which a list of revoked keys is taken.

What a locker publishes over the network, keys and addresses, is only as safe as its server. The root lies elsewhere. So a locker that
shows another root than the pinned one, or none, is believed in nothing new until an operator has compared fingerprints.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from node.contract.key_revocation import (
    MAX_KEY_LIST,
    KeyListRefused,
    key_list_digest,
    read_root,
    root_fingerprint,
    verify_key_list,
)
from node.contract.signing import SignatureRefused
from node.services.locker_client import LockerClient, LockerFault

REVOKED_KEYS_PATH = "/.well-known/revoked-keys"
"""Fixed, so that no descriptor can lead a node away from the list."""
NONE_SHOWN = ""


@dataclass(frozen=True, slots=True)
class LockerRoot:
    """What is stored of a locker's root: the pinned one as a JWK's JSON text, None before any is pinned; its newest list.

    ``offered`` is what the locker showed last when that was not the pinned one, NONE_SHOWN when it was none.
    """

    pinned: str | None = None
    offered: str | None = None
    list_sequence: int = 0
    list_digest: str | None = None
    list_refused: str | None = None
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyListReport:
    """What taking a list did: keys that are revoked as of now, and the reason when the list was refused."""

    revoked: frozenset[str] = frozenset()
    refused: str | None = None


class RootRefused(LockerFault):
    """A locker shows another root than the one that is pinned here."""


class KnownBase(Protocol):
    """A locker, as far as its address goes."""

    @property
    def base_url(self) -> str:
        """Its address."""


class RootRecords(Protocol):
    """Where roots and their lists are kept; each call is one transaction."""

    def find(self, iss: str) -> KnownBase | None:
        """Return a locker."""

    def root(self, iss: str) -> LockerRoot | None:
        """Return what is known of its root."""

    def take_key_list(self, iss: str, before: LockerRoot, *, sequence: int, digest: str, kids: Collection[str]) -> bool:
        """Note the keys that a newer list names; False when another process was faster."""

    def refuse_key_list(self, iss: str, reason: str | None) -> None:
        """Note why a list was not taken, None when the locker publishes again the one that is known."""


class LockerRoots:
    """Follows the lists of revoked keys."""

    def __init__(self, client: LockerClient, records: RootRecords) -> None:
        self._client = client
        self._records = records

    def follow(self, iss: str) -> KeyListReport:
        """Fetch a locker's list of revoked keys and take it when it is newer; without a pinned root there is none to take.

        Raises LockerFault or the HTTP client's errors when the locker cannot be reached; a refused list is reported, not raised.
        """
        locker, root = self._records.find(iss), self._records.root(iss)
        if locker is None or root is None or root.pinned is None:
            return KeyListReport()
        content = self._client.fetch(
            locker.base_url + REVOKED_KEYS_PATH, accept="application/jwt", most_bytes=MAX_KEY_LIST
        )
        if content is None:
            return self._refuse(iss, "rollback") if root.list_sequence else KeyListReport()
        return self.take(iss, content)

    def take(self, iss: str, content: bytes) -> KeyListReport:
        """Take a list, however it came here; raises LockerFault for a locker whose root is not pinned."""
        root = self._records.root(iss)
        if root is None or root.pinned is None:
            raise LockerFault("no root of this locker is pinned here; register with it first")
        try:
            token = content.decode("ascii").strip()
            listed = verify_key_list(token, read_root(json.loads(root.pinned)), iss)
            digest = key_list_digest(token)
            if not listed.is_after(root.list_sequence, root.list_digest, digest):
                if root.list_refused is not None:
                    self._records.refuse_key_list(iss, None)
                return KeyListReport()
        except UnicodeDecodeError:
            return self._refuse(iss, "malformed")
        except (KeyListRefused, SignatureRefused) as refused:
            return self._refuse(iss, refused.reason)
        taken = self._records.take_key_list(iss, root, sequence=listed.sequence, digest=digest, kids=listed.kids)
        return KeyListReport(listed.kids - root.revoked if taken else frozenset())

    def _refuse(self, iss: str, reason: str) -> KeyListReport:
        self._records.refuse_key_list(iss, reason)
        return KeyListReport(refused=reason)


def require_root(iss: str, known: LockerRoot | None, offered: str | None, accepted: str | None = None) -> None:
    """Raise RootRefused unless a locker shows the pinned root, or one whose fingerprint an operator accepted.

    Any root will do while none is pinned, unless the operator names one.
    """
    pinned = known.pinned if known else None
    if accepted is not None:
        if offered is None or root_name(offered) != accepted.strip().lower():
            raise RootRefused(f"the locker does not show the root {accepted}, it shows {root_name(offered)}")
    elif pinned is not None and pinned != offered:
        raise RootRefused(
            f"the locker shows {root_name(offered)} as its root, and {root_name(pinned)} is pinned here. Ask the locker's "
            f"operator over the telephone; if it was changed on purpose: locker-node register {iss} --accept-root FINGERPRINT"
        )


def offered_root(document: Mapping[str, Any]) -> str | None:
    """Read the root from a locker's descriptor, as it is stored; None when it shows none. Raises LockerFault."""
    if document.get("root_key") is None:
        return None
    try:
        return json.dumps(read_root(document["root_key"]).jwk(), sort_keys=True)
    except (ValueError, TypeError, AttributeError) as error:
        raise LockerFault("the locker's descriptor has a root key that cannot be used") from error


def root_name(root: str | None) -> str:
    """Return the fingerprint of a stored root, for people."""
    return root_fingerprint(read_root(json.loads(root))) if root else "none"
