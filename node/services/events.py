"""The fields of access events, put together in one place so that every row of a kind has the same ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.contract.problems import ProblemError
from node.contract.uri import DocumentURI
from node.services.access import Principal
from node.services.audit import PHASE_ATTEMPT, PHASE_END, Action, Outcome
from node.services.ports import CatalogueDocument, Placement

SHOWN_TEXT = 200


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request came from: its identifier, the address of the client, and the process that serves it."""

    request_id: str
    source: str
    process: str


def shown(text: str) -> str:
    """Return what a caller sent as printable ASCII, cut off: it goes into the log, and nothing in it may act there."""
    visible = "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text[:SHOWN_TEXT]
    )
    return visible.encode("ascii", "backslashreplace").decode("ascii")[:SHOWN_TEXT]


def attempt(
    action: Action,
    caller: Caller,
    *,
    read_id: str,
    uri_text: str,
    uri: DocumentURI | None = None,
    principal: Principal | None = None,
    document: CatalogueDocument | None = None,
) -> dict[str, Any]:
    """Return the fields that an attempt on a document has whatever comes of it; the caller adds how it went."""
    fields: dict[str, Any] = {
        "phase": PHASE_ATTEMPT,
        "action": action,
        "read_id": read_id,
        "uri": str(document.uri) if document else shown(uri_text),
        "source": caller.source,
        "request_id": caller.request_id,
        "process": caller.process,
    }
    if uri is not None:
        fields.update(issuer=uri.issuer, doc_type=uri.doc_type)
    if principal is not None:
        fields.update(principal_fields(principal))
    if document is not None and document.holder_ref and not fields.get("holder_ref"):
        fields["holder_ref"] = document.holder_ref
    return fields


def principal_fields(principal: Principal) -> dict[str, Any]:
    """Return who asked, why and under which consent, as far as the credential says."""
    ticket = principal.ticket
    if ticket is not None:
        return {
            "principal": {"kind": "ticket", "iss": ticket.iss},
            "client_id": ticket.client_id,
            "act": ticket.act,
            "holder_ref": ticket.holder_ref,
            "basis": ticket.basis,
            "consent_id": ticket.consent_id,
            "artefact": ticket.artefact,
            "purpose": ticket.purpose,
            "ticket": ticket.jti,
        }
    token = principal.token
    if token is not None:
        return {"principal": {"kind": "token", "id": token.token_id, "name": token.name, "role": token.role}}
    return {}


def refusal(error: ProblemError) -> dict[str, Any]:
    """Return how a refused or failed attempt went: a server's fault is ``failed``, everything else ``refused``."""
    outcome = Outcome.FAILED if error.status >= 500 else Outcome.REFUSED
    return {"outcome": outcome, "reason": error.reason, "status": error.status}


def given(placement: Placement, *, status: int, opened: bool, offset: int, length: int) -> dict[str, Any]:
    """Return how a granted read went; ``opened`` says that a second row will tell its end."""
    return {
        "outcome": Outcome.ALLOWED if opened else Outcome.COMPLETE,
        "status": status,
        "version": placement.version,
        "media_type": placement.media_type,
        "sha256": placement.sha256,
        "offset": offset if opened else None,
        "length": length if opened else None,
        "open": True if opened else None,
    }


def end_of_read(
    begun: Mapping[str, Any], outcome: Outcome, sent: int | None, reason: str | None = None
) -> dict[str, Any]:
    """Return the second row of a read: the first one's who and what, and how it ended, with the bytes handed over."""
    kept = (
        "action", "read_id", "uri", "issuer", "doc_type", "holder_ref", "client_id", "act", "consent_id", "principal",
        "source", "request_id", "process", "version", "media_type", "sha256",
    )  # fmt: skip
    fields = {name: begun[name] for name in kept if begun.get(name) is not None}
    return {**fields, "phase": PHASE_END, "outcome": outcome, "bytes": sent, "reason": reason}
