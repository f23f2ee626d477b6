"""The access gateway as a requester meets it: whose consent counts, what passes through, and what happens when one side is away."""

import time
from datetime import datetime

from node.contract.identifiers import uuid7
from tests.federation.running import PartialRead, eventually

BANK, COLLEGE = "bank-of-example", "college-of-example"
ANITA, ANITA2, BINA, LARGE = (f"in.gov.alpha-CERT-{name}" for name in ("anita", "anita2", "bina", "large"))
BETA_ANITA = "in.ac.beta-CERT-anita"
FORGED = [
    {"x-client-id": COLLEGE}, {"client-id": COLLEGE}, {"x-requester": COLLEGE}, {"act": "resident"}, {"x-act": COLLEGE},
    {"forwarded": f"for=203.0.113.7;by={COLLEGE}"}, {"x-forwarded-for": "203.0.113.7"}, {"x-forwarded-user": COLLEGE},
    {"x-forwarded-client-cert": f"Subject=CN={COLLEGE}"}, {"holder-ref": "somebody"}, {"x-ticket": "a.b.c"},
]  # fmt: skip


def reads_since(node, place):
    node.place()
    return [row for row in node.log(after=place) if row.get("role") == "ticket"]


def test_another_requester_s_consent_opens_nothing(federation):
    consent = federation.consent("anita", COLLEGE, ANITA)
    place = federation.alpha.place()
    for headers in ({}, *FORGED):
        refused = federation.gateway(BANK, consent, ANITA, headers=headers)
        assert refused.status_code == 403
        assert refused.json()["type"].endswith("/consent-required")
        row = federation.attempt_of(refused)
        assert (row["operation"], row["outcome"], row["reason"]) == ("gateway", "refused", "no-consent")
        assert (row["role"], row["subject"], row["uri"], row["consent_id"]) == ("requester", BANK, ANITA, consent)
        assert (row["act"], row["source"]) == ("gateway", "127.0.0.1")
    (result,) = federation.resolve(BANK, consent, ANITA)
    assert result["outcome"] == "refused"
    (row,) = federation.attempts(consent_id=consent, operation="resolve")
    assert (row["outcome"], row["reason"], row["subject"], row["uri"]) == ("refused", "no-consent", BANK, ANITA)
    assert reads_since(federation.alpha, place) == []
    assert federation.gateway(COLLEGE, consent, ANITA).status_code == 200
    assert len(reads_since(federation.alpha, place)) == 2


def test_a_consent_opens_its_own_documents_only(federation):
    consent = federation.consent("anita", BANK, ANITA)
    place = federation.alpha.place()
    for uri in (ANITA2, BINA, BETA_ANITA, "in.gov.alpha-CERT-nothing"):
        refused = federation.gateway(BANK, consent, uri)
        assert refused.status_code == 403
        row = federation.attempt_of(refused)
        assert (row["reason"], row["subject"], row["uri"], row["consent_id"]) == ("not-covered", BANK, uri, consent)
    for nothing in (None, uuid7()):
        refused = federation.gateway(BANK, nothing, ANITA)
        assert refused.status_code == (400 if nothing is None else 403)
        row = federation.attempt_of(refused)
        assert (row["reason"], row["uri"]) == ("bad-request" if nothing is None else "no-consent", ANITA)
        assert row["consent_id"] == nothing
    other = federation.own("bina", ANITA)
    assert other.status_code == 404
    row = federation.attempt_of(other)
    assert (row["operation"], row["role"], row["reason"], row["uri"]) == (
        "own",
        "resident",
        "document-not-found",
        ANITA,
    )
    assert reads_since(federation.alpha, place) == []
    assert federation.gateway(BANK, consent, ANITA).content == federation.alpha.documents[ANITA]


def test_who_asked_is_in_the_token_and_nowhere_else(federation):
    consent = federation.consent("anita", BANK, ANITA)
    federation.alpha.place()
    for headers in FORGED:
        asked = uuid7()
        read = federation.gateway(BANK, consent, ANITA, headers={**headers, "x-request-id": asked})
        assert read.status_code == 200
        begun, ended = federation.alpha.log_of(asked, ends=True)
        assert {row["client_id"] for row in (begun, ended)} == {BANK}
        assert (begun["act"], begun["basis"], begun["consent_id"]) == ("gateway", "consent", consent)
        assert begun["source"] == "127.0.0.1"
    for name in ("client_id", "requester", "act"):
        forged = federation.gateway(BANK, consent, ANITA, params={name: COLLEGE})
        assert (forged.status_code, federation.attempt_of(forged)["subject"]) == (400, BANK)
    twice = federation.gateway(BANK, consent, ANITA, params={"consent_id": uuid7()})
    assert (twice.status_code, federation.attempt_of(twice)["subject"]) == (400, BANK)
    allowed = federation.attempts(consent_id=consent, outcome="allowed")
    assert {(row["operation"], row["subject"], row["act"], row["uri"]) for row in allowed} == {
        ("gateway", BANK, "gateway", ANITA)
    }
    assert len(allowed) == len(FORGED)


def test_an_auditor_finds_who_asked_without_a_good_credential_and_the_own_queries(federation):
    address = f"{federation.locker.url}/v1/gateway/documents/{ANITA}"
    for token, reason in ((None, "missing-credential"), ("x" * 43, "unknown-token")):
        row = federation.attempt_of(federation.call("GET", address, token))
        assert (row["reason"], row["role"], row["subject"], row["source"]) == (reason, None, None, "127.0.0.1")
        assert row["uri"] == ANITA
    looked = federation.call(
        "GET", f"{federation.locker.url}/v1/ticket-records", federation.auditor, params={"uri": ANITA}
    )
    row = federation.attempt_of(looked)
    assert (row["operation"], row["outcome"], row["subject"]) == ("log.query", "complete", "Audit office")
    assert row["query"] == {"uri": ANITA}
    row = federation.attempt_of(
        federation.call("GET", f"{federation.locker.url}/v1/attempts", federation.requesters[BANK])
    )
    assert (row["operation"], row["outcome"], row["subject"]) == ("log.query", "refused", BANK)


def test_head_and_ranges_pass_through(federation):
    consent = federation.consent("anita", BANK, ANITA)
    content = federation.alpha.documents[ANITA]
    head = federation.gateway(BANK, consent, ANITA, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    whole = federation.gateway(BANK, consent, ANITA)
    for name in ("content-length", "etag", "content-type", "repr-digest", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    part = federation.gateway(BANK, consent, ANITA, headers={"range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    tail = federation.gateway(BANK, consent, ANITA, headers={"range": "bytes=-7", "if-range": whole.headers["etag"]})
    assert (tail.status_code, tail.content) == (206, content[-7:])
    beyond = federation.gateway(BANK, consent, ANITA, headers={"range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(content)}")
    same = federation.gateway(BANK, consent, ANITA, headers={"if-none-match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


def test_a_client_that_leaves_ends_the_read_at_the_node(federation):
    consent = federation.consent("anita", BANK, LARGE)
    federation.alpha.place()
    asked = uuid7()
    reading = PartialRead(
        f"{federation.locker.url}/v1/gateway/documents/{LARGE}",
        {
            "authorization": f"Bearer {federation.requesters[BANK]}", "consent-id": consent, "x-request-id": asked,
        },
        1_000_000,
    )  # fmt: skip
    assert reading.status == 200
    reading.leave()
    left = time.time()
    _, ended = federation.alpha.log_of(asked, ends=True)
    assert ended["outcome"] == "aborted"
    assert 1_000_000 <= ended["bytes_sent"] < len(federation.alpha.documents[LARGE])
    assert datetime.fromisoformat(ended["recorded_at"]).timestamp() - left < 1.5


def test_with_a_node_down_only_its_own_documents_are_missing(federation):
    consent = federation.consent("anita", BANK, ANITA, BETA_ANITA)
    federation.beta.server.stop()
    try:
        missing = federation.gateway(BANK, consent, BETA_ANITA)
        assert (missing.status_code, missing.headers["content-type"]) == (503, "application/problem+json")
        assert int(missing.headers["retry-after"]) > 0
        row = federation.attempt_of(missing)
        assert (row["outcome"], row["subject"], row["uri"]) == ("failed", BANK, BETA_ANITA)
        own = federation.own("anita", BETA_ANITA)
        assert own.status_code == 503
        row = federation.attempt_of(own)
        assert (row["operation"], row["outcome"], row["uri"]) == ("own", "failed", BETA_ANITA)
        assert row["jti"] in {row["jti"] for row in federation.attempts(uri=BETA_ANITA, outcome="allowed")}
        assert federation.gateway(BANK, consent, ANITA).content == federation.alpha.documents[ANITA]
        away, here = federation.resolve(BANK, consent, BETA_ANITA, ANITA)
        assert (away["outcome"], federation.pull(here).status_code) == ("resolved", 200)
    finally:
        federation.beta.server.start()
    assert federation.gateway(BANK, consent, BETA_ANITA).content == federation.beta.documents[BETA_ANITA]
    assert federation.pull(away).content == federation.beta.documents[BETA_ANITA]


def test_with_the_locker_down_tickets_and_the_node_s_own_people_go_on(federation):
    consent = federation.consent("anita", BANK, ANITA)
    (granted,) = federation.resolve(BANK, consent, ANITA)
    federation.alpha.place()
    federation.locker.stop()
    try:
        asked = uuid7()
        for _ in range(3):
            assert (
                federation.pull(granted, headers={"x-request-id": asked}).content == federation.alpha.documents[ANITA]
            )
        assert [row["outcome"] for row in federation.alpha.log_of(asked, ends=True)][:1] == ["allowed"]
        operator = federation.call(
            "GET", f"{federation.alpha.url}/v1/documents/{BINA}/metadata", federation.alpha.operator
        )
        assert operator.status_code == 200
    finally:
        federation.locker.start()
    eventually(lambda: federation.gateway(BANK, consent, ANITA).status_code == 200)
