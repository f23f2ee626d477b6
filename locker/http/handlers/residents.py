"""What residents call for their own documents."""

from typing import Any

from locker.http.handlers.answers import window_of, with_time
from locker.services.links import Links
from locker.services.principal import Principal
from locker.services.pulls import Pulls
from locker.services.records import Records


class ResidentHandlers:
    """A resident's documents, searches and activity."""

    def __init__(self, links: Links, pulls: Pulls, records: Records) -> None:
        self._links = links
        self._pulls = pulls
        self._records = records

    def list_own_documents(
        self,
        caller: Principal,
        issuer: str | None = None,
        doc_type: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Return a page of the resident's links."""
        rows, following = self._links.documents(caller.subject, issuer, doc_type, cursor, limit)
        return {"documents": [with_time(row, "linked_us", "linked_at") for row in rows], "next_cursor": following}

    def pull_own_document(self, caller: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Search a document with its issuer."""
        return self._pulls.search(caller.subject, body["issuer"], body["doc_type"], body["parameters"])

    def list_own_activity(self, caller: Principal, after: int = 0, limit: int = 100, **query: str) -> dict[str, Any]:
        """Return what happened with the resident's documents."""
        window = window_of(after, limit, query)
        rows, next_after = self._records.activity(caller.subject, window)
        return {"rows": [with_time(row, "at_us", "at") for row in rows], "next_after": next_after}
