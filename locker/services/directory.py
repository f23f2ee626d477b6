"""Which node answers for which issuer and document type: asked for by a node, decided by an officer."""

import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from locker.db.models import AccessToken, Client, DocType, Issuer, Node, Registration, UsedAssertion
from locker.db.session import Database
from locker.services.principal import NODE
from node.contract.identifiers import uuid7
from node.contract.problems import BadRequest, Conflict, NotFound, TooManyRequests
from node.contract.records import verify_request
from node.contract.signing import (
    CLIENT_ASSERTION,
    REGISTRATION,
    KeySet,
    SignatureRefused,
    fingerprint,
    read_claims_unverified,
)
from node.contract.times import DAY, SECOND
from node.contract.uri import IssuerDirectory, require_doc_type, require_issuer

APPROVED = "approved"
SUSPENDED = "suspended"
EXPECTED = "expected"
PENDING = "pending"
DIRECT = "direct"
GATEWAY_ONLY = "gateway-only"

MAX_PENDING = 1000
MAX_PENDING_OF_NODE = 5
MAX_PENDING_OF_NETWORK = 50
PENDING_DAYS = 30
UNKNOWN = "unknown"
MAX_REGISTRATION = 256 * 1024
_KEPT_CLAIMS = ("node_id", "name", "base_url", "exposure", "jwks", "issuers")

_NODE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")

# Of a node's registrations all wait but the one whose keys were approved.
_WAITS = ~(
    select(Node.node_id)
    .where(Node.node_id == Registration.node_id, Node.fingerprint == Registration.fingerprint)
    .exists()
)


# Registrations from before networks were noted are as one from an unknown place.
_NETWORK = func.coalesce(Registration.network, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Received:
    """A registration as stored; the officer compares the fingerprint with the one the node shows."""

    registration_id: str
    node_id: str
    fingerprint: str
    state: str
    scope: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Approval:
    """What an approval did: the issuers whose node has new keys by it, and the document types now approved."""

    rekeyed: tuple[str, ...]
    doc_types: tuple[str, ...]


class Directory:
    """Nodes, issuers and document types."""

    def __init__(self, database: Database, *, iss: str, check_address: Callable[[str], None]) -> None:
        """``check_address`` raises when the locker would not connect to a URL."""
        self._database = database
        self._iss = iss
        self._check_address = check_address

    def register(self, token: str, now_us: int, source: str = UNKNOWN) -> Received:
        """Store a node's signed registration, from a network address, for an officer to decide on.

        Raises InvalidCredential for a bad signature, BadRequest for bad claims, Conflict for an issuer id that collides.
        """
        keys = _own_keys(token)
        claims = verify_request(token, REGISTRATION, keys, audience=self._iss, now_us=now_us, max_size=MAX_REGISTRATION)
        node_id = _require_claims(claims)
        self._check_address(str(claims["base_url"]))
        row = Registration(
            registration_id=uuid7(), node_id=node_id, fingerprint=fingerprint(keys), jti=str(claims["jti"])[:128],
            claims=json.dumps({name: claims[name] for name in _KEPT_CLAIMS if name in claims}),
            network=_network_of(source), received_us=now_us,
        )  # fmt: skip
        with self._database.write() as session:
            same = (Registration.node_id == node_id) & (Registration.fingerprint == row.fingerprint)
            before = session.scalars(select(Registration).where(same)).first()
            if before is not None and before.jti == row.jti:
                return _received(session, before)
            use_once(session, node_id, str(claims["jti"]), int(claims["exp"]))
            _require_no_collision(session, [issuer["issuer"] for issuer in claims["issuers"]])
            session.execute(delete(Registration).where(same))
            _make_room(session, row)
            session.add(row)
            session.flush()
            return _received(session, row)

    def registration(self, *, node_id: str | None = None, registration_id: str | None = None) -> Received:
        """Return a node's registration by the approved node's id, or one that waits by its own; raises NotFound."""
        with self._database.read() as session:
            if registration_id is not None:
                row = session.get(Registration, registration_id)
            else:
                approved = select(Node.fingerprint).where(Node.node_id == node_id).scalar_subquery()
                wanted = (Registration.node_id == node_id) & (Registration.fingerprint == approved)
                row = session.scalars(select(Registration).where(wanted)).first()
            if row is None:
                raise NotFound("no registration waits under this name")
            return _received(session, row)

    def add_issuer(self, issuer: str, name: str, now_us: int) -> None:
        """Put an issuer into the directory before its node asks for it; raises Conflict when it is there or collides."""
        require_issuer(issuer)
        with self._database.write() as session:
            if session.get(Issuer, issuer.lower()):
                raise Conflict("this issuer is in the directory already")
            _require_no_collision(session, [issuer])
            session.add(Issuer(issuer_key=issuer.lower(), issuer=issuer, name=name, state=EXPECTED, changed_us=now_us))

    def reject(self, node_id: str, only_fingerprint: str | None = None) -> int:
        """Drop what waits under a node's id, or the one registration with a fingerprint, and return how many that were.

        Keys that were approved keep their registration. Raises NotFound when nothing of the kind waits.
        """
        waiting = (Registration.node_id == node_id) & _WAITS
        if only_fingerprint is not None:
            waiting &= Registration.fingerprint == only_fingerprint.strip().lower()
        with self._database.write() as session:
            dropped = session.scalars(delete(Registration).where(waiting).returning(Registration.registration_id)).all()
            if not dropped:
                raise NotFound("no registration waits under this name")
            # Whoever asked holds tokens that open the registration alone.
            session.execute(delete(AccessToken).where(AccessToken.subject.in_(dropped)))
            return len(dropped)

    def approve(
        self, issuer: str, node_id: str, expected_fingerprint: str, now_us: int, *, replace_keys: bool = False,
        resume_node: bool = False,
    ) -> Approval:  # fmt: skip
        """Bind a node's keys to an issuer and the document types it asked for, if the fingerprint is the compared one.

        Raises NotFound without such a registration, Conflict for another fingerprint or an issuer bound to another node.
        An applicant chooses its node id, so a node of this id that is known by other keys is left alone (Conflict) unless
        the officer says ``replace_keys``; a suspended one stays so (Conflict) unless the officer says ``resume_node``.
        """
        with self._database.write() as session:
            claims = _pending(session, issuer, node_id, expected_fingerprint)
            wanted = next(row for row in claims["issuers"] if row["issuer"].lower() == issuer.lower())
            _require_no_collision(session, [issuer])
            row = session.get(Issuer, issuer.lower())
            if row is not None and row.state == APPROVED and row.node_id != node_id:
                raise Conflict("this issuer is bound to another node; suspend it first")
            bound = _require_same_node(session, node_id, expected_fingerprint, replace_keys, resume_node)
            _approve_node(session, claims, expected_fingerprint, now_us)
            _approve_issuer(session, row, wanted, node_id, now_us)
            return Approval(tuple(bound), tuple(doc_type["doc_type"] for doc_type in wanted["doc_types"]))

    def issuers(self) -> list[dict[str, Any]]:
        """Return every issuer with its node, for the officer."""
        with self._database.read() as session:
            rows = session.execute(
                select(Issuer, Node).outerjoin(Node, Node.node_id == Issuer.node_id).order_by(Issuer.issuer_key)
            )
            types = _approved_types(session)
            return [
                {**_issuer_summary(issuer, node), "doc_types": types.get(issuer.issuer_key, [])}
                for issuer, node in rows
            ]

    def registrations(self) -> list[dict[str, Any]]:
        """Return every registration, newest first, for the officer; ``asks`` is what of it waits for a decision."""
        with self._database.read() as session:
            rows = session.scalars(select(Registration).order_by(Registration.received_us.desc())).all()
            nodes = {node.node_id: node for node in session.scalars(select(Node))}
            bound = {issuer.issuer_key: issuer for issuer in session.scalars(select(Issuer))}
            types = _approved_types(session)
            return [_registration_summary(row, nodes.get(row.node_id), bound, types) for row in rows]

    def approved_nodes(self) -> list[tuple[str, str]]:
        """Return id and address of every approved node."""
        with self._database.read() as session:
            rows = session.execute(select(Node.node_id, Node.base_url).where(Node.state == APPROVED))
            return [(row.node_id, row.base_url) for row in rows]

    def note_health(self, node_id: str, alive: bool, now_us: int) -> None:
        """Note whether a node answered just now."""
        with self._database.write() as session:
            seen = {"health": "up" if alive else "down", "health_us": now_us}
            session.execute(update(Node).where(Node.node_id == node_id).values(**seen))

    def public_issuers(self) -> list[dict[str, Any]]:
        """Return approved issuers with document types and the live state of their node."""
        with self._database.read() as session:
            live = (Issuer.state == APPROVED) & (Node.state == APPROVED)
            rows = session.execute(
                select(Issuer, Node).join(Node, Node.node_id == Issuer.node_id).where(live).order_by(Issuer.issuer_key)
            ).all()
            types = session.scalars(select(DocType).order_by(DocType.issuer_key, DocType.doc_type_key)).all()
        return [
            _public_issuer(issuer, node, [t for t in types if t.issuer_key == issuer.issuer_key])
            for issuer, node in rows
        ]


def known_issuers(session: Session) -> IssuerDirectory:
    """Return every issuer that the directory holds, suspended and expected ones too: their names stay taken."""
    return IssuerDirectory(session.scalars(select(Issuer.issuer)))


def use_once(session: Session, client_id: str, jti: str, exp: int) -> None:
    """Note that a signed request was used; raises SignatureRefused ``replayed`` when it was before."""
    if not re.fullmatch(r"[!-~]{1,128}", jti):  # the sender's own text, which a database need not be able to hold
        raise SignatureRefused(reason="malformed-claims")
    if session.get(UsedAssertion, (client_id, jti)) is not None:
        raise SignatureRefused("This signed request was used before", reason="replayed")
    session.add(UsedAssertion(client_id=client_id, jti=jti, expires_us=(exp + 60) * SECOND))
    try:
        session.flush()
    except IntegrityError as error:  # another process took it at the same moment
        raise SignatureRefused("This signed request was used before", reason="replayed") from error


def _received(session: Session, row: Registration) -> Received:
    node = session.get(Node, row.node_id)
    bound = node is not None and node.fingerprint == row.fingerprint
    scope: dict[str, list[str]] = {}
    if bound:
        mine = (Issuer.node_id == row.node_id) & (Issuer.state == APPROVED)
        query = (
            select(Issuer.issuer, DocType.doc_type).join(DocType, DocType.issuer_key == Issuer.issuer_key).where(mine)
        )
        for issuer, doc_type in session.execute(query.order_by(Issuer.issuer_key, DocType.doc_type_key)):
            scope.setdefault(issuer, []).append(doc_type)
    state = node.state if node is not None and bound else PENDING
    return Received(
        row.registration_id, row.node_id, row.fingerprint, state,
        tuple((issuer, tuple(types)) for issuer, types in scope.items()),
    )  # fmt: skip


def _own_keys(token: str) -> KeySet:
    """Read the keys that a registration brings along; it must be signed by one of them."""
    document = read_claims_unverified(token, max_size=MAX_REGISTRATION).get("jwks")
    try:
        keys = KeySet.from_jwks(document if isinstance(document, dict) else {})
    except ValueError as error:
        raise BadRequest("the registration's jwks cannot be read") from error
    if not any(key.typ == CLIENT_ASSERTION for key in keys):
        raise BadRequest("the registration's jwks holds no key for client authentication")
    return keys


def _require_claims(claims: Mapping[str, Any]) -> str:
    node_id, issuers = claims.get("node_id"), claims.get("issuers")
    if not isinstance(node_id, str) or not _NODE_ID.match(node_id):
        raise BadRequest("node_id has 1 to 128 letters, digits, or inner . _ -")
    if not _is_text(claims.get("name"), 200) or not _is_text(claims.get("base_url"), 500):
        raise BadRequest("name and base_url are short texts")
    if claims.get("exposure", DIRECT) not in (DIRECT, GATEWAY_ONLY):
        raise BadRequest("exposure is direct or gateway-only")
    if not isinstance(issuers, list) or not 1 <= len(issuers) <= 200:
        raise BadRequest("issuers lists 1 to 200 issuers")
    for row in issuers:
        _require_issuer_claims(row)
    names = IssuerDirectory(row["issuer"] for row in issuers)
    if any(names.conflict(row["issuer"]) for row in issuers) or len(list(names)) != len(issuers):
        raise Conflict("two issuers of this registration could claim one document URI")
    return node_id


def _require_issuer_claims(row: Any) -> None:
    if not isinstance(row, dict) or not isinstance(row.get("issuer"), str) or not _is_text(row.get("name"), 200):
        raise BadRequest("an issuer has an id and a name")
    require_issuer(row["issuer"])
    types = row.get("doc_types")
    if not isinstance(types, list) or not 1 <= len(types) <= 500:
        raise BadRequest("an issuer lists 1 to 500 document types")
    for doc_type in types:
        if (
            not isinstance(doc_type, dict)
            or not isinstance(doc_type.get("doc_type"), str)
            or not _is_text(doc_type.get("name"), 200)
        ):
            raise BadRequest("a document type has a code and a name")
        require_doc_type(doc_type["doc_type"])
        if not _are_search_parameters(doc_type.get("search_parameters", [])):
            raise BadRequest("search_parameters lists at most 20 of name, label and required")
        if not _are_texts(doc_type.get("media_types", []), 20, 100):
            raise BadRequest("media_types lists at most 20 media types")
    if len({doc_type["doc_type"].lower() for doc_type in types}) != len(types):
        raise BadRequest("a document type is listed twice")


def _are_search_parameters(rows: Any) -> bool:
    return isinstance(rows, list) and len(rows) <= 20 and all(
        isinstance(row, dict) and set(row) == {"name", "label", "required"}
        and isinstance(row["name"], str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", row["name"])
        and _is_text(row["label"], 200) and isinstance(row["required"], bool)
        for row in rows
    )  # fmt: skip


def _are_texts(rows: Any, count: int, length: int) -> bool:
    return isinstance(rows, list) and len(rows) <= count and all(_is_text(row, length) for row in rows)


def _is_text(value: Any, length: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= length and value.isprintable()


def _make_room(session: Session, new: Registration) -> None:
    """Raise TooManyRequests when too many registrations wait under this node's id or from its network.

    A full list gives up the oldest one of the network that has the most in it. So whoever wants to keep others out needs more
    networks than there are places, and a node whose registration was given up has only to register again.
    """
    session.execute(delete(Registration).where(_WAITS, Registration.received_us < new.received_us - PENDING_DAYS * DAY))
    of_node = select(func.count()).select_from(Registration).where(_WAITS, Registration.node_id == new.node_id)
    if (session.scalar(of_node) or 0) >= MAX_PENDING_OF_NODE:
        raise TooManyRequests("too many registrations of this node wait for a decision; ask its officer to reject some")
    by_network = select(_NETWORK, func.count()).where(_WAITS).group_by(_NETWORK)
    waiting: dict[str, int] = {row[0]: row[1] for row in session.execute(by_network)}
    mine = waiting.get(new.network or UNKNOWN, 0)
    if mine >= MAX_PENDING_OF_NETWORK:
        raise TooManyRequests("too many registrations from this network wait for a decision")
    if sum(waiting.values()) < MAX_PENDING:
        return
    most = max(waiting.values())
    if most <= mine:
        raise TooManyRequests("too many registrations wait for a decision")
    _give_up_oldest(session, [network for network, count in waiting.items() if count == most])


def _give_up_oldest(session: Session, networks: Sequence[str]) -> None:
    """Drop the oldest registration that waits from some networks, with the tokens that open it."""
    oldest = (
        select(Registration.registration_id)
        .where(_WAITS, _NETWORK.in_(networks))
        .order_by(Registration.received_us, Registration.registration_id)
        .limit(1)
    )
    given_up = session.scalars(oldest).one()
    session.execute(delete(Registration).where(Registration.registration_id == given_up))
    session.execute(delete(AccessToken).where(AccessToken.subject == given_up))


def _network_of(source: str) -> str:
    """Return what one subscriber may have all of: an IPv4 /24 or an IPv6 /48."""
    try:
        address = ipaddress.ip_address(source)
    except ValueError:
        return UNKNOWN
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False))


def _require_no_collision(session: Session, issuers: Sequence[str]) -> None:
    directory = known_issuers(session)
    if any(directory.conflict(issuer) for issuer in issuers):
        raise Conflict("an issuer id extends, or is extended by, one in the directory at a hyphen")


def _pending(session: Session, issuer: str, node_id: str, expected: str) -> dict[str, Any]:
    """Return the newest registration with the compared fingerprint; others under the same node id do not matter."""
    rows = session.scalars(
        select(Registration).where(Registration.node_id == node_id).order_by(Registration.received_us.desc())
    ).all()
    found: list[dict[str, Any]] = [claims for row in rows if issuer.lower() in _names(claims := json.loads(row.claims))]
    if not found:
        raise NotFound("no registration of this node asks for this issuer")
    for claims in found:
        actual = fingerprint(KeySet.from_jwks(claims["jwks"]))
        if hmac.compare_digest(actual.encode(), expected.strip().lower().encode()):
            return claims
    raise Conflict("the fingerprint is not that of the registration; compare it with the node's officer again")


def _names(claims: Mapping[str, Any]) -> set[str]:
    return {row["issuer"].lower() for row in claims["issuers"]}


def _require_same_node(
    session: Session, node_id: str, approved: str, replace_keys: bool, resume_node: bool
) -> Sequence[str]:
    """Return the issuers whose keys an approval replaces; raises Conflict when the officer did not say that it may."""
    node = session.get(Node, node_id, with_for_update=True)
    if node is None:
        return ()
    if node.state == SUSPENDED and not resume_node:
        raise Conflict(
            "this node is suspended, and approving an issuer does not lift that; say --resume-node to do both"
        )
    if hmac.compare_digest(node.fingerprint.encode(), approved.strip().lower().encode()):
        return ()
    mine = select(Issuer.issuer).where(Issuer.node_id == node_id).order_by(Issuer.issuer_key)
    bound = session.scalars(mine).all()
    if not replace_keys:
        raise Conflict(
            f"a node {node_id} with other keys is in the directory and answers for {', '.join(bound) or 'no issuer'}; "
            "say --replace-keys if it is the same node, and every one of these is to be reached with the new keys"
        )
    # Whoever holds the old keys is not known as this node any longer, with no token from before either.
    session.execute(delete(AccessToken).where(AccessToken.subject == node_id, AccessToken.role == NODE))
    return bound


def _approve_node(session: Session, claims: Mapping[str, Any], approved: str, now_us: int) -> None:
    node_id = claims["node_id"]
    client = session.get(Client, node_id)
    if client is not None and client.kind != NODE:
        raise Conflict("a requester goes by this node's id")
    session.merge(
        Client(
            client_id=node_id, kind=NODE, name=claims["name"], state="active",
            jwks=json.dumps(claims["jwks"]), created_us=now_us,
        )
    )  # fmt: skip
    session.merge(
        Node(
            node_id=node_id, name=claims["name"], base_url=claims["base_url"].rstrip("/"),
            exposure=claims.get("exposure", DIRECT), fingerprint=approved.strip().lower(), state=APPROVED, approved_us=now_us,
        )
    )  # fmt: skip
    session.flush()


def _approve_issuer(session: Session, row: Issuer | None, wanted: Mapping[str, Any], node_id: str, now_us: int) -> None:
    key = wanted["issuer"].lower()
    spelled = row.issuer if row is not None else wanted["issuer"]
    session.merge(
        Issuer(
            issuer_key=key, issuer=spelled, name=wanted["name"], node_id=node_id, state=APPROVED, changed_us=now_us
        )
    )  # fmt: skip
    session.flush()
    session.execute(delete(DocType).where(DocType.issuer_key == key))
    session.add_all(
        DocType(
            issuer_key=key, doc_type_key=doc_type["doc_type"].lower(), doc_type=doc_type["doc_type"],
            name=doc_type["name"], search_parameters=json.dumps(doc_type.get("search_parameters", [])),
            media_types=json.dumps(doc_type.get("media_types", [])),
        )
        for doc_type in wanted["doc_types"]
    )  # fmt: skip


def _issuer_summary(issuer: Issuer, node: Node | None) -> dict[str, Any]:
    return {
        "issuer": issuer.issuer, "name": issuer.name, "state": issuer.state, "node_id": issuer.node_id,
        "node_state": node.state if node else None, "base_url": node.base_url if node else None,
        "fingerprint": node.fingerprint if node else None, "health": node.health if node else None,
    }  # fmt: skip


def _approved_types(session: Session) -> dict[str, list[str]]:
    """Return the approved document types by issuer key."""
    found: dict[str, list[str]] = {}
    for row in session.scalars(select(DocType).order_by(DocType.issuer_key, DocType.doc_type_key)):
        found.setdefault(row.issuer_key, []).append(row.doc_type)
    return found


def _registration_summary(
    row: Registration, node: Node | None, bound: Mapping[str, Issuer], approved: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    claims = json.loads(row.claims)
    known = node is not None and node.fingerprint == row.fingerprint
    asks = []
    for wanted in claims["issuers"]:
        key, types = wanted["issuer"].lower(), [doc_type["doc_type"] for doc_type in wanted["doc_types"]]
        issuer = bound.get(key)
        answers = known and issuer is not None and issuer.node_id == row.node_id and issuer.state == APPROVED
        if not answers or {name.lower() for name in types} != {name.lower() for name in approved.get(key, ())}:
            asks.append({"issuer": wanted["issuer"], "doc_types": types})
    return {
        "registration_id": row.registration_id, "node_id": row.node_id, "name": claims["name"],
        "base_url": claims["base_url"], "fingerprint": row.fingerprint, "received_us": row.received_us,
        "issuers": [issuer["issuer"] for issuer in claims["issuers"]], "asks": asks,
    }  # fmt: skip


def _public_issuer(issuer: Issuer, node: Node, types: Sequence[DocType]) -> dict[str, Any]:
    return {
        "issuer": issuer.issuer, "name": issuer.name, "state": node.health,
        "doc_types": [
            {
                "issuer": issuer.issuer, "doc_type": row.doc_type, "name": row.name,
                "search_parameters": json.loads(row.search_parameters), "media_types": json.loads(row.media_types),
            }
            for row in types
        ],
    }  # fmt: skip
