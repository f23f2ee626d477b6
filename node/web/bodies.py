"""Checks of request bodies for Connexion's validator map: every bad body is a problem document, none a 500.

Connexion's own checks let an empty required body through, answer broken UTF-8, deep nesting and odd numbers with 500, take
chunked bodies for missing ones, keep the last of two equal keys, and repeat the offending value in the answer.
"""

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from connexion.datastructures import MediaTypeDict
from connexion.json_schema import Draft4RequestValidator
from connexion.validators import VALIDATOR_MAP
from jsonschema import Draft4Validator, ValidationError
from starlette.types import Message, Receive, Scope

from node.contract.problems import BadRequest, UnsupportedMediaType
from node.web.limits import too_large
from node.web.parameters import MaskedParameterValidator
from node.web.strict_json import parse_json

_CHARSET = re.compile(rb"""charset\s*=\s*["']?([^\s;"']*)""", re.IGNORECASE)

Validator = type["_BodyValidator"]


def validator_map(limit: int = 1024 * 1024) -> dict[str, Any]:
    """Return the ``validator_map`` for ``add_api``; validated bodies are read up to ``limit`` bytes.

    JSON and forms are read, checked and handed on; any other body is handed on as a stream, a required one only when it is
    not empty. Multipart forms are not validated, since that would hold whole files in memory.
    """
    limited: dict[str, Validator] = {
        pattern: type(base.__name__, (base,), {"LIMIT": limit})
        for pattern, base in {
            "*/*json": JSONBodyValidator,
            "application/x-www-form-urlencoded": FormBodyValidator,
            "*/*": StreamBodyValidator,
        }.items()
    }
    return {**VALIDATOR_MAP, "parameter": MaskedParameterValidator, "body": MediaTypeDict(limited)}


class _BodyValidator:
    """What Connexion expects of a body validator: made for one request, then asked to wrap its ``receive``."""

    LIMIT = 1024 * 1024

    def __init__(
        self,
        *,
        schema: dict[str, Any],
        required: bool = False,
        nullable: bool = False,
        encoding: str = "utf-8",
        **_: Any,
    ) -> None:
        self._schema = schema
        self._required = required
        self._nullable = nullable
        self._charset = "utf-8"

    async def wrap_receive(self, receive: Receive, *, scope: Scope) -> tuple[Receive, Scope]:
        """Check the body and return a ``receive`` that gives it again; raises the problem that the body has."""
        headers = _headers(scope)
        body = await self._read(receive, headers)
        if not body:
            self._check_empty()
            return _replay([{"type": "http.request", "body": b"", "more_body": False}], receive), scope
        if b"content-type" not in headers:
            raise UnsupportedMediaType("A body needs a Content-Type", reason="no-content-type")
        charset = _CHARSET.search(headers[b"content-type"])
        self._charset = charset[1].decode("latin-1").lower() if charset else "utf-8"
        self._check(body)
        message = {"type": "http.request", "body": body, "more_body": False}
        return _replay([message], receive), _with_length(scope, len(body))

    async def _read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.LIMIT:
            raise too_large()
        chunks, length = [], 0
        async for chunk in _chunks(receive):
            length += len(chunk)
            if length > self.LIMIT:
                raise too_large()
            chunks.append(chunk)
        return b"".join(chunks)

    def _check_empty(self) -> None:
        if self._required:
            raise BadRequest("The request needs a body", reason="empty-body")

    def _check(self, body: bytes) -> None:
        """Raise the problem of a body that is not in its media type's form; each media type's validator says how it looks."""
        raise NotImplementedError(type(self).__name__)

    def _text(self, body: bytes) -> str:
        """Decode a body; RFC 8259 section 8.1 and every form of ours know UTF-8 only."""
        if self._charset not in ("utf-8", "utf8", "us-ascii"):
            raise UnsupportedMediaType("Only UTF-8 is taken", reason="not-utf-8")
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("The body is not UTF-8", reason="not-utf-8") from None

    def _check_schema(self, value: Any) -> None:
        if value is None and self._nullable:
            return
        validator = Draft4RequestValidator(self._schema, format_checker=Draft4Validator.FORMAT_CHECKER)
        error = next(iter(validator.iter_errors(value)), None)
        if error is not None:
            raise BadRequest(describe(error), reason="not-in-schema")


class JSONBodyValidator(_BodyValidator):
    """JSON in UTF-8, each key once, at most 50 levels deep, of the shape in the specification."""

    def _check(self, body: bytes) -> None:
        self._check_schema(parse_json(self._text(body)))


class FormBodyValidator(_BodyValidator):
    """A URL-encoded form in UTF-8, each field once (as RFC 6749 section 3.2 asks), of the shape in the specification."""

    def _check(self, body: bytes) -> None:
        try:
            pairs = parse_qsl(
                self._text(body), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=1000
            )
        except ValueError:
            raise BadRequest("The body is not a URL-encoded form", reason="bad-form") from None
        form = dict(pairs)
        if len(form) != len(pairs):
            raise BadRequest("A field stands in the form twice", reason="duplicate-key")
        if any("\0" in text for pair in pairs for text in pair):
            raise BadRequest("The form holds a NUL character", reason="unstorable-text")
        self._check_schema(form)


class StreamBodyValidator(_BodyValidator):
    """Any other body: announced by type and length, not empty when required, and never held."""

    async def wrap_receive(self, receive: Receive, *, scope: Scope) -> tuple[Receive, Scope]:
        """Look at the first bytes only and hand the body on as it comes."""
        headers = _headers(scope)
        if b"transfer-encoding" in headers:
            raise BadRequest("A body of this kind needs a Content-Length", reason="no-length")
        if headers.get(b"content-length", b"0") == b"0":
            self._check_empty()
            return receive, scope
        if b"content-type" not in headers:
            raise UnsupportedMediaType("A body needs a Content-Type", reason="no-content-type")
        return receive, scope


def describe(error: ValidationError) -> str:
    """Say what is wrong with a body in the specification's own names, without a word of what was sent.

    The place is read from the path through the schema, since keys on the path through the body may be the caller's.
    """
    place = _place(error.absolute_schema_path)
    if error.validator == "required" and isinstance(error.instance, dict):
        wanted: list[str] = error.validator_value  # type: ignore[assignment]  # the schema's "required" is a list of names
        missing = [f"'{_joined(place, name)}'" for name in wanted if name not in error.instance]
        return f"The body lacks {', '.join(missing)}"
    where = f"'{place}'" if place else "The body"
    if error.validator == "additionalProperties":
        return f"{where} has a field that is not known here"
    return f"{where} does not have the form that the specification asks for ({error.validator})"


def _place(schema_path: Iterable[str | int]) -> str:
    parts: list[str] = []
    steps = iter(schema_path)
    for step in steps:
        if step == "properties":
            parts.append(str(next(steps, "")))
        elif step == "items":
            parts.append("[]")
    return ".".join(parts).replace(".[]", "[]")


def _joined(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _with_length(scope: Scope, length: int) -> Scope:
    """Return the scope of a body that is there in one piece: WSGI reads nothing of a body without a length."""
    framing = (b"content-length", b"transfer-encoding")
    kept = [pair for pair in scope["headers"] if pair[0] not in framing]
    return {**scope, "headers": [*kept, (b"content-length", str(length).encode())]}


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequest("The client left before the body was complete", reason="aborted")
        more = message.get("more_body", False)
        yield message.get("body", b"")


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def replaying_receive() -> Message:
        message = next(waiting, None)
        return message if message is not None else await receive()

    return replaying_receive
