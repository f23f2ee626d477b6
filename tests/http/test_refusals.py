"""Bad input and bad callers: a problem document each, a row where one belongs, and nothing personal in either."""

import json
import socket
import threading
import time

import pytest
import uvicorn
from structlog.testing import capture_logs

from node.contract.problems import problem_types
from node.contract.signing import encode_base64url
from node.contract.times import MINUTE, SECOND, now_us
from tests.http.plane import ISSUER, MOBILE, Locker, pull_body, register

LOOKUP = "/v1/holders/lookup"
SECRET = "999941057058"


def assert_problem(answer, status, slug):
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    document = answer.json()
    assert document["type"].rpartition("/")[2] == slug
    assert document["request_id"] == answer.headers["x-request-id"]
    row = next(row for row in problem_types() if row.slug == slug)
    assert (document["status"], document["title"]) == (row.status, row.title)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/documents/", "/v1/documents/a/b/metadata", "/static/ui.js"]
)
def test_an_address_that_is_none(control, path):
    assert_problem(control.ask("GET", path, bearer=control.token()), 404, "not-found")
    assert control.events() == []


@pytest.mark.parametrize("text", ["a%0ab", "a%0d%0ab", "%0a"])
def test_a_line_break_reaches_no_handler(control, text):
    """Connexion's routing passes such a path by, Flask's own would not."""
    for suffix in ("metadata", "status"):
        for bearer in (None, control.token()):
            answer = control.ask("GET", f"/v1/documents/{ISSUER}-INCOM-{text}/{suffix}", bearer=bearer)
            assert_problem(answer, 404, "not-found")


def test_a_method_that_an_address_does_not_take(control):
    answer = control.ask("DELETE", "/v1/documents", bearer=control.token())
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD"


BODIES = [
    ("no content type", {"content": b'{"scheme":"mobile"}'}, 415, "unsupported-media-type"),
    (
        "another type",
        {"content": b"<a/>", "headers": {"Content-Type": "application/xml"}},
        415,
        "unsupported-media-type",
    ),
    ("nothing", {"content": b"", "headers": {"Content-Type": "application/json"}}, 400, "bad-request"),
    ("no UTF-8", {"content": b'{"value":"\xff"}', "headers": {"Content-Type": "application/json"}}, 400, "bad-request"),
    ("deep", {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "bad-request"),
    ("a key twice", {"content": b'{"a":1,"a":2}', "headers": {"Content-Type": "application/json"}}, 400, "bad-request"),
    ("a member more", {"json": {"scheme": "mobile", "value": MOBILE, "x": SECRET}}, 400, "bad-request"),
    ("another scheme", {"json": {"scheme": SECRET, "value": MOBILE}}, 400, "bad-request"),
    (
        "a control character",
        {"json": {"scheme": "mobile", "value": SECRET[:6] + "\n" + SECRET[6:]}},
        400,
        "bad-request",
    ),
    (
        "too large",
        {"content": b" " * 1_100_000, "headers": {"Content-Type": "application/json"}},
        413,
        "body-too-large",
    ),
]


@pytest.mark.parametrize(
    ("request_parts", "status", "slug"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES]
)
def test_a_bad_body(control, caplog, request_parts, status, slug):
    with capture_logs() as logs:
        answer = control.ask("POST", LOOKUP, bearer=control.token("auditor"), **request_parts)
    assert_problem(answer, status, slug)
    rows = control.events()
    if status != 413:  # cut off before it is known what is asked for
        assert [(row["action"], row["outcome"], row["status"]) for row in rows] == [
            ("holder.lookup", "refused", status)
        ]
    for text in (answer.text, json.dumps(rows), repr(logs), caplog.text):
        assert SECRET not in text and MOBILE not in text


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "from=yesterday", "from=2026-13-45T00:00:00Z",
                                   f"action={SECRET}", f"uri={SECRET}", f"x={SECRET}", "after=-1",
                                   "consent_id=1", "to=2026-11-25T09:30:00"])  # fmt: skip
def test_a_bad_parameter(control, caplog, query):
    answer = control.ask("GET", f"/v1/access-log?{query}", bearer=control.token("auditor"))
    assert_problem(answer, 400, "bad-request")
    [row] = control.events()
    assert (row["action"], row["outcome"], row["status"]) == ("log.query", "refused", 400)
    assert SECRET not in answer.text + json.dumps(row) + caplog.text


def test_an_unexpected_fault_is_a_plain_500_that_tells_nothing(control):
    class Broken:
        def pull(self, locker, request):
            raise KeyError(SECRET)

    control.build(pulls=Broken())
    body = pull_body()
    with capture_logs() as logs:
        answer = control.ask("POST", "/v1/pulls", bearer=control.locker.pull(body), json=body)
    assert_problem(answer, 500, "internal-error")
    [row] = control.events()
    assert (row["outcome"], row["reason"], row["status"]) == ("failed", "internal-error", 500)
    assert SECRET not in answer.text + json.dumps(row) + repr(logs)


def test_a_flood_has_twenty_rows_and_a_count(control):
    now = now_us()
    control.build(clock=lambda: now)  # floods are counted by the minute, and a busy machine may take longer
    statuses = [control.ask("GET", "/v1/documents", client="203.0.113.67").status_code for _ in range(25)]
    assert statuses == [401] * 20 + [429] * 5
    assert control.ask("GET", "/v1/documents", client="203.0.113.68").status_code == 401
    good = control.ask("GET", "/v1/documents", client="203.0.113.67", bearer=control.token())
    assert good.status_code == 200
    floods = control.floods.due(now + 2 * MINUTE)
    assert [(flood.source, flood.count) for flood in floods] == [("203.0.113.67", 5)]


def test_too_many_requests_says_when_to_come_back(control):
    for _ in range(41):
        answer = control.ask("GET", "/v1/documents")
        if answer.status_code == 429:
            break
    assert_problem(answer, 429, "too-many-requests")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_two_credentials_are_none(control):
    token = control.token()
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    answer = control.ask("GET", "/v1/documents", headers=headers)
    assert_problem(answer, 401, "invalid-credential")


@pytest.mark.parametrize(
    "header", ["Basic YTpi", "Bearer", "Bearer ", "bearer  x y", "Bearer " + "a" * 9000, "Bearer .."]
)
def test_an_authorization_that_is_no_credential(control, header):
    answer = control.ask("GET", "/v1/documents", headers={"Authorization": header})
    assert_problem(answer, 401, "invalid-credential")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_without_a_credential_the_scheme_is_named(control):
    answer = control.ask("GET", "/v1/documents")
    assert_problem(answer, 401, "missing-credential")
    assert answer.headers["www-authenticate"] == "Bearer"


TICKETS = [
    ("another node's", {"aud": "node-2"}, 401, "other-audience"),
    ("another document's", {"doc_id": "2"}, 403, "other-document"),
    ("expired", {"issued_us": now_us() - 3600 * SECOND}, 401, "expired"),
    ("of tomorrow", {"issued_us": now_us() + 24 * 3600 * SECOND}, 401, "not-yet-valid"),
    ("bound", {"key_thumbprint": "x"}, 401, "bound-ticket"),
    ("of another version", {"version": 7}, 404, "version-not-known"),
    ("of another form", {"representations": ("image/png",)}, 403, "representation-not-allowed"),
]


@pytest.mark.parametrize(("claims", "status", "reason"), [row[1:] for row in TICKETS], ids=[row[0] for row in TICKETS])
def test_a_ticket_that_is_not_good_here(control, claims, status, reason):
    uri = control.add()
    answer = control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=control.locker.ticket(**claims))
    assert answer.status_code == status, answer.text
    [row] = control.events()
    assert (row["outcome"], row["reason"], row["status"]) == ("refused", reason, status)


def test_a_ticket_of_a_revoked_consent(control):
    from node.contract.revocation import RevocationEntry
    from node.db.lockers import add_revocations

    uri = control.add()
    ticket = control.locker.ticket(consent_id="c-1")
    assert control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=ticket).status_code == 200
    with control.database.writing() as connection:
        add_revocations(connection, control.locker.iss, [RevocationEntry("c-1", now_us())])
    assert control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=ticket).status_code == 401
    assert control.events()[-1]["reason"] == "consent-revoked"


def test_lockers_that_are_not_known_or_not_approved(control):
    uri = control.add()
    stranger, waiting = Locker("https://stranger.example"), Locker("https://waiting.example")
    register(control, waiting, active=False)
    for locker, reason in ((stranger, "unknown-locker"), (waiting, "locker-not-active")):
        for path, credential in (
            (f"/v1/documents/{uri}/metadata", locker.ticket()),
            ("/v1/access-log", locker.log_grant(scope="holder", holder_ref="h-1")),
        ):
            assert control.ask("GET", path, bearer=credential).status_code == 401
            assert control.events()[-1]["reason"] == reason


def test_a_locker_beyond_its_limits(control):
    from node.services.access import LockerScope

    control.add()
    control.build(limits={control.locker.iss: LockerScope(control.locker.iss, "active", ("in.gov.other",))})
    answer = control.ask("GET", f"/v1/documents/{ISSUER}-INCOM-1/metadata", bearer=control.locker.ticket())
    assert (answer.status_code, control.events()[-1]["reason"]) == (403, "locker-out-of-scope")
    body = pull_body()
    answer = control.ask("POST", "/v1/pulls", bearer=control.locker.pull(body), json=body)
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "iss", ["\0", "\ud800", "x" * 300, "https://locker.example\n", None, 7, ["https://locker.example"]]
)
def test_a_token_of_a_locker_whose_name_is_none(control, iss):
    parts = ({"alg": "EdDSA", "typ": "locker-ticket+jwt", "kid": "k"}, {"iss": iss})
    token = ".".join([encode_base64url(json.dumps(part).encode()) for part in parts] + ["c2ln"])
    assert_problem(control.ask("GET", "/v1/access-log", bearer=token), 401, "invalid-credential")
    assert control.events()[-1]["reason"] == "unknown-locker"


def test_a_grant_for_a_name_that_is_none(control):
    grant = control.locker.log_grant(scope="client", client_id="a\0b")
    assert_problem(control.ask("GET", "/v1/access-log", bearer=grant), 401, "invalid-credential")


def test_an_unknown_key_is_asked_for_once_a_minute(control):
    """A locker that has changed its keys is served at once; a flood of made-up keys asks it once."""
    from node.contract.signing import LOG_GRANT, SigningKey

    control.locker.keys[LOG_GRANT] = SigningKey.generate(LOG_GRANT)
    grant = control.locker.log_grant(scope="holder", holder_ref="h-1")
    assert control.ask("GET", "/v1/access-log", bearer=grant).status_code == 200
    for _ in range(3):
        control.locker.keys[LOG_GRANT] = SigningKey.generate(LOG_GRANT)
        grant = control.locker.log_grant(scope="holder", holder_ref="h-1")
        assert control.ask("GET", "/v1/access-log", bearer=grant).status_code == 401
        assert control.events()[-1]["reason"] == "unknown-key"
    assert control.refreshed == [control.locker.iss]


def test_each_kind_of_signed_text_is_taken_for_itself_only(control):
    uri = control.add()
    body = pull_body()
    signed = {
        "ticket": control.locker.ticket(),
        "pull": control.locker.pull(body),
        "grant": control.locker.log_grant(scope="holder", holder_ref="h-1"),
    }
    for kind in ("pull", "grant"):
        assert control.ask("GET", f"/v1/documents/{uri}/metadata", bearer=signed[kind]).status_code == 403
    for kind in ("ticket", "grant"):
        assert control.ask("POST", "/v1/pulls", bearer=signed[kind], json=body).status_code == 403
    for kind in ("ticket", "pull"):
        assert control.ask("GET", "/v1/access-log", bearer=signed[kind]).status_code == 403


@pytest.mark.parametrize(
    "scope", [{}, {"scope": "holder"}, {"scope": "client", "holder_ref": "h"}, {"scope": "all", "client_id": "x"}]
)
def test_a_log_grant_for_nobody(control, scope):
    grant = control.locker.log_grant(**scope)
    assert control.ask("GET", "/v1/access-log", bearer=grant).status_code == 401
    assert control.events()[-1]["reason"] == "malformed-claims"


def test_a_database_that_does_not_answer_is_a_503(control):
    token = control.token()
    with control.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE access_token")
    assert_problem(control.ask("GET", "/v1/counts", bearer=token), 503, "service-unavailable")


@pytest.fixture
def served(control):
    """The same application on a socket."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(control.app, interface="asgi3", log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield listening.getsockname()
    server.should_exit = True
    thread.join(5)
    listening.close()


def exchange(address, request: bytes) -> bytes:
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def test_a_chunked_body_is_a_body(control, served):
    body = json.dumps({"scheme": "mobile", "value": MOBILE}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    head = (
        f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {control.token('auditor')}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    assert exchange(served, head.encode() + chunks).startswith(b"HTTP/1.1 200")


def test_a_body_without_a_credential_is_not_waited_for(control, served):
    head = f"POST {LOOKUP} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    assert exchange(served, head.encode()).startswith(b"HTTP/1.1 401")
    assert time.monotonic() - began < 3
