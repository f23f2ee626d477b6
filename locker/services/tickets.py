"""Issuing tickets: who asks, what they may have, and the record that is durable before a ticket leaves.

All requests that wait are answered in one transaction. It reads the consents under a shared lock and only then the clock,
so a change to a consent (which locks the row before it reads the clock) voids every ticket from before it and none after.
Tokens, clients, issuers and nodes are read in the same transaction, under the lock that a suspension holds alone: suspending
one of them acts at once, and finds every ticket from before recorded (see ``suspensions``).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from locker.db.models import AccessToken, Consent, ConsentItem, DocType, Issuer, Link, Node, TicketRecord
from locker.db.session import Database, advance, lock_issuing
from locker.services.directory import APPROVED
from locker.services.links import ACTIVE
from locker.services.principal import REQUESTER, RESIDENT, Principal
from locker.services.tokens import TOKEN_QUERY, principal_of
from node.contract.identifiers import uuid7
from node.contract.problems import ConsentRequired, DocumentNotFound, Forbidden, OutOfScope, ProblemError
from node.contract.signing import TICKET, SigningKey
from node.contract.tickets import BASIS_CONSENT, BASIS_HOLDER, Ticket, issue_ticket
from node.contract.times import SECOND

_Row = Any  # a row of one of the queries below

GATEWAY = "gateway"
OWN_PURPOSE = "own"

_LINK = (
    Link.uri_key, Link.uri, Link.issuer, Link.doc_type, Link.doc_id, Link.state.label("link_state"), Link.resident_id,
    Link.holder_ref, Link.node_id, Issuer.state.label("issuer_state"), Issuer.node_id.label("issuer_node"),
    Node.state.label("node_state"), Node.base_url, DocType.doc_type_key,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TicketRequest:
    """A wish for tickets by the holder of an access token: under a consent, or for one's own documents without one.

    With no URIs it only asks whether the token may be used so.
    """

    token_hash: str
    uris: tuple[str, ...]
    consent_id: str | None = None
    representation: str | None = None
    act: str | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """A signed ticket and the node that takes it."""

    uri: str
    node_id: str
    base_url: str
    ticket: str
    expires_us: int


Outcome = Granted | ProblemError


@dataclass(slots=True)
class _Plan:
    """What one transaction has decided so far: outcomes by request, and tickets still to be signed."""

    outcomes: list[list[Outcome | Ticket] | ProblemError] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)


class Tickets:
    """The only signer of tickets."""

    def __init__(
        self, database: Database, *, iss: str, key: SigningKey, lifetime: int, clock: Callable[[], int]
    ) -> None:
        """``lifetime`` is in seconds."""
        if key.typ != TICKET:
            raise ValueError("not a ticket key")
        self._database = database
        self._iss = iss
        self._key = key
        self._lifetime = lifetime
        self._clock = clock

    def issue(self, requests: list[TicketRequest]) -> Sequence[list[Outcome] | BaseException]:
        """Answer all waiting requests: per request an outcome for each URI, or the problem of the whole request."""
        with self._database.write_connection() as connection:
            lock_issuing(connection, alone=False)
            plan = self._decide(connection, requests)
            if plan.records:
                first = advance(connection, "ledger", len(plan.records))
                for position, record in enumerate(plan.records, first):
                    record["position"] = position
                connection.execute(_RECORD, plan.records)
        return [self._sign(outcomes, plan) for outcomes in plan.outcomes]

    def _sign(self, outcomes: list[Outcome | Ticket] | ProblemError, plan: _Plan) -> list[Outcome] | BaseException:
        """Sign what was decided, after the records are durable and no lock is held."""
        if isinstance(outcomes, ProblemError):
            return outcomes
        return [self._granted(row, plan.places[row.aud]) if isinstance(row, Ticket) else row for row in outcomes]

    def _granted(self, ticket: Ticket, base_url: str) -> Granted:
        uri = f"{ticket.issuer}-{ticket.doc_type}-{ticket.doc_id}"
        return Granted(uri, ticket.aud, base_url, issue_ticket(ticket, self._key), ticket.exp * SECOND)

    def _decide(self, connection: Connection, requests: Sequence[TicketRequest]) -> _Plan:
        callers = _callers(connection, {request.token_hash for request in requests})
        consents = _consents(connection, {request.consent_id for request in requests if request.consent_id})
        items = _items(connection, requests, consents)
        links = _own_links(connection, [request for request in requests if request.consent_id is None])
        now_us = self._clock()  # after the consents are locked, see above
        plan = _Plan()
        for request in requests:
            try:
                principal = principal_of(callers.get(request.token_hash), now_us)
                if request.consent_id is None:
                    outcomes = self._own(plan, request, principal, links, now_us)
                else:
                    outcomes = self._consented(
                        connection, plan, request, principal, consents.get(request.consent_id), items, now_us
                    )
                plan.outcomes.append(outcomes)
            except ProblemError as error:
                plan.outcomes.append(error)
        return plan

    def _own(
        self, plan: _Plan, request: TicketRequest, principal: Principal, links: Mapping[str, _Row], now_us: int
    ) -> list[Outcome | Ticket]:
        if principal.role != RESIDENT:
            raise Forbidden("only a resident reads on the basis of being the holder")
        outcomes: list[Outcome | Ticket] = []
        for uri in request.uris:
            link = links.get(uri.lower())
            if link is None or link.resident_id != principal.subject or link.link_state != ACTIVE:
                outcomes.append(DocumentNotFound())
            elif not _in_scope(link):
                outcomes.append(OutOfScope())
            else:
                ticket = self._ticket(link, request, link.holder_ref, None, now_us, now_us + self._lifetime * SECOND)
                outcomes.append(_recorded(plan, ticket, link))
        return outcomes

    def _consented(
        self,
        connection: Connection,
        plan: _Plan,
        request: TicketRequest,
        principal: Principal,
        consent: _Row | None,
        items: Mapping[tuple[str, str], _Row],
        now_us: int,
    ) -> list[Outcome | Ticket]:
        if principal.role != REQUESTER:
            raise Forbidden("only a requester reads under a consent")
        refusal = _refusal(consent, principal, now_us)
        if refusal is not None or consent is None:
            return [refusal or ConsentRequired() for _ in request.uris]
        outcomes: list[Outcome | Ticket] = []
        for uri in request.uris:
            item = items.get((consent.consent_id, uri.lower()))
            problem = _item_refusal(item, consent, request.representation)
            if problem is not None or item is None:
                outcomes.append(problem or ConsentRequired())
                continue
            issued_us = max(now_us, consent.void_before_us + 1)
            ends_us = min(issued_us + self._lifetime * SECOND, consent.expires_us)
            if ends_us // SECOND <= issued_us // SECOND:  # tickets end at whole seconds, and never after their consent
                outcomes.append(ConsentRequired("the consent has expired", reason="expired"))
                continue
            ticket = self._ticket(item, request, principal.subject, consent, issued_us, ends_us)
            if not consent.once or _use(connection, ticket, item):
                outcomes.append(_recorded(plan, ticket, item))
            else:
                outcomes.append(self._again(connection, plan, request, consent, item, now_us))
        return outcomes

    def _ticket(
        self,
        link: _Row,
        request: TicketRequest,
        client_id: str,
        consent: _Row | None,
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
        consent: _Row,
        item: _Row,
        now_us: int,
    ) -> Outcome | Ticket:
        """The gateway goes on with the one ticket of a consent for once: HEAD, ranges and retries are one reading."""
        if request.act == GATEWAY:
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
            if record.act == GATEWAY and alive and record.node_id == item.node_id:
                plan.places[item.node_id] = item.base_url
                return self._from_record(record, item)
        return ConsentRequired("this consent was good for one ticket, which has been issued", reason="spent")

    def _from_record(self, record: _Row, link: _Row) -> Ticket:
        reps = None if record.representations is None else tuple(json.loads(record.representations))
        return Ticket(
            iss=self._iss, aud=record.node_id, client_id=record.client_id, act=record.act, issuer=link.issuer,
            doc_type=link.doc_type, doc_id=link.doc_id, version=None, representations=reps,
            holder_ref=record.holder_ref, basis=record.basis, consent_id=record.consent_id, artefact=record.artefact,
            purpose=record.purpose, jti=record.jti, iat=record.issued_us // SECOND, exp=record.expires_us // SECOND,
            issued_us=record.issued_us,
        )  # fmt: skip


# What every batch runs is built once: building a statement costs more than running it.
_RECORD = insert(TicketRecord)
_CALLERS = TOKEN_QUERY.where(AccessToken.token_hash.in_(bindparam("hashes", expanding=True)))
_CONSENTS = (
    select(
        Consent.consent_id, Consent.resident_id, Consent.client_id, Consent.state, Consent.purpose, Consent.once,
        Consent.artefact_digest, Consent.expires_us, Consent.void_before_us,
    )
    .where(Consent.consent_id.in_(bindparam("ids", expanding=True)))
    .order_by(Consent.consent_id)
    .with_for_update(read=True)
)  # fmt: skip
_LOCK_ITEMS = (
    select(ConsentItem.uri_key)
    .where(ConsentItem.consent_id.in_(bindparam("ids", expanding=True)))
    .order_by(ConsentItem.consent_id, ConsentItem.uri_key)
    .with_for_update()
)
_LINK_JOIN = (
    Link.__table__.join(Issuer.__table__, Issuer.issuer_key == Link.issuer_key)
    .join(Node.__table__, Node.node_id == Link.node_id)
    .outerjoin(DocType.__table__, (DocType.issuer_key == Link.issuer_key) & (DocType.doc_type_key == Link.doc_type_key))
)
_ITEMS = (
    select(ConsentItem.consent_id, ConsentItem.representations, *_LINK)
    .select_from(_LINK_JOIN.join(ConsentItem.__table__, ConsentItem.uri_key == Link.uri_key))
    .where(ConsentItem.consent_id.in_(bindparam("ids", expanding=True)))
    .where(ConsentItem.uri_key.in_(bindparam("keys", expanding=True)))
)
_OWN_LINKS = (
    select(*_LINK).select_from(_LINK_JOIN).where(Link.uri_key.in_(bindparam("keys", expanding=True)))
)  # fmt: skip


def _callers(connection: Connection, hashes: Iterable[str]) -> dict[str, _Row]:
    return {row.token_hash: row for row in connection.execute(_CALLERS, {"hashes": list(hashes)})}


def _consents(connection: Connection, ids: Iterable[str]) -> dict[str, _Row]:
    """Read consents under a shared lock (SQLite: the transaction holds the write lock already)."""
    wanted = list(ids)
    if not wanted:
        return {}
    consents = {row.consent_id: row for row in connection.execute(_CONSENTS, {"ids": wanted})}
    once = [consent_id for consent_id, consent in consents.items() if consent.once]
    if once:
        # Whose one ticket is at stake: locked in one order, so that two processes cannot wait for each other.
        connection.execute(_LOCK_ITEMS, {"ids": once}).all()
    return consents


def _items(
    connection: Connection, requests: Sequence[TicketRequest], consents: Mapping[str, _Row]
) -> dict[tuple[str, str], _Row]:
    """Read what the wanted consents cover of the wanted documents, with the state of issuer and node."""
    keys = {uri.lower() for request in requests if request.consent_id in consents for uri in request.uris}
    if not keys:
        return {}
    found = connection.execute(_ITEMS, {"ids": list(consents), "keys": list(keys)})
    return {(row.consent_id, row.uri_key): row for row in found}


def _own_links(connection: Connection, requests: Sequence[TicketRequest]) -> dict[str, _Row]:
    keys = {uri.lower() for request in requests for uri in request.uris}
    if not keys:
        return {}
    return {row.uri_key: row for row in connection.execute(_OWN_LINKS, {"keys": list(keys)})}


def _refusal(consent: _Row | None, principal: Principal, now_us: int) -> ConsentRequired | None:
    """Say why a consent allows nothing; another's consent looks like none."""
    if consent is None or consent.client_id != principal.subject:
        return ConsentRequired(reason="no-consent")
    if consent.state != ACTIVE:
        return ConsentRequired("the consent was revoked", reason="revoked")
    if consent.expires_us <= now_us:
        return ConsentRequired("the consent has expired", reason="expired")
    return None


def _item_refusal(item: _Row | None, consent: _Row, representation: str | None) -> ProblemError | None:
    if item is None or item.resident_id != consent.resident_id:
        return ConsentRequired(reason="not-covered")
    if item.link_state != ACTIVE:
        return DocumentNotFound("the issuer has withdrawn this document")
    if not _in_scope(item):
        return OutOfScope("the issuer is suspended")
    if (
        representation is not None
        and item.representations is not None
        and representation not in json.loads(item.representations)
    ):
        return ConsentRequired("the consent does not cover this representation", reason="representation")
    return None


def _in_scope(link: _Row) -> bool:
    approved = link.issuer_state == APPROVED and link.node_state == APPROVED
    return approved and link.issuer_node == link.node_id and link.doc_type_key is not None


def _use(connection: Connection, ticket: Ticket, item: _Row) -> bool:
    """Take the one ticket of an item; of two that try at once one has it."""
    mine = (ConsentItem.consent_id == ticket.consent_id) & (ConsentItem.uri_key == item.uri_key)
    taken = update(ConsentItem).where(mine, ConsentItem.used_jti.is_(None)).values(used_jti=ticket.jti)
    return connection.execute(taken).rowcount == 1


def _recorded(plan: _Plan, ticket: Ticket, link: _Row) -> Ticket:
    plan.places[ticket.aud] = link.base_url
    reps = None if ticket.representations is None else json.dumps(list(ticket.representations))
    plan.records.append({
        "jti": ticket.jti, "client_id": ticket.client_id, "act": ticket.act, "node_id": ticket.aud, "uri": link.uri,
        "resident_id": link.resident_id, "holder_ref": ticket.holder_ref, "basis": ticket.basis,
        "consent_id": ticket.consent_id, "artefact": ticket.artefact, "purpose": ticket.purpose,
        "representations": reps, "issued_us": ticket.issued_us, "expires_us": ticket.exp * SECOND,
    })  # fmt: skip
    return ticket
