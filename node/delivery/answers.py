"""What a read is answered with: representation, preconditions and range, decided before its log row is written. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from node.contract.problems import NotAcceptable
from node.contract.uri import DocumentURI
from node.services.access import is_expired
from node.services.ports import CatalogueDocument, Placement
from node.web.conditional import not_modified
from node.web.digest import format_sha256
from node.web.disposition import content_disposition
from node.web.negotiation import choose
from node.web.ranges import ByteRange, select_range

EXTENSIONS = {
    "application/pdf": ".pdf",
    "application/xml": ".xml",
    "text/xml": ".xml",
    "application/json": ".json",
    "image/png": ".png",
    "image/jpeg": ".jpg",
}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Status, headers, and which bytes of which object; ``has_body`` is false for HEAD, 304 and an empty document."""

    status: int
    headers: Headers
    placement: Placement
    offset: int
    length: int
    has_body: bool

    @property
    def is_whole(self) -> bool:
        """Tell whether the answer is the object from first to last byte, so that its digest can be checked."""
        return self.offset == 0 and self.length == self.placement.size


def plan_answer(
    method: str,
    headers: Mapping[str, str],
    document: CatalogueDocument,
    placements: Sequence[Placement],
    now_us: int,
) -> AnswerPlan:
    """Choose a representation and what of it is sent; raises NotAcceptable, PreconditionFailed or RangeNotSatisfiable."""
    offers = [(placement.media_type, placement.language) for placement in placements]
    chosen = choose(offers, headers.get("accept"), headers.get("accept-language"))
    if chosen is None:
        raise NotAcceptable()
    placement = placements[chosen]
    etag = f'"{placement.sha256}"'
    if not_modified(method, headers.get("if-match"), headers.get("if-none-match"), etag):
        return AnswerPlan(304, _encode(_validators(document, placement, etag, now_us)), placement, 0, 0, has_body=False)
    part = select_range(method, headers.get("range"), headers.get("if-range"), etag, placement.size)
    offset, length = (part.start, part.length) if part else (0, placement.size)
    fields = {**_validators(document, placement, etag, now_us), **_content(document, placement, length, part)}
    sends = method == "GET" and length > 0
    return AnswerPlan(206 if part else 200, _encode(fields), placement, offset, length, has_body=sends)


def document_status(document: CatalogueDocument, version: int, now_us: int) -> str:
    """Return the standing that ``Document-Status`` tells: superseded, expired or active."""
    if version != document.current_version:
        return "superseded"
    return "expired" if is_expired(document, now_us) else "active"


def stored_answer(
    uri: DocumentURI, placement: Placement, *, created: bool, changed: bool
) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer to a PUT that is done."""
    stored = {
        "uri": str(uri), "version": placement.version, "media_type": placement.media_type, "sha256": placement.sha256,
        "size": placement.size, "changed": changed,
    }  # fmt: skip
    body = json.dumps(stored).encode()
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "cache-control": "private, no-store",
        "etag": f'"{placement.sha256}"',
        "document-version": str(placement.version),
    }
    if created:
        fields["location"] = f"/v1/documents/{uri}"
    return 201 if created else 200, _encode(fields), body


def _validators(document: CatalogueDocument, placement: Placement, etag: str, now_us: int) -> dict[str, str]:
    fields = {
        "etag": etag,
        "cache-control": "private, no-store",
        "vary": "Accept, Accept-Language, Authorization",
        "document-status": document_status(document, placement.version, now_us),
        "document-version": str(placement.version),
    }
    if placement.version != document.current_version:
        fields["link"] = f'</v1/documents/{document.uri}>; rel="successor-version"'
    return fields


def _content(document: CatalogueDocument, placement: Placement, length: int, part: ByteRange | None) -> dict[str, str]:
    name = (document.title or document.uri.doc_id) + EXTENSIONS.get(placement.media_type, "")
    fields = {
        "content-type": placement.media_type,
        "content-length": str(length),
        "accept-ranges": "bytes",
        "repr-digest": format_sha256(bytes.fromhex(placement.sha256)),
        "content-disposition": _inline(name),
    }
    if placement.language:
        fields["content-language"] = placement.language
    if part:
        fields["content-range"] = part.content_range
    return fields


@lru_cache(maxsize=4096)
def _inline(name: str) -> str:
    return content_disposition(name, kind="inline")


def _encode(fields: Mapping[str, str]) -> Headers:
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields.items()]
