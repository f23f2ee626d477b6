"""The one table from error to RFC 9457 problem document, for nodes and lockers, both planes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

PROBLEM_BASE = "https://federated-locker.example/problems/"
PROBLEM_MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """An error that has a row in the problem table.

    ``detail`` is one sentence for the caller and never carries what the caller sent. ``reason`` is a short word for the
    access log. ``headers`` go out with the answer.
    """

    slug: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(
        self,
        detail: str | None = None,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.reason = reason or self.slug
        self.headers: Mapping[str, str] = MappingProxyType(dict(headers or {}))
        self.extra: Mapping[str, Any] = MappingProxyType(dict(extra or {}))

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the problem document (RFC 9457 section 3) for this error under a request id."""
        body: dict[str, Any] = {"type": PROBLEM_BASE + self.slug, "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        return {**body, **self.extra, "request_id": request_id}


class InternalError(ProblemError):
    """Anything without a row of its own."""


class BadRequest(ProblemError):
    slug, status, title = "bad-request", 400, "The request is not in the form that this service expects"


class MalformedURI(ProblemError):
    slug, status, title = "malformed-uri", 400, "This is not a document URI"


class MissingCredential(ProblemError):
    slug, status, title = "missing-credential", 401, "This request needs a ticket or an access token"


class InvalidCredential(ProblemError):
    slug, status, title = "invalid-credential", 401, "The ticket or access token was not accepted"


class Forbidden(ProblemError):
    slug, status, title = "forbidden", 403, "This credential does not allow the request"


class ConsentRequired(ProblemError):
    slug, status, title = "consent-required", 403, "There is no consent that allows this request"


class OutOfScope(ProblemError):
    slug, status, title = "out-of-scope", 403, "This issuer or document type is outside the approved scope"


class DocumentNotFound(ProblemError):
    slug, status, title = "document-not-found", 404, "No document with this URI is known here"


class UnknownIssuer(DocumentNotFound):
    """The URI is well formed, its issuer is not one of ours; looks like any other unknown document from outside."""


class NotFound(ProblemError):
    slug, status, title = "not-found", 404, "There is nothing at this address"


class MethodNotAllowed(ProblemError):
    slug, status, title = "method-not-allowed", 405, "This address does not take that method"


class NotAcceptable(ProblemError):
    slug, status, title = "not-acceptable", 406, "The document is not available in a form that the request accepts"


class RequestTimeout(ProblemError):
    slug, status, title = "request-timeout", 408, "The request did not arrive in time"


class Conflict(ProblemError):
    slug, status, title = "conflict", 409, "The request does not fit the present state"


class DocumentRevoked(ProblemError):
    slug, status, title = "document-revoked", 410, "The issuer has revoked this document"


class PreconditionFailed(ProblemError):
    slug, status, title = "precondition-failed", 412, "The document is not in the state that the request names"


class BodyTooLarge(ProblemError):
    slug, status, title = "body-too-large", 413, "The request is larger than this service takes"


class UnsupportedMediaType(ProblemError):
    slug, status, title = "unsupported-media-type", 415, "This service does not take content of that media type"


class RangeNotSatisfiable(ProblemError):
    slug, status, title = "range-not-satisfiable", 416, "The document does not have the range that was asked for"


class UnacceptableContent(ProblemError):
    slug, status, title = "unacceptable-content", 422, "The content was understood but cannot be taken"


class DigestMismatch(ProblemError):
    slug, status, title = "digest-mismatch", 422, "The content does not have the digest that the request gives"


class TooManyRequests(ProblemError):
    slug, status, title = "too-many-requests", 429, "Too many requests; try again later"


class HeadersTooLarge(ProblemError):
    slug, status, title = "headers-too-large", 431, "The request's headers are larger than this service takes"


class StoreFault(ProblemError):
    slug, status, title = "store-fault", 502, "The document's storage did not give the document as recorded"


class NodeFault(ProblemError):
    slug, status, title = "node-fault", 502, "The issuer's node gave an answer that cannot be used"


class StoreUnavailable(ProblemError):
    slug, status, title = "store-unavailable", 503, "The document's storage cannot be reached at the moment"


class NodeUnavailable(ProblemError):
    slug, status, title = "node-unavailable", 503, "The issuer's node cannot be reached at the moment"


class ServiceUnavailable(ProblemError):
    slug, status, title = "service-unavailable", 503, "The service cannot answer at the moment"


class LogUnavailable(ProblemError):
    slug, status, title = "log-unavailable", 503, "The access log cannot be written, so nothing is served"


class StorageFull(ProblemError):
    slug, status, title = "storage-full", 507, "There is no room to store this"


@dataclass(frozen=True)
class ProblemType:
    """One row of the published list of problem types."""

    slug: str
    status: int
    title: str
    errors: tuple[str, ...] = field(default=())


def problem_types() -> tuple[ProblemType, ...]:
    """Return the published list, one row for each slug, ordered by status then slug."""
    rows: dict[str, ProblemType] = {}
    pending: list[type[ProblemError]] = [ProblemError]
    while pending:
        error = pending.pop()
        pending.extend(error.__subclasses__())
        row = rows.get(error.slug)
        names = {*(row.errors if row else ()), error.__name__}
        rows[error.slug] = ProblemType(error.slug, error.status, error.title, tuple(sorted(names)))
    return tuple(sorted(rows.values(), key=lambda row: (row.status, row.slug)))


def as_problem(error: BaseException) -> ProblemError:
    """Return the error itself when it has a row, else a plain InternalError that tells nothing of it."""
    return error if isinstance(error, ProblemError) else InternalError()
