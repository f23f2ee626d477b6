"""Problem documents (RFC 9457) as ASGI answers."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import structlog
from starlette.types import Scope, Send

from node.contract.identifiers import uuid7
from node.contract.problems import PROBLEM_MEDIA_TYPE, InternalError, ProblemError

log = structlog.get_logger("node.web")


class ResponseBroken(Exception):
    """Raised out of an application to have the connection closed in the middle of a response, so that it looks unfinished.

    It carries nothing: servers log what is raised at them, and what went wrong is in our own log already.
    """


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Return the request id that the RequestId middleware gave a request, or a new one outside of it."""
    state = scope.get("state") or {}
    return state.get("request_id") or uuid7()


def problem_answer(error: ProblemError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of the answer to a request that failed with a known error."""
    body = json.dumps(error.document(request_id), ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"content-type": PROBLEM_MEDIA_TYPE, "content-length": str(len(body)), "cache-control": "no-store"}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"  # RFC 9110 section 11.6.1: a 401 names a scheme
    headers.update((name.lower(), value) for name, value in error.headers.items())
    return error.status, headers, body


async def send_problem(send: Send, error: ProblemError, request_id: str, head: bool = False) -> None:
    """Send a problem document as the whole answer; ``head`` sends the headers alone."""
    status, headers, body = problem_answer(error, request_id)
    raw_headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw_headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def send_problem_for(scope: Scope, send: Send, error: ProblemError) -> None:
    """Send a problem document as the answer to the request of this scope."""
    await send_problem(send, error, request_id_of(scope), scope["method"] == "HEAD")


def unexpected(error: BaseException, request_id: str) -> InternalError:
    """Log an error without a row in the problem table, by its type and place in the code, and return the answer to it.

    An exception's text may hold what a caller sent, so it stays out of the log.
    """
    log.error("unexpected error", error=type(error).__name__, where=_place(error), request_id=request_id)
    return InternalError()


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"
