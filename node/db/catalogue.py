"""The catalogue: issuers, document types, documents, versions and where their representations lie."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, select, update

from node.contract.identifiers import new_reference, uuid7
from node.contract.uri import DocumentURI, IssuerDirectory
from node.db.models import DocType, Document, Issuer, Representation
from node.db.prepared import PreparedSelect
from node.services.ports import CatalogueDocument, DocTypeRecord, Placement

_DOCUMENT = (
    Document.document_id, Document.issuer, Document.doc_type, Document.doc_id, Document.title, Document.status,
    Document.status_reason, Document.issued_on, Document.expires_on, Document.office, Document.holder_scheme,
    Document.holder_last4, Document.holder_ref, Document.current_version, Document.revision, Document.changed_us,
    Document.parameters, Document.uri_key,
)  # fmt: skip
_PLACEMENT = (
    Representation.version, Representation.media_type, Representation.language, Representation.size,
    Representation.sha256, Representation.store, Representation.object_key,
)  # fmt: skip

_FIND = PreparedSelect(
    select(*_DOCUMENT, *_PLACEMENT)
    .outerjoin(Representation, Representation.document_id == Document.document_id)
    .where(Document.uri_key.in_(bindparam("uri_keys", expanding=True))),
    "uri_keys",
)

# Built once: an ingest runs these for every document, and putting a statement together costs more than running it.
_INSERT_DOCUMENT = insert(Document)
_INSERT_REPRESENTATION = insert(Representation)


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What a document is when it first enters the catalogue; holder fields are hashes, never the value."""

    uri: DocumentURI
    title: str = ""
    issued_on: str | None = None
    expires_on: str | None = None
    office: str | None = None
    holder_scheme: str | None = None
    holder_hash: str | None = None
    holder_last4: str | None = None
    parameters: Mapping[str, str] | None = None


def find_documents(connection: Connection, uri_keys: Iterable[str]) -> dict[str, CatalogueDocument]:
    """Return the documents with these lower-case URIs, with all their placements, by that key: one statement for all."""
    wanted = sorted(set(uri_keys))
    if not wanted:
        return {}
    grouped: dict[str, list[tuple[Any, ...]]] = {}
    for row in _FIND.rows(connection, wanted):
        grouped.setdefault(row[17], []).append(row)
    return {key: _document(rows) for key, rows in grouped.items()}


def find_document(connection: Connection, uri: DocumentURI) -> CatalogueDocument | None:
    """Return one document or None."""
    return find_documents(connection, [uri.key]).get(uri.key)


def documents_by_id(connection: Connection, document_ids: Iterable[str]) -> list[CatalogueDocument]:
    """Return documents by their internal identifiers, in no order."""
    keys = select(Document.uri_key).where(Document.document_id.in_(list(document_ids)))
    return list(find_documents(connection, connection.execute(keys).scalars()).values())


def list_documents(
    connection: Connection,
    *,
    issuers: Sequence[str] = (),
    doc_types: Sequence[str] = (),
    status: str | None = None,
    after: str = "",
    limit: int = 100,
) -> list[CatalogueDocument]:
    """Return documents in order of their lower-case URI, those after the key ``after``; empty sequences do not restrict."""
    keys = select(Document.uri_key).where(Document.uri_key > after).order_by(Document.uri_key).limit(limit)
    if issuers:
        keys = keys.where(Document.issuer_key.in_([issuer.lower() for issuer in issuers]))
    if doc_types:
        keys = keys.where(Document.doc_type_key.in_([doc_type.lower() for doc_type in doc_types]))
    if status:
        keys = keys.where(Document.status == status)
    found = find_documents(connection, connection.execute(keys).scalars())
    return [found[key] for key in sorted(found)]


def add_document(connection: Connection, new: NewDocument, now_us: int) -> str:
    """Insert a document without versions and return its identifier; the caller has made sure that the URI is free."""
    document_id = uuid7()
    row = {
        "document_id": document_id, "uri_key": new.uri.key, "issuer": new.uri.issuer, "doc_type": new.uri.doc_type,
        "doc_id": new.uri.doc_id, "issuer_key": new.uri.issuer.lower(), "doc_type_key": new.uri.doc_type.lower(),
        "title": new.title, "status": "active", "issued_on": new.issued_on, "expires_on": new.expires_on,
        "office": new.office, "holder_scheme": new.holder_scheme, "holder_hash": new.holder_hash,
        "holder_last4": new.holder_last4, "holder_ref": new_reference() if new.holder_scheme else None,
        "parameters": json.dumps(dict(new.parameters or {}), ensure_ascii=False, sort_keys=True),
        "current_version": 1, "revision": 1, "created_us": now_us, "changed_us": now_us,
    }  # fmt: skip
    connection.execute(_INSERT_DOCUMENT, row)
    return document_id


def add_representation(connection: Connection, document_id: str, placement: Placement, now_us: int) -> None:
    """Insert one representation of one version."""
    row = {
        "representation_id": uuid7(), "document_id": document_id, "version": placement.version,
        "media_type": placement.media_type, "language": placement.language, "size": placement.size,
        "sha256": placement.sha256, "store": placement.store, "object_key": placement.object_key, "created_us": now_us,
    }  # fmt: skip
    connection.execute(_INSERT_REPRESENTATION, row)


def change_document(connection: Connection, document_id: str, now_us: int, **columns: Any) -> None:
    """Set columns of a document and count the change, so that pushes can be put in order."""
    connection.execute(
        update(Document)
        .where(Document.document_id == document_id)
        .values(revision=Document.revision + 1, changed_us=now_us, **columns)
    )


def documents_of_holder(connection: Connection, scheme: str, holder_hash: str) -> list[CatalogueDocument]:
    """Return the documents whose holder has this keyed hash."""
    keys = select(Document.uri_key).where(Document.holder_hash == holder_hash, Document.holder_scheme == scheme)
    found = find_documents(connection, connection.execute(keys).scalars())
    return [found[key] for key in sorted(found)]


def counts(connection: Connection) -> list[tuple[str, str, str, int]]:
    """Return (issuer, type, status, number of documents)."""
    statement = (
        select(Document.issuer_key, Document.doc_type_key, Document.status, func.count())
        .group_by(Document.issuer_key, Document.doc_type_key, Document.status)
        .order_by(Document.issuer_key, Document.doc_type_key, Document.status)
    )
    return [(row[0], row[1], row[2], row[3]) for row in connection.execute(statement)]


def issuer_directory(connection: Connection) -> IssuerDirectory:
    """Return the issuers hosted here."""
    return IssuerDirectory(connection.execute(select(Issuer.issuer)).scalars())


def issuer_names(connection: Connection) -> dict[str, str]:
    """Return the name of each issuer hosted here."""
    rows = connection.execute(select(Issuer.issuer, Issuer.name).order_by(Issuer.issuer_key))
    return {row.issuer: row.name for row in rows}


def add_issuer(connection: Connection, issuer: str, name: str, now_us: int) -> None:
    """Insert an issuer that is not there yet."""
    connection.execute(insert(Issuer).values(issuer_key=issuer.lower(), issuer=issuer, name=name, created_us=now_us))


def name_issuer(connection: Connection, issuer: str, name: str) -> bool:
    """Set the name of an issuer hosted here; False when there is none of this identifier."""
    return connection.execute(update(Issuer).filter_by(issuer_key=issuer.lower()).values(name=name)).rowcount == 1


def add_doc_type(connection: Connection, record: DocTypeRecord, now_us: int) -> None:
    """Insert a document type, or bring name, parameters and rule of an existing one up to date."""
    values = {
        "doc_type": record.doc_type,
        "name": record.name,
        "search_parameters": json.dumps([dict(row) for row in record.search_parameters], ensure_ascii=False),
        "match_rule": json.dumps(dict(record.match_rule), ensure_ascii=False, sort_keys=True),
    }
    key = {"issuer_key": record.issuer.lower(), "doc_type_key": record.doc_type.lower()}
    changed = connection.execute(update(DocType).filter_by(**key).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(DocType).values(**key, **values, created_us=now_us))


def doc_types(connection: Connection) -> list[DocTypeRecord]:
    """Return all document types hosted here."""
    statement = (
        select(Issuer.issuer, DocType.doc_type, DocType.name, DocType.search_parameters, DocType.match_rule)
        .join(Issuer, Issuer.issuer_key == DocType.issuer_key)
        .order_by(DocType.issuer_key, DocType.doc_type_key)
    )
    return [
        DocTypeRecord(
            row.issuer, row.doc_type, row.name, tuple(json.loads(row.search_parameters)), json.loads(row.match_rule)
        )
        for row in connection.execute(statement)
    ]


def _document(rows: Sequence[tuple[Any, ...]]) -> CatalogueDocument:
    first = rows[0]
    return CatalogueDocument(
        document_id=first[0], uri=DocumentURI(first[1], first[2], first[3]), title=first[4], status=first[5],
        status_reason=first[6], issued_on=first[7], expires_on=first[8], office=first[9], holder_scheme=first[10],
        holder_last4=first[11], holder_ref=first[12], current_version=first[13], revision=first[14],
        changed_us=first[15], parameters=json.loads(first[16]),
        placements=tuple(Placement(*row[18:25]) for row in rows if row[18] is not None),
    )  # fmt: skip
