"""Documents: listing, metadata, status, and the document types."""

import re
from collections.abc import Sequence
from typing import Any

from connexion.lifecycle import ConnexionResponse

from node.contract.problems import BadRequest
from node.contract.signing import decode_base64url, encode_base64url
from node.contract.times import format_time
from node.http.calls import Call
from node.http.handlers.answers import json_answer
from node.http.ports import ControlServices
from node.services import access
from node.services.access import TokenScope
from node.services.ports import CatalogueDocument, DocTypeRecord, Placement
from node.services.storing import MEDIA_TYPES

_URI_KEY = re.compile(r"[a-z0-9._~-]{1,290}")


class DocumentHandlers:
    """Answers what is asked about documents."""

    def __init__(self, services: ControlServices) -> None:
        self._catalogue = services.catalogue
        self._administration = services.administration
        self._clock = services.clock

    def list_documents(
        self, call: Call, limit: int, issuer: str | None = None, doc_type: str | None = None,
        status: str | None = None, cursor: str | None = None,
    ) -> ConnexionResponse:  # fmt: skip
        """List what the token covers. A page may be shorter than asked for, since some limits are not in the index."""
        scope = call.principal.token.scope
        rows = self._catalogue.page(
            issuers=_narrow(scope.issuers, issuer), doc_types=_narrow(scope.doc_types, doc_type),
            status=_stored_status(status), after=_read_cursor(cursor), limit=limit,
        )  # fmt: skip
        now_us = self._clock()
        shown = [row for row in rows if _is_listed(row, scope, status, now_us)]
        asked = {"issuer": issuer, "doc_type": doc_type, "status": status}
        call.fields.update(rows=len(shown), filter={name: value for name, value in asked.items() if value} or None)
        page: dict[str, Any] = {
            "documents": [_metadata(row, row.of_version(row.current_version), now_us) for row in shown]
        }
        if len(rows) == limit:
            page["next_cursor"] = encode_base64url(rows[-1].uri.key.encode("ascii"))
        return json_answer(page)

    def get_document_metadata(self, call: Call) -> ConnexionResponse:
        """Tell what the catalogue says; a ticket sees the representations that it names, and no search parameters."""
        reader = call.principal.document_reader
        placements = access.allowed_placements(call.document, reader)
        metadata = _metadata(call.document, placements, self._clock())
        if reader.ticket is not None:
            del metadata["parameters"]
        return json_answer(metadata)

    def change_document_metadata(self, call: Call, body: dict[str, Any]) -> ConnexionResponse:
        """Change what is given; the row is written with the change."""
        changed = self._administration.change_metadata(call.document.uri, body, call.answered(200))
        call.recorded = True
        return json_answer(_metadata(changed, changed.of_version(changed.current_version), self._clock()))

    def get_document_status(self, call: Call) -> ConnexionResponse:
        """Tell whether the document is in force."""
        return json_answer(_state(call.document, self._clock()))

    def set_document_status(self, call: Call, body: dict[str, Any]) -> ConnexionResponse:
        """Revoke the document or put it back in force; the row is written with the change."""
        changed = self._administration.set_status(
            call.document.uri, body["status"], body.get("reason"), call.answered(200)
        )
        call.recorded = True
        return json_answer(_state(changed, self._clock()))

    def list_doc_types(self, call: Call) -> ConnexionResponse:
        """List the document types, and what a resident fills in to find one."""
        return json_answer({"doc_types": [_doc_type(record) for record in self._catalogue.doc_types()]})


def effective_status(document: CatalogueDocument, now_us: int) -> str:
    """Return a document's status, an end of validity that has passed included."""
    if document.status == "active" and access.is_expired(document, now_us):
        return "expired"
    return document.status


def _metadata(document: CatalogueDocument, placements: Sequence[Placement], now_us: int) -> dict[str, Any]:
    return {
        "uri": str(document.uri),
        "issuer": document.uri.issuer,
        "doc_type": document.uri.doc_type,
        "title": document.title or None,
        "language": next((placement.language for placement in placements if placement.language), None),
        "issued_on": document.issued_on,
        "expires_on": document.expires_on,
        "status": effective_status(document, now_us),
        "successor": None,
        "version": document.current_version,
        "representations": [_representation(placement) for placement in placements],
        "holder": _holder(document),
        "parameters": dict(document.parameters),
        "changed_at": format_time(document.changed_us),
    }


def _representation(placement: Placement) -> dict[str, Any]:
    return {
        "media_type": placement.media_type, "language": placement.language, "size": placement.size,
        "sha256": placement.sha256,
    }  # fmt: skip


def _holder(document: CatalogueDocument) -> dict[str, Any] | None:
    if document.holder_scheme is None:
        return None
    return {
        "scheme": document.holder_scheme, "last4": document.holder_last4 or "", "holder_ref": document.holder_ref
    }  # fmt: skip


def _state(document: CatalogueDocument, now_us: int) -> dict[str, Any]:
    return {
        "uri": str(document.uri), "status": effective_status(document, now_us), "reason": document.status_reason,
        "changed_at": format_time(document.changed_us), "successor": None,
    }  # fmt: skip


def _doc_type(record: DocTypeRecord) -> dict[str, Any]:
    parameters = [
        {"name": row["name"], "label": row.get("label") or row["name"], "required": bool(row.get("required"))}
        for row in record.search_parameters
    ]
    return {
        "issuer": record.issuer, "doc_type": record.doc_type, "name": record.name, "search_parameters": parameters,
        "media_types": list(MEDIA_TYPES),
    }  # fmt: skip


def _narrow(covered: Sequence[str], wanted: str | None) -> Sequence[str]:
    """Return what the catalogue is asked for; whether the token covers it is judged for each row."""
    return (wanted,) if wanted is not None else covered


def _stored_status(status: str | None) -> str | None:
    return "active" if status == "expired" else status


def _is_listed(document: CatalogueDocument, scope: TokenScope, status: str | None, now_us: int) -> bool:
    return scope.covers(document.uri, document.office) and status in (None, effective_status(document, now_us))


def _read_cursor(cursor: str | None) -> str:
    if cursor is None:
        return ""
    try:
        after = decode_base64url(cursor).decode("ascii")
    except ValueError:
        after = "?"
    if not _URI_KEY.fullmatch(after):
        raise BadRequest("The cursor is not one that this node gave", reason="bad-cursor")
    return after
