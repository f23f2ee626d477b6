"""What the node offers to a locker: issuers and document types, as registrations have them."""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, select

from node.db.catalogue import doc_types, issuer_names
from node.db.models import Document, Representation
from node.db.session import Database

_SHOWN = ("name", "label", "required")


def offered(connection: Connection) -> list[dict[str, Any]]:
    """Return issuers that have at least one document type, with the types' parameters and the media types in stock."""
    stocked = _media_types(connection)
    types: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in doc_types(connection):
        types[record.issuer].append(
            {
                "doc_type": record.doc_type, "name": record.name,
                "search_parameters": [{name: row[name] for name in _SHOWN} for row in record.search_parameters],
                "media_types": stocked[record.issuer.lower(), record.doc_type.lower()],
            }
        )  # fmt: skip
    names = issuer_names(connection)
    return [{"issuer": issuer, "name": names[issuer], "doc_types": rows} for issuer, rows in types.items()]


class Offer:
    """Reads what the node offers, each time anew."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self) -> list[dict[str, Any]]:
        """Return issuers with their document types."""
        with self._database.reading() as connection:
            return offered(connection)


def _media_types(connection: Connection) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    rows = connection.execute(
        select(Document.issuer_key, Document.doc_type_key, Representation.media_type)
        .join(Representation, Representation.document_id == Document.document_id)
        .distinct()
        .order_by(Document.issuer_key, Document.doc_type_key, Representation.media_type)
    )
    for issuer, doc_type, media_type in rows:
        found[issuer, doc_type].append(media_type)
    return found
