"""What the services ask of the database and the storage, as small protocols and plain records.

``node.db`` fits these by shape; nothing here knows SQLAlchemy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from node.contract.uri import DocumentURI


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one representation of one version lies, and what its bytes must be."""

    version: int
    media_type: str
    language: str | None
    size: int
    sha256: str
    store: str
    object_key: str


@dataclass(frozen=True, slots=True)
class CatalogueDocument:
    """A document as the catalogue has it; ``placements`` are those of all versions."""

    document_id: str
    uri: DocumentURI
    title: str
    status: str
    status_reason: str | None
    issued_on: str | None
    expires_on: str | None
    office: str | None
    holder_scheme: str | None
    holder_last4: str | None
    holder_ref: str | None
    current_version: int
    revision: int
    changed_us: int
    parameters: Mapping[str, str]
    placements: tuple[Placement, ...] = ()

    def of_version(self, version: int) -> tuple[Placement, ...]:
        """Return the representations of one version."""
        return tuple(placement for placement in self.placements if placement.version == version)


@dataclass(frozen=True, slots=True)
class DocTypeRecord:
    """A document type as the catalogue has it."""

    issuer: str
    doc_type: str
    name: str
    search_parameters: tuple[Mapping[str, Any], ...] = ()
    match_rule: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncodedEvent:
    """An access event as it will be stored: RFC 8785 bytes and the nonce of their commitment."""

    event_id: str
    payload: bytes
    nonce: bytes


class AuditRecorder(Protocol):
    """Writes access events; returns only when they are durable."""

    def record(self, event: Mapping[str, Any]) -> None:
        """Write one event; raises LogUnavailable when it cannot be made durable."""


class Outbox(Protocol):
    """Takes announcements for every registered locker inside the caller's transaction."""

    def announce(self, document_ids: Sequence[str], kind: str) -> None:
        """Queue a push of the given kind for each document."""
