"""Rows of the access log as they are shown: the specification's members, made from the payload as written."""

import re
from collections.abc import Mapping
from typing import Any

FIRST_POSITION = 1
"""Positions are stored from 0, as leaves of the Merkle tree are, and shown from 1."""

COLUMNS = (
    "position", "event_id", "recorded_at", "action", "outcome", "reason", "status", "read_id", "request_id", "uri", "uri_text",
    "issuer", "doc_type", "version", "media_type", "range", "bytes_sent", "role", "token_name", "client_id", "act", "locker", "basis",
    "consent_id", "purpose", "jti", "holder_ref", "source", "count", "rows",
)  # fmt: skip
"""The members of a row in the order of a table's columns."""

_KEPT = (
    "event_id", "action", "outcome", "reason", "status", "read_id", "request_id", "issuer", "doc_type", "version",
    "media_type", "act", "basis", "consent_id", "purpose", "holder_ref", "source", "count", "rows",
)  # fmt: skip
_URI = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}-[A-Za-z0-9]{1,32}-[A-Za-z0-9._~-]{1,128}")


def shown_row(position: int, event: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event as the specification's ``Event``; members without a value are left out.

    What was asked for and is no document URI is shown as ``uri_text``, so that ``uri`` always is one.
    """
    principal = event.get("principal") or {}
    uri = event.get("uri")
    row = {
        "position": position + FIRST_POSITION,
        **{name: event.get(name) for name in _KEPT},
        "recorded_at": event["at"],
        "uri" if uri and _URI.fullmatch(uri) else "uri_text": uri,
        "range": _range(event),
        "bytes_sent": event.get("bytes"),
        "role": principal.get("role") or principal.get("kind"),
        "token_name": principal.get("name"),
        "client_id": event.get("client_id"),
        "locker": principal.get("iss"),
        "jti": event.get("ticket"),
    }
    return {name: row[name] for name in COLUMNS if row.get(name) is not None}


def _range(event: Mapping[str, Any]) -> str | None:
    if event.get("status") != 206 or event.get("length") is None:
        return None
    offset = event.get("offset") or 0
    return f"{offset}-{offset + event['length'] - 1}"
