"""The one place for authentication, roles and log rows of the control plane.

It stands inside Connexion after its routing, so that the operation is known, and before its checks of parameters and body, so
that nobody without a credential learns anything from them. Connexion gets a copy of the specification without ``security``:
two places that decide who may call would sooner or later decide differently.
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.contract.problems import (
    DocumentNotFound,
    Forbidden,
    InvalidCredential,
    LogUnavailable,
    NotFound,
    ProblemError,
    ServiceUnavailable,
)
from node.contract.uri import DocumentURI
from node.http.calls import Call
from node.http.credentials import Credentials
from node.http.ports import CatalogueRecords, FloodCounter
from node.http.principals import PUBLIC
from node.services import access
from node.services.access import NodeRules
from node.services.events import Caller
from node.services.floods import counted_as
from node.services.ports import AuditRecorder
from node.web.problems import ResponseBroken, request_id_of, send_problem_for, unexpected
from node.web.refusals import as_refusal
from node.web.specification import Operation

log = structlog.get_logger()

SEND_SECONDS = 60.0
"""Seconds after which a client that does not take an answer is left."""
DOCUMENT_PARAMETER = "uri"

# Anything else is no URI, and some of it no database takes as text.
_URI_CHARACTERS = re.compile(r"[A-Za-z0-9._~-]{1,290}")


class Gate:
    """Decides whether a caller may call an operation; blocking, and may be used from several threads."""

    def __init__(self, credentials: Credentials, catalogue: CatalogueRecords, rules: NodeRules) -> None:
        self._credentials = credentials
        self._catalogue = catalogue
        self._rules = rules

    def admit(self, call: Call, authorization: str | None) -> None:
        """Fill in who calls and which document is meant; raises the refusal.

        The credential is judged first, then its role, then the document, so that only who may read it learns that it exists.
        """
        call.principal = self._credentials.identify(authorization)
        if call.principal.role not in call.operation.roles:
            raise Forbidden(reason="role-not-allowed")
        if call.uri_text:
            self._find_document(call)

    def _find_document(self, call: Call) -> None:
        reader = call.principal.document_reader
        plausible = _URI_CHARACTERS.fullmatch(call.uri_text) is not None
        found = self._catalogue.document(call.uri_text.lower()) if plausible else None
        call.uri = found.uri if found else DocumentURI.parse(call.uri_text, self._catalogue.directory())
        locker = self._credentials.ticket_scope(reader)
        access.require_in_scope(reader, self._rules, locker, call.uri, found.office if found else None)
        if found is None:
            raise DocumentNotFound()
        version = reader.ticket.version if reader.ticket else None
        if version is not None and not found.of_version(version):
            raise DocumentNotFound(reason="version-not-known")
        call.found = found


class CallLog:
    """Writes the rows of calls, within the bounds that floods have; blocking."""

    def __init__(self, recorder: AuditRecorder, floods: FloodCounter, clock: Callable[[], int]) -> None:
        self._recorder = recorder
        self._floods = floods
        self._clock = clock

    def answered(self, call: Call, status: int) -> None:
        """Write the row of an audited call that was answered, unless it is there; raises LogUnavailable."""
        if not call.recorded:
            self._record(call.answered(status))

    def refused(self, call: Call, error: ProblemError) -> ProblemError:
        """Write the row of a call that was refused or failed and return what to answer, LogUnavailable when it cannot be written."""
        if not call.is_audited or call.recorded:
            return error
        event = call.refused(error)
        if access.credential_refused(error):
            verdict = self._floods.admit(counted_as(event), self._clock())
            if verdict.flooded:
                return verdict.problem()
        try:
            self._record(event)
        except LogUnavailable as unwritten:
            return unwritten
        return error

    def _record(self, event: Mapping[str, Any]) -> None:
        try:
            self._recorder.record(event)
        except LogUnavailable:
            raise
        except Exception as error:
            log.error("log_fault", error=type(error).__name__, request_id=event.get("request_id"))
            raise LogUnavailable() from error


class Authorization:
    """ASGI middleware: admits or refuses each call, hands it to the handler, and writes its row before the answer leaves.

    The answer, one piece of bounded size, is held until its row is durable. A client that then does not take it is left after a
    minute.
    """

    def __init__(
        self, app: ASGIApp, *, operations: Iterable[Operation], gate: Gate, log: CallLog, process_id: str
    ) -> None:
        self._app = app
        self._operations = {operation.operation_id: operation for operation in operations}
        self._gate = gate
        self._log = log
        self._process_id = process_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call; what the routing knows no operation for is answered here.

        Flask has a routing of its own and may know better: a path with a line break in it passes Connexion's routing by and would
        reach its handler without ever being judged.
        """
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        operation = self._operation(scope)
        if operation is None:
            return await send_problem_for(scope, send, NotFound())
        call = self._call(operation, scope)
        if PUBLIC not in operation.roles:
            try:
                await asyncio.to_thread(self._admit, call, _header(scope, b"authorization"))
            except ProblemError as error:
                return await self._refuse(call, error, scope, send)
        return await self._answer(call, scope, receive, send)

    def _operation(self, scope: Scope) -> Operation | None:
        routing = scope.get("extensions", {}).get("connexion_routing", {})
        return self._operations.get(routing.get("operation_id"))

    def _call(self, operation: Operation, scope: Scope) -> Call:
        scope.setdefault("state", {})["route"] = operation.path
        caller = Caller(request_id_of(scope), _source(scope), self._process_id)
        uri_text = scope.get("path_params", {}).get(DOCUMENT_PARAMETER, "")
        call = Call(operation, caller, uri_text=uri_text, accept=_header(scope, b"accept"))
        # Connexion hands this dictionary's members to the handlers that have a parameter of their name.
        scope.setdefault("extensions", {}).setdefault("connexion_context", {})["call"] = call
        return call

    def _admit(self, call: Call, authorization: str | None) -> None:
        try:
            self._gate.admit(call, authorization)
        except ProblemError:
            raise
        except Exception as error:
            log.error("credential_fault", error=type(error).__name__, request_id=call.caller.request_id)
            raise ServiceUnavailable(reason="credentials-unavailable", headers={"Retry-After": "5"}) from error

    async def _answer(self, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        answer: list[Message] = []

        async def hold(message: Message) -> None:
            answer.append(message)

        try:
            await self._app(scope, receive, hold)
        except Exception as error:
            request_id = call.caller.request_id
            call.error = as_refusal(error, has_credential=True) or unexpected(error, request_id)
        if call.error is not None:
            return await self._refuse(call, call.error, scope, send)
        try:
            if call.is_audited:
                await asyncio.to_thread(self._log.answered, call, answer[0]["status"])
        except ProblemError as error:
            return await send_problem_for(scope, send, error)
        return await _send_all(answer, send)

    async def _refuse(self, call: Call, error: ProblemError, scope: Scope, send: Send) -> None:
        answer = await asyncio.to_thread(self._log.refused, call, error)
        await send_problem_for(scope, send, _with_challenge(answer))


async def _send_all(answer: Iterable[Message], send: Send) -> None:
    try:
        async with asyncio.timeout(SEND_SECONDS):
            for message in answer:
                await send(message)
    except TimeoutError:
        raise ResponseBroken from None


def _with_challenge(error: ProblemError) -> ProblemError:
    """Say in a 401 that it is the token that was not accepted (RFC 6750 section 3.1); none was given is said by the bare scheme."""
    if not isinstance(error, InvalidCredential):
        return error
    challenge = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return InvalidCredential(error.detail, reason=error.reason, headers={**challenge, **error.headers})


def _header(scope: Scope, wanted: bytes) -> str | None:
    """Return a header, several of them joined (RFC 9110 section 5.3); two credentials joined are none."""
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
    return ", ".join(values) if values else None


def _source(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"
