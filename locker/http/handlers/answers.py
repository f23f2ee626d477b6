"""How records are written in answers."""

import json
from collections.abc import Mapping
from typing import Any

from locker.db.models import TicketRecord
from locker.services.consents import ConsentView
from locker.services.directory import Received
from locker.services.records import Window
from node.contract.problems import BadRequest, UnacceptableContent
from node.contract.times import format_time, parse_time

Answer = tuple[Any, int, dict[str, str]]

JWT = {"Content-Type": "application/jwt"}


def consent_document(view: ConsentView) -> dict[str, Any]:
    """Return a consent as the specification has it."""
    return {
        "consent_id": view.consent_id, "state": view.state, "revision": view.revision,
        "requester": {"client_id": view.client_id, "name": view.requester},
        "items": [
            {"uri": uri, "representations": None if reps is None else list(reps)} for uri, reps in view.items
        ],
        "purpose": {"code": view.purpose, "text": view.purpose_text}, "once": view.once,
        "given_at": format_time(view.given_us), "changed_at": format_time(view.changed_us),
        "expires_at": format_time(view.expires_us),
    }  # fmt: skip


def record_document(row: TicketRecord) -> dict[str, Any]:
    """Return a ticket record."""
    return {
        "position": row.position, "jti": row.jti, "issued_at": format_time(row.issued_us),
        "expires_at": format_time(row.expires_us), "client_id": row.client_id, "act": row.act, "uri": row.uri,
        "node_id": row.node_id, "basis": row.basis, "consent_id": row.consent_id, "artefact": row.artefact,
        "purpose": row.purpose, "holder_ref": row.holder_ref,
    }  # fmt: skip


def attempt_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attempt; what it does not have is null."""
    names = ("reason", "role", "subject", "source", "act", "uri", "consent_id", "jti", "count", "request_id")
    query = row.get("query")
    return {
        "position": row["position"], "at": format_time(row["at_us"]), "operation": row["operation"],
        "outcome": row["outcome"], **{name: row.get(name) for name in names},
        "query": None if query is None else json.loads(query),
    }  # fmt: skip


def registration_document(received: Received) -> dict[str, Any]:
    """Return a registration and what it was approved for."""
    return {
        "registration_id": received.registration_id, "node_id": received.node_id, "fingerprint": received.fingerprint,
        "state": received.state,
        "scope": [{"issuer": issuer, "doc_types": list(types)} for issuer, types in received.scope],
    }  # fmt: skip


def with_time(row: Mapping[str, Any], field: str, name: str) -> dict[str, Any]:
    """Return a row whose microseconds in one field are written as a time under another name."""
    moment = row[field]
    rest = {key: value for key, value in row.items() if key != field}
    return {**rest, name: None if moment is None else format_time(moment)}


def body_time(text: str) -> int:
    """Read a time of a body; raises UnacceptableContent for one that is not in the calendar."""
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise UnacceptableContent("a time is written as 2026-11-25T09:30:00+05:30") from None


def window_of(after: int, limit: int, query: Mapping[str, str]) -> Window:
    """Read which rows of a feed are asked for; raises BadRequest. ``from`` is no name for a Python parameter."""
    return Window(after, limit, _query_time(query.get("from")), _query_time(query.get("to")))


def _query_time(text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except (ValueError, OverflowError):
        raise BadRequest("a time is written as 2026-11-25T09:30:00+05:30") from None
