"""Consent artefacts: what a locker signs when a resident gives, narrows or revokes a consent."""

import hashlib
from dataclasses import dataclass
from typing import Any

from node.contract.signing import CONSENT, KeySet, SigningKey, sign, verify
from node.contract.times import format_time, parse_time

PURPOSES = ("admission", "employment", "licence", "benefit", "lending", "identity", "travel", "other")


@dataclass(frozen=True, slots=True)
class ConsentItem:
    """One document of a consent; ``representations`` are media types, None for any."""

    uri: str
    representations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ConsentArtefact:
    """A consent as it stands after its ``revision``-th event; times are microseconds UTC.

    ``previous`` is the hex SHA-256 of the artefact before it, so the chain of a consent's artefacts can be checked alone.
    """

    iss: str
    consent_id: str
    revision: int
    previous: str | None
    resident: str
    client_id: str
    requester: str
    items: tuple[ConsentItem, ...]
    purpose: str
    purpose_text: str
    once: bool
    state: str
    given_us: int
    changed_us: int
    expires_us: int

    def claims(self) -> dict[str, Any]:
        """Return the JWS claims."""
        return {
            "iss": self.iss, "consent_id": self.consent_id, "revision": self.revision, "prev": self.previous,
            "resident": self.resident, "client_id": self.client_id, "requester": self.requester,
            "items": [
                {"uri": item.uri, "representations": None if item.representations is None else list(item.representations)}
                for item in self.items
            ],
            "purpose": {"code": self.purpose, "text": self.purpose_text}, "once": self.once, "state": self.state,
            "given_at": format_time(self.given_us), "changed_at": format_time(self.changed_us),
            "expires_at": format_time(self.expires_us),
        }  # fmt: skip


def issue_artefact(artefact: ConsentArtefact, key: SigningKey) -> str:
    """Sign an artefact; the key must be one for consents."""
    if key.typ != CONSENT:
        raise ValueError("not a consent key")
    return sign(artefact.claims(), key)


def verify_artefact(token: str, keys: KeySet) -> ConsentArtefact:
    """Check an artefact's signature and return it; raises SignatureRefused, or ValueError and KeyError when a claim is missing."""
    claims = verify(token, CONSENT, keys, max_size=64 * 1024)
    return ConsentArtefact(
        iss=claims["iss"], consent_id=claims["consent_id"], revision=claims["revision"], previous=claims["prev"],
        resident=claims["resident"], client_id=claims["client_id"], requester=claims["requester"],
        items=tuple(
            ConsentItem(item["uri"], None if item["representations"] is None else tuple(item["representations"]))
            for item in claims["items"]
        ),
        purpose=claims["purpose"]["code"], purpose_text=claims["purpose"]["text"], once=claims["once"],
        state=claims["state"], given_us=parse_time(claims["given_at"]), changed_us=parse_time(claims["changed_at"]),
        expires_us=parse_time(claims["expires_at"]),
    )  # fmt: skip


def artefact_digest(token: str) -> str:
    """Return the hex SHA-256 of an artefact as issued: what tickets carry."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()
