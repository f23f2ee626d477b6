import base64
from importlib.resources import files

import pytest
from sqlalchemy import text

from node.contract.consents import verify_artefact
from node.contract.records import ASSERTION_TYPE, client_assertion, verify_request
from node.contract.revocation import verify_page
from node.contract.sealing import SealingKey
from node.contract.signing import LOG_GRANT, KeySet, fingerprint
from node.contract.times import DAY, HOUR, format_time, now_us, parse_time
from node.web.specification import load_specification, operations
from tests.locker.documents import CASTE, INCOME, ISSUER, MOBILE

ISS = "http://locker.test"
SPECIFICATION = load_specification(files("openapi"), "locker.yaml")


@pytest.fixture
def held(live):
    """A live locker with a resident's two documents, and one token for each role."""
    world = live.world.fill(base_url=live.node_url)
    now = world.clock()
    live.tokens = {
        "requester": world.requester(),
        "resident": world.resident_token(world.asha),
        "node": world.node_token(world.ap),
        "auditor": world.services.tokens.create("auditor", "a", now + DAY, now).token,
        "operator": world.services.tokens.create("operator", "o", now + DAY, now).token,
    }
    return live


def slug(answer) -> str:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.json()["type"].rpartition("/")[2]


def new_consent(live, *uris: str, **changes):
    body = {
        "requester": "university",
        "uris": list(uris),
        "purpose": {"code": "admission", "text": "Admission to a course"},
        "expires_at": format_time(live.world.clock() + DAY),
        **changes,
    }
    return live.send("POST", "/v1/consents", live.tokens["resident"], json=body)


def test_a_node_registers_waits_is_approved_pushes_and_learns_what_was_linked(live) -> None:
    node = live.world.node(base_url=live.node_url)
    answer = live.send("POST", "/v1/registrations", json={"registration": node.registration()})
    assert answer.status_code == 202 and answer.json()["state"] == "pending"
    assert answer.json()["fingerprint"] == fingerprint(node.keys)
    token = take_token(live, node)
    path = f"/v1/registrations/{node.node_id}"
    assert live.send("GET", path, token).json()["state"] == "pending"
    assert slug(live.send("GET", "/v1/registrations/other", token)) == "forbidden"
    row = live.world.row(INCOME, MOBILE)
    assert slug(live.send("POST", "/v1/push", token, json={"rows": [row]})) == "forbidden"

    live.world.services.directory.approve(ISSUER, node.node_id, fingerprint(node.keys), now_us())
    token = take_token(live, node)
    assert live.send("GET", path, token).json()["scope"] == [{"issuer": ISSUER, "doc_types": ["CASTE", "INCOM"]}]
    (result,) = live.send("POST", "/v1/push", token, json={"rows": [row]}).json()["results"]
    assert result["outcome"] == "pending"
    live.world.resident()
    (change,) = live.send("GET", "/v1/links?after=0&limit=10", token).json()["rows"]
    assert (change["uri"], change["outcome"]) == (INCOME, "linked")


def take_token(live, node) -> str:
    assertion = client_assertion(node.node_id, node.client_key, audience=f"{ISS}/v1/oauth/token", now_us=now_us())
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": assertion,
    }
    answer = live.send("POST", "/v1/oauth/token", data=form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 600)
    return answer.json()["access_token"]


def test_a_registration_at_an_address_we_do_not_connect_to_is_refused(live) -> None:
    for url in (
        "http://169.254.169.254",
        "http://10.0.0.1",
        "https://user@node.test",
        "ftp://node.test",
        "http://2130706433",
    ):
        registration = live.world.node(base_url=url).registration()
        answer = live.send("POST", "/v1/registrations", json={"registration": registration})
        assert (answer.status_code, slug(answer)) == (422, "unacceptable-content"), url
    assert live.world.services.directory.registrations() == []


def test_errors_of_the_token_endpoint_are_those_of_the_rfc(live) -> None:
    secret = live.world.services.tokens.add_requester("uni", "Uni", None, now_us())

    def ask(form, password: str | None = None):
        credentials = base64.b64encode(f"uni:{password}".encode()).decode()
        headers = {"authorization": f"Basic {credentials}"} if password else {}
        return live.send("POST", "/v1/oauth/token", data=form, headers=headers)

    grant = {"grant_type": "client_credentials"}
    assert ask(grant, secret).status_code == 200
    wrong = ask(grant, "wrong")
    assert (wrong.status_code, wrong.json()["error"]) == (401, "invalid_client")
    assert wrong.headers["www-authenticate"].startswith("Basic")
    other = ask({"grant_type": "password"}, secret)
    assert (other.status_code, other.json()["error"]) == (400, "unsupported_grant_type")
    twice = live.send(
        "POST",
        "/v1/oauth/token",
        content=b"grant_type=client_credentials&grant_type=client_credentials",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert slug(twice) == "bad-request"


def test_a_consent_is_given_read_narrowed_and_revoked_over_http(held) -> None:
    given = new_consent(held, INCOME, CASTE, representations=["application/pdf"])
    assert given.status_code == 201, given.text
    path = given.headers["location"]
    assert path == f"/v1/consents/{given.json()['consent_id']}"
    for role in ("resident", "requester", "auditor"):
        assert held.send("GET", path, held.tokens[role]).json()["state"] == "active"
    resident = held.tokens["resident"]
    narrowed = held.send("POST", f"{path}/narrow", resident, json={"uris": [INCOME]})
    assert [item["uri"] for item in narrowed.json()["items"]] == [INCOME]
    revoked = held.send("POST", f"{path}/revoke", resident, json={"reason": "done"})
    assert (revoked.json()["state"], revoked.json()["revision"]) == ("revoked", 3)
    assert held.send("POST", f"{path}/revoke", resident).json()["revision"] == 3
    events = held.send("GET", f"{path}/events", held.tokens["requester"]).json()["events"]
    assert [event["kind"] for event in events] == ["given", "narrowed", "revoked"]
    artefact = held.send("GET", f"{path}/artefact", held.tokens["auditor"])
    assert artefact.headers["content-type"].startswith("application/jwt")
    keys = KeySet.from_jwks(held.send("GET", "/.well-known/jwks.json").json())
    assert verify_artefact(artefact.text, keys).state == "revoked"
    listed = held.send("GET", "/v1/consents?state=revoked", held.tokens["auditor"]).json()["consents"]
    assert [row["consent_id"] for row in listed] == [given.json()["consent_id"]]


def test_consents_that_make_no_sense_are_refused(held) -> None:
    assert new_consent(held, INCOME, expires_at="2026-13-45T00:00:00Z").status_code in (400, 422)
    assert slug(new_consent(held, INCOME, expires_at="2020-01-01T00:00:00Z")) == "unacceptable-content"
    assert slug(new_consent(held, INCOME, requester="nobody")) == "not-found"
    assert slug(new_consent(held, f"{ISSUER}-INCOM-404")) == "document-not-found"
    assert slug(new_consent(held, INCOME, more=1)) == "bad-request"
    consent = new_consent(held, INCOME).json()
    path = f"/v1/consents/{consent['consent_id']}"
    later = format_time(parse_time(consent["expires_at"]) + HOUR)
    narrowed = held.send("POST", f"{path}/narrow", held.tokens["resident"], json={"expires_at": later})
    assert slug(narrowed) == "unacceptable-content"


def test_revocation_pages_can_be_followed_by_anybody(held) -> None:
    assert slug(held.send("GET", "/v1/revocations/latest")) == "not-found"
    for _ in range(2):
        consent_id = new_consent(held, INCOME).json()["consent_id"]
        held.send("POST", f"/v1/consents/{consent_id}/revoke", held.tokens["resident"])
    latest = held.send("GET", "/v1/revocations/latest")
    page = verify_page(latest.text, held.world.keys.public)
    assert (page.sequence, page.entries[0].consent_id) == (2, consent_id)
    assert held.send("GET", "/v1/revocations/2").text == latest.text
    assert "immutable" in held.send("GET", "/v1/revocations/1").headers["cache-control"]
    assert slug(held.send("GET", "/v1/revocations/3")) == "not-found"


def test_a_resident_lists_documents_and_activity_and_gets_tickets(held) -> None:
    resident = held.tokens["resident"]
    first = held.send("GET", "/v1/residents/me/documents?limit=1", resident).json()
    second = held.send("GET", f"/v1/residents/me/documents?limit=1&cursor={first['next_cursor']}", resident).json()
    assert [row["uri"] for row in first["documents"] + second["documents"]] == [CASTE, INCOME]
    assert second["next_cursor"] is None and first["documents"][0]["linked_at"].endswith("Z")
    ticket = held.send("POST", "/v1/residents/me/tickets", resident, json={"uri": INCOME}).json()
    assert ticket["url"] == f"{held.node_url}/v1/documents/{INCOME}"
    rows = held.send("GET", "/v1/residents/me/activity?after=0", resident).json()["rows"]
    assert [row["kind"] for row in rows] == ["document-linked", "document-linked", "ticket-issued"]
    later = held.send("GET", "/v1/residents/me/activity?from=2099-01-01T00:00:00Z", resident)
    assert later.json()["rows"] == []
    refused = held.send("POST", "/v1/residents/me/tickets", resident, json={"uri": f"{ISSUER}-INCOM-404"})
    assert slug(refused) == "document-not-found"


def test_an_auditor_pages_through_ticket_records(held) -> None:
    consent_id = new_consent(held, INCOME, CASTE).json()["consent_id"]
    body = {"consent_id": consent_id, "uris": [INCOME, CASTE]}
    assert held.send("POST", "/v1/resolve", held.tokens["requester"], json=body).status_code == 200
    auditor = held.tokens["auditor"]
    first = held.send("GET", f"/v1/ticket-records?limit=1&consent_id={consent_id}", auditor).json()
    rest = held.send("GET", f"/v1/ticket-records?after={first['next_after']}", auditor).json()
    assert [row["uri"] for row in first["rows"] + rest["rows"]] == [INCOME, CASTE] and rest["next_after"] is None
    assert held.send("GET", "/v1/ticket-records?to=2020-01-01T00:00:00%2B05:30", auditor).json()["rows"] == []
    assert slug(held.send("GET", "/v1/ticket-records?from=yesterday", auditor)) == "bad-request"
    assert slug(held.send("GET", "/v1/ticket-records?unknown=1", auditor)) == "bad-request"


def test_an_auditor_finds_every_attempt_and_the_own_queries(held) -> None:
    world, now = held.world, held.world.clock()
    consent = world.consent(world.asha, INCOME)
    world.tickets(held.tokens["requester"], consent.consent_id, INCOME, f"{ISSUER}-INCOM-404")
    auditor = world.services.tokens.create("auditor", "State audit office", now + DAY, now).token
    first = held.send("GET", "/v1/attempts", auditor, params={"limit": 1})
    assert (first.status_code, [row["outcome"] for row in first.json()["rows"]]) == (200, ["allowed"])
    place = first.json()["next_after"]
    rest = held.send("GET", "/v1/attempts", auditor, params={"after": place, "consent_id": consent.consent_id}).json()
    (refused,) = rest["rows"]
    assert (refused["reason"], refused["subject"], rest["next_after"]) == ("not-covered", "university", None)
    held.send("GET", "/v1/ticket-records", auditor, params={"uri": INCOME})
    bad = held.send("GET", "/v1/attempts", auditor, params={"outcome": "somehow"})
    assert bad.status_code == 400
    queries = held.send("GET", "/v1/attempts", auditor, params={"operation": "log.query"}).json()["rows"]
    assert [(row["outcome"], row["query"]) for row in queries] == [
        ("complete", {"limit": "1"}),
        ("complete", {"after": str(place), "consent_id": consent.consent_id}),
        ("complete", {"uri": INCOME}),
        ("refused", None),
    ]
    assert {row["subject"] for row in queries} == {"State audit office"}
    assert queries[-1]["request_id"] == bad.headers["x-request-id"]


def test_who_may_not_query_leaves_a_row_too(held) -> None:
    world, now = held.world, held.world.clock()
    gone = world.services.tokens.create("auditor", "gone", now - 1, now - 2).token
    asked = (None, "x" * 43, gone, held.tokens["requester"], held.tokens["node"])
    for token in asked:
        for path in ("/v1/attempts", "/v1/ticket-records"):
            assert held.send("GET", path, token).status_code == (403 if token in asked[3:] else 401)
    rows = [(row["reason"], row.get("subject")) for row in world.attempts(operation="log.query")]
    assert rows == [
        pair
        for pair in (
            ("missing-credential", None), ("unknown-token", None), ("expired", "gone"),
            ("role-not-allowed", "university"), ("role-not-allowed", "node-ap"),
        )
        for _ in range(2)
    ]  # fmt: skip


def test_records_are_not_shown_when_the_query_cannot_be_recorded(held) -> None:
    now = held.world.clock()
    auditor = held.world.services.tokens.create("auditor", "a", now + DAY, now).token
    with held.world.database.write() as session:
        session.execute(text("ALTER TABLE attempt RENAME TO elsewhere"))
    answer = held.send("GET", "/v1/ticket-records", auditor)
    assert (answer.status_code, "rows" in answer.json()) == (503, False)


def test_log_grants_are_for_one_node_and_ones_own_rows(held) -> None:
    for role in ("resident", "requester"):
        answer = held.send("POST", "/v1/log-grants", held.tokens[role], json={"node_id": "node-ap"}).json()
        claims = verify_request(answer["grant"], LOG_GRANT, held.world.keys.public, audience="node-ap", now_us=now_us())
        assert claims["scope"] == {"resident": "holder", "requester": "client"}[role]
        assert answer["node"]["base_url"] == held.node_url
    assert slug(held.send("POST", "/v1/log-grants", held.tokens["resident"], json={"node_id": "other"})) == "not-found"


def test_the_directory_is_public_and_shows_whether_nodes_live(held) -> None:
    from locker.jobs import probe

    probe(held.locker)
    (issuer,) = held.send("GET", "/v1/issuers").json()["issuers"]
    assert (issuer["issuer"], issuer["state"]) == (ISSUER, "up")
    types = held.send("GET", f"/v1/issuers/{ISSUER.upper()}/doc-types").json()["doc_types"]
    assert [row["doc_type"] for row in types] == ["CASTE", "INCOM"]
    assert slug(held.send("GET", "/v1/issuers/nobody/doc-types")) == "not-found"


def test_the_descriptor_names_the_key_that_holders_are_sealed_to(live) -> None:
    descriptor = live.send("GET", "/.well-known/federated-locker").json()
    key = SealingKey.from_jwk(descriptor["encryption_keys"][0])
    assert key.kid == live.world.keys.opening.kid and descriptor["iss"] == ISS
    types = {key["typ"] for key in live.send("GET", "/.well-known/jwks.json").json()["keys"]}
    assert len(types) == 5 and all(typ.startswith("locker-") for typ in types)


def test_readiness_says_what_is_the_matter(live) -> None:
    from locker.jobs import republish

    assert live.send("GET", "/healthz").json() == {"status": "ok"}
    answer = live.send("GET", "/readyz")
    failed = [row["name"] for row in answer.json()["checks"] if row["result"] == "failed"]
    assert (answer.status_code, failed) == (503, ["revocation-page"])
    republish(live.locker)
    assert live.send("GET", "/readyz").status_code == 200
    live.world.clock.offset = DAY
    overdue = live.send("GET", "/readyz").json()
    assert "job process" in next(row["detail"] for row in overdue["checks"] if row["result"] == "failed")


def test_metrics_are_for_operators_and_name_no_document(held) -> None:
    held.send("GET", f"/v1/residents/me/documents/{INCOME}", held.tokens["resident"])
    page = held.send("GET", "/metrics", held.tokens["operator"])
    assert page.status_code == 200 and 'route="/v1/residents/me/documents/{uri}"' in page.text
    assert INCOME not in page.text


def test_the_published_contract_is_the_whole_one(live) -> None:
    assert live.send("GET", "/v1/openapi.json").json()["paths"].keys() == SPECIFICATION["paths"].keys()


def address(operation) -> str:
    values = {"node_id": "node-ap", "issuer": ISSUER, "uri": INCOME, "sequence": "1"}
    values["consent_id"] = "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b"
    return operation.path.format(**values)


def test_every_route_lets_in_its_roles_and_no_others(held) -> None:
    """Before anything else of a request is looked at: a caller of the wrong role learns nothing, not even what is malformed."""
    for operation in operations(SPECIFICATION):
        path = address(operation)
        if "public" in operation.roles:
            assert held.send(operation.method, path).status_code not in (401, 403), path
            continue
        assert held.send(operation.method, path).status_code == 401, path
        assert held.send(operation.method, path, "wrong").status_code == 401, path
        for role, token in held.tokens.items():
            answer = held.send(operation.method, path, token)
            if role not in operation.roles:
                assert answer.status_code == 403, (role, operation)
            else:
                assert answer.status_code not in (401, 403), (role, operation)


def test_an_applicant_reaches_its_own_registration_only(held) -> None:
    node = held.world.node(node_id="node-new", issuers=("in.gov.new",), base_url=held.node_url)
    held.send("POST", "/v1/registrations", json={"registration": node.registration()})
    token = take_token(held, node)
    for operation in operations(SPECIFICATION):
        if "public" in operation.roles or operation.operation_id == "get_registration":
            continue
        assert held.send(operation.method, address(operation), token).status_code == 403, operation


def test_two_authorization_headers_are_no_credential(held) -> None:
    headers = [("authorization", f"Bearer {held.tokens['auditor']}")] * 2
    assert held.client.get("/v1/ticket-records", headers=headers).status_code == 401


def test_a_holder_value_never_comes_back_in_an_error(held) -> None:
    row = held.world.row(INCOME, revision=2) | {"holder": {"scheme": "mobile", "value": "9876543210"}}
    answer = held.send("POST", "/v1/push", held.tokens["node"], json={"rows": [row]})
    assert slug(answer) == "bad-request" and "9876543210" not in answer.text


def test_too_large_bodies_are_cut_off(held) -> None:
    size = held.world.settings.max_body_bytes + 1
    answer = held.send(
        "POST", "/v1/push", held.tokens["node"], content=b"x" * size, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, slug(answer)) == (413, "body-too-large")


@pytest.mark.parametrize("text", ["a%0ab", "a%0d%0ab", "%0a", "a%00b"])
@pytest.mark.parametrize(
    "path", ["consents/{}", "consents/{}/events", "issuers/{}/doc-types", "registrations/{}", "revocations/{}"]
)
def test_a_path_that_two_routers_read_differently_reaches_no_handler(live, path, text):
    answer = live.send("GET", "/v1/" + path.format(text))
    assert answer.status_code in (400, 401, 404), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
