"""What administration asks of the catalogue, as protocols that ``node.db.cataloguing`` fits by shape."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from node.contract.holders import Holder
from node.contract.identifiers import new_reference
from node.contract.uri import DocumentURI, IssuerDirectory
from node.services.ports import CatalogueDocument, DocTypeRecord, EncodedEvent, Placement


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is said of a document beside its bytes; None and a missing parameter mean that nothing was said."""

    title: str | None = None
    issued_on: str | None = None
    expires_on: str | None = None
    office: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HolderColumns:
    """What the catalogue keeps of a holder: scheme, keyed hash and last characters, never the value."""

    scheme: str
    keyed_hash: str
    last4: str

    @classmethod
    def of(cls, holder: Holder, key: bytes) -> "HolderColumns":
        """Return the columns for a holder under the node's own key."""
        return cls(holder.scheme, holder.keyed_hash(key), holder.last_four)

    def as_changes(self) -> dict[str, Any]:
        """Return the columns of a known document; the reference that it had stands for the holder before."""
        return {
            "holder_scheme": self.scheme, "holder_hash": self.keyed_hash, "holder_last4": self.last4,
            "holder_ref": new_reference(),
        }  # fmt: skip


class CatalogueReader(Protocol):
    """A transaction that only reads."""

    def documents(self, uri_keys: Iterable[str]) -> dict[str, CatalogueDocument]:
        """Return the documents with these lower-case URIs, by that key."""

    def page(
        self, *, issuers: Sequence[str], doc_types: Sequence[str], status: str | None, after: str, limit: int
    ) -> list[CatalogueDocument]:
        """Return documents in order of their lower-case URI, those after a key; empty sequences do not restrict."""

    def holder_hashes(self, document_ids: Iterable[str]) -> dict[str, str | None]:
        """Return the keyed hash of each document's holder, by the document's internal identifier."""

    def unsealed(self, document_ids: Iterable[str]) -> set[str]:
        """Return those of the documents whose holder some locker has not been told, though the value is no longer here."""

    def issuers(self) -> IssuerDirectory:
        """Return the issuers hosted here."""

    def doc_types(self) -> list[DocTypeRecord]:
        """Return all document types hosted here."""

    def referenced(self, store: str, keys: Iterable[str]) -> set[str]:
        """Return those of the object keys that some representation refers to."""


class CatalogueWriter(CatalogueReader, Protocol):
    """A transaction that may write; all or nothing."""

    def lock(self, uri_keys: Iterable[str]) -> None:
        """Keep other writers from the documents with these URIs until the transaction ends."""

    def add_issuer(self, issuer: str, now_us: int) -> None:
        """Insert an issuer that is not there yet; its name is its id until somebody gives it one."""

    def put_doc_type(self, record: DocTypeRecord, now_us: int) -> None:
        """Insert a document type or bring it up to date."""

    def add_document(self, uri: DocumentURI, metadata: Metadata, holder: HolderColumns | None, now_us: int) -> str:
        """Insert a document without bytes, with its search parameters, and return its internal identifier."""

    def change_document(self, document_id: str, now_us: int, columns: Mapping[str, Any]) -> None:
        """Set columns of a document and count the change."""

    def set_parameters(self, document_id: str, parameters: Mapping[str, str]) -> None:
        """Replace the values by which a document can be searched."""

    def set_language(self, document_id: str, version: int, language: str | None) -> None:
        """Set the language of the one representation that a version has."""

    def add_placement(self, document_id: str, placement: Placement, now_us: int) -> None:
        """Insert one representation of one version."""

    def announce(self, document_id: str, kind: str, now_us: int) -> None:
        """Queue a push of kind ``add``, ``change`` or ``withdraw`` to every registered locker."""

    def seal_holder(self, document_id: str, uri: DocumentURI, holder: Holder) -> None:
        """Keep the holder's value sealed until the push is acknowledged."""

    def append_events(self, events: Sequence[EncodedEvent]) -> None:
        """Write rows of the access log with the rest."""


class CatalogueStore(Protocol):
    """Opens transactions on the catalogue."""

    def reading(self) -> AbstractContextManager[CatalogueReader]:
        """Open a transaction that only reads."""

    def writing(self) -> AbstractContextManager[CatalogueWriter]:
        """Open a transaction that may write; raises Contended when another writer was in the way."""
