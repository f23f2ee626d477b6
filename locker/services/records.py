"""What can be checked afterwards: ticket records and attempts for auditors, a resident's own activity. All are paged by position."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Session

from locker.db.models import LEDGER, Alert, Attempt, Client, ConsentEvent, LinkEvent, TicketRecord
from locker.db.session import Database, head
from locker.services.attempts import ALLOWED, GATEWAY, OWN, RESOLVE
from locker.services.principal import REQUESTER, RESIDENT
from node.contract.tickets import BASIS_CONSENT, BASIS_HOLDER


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows of a feed: after a position and up to another, at or after ``from_us``, before ``to_us``, at most ``limit``."""

    after: int = 0
    limit: int = 100
    from_us: int | None = None
    to_us: int | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptFilter:
    """Which attempts are wanted; None is no limit. ``subject`` is a client id, a resident's id or the name of a token."""

    operation: str | None = None
    outcome: str | None = None
    reason: str | None = None
    subject: str | None = None
    uri: str | None = None
    consent_id: str | None = None
    request_id: str | None = None


class Records:
    """Reading what was recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tickets(
        self,
        window: Window,
        *,
        consent_id: str | None = None,
        client_id: str | None = None,
        uri: str | None = None,
    ) -> tuple[list[TicketRecord], int | None]:
        """Return one page of ticket records in the order of recording, and where to go on, None at the end."""
        query = _windowed(select(TicketRecord), TicketRecord, TicketRecord.issued_us, window)
        query = _concerning(query, TicketRecord, consent_id, uri)
        if client_id is not None:
            query = query.where(TicketRecord.client_id == client_id)
        with self._database.read() as session:
            rows = session.scalars(query).all()
        return list(rows[: window.limit]), _next(rows, window)

    def attempts(self, window: Window, wanted: AttemptFilter) -> tuple[list[dict[str, Any]], int | None]:
        """Return one page of all attempts in the order of recording, tickets among them, and where to go on.

        Both kinds share one numbering, see ``activity``.
        """
        with self._database.read() as session:
            window = replace(window, until=head(session, LEDGER))
            rows = [*_refused_attempts(session, window, wanted), *_allowed_attempts(session, window, wanted)]
        return _merged(rows, window)

    def activity(self, resident_id: str, window: Window) -> tuple[list[dict[str, Any]], int | None]:
        """Return one page of what happened with a resident's documents, oldest first, and where to go on.

        The three kinds of rows share one numbering, so merging their pages by position misses none. Rows that come in
        between the three queries are left for the next page.
        """
        with self._database.read() as session:
            window = replace(window, until=head(session, LEDGER))
            rows = [
                *_tickets_of(session, resident_id, window),
                *_consent_events_of(session, resident_id, window),
                *_link_events_of(session, resident_id, window),
            ]
            page, following = _merged(rows, window)
            names = _names(session, {row["client_id"] for row in page if row["client_id"]})
        for row in page:
            row["requester_name"] = names.get(row["client_id"])
        return page, following

    def alerts(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest alerts, for the operator."""
        with self._database.read() as session:
            rows = session.scalars(select(Alert).order_by(Alert.at_us.desc()).limit(limit))
            return [
                {"node_id": row.node_id, "kind": row.kind, "detail": row.detail, "at_us": row.at_us} for row in rows
            ]


def _windowed(query: Select[Any], model: Any, time: Any, window: Window) -> Select[Any]:
    query = query.where(model.position > window.after).order_by(model.position).limit(window.limit + 1)
    if window.until is not None:
        query = query.where(model.position <= window.until)
    if window.from_us is not None:
        query = query.where(time >= window.from_us)
    if window.to_us is not None:
        query = query.where(time < window.to_us)
    return query


def _concerning(query: Select[Any], model: Any, consent_id: str | None, uri: str | None) -> Select[Any]:
    if consent_id is not None:
        query = query.where(model.consent_id == consent_id)
    if uri is not None:
        query = query.where(func.lower(model.uri) == uri.lower())
    return query


def _merged(rows: list[dict[str, Any]], window: Window) -> tuple[list[dict[str, Any]], int | None]:
    """Return one page of rows of several kinds, and where to go on, None at the end."""
    page = sorted(rows, key=lambda row: int(row["position"]))[: window.limit]
    return page, page[-1]["position"] if len(rows) > window.limit else None


def _next(rows: Sequence[TicketRecord], window: Window) -> int | None:
    return rows[window.limit - 1].position if len(rows) > window.limit else None


_BY_OPERATION: dict[str, ColumnElement[bool]] = {
    RESOLVE: (TicketRecord.basis == BASIS_CONSENT) & TicketRecord.act.is_(None),
    GATEWAY: (TicketRecord.basis == BASIS_CONSENT) & TicketRecord.act.is_not(None),
    OWN: TicketRecord.basis == BASIS_HOLDER,
}


def _refused_attempts(session: Session, window: Window, wanted: AttemptFilter) -> list[dict[str, Any]]:
    """Return the attempts that have no ticket."""
    if wanted.outcome == ALLOWED:
        return []
    query = _windowed(select(Attempt), Attempt, Attempt.at_us, window)
    query = _concerning(query, Attempt, wanted.consent_id, wanted.uri)
    for name in ("operation", "outcome", "reason", "subject", "request_id"):
        if getattr(wanted, name) is not None:
            query = query.where(getattr(Attempt, name) == getattr(wanted, name))
    names = Attempt.__table__.columns.keys()
    return [{name: getattr(row, name) for name in names} for row in session.scalars(query)]


def _allowed_attempts(session: Session, window: Window, wanted: AttemptFilter) -> list[dict[str, Any]]:
    """Return the attempts that have one, as their ticket records tell of them."""
    elsewhere = wanted.reason is not None or wanted.request_id is not None  # what no ticket record has
    if elsewhere or wanted.outcome not in (None, ALLOWED) or wanted.operation not in (None, *_BY_OPERATION):
        return []
    query = _windowed(select(TicketRecord), TicketRecord, TicketRecord.issued_us, window)
    query = _concerning(query, TicketRecord, wanted.consent_id, wanted.uri)
    if wanted.operation is not None:
        query = query.where(_BY_OPERATION[wanted.operation])
    if wanted.subject is not None:
        requester = (TicketRecord.basis == BASIS_CONSENT) & (TicketRecord.client_id == wanted.subject)
        resident = (TicketRecord.basis == BASIS_HOLDER) & (TicketRecord.resident_id == wanted.subject)
        query = query.where(requester | resident)
    return [_allowed(row) for row in session.scalars(query)]


def _allowed(row: TicketRecord) -> dict[str, Any]:
    own = row.basis == BASIS_HOLDER
    return {
        "position": row.position, "at_us": row.issued_us, "outcome": ALLOWED,
        "operation": OWN if own else RESOLVE if row.act is None else GATEWAY,
        "role": RESIDENT if own else REQUESTER, "subject": row.resident_id if own else row.client_id, "act": row.act,
        "uri": row.uri, "consent_id": row.consent_id, "jti": row.jti,
    }  # fmt: skip


def _tickets_of(session: Session, resident_id: str, window: Window) -> list[dict[str, Any]]:
    query = _windowed(select(TicketRecord), TicketRecord, TicketRecord.issued_us, window)
    return [
        _activity(row.position, row.issued_us, "ticket-issued", row.consent_id, row.uri, row.client_id)
        for row in session.scalars(query.where(TicketRecord.resident_id == resident_id))
    ]


def _consent_events_of(session: Session, resident_id: str, window: Window) -> list[dict[str, Any]]:
    query = _windowed(select(ConsentEvent), ConsentEvent, ConsentEvent.at_us, window)
    return [
        _activity(row.position, row.at_us, f"consent-{row.kind}", row.consent_id, None, row.client_id)
        for row in session.scalars(query.where(ConsentEvent.resident_id == resident_id))
    ]


def _link_events_of(session: Session, resident_id: str, window: Window) -> list[dict[str, Any]]:
    query = _windowed(select(LinkEvent), LinkEvent, LinkEvent.at_us, window)
    return [
        _activity(row.position, row.at_us, f"document-{row.kind}", None, row.uri, None)
        for row in session.scalars(query.where(LinkEvent.resident_id == resident_id))
    ]


def _activity(
    position: int, at_us: int, kind: str, consent_id: str | None, uri: str | None, client_id: str | None
) -> dict[str, Any]:
    return {
        "position": position, "at_us": at_us, "kind": kind, "consent_id": consent_id, "uri": uri, "client_id": client_id,
    }  # fmt: skip


def _names(session: Session, client_ids: set[str]) -> dict[str, str]:
    rows = session.execute(select(Client.client_id, Client.name).where(Client.client_id.in_(client_ids)))
    return {row.client_id: row.name for row in rows}
