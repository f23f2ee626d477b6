"""What can be checked afterwards: revocation pages, ticket records, attempts, log grants."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from locker.http.handlers.answers import JWT, Answer, attempt_document, record_document, window_of
from locker.services.grants import LogGrants
from locker.services.principal import Principal
from locker.services.records import AttemptFilter, Records
from locker.services.revocations import Revocations
from node.contract.times import format_time

_NEWEST = {**JWT, "Cache-Control": "no-cache"}
_NEVER_CHANGES = {**JWT, "Cache-Control": "public, max-age=86400, immutable"}


class RecordHandlers:
    """Revocation pages, ticket records, attempts, log grants."""

    def __init__(self, revocations: Revocations, records: Records, grants: LogGrants, clock: Callable[[], int]) -> None:
        self._revocations = revocations
        self._records = records
        self._grants = grants
        self._clock = clock

    def get_latest_revocation_page(self) -> Answer:
        """Return the newest page."""
        return self._revocations.latest(), 200, _NEWEST

    def get_revocation_page(self, sequence: int) -> Answer:
        """Return one page."""
        return self._revocations.page(sequence), 200, _NEVER_CHANGES

    def list_ticket_records(self, after: int = 0, limit: int = 100, **query: str) -> dict[str, Any]:
        """Return a page of ticket records."""
        window = window_of(after, limit, query)
        rows, next_after = self._records.tickets(
            window, consent_id=query.get("consent_id"), client_id=query.get("client_id"), uri=query.get("uri")
        )
        return {"rows": [record_document(row) for row in rows], "next_after": next_after}

    def list_attempts(self, after: int = 0, limit: int = 100, **query: str) -> dict[str, Any]:
        """Return a page of attempts."""
        window = window_of(after, limit, query)
        wanted = {field.name: query.get(field.name) for field in fields(AttemptFilter)}
        rows, next_after = self._records.attempts(window, AttemptFilter(**wanted))
        return {"rows": [attempt_document(row) for row in rows], "next_after": next_after}

    def issue_log_grant(self, caller: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Sign a grant for the caller's own rows at one node."""
        grant = self._grants.issue(caller, body["node_id"], self._clock())
        return {
            "grant": grant.token, "expires_at": format_time(grant.expires_us),
            "node": {"node_id": grant.node_id, "base_url": grant.base_url},
        }  # fmt: skip
