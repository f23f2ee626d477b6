"""Reading requests of the data plane, which no framework checks: query, headers, body, each as the contract has it."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.types import Receive, Scope, Send

from locker.services.tokens import bearer_digest
from node.contract.problems import BadRequest, MalformedURI, MethodNotAllowed, ProblemError, UnsupportedMediaType
from node.web.limits import too_large
from node.web.strict_json import parse_json

MAX_URIS = 100
MAX_BODY = 64 * 1024
MAX_PARAMETERS = 50

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
_URI = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}-[A-Za-z0-9]{1,32}-[A-Za-z0-9._~-]{1,128}\Z")
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}\Z")
# Made once: ``json.dumps`` with any option makes an encoder at each call.
_write_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_CHARSETS = ("utf-8", "utf8", "us-ascii")

T = TypeVar("T")


class Reading:
    """Reads a request part by part, on past the first fault, so that an attempt is recorded with all that was good of it."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.fault: ProblemError | None = None
        self.token_hash = self.part(bearer_digest, headers.get("authorization")) or ""

    def part(self, read: Callable[..., T], *arguments: Any) -> T | None:
        """Return what a reader returns, None when it finds a fault."""
        try:
            return read(*arguments)
        except ProblemError as error:
            self.fault = self.fault or error
            return None

    async def awaited(self, reading: Awaitable[T]) -> T | None:
        """Do as ``part`` for what has to be waited for."""
        try:
            return await reading
        except ProblemError as error:
            self.fault = self.fault or error
            return None


def require_method(scope: Scope, methods: Sequence[str]) -> None:
    """Raise MethodNotAllowed with Allow for any other method."""
    if scope["method"] not in methods:
        raise MethodNotAllowed(headers={"Allow": ", ".join(methods)})


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the request's headers by lower-case name; repeated ones are joined as RFC 9110 section 5.3 allows."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def query_of(scope: Scope, allowed: Sequence[str]) -> dict[str, str]:
    """Return the query; raises BadRequest for a parameter that the operation does not have or has twice, and for very many."""
    text = scope.get("query_string", b"").decode("latin-1")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise BadRequest("the request has more query parameters than any operation") from None
    if any(name not in allowed for name, _ in pairs) or len(dict(pairs)) != len(pairs):
        raise BadRequest("the request has a query parameter that is not known here")
    return dict(pairs)


def document_uri(scope: Scope, prefix: str) -> str:
    """Return the document URI at the end of the path; raises MalformedURI."""
    raw: bytes = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    text = unquote_to_bytes(raw[len(prefix) :]).decode("utf-8", "replace")
    if not _URI.match(text):
        raise MalformedURI("a document URI is written IssuerId-DocType-DocId")
    return text


def consent_id(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """Return the consent that a gateway read names in its header or query; raises BadRequest."""
    named = {value for value in (headers.get("consent-id"), query.get("consent_id")) if value is not None}
    if len(named) != 1:
        raise BadRequest("name one consent, in the header Consent-Id or as consent_id")
    (value,) = named
    return require_uuid(value)


def require_uuid(value: Any) -> str:
    """Return an identifier unchanged; raises BadRequest."""
    if not isinstance(value, str) or not _UUID.match(value):
        raise BadRequest("consent_id is not an identifier of this locker")
    return value


async def read_json(scope: Scope, headers: Mapping[str, str], receive: Receive) -> MutableMapping[str, Any]:
    """Read a JSON object; raises UnsupportedMediaType, BadRequest, BodyTooLarge."""
    media_type, _, parameters = headers.get("content-type", "").partition(";")
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaType("send application/json")
    charset = parameters.strip().lower().removeprefix("charset=").strip("\"'")
    if charset and charset not in _CHARSETS:
        raise UnsupportedMediaType("only UTF-8 is taken")
    chunks, length, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("the body did not arrive")
        chunks.append(message.get("body", b""))
        length += len(chunks[-1])
        if length > MAX_BODY:
            raise too_large()
        more = message.get("more_body", False)
    try:
        value = parse_json(b"".join(chunks).decode("utf-8"))
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is a JSON object")
    return value


def require_wish(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request to resolve as it came; raises BadRequest."""
    if not set(body) <= {"consent_id", "uris", "representation"} or "consent_id" not in body or "uris" not in body:
        raise BadRequest("the body has consent_id, uris and, where wanted, representation")
    uris, representation = body["uris"], body.get("representation")
    if not isinstance(uris, list) or not 1 <= len(uris) <= MAX_URIS:
        raise BadRequest("uris lists 1 to 100 document URIs")
    if not all(isinstance(uri, str) and _URI.match(uri) for uri in uris) or len(set(uris)) != len(uris):
        raise BadRequest("uris lists different document URIs")
    if "representation" in body and not (isinstance(representation, str) and _MEDIA_TYPE.match(representation)):
        raise BadRequest("representation is a media type")
    require_uuid(body["consent_id"])
    return body


def require_own_wish(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request for a ticket to one's own document as it came; raises BadRequest."""
    if set(body) != {"uri"} or not (isinstance(body["uri"], str) and _URI.match(body["uri"])):
        raise BadRequest("the body has the document's uri")
    return body


async def send_json(send: Send, status: int, document: Any) -> None:
    """Send a JSON document as the whole answer."""
    body = _write_json(document).encode("utf-8")
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
