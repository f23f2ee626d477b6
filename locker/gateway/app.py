"""The data plane's application: tickets, the access gateway, a resident's own reads."""

from dataclasses import replace

import structlog
from starlette.types import Receive, Scope, Send

from locker.gateway import resolve
from locker.gateway.passage import NodeClient, Passage, headers_to_node
from locker.gateway.requests import (
    Reading,
    consent_id,
    document_uri,
    headers_of,
    query_of,
    require_method,
)
from locker.gateway.resolve import OWN_PATH, RESOLVE_PATH, Office, Resolve
from locker.services.attempts import GATEWAY, OWN, Asked
from locker.services.tickets import ACT_GATEWAY, Granted, TicketRequest
from node.contract.problems import ProblemError
from node.web.problems import request_id_of, send_problem_for

log = structlog.get_logger("locker.gateway")

GATEWAY_PREFIX = "/v1/gateway/documents/"
OWN_PREFIX = "/v1/residents/me/documents/"
METHODS = ("GET", "HEAD")
TICKET_PATHS = (RESOLVE_PATH, OWN_PATH)
_RAW_TICKET_PATHS = frozenset(path.encode() for path in TICKET_PATHS)


class GatewayApp:
    """Answers what the contract marks as the data plane's."""

    def __init__(
        self,
        office: Office,
        client: NodeClient,
        *,
        send_timeout: float,
    ) -> None:
        """``send_timeout`` is in seconds."""
        self._office = office
        self._resolve = Resolve(office)
        self._passage = Passage(client, send_timeout=send_timeout)

    @staticmethod
    def routes() -> frozenset[tuple[str, str]]:
        """Return (method, path template) of all that this plane answers; the specification must mark the same."""
        documents = {(method, f"{prefix}{{uri}}") for prefix in (GATEWAY_PREFIX, OWN_PREFIX) for method in METHODS}
        return frozenset({*documents, *((method, path) for path in TICKET_PATHS for method in resolve.METHODS)})

    @staticmethod
    def owns(path: bytes) -> bool:
        """Tell whether a raw path is this plane's: whole paths, with one segment after a prefix."""
        return path in _RAW_TICKET_PATHS or any(
            path.startswith(prefix) and len(path) > len(prefix) and b"/" not in path[len(prefix) :]
            for prefix in (GATEWAY_PREFIX.encode(), OWN_PREFIX.encode())
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure leaves as a problem document, or as a broken connection once bytes are out."""
        path: str = scope["path"]
        try:
            if path in TICKET_PATHS:
                scope["state"]["route"] = path
                await self._resolve(scope, receive, send)
            else:
                prefix = GATEWAY_PREFIX if path.startswith(GATEWAY_PREFIX) else OWN_PREFIX
                scope["state"]["route"] = prefix + "{uri}"
                await self._document(prefix, scope, receive, send)
        except ProblemError as error:
            if error.status >= 500:
                log.warning("failed", reason=error.reason, request_id=request_id_of(scope))
            await send_problem_for(scope, send, error)

    async def _document(self, prefix: str, scope: Scope, receive: Receive, send: Send) -> None:
        require_method(scope, METHODS)
        headers = headers_of(scope)
        wish, passed_on = _wish(prefix, scope, headers)
        (outcome,) = await self._office.submit(wish)
        if not isinstance(outcome, Granted):
            raise outcome
        try:
            await self._passage.pass_through(outcome, passed_on, prefix, scope, receive, send)
        except ProblemError as error:
            # The ticket is on record; that nothing came of it is to be, too, before it is said. Raises the error again.
            await self._office.submit(replace(wish, fault=error, jti=outcome.jti))


def _wish(prefix: str, scope: Scope, headers: dict[str, str]) -> tuple[TicketRequest, dict[str, str]]:
    """Read a request for a document, its faults among it, and what of its headers goes on to the node."""
    reading = Reading(headers)
    uri = reading.part(document_uri, scope, prefix)
    query = reading.part(query_of, scope, ("consent_id",) if prefix == GATEWAY_PREFIX else ())
    under = reading.part(consent_id, headers, query or {}) if prefix == GATEWAY_PREFIX else None
    passed_on = reading.part(headers_to_node, headers)
    asked = Asked.by(scope, GATEWAY if prefix == GATEWAY_PREFIX else OWN)
    uris = () if uri is None else (uri,)
    return TicketRequest(reading.token_hash, uris, asked, under, act=ACT_GATEWAY, fault=reading.fault), passed_on or {}
