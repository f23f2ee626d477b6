"""The one place for authentication and roles of the control plane.

It stands inside Connexion after its routing, so that the operation is known, and before its checks of parameters and body, so
that nobody without a credential learns anything from them. Connexion gets a copy of the specification without ``security``:
two places that decide who may call would sooner or later decide differently.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp, Receive, Scope, Send

from locker.services.principal import Principal
from locker.services.tokens import APPLICANT
from node.contract.problems import Forbidden, NotFound, ProblemError, ServiceUnavailable
from node.web.problems import request_id_of, send_problem_for
from node.web.specification import Operation

log = structlog.get_logger("locker.http")

PUBLIC = "public"
APPLICANT_OPERATIONS = frozenset({"get_registration"})
"""What a node may call while it waits for approval."""
RECORDED = frozenset({"log.query"})
"""Audit actions that this plane writes to the service's log; reads and searches have rows of their own."""


class Authenticator(Protocol):
    """Tells who holds an access token."""

    def authenticate(self, authorization: str | None, now_us: int) -> Principal:
        """Return the holder; raises MissingCredential or InvalidCredential."""


class Authorization:
    """ASGI middleware: admits or refuses each call by the operation's ``x-roles``; handlers get the Principal as ``caller``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        operations: Iterable[Operation],
        authenticator: Authenticator,
        clock: Callable[[], int],
    ) -> None:
        self._app = app
        self._operations = {operation.operation_id: operation for operation in operations}
        self._authenticator = authenticator
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
            return await send_problem_for(scope, send, error)
        if operation.audit in RECORDED:
            log.info(operation.audit, operation=operation.operation_id, subject=caller.subject if caller else None)
        # Connexion hands this dictionary's members to the handlers that have a parameter of their name.
        scope.setdefault("extensions", {}).setdefault("connexion_context", {})["caller"] = caller
        return await self._app(scope, receive, send)

    def _operation(self, scope: Scope) -> Operation | None:
        routing: dict[str, Any] = scope.get("extensions", {}).get("connexion_routing", {})
        return self._operations.get(str(routing.get("operation_id")))

    def _admit(self, operation: Operation, authorization: str | None) -> Principal | None:
        if PUBLIC in operation.roles:
            return None
        try:
            caller = self._authenticator.authenticate(authorization, self._clock())
        except SQLAlchemyError as error:
            log.error("database fault", error=type(error).__name__)
            raise ServiceUnavailable(reason="database", headers={"Retry-After": "5"}) from error
        waiting = caller.role == APPLICANT and operation.operation_id in APPLICANT_OPERATIONS
        if caller.role not in operation.roles and not waiting:
            raise Forbidden(reason="role-not-allowed")
        return caller


def authorization_of(scope: Scope) -> str | None:
    """Return the Authorization header, None without one; two of them are no credential."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    return values[0].decode("latin-1") if len(values) == 1 else "two"
