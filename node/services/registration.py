"""Registering with a locker: the node introduces itself, an officer compares the fingerprint, the node sees that it was approved."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from node.contract.records import sign_request
from node.contract.sealing import SealingKey
from node.contract.signing import TICKET, KeySet, SigningKey, fingerprint
from node.services.locker_client import LockerClient, LockerEndpoints, LockerFault, endpoint_of
from node.services.locker_roots import LockerRoot, offered_root, require_root, root_name

DESCRIPTOR_PATH = "/.well-known/federated-locker"
NEEDED_ENDPOINTS = ("token", "registrations", "push", "revocations")
APPROVED = "approved"
MOST_ISS = 255


class NothingToOffer(Exception):
    """The node has no issuer with a document type yet, so there is nothing that a locker could approve."""


class RegisteredLocker(LockerEndpoints, Protocol):
    """A locker as stored, with the state in which this node has it."""

    @property
    def state(self) -> str:
        """``pending``, ``active`` or ``blocked``."""


class LockerBook(Protocol):
    """Where lockers are kept; each call is one transaction."""

    def find(self, iss: str) -> RegisteredLocker | None:
        """Return one locker."""

    def save(
        self, *, iss: str, base_url: str, jwks: str, encryption_key: str, endpoints: Mapping[str, str], now_us: int
    ) -> None:
        """Insert a locker as pending, or bring keys and addresses of a known one up to date."""

    def activate(self, iss: str) -> bool:
        """Begin to trust and serve a locker; False when it is active already."""

    def root(self, iss: str) -> LockerRoot | None:
        """Return what is known of its root."""

    def pin_root(self, iss: str, root: str | None) -> None:
        """Trust a root from now on."""


class RefusedAnnouncements(Protocol):
    """What lockers refused to take; each call may be several short transactions."""

    def has_out_of_scope(self, iss: str) -> bool:
        """Tell whether something was refused only because its document type was not approved."""

    def retry_refused(self, iss: str, scope: Collection[tuple[str, str]] | None = None) -> int:
        """Queue anew what was out of scope and is within it now."""


@dataclass(frozen=True, slots=True)
class LockerDescription:
    """What a locker publishes of itself, checked; ``jwks``, ``encryption_key`` and ``root`` are JSON text."""

    iss: str
    name: str
    jwks: str
    encryption_key: str
    endpoints: Mapping[str, str]
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """What came of a registration: the officer is told ``fingerprint`` over another channel and compares.

    ``root_fingerprint`` is that of the locker's root, which is pinned now, ``none`` when it has none; the operator compares it.
    """

    iss: str
    name: str
    fingerprint: str
    state: str
    root_fingerprint: str


class Introduction(Protocol):
    """What the node says of itself, as its settings have it."""

    @property
    def node_id(self) -> str:
        """Its identifier."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def base_url(self) -> str:
        """Its public address."""

    @property
    def exposure(self) -> str:
        """``direct``, or ``gateway-only`` when only a locker's gateway may read."""


class Registration:
    """Registers this node with lockers."""

    def __init__(
        self,
        client: LockerClient,
        lockers: LockerBook,
        *,
        introduction: Introduction,
        key: SigningKey,
        public: KeySet,
        offer: Callable[[], Sequence[Mapping[str, Any]]],
        clock: Callable[[], int],
        refused: RefusedAnnouncements | None = None,
    ) -> None:
        """``key`` is the registration key; ``offer`` returns issuers with their document types, as registrations have them.

        With ``refused``, what a locker refused as out of scope is announced again as soon as the locker says that it is approved.
        """
        self._client = client
        self._lockers = lockers
        self._introduction = introduction
        self._key = key
        self._public = public
        self._offer = offer
        self._clock = clock
        self._refused = refused

    def register(self, locker_url: str, accept_root: str | None = None) -> Registered:
        """Introduce this node to the locker at an address; doing it again brings what the locker knows up to date.

        The locker's root is pinned; another one than is pinned is taken only when its fingerprint is ``accept_root``. Raises
        NothingToOffer, RootRefused, LockerFault when the locker's answers cannot be used or it refuses, or the HTTP client's errors.
        """
        issuers = list(self._offer())
        if not issuers:
            raise NothingToOffer("there is no document type to offer yet: ingest documents, or add a type, first")
        described = describe_locker(self._client, locker_url.rstrip("/"))
        require_root(described.iss, self._lockers.root(described.iss), described.root, accept_root)
        mine = fingerprint(self._public)
        answer = self._client.send(
            described.endpoints["registrations"], {"registration": self._signed(described, issuers)}
        )
        if answer.get("fingerprint") != mine:
            raise LockerFault("the locker has other keys on record than this node sent")
        self._lockers.save(
            iss=described.iss, base_url=locker_url.rstrip("/"), jwks=described.jwks,
            encryption_key=described.encryption_key, endpoints=described.endpoints, now_us=self._clock(),
        )  # fmt: skip
        self._lockers.pin_root(described.iss, described.root)
        if answer.get("state") == APPROVED:
            self._activate(described.iss)
            self._retry(described.iss, answer)
        return Registered(described.iss, described.name, mine, str(answer.get("state")), root_name(described.root))

    def check(self, iss: str) -> str:
        """Ask whether the officer has approved, begin to serve the locker if so, and return the locker's word for it."""
        locker = self._lockers.find(iss)
        if locker is None:
            raise LockerFault("this node is not registered with that locker")
        address = f"{endpoint_of(locker, 'registrations')}/{quote(self._introduction.node_id, safe='')}"
        answer = self._client.call(locker, "GET", address)
        state = str(answer.get("state"))
        if state == APPROVED and locker.state == "pending":
            self._activate(iss)
        if state == APPROVED:
            self._retry(iss, answer)
        return state

    def check_scope(self, iss: str) -> bool:
        """Ask for a wider approval if something waits for it, because the node is not told; False, as one question is enough."""
        if self._refused is not None and self._refused.has_out_of_scope(iss):
            self.check(iss)
        return False

    def _activate(self, iss: str) -> None:
        self._lockers.activate(iss)
        # A token from before the approval may not do what an approved node may.
        self._client.forget_token(iss)

    def _retry(self, iss: str, answer: Mapping[str, Any]) -> None:
        """Announce again what was out of scope and is within the scope that the locker tells now."""
        scope = _scope(answer)
        if self._refused is not None and scope:
            self._refused.retry_refused(iss, scope)

    def _signed(self, locker: LockerDescription, issuers: Sequence[Mapping[str, Any]]) -> str:
        claims = {
            "node_id": self._introduction.node_id, "name": self._introduction.name,
            "base_url": self._introduction.base_url, "exposure": self._introduction.exposure,
            "jwks": self._public.jwks(), "issuers": issuers,
        }  # fmt: skip
        return sign_request(claims, self._key, audience=locker.iss, now_us=self._clock())


def _scope(answer: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Read which issuers and document types an officer has approved, in lower case; what has another form is passed over."""
    listed = answer.get("scope")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    return {
        (str(row.get("issuer")).lower(), doc_type.lower())
        for row in rows
        if isinstance(row.get("doc_types"), list)
        for doc_type in row["doc_types"]
        if isinstance(doc_type, str)
    }


def describe_locker(client: LockerClient, base_url: str) -> LockerDescription:
    """Read a locker's descriptor and keys; raises LockerFault unless they are what a node needs.

    The descriptor must name the very address it was read from as its ``iss``, or anybody could publish another locker's.
    """
    document = client.fetch_json(base_url + DESCRIPTOR_PATH)
    if document.get("iss") != base_url or len(base_url) > MOST_ISS:
        raise LockerFault("the locker's descriptor names another address as its iss")
    endpoints = document.get("endpoints")
    known = (
        {name: url for name, url in endpoints.items() if isinstance(url, str)} if isinstance(endpoints, dict) else {}
    )
    known["jwks"] = str(document.get("jwks_uri"))
    missing = [name for name in NEEDED_ENDPOINTS if name not in known]
    if missing:
        raise LockerFault(f"the locker's descriptor names no address for {missing[0]}")
    keys = client.fetch_json(known["jwks"])
    return LockerDescription(
        base_url, str(document.get("name"))[:200], read_key_set(keys), _encryption_key(document), known,
        offered_root(document),
    )  # fmt: skip


def read_key_set(document: Mapping[str, Any]) -> str:
    """Return a locker's JWKS as it is stored; raises LockerFault unless there is a key for tickets."""
    try:
        keys = KeySet.from_jwks(document)
    except ValueError as error:
        raise LockerFault("the locker's key set cannot be read") from error
    if not any(key.typ == TICKET for key in keys):
        raise LockerFault("the locker's key set has no key for tickets")
    return json.dumps(keys.jwks(), sort_keys=True)


def _encryption_key(document: Mapping[str, Any]) -> str:
    try:
        key = SealingKey.from_jwk(document["encryption_keys"][0])
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise LockerFault("the locker's descriptor has no encryption key that can be used") from error
    return json.dumps(key.jwk(), sort_keys=True)
