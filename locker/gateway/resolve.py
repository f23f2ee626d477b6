"""Asking for tickets: many documents under a consent, or one of one's own; all requests that wait in one transaction."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from locker.gateway.requests import (
    Reading,
    headers_of,
    query_of,
    read_json,
    require_method,
    require_own_wish,
    require_wish,
    send_json,
)
from locker.services.attempts import OWN, RESOLVE, Asked
from locker.services.links import row_problem
from locker.services.tickets import Granted, Outcome, TicketRequest
from node.contract.times import format_time
from node.web.batches import BatchWorker

RESOLVE_PATH = "/v1/resolve"
OWN_PATH = "/v1/residents/me/tickets"
METHODS = ("POST",)

Office = BatchWorker[TicketRequest, list[Outcome]]


class Resolve:
    """Answers requests for tickets."""

    def __init__(self, office: Office) -> None:
        self._office = office

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises ProblemError."""
        require_method(scope, METHODS)
        if scope["path"] == OWN_PATH:
            return await self._own(scope, receive, send)
        reading, body = await _read(scope, receive, require_wish)
        uris = tuple(body.get("uris", ()))
        wish = TicketRequest(
            reading.token_hash, uris, Asked.by(scope, RESOLVE), body.get("consent_id"), body.get("representation"),
            fault=reading.fault,
        )  # fmt: skip
        outcomes = await self._office.submit(wish)
        await send_json(send, 200, {"results": [_result(uri, row) for uri, row in zip(uris, outcomes, strict=True)]})

    async def _own(self, scope: Scope, receive: Receive, send: Send) -> None:
        reading, body = await _read(scope, receive, require_own_wish)
        uris = (body["uri"],) if "uri" in body else ()
        (outcome,) = await self._office.submit(
            TicketRequest(reading.token_hash, uris, Asked.by(scope, OWN), fault=reading.fault)
        )
        if not isinstance(outcome, Granted):
            raise outcome
        await send_json(send, 200, {"uri": outcome.uri, **_ticket(outcome)})


async def _read(
    scope: Scope, receive: Receive, require: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> tuple[Reading, Mapping[str, Any]]:
    """Return the reading and the body, an empty one where it has a fault or comes without a credential."""
    headers = headers_of(scope)
    reading = Reading(headers)
    reading.part(query_of, scope, ())
    body = await reading.awaited(read_json(scope, headers, receive)) if reading.token_hash else None
    return reading, {} if body is None else reading.part(require, body) or {}


def _result(uri: str, outcome: Outcome) -> dict[str, Any]:
    if not isinstance(outcome, Granted):
        return {"uri": uri, "outcome": "refused", "problem": row_problem(outcome)}
    return {"uri": uri, "outcome": "resolved", **_ticket(outcome)}


def _ticket(granted: Granted) -> dict[str, Any]:
    return {
        "node": {"node_id": granted.node_id, "base_url": granted.base_url},
        "url": f"{granted.base_url}/v1/documents/{granted.uri}", "ticket": granted.ticket,
        "expires_at": format_time(granted.expires_us),
    }  # fmt: skip
