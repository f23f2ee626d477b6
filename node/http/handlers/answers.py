"""Answers as Connexion takes them from handlers."""

import json
from collections.abc import Mapping
from typing import Any

from connexion.lifecycle import ConnexionResponse

JSON = "application/json"


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> ConnexionResponse:
    """Return a value as JSON; what it says of documents and people is for the caller alone and not kept on the way."""
    return text_answer(
        json.dumps(value, ensure_ascii=False, separators=(",", ":")), JSON, status=status, headers=headers
    )


def text_answer(
    body: str | bytes, media_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> ConnexionResponse:
    """Return a body of any media type."""
    return ConnexionResponse(
        status_code=status, content_type=media_type, body=body, headers={"Cache-Control": "no-store", **(headers or {})}
    )
