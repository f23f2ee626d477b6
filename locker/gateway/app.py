"""The data plane's application: resolving, the access gateway, a resident's own reads."""

from collections.abc import Mapping

import structlog
from starlette.types import Receive, Scope, Send

from locker.gateway import resolve
from locker.gateway.passage import NodeClient, Passage
from locker.gateway.requests import consent_id, document_uri, headers_of, query_of, require_method
from locker.gateway.resolve import Resolve
from locker.services.tickets import GATEWAY, Granted, Outcome, TicketRequest
from locker.services.tokens import bearer_digest
from node.contract.problems import ProblemError
from node.web.batches import BatchWorker
from node.web.problems import request_id_of, send_problem_for

log = structlog.get_logger("locker.gateway")

GATEWAY_PREFIX = "/v1/gateway/documents/"
OWN_PREFIX = "/v1/residents/me/documents/"
METHODS = ("GET", "HEAD")


class GatewayApp:
    """Answers what the contract marks as the data plane's."""

    def __init__(
        self,
        office: BatchWorker[TicketRequest, list[Outcome]],
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
        return frozenset({*documents, *((method, resolve.PATH) for method in resolve.METHODS)})

    @staticmethod
    def owns(path: bytes) -> bool:
        """Tell whether a raw path is this plane's: whole paths, with one segment after a prefix."""
        return path == resolve.PATH.encode() or any(
            path.startswith(prefix) and len(path) > len(prefix) and b"/" not in path[len(prefix) :]
            for prefix in (GATEWAY_PREFIX.encode(), OWN_PREFIX.encode())
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure leaves as a problem document, or as a broken connection once bytes are out."""
        path: str = scope["path"]
        try:
            if path == resolve.PATH:
                scope["state"]["route"] = resolve.PATH
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
        token_hash = bearer_digest(headers.get("authorization"))
        try:
            request = _request(prefix, scope, headers, token_hash)
        except ProblemError:
            # Who may not call learns that first, and nothing about what a good request looks like.
            await self._office.submit(TicketRequest(token_hash, (), "" if prefix == GATEWAY_PREFIX else None))
            raise
        (outcome,) = await self._office.submit(request)
        if not isinstance(outcome, Granted):
            raise outcome
        await self._passage.pass_through(outcome, headers, prefix, scope, receive, send)


def _request(prefix: str, scope: Scope, headers: Mapping[str, str], token_hash: str) -> TicketRequest:
    """Read a request for a document; raises BadRequest or MalformedURI."""
    uri = document_uri(scope, prefix)
    if prefix == GATEWAY_PREFIX:
        under = consent_id(headers, query_of(scope, ("consent_id",)))
        return TicketRequest(token_hash, (uri,), under, act=GATEWAY)
    query_of(scope, ())
    return TicketRequest(token_hash, (uri,), act=GATEWAY)
