"""How lockers name the holders of documents.

Each locker has a reference of its own for a resident. The node's own, in the document's row, stands for the holder that the
document has now; it is what the log says of reads that come without a ticket. ``holder_reference`` joins the two, so that
whoever asks under a locker's reference finds both.
"""

from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import Connection, bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from node.contract.identifiers import new_reference
from node.db.models import Document, HolderReference
from node.services.push import LinkChange

_SET_OWN = (
    update(Document)
    .where(Document.document_id == bindparam("of_document"), Document.holder_ref.is_(None))
    .values(holder_ref=bindparam("reference"))
)


def note_references(connection: Connection, iss: str, references: Mapping[str, str], *, replace: bool = True) -> None:
    """Note by document how a locker names its holder; no change that others must hear of.

    Without ``replace`` a reference of this locker that is known already stays.
    """
    own = _own_references(connection, references)
    statement = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(HolderReference)
    key = ["own_ref", "iss"]
    upsert = (
        statement.on_conflict_do_update(index_elements=key, set_={"holder_ref": statement.excluded.holder_ref})
        if replace
        else statement.on_conflict_do_nothing(index_elements=key)
    )
    rows = {own_ref: references[document_id] for document_id, own_ref in own.items()}
    if rows:
        connection.execute(
            upsert, [{"own_ref": own_ref, "iss": iss, "holder_ref": ref} for own_ref, ref in sorted(rows.items())]
        )


def take_link_changes(
    connection: Connection, iss: str, changes: Iterable[LinkChange], may_name: Callable[[str, str], bool]
) -> None:
    """Note, in their order, who documents belong to; what was withdrawn is cleared only where it is still noted.

    ``may_name`` tells of an issuer and a document type whether this locker has a say in them; news of others is passed over.
    """
    changes = list(changes)
    keys = {change.uri.lower() for change in changes}
    rows = connection.execute(
        select(Document.uri_key, Document.document_id, Document.issuer, Document.doc_type).where(
            Document.uri_key.in_(sorted(keys))
        )
    )
    known = {row.uri_key: row.document_id for row in rows if may_name(row.issuer, row.doc_type)}
    for change in changes:
        document_id = known.get(change.uri.lower())
        if document_id is None or change.holder_ref is None:
            continue
        if change.outcome == "linked":
            note_references(connection, iss, {document_id: change.holder_ref})
        elif change.outcome == "withdrawn":
            own = select(Document.holder_ref).where(Document.document_id == document_id).scalar_subquery()
            mine = (HolderReference.own_ref == own) & (HolderReference.iss == iss)
            connection.execute(delete(HolderReference).where(mine, HolderReference.holder_ref == change.holder_ref))


def related_references(connection: Connection, reference: str, iss: str | None = None) -> tuple[str, ...]:
    """Return a reference and those that stand for the same holder; with ``iss``, as a reference of that locker alone."""
    pairs = select(HolderReference.own_ref, HolderReference.holder_ref)
    if iss is None:
        pairs = pairs.where(or_(HolderReference.holder_ref == reference, HolderReference.own_ref == reference))
    else:
        pairs = pairs.where(HolderReference.holder_ref == reference, HolderReference.iss == iss)
    return tuple(sorted({reference, *(found for pair in connection.execute(pairs) for found in pair)}))


def _own_references(connection: Connection, document_ids: Iterable[str]) -> dict[str, str]:
    """Return the node's own reference to the holder of each document, given now where there is none."""
    wanted = select(Document.document_id, Document.holder_ref).where(Document.document_id.in_(sorted(document_ids)))
    found = {row.document_id: row.holder_ref for row in connection.execute(wanted)}
    missing = [document_id for document_id, reference in found.items() if reference is None]
    if missing:
        connection.execute(
            _SET_OWN, [{"of_document": document_id, "reference": new_reference()} for document_id in missing]
        )
        found = {row.document_id: row.holder_ref for row in connection.execute(wanted)}
    return found
