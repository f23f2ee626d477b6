"""Reading a document: what is served, to whom, and the rows that tell of it."""

import hashlib

import httpx
import pytest

CONTENT = b"%PDF-1.7\n" + bytes(range(256)) * 40


def get(served, uri, token=None, method="GET", **headers):
    if token:
        headers["authorization"] = f"Bearer {token}"
    return httpx.request(method, f"{served.url}/v1/documents/{uri}", headers=headers)


def test_a_document_is_served_with_its_row(served):
    uri = served.add("9606", CONTENT, title="आय प्रमाणपत्र")
    answer = get(served, uri, served.ticket("9606"))
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["etag"] == f'"{digest}"'
    assert answer.headers["cache-control"] == "private, no-store"
    assert "filename*=UTF-8''" in answer.headers["content-disposition"]
    begun, ended = served.events(expected=2)
    assert (begun["action"], begun["outcome"], begun["client_id"], begun["consent_id"]) == (
        "read",
        "allowed",
        "university",
        "c-1",
    )
    assert (ended["outcome"], ended["bytes"], ended["read_id"], ended["phase"]) == (
        "complete",
        len(CONTENT),
        begun["read_id"],
        "end",
    )
    assert begun["uri"] == uri and begun["sha256"] == digest and begun["purpose"] == "admission"


def test_head_and_not_modified_have_one_row_each(served):
    uri = served.add("1", CONTENT)
    token = served.token()
    head = get(served, uri, token, "HEAD", range="bytes=0-9")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
    again = get(served, uri, token, **{"if-none-match": head.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    rows = served.events(expected=2)
    assert [(row["action"], row["outcome"], row["status"]) for row in rows] == [
        ("head", "complete", 200),
        ("read", "complete", 304),
    ]


@pytest.mark.parametrize(("asked", "status", "content_range", "body"), [
    ("bytes=0-", 206, "bytes 0-99/100", slice(0, 100)), ("bytes=-5", 206, "bytes 95-99/100", slice(95, 100)),
    ("bytes=-500", 206, "bytes 0-99/100", slice(0, 100)), ("bytes=90-200", 206, "bytes 90-99/100", slice(90, 100)),
    ("bytes=100-", 416, "bytes */100", None), ("bytes=5-4", 200, None, slice(0, 100)), ("items=0-3", 200, None, slice(0, 100)),
    ("bytes=0-9,20-29", 200, None, slice(0, 100)),
])  # fmt: skip
def test_ranges_through_the_whole_server(served, asked, status, content_range, body):
    content = b"0123456789" * 10
    answer = get(served, served.add("D100", content), served.token(), range=asked)
    assert (answer.status_code, answer.headers.get("content-range")) == (status, content_range)
    if body:
        assert answer.content == content[body]


def test_an_empty_document_is_served_whole(served):
    answer = get(served, served.add("empty", b""), served.token(), range="bytes=0-0")
    assert (answer.status_code, answer.content) == (200, b"")


def test_representations_are_negotiated(served):
    uri = served.add("n", CONTENT)
    served.add("n", b"<c/>", media_type="application/xml")
    token = served.token()
    assert get(served, uri, token, accept="application/xml").content == b"<c/>"
    assert get(served, uri, token, accept="application/pdf").content == CONTENT
    refused = get(served, uri, token, accept="image/png")
    assert (refused.status_code, refused.json()["type"].rsplit("/", 1)[1]) == (406, "not-acceptable")
    only_xml = served.ticket("n", representations=("application/xml",))
    assert get(served, uri, only_xml, accept="application/pdf").status_code == 406
    assert get(served, uri, only_xml).content == b"<c/>"


def test_old_expired_and_revoked_documents(served):
    old = served.add("v", b"one")
    served.add("v", b"two", version=2, current_version=2)
    first = get(served, old, served.ticket("v", version=1))
    assert first.content == b"one" and first.headers["document-status"] == "superseded"
    assert first.headers["link"] == f'</v1/documents/{old}>; rel="successor-version"'
    assert get(served, old, served.ticket("v")).content == b"two"
    assert get(served, old, served.ticket("v", version=7)).status_code == 404
    expired = get(served, served.add("x", b"x", expires_on="2020-01-31"), served.token())
    assert (expired.status_code, expired.headers["document-status"]) == (200, "expired")
    assert get(served, served.add("r", b"r", status="revoked"), served.token()).status_code == 410
    assert [row["reason"] for row in served.events() if row["outcome"] == "refused"] == [
        "version-not-known",
        "document-revoked",
    ]


@pytest.mark.parametrize(
    "path",
    [
        "in.gov.example-INCOM-a%00b",
        "in.gov.example-INCOM-%FF",
        "in.gov.example--1",
        "..%2f..%2fetc%2fpasswd",
        "%252e%252e",
        "in.gov.example-INCOM-" + "%E0%A4%95" * 90,
        "in.gov.example-INCOM-A%2FB",
        "x" * 2000,
    ],
)
def test_what_is_no_uri_is_told_so_and_logged(served, path):
    answer = get(served, path, served.token())
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    (row,) = served.events(expected=1)
    assert (row["outcome"], row["reason"]) == ("refused", "malformed-uri")


@pytest.mark.parametrize("uri", ["in.gov.example-INCOM-none", "in.gov.elsewhere-INCOM-1", "IN.GOV.EXAMPLE-incom-none"])
def test_unknown_documents_look_alike(served, uri):
    answer = get(served, uri, served.token())
    assert answer.status_code == 404
    assert {**answer.json(), "request_id": ""} == {
        "type": "https://federated-locker.example/problems/document-not-found", "status": 404,
        "title": "No document with this URI is known here", "request_id": "",
        **({"detail": "no issuer known here begins this URI"} if "elsewhere" in uri else {}),
    }  # fmt: skip


def test_case_does_not_count(served):
    served.add("AbC", b"x")
    assert get(served, "IN.GOV.example-incom-aBc", served.ticket("ABC")).content == b"x"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_named(served, method):
    answer = get(served, "in.gov.example-INCOM-1", method=method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, PUT")


def test_without_a_credential_nobody_learns_what_exists(served):
    uri = served.add("1", CONTENT)
    for target in (uri, "in.gov.example-INCOM-none", "rubbish"):
        for token in (None, "wrong", "a.b.c"):
            answer = get(served, target, token)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
            assert "detail" not in answer.json() or "exist" not in answer.json()["detail"]
    reasons = {row["reason"] for row in served.events(expected=9)}
    assert reasons == {"missing-credential", "unknown-token", "malformed"}


def test_a_flood_without_a_credential_is_counted(served_within_a_minute):
    served = served_within_a_minute
    statuses = [get(served, "in.gov.example-INCOM-1", "wrong").status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    uri = served.add("1", CONTENT)
    assert get(served, uri, served.ticket("1", issued_us=served.node.clock())).status_code == 200
    assert sum(row["outcome"] == "refused" for row in served.events(expected=22)) == 20
