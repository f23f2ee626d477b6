import socket
import time

import httpx
import pytest
from sqlalchemy import select, text

from locker.db.models import TicketRecord
from node.contract.tickets import verify_ticket
from node.contract.times import DAY, SECOND
from tests.locker.documents import CASTE, INCOME, ISSUER


@pytest.fixture
def reading(live):
    """A live locker with a resident's two documents, a requester, and a consent to the first."""
    world = live.world.fill(base_url=live.node_url)
    live.token, live.bank = world.requester(), world.requester("bank")
    live.asha_token = world.resident_token(world.asha)
    live.consent = world.consent(world.asha, INCOME)
    return live


def gateway(
    live, uri: str = INCOME, method: str = "GET", consent: str | None = None, token: str | None = None, **headers
):
    headers = {"consent-id": consent or live.consent.consent_id, **headers}
    return live.send(method, f"/v1/gateway/documents/{uri}", token or live.token, headers=headers)


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert document["status"] == response.status_code and document["request_id"] == response.headers["x-request-id"]
    return document["type"].rpartition("/")[2]


def records(live) -> list[TicketRecord]:
    with live.world.database.read() as session:
        return list(session.scalars(select(TicketRecord).order_by(TicketRecord.position)))


def attempt_of(live, answer: httpx.Response) -> dict[str, object]:
    """The one row that a refused request has left, by the id that its answer names."""
    (row,) = live.world.attempts(request_id=answer.headers["x-request-id"])
    return row


def test_a_document_passes_through_unchanged_and_names_both_in_the_ticket(reading) -> None:
    answer = gateway(reading, accept="application/pdf")
    assert answer.status_code == 200 and answer.content == reading.node.body
    (ticket,) = reading.node.tickets
    assert (ticket.client_id, ticket.act, ticket.consent_id) == ("university", "gateway", reading.consent.consent_id)
    assert reading.node.requests[0][2]["accept"] == "application/pdf"
    assert [record.jti for record in records(reading)] == [ticket.jti]


def test_only_safe_headers_come_back_and_links_lead_through_the_gateway(reading) -> None:
    answer = gateway(reading)
    assert not {"x-internal", "set-cookie", "server"} & set(answer.headers)
    assert answer.headers["cache-control"] == "private, no-store" and answer.headers["vary"] == "Accept"
    assert answer.headers["link"] == f'</v1/gateway/documents/{ISSUER}-INCOM-2>; rel="successor-version"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_consent_may_be_named_in_the_query(reading) -> None:
    path = f"/v1/gateway/documents/{INCOME}"
    assert reading.send("GET", f"{path}?consent_id={reading.consent.consent_id}", reading.token).status_code == 200
    assert slug(reading.send("GET", path, reading.token)) == "bad-request"
    assert slug(reading.send("GET", f"{path}?consent=x", reading.token)) == "bad-request"
    other = reading.world.consent(reading.world.asha, INCOME).consent_id
    both = reading.send(
        "GET", f"{path}?consent_id={other}", reading.token, headers={"consent-id": reading.consent.consent_id}
    )
    assert slug(both) == "bad-request"


def test_head_asks_the_node_with_head(reading) -> None:
    answer = gateway(reading, method="HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(reading.node.body))
    assert reading.node.requests[-1][0] == "HEAD"


def test_ranges_and_conditions_pass_through(reading) -> None:
    part = gateway(reading, range="bytes=1000-1999")
    assert (part.status_code, part.content) == (206, reading.node.body[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(reading.node.body)}"
    etag = part.headers["etag"]
    assert gateway(reading, **{"if-none-match": etag}).status_code == 304
    whole = gateway(reading, range="bytes=0-9", **{"if-range": '"other"'})
    assert whole.status_code == 200 and whole.content == reading.node.body
    beyond = gateway(reading, range="bytes=99999999-99999999")
    assert (
        slug(beyond) == "range-not-satisfiable"
        and beyond.headers["content-range"] == f"bytes */{len(reading.node.body)}"
    )


def test_another_requesters_consent_another_document_and_no_consent_are_refused(reading) -> None:
    """A names B's consent; A's consent with another URI; a consent that is not there."""
    mine, absent = reading.consent.consent_id, "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b"
    for answer, row in (
        (gateway(reading, token=reading.bank), ("bank", INCOME, mine, "no-consent")),
        (gateway(reading, uri=CASTE, method="HEAD"), ("university", CASTE, mine, "not-covered")),
        (gateway(reading, consent=absent), ("university", INCOME, absent, "no-consent")),
    ):
        assert answer.status_code == 403
        found = attempt_of(reading, answer)
        assert (found["subject"], found["uri"], found["consent_id"], found["reason"]) == row
        assert (found["operation"], found["act"], found["source"]) == ("gateway", "gateway", "127.0.0.1")
    assert reading.node.requests == [] and records(reading) == []


def test_forged_headers_change_nothing(reading) -> None:
    forged = {"x-client-id": "bank", "client-id": "bank", "x-forwarded-for": "10.0.0.1", "x-requester": "bank"}
    assert gateway(reading, **forged).status_code == 200
    assert reading.node.tickets[0].client_id == "university"
    assert not set(forged) & set(reading.node.requests[0][2])


def test_credentials_are_asked_for_and_roles_kept_apart(reading) -> None:
    path = f"/v1/gateway/documents/{INCOME}"
    consent = {"consent-id": reading.consent.consent_id}
    missing = reading.send("GET", path, headers=consent)
    assert (slug(missing), missing.headers["www-authenticate"]) == ("missing-credential", "Bearer")
    wrong = reading.send("GET", path, "wrong", headers=consent)
    asha = reading.send("GET", path, reading.asha_token, headers=consent)
    own = reading.send("GET", f"/v1/residents/me/documents/{INCOME}", reading.token)
    twice = reading.client.get(path, headers=[("authorization", "Bearer a"), ("authorization", "Bearer b")])
    assert [slug(answer) for answer in (wrong, asha, own, twice)] == [
        "invalid-credential", "forbidden", "forbidden", "invalid-credential",
    ]  # fmt: skip
    rows = [attempt_of(reading, answer) for answer in (missing, wrong, asha, own, twice)]
    assert [row["reason"] for row in rows] == [
        "missing-credential",
        "unknown-token",
        "forbidden",
        "forbidden",
        "unknown-token",
    ]
    assert [row.get("role") for row in rows] == [None, None, "resident", "requester", None]
    assert [row["operation"] for row in rows] == ["gateway", "gateway", "gateway", "own", "gateway"]
    assert {row["uri"] for row in rows} == {INCOME}


def test_a_resident_reads_the_own_document_and_nobody_elses(reading) -> None:
    path = f"/v1/residents/me/documents/{INCOME}"
    answer = reading.send("GET", path, reading.asha_token)
    assert answer.content == reading.node.body and "</v1/residents/me/documents/" in answer.headers["link"]
    (ticket,) = reading.node.tickets
    assert (ticket.basis, ticket.act, ticket.client_id) == ("holder", "gateway", ticket.holder_ref)
    other = reading.world.resident("9876500000")
    refused = reading.send("GET", path, reading.world.resident_token(other))
    assert slug(refused) == "document-not-found"
    row = attempt_of(reading, refused)
    assert (row["operation"], row["role"], row["subject"], row["uri"]) == ("own", "resident", other, INCOME)


def test_a_resident_gets_a_ticket_for_the_own_document_and_for_nobody_elses(reading) -> None:
    answer = reading.send("POST", "/v1/residents/me/tickets", reading.asha_token, json={"uri": INCOME})
    ticket = verify_ticket(answer.json()["ticket"], reading.world.keys.public)
    assert (answer.status_code, ticket.basis, ticket.act) == (200, "holder", None)
    assert answer.json()["uri"] == INCOME and answer.json()["url"].endswith(INCOME)
    for body, status, reason in (
        ({"uri": f"{ISSUER}-INCOM-404"}, 404, "document-not-found"),
        ({"uri": "no uri"}, 400, "bad-request"),
        ({}, 400, "bad-request"),
        ([], 400, "bad-request"),
    ):
        refused = reading.send("POST", "/v1/residents/me/tickets", reading.asha_token, json=body)
        assert (refused.status_code, attempt_of(reading, refused)["reason"]) == (status, reason)
    assert len(records(reading)) == 1


NODE_SAYS = [
    ("status-404", 404, "document-not-found"),
    ("status-410", 410, "document-revoked"),
    ("status-406", 406, "not-acceptable"),
    ("status-401", 502, "node-fault"),
    ("status-403", 502, "node-fault"),
    ("status-500", 502, "node-fault"),
    ("status-418", 502, "node-fault"),
    ("status-429", 429, "too-many-requests"),
    ("status-503", 503, "node-unavailable"),
    ("redirect", 502, "node-fault"),
]


def test_what_the_node_refuses_is_told_in_our_own_words(reading) -> None:
    for behaviour, status, problem in NODE_SAYS:
        reading.node.behaviour = behaviour
        reading.node.requests.clear()
        answer = gateway(reading)
        assert (answer.status_code, slug(answer)) == (status, problem), behaviour
        assert "own words" not in answer.text
        if status in (429, 503):
            assert answer.headers["retry-after"] == "7"
        row = attempt_of(reading, answer)
        assert row["outcome"] == ("failed" if status >= 500 else "refused")
        assert row["jti"] == records(reading)[-1].jti == reading.node.tickets[-1].jti
        assert len(reading.node.requests) == 1, "a redirect is not followed"


def test_a_node_that_is_away_is_said_to_be_and_other_nodes_go_on(reading, serve, free_port) -> None:
    reading.world.ap.base_url = f"http://127.0.0.1:{free_port()}"
    reading.world.approve(reading.world.ap)
    answer = gateway(reading)
    assert (answer.status_code, slug(answer), answer.headers["retry-after"]) == (503, "node-unavailable", "30")
    row = attempt_of(reading, answer)
    assert (row["outcome"], row["subject"], row["uri"], row["jti"]) == (
        "failed", "university", INCOME, records(reading)[-1].jti,
    )  # fmt: skip


def test_an_answer_that_breaks_off_never_looks_whole(reading) -> None:
    reading.node.behaviour = "short"
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        gateway(reading)


def read_some(live, size: int) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    peer = socket.create_connection((host, int(port)))
    peer.sendall(
        f"GET /v1/gateway/documents/{INCOME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {live.token}\r\n"
        f"Consent-Id: {live.consent.consent_id}\r\n\r\n".encode()
    )
    received = 0
    while received < size:
        received += len(peer.recv(65536))
    return peer


def test_a_client_that_leaves_ends_the_read_at_the_node_within_a_second(reading) -> None:
    reading.node.behaviour = "endless"
    peer = read_some(reading, 200_000)
    peer.close()
    assert reading.node.left.wait(1.0)
    sent = reading.node.sent
    time.sleep(0.2)
    assert reading.node.sent - sent <= 2 * 65536


def test_a_client_that_leaves_before_the_node_has_answered_ends_it_too(reading) -> None:
    reading.node.behaviour = "hang"
    peer = read_some(reading, 0)
    deadline = time.monotonic() + 2
    while not reading.node.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reading.node.requests
    peer.close()
    assert reading.node.left.wait(1.0)


def test_a_client_that_takes_nothing_is_ended(reading) -> None:
    reading.node.behaviour = "endless"
    peer = read_some(reading, 1)
    assert reading.node.left.wait(6.0), "send_timeout_seconds is 2 here"
    peer.close()


def test_nothing_of_a_document_stays_here(reading, tmp_path, capfd) -> None:
    """The whole search is the federation's; here: no file of the locker holds a piece of what passed."""
    import os

    reading.node.body = os.urandom(300_000)
    assert gateway(reading).content == reading.node.body
    needle = reading.node.body[100_000:100_032]
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert needle not in file.read_bytes() and needle.hex().encode() not in file.read_bytes()
    printed = capfd.readouterr()
    assert INCOME not in printed.out + printed.err, "logs do not print document URIs"


def test_revoking_and_narrowing_reach_the_gateway_at_once(reading) -> None:
    """FC-26 for the gateway: refused from the moment of the withdrawal on, and a new consent does not revive the old."""
    world = reading.world
    wide = world.consent(world.asha, INCOME, CASTE)
    assert gateway(reading, uri=CASTE, consent=wide.consent_id).status_code == 200
    world.services.consents.narrow(world.asha, wide.consent_id, [INCOME], None)
    assert gateway(reading, uri=CASTE, consent=wide.consent_id).status_code == 403
    assert gateway(reading, uri=INCOME, consent=wide.consent_id).status_code == 200
    world.services.consents.revoke(world.asha, wide.consent_id)
    world.consent(world.asha, INCOME, CASTE)
    assert gateway(reading, uri=INCOME, consent=wide.consent_id).status_code == 403


def test_once_means_one_reading_with_its_head_and_ranges(reading) -> None:
    consent = reading.world.consent(reading.world.asha, INCOME, once=True).consent_id
    assert gateway(reading, method="HEAD", consent=consent).status_code == 200
    assert gateway(reading, consent=consent, range="bytes=0-9").status_code == 206
    assert len({ticket.jti for ticket in reading.node.tickets}) == 1 == len(records(reading))
    results = resolve(reading, {"consent_id": consent, "uris": [INCOME]}).json()["results"]
    assert results[0]["outcome"] == "refused"


@pytest.mark.parametrize("header", ["range", "if-range", "if-match", "if-none-match", "accept", "accept-language"])
def test_a_header_that_cannot_go_on_is_refused_before_a_consent_is_spent(reading, header) -> None:
    consent = reading.world.consent(reading.world.asha, INCOME, once=True).consent_id
    answer = gateway(reading, consent=consent, **{header: "ä".encode("latin-1")})
    assert (answer.status_code, slug(answer)) == (400, "bad-request")
    assert attempt_of(reading, answer)["outcome"] == "refused"
    assert records(reading) == []
    results = resolve(reading, {"consent_id": consent, "uris": [INCOME]}).json()["results"]
    assert results[0]["outcome"] == "resolved"


def resolve(live, body, token: str | None = None, **more):
    return live.send("POST", "/v1/resolve", token or live.token, json=body, **more)


def test_resolving_gives_addresses_and_tickets_that_the_node_takes(reading) -> None:
    answer = resolve(reading, {"consent_id": reading.consent.consent_id, "uris": [INCOME, CASTE]})
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    good, refused = answer.json()["results"]
    assert (good["uri"], good["outcome"], refused["uri"], refused["outcome"]) == (INCOME, "resolved", CASTE, "refused")
    assert refused["problem"]["type"].endswith("/consent-required")
    row = attempt_of(reading, answer)
    assert (row["uri"], row["reason"], row.get("act")) == (CASTE, "not-covered", None)
    direct = httpx.get(good["url"], headers={"authorization": f"Bearer {good['ticket']}"})
    assert direct.content == reading.node.body
    ticket = verify_ticket(good["ticket"], reading.world.keys.public)
    assert ticket.act is None and ticket.exp * SECOND <= reading.world.clock() + DAY


BAD_BODIES = [
    ({"content": b""}, 415),
    ({"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
    ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
    ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400),
    ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 413),
    ({"content": b"[" * 10_000, "headers": {"content-type": "application/json"}}, 400),
    ({"json": []}, 400),
    ({"json": {}}, 400),
    ({"json": {"consent_id": "x", "uris": [INCOME]}}, 400),
    ({"json": {"consent_id": 7, "uris": [INCOME]}}, 400),
    ({"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": []}}, 400),
    ({"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": [INCOME] * 2}}, 400),
    ({"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": ["no uri"]}}, 400),
    ({"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": [INCOME], "more": 1}}, 400),
    ({"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": [INCOME], "representation": 1}}, 400),
    (
        {"json": {"consent_id": "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", "uris": [f"a-b-{n}" for n in range(101)]}},
        400,
    ),
]


def test_bad_bodies_are_problem_documents(reading) -> None:
    for more, status in BAD_BODIES:
        answer = reading.send("POST", "/v1/resolve", reading.token, **more)
        assert answer.status_code == status, (more, answer.text)
        slug(answer)
        row = attempt_of(reading, answer)
        assert (row["operation"], row["outcome"], row["subject"], "uri" in row) == (
            "resolve", "refused", "university", False,
        )  # fmt: skip


def test_a_bad_query_is_a_refused_attempt_however_long_it_is(reading) -> None:
    many = "&".join(f"p{number}=" for number in range(60))
    wish = {"consent_id": reading.consent.consent_id, "uris": [INCOME]}
    for operation, answer in (
        ("gateway", reading.send("GET", f"/v1/gateway/documents/{INCOME}?{many}", reading.token)),
        ("own", reading.send("GET", f"/v1/residents/me/documents/{INCOME}?{many}", reading.asha_token)),
        ("own", reading.send("POST", f"/v1/residents/me/tickets?{many}", reading.asha_token, json={"uri": INCOME})),
        ("resolve", reading.send("POST", f"/v1/resolve?{many}", reading.token, json=wish)),
    ):
        assert (answer.status_code, slug(answer)) == (400, "bad-request")
        row = attempt_of(reading, answer)
        assert (row["operation"], row["reason"], row["uri"]) == (operation, "bad-request", INCOME)


def test_no_refusal_leaves_when_it_cannot_be_recorded(reading) -> None:
    with reading.world.database.write() as session:
        session.execute(text("ALTER TABLE attempt RENAME TO elsewhere"))
    reading.node.behaviour = "status-404"
    own = f"/v1/residents/me/documents/{CASTE}-none"
    for answer in (
        gateway(reading),
        gateway(reading, uri=CASTE),
        gateway(reading, uri="nonsense"),
        gateway(reading, token="guess"),
        resolve(reading, {}),
        resolve(reading, {}, "guess"),
        resolve(reading, {"consent_id": reading.consent.consent_id, "uris": [INCOME, CASTE]}),
        reading.send("GET", own, reading.asha_token),
        reading.send("GET", own),
        reading.send("POST", "/v1/residents/me/tickets", reading.asha_token, json={"uri": "no uri"}),
    ):
        assert (answer.status_code, slug(answer)) == (503, "service-unavailable"), answer.request.url


def test_other_methods_are_told_which_ones_there_are(reading) -> None:
    for method, path, allow in (
        ("GET", "/v1/resolve", "POST"),
        ("PUT", f"/v1/gateway/documents/{INCOME}", "GET, HEAD"),
        ("POST", f"/v1/residents/me/documents/{INCOME}", "GET, HEAD"),
    ):
        answer = reading.send(method, path, reading.token)
        assert reading.world.attempts(request_id=answer.headers["x-request-id"]) == []
        assert (slug(answer), answer.headers["allow"]) == ("method-not-allowed", allow)


def test_what_is_no_uri_is_said_to_be_none(reading) -> None:
    for uri in ("nonsense", "a%2Fb", "a-b-%C3%A9", "x" * 400):
        answer = gateway(reading, uri=uri)
        row = attempt_of(reading, answer)
        assert (slug(answer), row["reason"], "uri" in row) == ("malformed-uri", "malformed-uri", False)


def test_many_clients_at_once_are_answered_in_few_transactions(reading) -> None:
    from concurrent.futures import ThreadPoolExecutor

    body = {"consent_id": reading.consent.consent_id, "uris": [INCOME]}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: resolve(reading, body), range(64)))
    assert {answer.json()["results"][0]["outcome"] for answer in answers} == {"resolved"}
    assert len(records(reading)) == 64


def test_a_flood_of_strangers_is_counted_and_told_to_wait(reading) -> None:
    answers = [resolve(reading, {"uris": [INCOME]}, "guess") for _ in range(45)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429} and statuses.count(401) in (20, 40)  # the minute may have ended meanwhile
    assert slug(answers[-1]) == "too-many-requests" and int(answers[-1].headers["retry-after"]) <= 61
    assert len(reading.world.attempts(reason="unknown-token")) == statuses.count(401)
    assert resolve(reading, {"consent_id": reading.consent.consent_id, "uris": [INCOME]}).status_code == 200
