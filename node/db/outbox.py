"""Announcements to lockers: written in the transaction of the change, sent later, deleted when acknowledged.

Nothing is marked as taken while it is under way: a row waits until its result is stored, and the same row sent twice gets the
same result, because the locker remembers it by ``row_id``. So a process may be killed at any moment. What a row says of its
document is read when it is sent; ``revision`` is that of the change, by which the locker puts rows in order.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, insert, select, tuple_, update
from sqlalchemy.orm import aliased

from node.contract.identifiers import uuid7
from node.contract.problems import OutOfScope
from node.contract.sealing import OpeningKey
from node.contract.times import MINUTE, SECOND
from node.db.catalogue import documents_by_id
from node.db.holder_references import note_references, take_link_changes
from node.db.holder_seals import SealedHolder, erase_seals, note_unsealed, reseal_for, seals_for
from node.db.lockers import ACTIVE, LockerRow, change_locker, locker_rows
from node.db.models import Document, Locker, OutboxRow
from node.db.session import Database
from node.services.access import LockerScope
from node.services.ports import CatalogueDocument
from node.services.push import LinkChange, RowResult

WAITING = "waiting"
REFUSED = "refused"
KINDS = ("add", "change", "withdraw")

_OUT_OF_SCOPE = f'/{OutOfScope.slug}"'
"""What the stored result of such a refusal has in it, and none else: the end of the problem's type."""

BATCH = 500
PAUSE_SECONDS = 0.01
FIRST_DELAY = 1 * SECOND
LONGEST_DELAY = 5 * MINUTE

# Built once: an ingest runs these for every document, and putting a statement together costs more than running it.
_REVISION = select(Document.revision).where(Document.document_id == bindparam("of_document"))
_ACTIVE_LOCKERS = select(Locker.iss).where(Locker.state == ACTIVE).order_by(Locker.iss)
_INSERT_ROW = insert(OutboxRow)


@dataclass(frozen=True, slots=True)
class DueRow:
    """A row that may be sent now, with what the catalogue says of its document; None when that is gone."""

    row_id: str
    document_id: str
    revision: int
    kind: str
    attempts: int
    document: CatalogueDocument | None
    seal: SealedHolder | None


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that a locker refused; it stays until an operator has it sent again or the document changes."""

    row_id: str
    iss: str
    uri: str
    kind: str
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """How many announcements about documents of one type a locker refused for one reason."""

    issuer: str
    doc_type: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for a locker; ``oldest_us`` is None when nothing does."""

    waiting: int
    refused: int
    oldest_us: int | None


def announce(connection: Connection, document_id: str, kind: str, now_us: int) -> None:
    """Queue an announcement for each active locker in the caller's transaction, after the change itself was made.

    ``kind`` is ``add``, ``change`` or ``withdraw``. Lockers that are not active yet hear of all documents when they become so.
    """
    if kind not in KINDS:
        raise ValueError(f"a kind of announcement is one of {', '.join(KINDS)}")
    isses = connection.execute(_ACTIVE_LOCKERS).scalars().all()
    if isses:
        revision = connection.execute(_REVISION, {"of_document": document_id}).scalar_one()
        rows = [_row(iss, document_id, revision, kind, now_us) for iss in isses]
        connection.execute(_INSERT_ROW, rows)


def announce_page(connection: Connection, iss: str, waiting_key: OpeningKey, now_us: int, limit: int = BATCH) -> bool:
    """Queue the next documents that were here before a locker was, their holders sealed to it; False when none are left.

    The place reached is part of the same transaction, so a killed process goes on where it was.
    """
    locker = locker_rows(connection, [iss])[iss]
    if locker.announced_after is None or locker.state != ACTIVE:
        return False
    document_ids = connection.execute(
        select(Document.document_id)
        .where(Document.document_id > locker.announced_after)
        .order_by(Document.document_id)
        .limit(limit)
    ).scalars().all()  # fmt: skip
    reseal_for(connection, locker, waiting_key, document_ids)
    note_unsealed(connection, locker, document_ids)
    _announce_unqueued(connection, iss, document_ids, now_us)
    change_locker(connection, iss, announced_after=document_ids[-1] if len(document_ids) == limit else None)
    return len(document_ids) == limit


def announce_all(
    database: Database, iss: str, waiting_key: OpeningKey, now_us: int, limit: int = BATCH, pause: float = PAUSE_SECONDS
) -> None:
    """Queue every document that was here before a locker was, in short transactions with room for others between them."""
    more = True
    while more:
        with database.writing() as connection:
            more = announce_page(connection, iss, waiting_key, now_us, limit)
        time.sleep(pause if more else 0)


def due_rows(connection: Connection, iss: str, now_us: int, limit: int = BATCH) -> list[DueRow]:
    """Return rows whose time has come, oldest first, never one whose document has an older row waiting."""
    older = aliased(OutboxRow)
    overtaken = exists().where(
        older.iss == iss,
        older.state == WAITING,
        older.document_id == OutboxRow.document_id,
        (older.revision < OutboxRow.revision)
        | ((older.revision == OutboxRow.revision) & (older.row_id < OutboxRow.row_id)),
    )
    columns = OutboxRow.row_id, OutboxRow.document_id, OutboxRow.revision, OutboxRow.kind, OutboxRow.attempts
    rows = connection.execute(
        select(*columns)
        .where(OutboxRow.iss == iss, OutboxRow.state == WAITING, OutboxRow.next_try_us <= now_us, ~overtaken)
        .order_by(OutboxRow.next_try_us, OutboxRow.row_id)
        .limit(limit)
    ).all()
    documents = {row.document_id: row for row in documents_by_id(connection, [row.document_id for row in rows])}
    seals = seals_for(connection, iss, [row.document_id for row in rows])
    return [
        DueRow(*row, document=documents.get(row.document_id), seal=seals.get(row.document_id)) for row in rows
    ]  # fmt: skip


def settle(
    connection: Connection, iss: str, sent: Sequence[DueRow], results: Iterable[RowResult], now_us: int,
    may_name: Callable[[str, str], bool] = lambda _issuer, _doc_type: True,
) -> None:  # fmt: skip
    """Store a batch's results: acknowledged rows go, with the sealed value that was sent; refused ones stay with the reason.

    A row without a usable result, or refused because the locker cannot take it at the moment, is tried again later. Whose a
    document is, the locker says only of issuers and types that ``may_name`` lets it speak of.
    """
    by_id = {result.row_id: result for result in results}
    acknowledged = []
    for row in sent:
        result = by_id.get(row.row_id)
        if result is None:
            _postpone(connection, row, now_us)
        elif _is_passing(result):
            # The locker would repeat this answer to the same identifier; the row was not taken, so a new one doubles nothing.
            _postpone(connection, row, now_us, row_id=uuid7())
        elif result.outcome == REFUSED:
            _refuse(connection, row, result)
        else:
            acknowledged.append((row, result))
    if acknowledged:
        gone = _acknowledge(connection, iss, acknowledged)
        note_references(
            connection,
            iss,
            {
                row.document_id: result.holder_ref
                for row, result in gone
                if result.holder_ref and row.document and may_name(row.document.uri.issuer, row.document.uri.doc_type)
            },
        )


def postpone_locker(connection: Connection, locker: LockerRow, now_us: int) -> int:
    """Leave a locker alone for a while that doubles with each failure; returns until when."""
    until = now_us + retry_delay(locker.push_failures)
    change_locker(connection, locker.iss, push_failures=locker.push_failures + 1, push_next_us=until)
    return until


def retry_delay(attempts: int, jitter: random.Random | None = None) -> int:
    """Return microseconds until the next try: exponential, full jitter, five minutes at most."""
    ceiling = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(attempts, 20))
    return (jitter or random.SystemRandom()).randint(0, ceiling)


def retry_refused(
    connection: Connection, iss: str, now_us: int, limit: int = BATCH, scope: Collection[tuple[str, str]] | None = None
) -> int:
    """Queue refused rows anew, under new identifiers because the locker would repeat its old answer; returns how many.

    With a ``scope``, pairs of issuer and document type in lower case, only those that were out of scope and are within it now.
    """
    statement = (
        select(OutboxRow.row_id, OutboxRow.document_id, OutboxRow.revision, OutboxRow.kind)
        .where(OutboxRow.iss == iss, OutboxRow.state == REFUSED)
        .order_by(OutboxRow.row_id)
        .limit(limit)
    )
    if scope is not None:
        statement = (
            statement.join(Document, Document.document_id == OutboxRow.document_id)
            .where(OutboxRow.result.contains(_OUT_OF_SCOPE, autoescape=True))
            .where(tuple_(Document.issuer_key, Document.doc_type_key).in_(sorted(scope)))
        )
    rows = connection.execute(statement).all()
    if rows:
        connection.execute(delete(OutboxRow).where(OutboxRow.row_id.in_([row.row_id for row in rows])))
        connection.execute(
            insert(OutboxRow), [_row(iss, row.document_id, row.revision, row.kind, now_us) for row in rows]
        )
    return len(rows)


def has_out_of_scope(connection: Connection, iss: str) -> bool:
    """Tell whether a locker refused something only because its officer had not approved the type for this node."""
    mine = (OutboxRow.iss == iss) & (OutboxRow.state == REFUSED)
    wanted = select(OutboxRow.row_id).where(mine, OutboxRow.result.contains(_OUT_OF_SCOPE, autoescape=True)).limit(1)
    return connection.execute(wanted).first() is not None


def refusals(connection: Connection, iss: str) -> list[Refusal]:
    """Return what a locker refused, counted by document type and reason."""
    statement = (
        select(Document.issuer, Document.doc_type, OutboxRow.result, func.count())
        .join(Document, Document.document_id == OutboxRow.document_id)
        .where(OutboxRow.iss == iss, OutboxRow.state == REFUSED)
        .group_by(Document.issuer, Document.doc_type, OutboxRow.result)
    )
    counted: Counter[tuple[str, str, str]] = Counter()
    for issuer, doc_type, result, count in connection.execute(statement):
        counted[issuer, doc_type, _refusal_reason(json.loads(result or "{}"))] += count
    return [Refusal(*key, count) for key, count in sorted(counted.items())]


def refused_rows(connection: Connection, limit: int = BATCH) -> list[RefusedRow]:
    """Return rows that a locker refused, with its reasons, oldest first."""
    statement = (
        select(OutboxRow, Document.issuer, Document.doc_type, Document.doc_id)
        .join(Document, Document.document_id == OutboxRow.document_id)
        .where(OutboxRow.state == REFUSED)
        .order_by(OutboxRow.row_id)
        .limit(limit)
    )
    return [
        RefusedRow(
            row.row_id, row.iss, f"{row.issuer}-{row.doc_type}-{row.doc_id}", row.kind, json.loads(row.result or "{}")
        )
        for row in connection.execute(statement)
    ]


def backlog(connection: Connection, iss: str | None = None) -> Backlog:
    """Return what waits, for one locker or all."""
    statement = select(OutboxRow.state, func.count(), func.min(OutboxRow.created_us)).group_by(OutboxRow.state)
    if iss is not None:
        statement = statement.where(OutboxRow.iss == iss)
    found = {row[0]: (row[1], row[2]) for row in connection.execute(statement)}
    waiting, oldest = found.get(WAITING, (0, None))
    return Backlog(waiting, found.get(REFUSED, (0, None))[0], oldest)


def _row(iss: str, document_id: str, revision: int, kind: str, now_us: int) -> dict[str, Any]:
    return {
        "row_id": uuid7(), "iss": iss, "document_id": document_id, "revision": revision, "kind": kind,
        "state": WAITING, "attempts": 0, "next_try_us": now_us, "result": None, "created_us": now_us,
    }  # fmt: skip


def _announce_unqueued(connection: Connection, iss: str, document_ids: Sequence[str], now_us: int) -> None:
    """Queue those documents of a page that have not been queued by a change of their own."""
    queued = exists().where(
        OutboxRow.iss == iss, OutboxRow.document_id == Document.document_id, OutboxRow.state == WAITING
    )
    rows = connection.execute(
        select(Document.document_id, Document.revision, Document.status)
        .where(Document.document_id.in_(document_ids), ~queued)
        .order_by(Document.document_id)
    )
    values = [
        _row(iss, row.document_id, row.revision, "withdraw" if row.status == "revoked" else "add", now_us)
        for row in rows
    ]
    if values:
        connection.execute(insert(OutboxRow), values)


def _refusal_reason(problem: Mapping[str, Any]) -> str:
    """Return the slug of a problem's type, or its title when it has none."""
    return str(problem.get("type", "")).rpartition("/")[2] or str(problem.get("title") or "no reason given")


def _is_passing(result: RowResult) -> bool:
    status = (result.problem or {}).get("status")
    return result.outcome == REFUSED and isinstance(status, int) and (status >= 500 or status == 429)


def _same(row: DueRow) -> ColumnElement[bool]:
    """Only a row that still waits is changed: another process may have stored the same batch's results before."""
    return (OutboxRow.row_id == row.row_id) & (OutboxRow.state == WAITING)


def _postpone(connection: Connection, row: DueRow, now_us: int, **changes: Any) -> None:
    later = {"attempts": row.attempts + 1, "next_try_us": now_us + retry_delay(row.attempts), **changes}
    connection.execute(update(OutboxRow).where(_same(row)).values(**later))


def _refuse(connection: Connection, row: DueRow, result: RowResult) -> None:
    reason = json.dumps(dict(result.problem or {}), ensure_ascii=False, sort_keys=True)
    connection.execute(update(OutboxRow).where(_same(row)).values(state=REFUSED, result=reason))


def _acknowledge(
    connection: Connection, iss: str, rows: Sequence[tuple[DueRow, RowResult]]
) -> list[tuple[DueRow, RowResult]]:
    """Delete rows and the seals that were sent with them; returns those that nobody has settled before."""
    waited = OutboxRow.row_id.in_([row.row_id for row, _ in rows]) & (OutboxRow.state == WAITING)
    gone = set(connection.execute(delete(OutboxRow).where(waited).returning(OutboxRow.row_id)).scalars())
    taken = [(row, result) for row, result in rows if row.row_id in gone]
    document_ids = [row.document_id for row, _ in taken]
    # Earlier refusals of these documents are settled by what the locker has taken now.
    mine = (OutboxRow.iss == iss) & OutboxRow.document_id.in_(document_ids)
    connection.execute(delete(OutboxRow).where(mine, OutboxRow.state == REFUSED))
    # A row that was repeated may have been answered without a look at its seal, so the last row of a document decides.
    waiting = set(connection.execute(select(OutboxRow.document_id).where(mine, OutboxRow.state == WAITING)).scalars())
    erase_seals(
        connection,
        iss,
        {row.document_id: row.seal.sealed for row, _ in taken if row.seal and row.document_id not in waiting},
    )
    return taken


class OutboxRecords:
    """The outbox, as the push service sees it: each call one transaction."""

    def __init__(
        self, database: Database, waiting_key: OpeningKey, clock: Callable[[], int],
        limits: Mapping[str, LockerScope] | None = None,
    ) -> None:  # fmt: skip
        """``waiting_key`` opens the holders' values that waited for the first locker.

        ``limits`` are the settings' limits by locker; none at all let a locker speak of all that this node hosts.
        """
        self._database = database
        self._waiting_key = waiting_key
        self._clock = clock
        self._limits = limits or {}

    def locker(self, iss: str) -> LockerRow | None:
        """Return a locker."""
        with self._database.reading() as connection:
            return locker_rows(connection, [iss]).get(iss)

    def announce_page(self, iss: str) -> bool:
        """Queue some of the documents that were here before a locker; False when none are left."""
        with self._database.writing() as connection:
            return announce_page(connection, iss, self._waiting_key, self._clock())

    def due(self, iss: str, limit: int) -> Sequence[DueRow]:
        """Return rows that may be sent now, at most ``limit``."""
        with self._database.reading() as connection:
            return due_rows(connection, iss, self._clock(), limit)

    def settle(self, iss: str, sent: Sequence[DueRow], results: Sequence[RowResult]) -> None:
        """Store what the locker said; that it answered ends its earlier failures."""
        with self._database.writing() as connection:
            settle(connection, iss, sent, results, self._clock(), self._may_name(iss))
            change_locker(connection, iss, push_failures=0, push_next_us=0)

    def postpone(self, iss: str) -> None:
        """Leave a locker alone for a while that grows with each failure."""
        with self._database.writing() as connection:
            locker = locker_rows(connection, [iss]).get(iss)
            if locker is not None:
                postpone_locker(connection, locker, self._clock())

    def take_links(self, iss: str, changes: Sequence[LinkChange], after: int) -> None:
        """Store who documents belong to, and how far the feed is known; a page taken before is not taken again."""
        with self._database.writing() as connection:
            advanced = connection.execute(
                update(Locker).where(Locker.iss == iss, Locker.links_after < after).values(links_after=after)
            )
            if advanced.rowcount == 1:
                take_link_changes(connection, iss, changes, self._may_name(iss))

    def _may_name(self, iss: str) -> Callable[[str, str], bool]:
        """Return what a locker may speak of; settings that list lockers shut out those they do not list."""
        limit = self._limits.get(iss)
        return limit.covers if limit else lambda _issuer, _doc_type: not self._limits

    def has_out_of_scope(self, iss: str) -> bool:
        """Tell whether something was refused only because its type was not approved."""
        with self._database.reading() as connection:
            return has_out_of_scope(connection, iss)

    def retry_refused(self, iss: str, scope: Collection[tuple[str, str]] | None = None) -> int:
        """Queue refused rows anew in short transactions, all or those that a widened scope lets through; returns how many."""
        total, more = 0, True
        while more:
            with self._database.writing() as connection:
                count = retry_refused(connection, iss, self._clock(), scope=scope)
            total, more = total + count, count == BATCH
        return total

    def refusals(self, iss: str) -> list[Refusal]:
        """Return what a locker refused, counted by document type and reason."""
        with self._database.reading() as connection:
            return refusals(connection, iss)
