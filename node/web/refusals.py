"""What Connexion, Starlette and Flask refuse by themselves, turned into our problem documents."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import connexion
import flask
from connexion.exceptions import ExtraParameterProblem, ProblemException, TypeValidationError
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from werkzeug.exceptions import HTTPException as WerkzeugHTTPException

from node.contract.problems import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    Forbidden,
    HeadersTooLarge,
    InvalidCredential,
    MethodNotAllowed,
    MissingCredential,
    NotAcceptable,
    NotFound,
    PreconditionFailed,
    ProblemError,
    RangeNotSatisfiable,
    RequestTimeout,
    ServiceUnavailable,
    TooManyRequests,
    UnacceptableContent,
    UnsupportedMediaType,
)
from node.web.problems import problem_answer, request_id_of, unexpected
from node.web.specification import Operation, allowed_methods

_BY_STATUS: dict[int, type[ProblemError]] = {
    error.status: error
    for error in (
        BadRequest,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        NotAcceptable,
        RequestTimeout,
        Conflict,
        PreconditionFailed,
        BodyTooLarge,
        UnsupportedMediaType,
        RangeNotSatisfiable,
        UnacceptableContent,
        TooManyRequests,
        HeadersTooLarge,
        ServiceUnavailable,
    )
}

_KEPT_HEADERS = ("allow", "retry-after", "content-range", "www-authenticate")


def as_refusal(error: BaseException, *, has_credential: bool = False) -> ProblemError | None:
    """Return the row of the problem table for a framework's refusal, None for an error that is no refusal.

    The framework's own text is left behind, since it repeats the offending value.
    """
    if isinstance(error, ProblemError):
        return error
    status = _status(error)
    if status is None or not (400 <= status < 500 or status == 503):
        return None
    headers = _kept_headers(error)
    if status == 401:
        return InvalidCredential(headers=headers) if has_credential else MissingCredential(headers=headers)
    return _BY_STATUS.get(status, BadRequest)(_detail(error), headers=headers)


def answer_refusals(app: connexion.FlaskApp, operations: Iterable[Operation]) -> None:
    """Have a Connexion application answer every refusal and every error from our problem table, inside Flask and outside.

    ``operations`` are the specification's, for the methods that a 405 allows.
    """
    listed = tuple(operations)
    on_error = _connexion_handler(listed)
    for kind in (ProblemError, ProblemException, StarletteHTTPException, Exception):
        app.add_error_handler(kind, on_error)
    for kind in (ProblemError, WerkzeugHTTPException, Exception):
        app.app.register_error_handler(kind, flask_error)


def _connexion_handler(
    operations: tuple[Operation, ...],
) -> Callable[[ConnexionRequest, Exception], Awaitable[ConnexionResponse]]:
    async def on_error(request: ConnexionRequest, error: Exception) -> ConnexionResponse:
        scope = request.scope
        request_id = request_id_of(scope)
        has_credential = "authorization" in request.headers
        problem = as_refusal(error, has_credential=has_credential) or unexpected(error, request_id)
        status, headers, body = problem_answer(problem, request_id)
        if status == 405 and (methods := allowed_methods(operations, scope["path"])):
            headers["allow"] = ", ".join(methods)
        return ConnexionResponse(status_code=status, body=body, headers=headers)

    return on_error


def flask_error(error: Exception) -> flask.Response:
    """Answer an error inside Flask; an error handler for every kind of exception."""
    scope = flask.request.environ.get("asgi.scope", {})
    request_id = request_id_of(scope)
    has_credential = "Authorization" in flask.request.headers
    problem = as_refusal(error, has_credential=has_credential) or unexpected(error, request_id)
    status, headers, body = problem_answer(problem, request_id)
    return flask.Response(body, status, headers)


def _status(error: BaseException) -> int | None:
    if isinstance(error, WerkzeugHTTPException):
        return error.code
    return error.status_code if isinstance(error, StarletteHTTPException) else None


def _kept_headers(error: BaseException) -> dict[str, str]:
    if isinstance(error, WerkzeugHTTPException):
        given: Iterable[tuple[str, Any]] = error.get_headers()
    else:
        given = (getattr(error, "headers", None) or {}).items()
    return {name: str(value) for name, value in given if name.lower() in _KEPT_HEADERS}


def _detail(error: BaseException) -> str | None:
    """Return a sentence that names parameters of the specification only, never what was sent."""
    if isinstance(error, ExtraParameterProblem):
        return "The request has a parameter that is not known here"
    if isinstance(error, TypeValidationError):
        return str(error.detail)
    return None
