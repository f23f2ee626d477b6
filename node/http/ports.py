"""What the control plane is made with: plain records and small protocols, filled in by the wiring."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from node.contract.uri import DocumentURI, IssuerDirectory
from node.db.audit_log import LogFilter, LogRow
from node.db.control_records import Counts
from node.services.access import LockerScope, NodeRules, TokenGrant, TokenScope
from node.services.ports import AuditRecorder, CatalogueDocument, DocTypeRecord
from node.web.floods import FloodVerdict


class KnownLocker(Protocol):
    """A registered locker as stored."""

    @property
    def iss(self) -> str:
        """Its issuer name."""

    @property
    def state(self) -> str:
        """``active`` when it is trusted."""

    @property
    def jwks(self) -> str:
        """Its public keys, as JSON text."""

    @property
    def revoked_keys(self) -> str:
        """Those that its root has revoked, a JSON list of identifiers."""


class CredentialRecords(Protocol):
    """What a credential is compared with; asked anew for each request, so that a revocation acts at once."""

    def token(self, token_hash: str) -> TokenGrant | None:
        """Return what a role token grants, by its SHA-256; revoked and expired ones too."""

    def locker(self, iss: str) -> KnownLocker | None:
        """Return a registered locker."""

    def void_before_us(self, iss: str, consent_id: str) -> int | None:
        """Return the moment up to which a consent's tickets are void."""


class CatalogueRecords(Protocol):
    """Reads the catalogue."""

    def document(self, uri_key: str) -> CatalogueDocument | None:
        """Return a document by its lower-case URI."""

    def directory(self) -> IssuerDirectory:
        """Return the issuers hosted here."""

    def issuer_names(self) -> Mapping[str, str]:
        """Return the name of each issuer hosted here."""

    def doc_types(self) -> Sequence[DocTypeRecord]:
        """Return the document types hosted here."""

    def page(
        self, *, issuers: Sequence[str], doc_types: Sequence[str], status: str | None, after: str, limit: int
    ) -> Sequence[CatalogueDocument]:
        """Return documents in order of their lower-case URIs, those after ``after``."""


class FloodCounter(Protocol):
    """Bounds the rows of callers without a valid credential; both planes share one."""

    def admit(self, source: str, now_us: int) -> FloodVerdict:
        """Count one attempt whose credential was refused."""


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """What the node says of itself; ``jwks`` and ``encryption_keys`` are public JWKs."""

    node_id: str
    name: str
    base_url: str
    gateway_only: bool
    jwks: Mapping[str, Any]
    encryption_keys: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """One dependency that was looked at; ``detail`` is a plain sentence for the operator."""

    name: str
    ok: bool
    detail: str


class HolderSearch(Protocol):
    """Finds a person's documents."""

    def holder(self, scheme: str, value: str) -> tuple[str, str]:
        """Return scheme and keyed hash of an identifier; raises UnacceptableContent."""

    def find(self, scheme: str, holder_hash: str, scope: TokenScope) -> list[dict[str, Any]]:
        """Return the documents within a scope as the specification's ``matches``."""


class Pulls(Protocol):
    """Answers a locker's searches."""

    def pull(self, locker: LockerScope, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the specification's outcome for a pull request."""


class LogRecords(Protocol):
    """Reads the access log."""

    def log_rows(self, wanted: LogFilter, limit: int) -> Sequence[LogRow]:
        """Return rows in order of position, at most ``limit``."""

    def documents(self, uri_keys: Iterable[str]) -> Mapping[str, CatalogueDocument]:
        """Return documents by their lower-case URIs."""


class Administration(Protocol):
    """Changes what the catalogue says, with the change's log row in the same transaction."""

    def change_metadata(
        self, uri: DocumentURI, members: Mapping[str, Any], attempt: Mapping[str, Any]
    ) -> CatalogueDocument:
        """Change the members that are given and return the document as it is then."""

    def set_status(
        self, uri: DocumentURI, status: str, reason: str | None, attempt: Mapping[str, Any]
    ) -> CatalogueDocument:
        """Revoke a document or put it back in force, and return it as it is then."""


@dataclass(frozen=True, slots=True)
class ControlServices:
    """Everything that the control plane's handlers stand on.

    ``limits`` are the settings' limits by locker. ``refresh_keys`` fetches a registered locker's JWKS now and tells whether what is
    stored has changed; it is called at most once a minute for each locker. ``metrics`` returns the page and its content type,
    ``readiness`` looks at every dependency.
    """

    process_id: str
    identity: NodeIdentity
    rules: NodeRules
    limits: Mapping[str, LockerScope]
    credentials: CredentialRecords
    catalogue: CatalogueRecords
    administration: Administration
    log: LogRecords
    holders: HolderSearch
    pulls: Pulls
    counts: Callable[[int], Counts]
    recorder: AuditRecorder
    floods: FloodCounter
    refresh_keys: Callable[[str], bool]
    readiness: Callable[[], Sequence[ReadinessCheck]]
    metrics: Callable[[], tuple[bytes, str]]
    clock: Callable[[], int]
