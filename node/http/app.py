"""The control plane: every operation and page of the node except a document's bytes.

Connexion stands on Flask here. Measured on two cores, ``AsyncApp`` answers 2.0 times as many health checks and 1.6 times as many
logged metadata reads. That is not enough to give up Flask, which the pages and the problem documents of refusals are made with:
what must be fast is the data plane's. The bridge's weaknesses (ten threads, blind to a client that has left) do not show: an
answer is one piece of bounded size, so a handler's thread is free as soon as it has answered, however slow the client.
"""

import copy
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any

import connexion
from connexion.datastructures import MediaTypeDict
from connexion.middleware import ConnexionMiddleware, MiddlewarePosition
from connexion.middleware.routing import RoutingMiddleware
from connexion.middleware.server_error import ServerErrorMiddleware
from connexion.options import SwaggerUIOptions
from connexion.resolver import Resolver
from connexion.validators import JSONResponseBodyValidator
from starlette.types import ASGIApp, Receive, Scope, Send

from node.contract.problems import PROBLEM_MEDIA_TYPE, InternalError
from node.http.authorize import DOCUMENT_PARAMETER, Authorization, CallLog, Gate
from node.http.calls import Call
from node.http.credentials import Credentials
from node.http.handlers.access_log import AccessLogHandlers
from node.http.handlers.answers import JSON
from node.http.handlers.documents import DocumentHandlers
from node.http.handlers.federation import FederationHandlers
from node.http.handlers.operation import OperationHandlers
from node.http.pages import SpecificationPages
from node.http.ports import ControlServices
from node.services.audit import Action
from node.web.bodies import validator_map
from node.web.refusals import answer_refusals, as_refusal
from node.web.specification import (
    Document,
    Operation,
    SpecificationError,
    load_specification,
    operations,
    split_planes,
)

Handler = Callable[..., Any]

BODY_LIMIT = 1024 * 1024

# Connexion's own map takes application/x-ndjson for JSON; only tests have answers validated.
_JSON_ANSWERS = MediaTypeDict(dict.fromkeys((JSON, PROBLEM_MEDIA_TYPE), JSONResponseBodyValidator))


class ControlApp:
    """The pages go to their own application, all else to Connexion."""

    def __init__(self, pages: SpecificationPages, operations: ASGIApp) -> None:
        self._pages = pages
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and self._pages.owns(scope["path"]):
            return await self._pages(scope, receive, send)
        return await self._operations(scope, receive, send)


def create_control_app(
    services: ControlServices, *, specification: Document | None = None, validate_responses: bool = False
) -> ASGIApp:
    """Build the control plane at once, so that a fault in the specification stops the start.

    ``specification`` is the whole contract, the packaged one unless given. ``validate_responses`` is for tests. Raises
    SpecificationError for an operation without declarations or handler, or a handler without operation.
    """
    whole = specification or load_specification(resources.files("openapi"), "node.yaml")
    control, _ = split_planes(whole)
    declared = operations(control)
    handlers = _handlers(services, json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode())
    _require_complete(declared, handlers)
    # Ours answers what is unexpected. Connexion's would make an answer, forget to await it, and send none.
    layers = [layer for layer in ConnexionMiddleware.default_middlewares if layer is not ServerErrorMiddleware]
    options = SwaggerUIOptions(swagger_ui=False, serve_spec=False)
    app = connexion.FlaskApp("node.http", swagger_ui_options=options, middlewares=layers)
    app.add_api(
        _without_security(control),
        base_path="",
        resolver=Resolver({name: _noting_errors(handler) for name, handler in handlers.items()}.__getitem__),
        strict_validation=True,
        validate_responses=validate_responses,
        validator_map={**validator_map(BODY_LIMIT), "response": _JSON_ANSWERS},
    )
    credentials = Credentials(
        services.credentials, services.rules, services.limits, services.refresh_keys, services.clock
    )
    app.add_middleware(
        Authorization,
        position=MiddlewarePosition.BEFORE_SECURITY,
        operations=declared,
        gate=Gate(credentials, services.catalogue, services.rules),
        log=CallLog(services.recorder, services.floods, services.clock),
        process_id=services.process_id,
    )
    answer_refusals(app, declared)
    _build(app)
    return ControlApp(SpecificationPages(), app)


def _handlers(services: ControlServices, specification: bytes) -> dict[str, Handler]:
    """Return every handler by its operationId: the methods of the handlers' classes have the operations' names."""
    documents, federation = DocumentHandlers(services), FederationHandlers(services)
    log, operation = AccessLogHandlers(services), OperationHandlers(services, specification)
    return {
        name: getattr(group, name)
        for group in (documents, federation, log, operation)
        for name in vars(type(group))
        if not name.startswith("_")
    }


def _require_complete(declared: Iterable[Operation], handlers: Mapping[str, Handler]) -> None:
    listed = tuple(declared)
    names = {operation.operation_id for operation in listed}
    actions = {"none", *Action}
    faults = [f"no handler for {name}" for name in sorted(names - handlers.keys())]
    faults += [f"no operation for the handler {name}" for name in sorted(handlers.keys() - names)]
    faults += [
        f"{operation.operation_id} has an x-audit that is no action"
        for operation in listed
        if operation.audit not in actions
    ]
    if faults:
        raise SpecificationError("; ".join(faults))


def _noting_errors(handler: Handler) -> Handler:
    """Have what a handler raises noted at its call, where it reaches the log row; Flask answers errors where ASGI cannot see them."""

    @functools.wraps(handler)
    def run(call: Call, **arguments: Any) -> Any:
        if call.uri_text:
            del arguments[DOCUMENT_PARAMETER]  # the document itself is at the call
        try:
            return handler(call=call, **arguments)
        except Exception as error:
            call.error = as_refusal(error) or InternalError()
            raise

    return run


def _without_security(control: Document) -> Document:
    """Return a copy for Connexion in which nothing is said of security: one place decides who may call, and it is not Connexion."""
    stripped = copy.deepcopy(control)
    stripped.pop("security", None)
    stripped.get("components", {}).pop("securitySchemes", None)
    for item in stripped["paths"].values():
        for entry in item.values():
            if isinstance(entry, dict):
                entry.pop("security", None)
    return stripped


def _build(app: connexion.FlaskApp) -> None:
    """Build Connexion's stack now; it does so at the first request, and a fault in it would be found by a caller.

    What is used here is not public, so Connexion is pinned to the version that the tests ran with.
    """
    middleware = app.middleware
    middleware.app, middleware.middleware_stack = middleware._build_middleware_stack()
    for layer in middleware.middleware_stack:
        if isinstance(layer, RoutingMiddleware):
            # An address with a slash too many is not found; a redirect would repeat the Host header that came.
            for route in layer.router.routes:
                route.app.redirect_slashes = False
