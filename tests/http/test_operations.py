"""Every operation of the control plane, answered as the specification says (responses are validated in these tests)."""

import json

import pytest

from node.contract.signing import encode_base64url
from node.contract.times import DAY, now_us
from node.http.ports import ReadinessCheck
from tests.http.plane import ISS, ISSUER, MOBILE, NODE_ID, OTHER_ISSUER, pull_body


def test_a_page_of_documents_is_what_the_token_covers(control):
    mine, other = control.add("1"), control.add("2", issuer=OTHER_ISSUER)
    everything = control.ask("GET", "/v1/documents", bearer=control.token())
    assert [row["uri"] for row in everything.json()["documents"]] == sorted([mine, other])
    narrow = control.ask("GET", "/v1/documents", bearer=control.token(issuers=(ISSUER,)))
    assert [row["uri"] for row in narrow.json()["documents"]] == [mine]
    assert [event["rows"] for event in control.events()] == [2, 1]
    outside = control.ask("GET", f"/v1/documents?issuer={OTHER_ISSUER}", bearer=control.token(issuers=(ISSUER,)))
    assert outside.json()["documents"] == []


def test_pages_of_documents_join_without_gap_or_repetition(control):
    uris = sorted(control.add(str(number)) for number in range(5))
    token, cursor, seen = control.token(), "", []
    while cursor is not None:
        page = control.ask("GET", f"/v1/documents?limit=2{cursor}", bearer=token).json()
        seen += [row["uri"] for row in page["documents"]]
        cursor = f"&cursor={page['next_cursor']}" if page.get("next_cursor") else None
    assert seen == uris


@pytest.mark.parametrize("cursor", ["~~~", "AA", "4KSV", "a", encode_base64url(b"x" * 300)])
def test_a_cursor_from_elsewhere_is_refused(control, cursor):
    answer = control.ask("GET", f"/v1/documents?cursor={cursor}", bearer=control.token())
    assert answer.status_code == 400
    assert control.events()[-1]["reason"] == "bad-cursor"


def test_documents_by_status_know_what_has_expired(control):
    control.add("1")
    control.add("2", expires_on="2020-01-01")
    control.add("3", status="revoked", status_reason="Wrong form.")
    token = control.token()
    for status, doc_id in (("active", "1"), ("expired", "2"), ("revoked", "3")):
        page = control.ask("GET", f"/v1/documents?status={status}", bearer=token).json()
        assert [row["uri"][-1] for row in page["documents"]] == [doc_id]


def test_an_office_limits_what_a_token_sees(control):
    north, south = control.add("1", office="north"), control.add("2", office="south")
    token = control.token(office="north")
    assert [row["uri"] for row in control.ask("GET", "/v1/documents", bearer=token).json()["documents"]] == [north]
    assert control.ask("GET", f"/v1/documents/{north}/metadata", bearer=token).status_code == 200
    assert control.ask("GET", f"/v1/documents/{south}/metadata", bearer=token).status_code == 403
    assert control.events()[-1]["reason"] == "token-out-of-scope"


def test_metadata_for_an_operator_and_for_a_ticket(control):
    uri = control.add()
    whole = control.ask("GET", f"/v1/documents/{uri.upper()}/metadata", bearer=control.token()).json()
    assert whole["uri"] == uri
    assert whole["parameters"] == {"number": "1"}
    assert whole["holder"] == {"scheme": "mobile", "last4": "3210", "holder_ref": "h-1"}
    assert whole["representations"][0]["media_type"] == "application/pdf"
    ticket = control.locker.ticket()
    shown = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=ticket).json()
    assert "parameters" not in shown
    event = control.events()[-1]
    assert event["principal"] == {"kind": "ticket", "iss": ISS}
    assert (event["client_id"], event["purpose"], event["outcome"], event["status"]) == (
        "university", "admission", "complete", 200
    )  # fmt: skip


def test_metadata_changes_with_its_row_in_one_transaction(control):
    uri = control.add()
    change = {"title": "Income, family", "expires_on": "2030-01-01", "holder": {"scheme": "mobile", "value": MOBILE}}
    answer = control.ask("PATCH", f"/v1/documents/{uri}/metadata", bearer=control.token(), json=change)
    assert answer.status_code == 200, answer.text
    assert answer.json()["title"] == "Income, family"
    [event] = control.events()
    assert (event["action"], event["outcome"], event["status"], event["uri"]) == ("put", "complete", 200, uri)
    assert MOBILE not in json.dumps(event)


def test_a_change_that_is_refused_is_logged_once(control):
    uri = control.add()
    token = control.token()
    answer = control.ask("PATCH", f"/v1/documents/{uri}/metadata", bearer=token, json={"issued_on": "2026-13-45"})
    assert answer.status_code in (400, 422)
    answer = control.ask("PATCH", f"/v1/documents/{uri}/metadata", bearer=token, json={"expires_on": "1999-01-01"})
    assert answer.status_code == 422
    assert [(event["outcome"], event["reason"]) for event in control.events()][1] == ("refused", "date")
    assert len(control.events()) == 2


def test_status_is_read_revoked_and_restored(control):
    uri = control.add()
    token = control.token()
    path = f"/v1/documents/{uri}/status"
    assert control.ask("GET", path, bearer=token).json()["status"] == "active"
    revoked = control.ask("PUT", path, bearer=token, json={"status": "revoked", "reason": "Wrong form."})
    assert (revoked.status_code, revoked.json()["status"], revoked.json()["reason"]) == (200, "revoked", "Wrong form.")
    assert control.ask("GET", path, bearer=control.locker.ticket()).json()["status"] == "revoked"
    restored = control.ask("PUT", path, bearer=token, json={"status": "active"})
    assert restored.json()["status"] == "active"
    assert [event["action"] for event in control.events()] == ["status"] * 4
    assert control.ask("PUT", path, bearer=token, json={"status": "revoked"}).status_code == 400


@pytest.mark.parametrize(
    ("uri", "status", "reason"),
    [
        (f"{ISSUER}-INCOM-999", 404, "document-not-found"),
        ("in.gov.unknown-INCOM-1", 404, "document-not-found"),
        (f"{ISSUER}--1", 400, "malformed-uri"),
        ("nothing", 400, "malformed-uri"),
        (f"{ISSUER}-INCOM-a%00b", 400, "malformed-uri"),
        (f"{ISSUER}-INCOM-%E0%A4%95", 400, "malformed-uri"),
    ],
)
def test_a_document_that_is_not_there_has_its_row_too(control, uri, status, reason):
    answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=control.token())
    assert answer.status_code == status, answer.text
    [event] = control.events()
    assert (event["outcome"], event["reason"], event["status"]) == ("refused", reason, status)
    assert event["uri"].lower().startswith(uri[:8].lower())


def test_document_types(control):
    [row, _] = control.ask("GET", "/v1/doc-types").json()["doc_types"]
    assert (row["issuer"], row["doc_type"]) == (ISSUER, "INCOM")
    assert row["search_parameters"] == [{"name": "number", "label": "Number", "required": True}]
    assert "application/pdf" in row["media_types"]


def test_the_descriptor_and_the_keys(control):
    descriptor = control.ask("GET", "/.well-known/federated-locker").json()
    assert (descriptor["node_id"], descriptor["exposure"]) == (NODE_ID, "direct")
    assert descriptor["issuers"][0] == {"issuer": ISSUER, "name": "Example department", "doc_types": ["INCOM"]}
    assert descriptor["encryption_keys"][0]["kid"] == control.opening.public.jwk()["kid"]
    [key] = control.ask("GET", "/.well-known/jwks.json").json()["keys"]
    assert key == control.registration.public.jwk()


def test_health_and_readiness(control):
    assert control.ask("GET", "/healthz").json() == {"status": "ok"}
    assert control.ask("GET", "/readyz").json()["status"] == "ready"
    control.checks.append(ReadinessCheck("storage", False, "The storage folder cannot be read: permission denied."))
    answer = control.ask("GET", "/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not-ready")
    assert answer.json()["checks"][1] == {
        "name": "storage", "result": "failed", "detail": "The storage folder cannot be read: permission denied."
    }  # fmt: skip


def test_counts_name_nobody(control):
    control.add("1")
    control.add("2", issuer=OTHER_ISSUER)
    uri = control.add("3")
    control.write(uri=uri, issuer=ISSUER, doc_type="INCOM", outcome="allowed", read_id="r", open=True, process="p")
    control.write(uri=uri, issuer=ISSUER, doc_type="INCOM", phase="end", read_id="r")
    control.write(uri="in.gov.nobody-X-1", outcome="refused")
    control.sequence()
    counts = control.ask("GET", "/v1/counts", bearer=control.token("monitor")).json()
    assert {(row["issuer"], row["count"]) for row in counts["documents"]} == {(ISSUER, 2), (OTHER_ISSUER, 1)}
    assert [(row["outcome"], row["count"], row["doc_type"]) for row in counts["reads"]] == [("complete", 1, "INCOM")]
    assert counts["outbox"] == {"waiting": 0, "lag_seconds": 0}
    narrow = control.ask("GET", "/v1/counts", bearer=control.token(issuers=(OTHER_ISSUER,))).json()
    assert (len(narrow["documents"]), narrow["reads"]) == (1, [])


def test_metrics_are_prometheus_text(control):
    answer = control.ask("GET", "/metrics", bearer=control.token("monitor"))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")


def test_the_contract_is_published_whole(control):
    contract = control.ask("GET", "/v1/openapi.json").json()
    assert contract["paths"]["/v1/documents/{uri}"]["x-plane"] == "delivery"
    assert contract["components"]["securitySchemes"]
    assert contract["paths"]["/v1/documents"]["get"]["security"]


def test_the_page_for_people_loads_nothing_from_elsewhere(control):
    assert control.ask("GET", "/v1/ui").headers["location"] == "/v1/ui/"
    page = control.ask("GET", "/v1/ui/")
    assert "unsafe-inline" not in page.headers["content-security-policy"].partition("style-src")[0]
    assert "https://" not in page.text and "<script>" not in page.text
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js"):
        assert name in page.text
        assert control.ask("GET", f"/v1/ui/{name}").status_code == 200
    assert control.ask("GET", "/v1/ui/../../etc/passwd").status_code == 404
    assert control.ask("GET", "/v1/ui/index.html").status_code == 404
    assert control.ask("POST", "/v1/ui/").status_code == 405


def test_a_pull_is_matched_once_and_logged_with_its_outcome(control):
    uri = control.add(holder_ref=None)
    body = pull_body()
    answer = control.ask("POST", "/v1/pulls", bearer=control.locker.pull(body), json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] in ("matched", "pending", "no")
    again = control.ask("POST", "/v1/pulls", bearer=control.locker.pull(body), json=body)
    assert again.json() == answer.json()
    event = control.events()[-1]
    assert event["principal"] == {"kind": "locker", "iss": ISS}
    assert (event["action"], event["issuer"], event["holder_ref"]) == ("search", ISSUER, "h-1")
    assert event.get("uri") == (uri if answer.json()["outcome"] == "matched" else None)
    assert MOBILE not in json.dumps(event)


@pytest.mark.parametrize("claim", ["txn", "issuer", "doc_type", "resident_ref"])
def test_a_pull_for_another_search_than_the_signed_one_is_refused(control, claim):
    body = pull_body()
    answer = control.ask("POST", "/v1/pulls", bearer=control.locker.pull(body, **{claim: "other"}), json=body)
    assert answer.status_code == 403
    assert control.events()[-1]["reason"] == "request-mismatch"


def test_a_look_up_finds_what_the_auditor_may_see_and_logs_no_number(control):
    mine, _ = control.add("1"), control.add("2", issuer=OTHER_ISSUER)
    token = control.token("auditor", issuers=(ISSUER,))
    answer = control.ask("POST", "/v1/holders/lookup", bearer=token, json={"scheme": "mobile", "value": "98765 43210"})
    assert answer.status_code == 200, answer.text
    assert [row["uri"] for row in answer.json()["matches"]] == [mine]
    nobody = {"scheme": "mobile", "value": "+919000000000"}
    assert control.ask("POST", "/v1/holders/lookup", bearer=token, json=nobody).json() == {"matches": []}
    bad = {"scheme": "aadhaar", "value": "123456789012"}
    refused = control.ask("POST", "/v1/holders/lookup", bearer=token, json=bad)
    assert refused.status_code == 422
    rows = json.dumps(control.events())
    assert [event["action"] for event in control.events()] == ["holder.lookup"] * 3
    for secret in ("43210", "9000000000", "123456789012"):
        assert secret not in rows
    assert "123456789012" not in refused.text


def test_a_failing_log_answers_nothing(control):
    uri = control.add()
    token = control.token()
    with control.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE access_unsequenced")
    answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=token)
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (503, "log-unavailable")
    assert uri not in answer.text
    changed = control.ask("PUT", f"/v1/documents/{uri}/status", bearer=token, json={"status": "revoked", "reason": "x"})
    assert changed.status_code >= 500
    assert control.records.document(uri.lower()).status == "active"


def test_a_token_that_ends_tomorrow_is_good_today(control):
    assert control.ask("GET", "/v1/counts", bearer=control.token(expires_us=now_us() + DAY)).status_code == 200
