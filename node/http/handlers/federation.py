"""What lockers and auditors ask about people: pulls and the look-up of a holder."""

from typing import Any

from connexion.lifecycle import ConnexionResponse

from node.contract.problems import Forbidden
from node.http.calls import Call
from node.http.handlers.answers import json_answer
from node.http.ports import ControlServices
from node.http.principals import LockerRequest


class FederationHandlers:
    """Answers pulls and look-ups; both write no clear identifier anywhere."""

    def __init__(self, services: ControlServices) -> None:
        self._pulls = services.pulls
        self._holders = services.holders

    def pull_document(self, call: Call, body: dict[str, Any]) -> ConnexionResponse:
        """Match what a resident described; the row says what came of it."""
        request = _locker_request(call)
        call.fields.update(
            issuer=body["issuer"], doc_type=body["doc_type"], holder_ref=body["resident"]["resident_ref"]
        )
        _require_same(request, body)
        answer = self._pulls.pull(request.scope, body)
        call.fields.update(uri=answer.get("uri"), txn=body["txn"], result=answer["outcome"])
        return json_answer(answer)

    def lookup_holder(self, call: Call, body: dict[str, Any]) -> ConnexionResponse:
        """Find a person's documents within the token's scope; the row has the keyed hash."""
        scheme, holder_hash = self._holders.holder(body["scheme"], body["value"])
        call.fields["holder"] = {"scheme": scheme, "hash": holder_hash}
        matches = self._holders.find(scheme, holder_hash, call.principal.token.scope)
        call.fields["rows"] = len(matches)
        return json_answer({"matches": matches})


def _locker_request(call: Call) -> LockerRequest:
    if call.principal.locker is None:
        raise TypeError("this operation is called by lockers only")
    return call.principal.locker


def _require_same(request: LockerRequest, body: dict[str, Any]) -> None:
    """Raise Forbidden unless the body is the one that the locker signed for, as far as its claims say."""
    said = {
        "txn": body["txn"], "issuer": body["issuer"], "doc_type": body["doc_type"],
        "resident_ref": body["resident"]["resident_ref"],
    }  # fmt: skip
    if any(request.claims.get(name) != value for name, value in said.items()):
        raise Forbidden("The signed request is for another search", reason="request-mismatch")
