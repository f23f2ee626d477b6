"""Stopping an issuer, a node or a requester at once, with the tickets that it can still be read with.

Tickets are issued under a shared lock and a suspension holds the same lock alone: when it has it, every ticket from before is
recorded and none is on its way, and whoever asks after it finds the suspension. Only then is the clock read (see ``consents``).
Tickets on the basis of being the holder name no consent, so no page can void them; they end by themselves within minutes.
"""

from collections.abc import Callable, Iterable

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from locker.db.models import Client, Consent, Issuer, Link, Node, TicketRecord
from locker.db.session import Database, lock_issuing
from locker.services.directory import SUSPENDED
from locker.services.principal import REQUESTER
from locker.services.revocations import Revocations
from node.contract.problems import NotFound
from node.contract.revocation import MAX_ENTRIES, RevocationEntry
from node.contract.tickets import MAX_LIFETIME, SKEW
from node.contract.times import SECOND

_PAGE = 1000
_LONGEST = (MAX_LIFETIME + 2 * SKEW) * SECOND


class Suspensions:
    """Suspending; each way returns how many consents had tickets that are void now."""

    def __init__(self, database: Database, revocations: Revocations, *, clock: Callable[[], int]) -> None:
        self._database = database
        self._revocations = revocations
        self._clock = clock

    def issuer(self, issuer: str) -> int:
        """Stop an issuer: no tickets, pushes or gateway reads for it until it is approved again; raises NotFound."""
        with self._database.write() as session:
            lock_issuing(session, alone=True)
            row = session.get(Issuer, issuer.lower())
            if row is None:
                raise NotFound("this issuer is not in the directory")
            row.state, row.changed_us = SUSPENDED, self._clock()
            # Asked of each record by itself: an issuer has far more documents than tickets that are out.
            its_own = select(Link.uri_key).where(
                Link.uri_key == func.lower(TicketRecord.uri), Link.issuer_key == issuer.lower()
            )
            return self._void(session, its_own.correlate(TicketRecord).exists())

    def node(self, node_id: str) -> int:
        """Stop a node with all its issuers; its access tokens are worth nothing from now on. Raises NotFound."""
        with self._database.write() as session:
            lock_issuing(session, alone=True)
            row, client = session.get(Node, node_id), session.get(Client, node_id)
            if row is None or client is None:
                raise NotFound("this node is not in the directory")
            row.state = client.state = SUSPENDED
            return self._void(session, TicketRecord.node_id == node_id)

    def requester(self, client_id: str) -> int:
        """Stop a requester; its access tokens are worth nothing from now on. Raises NotFound."""
        with self._database.write() as session:
            lock_issuing(session, alone=True)
            client = session.get(Client, client_id)
            if client is None or client.kind != REQUESTER:
                raise NotFound("there is no such requester")
            client.state = SUSPENDED
            return self._void(session, TicketRecord.client_id == client_id)

    def _void(self, session: Session, concerned: ColumnElement[bool]) -> int:
        """Void every ticket under a consent that may still be alive, and publish that in the caller's transaction."""
        session.flush()
        alive = _alive(session, concerned, self._clock())
        ids: list[str] = []
        for part in _parts(sorted(alive), _PAGE):
            # Locked in one order; a consent that changes at this moment changes before us or after.
            consents = select(Consent.consent_id).where(Consent.consent_id.in_(part)).order_by(Consent.consent_id)
            ids += session.scalars(consents.with_for_update())
        moment = max([self._clock(), *alive.values()])
        for part in _parts(ids, _PAGE):
            session.execute(
                update(Consent)
                .where(Consent.consent_id.in_(part), Consent.void_before_us < moment)
                .values(void_before_us=moment)
            )
        for part in _parts(ids, MAX_ENTRIES):
            entries = [RevocationEntry(consent_id, moment) for consent_id in part]
            self._revocations.publish(session, entries, moment)
        return len(ids)


def _alive(session: Session, concerned: ColumnElement[bool], now_us: int) -> dict[str, int]:
    """Return the consents of tickets that may be alive, with the newest ticket's moment.

    Records are read backwards until none of a page can be alive: tickets live for minutes, records for years.
    """
    found: dict[str, int] = {}
    position = None
    while True:
        columns = (TicketRecord.position, TicketRecord.consent_id, TicketRecord.issued_us, TicketRecord.expires_us)
        query = select(*columns, concerned.label("concerned")).order_by(TicketRecord.position.desc()).limit(_PAGE)
        if position is not None:
            query = query.where(TicketRecord.position < position)
        rows = session.execute(query).all()
        for row in rows:
            if row.concerned and row.consent_id and row.expires_us + SKEW * SECOND > now_us:
                found[row.consent_id] = max(row.issued_us, found.get(row.consent_id, 0))
        if len(rows) < _PAGE or max(row.issued_us for row in rows) + _LONGEST < now_us:
            return found
        position = rows[-1].position


def _parts(ids: Iterable[str], size: int) -> list[list[str]]:
    rows = list(ids)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
