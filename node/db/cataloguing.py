"""The catalogue as administration uses it: transactions over documents, search parameters, holders, outbox and log in one."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from node.contract.holders import Holder
from node.contract.problems import ServiceUnavailable
from node.contract.sealing import SealingKey
from node.contract.uri import DocumentURI, IssuerDirectory
from node.db import catalogue, holder_seals, outbox, search_parameters
from node.db.audit_log import append_events
from node.db.models import Document, Representation
from node.db.session import Database
from node.services.cataloguing import HolderColumns, Metadata
from node.services.errors import Contended
from node.services.ports import CatalogueDocument, DocTypeRecord, EncodedEvent, Placement

# PostgreSQL's codes for a deadlock, a serialisation failure and a lock that was not had in time.
_PASSING = {"40P01", "40001", "55P03"}


class CatalogueStore:
    """Opens transactions on the catalogue."""

    def __init__(self, database: Database, *, hash_key: bytes, waiting_key: SealingKey) -> None:
        """``hash_key`` is that of holders and parameters, ``waiting_key`` the node's own for holders without a locker."""
        self._database = database
        self._hash_key = hash_key
        self._waiting_key = waiting_key

    @contextmanager
    def reading(self) -> Iterator["CatalogueConnection"]:
        """Open a transaction that only reads."""
        with _in_our_words(), self._database.reading() as connection:
            yield CatalogueConnection(connection, self._hash_key, self._waiting_key)

    @contextmanager
    def writing(self) -> Iterator["CatalogueConnection"]:
        """Open a transaction that may write; raises Contended when another writer was in the way."""
        with _in_our_words(), self._database.writing() as connection:
            yield CatalogueConnection(connection, self._hash_key, self._waiting_key)


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise Contended from error
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in _PASSING or "database is locked" in str(error.orig):
            raise Contended from error
        raise ServiceUnavailable("The catalogue cannot be used at the moment", reason="database") from error


class CatalogueConnection:
    """One transaction's reading and writing."""

    def __init__(self, connection: Connection, hash_key: bytes, waiting_key: SealingKey) -> None:
        self._connection = connection
        self._hash_key = hash_key
        self._waiting_key = waiting_key

    def documents(self, uri_keys: Iterable[str]) -> dict[str, CatalogueDocument]:
        """Return the documents with these lower-case URIs, by that key."""
        return catalogue.find_documents(self._connection, uri_keys)

    def page(
        self, *, issuers: Sequence[str], doc_types: Sequence[str], status: str | None, after: str, limit: int
    ) -> list[CatalogueDocument]:
        """Return documents in order of their lower-case URI, those after a key."""
        return catalogue.list_documents(
            self._connection, issuers=issuers, doc_types=doc_types, status=status, after=after, limit=limit
        )

    def holder_hashes(self, document_ids: Iterable[str]) -> dict[str, str | None]:
        """Return the keyed hash of each document's holder, by the document's internal identifier."""
        wanted = Document.document_id.in_(list(document_ids))
        rows = self._connection.execute(select(Document.document_id, Document.holder_hash).where(wanted))
        return {row.document_id: row.holder_hash for row in rows}

    def unsealed(self, document_ids: Iterable[str]) -> set[str]:
        """Return those of the documents whose holder some locker has not been told."""
        return holder_seals.unsealed(self._connection, document_ids)

    def issuers(self) -> IssuerDirectory:
        """Return the issuers hosted here."""
        return catalogue.issuer_directory(self._connection)

    def doc_types(self) -> list[DocTypeRecord]:
        """Return all document types hosted here."""
        return catalogue.doc_types(self._connection)

    def referenced(self, store: str, keys: Iterable[str]) -> set[str]:
        """Return those of the object keys that some representation refers to."""
        wanted = (Representation.store == store) & Representation.object_key.in_(list(keys))
        return set(self._connection.execute(select(Representation.object_key).where(wanted)).scalars())

    def lock(self, uri_keys: Iterable[str]) -> None:
        """Keep other writers from these documents; on SQLite the transaction itself does."""
        wanted = select(Document.document_id).where(Document.uri_key.in_(list(uri_keys)))
        # In one order, so that two writers cannot each hold what the other wants.
        self._connection.execute(wanted.order_by(Document.uri_key).with_for_update())

    def add_issuer(self, issuer: str, now_us: int) -> None:
        """Insert an issuer that is not there yet."""
        catalogue.add_issuer(self._connection, issuer, issuer, now_us)

    def put_doc_type(self, record: DocTypeRecord, now_us: int) -> None:
        """Insert a document type or bring it up to date."""
        catalogue.add_doc_type(self._connection, record, now_us)

    def add_document(self, uri: DocumentURI, metadata: Metadata, holder: HolderColumns | None, now_us: int) -> str:
        """Insert a document without bytes, with its search parameters, and return its internal identifier."""
        new = catalogue.NewDocument(
            uri, title=metadata.title or "", issued_on=metadata.issued_on, expires_on=metadata.expires_on,
            office=metadata.office, holder_scheme=holder.scheme if holder else None,
            holder_hash=holder.keyed_hash if holder else None, holder_last4=holder.last4 if holder else None,
            parameters=metadata.parameters,
        )  # fmt: skip
        document_id = catalogue.add_document(self._connection, new, now_us)
        search_parameters.add_parameters(self._connection, self._hash_key, document_id, metadata.parameters)
        return document_id

    def change_document(self, document_id: str, now_us: int, columns: Mapping[str, Any]) -> None:
        """Set columns of a document and count the change."""
        catalogue.change_document(self._connection, document_id, now_us, **columns)

    def set_parameters(self, document_id: str, parameters: Mapping[str, str]) -> None:
        """Replace the values by which a document can be searched; counting the change is left to ``change_document``."""
        text = json.dumps(dict(parameters), ensure_ascii=False, sort_keys=True)
        self._connection.execute(update(Document).where(Document.document_id == document_id).values(parameters=text))
        search_parameters.replace_parameters(self._connection, self._hash_key, document_id, parameters)

    def set_language(self, document_id: str, version: int, language: str | None) -> None:
        """Set the language of the one representation that a version has."""
        wanted = (Representation.document_id == document_id) & (Representation.version == version)
        self._connection.execute(update(Representation).where(wanted).values(language=language))

    def add_placement(self, document_id: str, placement: Placement, now_us: int) -> None:
        """Insert one representation of one version."""
        catalogue.add_representation(self._connection, document_id, placement, now_us)

    def announce(self, document_id: str, kind: str, now_us: int) -> None:
        """Queue a push to every active locker."""
        outbox.announce(self._connection, document_id, kind, now_us)

    def seal_holder(self, document_id: str, uri: DocumentURI, holder: Holder) -> None:
        """Keep the holder's value sealed until the push is acknowledged."""
        holder_seals.seal_holder(self._connection, document_id, uri, holder, self._waiting_key)

    def append_events(self, events: Sequence[EncodedEvent]) -> None:
        """Write rows of the access log with the rest."""
        append_events(self._connection, events)
