"""The control plane's application: Connexion with Flask over the contract without the data plane's paths."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import connexion
import flask
from connexion.middleware import MiddlewarePosition
from connexion.options import SwaggerUIOptions
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from locker.db.session import database_faults
from locker.http.authorization import Authenticator, Authorization, QueryLog
from node.web.bodies import validator_map
from node.web.refusals import answer_refusals
from node.web.specification import METHODS, Operation, SpecificationError, operations


def create_control_app(
    specification: Mapping[str, Any],
    handlers: Iterable[object],
    authenticator: Authenticator,
    log: QueryLog,
    *,
    clock: Callable[[], int],
    max_body: int,
    validate_responses: bool = False,
) -> ASGIApp:
    """Build the application; raises SpecificationError for an operation that no handler has."""
    listed = operations(specification)
    resolve = _handlers_by_operation(listed, list(handlers))
    app = connexion.FlaskApp("locker", swagger_ui_options=SwaggerUIOptions(swagger_ui=False))
    app.add_api(
        without_security(specification),
        resolver=Resolver(resolve.__getitem__),
        strict_validation=True,
        validate_responses=validate_responses,
        validator_map=validator_map(max_body),
    )
    answer_refusals(app, listed)
    app.add_middleware(
        Authorization,
        MiddlewarePosition.BEFORE_SECURITY,
        operations=listed,
        authenticator=authenticator,
        log=log,
        clock=clock,
    )
    application: ASGIApp = app
    return application


def without_security(specification: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the specification whose operations name no security: Authorization decides alone."""
    stripped = copy.deepcopy(dict(specification))
    stripped.pop("security", None)
    for item in stripped["paths"].values():
        for method in METHODS:
            if method in item:
                item[method]["security"] = []
    return stripped


def _handlers_by_operation(listed: Sequence[Operation], handlers: Sequence[object]) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for operation in listed:
        owners = [handler for handler in handlers if hasattr(handler, operation.operation_id)]
        if len(owners) != 1:
            raise SpecificationError(f"{operation.operation_id} has {len(owners)} handlers")
        found[operation.operation_id] = _guarded(getattr(owners[0], operation.operation_id))
    return found


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Answer a database that cannot be reached as such; Connexion reads the handler's own parameters through the wrapper."""

    @functools.wraps(handler)
    def call(*arguments: Any, **named: Any) -> Any:
        with database_faults():
            answer = handler(*arguments, **named)
        if isinstance(answer, flask.Response):
            return answer
        body, status, headers = answer if isinstance(answer, tuple) else (answer, 200, {})
        # Connexion does not guess between the media types of an answer and of a problem.
        return body, status, {"Content-Type": "application/json", **headers}

    return call
