"""Links from residents to documents: nodes push them, and a resident who joins finds those that were waiting."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from locker.db.models import (
    Alert,
    DocType,
    Issuer,
    Link,
    LinkEvent,
    Node,
    PushedRow,
    Resident,
    ResidentAttribute,
    ResidentIdentifier,
)
from locker.db.session import Database, advance
from locker.keys import LockerKeys
from locker.services.directory import APPROVED, known_issuers
from locker.services.references import reference_for
from node.contract.holders import Holder, InvalidHolder
from node.contract.identifiers import uuid7
from node.contract.problems import (
    PROBLEM_BASE,
    BadRequest,
    Conflict,
    Forbidden,
    NodeFault,
    NotFound,
    OutOfScope,
    ProblemError,
    UnacceptableContent,
)
from node.contract.sealing import CannotOpen
from node.contract.times import DAY
from node.contract.uri import DocumentURI, IssuerDirectory

log = structlog.get_logger("locker.links")

MAX_ROWS = 500
RESULT_DAYS = 30
MAX_NAMED = 20
ACTIVE = "active"
WITHDRAWN = "withdrawn"

SELF_DECLARED = "self-declared"
SOURCES = (SELF_DECLARED, "mobile-verified", "identity-provider-verified", "issuer-confirmed")

_LOCK = "links"


@dataclass(frozen=True, slots=True)
class KnownHolder:
    """A pushed holder once the sealed value was opened in memory and forgotten again."""

    scheme: str
    keyed_hash: str
    last4: str


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A pushed row, checked as far as that is possible without the database."""

    row_id: str
    kind: str
    revision: int
    uri: DocumentURI | None
    document: Mapping[str, Any] | None
    holder: KnownHolder | None
    refusal: ProblemError | None


@dataclass(frozen=True, slots=True)
class NewIdentifier:
    """A resident's identifier and who vouches for it."""

    holder: Holder
    source: str


class Links:
    """Pushed documents and the residents they belong to."""

    def __init__(self, database: Database, keys: LockerKeys) -> None:
        self._database = database
        self._keys = keys

    def push(self, node_id: str, rows: Sequence[Mapping[str, Any]], now_us: int) -> list[dict[str, Any]]:
        """Take a node's batch and return a result for each row; a row taken before gets the result it got then.

        Raises BadRequest for more than 500 rows or a row id used twice, Forbidden for a node that is not approved.
        """
        if not 1 <= len(rows) <= MAX_ROWS or len({row["row_id"] for row in rows}) != len(rows):
            raise BadRequest("a batch has 1 to 500 rows with different row ids")
        with self._database.read() as session:
            issuers = known_issuers(session)
        # Opening sealed values is the slow part; it is done before any lock is taken.
        prepared = [self._prepare(row, issuers) for row in rows]
        with self._database.write() as session:
            advance(session, _LOCK, 0)
            node = session.get(Node, node_id)
            if node is None or node.state != APPROVED:
                raise Forbidden("this node is not approved", reason="suspended")
            return _Batch(session, node_id, now_us).take(prepared)

    def _prepare(self, row: Mapping[str, Any], issuers: IssuerDirectory) -> PreparedRow:
        refusal, uri, holder = None, None, None
        try:
            uri = DocumentURI.parse(row["uri"], issuers)
            holder = self._open(row.get("holder"), uri)
            if row["kind"] != "withdraw" and row.get("document") is None:
                raise UnacceptableContent("a row that adds or changes carries the document")
        except ProblemError as error:
            # An issuer nobody has registered is outside every node's scope.
            refusal = OutOfScope() if error.status == NotFound.status else error
        return PreparedRow(row["row_id"], row["kind"], row["revision"], uri, row.get("document"), holder, refusal)

    def _open(self, holder: Mapping[str, Any] | None, uri: DocumentURI) -> KnownHolder | None:
        """Open a sealed holder in memory and keep the keyed hash alone."""
        if holder is None:
            return None
        key = self._keys.opening_key(holder["key_id"])
        if key is None:
            raise UnacceptableContent("the holder is sealed to a key that is not this locker's")
        try:
            clear = key.open(holder["sealed"], uri.key).decode("utf-8")
            known = Holder.parse(holder["scheme"], clear)
        except (CannotOpen, InvalidHolder, UnicodeDecodeError):
            # The cause is cut off: a decoding error carries the bytes.
            raise UnacceptableContent("the sealed holder cannot be used") from None
        return KnownHolder(known.scheme, self._keys.reference.reference(known), known.last_four)

    def add_resident(
        self,
        name: str,
        identifiers: Sequence[NewIdentifier],
        attributes: Mapping[str, tuple[str, str]],
        now_us: int,
    ) -> tuple[str, int]:
        """Open a resident's account and link what was waiting; returns the resident's id and how many documents that were.

        Attributes are name to (value, source). Raises Conflict when a verified identifier is another resident's.
        """
        resident_id = uuid7()
        with self._database.write() as session:
            advance(session, _LOCK, 0)
            session.add(Resident(resident_id=resident_id, name=name, created_us=now_us))
            session.flush()
            _add_attributes(session, resident_id, attributes)
            for identifier in identifiers:
                self._add_identifier(session, resident_id, identifier)
            session.flush()
            return resident_id, _join(session, resident_id, now_us)

    def _add_identifier(self, session: Session, resident_id: str, new: NewIdentifier) -> None:
        if new.source not in SOURCES:
            raise ValueError(f"a source is one of {', '.join(SOURCES)}")
        keyed_hash = self._keys.reference.reference(new.holder)
        if new.source != SELF_DECLARED and _owner(session, new.holder.scheme, keyed_hash) is not None:
            raise Conflict("this identifier belongs to another resident")
        session.add(
            ResidentIdentifier(
                resident_id=resident_id, scheme=new.holder.scheme, keyed_hash=keyed_hash,
                key_version=self._keys.reference.version, last4=new.holder.last_four, source=new.source,
                sealed=self._keys.opening.public.seal(new.holder.value.encode("utf-8"), resident_id),
            )
        )  # fmt: skip

    def changes(self, node_id: str, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Return a node's link events after a position and where to go on, None at the end."""
        with self._database.read() as session:
            rows = session.scalars(
                select(LinkEvent)
                .where(LinkEvent.node_id == node_id, LinkEvent.position > after)
                .order_by(LinkEvent.position)
                .limit(limit + 1)
            ).all()
        page = rows[:limit]
        found = [
            {"position": row.position, "uri": row.uri, "outcome": row.kind, "holder_ref": row.holder_ref}
            for row in page
        ]
        return found, page[-1].position if len(rows) > limit else None

    def purge(self, now_us: int) -> int:
        """Forget the results of rows pushed long ago and return how many; their revisions still tell that they are old."""
        old = delete(PushedRow).where(PushedRow.stored_us < now_us - RESULT_DAYS * DAY).returning(PushedRow.row_id)
        with self._database.write() as session:
            return len(session.scalars(old).all())

    def documents(
        self, resident_id: str, issuer: str | None, doc_type: str | None, cursor: str | None, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Return one page of a resident's links in the order of their URIs, and the next cursor."""
        query = (
            select(Link, Issuer.name)
            .join(Issuer, Issuer.issuer_key == Link.issuer_key)
            .where(Link.resident_id == resident_id, Link.state == ACTIVE)
            .order_by(Link.uri_key)
            .limit(limit + 1)
        )
        if issuer is not None:
            query = query.where(Link.issuer_key == issuer.lower())
        if doc_type is not None:
            query = query.where(Link.doc_type_key == doc_type.lower())
        if cursor is not None:
            query = query.where(Link.uri_key > cursor.lower())
        with self._database.read() as session:
            rows = session.execute(query).all()
        page = rows[:limit]
        return [_own_document(link, name) for link, name in page], page[-1][0].uri_key if len(rows) > limit else None


class _Batch:
    """One push inside its transaction."""

    def __init__(self, session: Session, node_id: str, now_us: int) -> None:
        self._session = session
        self._node_id = node_id
        self._now_us = now_us
        self._events: list[LinkEvent] = []
        self._refused = 0
        self._outside: set[str] = set()

    def take(self, rows: Sequence[PreparedRow]) -> list[dict[str, Any]]:
        before = self._results_before(rows)
        scope = self._scope()
        results = []
        for row in rows:
            result = before.get(row.row_id)
            if result is None:
                result = self._result(row, scope)
                self._session.add(
                    PushedRow(
                        node_id=self._node_id, row_id=row.row_id, result=json.dumps(result), stored_us=self._now_us
                    )
                )
            results.append(result)
        self._alert()
        _record(self._session, self._events)
        return results

    def _results_before(self, rows: Sequence[PreparedRow]) -> dict[str, dict[str, Any]]:
        ids = [row.row_id for row in rows]
        stored = self._session.scalars(
            select(PushedRow).where(PushedRow.node_id == self._node_id, PushedRow.row_id.in_(ids))
        )
        return {row.row_id: json.loads(row.result) for row in stored}

    def _scope(self) -> set[tuple[str, str]]:
        mine = (Issuer.node_id == self._node_id) & (Issuer.state == APPROVED)
        query = select(DocType.issuer_key, DocType.doc_type_key).join(Issuer, Issuer.issuer_key == DocType.issuer_key)
        return {(issuer, doc_type) for issuer, doc_type in self._session.execute(query.where(mine))}

    def _result(self, row: PreparedRow, scope: set[tuple[str, str]]) -> dict[str, Any]:
        try:
            if row.refusal is not None:
                raise row.refusal
            assert row.uri is not None  # a row without a URI has a refusal
            if (row.uri.issuer.lower(), row.uri.doc_type.lower()) not in scope:
                raise OutOfScope()
            return {"row_id": row.row_id, **self._apply(row, row.uri)}
        except ProblemError as error:
            if isinstance(error, OutOfScope):
                self._refused += 1
                self._outside.add("?" if row.uri is None else f"{row.uri.issuer}-{row.uri.doc_type}")
            return {"row_id": row.row_id, "outcome": "refused", "problem": row_problem(error)}

    def _apply(self, row: PreparedRow, uri: DocumentURI) -> dict[str, Any]:
        link = self._session.get(Link, uri.key)
        if link is not None and link.node_id != self._node_id:
            self._take_over(link)
        # Revisions are a node's own count, so they are compared with those of the same node alone.
        elif link is not None and link.revision >= row.revision:
            return {"outcome": "unchanged", "holder_ref": link.holder_ref}
        if link is None:
            link = Link(
                uri_key=uri.key, uri=str(uri), issuer_key=uri.issuer.lower(), issuer=uri.issuer,
                doc_type_key=uri.doc_type.lower(),
                doc_type=uri.doc_type, doc_id=uri.doc_id, document="{}",
            )  # fmt: skip
            self._session.add(link)
        link.node_id, link.revision, link.changed_us = self._node_id, row.revision, self._now_us
        shown = link.resident_id is not None and link.state == ACTIVE
        if row.kind == "withdraw":
            return self._withdraw(link, shown)
        link.state, link.document = ACTIVE, json.dumps(row.document)
        corrected = False
        if row.holder is not None:
            holder = row.holder
            corrected = link.holder_hash not in (None, holder.keyed_hash)
            link.holder_scheme, link.holder_hash, link.holder_last4 = holder.scheme, holder.keyed_hash, holder.last4
        self._find_resident(link, shown, corrected)
        self._session.flush()
        if link.resident_id is None:
            return {"outcome": "pending", "holder_ref": None}
        return {"outcome": "linked", "holder_ref": link.holder_ref}

    def _take_over(self, link: Link) -> None:
        """Take a document anew whose issuer has moved here: the node before learns that it is gone and keeps its own names.

        A node knows a resident by a name that no other node has, so nothing that was linked there is taken along.
        """
        if link.resident_id is not None and link.state == ACTIVE:
            self._events.append(_event(link, "withdrawn", self._now_us))
        link.resident_id, link.holder_ref, link.linked_us = None, None, None
        link.holder_scheme, link.holder_hash, link.holder_last4 = None, None, None

    def _withdraw(self, link: Link, shown: bool) -> dict[str, Any]:
        link.state = WITHDRAWN
        if shown:
            self._events.append(_event(link, "withdrawn", self._now_us))
        self._session.flush()
        return {"outcome": "withdrawn"}

    def _find_resident(self, link: Link, shown: bool, corrected: bool) -> None:
        """Link a document to the resident whose it is; a corrected holder takes it away from the one who had it.

        A holder whom nobody here is known by takes nothing away from the one for whom the node found the document.
        ``shown`` tells whether a resident had it until now: who follows the events learns of each turn once.
        """
        owner = link.resident_id
        if link.holder_scheme is not None and link.holder_hash is not None:
            owner = _owner(self._session, link.holder_scheme, link.holder_hash)
            if owner is None and not corrected:
                owner = link.resident_id
        if link.resident_id is not None and link.resident_id != owner:
            if shown:
                self._events.append(_event(link, "withdrawn", self._now_us))
            link.resident_id, link.holder_ref, link.linked_us, shown = None, None, None, False
        if owner is not None and link.resident_id is None:
            _link_to(self._session, link, owner, self._now_us)
        if link.resident_id is not None and not shown:
            self._events.append(_event(link, "linked", self._now_us))

    def _alert(self) -> None:
        if self._refused:
            log.warning("push outside scope", node_id=self._node_id, rows=self._refused)
            # What an officer may have to approve; "?" stands for issuers that nobody has registered.
            detail = json.dumps({"rows": self._refused, "doc_types": sorted(self._outside)[:MAX_NAMED]})
            self._session.add(
                Alert(alert_id=uuid7(), node_id=self._node_id, kind="out-of-scope", detail=detail, at_us=self._now_us)
            )


def link_found(session: Session, uri: DocumentURI, node_id: str, resident_id: str, now_us: int) -> None:
    """Link a document to the resident for whom its node found it, in the caller's transaction.

    Raises NodeFault when the document is linked to another resident: the node's next push is to settle that.
    """
    advance(session, _LOCK, 0)
    link = session.get(Link, uri.key)
    if link is None or link.node_id != node_id:
        # What the node says of the document comes with its next push, whatever revision that has.
        link = link or Link(uri_key=uri.key, uri=str(uri))
        link.issuer_key, link.issuer = uri.issuer.lower(), uri.issuer
        link.doc_type_key, link.doc_type, link.doc_id = uri.doc_type.lower(), uri.doc_type, uri.doc_id
        link.node_id, link.state, link.revision, link.document = node_id, ACTIVE, 0, "{}"
        link.resident_id, link.holder_ref, link.linked_us = None, None, None
        link.holder_scheme, link.holder_hash, link.holder_last4 = None, None, None
        session.add(link)
    if link.resident_id == resident_id:
        return
    if link.resident_id is not None:
        raise NodeFault("the node's answer contradicts what it said before")
    link.changed_us = now_us
    _link_to(session, link, resident_id, now_us)
    if link.state == ACTIVE:
        _record(session, [_event(link, "linked", now_us)])


def row_problem(error: ProblemError) -> dict[str, Any]:
    """Return the problem of one row of a batch."""
    problem: dict[str, Any] = {"type": PROBLEM_BASE + error.slug, "title": error.title, "status": error.status}
    return {**problem, "detail": error.detail} if error.detail else problem


def _add_attributes(session: Session, resident_id: str, attributes: Mapping[str, tuple[str, str]]) -> None:
    for name, (value, source) in attributes.items():
        if source not in SOURCES:
            raise ValueError(f"a source is one of {', '.join(SOURCES)}")
        session.add(ResidentAttribute(resident_id=resident_id, name=name, value=value, source=source))


def _owner(session: Session, scheme: str, keyed_hash: str) -> str | None:
    """Return the resident whose verified identifier this is; what people say of themselves links nothing."""
    return session.scalar(
        select(ResidentIdentifier.resident_id).where(
            ResidentIdentifier.keyed_hash == keyed_hash,
            ResidentIdentifier.scheme == scheme,
            ResidentIdentifier.source != SELF_DECLARED,
        )
    )


def _join(session: Session, resident_id: str, now_us: int) -> int:
    """Link every document that waits for one of a resident's verified identifiers and return how many that were."""
    waiting = (
        select(Link)
        .join(
            ResidentIdentifier,
            (ResidentIdentifier.keyed_hash == Link.holder_hash) & (ResidentIdentifier.scheme == Link.holder_scheme),
        )
        .where(ResidentIdentifier.resident_id == resident_id, ResidentIdentifier.source != SELF_DECLARED)
        .where(Link.resident_id.is_(None), Link.state == ACTIVE)
        .order_by(Link.uri_key)
    )
    links = session.scalars(waiting).all()
    for link in links:
        _link_to(session, link, resident_id, now_us)
    _record(session, [_event(link, "linked", now_us) for link in links])
    return len(links)


def _link_to(session: Session, link: Link, resident_id: str, now_us: int) -> None:
    link.resident_id, link.linked_us = resident_id, now_us
    link.holder_ref = reference_for(session, link.node_id, resident_id)


def _event(link: Link, kind: str, now_us: int) -> LinkEvent:
    return LinkEvent(
        kind=kind, uri=link.uri, node_id=link.node_id, resident_id=link.resident_id, holder_ref=link.holder_ref,
        at_us=now_us,
    )  # fmt: skip


def _record(session: Session, events: Sequence[LinkEvent]) -> None:
    """Give link events their positions, last in the transaction so that the ledger is held for a moment only."""
    if events:
        session.flush()
        for position, event in enumerate(events, advance(session, "ledger", len(events))):
            event.position = position
            session.add(event)


def _own_document(link: Link, issuer_name: str) -> dict[str, Any]:
    document = {"status": "active", "version": 1, "representations": [], **json.loads(link.document)}
    return {
        "uri": link.uri, "issuer": link.issuer, "issuer_name": issuer_name, "doc_type": link.doc_type, **document,
        "linked_us": link.linked_us,
    }  # fmt: skip
