"""Consents over HTTP."""

from typing import Any

from locker.http.handlers.answers import JWT, Answer, body_time, consent_document, with_time
from locker.services.consents import Consents, NewConsent
from locker.services.principal import Principal


class ConsentHandlers:
    """Giving, narrowing, revoking and reading consents."""

    def __init__(self, consents: Consents) -> None:
        self._consents = consents

    def give_consent(self, caller: Principal, body: dict[str, Any]) -> Answer:
        """Record what a resident agreed to."""
        representations = body.get("representations")
        view = self._consents.give(
            caller.subject,
            NewConsent(
                client_id=body["requester"], uris=tuple(body["uris"]), purpose=body["purpose"]["code"],
                purpose_text=body["purpose"]["text"], expires_us=body_time(body["expires_at"]),
                once=body.get("once", False),
                representations=None if representations is None else tuple(representations),
            ),
        )  # fmt: skip
        return consent_document(view), 201, {"Location": f"/v1/consents/{view.consent_id}"}

    def list_consents(
        self,
        caller: Principal,
        state: str | None = None,
        client_id: str | None = None,
        uri: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> dict[str, Any]:
        """Return the consents that the caller may see."""
        views, following = self._consents.list(
            caller, state=state, client_id=client_id, uri=uri, cursor=cursor, limit=limit
        )
        return {"consents": [consent_document(view) for view in views], "next_cursor": following}

    def get_consent(self, caller: Principal, consent_id: str) -> dict[str, Any]:
        """Return one consent."""
        return consent_document(self._consents.read(caller, consent_id))

    def narrow_consent(self, caller: Principal, consent_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Leave less of a consent."""
        end = body.get("expires_at")
        expires_us = None if end is None else body_time(end)
        return consent_document(self._consents.narrow(caller.subject, consent_id, body.get("uris"), expires_us))

    def revoke_consent(self, caller: Principal, consent_id: str) -> dict[str, Any]:
        """End a consent. The reason that a resident may give is not kept: nobody needs it."""
        return consent_document(self._consents.revoke(caller.subject, consent_id))

    def get_consent_artefact(self, caller: Principal, consent_id: str) -> Answer:
        """Return the newest artefact."""
        return self._consents.artefact(caller, consent_id), 200, JWT

    def list_consent_events(self, caller: Principal, consent_id: str) -> dict[str, Any]:
        """Return every event of a consent."""
        events = self._consents.events(caller, consent_id)
        return {"events": [with_time(event, "at_us", "at") for event in events]}
