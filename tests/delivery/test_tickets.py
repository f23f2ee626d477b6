"""Tickets at the node's door: each way of being wrong is refused with its own reason, and logged with it."""

import json

import httpx
import pytest
from sqlalchemy import insert, update

from node.contract.consents import ConsentArtefact, ConsentItem, issue_artefact
from node.contract.records import sign_request
from node.contract.revocation import RevocationPage, issue_page
from node.contract.signing import (
    CONSENT,
    LOG_GRANT,
    PULL,
    REVOCATION,
    TICKET,
    KeySet,
    SigningKey,
    encode_base64url,
    read_claims_unverified,
    sign,
)
from node.contract.times import DAY, HOUR, MINUTE, SECOND, now_us
from node.db.models import Locker, RevocationEntryRow

URI = "in.gov.example-INCOM-1"
ISS = "https://locker.example"


@pytest.fixture
def document(served):
    served.add("1", b"%PDF-1.7 one")
    served.add("1", b"<one/>", media_type="application/xml")
    served.add("2", b"%PDF-1.7 two")
    return served


def ask(served, token, uri=URI, method="GET"):
    return httpx.request(method, f"{served.url}/v1/documents/{uri}", headers={"authorization": f"Bearer {token}"})


def refused(served, token, status, reason, uri=URI):
    """Ask for a document and expect a refusal with a reason, in the answer's kind and in the log."""
    answer = ask(served, token, uri)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    row = served.events(expected=1)[-1]
    assert (row["outcome"], row["reason"], row["status"]) == ("refused", reason, status)
    return row


@pytest.mark.parametrize(
    ("claims", "status", "reason"),
    [
        ({"aud": "node-2"}, 401, "other-audience"),
        ({"iss": "https://other.example"}, 401, "unknown-locker"),
        ({"doc_type": "DEGRE"}, 403, "other-document"),
        ({"issuer": "in.gov.other"}, 403, "other-document"),
        ({"representations": ("image/png",)}, 403, "representation-not-allowed"),
        ({"representations": ()}, 403, "representation-not-allowed"),
        ({"version": 9}, 404, "version-not-known"),
        ({"key_thumbprint": "abc"}, 401, "bound-ticket"),
    ],
)
def test_a_ticket_that_is_not_for_this_is_refused(document, claims, status, reason):
    refused(document, document.ticket("1", **claims), status, reason)


@pytest.mark.parametrize(
    ("issued_in", "reason"),
    [(10 * MINUTE, "not-yet-valid"), (DAY, "not-yet-valid"), (-DAY, "expired"), (-11 * MINUTE, "expired")],
)
def test_a_ticket_at_another_time_than_its_own_is_refused(document, issued_in, reason):
    refused(document, document.ticket("1", issued_us=now_us() + issued_in), 401, reason)


def test_a_ticket_opens_its_own_document_only(document):
    refused(document, document.ticket("2"), 403, "other-document")


def test_a_second_locker_opens_only_what_the_settings_give_it(served_with):
    second, key = "https://second.example", SigningKey.generate(TICKET)
    served = served_with(lockers=[{"iss": ISS}, {"iss": second, "issuers": ["in.gov.other"]}])
    served.add("1", b"x")
    served.trust(second, key)
    refused(served, served.ticket("1", key, iss=second), 403, "locker-out-of-scope")
    assert ask(served, served.ticket("1")).status_code == 200
    crossed = served.ticket("1", key)  # the second locker's key under the first one's name
    assert ask(served, crossed).status_code == 401


def test_a_ticket_that_lives_too_long_is_refused(document):
    now = now_us() // SECOND
    refused(document, document.ticket("1", exp=now + 901), 401, "lifetime-too-long")
    assert ask(document, document.ticket("1", exp=now + 899)).status_code == 200


def claims_of(served):
    return read_claims_unverified(served.ticket("1"))


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256"])
def test_other_algorithms_are_refused(document, alg):
    header = encode_base64url(json.dumps({"alg": alg, "typ": TICKET, "kid": document.key.kid}).encode())
    body = encode_base64url(json.dumps(claims_of(document)).encode())
    refused(document, f"{header}.{body}.", 401, "wrong-alg")


def other_tokens(served):
    """Return what a locker signs besides tickets, each by its own key and by the ticket key."""
    now = now_us()
    artefact = ConsentArtefact(
        ISS, "c-1", 1, None, "r", "university", "U", (ConsentItem(URI),), "admission", "", False, "active", now, now, now + HOUR,
    )  # fmt: skip
    page = RevocationPage(ISS, 1, None, 1, now, now + HOUR, ())
    keys = {typ: SigningKey.generate(typ) for typ in (CONSENT, REVOCATION, PULL, LOG_GRANT, "JWT")}
    yield issue_artefact(artefact, keys[CONSENT])
    yield issue_page(page, keys[REVOCATION])
    yield sign_request({"iss": ISS}, keys[PULL], audience="node-1", now_us=now)
    yield sign_request({"iss": ISS}, keys[LOG_GRANT], audience="node-1", now_us=now)
    yield sign(claims_of(served), keys["JWT"])  # as an id_token would be


def test_what_else_a_locker_signs_is_no_ticket(document):
    for token in other_tokens(document):
        assert ask(document, token).status_code == 401
    assert [row["reason"] for row in document.events(expected=5)] == ["wrong-typ"] * 5
    by_another = sign(claims_of(document), SigningKey.generate(TICKET))
    refused(document, by_another, 401, "unknown-key")


def test_a_locker_that_is_not_active_opens_nothing(document):
    with document.node.database.writing() as connection:
        connection.execute(update(Locker).values(state="suspended"))
    refused(document, document.ticket("1"), 401, "locker-not-active")


def test_settings_limit_what_a_locker_may_ticket(served_with):
    limit = [{"iss": ISS, "issuers": ["in.gov.other"]}]
    served = served_with(lockers=limit)
    served.add("1", b"x")
    refused(served, served.ticket("1"), 403, "locker-out-of-scope")


def test_settings_shut_out_lockers_they_do_not_list(served_with):
    served = served_with(lockers=[{"iss": "https://another.example"}])
    served.add("1", b"x")
    refused(served, served.ticket("1"), 401, "locker-not-active")


def test_a_node_behind_the_gateway_takes_the_gateways_tickets_only(served_with):
    served = served_with(exposure="gateway-only")
    served.add("1", b"x")
    refused(served, served.ticket("1"), 403, "gateway-only")
    assert ask(served, served.ticket("1", act="gateway")).status_code == 200


def revoke(served, moment_us, consent_id="c-1", iss=ISS):
    with served.node.database.writing() as connection:
        connection.execute(insert(RevocationEntryRow).values(iss=iss, consent_id=consent_id, void_before_us=moment_us))


def test_a_revoked_consent_voids_what_was_issued_up_to_that_microsecond(document):
    moment = now_us()
    revoke(document, moment)
    refused(document, document.ticket("1", issued_us=moment), 401, "consent-revoked")
    assert ask(document, document.ticket("1", issued_us=moment + 1)).status_code == 200
    assert ask(document, document.ticket("1", consent_id="c-2", issued_us=moment)).status_code == 200
    own = document.ticket("1", basis="holder", consent_id=None, artefact=None, issued_us=moment)
    assert ask(document, own).status_code == 200


def test_another_lockers_list_voids_nothing_here(document):
    document.trust("https://other.example", SigningKey.generate(TICKET))
    revoke(document, now_us() + HOUR, iss="https://other.example")
    assert ask(document, document.ticket("1")).status_code == 200


def test_a_ticket_names_its_representation(document):
    only = document.ticket("1", representations=("application/xml",))
    assert ask(document, only).content == b"<one/>"
    assert ask(document, only, method="HEAD").headers["content-type"] == "application/xml"


def test_a_ticket_works_again_and_again_and_each_time_is_logged(document):
    token = document.ticket("1")
    assert [ask(document, token).status_code for _ in range(4)] == [200] * 4
    rows = document.events(expected=8)
    assert [row["ticket"] for row in rows if row["phase"] == "attempt"] == ["t-1"] * 4


@pytest.mark.parametrize("header", ["Basic dTpw", "Bearer", "DPoP x.y.z", "Bearer " + "x" * 15000])
def test_other_schemes_and_empty_credentials(document, header):
    answer = httpx.get(f"{document.url}/v1/documents/{URI}", headers={"authorization": header})
    assert answer.status_code in (401, 431)
    if answer.status_code == 401:
        assert document.events(expected=1)[-1]["outcome"] == "refused"


def test_rows_hold_no_credential(document):
    token, ticket = document.token(), document.ticket("1")
    ask(document, token)
    ask(document, ticket)
    ask(document, ticket[:-4] + "AAAA")
    text = json.dumps(document.events(expected=5))
    assert token not in text and ticket not in text and ticket.split(".")[2] not in text


def test_a_locker_key_that_was_replaced_is_followed_at_once(document):
    old, new = document.key, SigningKey.generate(TICKET)
    assert ask(document, document.ticket("1", old)).status_code == 200
    with document.node.database.writing() as connection:
        connection.execute(
            update(Locker).values(jwks=json.dumps(KeySet([new.public]).jwks()), jwks_fetched_us=now_us())
        )
    assert ask(document, document.ticket("1", old)).status_code == 401
    assert ask(document, document.ticket("1", new)).status_code == 200


def test_a_key_that_its_root_revoked_opens_nothing_whatever_is_published(document):
    token, renamed = document.ticket("1"), SigningKey(TICKET, document.key.key, "renamed")
    published = KeySet([document.key.public, renamed.public]).jwks()
    with document.node.database.writing() as connection:
        connection.execute(update(Locker).where(Locker.iss == ISS).values(jwks=json.dumps(published)))
    assert ask(document, token).status_code == 200
    assert ask(document, document.ticket("1", renamed)).status_code == 200
    document.events(expected=4)
    with document.node.database.writing() as connection:
        revoked = json.dumps([document.key.kid])
        connection.execute(update(Locker).where(Locker.iss == ISS).values(revoked_keys=revoked))
    for stolen in (token, document.ticket("1"), document.ticket("1", renamed)):
        answer = ask(document, stolen)
        assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (401, "invalid-credential")
    assert {row["reason"] for row in document.events(expected=7)[4:]} == {"key-revoked"}


def test_a_flood_hides_no_ticket_that_was_really_issued(served_within_a_minute):
    served = served_within_a_minute
    for _ in range(25):
        httpx.get(f"{served.url}/v1/documents/{URI}")
    stolen = served.ticket("1", aud="node-2", client_id="thief", issued_us=served.node.clock())
    answers = [ask(served, stolen).status_code for _ in range(22)]
    assert answers == [401] * 20 + [429] * 2
    rows = [row for row in served.events(expected=40) if row.get("client_id") == "thief"]
    assert [row["reason"] for row in rows] == ["other-audience"] * 20
