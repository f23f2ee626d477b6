"""The one place for authentication and roles of the control plane.

It stands inside Connexion after its routing, so that the operation is known, and before its checks of parameters and body, so
that nobody without a credential learns anything from them. Connexion gets a copy of the specification without ``security``:
two places that decide who may call would sooner or later decide differently.

Whoever queries the records leaves a row among them, written before the answer leaves; so does whoever may not.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from locker.db.session import database_faults
from locker.services.attempts import LOG_QUERY, Asked
from locker.services.principal import Principal
from locker.services.tokens import APPLICANT
from node.contract.problems import BadRequest, Forbidden, InternalError, NotFound, ProblemError
from node.web.problems import request_id_of, send_problem_for
from node.web.refusals import as_refusal
from node.web.specification import Operation

log = structlog.get_logger("locker.http")

PUBLIC = "public"
APPLICANT_OPERATIONS = frozenset({"get_registration"})
"""What a node may call while it waits for approval."""
RECORDED = frozenset({LOG_QUERY})
"""Audit actions that are recorded here; tickets, reads and searches have rows of their own."""


class Authenticator(Protocol):
    """Tells who holds an access token."""

    def authenticate(self, authorization: str | None, now_us: int) -> Principal:
        """Return the holder; raises MissingCredential or InvalidCredential."""


class QueryLog(Protocol):
    """Records what is refused and what is queried."""

    def refused(self, asked: Asked, authorization: str | None, error: ProblemError) -> ProblemError:
        """Record a refused attempt and return what to answer."""

    def queried(self, asked: Asked, principal: Principal, query: Mapping[str, str], fault: ProblemError | None) -> None:
        """Record a query; raises ServiceUnavailable."""


class Authorization:
    """ASGI middleware: admits or refuses each call by the operation's ``x-roles``; handlers get the Principal as ``caller``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        operations: Iterable[Operation],
        authenticator: Authenticator,
        log: QueryLog,
        clock: Callable[[], int],
    ) -> None:
        self._app = app
        self._operations = {operation.operation_id: operation for operation in operations}
        self._authenticator = authenticator
        self._log = log
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one call pass or answer it.

        What Connexion's routing does not know is answered here: Flask behind it reads paths a little differently (a line break in
        one is enough) and would hand the call to a handler that nobody has admitted it to.
        """
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        operation = self._operation(scope)
        if operation is None:
            return await send_problem_for(scope, send, NotFound())
        scope.setdefault("state", {})["route"] = operation.path
        try:
            caller = await asyncio.to_thread(self._admit, operation, authorization_of(scope))
        except ProblemError as error:
            log.info("refused", operation=operation.operation_id, reason=error.reason, request_id=request_id_of(scope))
            if operation.audit in RECORDED:
                asked = Asked.by(scope, operation.audit)
                error = await asyncio.to_thread(self._log.refused, asked, authorization_of(scope), error)
            return await send_problem_for(scope, send, error)
        # Connexion hands this dictionary's members to the handlers that have a parameter of their name.
        scope.setdefault("extensions", {}).setdefault("connexion_context", {})["caller"] = caller
        if operation.audit in RECORDED and caller is not None:
            return await self._recorded(Asked.by(scope, operation.audit), caller, scope, receive, send)
        return await self._app(scope, receive, send)

    async def _recorded(self, asked: Asked, caller: Principal, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a query of the records, whose own row is durable before the answer leaves."""
        answer: list[Message] = []

        async def hold(message: Message) -> None:
            answer.append(message)

        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        try:
            await self._app(scope, receive, hold)
        except Exception as error:  # Connexion's refusals among them, which are answered further out
            fault = as_refusal(error, has_credential=True) or InternalError()
            await asyncio.to_thread(self._log.queried, asked, caller, query, fault)
            raise
        try:
            await asyncio.to_thread(self._log.queried, asked, caller, query, _fault(answer[0]["status"]))
        except ProblemError as error:
            return await send_problem_for(scope, send, error)
        for message in answer:
            await send(message)

    def _operation(self, scope: Scope) -> Operation | None:
        routing: dict[str, Any] = scope.get("extensions", {}).get("connexion_routing", {})
        return self._operations.get(str(routing.get("operation_id")))

    def _admit(self, operation: Operation, authorization: str | None) -> Principal | None:
        if PUBLIC in operation.roles:
            return None
        with database_faults():
            caller = self._authenticator.authenticate(authorization, self._clock())
        waiting = caller.role == APPLICANT and operation.operation_id in APPLICANT_OPERATIONS
        if caller.role not in operation.roles and not waiting:
            raise Forbidden(reason="role-not-allowed")
        return caller


def _fault(status: int) -> ProblemError | None:
    """Return why a query was not answered, as far as its status tells."""
    if status < 400:
        return None
    return BadRequest() if status < 500 else InternalError()


def authorization_of(scope: Scope) -> str | None:
    """Return the Authorization header, None without one; two of them are no credential."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    return values[0].decode("latin-1") if len(values) == 1 else "two"
