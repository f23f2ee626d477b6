"""POST /v1/resolve: many URIs to addresses and tickets, all requests that wait in one transaction."""

from typing import Any

from starlette.types import Receive, Scope, Send

from locker.gateway.requests import headers_of, query_of, read_json, require_method, resolve_request, send_json
from locker.services.links import row_problem
from locker.services.tickets import Granted, Outcome, TicketRequest
from locker.services.tokens import bearer_digest
from node.contract.problems import ProblemError
from node.contract.times import format_time
from node.web.batches import BatchWorker

PATH = "/v1/resolve"
METHODS = ("POST",)


class Resolve:
    """Answers requests to resolve."""

    def __init__(self, office: BatchWorker[TicketRequest, list[Outcome]]) -> None:
        self._office = office

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises ProblemError."""
        require_method(scope, METHODS)
        headers = headers_of(scope)
        token_hash = bearer_digest(headers.get("authorization"))
        try:
            query_of(scope, ())
            request = resolve_request(await read_json(scope, headers, receive), token_hash)
        except ProblemError:
            # Who may not call learns that first, and nothing about what a good request looks like.
            await self._office.submit(TicketRequest(token_hash, (), consent_id=""))
            raise
        outcomes = await self._office.submit(request)
        results = [_result(uri, outcome) for uri, outcome in zip(request.uris, outcomes, strict=True)]
        await send_json(send, 200, {"results": results})


def _result(uri: str, outcome: Outcome) -> dict[str, Any]:
    if not isinstance(outcome, Granted):
        return {"uri": uri, "outcome": "refused", "problem": row_problem(outcome)}
    return {
        "uri": uri, "outcome": "resolved", "node": {"node_id": outcome.node_id, "base_url": outcome.base_url},
        "url": f"{outcome.base_url}/v1/documents/{outcome.uri}", "ticket": outcome.ticket,
        "expires_at": format_time(outcome.expires_us),
    }  # fmt: skip
