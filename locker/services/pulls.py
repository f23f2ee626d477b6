"""Searching a document with an issuer's node on a resident's behalf: who is asked, what is sent, how often it may be tried."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from locker.db.models import (
    DocType,
    Issuer,
    Node,
    PullAttempt,
    Resident,
    ResidentAttribute,
    ResidentIdentifier,
)
from locker.db.session import Database
from locker.keys import LockerKeys
from locker.services.directory import APPROVED, known_issuers
from locker.services.links import SELF_DECLARED, link_found
from locker.services.references import reference_for
from node.contract.identifiers import uuid7
from node.contract.problems import (
    NodeFault,
    NotFound,
    ProblemError,
    ServiceUnavailable,
    TooManyRequests,
    UnacceptableContent,
)
from node.contract.records import sign_request
from node.contract.sealing import SealingKey
from node.contract.signing import PULL
from node.contract.times import HOUR
from node.contract.uri import DocumentURI

OUTCOMES = ("matched", "pending", "no")
MAX_ANSWER = 64 * 1024
SEARCHES_AT_ONCE = 3
"""In one process: each holds a thread for as long as the node takes."""


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """A node's answer to a request of ours: status and body, at most MAX_ANSWER bytes."""

    status: int
    body: bytes


AskNode = Callable[[str, str, str | None, Mapping[str, Any] | None], NodeAnswer]
"""Send ``(node_id, url, bearer, body)`` to a node, with GET when there is no body; raises NodeUnavailable."""


@dataclass(frozen=True, slots=True)
class _Search:
    node_id: str
    base_url: str
    resident_ref: str
    attributes: Mapping[str, Any]
    identifiers: tuple[tuple[str, str], ...]


class Pulls:
    """A resident's searches with issuers."""

    def __init__(
        self, database: Database, keys: LockerKeys, ask: AskNode, *, iss: str, per_hour: int, clock: Callable[[], int]
    ) -> None:
        self._database = database
        self._keys = keys
        self._ask = ask
        self._iss = iss
        self._per_hour = per_hour
        self._clock = clock
        self._places = threading.BoundedSemaphore(SEARCHES_AT_ONCE)

    def search(self, resident_id: str, issuer: str, doc_type: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        """Ask the issuer's node and return its outcome.

        Raises NotFound, UnacceptableContent for parameters the type does not declare, TooManyRequests, NodeUnavailable and
        NodeFault, and ServiceUnavailable while as many searches wait for nodes as may at once: slow nodes stop nothing else.
        The try is counted before the node is asked, so that a crash gives no free ones.
        """
        if not self._places.acquire(blocking=False):
            raise ServiceUnavailable(
                "too many searches are under way", reason="searches", headers={"Retry-After": "10"}
            )
        try:
            return self._search(resident_id, issuer, doc_type, parameters)
        finally:
            self._places.release()

    def _search(self, resident_id: str, issuer: str, doc_type: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        attempt_id = uuid7()
        with self._database.write() as session:
            search = self._prepare(session, resident_id, issuer, doc_type, parameters)
            _require_tries_left(session, resident_id, issuer.lower(), self._per_hour, self._clock())
            session.add(
                PullAttempt(
                    attempt_id=attempt_id, resident_id=resident_id, issuer_key=issuer.lower(), outcome="asked",
                    at_us=self._clock(),
                )
            )  # fmt: skip
        outcome = self._exchange(search, attempt_id, issuer, doc_type, parameters)
        with self._database.write() as session:
            attempt = session.get_one(PullAttempt, attempt_id)
            attempt.outcome = outcome["outcome"]
            if outcome["outcome"] == "matched":
                uri = _found(session, search, outcome["uri"], issuer, doc_type)
                link_found(session, uri, search.node_id, resident_id, self._clock())
        return outcome

    def _prepare(
        self, session: Session, resident_id: str, issuer: str, doc_type: str, parameters: Mapping[str, str]
    ) -> _Search:
        row = session.execute(
            select(Node.node_id, Node.base_url, DocType.search_parameters)
            .join(Issuer, Issuer.node_id == Node.node_id)
            .join(DocType, DocType.issuer_key == Issuer.issuer_key)
            .where(Issuer.issuer_key == issuer.lower(), DocType.doc_type_key == doc_type.lower())
            .where(Issuer.state == APPROVED, Node.state == APPROVED)
        ).one_or_none()
        if row is None:
            raise NotFound("no such document type can be searched here")
        _require_parameters(json.loads(row.search_parameters), parameters)
        # Locked, so that tries which come at once are counted one after the other.
        resident = session.get_one(Resident, resident_id, with_for_update=True)
        attributes = {"full_name": {"value": resident.name, "source": SELF_DECLARED}}
        for attribute in session.scalars(select(ResidentAttribute).where(ResidentAttribute.resident_id == resident_id)):
            attributes[attribute.name] = {"value": attribute.value, "source": attribute.source}
        verified = ResidentIdentifier.source != SELF_DECLARED
        identifiers = session.execute(
            select(ResidentIdentifier.scheme, ResidentIdentifier.sealed)
            .where(ResidentIdentifier.resident_id == resident_id, verified)
            .limit(10)
        )
        return _Search(
            row.node_id, row.base_url, reference_for(session, row.node_id, resident_id), attributes,
            tuple((scheme, self._open(sealed, resident_id)) for scheme, sealed in identifiers),
        )  # fmt: skip

    def _open(self, sealed: str, resident_id: str) -> str:
        return self._keys.open_own(sealed, resident_id).decode("utf-8")

    def _exchange(
        self, search: _Search, txn: str, issuer: str, doc_type: str, parameters: Mapping[str, str]
    ) -> dict[str, Any]:
        sealing = self._sealing_key(search)
        body = {
            "txn": txn, "issuer": issuer, "doc_type": doc_type, "parameters": dict(parameters),
            "resident": {"resident_ref": search.resident_ref, "attributes": dict(search.attributes)},
            "holders": [_candidate(scheme, value, sealing, txn) for scheme, value in search.identifiers],
        }  # fmt: skip
        claims = {"iss": self._iss, "sub": search.resident_ref, "resident_ref": search.resident_ref, "txn": txn}
        bearer = sign_request(
            {**claims, "issuer": issuer, "doc_type": doc_type}, self._keys.signing[PULL],
            audience=search.node_id, now_us=self._clock(),
        )  # fmt: skip
        answer = self._ask(search.node_id, f"{search.base_url}/v1/pulls", bearer, body)
        return _read_outcome(answer, txn)

    def _sealing_key(self, search: _Search) -> SealingKey | None:
        """Return the key that a node publishes for identifiers; one that says it has none gets them inside TLS alone.

        Raises NodeFault for any answer but a descriptor: nobody makes a locker leave identifiers unsealed by getting in the
        way. Without TLS a node is only ever connected to in a private network that the operator allowed.
        """
        answer = self._ask(search.node_id, f"{search.base_url}/.well-known/federated-locker", None, None)
        if answer.status != 200:
            raise NodeFault("the node's descriptor cannot be read", reason=f"status-{answer.status}")
        try:
            keys = json.loads(answer.body).get("encryption_keys") or []
            return SealingKey.from_jwk(keys[0]) if keys else None
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise NodeFault("the node's descriptor cannot be read") from error


def _candidate(scheme: str, value: str, key: SealingKey | None, txn: str) -> dict[str, str]:
    if key is None:
        return {"scheme": scheme, "value": value}
    return {"scheme": scheme, "sealed": key.seal(value.encode("utf-8"), txn), "key_id": key.kid}


def _require_parameters(declared: list[dict[str, Any]], given: Mapping[str, str]) -> None:
    names = {row["name"] for row in declared}
    missing = [row["name"] for row in declared if row["required"] and not given.get(row["name"])]
    if missing or not set(given) <= names:
        raise UnacceptableContent("fill in the search parameters that the document type declares")


def _require_tries_left(session: Session, resident_id: str, issuer_key: str, per_hour: int, now_us: int) -> None:
    mine = (PullAttempt.resident_id == resident_id) & (PullAttempt.issuer_key == issuer_key)
    tried = select(func.count()).select_from(PullAttempt).where(mine, PullAttempt.at_us > now_us - HOUR)
    if (session.scalar(tried) or 0) >= per_hour:
        raise TooManyRequests("too many searches with this issuer", headers={"Retry-After": "3600"})


def _read_outcome(answer: NodeAnswer, txn: str) -> dict[str, Any]:
    if answer.status == TooManyRequests.status:
        raise TooManyRequests("the issuer takes no more searches for now", headers={"Retry-After": "3600"})
    if answer.status != 200:
        raise _fault(answer.status)
    try:
        document = json.loads(answer.body)
        outcome, uri = document["outcome"], document.get("uri")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NodeFault("the node's answer cannot be read") from error
    if outcome not in OUTCOMES or (outcome == "matched") != isinstance(uri, str):
        raise NodeFault("the node's answer cannot be read")
    return {"txn": txn, "outcome": outcome, **({"uri": uri} if uri else {})}


def _found(session: Session, search: _Search, text: str, issuer: str, doc_type: str) -> DocumentURI:
    """Return the document that a node found; raises NodeFault for one that it was not asked for or does not answer for."""
    try:
        uri = DocumentURI.parse(text, known_issuers(session))
    except ProblemError as error:
        raise NodeFault("the node's answer cannot be read") from error
    if (uri.issuer.lower(), uri.doc_type.lower()) != (issuer.lower(), doc_type.lower()):
        raise NodeFault("the node's answer names a document that was not asked for")
    mine = (Issuer.issuer_key == issuer.lower()) & (Issuer.node_id == search.node_id) & (Issuer.state == APPROVED)
    if session.scalar(select(Issuer.issuer_key).where(mine)) is None:
        raise NodeFault("the node does not answer for this issuer any longer")
    return uri


def _fault(status: int) -> ProblemError:
    if status == UnacceptableContent.status:
        return UnacceptableContent("the node does not take these search parameters")
    return NodeFault("the node refused the search", reason=f"status-{status}")
