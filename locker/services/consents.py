"""Consents: given, narrowed and revoked by the resident; every change is a signed artefact and an event that stays.

A change that takes something away first locks the consent's row and only then reads the clock. Tickets are dated after the
row was read under a shared lock (see ``tickets``), so every ticket from before the change is dated at or before it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from locker.db.models import Client, Consent, ConsentEvent, ConsentItem, Link, TicketRecord
from locker.db.session import Database, advance
from locker.services.links import ACTIVE
from locker.services.principal import AUDITOR, REQUESTER, RESIDENT, Principal
from locker.services.references import reference_for
from locker.services.revocations import Revocations
from node.contract.consents import PURPOSES, ConsentArtefact, artefact_digest, issue_artefact
from node.contract.consents import ConsentItem as ArtefactItem
from node.contract.identifiers import uuid7
from node.contract.problems import BadRequest, Conflict, DocumentNotFound, NotFound, UnacceptableContent
from node.contract.revocation import RevocationEntry
from node.contract.signing import SigningKey
from node.contract.times import DAY
from node.contract.uri import MAX_URI

REVOKED = "revoked"
EXPIRED = "expired"
SPENT = "spent"
STATES = (ACTIVE, REVOKED, EXPIRED, SPENT)

MAX_ITEMS = 100


@dataclass(frozen=True, slots=True)
class NewConsent:
    """What a resident agrees to."""

    client_id: str
    uris: tuple[str, ...]
    purpose: str
    purpose_text: str
    expires_us: int
    once: bool = False
    representations: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ConsentView:
    """A consent as it stands."""

    consent_id: str
    state: str
    revision: int
    client_id: str
    requester: str
    items: tuple[tuple[str, tuple[str, ...] | None], ...]
    purpose: str
    purpose_text: str
    once: bool
    given_us: int
    changed_us: int
    expires_us: int


class Consents:
    """Giving, changing and reading consents."""

    def __init__(
        self,
        database: Database,
        revocations: Revocations,
        *,
        iss: str,
        key: SigningKey,
        max_days: int,
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._revocations = revocations
        self._iss = iss
        self._key = key
        self._max_age = max_days * DAY
        self._clock = clock

    def give(self, resident_id: str, new: NewConsent) -> ConsentView:
        """Record a consent; raises UnacceptableContent, NotFound for an unknown requester, DocumentNotFound for another's document."""
        now_us = self._clock()
        _require_acceptable(new, now_us, self._max_age)
        with self._database.write() as session:
            client = session.get(Client, new.client_id)
            if client is None or client.kind != REQUESTER or client.state != ACTIVE:
                raise NotFound("no such requester is registered here")
            links = _own_links(session, resident_id, new.uris)
            reps = None if new.representations is None else json.dumps(list(new.representations))
            consent = Consent(
                consent_id=uuid7(), resident_id=resident_id, client_id=new.client_id, state=ACTIVE, revision=1,
                purpose=new.purpose, purpose_text=new.purpose_text, once=new.once, artefact_digest="",
                given_us=now_us, changed_us=now_us, expires_us=new.expires_us, void_before_us=0,
            )  # fmt: skip
            items = [ConsentItem(uri_key=link.uri_key, uri=link.uri, representations=reps) for link in links]
            self._record(session, consent, items, client.name, "given", None)
            for item in items:
                item.consent_id = consent.consent_id
            session.add_all(items)
            session.flush()
            return _view(consent, items, client.name, now_us)

    def narrow(
        self, resident_id: str, consent_id: str, uris: Sequence[str] | None, expires_us: int | None
    ) -> ConsentView:
        """Take documents out or bring the end forward; tickets given before are void.

        Raises NotFound, Conflict for a consent that has ended, UnacceptableContent for anything that is not less.
        """
        with self._database.write() as session:
            consent, now_us = self._lock(session, resident_id, consent_id)
            items = _items(session, consent_id)
            if _state(consent, items, now_us) in (REVOKED, EXPIRED):
                raise Conflict("this consent has ended")
            kept = _kept(items, uris)
            if expires_us is not None:
                if not now_us < expires_us <= consent.expires_us:
                    raise UnacceptableContent("a consent is narrowed to an end that is earlier and yet to come")
                consent.expires_us = expires_us
            gone = [item.uri_key for item in items if item not in kept]
            session.execute(
                delete(ConsentItem).where(ConsentItem.consent_id == consent_id, ConsentItem.uri_key.in_(gone))
            )
            return self._change(session, consent, kept, "narrowed", now_us)

    def revoke(self, resident_id: str | None, consent_id: str) -> ConsentView:
        """End a consent, once and for all; tickets given before are void. Without a resident the operator does it.

        Raises NotFound. Revoking twice changes nothing.
        """
        with self._database.write() as session:
            consent, now_us = self._lock(session, resident_id, consent_id)
            items = _items(session, consent_id)
            if consent.state == REVOKED:
                return _view(consent, items, _requester(session, consent), now_us)
            consent.state = REVOKED
            return self._change(session, consent, items, "revoked", now_us)

    def _lock(self, session: Session, resident_id: str | None, consent_id: str) -> tuple[Consent, int]:
        """Lock a consent's row, then read the clock: the order is what makes the moment of voiding right.

        The moment is never before that of a ticket already given, whatever another machine's clock said.
        """
        mine = update(Consent).where(Consent.consent_id == consent_id)
        if resident_id is not None:
            mine = mine.where(Consent.resident_id == resident_id)
        locked = session.execute(mine.values(revision=Consent.revision).returning(Consent.consent_id)).scalar()
        if locked is None:
            raise NotFound("there is no such consent")
        last = select(func.max(TicketRecord.issued_us)).where(TicketRecord.consent_id == consent_id)
        now_us = max(self._clock(), session.scalar(last) or 0)
        return session.scalars(select(Consent).where(Consent.consent_id == consent_id)).one(), now_us

    def _change(
        self, session: Session, consent: Consent, items: Sequence[ConsentItem], kind: str, now_us: int
    ) -> ConsentView:
        before = consent.artefact_digest
        consent.revision, consent.changed_us = consent.revision + 1, now_us
        consent.void_before_us = max(now_us, consent.void_before_us)
        requester = _requester(session, consent)
        self._record(session, consent, items, requester, kind, before)
        entry = RevocationEntry(consent.consent_id, consent.void_before_us)
        self._revocations.publish(session, (entry,), now_us)
        return _view(consent, items, requester, now_us)

    def _record(
        self,
        session: Session,
        consent: Consent,
        items: Sequence[ConsentItem],
        requester: str,
        kind: str,
        previous: str | None,
    ) -> None:
        """Sign the consent as it now stands and add the event, in the caller's transaction."""
        artefact = ConsentArtefact(
            iss=self._iss, consent_id=consent.consent_id, revision=consent.revision, previous=previous,
            resident=reference_for(session, consent.client_id, consent.resident_id), client_id=consent.client_id,
            requester=requester, items=tuple(ArtefactItem(item.uri, _representations(item)) for item in items),
            purpose=consent.purpose, purpose_text=consent.purpose_text, once=consent.once, state=consent.state,
            given_us=consent.given_us, changed_us=consent.changed_us, expires_us=consent.expires_us,
        )  # fmt: skip
        token = issue_artefact(artefact, self._key)
        consent.artefact_digest = artefact_digest(token)
        position = advance(session, "ledger")
        if kind == "given":
            consent.position = position
            session.add(consent)
            session.flush()
        session.add(
            ConsentEvent(
                position=position, consent_id=consent.consent_id, resident_id=consent.resident_id,
                client_id=consent.client_id, revision=consent.revision, kind=kind, artefact=token,
                at_us=consent.changed_us,
            )
        )  # fmt: skip
        session.flush()

    def read(self, principal: Principal, consent_id: str) -> ConsentView:
        """Return a consent to its resident, its requester or an auditor; raises NotFound for everybody else."""
        with self._database.read() as session:
            consent = _visible(session, principal, consent_id)
            return _view(consent, _items(session, consent_id), _requester(session, consent), self._clock())

    def artefact(self, principal: Principal, consent_id: str) -> str:
        """Return a consent's newest artefact as signed; raises NotFound."""
        with self._database.read() as session:
            consent = _visible(session, principal, consent_id)
            query = select(ConsentEvent.artefact).where(ConsentEvent.consent_id == consent_id)
            return str(session.scalars(query.where(ConsentEvent.revision == consent.revision)).one())

    def events(self, principal: Principal, consent_id: str) -> list[dict[str, Any]]:
        """Return a consent's events, oldest first; raises NotFound."""
        with self._database.read() as session:
            _visible(session, principal, consent_id)
            rows = session.scalars(
                select(ConsentEvent).where(ConsentEvent.consent_id == consent_id).order_by(ConsentEvent.revision)
            )
            return [
                {
                    "revision": row.revision,
                    "kind": row.kind,
                    "at_us": row.at_us,
                    "artefact": artefact_digest(row.artefact),
                }
                for row in rows
            ]

    def list(
        self,
        principal: Principal,
        *,
        state: str | None = None,
        client_id: str | None = None,
        uri: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> tuple[list[ConsentView], str | None]:
        """Return one page of the consents that a caller may see, newest first, and the next cursor; raises BadRequest."""
        now_us = self._clock()
        query = _mine(select(Consent), principal).order_by(Consent.position.desc())
        if client_id is not None:
            query = query.where(Consent.client_id == client_id)
        if uri is not None:
            covering = select(ConsentItem.consent_id).where(ConsentItem.uri_key == uri.lower())
            query = query.where(Consent.consent_id.in_(covering))
        if state is not None:
            query = query.where(_in_state(state, now_us))
        if cursor is not None:
            if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
                raise BadRequest("this cursor was not given out here")
            query = query.where(Consent.position < int(cursor))
        with self._database.read() as session:
            rows = session.scalars(query.limit(limit + 1)).all()
            page = rows[:limit]
            views = [_view(row, _items(session, row.consent_id), _requester(session, row), now_us) for row in page]
        return views, str(page[-1].position) if len(rows) > limit else None


def _require_acceptable(new: NewConsent, now_us: int, max_age: int) -> None:
    if new.purpose not in PURPOSES:
        raise UnacceptableContent("the purpose is not one of the list")
    if not 1 <= len(new.uris) <= MAX_ITEMS or len({uri.lower() for uri in new.uris}) != len(new.uris):
        raise UnacceptableContent("a consent names 1 to 100 different documents")
    if not now_us < new.expires_us <= now_us + max_age:
        raise UnacceptableContent("the consent's end has passed or is further away than this locker allows")


def _own_links(session: Session, resident_id: str, uris: Sequence[str]) -> list[Link]:
    keys = [uri.lower() for uri in uris if len(uri) <= MAX_URI]
    mine = (Link.resident_id == resident_id) & (Link.state == ACTIVE)
    found = {link.uri_key: link for link in session.scalars(select(Link).where(Link.uri_key.in_(keys), mine))}
    if len(found) != len(uris):
        raise DocumentNotFound("a document of this consent is not among the resident's own")
    return [found[key] for key in keys]


def _kept(items: Sequence[ConsentItem], uris: Sequence[str] | None) -> list[ConsentItem]:
    if uris is None:
        return list(items)
    wanted = {uri.lower() for uri in uris}
    if not wanted or not wanted <= {item.uri_key for item in items}:
        raise UnacceptableContent("a consent is narrowed to some of its own documents; to none means to revoke it")
    return [item for item in items if item.uri_key in wanted]


def _items(session: Session, consent_id: str) -> Sequence[ConsentItem]:
    return session.scalars(
        select(ConsentItem).where(ConsentItem.consent_id == consent_id).order_by(ConsentItem.uri_key)
    ).all()


def _requester(session: Session, consent: Consent) -> str:
    return str(session.scalars(select(Client.name).where(Client.client_id == consent.client_id)).one())


def _mine(query: Any, principal: Principal) -> Any:
    if principal.role == RESIDENT:
        return query.where(Consent.resident_id == principal.subject)
    if principal.role == REQUESTER:
        return query.where(Consent.client_id == principal.subject)
    if principal.role == AUDITOR:
        return query
    return query.where(Consent.consent_id.is_(None))


def _visible(session: Session, principal: Principal, consent_id: str) -> Consent:
    consent: Consent | None = session.scalars(
        _mine(select(Consent).where(Consent.consent_id == consent_id), principal)
    ).first()
    if consent is None:
        raise NotFound("there is no such consent")
    return consent


def _in_state(state: str, now_us: int) -> Any:
    left = select(ConsentItem.consent_id).where(ConsentItem.used_jti.is_(None))
    spent = Consent.once & Consent.consent_id.not_in(left)
    running = (Consent.state == ACTIVE) & (Consent.expires_us > now_us)
    return {
        REVOKED: Consent.state == REVOKED,
        EXPIRED: (Consent.state == ACTIVE) & (Consent.expires_us <= now_us),
        SPENT: running & spent,
        ACTIVE: running & ~spent,
    }[state]


def _state(consent: Consent, items: Sequence[ConsentItem], now_us: int) -> str:
    if consent.state == REVOKED:
        return REVOKED
    if consent.expires_us <= now_us:
        return EXPIRED
    return SPENT if consent.once and all(item.used_jti for item in items) else ACTIVE


def _representations(item: ConsentItem) -> tuple[str, ...] | None:
    return None if item.representations is None else tuple(json.loads(item.representations))


def _view(consent: Consent, items: Sequence[ConsentItem], requester: str, now_us: int) -> ConsentView:
    return ConsentView(
        consent_id=consent.consent_id, state=_state(consent, items, now_us), revision=consent.revision,
        client_id=consent.client_id, requester=requester,
        items=tuple((item.uri, _representations(item)) for item in items), purpose=consent.purpose,
        purpose_text=consent.purpose_text, once=consent.once, given_us=consent.given_us,
        changed_us=consent.changed_us, expires_us=consent.expires_us,
    )  # fmt: skip
