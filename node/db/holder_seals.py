"""Holder values on their way to lockers: sealed when they come in, erased when they have arrived.

Each value is sealed to each active locker's encryption key. While there is no active locker it is sealed to the node's own
waiting key, under the empty issuer name, and sealed anew when one becomes active.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, exists, func, insert, select

from node.contract.holders import Holder
from node.contract.sealing import OpeningKey, SealingKey
from node.contract.uri import DocumentURI
from node.db.lockers import ACTIVE, LockerRow, all_lockers
from node.db.models import Document, HolderSeal

WAITING = ""
"""The issuer name under which a value waits for the first locker."""
UNKNOWN = ""
"""What stands in place of a sealed value that there is none of."""

# Built once: an ingest runs these for every document, and putting a statement together costs more than running it.
_DELETE = delete(HolderSeal).where(HolderSeal.document_id == bindparam("of_document"))
_INSERT = insert(HolderSeal)


@dataclass(frozen=True, slots=True)
class SealedHolder:
    """A value sealed to the key named, with what may be said of it in clear."""

    scheme: str
    last4: str
    key_id: str
    sealed: str


def seal_holder(
    connection: Connection, document_id: str, uri: DocumentURI, holder: Holder, waiting_key: SealingKey
) -> None:
    """Seal a document's holder to every active locker, or to the node itself while there is none.

    To be called in the transaction that announces the document; earlier seals of the document are replaced.
    """
    keys = {locker.iss: key for locker in all_lockers(connection, ACTIVE) if (key := encryption_key(locker))}
    connection.execute(_DELETE, {"of_document": document_id})
    value = holder.value.encode("utf-8")
    connection.execute(
        _INSERT,
        [
            {"document_id": document_id, "iss": iss, "key_id": key.kid, "sealed": key.seal(value, uri.key)}
            for iss, key in (keys or {WAITING: waiting_key}).items()
        ],
    )


def reseal_for(connection: Connection, locker: LockerRow, waiting_key: OpeningKey, document_ids: Sequence[str]) -> int:
    """Seal to a locker what waited for the first one among these documents, erase the waiting copies, return how many.

    Raises CannotOpen when the node's waiting key is not the one that the values were sealed to.
    """
    key = encryption_key(locker)
    if key is None:
        return 0
    waiting = connection.execute(
        select(HolderSeal.document_id, HolderSeal.sealed, Document.uri_key)
        .join(Document, Document.document_id == HolderSeal.document_id)
        .where(HolderSeal.iss == WAITING, HolderSeal.document_id.in_(document_ids))
    ).all()
    if not waiting:
        return 0
    resealed = [
        {
            "document_id": row.document_id, "iss": locker.iss, "key_id": key.kid,
            "sealed": key.seal(waiting_key.open(row.sealed, row.uri_key), row.uri_key),
        }
        for row in waiting
    ]  # fmt: skip
    mine = HolderSeal.document_id.in_([row.document_id for row in waiting])
    connection.execute(delete(HolderSeal).where(mine, HolderSeal.iss.in_((WAITING, locker.iss))))
    connection.execute(insert(HolderSeal), resealed)
    return len(resealed)


def note_unsealed(connection: Connection, locker: LockerRow, document_ids: Sequence[str]) -> None:
    """Note which of these documents name a holder whose value nobody here has any more, so that a locker cannot be told it.

    Earlier lockers have acknowledged it and the copies are erased. The note is a seal without content, which the next ingest of the
    document replaces. To be called after ``reseal_for``.
    """
    if encryption_key(locker) is None:
        return
    sealed = exists().where(HolderSeal.document_id == Document.document_id, HolderSeal.iss == locker.iss)
    wanted = (Document.holder_scheme.is_not(None), Document.status != "revoked", ~sealed)
    found = connection.execute(
        select(Document.document_id).where(Document.document_id.in_(document_ids), *wanted)
    ).scalars().all()  # fmt: skip
    if found:
        rows = [
            {"document_id": document_id, "iss": locker.iss, "key_id": "", "sealed": UNKNOWN} for document_id in found
        ]
        connection.execute(_INSERT, rows)


def count_waiting(connection: Connection) -> int:
    """Return how many values wait for the first locker, sealed to the node's own key."""
    return connection.execute(
        select(func.count()).select_from(HolderSeal).where(HolderSeal.iss == WAITING)
    ).scalar_one()


def count_unsealed(connection: Connection, iss: str) -> int:
    """Return how many documents a locker cannot link to their holders until they are ingested again."""
    noted = (HolderSeal.iss == iss) & (HolderSeal.sealed == UNKNOWN)
    return connection.execute(select(func.count()).select_from(HolderSeal).where(noted)).scalar_one()


def unsealed(connection: Connection, document_ids: Iterable[str]) -> set[str]:
    """Return those of the documents whose holder's value some locker has not been told and nobody here has."""
    wanted = HolderSeal.document_id.in_(list(document_ids))
    return set(connection.execute(select(HolderSeal.document_id).where(wanted, HolderSeal.sealed == UNKNOWN)).scalars())


def seals_for(connection: Connection, iss: str, document_ids: Iterable[str]) -> dict[str, SealedHolder]:
    """Return what is still to be told to a locker of these documents' holders, by document."""
    statement = (
        select(
            HolderSeal.document_id, Document.holder_scheme, Document.holder_last4, HolderSeal.key_id, HolderSeal.sealed
        )
        .join(Document, Document.document_id == HolderSeal.document_id)
        .where(HolderSeal.iss == iss, HolderSeal.sealed != UNKNOWN, HolderSeal.document_id.in_(list(document_ids)))
    )
    return {
        row.document_id: SealedHolder(row.holder_scheme or "", row.holder_last4 or "", row.key_id, row.sealed)
        for row in connection.execute(statement)
    }


def erase_seals(connection: Connection, iss: str, sealed: Mapping[str, str]) -> None:
    """Erase values by document that a locker has acknowledged; one that another has replaced meanwhile stays."""
    if sealed:
        mine = (HolderSeal.document_id == bindparam("of_document")) & (HolderSeal.sealed == bindparam("as_sent"))
        connection.execute(
            delete(HolderSeal).where(HolderSeal.iss == iss, mine),
            [{"of_document": document_id, "as_sent": text} for document_id, text in sorted(sealed.items())],
        )


def encryption_key(locker: LockerRow) -> SealingKey | None:
    """Return the key that values for a locker are sealed to."""
    return SealingKey.from_jwk(json.loads(locker.encryption_key)) if locker.encryption_key else None
