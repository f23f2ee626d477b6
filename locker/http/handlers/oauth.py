"""The token endpoint, whose errors are those of RFC 6749 section 5.2."""

from collections.abc import Callable

import structlog
from flask import request

from locker.http.handlers.answers import Answer
from locker.services.tokens import TokenRefused, Tokens
from node.contract.times import SECOND

log = structlog.get_logger("locker.oauth")

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class TokenHandlers:
    """Access tokens for nodes and requesters."""

    def __init__(self, tokens: Tokens, clock: Callable[[], int]) -> None:
        self._tokens = tokens
        self._clock = clock

    def issue_token(self, body: dict[str, str]) -> Answer:
        """Answer a client credentials request."""
        now_us = self._clock()
        try:
            issued = self._tokens.grant(body, request.headers.get("Authorization"), now_us)
        except TokenRefused as refused:
            log.info("token refused", error=refused.error, reason=refused.reason)
            challenge = {"WWW-Authenticate": 'Basic realm="token"'} if refused.status == 401 else {}
            document = {"error": refused.error, "error_description": refused.description}
            return document, refused.status, {**_NO_STORE, **challenge}
        seconds = (issued.expires_us - now_us) // SECOND
        return {"access_token": issued.token, "token_type": "Bearer", "expires_in": seconds}, 200, _NO_STORE
