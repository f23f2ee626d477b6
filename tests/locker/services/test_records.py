import json
import threading

import pytest

from locker.services import pulls, records
from locker.services.principal import Principal
from locker.services.pulls import NodeAnswer
from locker.services.records import Window
from locker.services.tickets import Granted
from node.contract.problems import (
    Forbidden,
    NodeFault,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    UnacceptableContent,
)
from node.contract.records import verify_request
from node.contract.sealing import OpeningKey
from node.contract.signing import LOG_GRANT, PULL
from node.contract.times import HOUR
from tests.locker.documents import CASTE, INCOME, ISSUER, MOBILE

DESCRIPTOR = NodeAnswer(200, b"{}")


@pytest.fixture
def asking(world):
    world.asha, world.ap = world.resident(), world.department()
    return world


def test_a_follower_of_ticket_records_loses_none_though_writers_commit_in_any_order(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE)
    stop, seen = threading.Event(), []

    def follow() -> None:
        after = 0
        while True:
            ended = stop.is_set()
            rows, more = given.services.records.tickets(Window(after=after, limit=3))
            seen.extend(row.jti for row in rows)
            after = rows[-1].position if rows else after
            if ended and more is None:
                return

    def issue() -> None:
        for _ in range(10):
            given.tickets(given.university, consent.consent_id, INCOME, CASTE)

    follower, writers = threading.Thread(target=follow), [threading.Thread(target=issue) for _ in range(4)]
    follower.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    follower.join()
    assert len(seen) == 80 == len(set(seen))


def test_a_page_holds_only_what_was_asked_for(given) -> None:
    kept = given.services.records
    first, second = given.consent(given.asha, INCOME), given.consent(given.asha, INCOME, CASTE)
    given.tickets(given.university, first.consent_id, INCOME)
    given.tickets(given.university, second.consent_id, INCOME, CASTE)
    rows, _ = kept.tickets(Window(), consent_id=second.consent_id)
    assert [row.uri for row in rows] == [INCOME, CASTE]
    assert len(kept.tickets(Window(), uri=CASTE.upper())[0]) == 1
    assert len(kept.tickets(Window(), client_id="bank")[0]) == 0
    assert len(kept.tickets(Window(from_us=given.clock() + HOUR))[0]) == 0
    assert len(kept.tickets(Window(to_us=given.clock() + HOUR))[0]) == 3
    page, after = kept.tickets(Window(limit=2))
    assert after == page[-1].position and len(kept.tickets(Window(after=after))[0]) == 1


def test_a_resident_sees_what_happened_in_one_order_by_pages(given) -> None:
    consent = given.consent(given.asha, INCOME)
    given.tickets(given.university, consent.consent_id, INCOME)
    given.services.consents.revoke(given.asha, consent.consent_id)
    seen, after = [], 0
    while after is not None:
        rows, after = given.services.records.activity(given.asha, Window(after=after, limit=2))
        seen += rows
    assert [row["kind"] for row in seen] == [
        "document-linked",
        "document-linked",
        "consent-given",
        "ticket-issued",
        "consent-revoked",
    ]
    assert [row["position"] for row in seen] == sorted({row["position"] for row in seen})
    assert seen[3]["requester_name"] == "University" and seen[3]["uri"] == INCOME
    assert given.services.records.activity(given.resident("9876500000"), Window()) == ([], None)


def test_rows_that_come_in_while_a_page_is_read_are_on_the_next_one(given, monkeypatch) -> None:
    consent = given.consent(given.asha, INCOME)
    read, came = records._consent_events_of, []

    def slow_read(*arguments):
        if not came:
            came.append(given.tickets(given.university, consent.consent_id, INCOME))
            given.push(given.ap, given.row(f"{ISSUER}-INCOM-9", MOBILE))
        return read(*arguments)

    monkeypatch.setattr(records, "_consent_events_of", slow_read)
    seen, after = [], 0
    for _ in range(2):
        rows, _ = given.services.records.activity(given.asha, Window(after=after))
        seen += [row["kind"] for row in rows]
        after = rows[-1]["position"]
    assert seen.count("ticket-issued") == 1 and seen.count("document-linked") == 3


def test_a_log_grant_opens_own_rows_at_one_node(given) -> None:
    grants, now = given.services.grants, given.clock()
    grant = grants.issue(Principal("resident", given.asha), "node-ap", now)
    claims = verify_request(grant.token, LOG_GRANT, given.keys.public, audience="node-ap", now_us=now)
    assert (claims["scope"], claims["iss"], claims["exp"] - claims["iat"]) == ("holder", "http://locker.test", 300)
    ticket = given.tickets(given.resident_token(given.asha), None, INCOME)[0]
    assert claims["holder_ref"] and ticket
    claims = verify_request(
        grants.issue(Principal("requester", "university"), "node-ap", now).token,
        LOG_GRANT,
        given.keys.public,
        audience="node-ap",
        now_us=now,
    )
    assert (claims["scope"], claims["client_id"], "holder_ref" in claims) == ("client", "university", False)


def test_a_log_grant_is_for_nobody_else(given) -> None:
    grants, now = given.services.grants, given.clock()
    with pytest.raises(NotFound):
        grants.issue(Principal("resident", given.asha), "node-x", now)
    with pytest.raises(NotFound):
        grants.issue(Principal("resident", given.resident("9876500000")), "node-ap", now)
    with pytest.raises(Forbidden):
        grants.issue(Principal("auditor", "a"), "node-ap", now)


def search(world, **parameters: str):
    return world.services.pulls.search(world.asha, ISSUER, "INCOM", parameters or {"number": "1"})


def answer(outcome: str, status: int = 200, **more: str) -> NodeAnswer:
    return NodeAnswer(status, json.dumps({"outcome": outcome, **more}).encode())


def test_a_search_is_signed_for_one_node_and_seals_identifiers_to_it(asking) -> None:
    opening = OpeningKey.generate()
    descriptor = NodeAnswer(200, json.dumps({"encryption_keys": [opening.public.jwk()]}).encode())
    asking.answers += [descriptor, answer("matched", uri=INCOME)]
    outcome = search(asking)
    assert (outcome["outcome"], outcome["uri"]) == ("matched", INCOME)
    url, bearer, body = asking.asked[1]
    claims = verify_request(bearer, PULL, asking.keys.public, audience="node-ap", now_us=asking.clock())
    assert url == "https://node.test/v1/pulls" and claims["resident_ref"] == body["resident"]["resident_ref"]
    (holder,) = body["holders"]
    assert opening.open(holder["sealed"], body["txn"]) == b"+919876543210"
    assert "9876543210" not in json.dumps(body) and asking.asha not in json.dumps(body)


@pytest.mark.parametrize("descriptor", [NodeAnswer(status, b"{}") for status in (204, 404, 429, 500, 503)])
def test_a_descriptor_that_is_not_answered_leaves_no_identifier_unsealed(asking, descriptor) -> None:
    asking.answers += [descriptor, answer("no")]
    with pytest.raises(NodeFault):
        search(asking)
    assert len(asking.asked) == 1


def test_a_node_without_a_key_gets_the_identifier_inside_tls(asking) -> None:
    asking.answers += [DESCRIPTOR, answer("no")]
    assert search(asking)["outcome"] == "no"
    assert asking.asked[1][2]["holders"] == [{"scheme": "mobile", "value": "+919876543210"}]


@pytest.mark.parametrize("pushed", [False, True])
def test_a_document_that_is_found_is_the_residents_own(asking, pushed: bool) -> None:
    unknown = ("mobile", "9876511111")
    if pushed:
        asking.push(asking.ap, asking.row(INCOME, unknown))
    asking.answers += [DESCRIPTOR, answer("matched", uri=INCOME)]
    search(asking)
    (outcome,) = asking.tickets(asking.resident_token(asking.asha), None, INCOME)
    assert isinstance(outcome, Granted)
    asking.requester()
    assert asking.consent(asking.asha, INCOME).state == "active"
    (document,), _ = asking.services.links.documents(asking.asha, None, None, None, 10)
    assert document["uri"] == INCOME
    (change,), _ = asking.services.links.changes("node-ap", 0, 10)
    assert (change["uri"], change["outcome"]) == (INCOME, "linked")
    (later,) = asking.push(asking.ap, asking.row(INCOME, unknown, revision=2))
    assert (later["outcome"], later["holder_ref"]) == ("linked", change["holder_ref"])


@pytest.mark.parametrize("uri", ["nonsense", CASTE, "in.nobody-INCOM-1"])
def test_a_document_that_was_not_asked_for_is_not_linked(asking, uri: str) -> None:
    asking.answers += [DESCRIPTOR, answer("matched", uri=uri)]
    with pytest.raises(NodeFault):
        search(asking)
    assert asking.services.links.documents(asking.asha, None, None, None, 10)[0] == []


def test_a_document_of_another_resident_stays_theirs(asking) -> None:
    other = asking.resident("9876500000")
    asking.push(asking.ap, asking.row(INCOME, ("mobile", "9876500000")))
    asking.answers += [DESCRIPTOR, answer("matched", uri=INCOME)]
    with pytest.raises(NodeFault):
        search(asking)
    assert len(asking.services.links.documents(other, None, None, None, 10)[0]) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (NodeAnswer(200, b"[]"), NodeFault),
        (NodeAnswer(200, b"{"), NodeFault),
        (answer("perhaps"), NodeFault),
        (answer("matched"), NodeFault),
        (answer("no", uri=INCOME), NodeFault),
        (answer("no", status=500), NodeFault),
        (answer("no", status=401), NodeFault),
        (answer("no", status=422), UnacceptableContent),
        (answer("no", status=429), TooManyRequests),
    ],
)
def test_an_answer_that_makes_no_sense_is_the_nodes_fault(asking, reply, error) -> None:
    asking.answers += [DESCRIPTOR, reply]
    with pytest.raises(error):
        search(asking)


def test_tries_are_bounded_and_counted_before_the_node_is_asked(asking) -> None:
    for _ in range(asking.settings.pulls_per_hour):
        asking.answers += [DESCRIPTOR, answer("no", status=500)]
        with pytest.raises(NodeFault):
            search(asking)
    with pytest.raises(TooManyRequests):
        search(asking)
    asking.clock.offset = HOUR
    asking.answers += [DESCRIPTOR, answer("no")]
    assert search(asking)["outcome"] == "no"


def test_tries_at_once_are_counted_one_after_the_other(either_world, monkeypatch) -> None:
    world, count, outcomes = either_world, pulls._require_tries_left, []
    world.asha, world.ap = world.resident(), world.department()

    def slow_count(*arguments) -> None:
        count(*arguments)
        threading.Event().wait(0.2)

    def ask(*arguments) -> NodeAnswer:
        return DESCRIPTOR if arguments[3] is None else answer("no")

    def try_once() -> None:
        try:
            outcomes.append(search(world)["outcome"])
        except TooManyRequests:
            outcomes.append("refused")

    monkeypatch.setattr(pulls, "_require_tries_left", slow_count)
    monkeypatch.setattr(world.services.pulls, "_per_hour", 1)
    monkeypatch.setattr(world.services.pulls, "_ask", ask)
    threads = [threading.Thread(target=try_once) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["no", "refused", "refused"]


def test_slow_nodes_hold_three_searches_and_no_more(asking, monkeypatch) -> None:
    waiting, go_on = threading.Semaphore(0), threading.Event()

    def ask(*arguments) -> NodeAnswer:
        waiting.release()
        go_on.wait(5)
        return DESCRIPTOR if arguments[3] is None else answer("no")

    monkeypatch.setattr(asking.services.pulls, "_ask", ask)
    threads = [threading.Thread(target=search, args=(asking,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert all(waiting.acquire(timeout=5) for _ in threads)
    with pytest.raises(ServiceUnavailable) as refused:
        search(asking)
    assert int(refused.value.headers["Retry-After"]) > 0
    go_on.set()
    for thread in threads:
        thread.join()
    assert search(asking)["outcome"] == "no"


@pytest.mark.parametrize("parameters", [{"other": "1"}, {"number": ""}, {"number": "1", "other": "2"}])
def test_only_declared_parameters_are_sent(asking, parameters) -> None:
    with pytest.raises(UnacceptableContent):
        search(asking, **parameters)
    assert asking.asked == []


def test_a_suspended_issuer_is_not_asked(asking) -> None:
    asking.services.suspensions.issuer(ISSUER)
    with pytest.raises(NotFound):
        search(asking)
