"""A client made from the published contract alone goes the main way, and every answer is held against the contract."""

import importlib.resources
import json
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import pytest
from connexion.json_schema import Draft4RequestValidator, Draft4ResponseValidator

from node.contract.identifiers import uuid7
from node.web.specification import load_specification

BANK = "bank-of-example"
ANITA, BINA = "in.gov.alpha-CERT-anita", "in.gov.alpha-CERT-bina"
METHODS = ("get", "head", "post", "put", "delete", "patch")


class ContractClient:
    """Calls operations by their id; raises AssertionError for a request or an answer that the contract does not have."""

    def __init__(self, specification, base_url):
        self._document = load_specification(importlib.resources.files("openapi"), specification)
        self._base_url = base_url
        self._operations = {
            entry["operationId"]: (method, path, item, entry)
            for path, item in self._document["paths"].items()
            for method, entry in item.items()
            if method in METHODS
        }

    def call(self, operation_id, *, token=None, auth=None, body=None, **parameters):
        method, path, item, entry = self._operations[operation_id]
        declared = [self._resolved(row) for row in (*item.get("parameters", ()), *entry.get("parameters", ()))]
        sent = {"path": {}, "query": {}, "header": {}}
        for row in declared:
            name = row["name"].lower().replace("-", "_")
            assert name in parameters or not row.get("required"), f"{operation_id} needs {row['name']}"
            if name in parameters:
                value = parameters.pop(name)
                self._fits(Draft4RequestValidator, row["schema"], value, row["name"])
                sent[row["in"]][row["name"]] = str(value)
        assert not parameters, f"{operation_id} has no parameter {', '.join(parameters)}"
        secured = entry.get("security", self._document.get("security", []))
        assert bool(secured) == bool(token), f"{operation_id}: security is {secured}"
        headers = {**sent["header"], **({"Authorization": f"Bearer {token}"} if token else {})}
        address = re.sub(r"{([^}]+)}", lambda found: quote(sent["path"][found.group(1)], safe=""), path)
        answer = httpx.request(
            method.upper(), self._base_url + address, params=sent["query"] or None, auth=auth, timeout=60,
            **self._body(operation_id, entry, body, headers),
        )  # fmt: skip
        self.check(operation_id, answer)
        return answer

    def check(self, operation_id, answer):
        """Hold an answer against the contract: status, headers, media type, schema."""
        method, _, _, entry = self._operations[operation_id]
        responses = entry["responses"]
        where = f"{operation_id} {answer.status_code}"
        assert str(answer.status_code) in responses, f"{where} is not in the contract"
        response = self._resolved(responses[str(answer.status_code)])
        for name, reference in response.get("headers", {}).items():
            header = self._resolved(reference)
            value = answer.headers.get(name)
            assert value is not None or not header.get("required"), f"{where} has no {name}"
            if value is not None:
                typed = int(value) if header["schema"].get("type") == "integer" else value
                self._fits(Draft4ResponseValidator, header["schema"], typed, f"{where} {name}")
        content = response.get("content")
        if not content or method == "head":
            assert answer.content == b"", f"{where} has a body"
            return
        media_type = answer.headers["content-type"].partition(";")[0]
        assert media_type in content or "*/*" in content, f"{where} is {media_type}"
        if media_type.endswith("json") and media_type in content:
            self._fits(Draft4ResponseValidator, content[media_type]["schema"], answer.json(), where)

    def _body(self, operation_id, entry, body, headers):
        if "requestBody" not in entry:
            assert body is None
            return {"headers": headers}
        media_type, content = next(iter(self._resolved(entry["requestBody"])["content"].items()))
        self._fits(Draft4RequestValidator, content["schema"], body, f"{operation_id} body")
        if media_type == "application/x-www-form-urlencoded":
            return {"headers": headers, "data": body}
        return {"headers": {**headers, "Content-Type": media_type}, "content": json.dumps(body)}

    def _resolved(self, node):
        while "$ref" in node:
            found = self._document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
            node = found
        return node

    def _fits(self, validator, schema, value, where):
        errors = list(validator({**schema, "components": self._document["components"]}).iter_errors(value))
        assert not errors, f"{where}: {errors[0].message}"


@pytest.fixture(scope="module")
def locker_client(federation):
    return ContractClient("locker.yaml", federation.locker.url)


@pytest.fixture(scope="module")
def node_client(federation):
    return ContractClient("node.yaml", federation.alpha.url)


def consent_body(*uris):
    return {
        "requester": BANK, "uris": list(uris), "once": False, "expires_at": "2099-01-01T00:00:00Z",
        "purpose": {"code": "admission", "text": "Admission"},
    }  # fmt: skip


def test_the_main_way_from_token_to_document(federation, locker_client, node_client):
    resident = federation.residents["anita"]
    found = locker_client.call("get_locker_descriptor").json()
    assert found["iss"] == federation.between.url
    listed = locker_client.call("list_own_documents", token=resident, limit=50).json()["documents"]
    assert ANITA in {row["uri"] for row in listed}
    locker_client.call("give_consent", token=resident, body=consent_body(ANITA))  # beyond the longest time: 4xx in form
    body = {**consent_body(ANITA), "expires_at": _in_an_hour()}
    consent = locker_client.call("give_consent", token=resident, body=body)
    assert consent.status_code == 201
    consent_id = consent.json()["consent_id"]

    token = locker_client.call(
        "issue_token", auth=(BANK, federation.secrets[BANK]), body={"grant_type": "client_credentials"}
    ).json()["access_token"]
    resolved = locker_client.call(
        "resolve_documents", token=token, body={"consent_id": consent_id, "uris": [ANITA, BINA]}
    )
    granted, refused = resolved.json()["results"]
    assert (granted["outcome"], refused["outcome"]) == ("resolved", "refused")

    assert granted["url"].startswith(federation.alpha.url)
    ticket = granted["ticket"]
    head = node_client.call("head_document", token=ticket, uri=ANITA)
    whole = node_client.call("get_document", token=ticket, uri=ANITA)
    assert whole.content == federation.alpha.documents[ANITA]
    assert head.headers["etag"] == whole.headers["etag"]
    statuses = [
        node_client.call("get_document", token=ticket, uri=ANITA, **asked).status_code
        for asked in ({"range": "bytes=0-9"}, {"range": "bytes=999999-"}, {"if_none_match": whole.headers["etag"]})
    ]
    assert statuses == [206, 416, 304]
    assert node_client.call("get_document", token=ticket, uri=BINA).status_code == 403
    assert node_client.call("get_document", token="none", uri=ANITA).status_code == 401
    node_client.call("get_document_metadata", token=ticket, uri=ANITA)

    for operation in ("get_gateway_document", "head_gateway_document"):
        through = locker_client.call(operation, token=token, uri=ANITA, consent_id=consent_id)
        assert (through.status_code, through.headers["etag"]) == (200, whole.headers["etag"])
    assert locker_client.call("get_gateway_document", token=token, uri=BINA, consent_id=consent_id).status_code == 403
    assert locker_client.call("get_gateway_document", token=token, uri=ANITA, consent_id=uuid7()).status_code == 403


def _in_an_hour():
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def test_the_auditor_s_way(federation, node_client):
    auditor = federation.alpha.auditor
    page = node_client.call("query_access_log", token=auditor, limit=5).json()
    assert page["rows"]
    assert node_client.call("query_access_log", token=federation.alpha.operator).status_code == 403
    for operation in ("get_node_descriptor", "get_jwks", "get_health", "get_readiness", "list_doc_types"):
        node_client.call(operation)


def test_the_check_itself_finds_an_answer_that_does_not_fit(federation, node_client):
    answer = node_client.call("get_node_descriptor")
    wrong = httpx.Response(200, headers=answer.headers, json={**answer.json(), "node_id": 7})
    with pytest.raises(AssertionError, match="get_node_descriptor 200"):
        node_client.check("get_node_descriptor", wrong)
    with pytest.raises(AssertionError, match="418 is not in the contract"):
        node_client.check("get_node_descriptor", httpx.Response(418))
