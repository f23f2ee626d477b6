"""What nodes call: registration and push; and the public directory."""

from collections.abc import Callable
from typing import Any

from flask import request

from locker.http.handlers.answers import Answer, registration_document
from locker.services.directory import UNKNOWN, Directory
from locker.services.links import Links
from locker.services.principal import Principal
from locker.services.tokens import APPLICANT
from node.contract.problems import Forbidden, NotFound


class NodeHandlers:
    """Registration, push, link events, issuers and document types."""

    def __init__(self, directory: Directory, links: Links, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._links = links
        self._clock = clock

    def register_node(self, body: dict[str, Any]) -> Answer:
        """Store a registration for an officer."""
        received = self._directory.register(body["registration"], self._clock(), request.remote_addr or UNKNOWN)
        return registration_document(received), 202, {}

    def get_registration(self, caller: Principal, node_id: str) -> dict[str, Any]:
        """Return a node's own registration."""
        if caller.role == APPLICANT:
            received = self._directory.registration(registration_id=caller.subject)
        else:
            received = self._directory.registration(node_id=caller.subject)
        if received.node_id != node_id:
            raise Forbidden("a node reads its own registration only")
        return registration_document(received)

    def push_documents(self, caller: Principal, body: dict[str, Any]) -> dict[str, Any]:
        """Take a batch of announcements."""
        return {"results": self._links.push(caller.subject, body["rows"], self._clock())}

    def list_link_changes(self, caller: Principal, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Return which of a node's documents were linked or withdrawn."""
        rows, next_after = self._links.changes(caller.subject, after, limit)
        return {"rows": rows, "next_after": next_after}

    def list_issuers(self) -> dict[str, Any]:
        """Return the issuers that can be reached through this locker."""
        rows = self._directory.public_issuers()
        return {"issuers": [{name: row[name] for name in ("issuer", "name", "state")} for row in rows]}

    def list_issuer_doc_types(self, issuer: str) -> dict[str, Any]:
        """Return an issuer's document types."""
        for row in self._directory.public_issuers():
            if row["issuer"].lower() == issuer.lower():
                return {"doc_types": row["doc_types"]}
        raise NotFound("this issuer is not in the directory")
