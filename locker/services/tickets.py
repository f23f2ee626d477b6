"""Issuing tickets: who asks, what they may have, and the record that is durable before a ticket or a refusal leaves.

All requests that wait are answered in one transaction. It reads the consents under a shared lock and only then the clock,
so a change to a consent (which locks the row before it reads the clock) voids every ticket from before it and none after.
Tokens, clients, issuers and nodes are read in the same transaction, under the lock that a suspension holds alone: suspending
one of them acts at once, and finds every ticket from before recorded (see ``suspensions``). The same transaction records what
it refuses (see ``attempts``), requests that were at fault before they came here among it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, insert, select, update

from locker.db.models import LEDGER, Consent, ConsentItem, DocType, Issuer, Link, Node, TicketRecord
from locker.db.prepared import PreparedInsert, PreparedSelect
from locker.db.session import Database, advance, database_faults, lock_issuing
from locker.services.attempts import OWN, Asked, AttemptRow, Attempts, write_attempts
from locker.services.directory import APPROVED, GATEWAY_ONLY
from locker.services.links import ACTIVE
from locker.services.principal import REQUESTER, RESIDENT, Principal
from locker.services.tokens import Caller, callers_of, principal_of
from node.contract.identifiers import uuid7
from node.contract.problems import ConsentRequired, DocumentNotFound, Forbidden, OutOfScope, ProblemError
from node.contract.signing import TICKET, SigningKey
from node.contract.tickets import BASIS_CONSENT, BASIS_HOLDER, Ticket, issue_ticket
from node.contract.times import SECOND

ACT_GATEWAY = "gateway"
OWN_PURPOSE = "own"


class _Link(NamedTuple):
    """A document with its issuer and node as they stand, and what a consent says of it; in the order of ``_LINK``."""

    uri_key: str
    uri: str
    issuer: str
    doc_type: str
    doc_id: str
    link_state: str
    resident_id: str
    holder_ref: str
    node_id: str
    issuer_state: str
    issuer_node: str | None
    node_state: str
    base_url: str
    doc_type_key: str | None
    exposure: str
    consent_id: str | None = None
    representations: str | None = None


class _Consent(NamedTuple):
    """A consent as it stands; in the order of ``_CONSENTS``."""

    consent_id: str
    resident_id: str
    client_id: str
    state: str
    purpose: str
    once: bool
    artefact_digest: str
    expires_us: int
    void_before_us: int


@dataclass(frozen=True, slots=True)
class TicketRequest:
    """A wish for tickets by the holder of an access token: under a consent, or for one's own documents without one.

    ``fault`` is what was found wrong before it came here: it is refused with that, unless its caller may not ask at all, who
    learns only that. ``jti`` says that the fault came after a ticket was given.
    """

    token_hash: str
    uris: tuple[str, ...]
    asked: Asked
    consent_id: str | None = None
    representation: str | None = None
    act: str | None = None
    fault: ProblemError | None = None
    jti: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A signed ticket and the node that takes it."""

    uri: str
    node_id: str
    base_url: str
    ticket: str
    expires_us: int
    jti: str


Outcome = Granted | ProblemError


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the requests of a batch are decided on, read under its locks."""

    callers: Mapping[str, Caller]
    consents: Mapping[str, _Consent]
    items: Mapping[tuple[str | None, str], _Link]
    own: Mapping[str, _Link]
    now_us: int


@dataclass(slots=True)
class _Plan:
    """What one transaction has decided so far: outcomes by request, tickets still to be signed, rows still to be written."""

    outcomes: list[list[Outcome | Ticket] | ProblemError] = field(default_factory=list)
    records: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)


class Tickets:
    """The only signer of tickets."""

    def __init__(
        self,
        database: Database,
        attempts: Attempts,
        *,
        iss: str,
        key: SigningKey,
        lifetime: int,
        clock: Callable[[], int],
    ) -> None:
        """``lifetime`` is in seconds."""
        if key.typ != TICKET:
            raise ValueError("not a ticket key")
        self._database = database
        self._attempts = attempts
        self._iss = iss
        self._key = key
        self._lifetime = lifetime
        self._clock = clock

    def issue(self, requests: list[TicketRequest]) -> Sequence[list[Outcome] | BaseException]:
        """Answer all waiting requests: per request an outcome for each URI, or the problem of the whole request.

        Raises ServiceUnavailable when nothing can be recorded, and so nothing answered.
        """
        with database_faults(), self._database.write_connection() as connection:
            lock_issuing(connection, alone=False)
            plan = self._decide(connection, requests)
            _write(connection, plan)
        return [self._sign(outcomes, plan) for outcomes in plan.outcomes]

    def _sign(self, outcomes: list[Outcome | Ticket] | ProblemError, plan: _Plan) -> list[Outcome] | BaseException:
        """Sign what was decided, after the records are durable and no lock is held."""
        if isinstance(outcomes, ProblemError):
            return outcomes
        return [self._granted(row, plan.places[row.aud]) if isinstance(row, Ticket) else row for row in outcomes]

    def _granted(self, ticket: Ticket, base_url: str) -> Granted:
        uri = f"{ticket.issuer}-{ticket.doc_type}-{ticket.doc_id}"
        return Granted(uri, ticket.aud, base_url, issue_ticket(ticket, self._key), ticket.exp * SECOND, ticket.jti)

    def _decide(self, connection: Connection, requests: Sequence[TicketRequest]) -> _Plan:
        facts, plan = self._read(connection, requests), _Plan()
        for request in requests:
            try:
                outcomes = self._outcomes(connection, plan, request, facts)
            except ProblemError as error:
                plan.outcomes.append(self._refused(plan, request, facts, error, request.uris))
            else:
                for uri, outcome in zip(request.uris, outcomes, strict=True):
                    if isinstance(outcome, ProblemError):
                        self._refused(plan, request, facts, outcome, (uri,))
                plan.outcomes.append(outcomes)
        return plan

    def _read(self, connection: Connection, requests: Sequence[TicketRequest]) -> _Facts:
        callers = callers_of(connection, {request.token_hash for request in requests})
        consents = _consents(connection, {request.consent_id for request in requests if request.consent_id})
        items = _items(connection, requests, consents)
        own = _own_links(connection, [request for request in requests if request.asked.operation == OWN])
        return _Facts(callers, consents, items, own, self._clock())  # after the consents are locked, see above

    def _refused(
        self, plan: _Plan, request: TicketRequest, facts: _Facts, error: ProblemError, uris: Sequence[str]
    ) -> ProblemError:
        """Plan the rows of a refusal and return what is answered."""
        answer, rows = self._attempts.refuse(
            request.asked, facts.callers.get(request.token_hash), error, facts.now_us, uris=uris, act=request.act,
            consent_id=request.consent_id, jti=request.jti,
        )  # fmt: skip
        plan.attempts += rows
        return answer

    def _outcomes(
        self, connection: Connection, plan: _Plan, request: TicketRequest, facts: _Facts
    ) -> list[Outcome | Ticket]:
        if request.fault is not None and (request.jti or not request.token_hash):
            raise request.fault
        principal = principal_of(facts.callers.get(request.token_hash), facts.now_us)
        own = request.asked.operation == OWN
        if own and principal.role != RESIDENT:
            raise Forbidden("only a resident reads on the basis of being the holder")
        if not own and principal.role != REQUESTER:
            raise Forbidden("only a requester reads under a consent")
        if request.fault is not None:
            raise request.fault
        if own:
            return self._own(plan, request, principal, facts)
        return self._consented(connection, plan, request, principal, facts)

    def _own(self, plan: _Plan, request: TicketRequest, principal: Principal, facts: _Facts) -> list[Outcome | Ticket]:
        outcomes: list[Outcome | Ticket] = []
        for uri in request.uris:
            link = facts.own.get(uri.lower())
            if link is None or link.resident_id != principal.subject or link.link_state != ACTIVE:
                outcomes.append(DocumentNotFound())
            elif not _in_scope(link):
                outcomes.append(OutOfScope())
            elif _needs_gateway(link, request):
                outcomes.append(_through_the_gateway())
            else:
                ends_us = facts.now_us + self._lifetime * SECOND
                ticket = self._ticket(link, request, link.holder_ref, None, facts.now_us, ends_us)
                outcomes.append(_recorded(plan, ticket, link))
        return outcomes

    def _consented(
        self, connection: Connection, plan: _Plan, request: TicketRequest, principal: Principal, facts: _Facts
    ) -> list[Outcome | Ticket]:
        consent = facts.consents.get(request.consent_id or "")
        refusal = _refusal(consent, principal, facts.now_us)
        if refusal is not None or consent is None:
            return [refusal or ConsentRequired() for _ in request.uris]
        outcomes: list[Outcome | Ticket] = []
        for uri in request.uris:
            item = facts.items.get((consent.consent_id, uri.lower()))
            problem = _item_refusal(item, consent, request)
            if problem is not None or item is None:
                outcomes.append(problem or ConsentRequired())
                continue
            issued_us = max(facts.now_us, consent.void_before_us + 1)
            ends_us = min(issued_us + self._lifetime * SECOND, consent.expires_us)
            if ends_us // SECOND <= issued_us // SECOND:  # tickets end at whole seconds, and never after their consent
                outcomes.append(ConsentRequired("the consent has expired", reason="expired"))
                continue
            ticket = self._ticket(item, request, principal.subject, consent, issued_us, ends_us)
            if not consent.once or _use(connection, ticket, item):
                outcomes.append(_recorded(plan, ticket, item))
            else:
                outcomes.append(self._again(connection, plan, request, consent, item, facts.now_us))
        return outcomes

    def _ticket(
        self,
        link: _Link,
        request: TicketRequest,
        client_id: str,
        consent: _Consent | None,
        issued_us: int,
        ends_us: int,
    ) -> Ticket:
        allowed = None if consent is None or link.representations is None else json.loads(link.representations)
        if request.representation is not None:
            allowed = [request.representation]
        return Ticket(
            iss=self._iss, aud=link.node_id, client_id=client_id, act=request.act, issuer=link.issuer,
            doc_type=link.doc_type, doc_id=link.doc_id, version=None,
            representations=None if allowed is None else tuple(allowed), holder_ref=link.holder_ref,
            basis=BASIS_HOLDER if consent is None else BASIS_CONSENT,
            consent_id=None if consent is None else consent.consent_id,
            artefact=None if consent is None else consent.artefact_digest,
            purpose=OWN_PURPOSE if consent is None else consent.purpose, jti=uuid7(), iat=issued_us // SECOND,
            exp=ends_us // SECOND, issued_us=issued_us,
        )  # fmt: skip

    def _again(
        self,
        connection: Connection,
        plan: _Plan,
        request: TicketRequest,
        consent: _Consent,
        item: _Link,
        now_us: int,
    ) -> Outcome | Ticket:
        """The gateway goes on with the one ticket of a consent for once: HEAD, ranges and retries are one reading."""
        if request.act == ACT_GATEWAY:
            used = select(ConsentItem.used_jti).where(
                ConsentItem.consent_id == consent.consent_id, ConsentItem.uri_key == item.uri_key
            )
            record = connection.execute(
                select(*TicketRecord.__table__.c).where(TicketRecord.jti == used.scalar_subquery())
            ).one_or_none()
            if record is None:  # issued in this very transaction, not written yet
                return ConsentRequired("this consent was good for one ticket, which is being issued", reason="spent")
            alive = record.expires_us > now_us and record.issued_us > consent.void_before_us
            # A ticket is for the node that it names; the document may have moved to another since.
            if record.act == ACT_GATEWAY and alive and record.node_id == item.node_id:
                plan.places[item.node_id] = item.base_url
                return self._from_record(record, item)
        return ConsentRequired("this consent was good for one ticket, which has been issued", reason="spent")

    def _from_record(self, record: Any, link: _Link) -> Ticket:
        reps = None if record.representations is None else tuple(json.loads(record.representations))
        return Ticket(
            iss=self._iss, aud=record.node_id, client_id=record.client_id, act=record.act, issuer=link.issuer,
            doc_type=link.doc_type, doc_id=link.doc_id, version=None, representations=reps,
            holder_ref=record.holder_ref, basis=record.basis, consent_id=record.consent_id, artefact=record.artefact,
            purpose=record.purpose, jti=record.jti, iat=record.issued_us // SECOND, exp=record.expires_us // SECOND,
            issued_us=record.issued_us,
        )  # fmt: skip


# What every batch runs is written once, and kept as the driver's text.
_LINK = (
    Link.uri_key, Link.uri, Link.issuer, Link.doc_type, Link.doc_id, Link.state, Link.resident_id, Link.holder_ref,
    Link.node_id, Issuer.state, Issuer.node_id, Node.state, Node.base_url, DocType.doc_type_key,
    Node.exposure,
)  # fmt: skip
_RECORD = PreparedInsert(insert(TicketRecord), TicketRecord.__table__.columns.keys())
_CONSENTS = PreparedSelect(
    select(
        Consent.consent_id, Consent.resident_id, Consent.client_id, Consent.state, Consent.purpose, Consent.once,
        Consent.artefact_digest, Consent.expires_us, Consent.void_before_us,
    )
    .where(Consent.consent_id.in_(bindparam("ids", expanding=True)))
    .order_by(Consent.consent_id)
    .with_for_update(read=True),
    "ids",
)  # fmt: skip
_LOCK_ITEMS = PreparedSelect(
    select(ConsentItem.uri_key)
    .where(ConsentItem.consent_id.in_(bindparam("ids", expanding=True)))
    .order_by(ConsentItem.consent_id, ConsentItem.uri_key)
    .with_for_update(),
    "ids",
)
_LINK_JOIN = (
    Link.__table__.join(Issuer.__table__, Issuer.issuer_key == Link.issuer_key)
    .join(Node.__table__, Node.node_id == Link.node_id)
    .outerjoin(DocType.__table__, (DocType.issuer_key == Link.issuer_key) & (DocType.doc_type_key == Link.doc_type_key))
)
_ITEMS = PreparedSelect(
    select(*_LINK, ConsentItem.consent_id, ConsentItem.representations)
    .select_from(_LINK_JOIN.join(ConsentItem.__table__, ConsentItem.uri_key == Link.uri_key))
    .where(ConsentItem.consent_id.in_(bindparam("ids", expanding=True)))
    .where(ConsentItem.uri_key.in_(bindparam("keys", expanding=True))),
    "ids",
    "keys",
)
_OWN_LINKS = PreparedSelect(
    select(*_LINK).select_from(_LINK_JOIN).where(Link.uri_key.in_(bindparam("keys", expanding=True))), "keys"
)


def _write(connection: Connection, plan: _Plan) -> None:
    """Write what was decided, all of it numbered in one step."""
    if plan.records or plan.attempts:
        first = advance(connection, LEDGER, len(plan.records) + len(plan.attempts))
        _RECORD.run(connection, [(position, *record) for position, record in enumerate(plan.records, first)])
        write_attempts(connection, plan.attempts, first + len(plan.records))


def _consents(connection: Connection, ids: Iterable[str]) -> dict[str, _Consent]:
    """Read consents under a shared lock (SQLite: the transaction holds the write lock already)."""
    wanted = list(ids)
    if not wanted:
        return {}
    consents = {row[0]: _Consent._make(row) for row in _CONSENTS.rows(connection, wanted)}
    once = [consent_id for consent_id, consent in consents.items() if consent.once]
    if once:
        # Whose one ticket is at stake: locked in one order, so that two processes cannot wait for each other.
        _LOCK_ITEMS.rows(connection, once)
    return consents


def _items(
    connection: Connection, requests: Sequence[TicketRequest], consents: Mapping[str, _Consent]
) -> dict[tuple[str | None, str], _Link]:
    """Read what the wanted consents cover of the wanted documents, with the state of issuer and node."""
    keys = {uri.lower() for request in requests if request.consent_id in consents for uri in request.uris}
    if not keys:
        return {}
    links = map(_Link._make, _ITEMS.rows(connection, list(consents), list(keys)))
    return {(link.consent_id, link.uri_key): link for link in links}


def _own_links(connection: Connection, requests: Sequence[TicketRequest]) -> dict[str, _Link]:
    keys = {uri.lower() for request in requests for uri in request.uris}
    if not keys:
        return {}
    return {row[0]: _Link(*row) for row in _OWN_LINKS.rows(connection, list(keys))}


def _refusal(consent: _Consent | None, principal: Principal, now_us: int) -> ConsentRequired | None:
    """Say why a consent allows nothing; another's consent looks like none."""
    if consent is None or consent.client_id != principal.subject:
        return ConsentRequired(reason="no-consent")
    if consent.state != ACTIVE:
        return ConsentRequired("the consent was revoked", reason="revoked")
    if consent.expires_us <= now_us:
        return ConsentRequired("the consent has expired", reason="expired")
    return None


def _item_refusal(item: _Link | None, consent: _Consent, request: TicketRequest) -> ProblemError | None:
    if item is None or item.resident_id != consent.resident_id:
        return ConsentRequired(reason="not-covered")
    if item.link_state != ACTIVE:
        return DocumentNotFound("the issuer has withdrawn this document")
    if not _in_scope(item):
        return OutOfScope("the issuer is suspended")
    if _needs_gateway(item, request):
        return _through_the_gateway()
    if (
        request.representation is not None
        and item.representations is not None
        and request.representation not in json.loads(item.representations)
    ):
        return ConsentRequired("the consent does not cover this representation", reason="representation")
    return None


def _needs_gateway(link: _Link, request: TicketRequest) -> bool:
    """Tell whether a ticket would be of no use: the node answers nobody but the gateway."""
    return link.exposure == GATEWAY_ONLY and request.act != ACT_GATEWAY


def _through_the_gateway() -> Forbidden:
    return Forbidden("This document's node is read through the access gateway only", reason="gateway-only")


def _in_scope(link: _Link) -> bool:
    approved = link.issuer_state == APPROVED and link.node_state == APPROVED
    return approved and link.issuer_node == link.node_id and link.doc_type_key is not None


def _use(connection: Connection, ticket: Ticket, item: _Link) -> bool:
    """Take the one ticket of an item; of two that try at once one has it."""
    mine = (ConsentItem.consent_id == ticket.consent_id) & (ConsentItem.uri_key == item.uri_key)
    taken = update(ConsentItem).where(mine, ConsentItem.used_jti.is_(None)).values(used_jti=ticket.jti)
    return connection.execute(taken).rowcount == 1


def _recorded(plan: _Plan, ticket: Ticket, link: _Link) -> Ticket:
    plan.places[ticket.aud] = link.base_url
    reps = None if ticket.representations is None else json.dumps(list(ticket.representations))
    plan.records.append((
        ticket.jti, ticket.client_id, ticket.act, ticket.aud, link.uri, link.resident_id, ticket.holder_ref,
        ticket.basis, ticket.consent_id, ticket.artefact, ticket.purpose, reps, ticket.issued_us, ticket.exp * SECOND,
    ))  # fmt: skip
    return ticket
