"""Every attempt without a ticket has a durable row with its own reason, written by the transaction that decides it."""

import json
import threading

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from locker.services.attempts import LOG_QUERY, RESOLVE, Asked
from locker.services.principal import AUDITOR, Principal
from locker.services.records import AttemptFilter, Window
from locker.services.tickets import Granted, TicketRequest
from locker.services.tokens import digest_of
from node.contract.identifiers import uuid7
from node.contract.problems import (
    BadRequest,
    Forbidden,
    InternalError,
    InvalidCredential,
    MissingCredential,
    NodeUnavailable,
    ServiceUnavailable,
    TooManyRequests,
)
from node.contract.times import HOUR, MINUTE, SECOND
from tests.locker.documents import CASTE, INCOME, ISSUER

WHO = {"role": "requester", "subject": "university", "source": "198.51.100.7", "request_id": "request-1"}


def without_place(row):
    return {name: value for name, value in row.items() if name not in ("position", "at_us")}


def test_each_refused_document_has_a_row_between_the_tickets_and_none_is_renumbered(given) -> None:
    consent = given.consent(given.asha, INCOME)
    outcomes = given.tickets(given.university, consent.consent_id, INCOME, CASTE, f"{ISSUER}-INCOM-404")
    allowed, caste, nothing = given.attempts()
    assert isinstance(outcomes[0], Granted)
    assert (allowed["outcome"], allowed["jti"], allowed["subject"]) == ("allowed", outcomes[0].jti, "university")
    refused = {"operation": "resolve", "outcome": "refused", "reason": "not-covered", "consent_id": consent.consent_id}
    assert without_place(caste) == {**WHO, **refused, "uri": CASTE}
    assert without_place(nothing) == {**WHO, **refused, "uri": f"{ISSUER}-INCOM-404"}
    places = [row["position"] for row in (allowed, caste, nothing)]
    assert places == list(range(places[0], places[0] + 3))
    given.tickets(given.university, consent.consent_id, INCOME)
    assert given.attempts()[-1]["position"] == places[-1] + 1


def refusals(world):
    """Every way to be refused, with the reason that its row has."""
    token, other = world.university, world.requester("bank")
    wide, narrow = world.consent(world.asha, INCOME, CASTE), world.consent(world.asha, INCOME, CASTE)
    revoked, once = world.consent(world.asha, INCOME), world.consent(world.asha, INCOME, once=True)
    pdf = world.consent(world.asha, INCOME, representations=("application/pdf",))
    world.services.consents.narrow(world.asha, narrow.consent_id, [INCOME], None)
    world.services.consents.revoke(world.asha, revoked.consent_id)
    assert isinstance(world.tickets(token, once.consent_id, INCOME)[0], Granted)
    soon = world.consent(world.asha, INCOME, expires_us=world.clock() + SECOND)
    world.clock.offset += 2 * SECOND
    stranger = world.resident_token(world.resident("9876500000"))
    yield "no-consent", lambda: world.tickets(other, wide.consent_id, INCOME)
    yield "no-consent", lambda: world.tickets(token, uuid7(), INCOME)
    yield "not-covered", lambda: world.tickets(token, narrow.consent_id, CASTE)
    yield "revoked", lambda: world.tickets(token, revoked.consent_id, INCOME, act="gateway")
    yield "expired", lambda: world.tickets(token, soon.consent_id, INCOME)
    yield "spent", lambda: world.tickets(token, once.consent_id, INCOME)
    yield "representation", lambda: world.tickets(token, pdf.consent_id, INCOME, representation="text/xml")
    yield "document-not-found", lambda: world.tickets(stranger, None, INCOME)
    yield "unknown-token", lambda: world.tickets("nobody-has-this", wide.consent_id, INCOME)
    yield "forbidden", lambda: world.tickets(stranger, wide.consent_id, INCOME)
    world.push(world.ap, world.row(CASTE, kind="withdraw", revision=2, document=None))
    yield "document-not-found", lambda: world.tickets(token, wide.consent_id, CASTE)
    world.services.suspensions.issuer(ISSUER)
    yield "out-of-scope", lambda: world.tickets(token, wide.consent_id, INCOME)
    world.services.suspensions.requester("university")
    yield "suspended", lambda: world.tickets(token, wide.consent_id, INCOME)


def test_each_way_to_be_refused_is_recorded_with_its_own_reason(given) -> None:
    for reason, ask in refusals(given):
        before = len(given.attempts())
        try:
            (outcome,) = ask()
        except (InvalidCredential, Forbidden) as error:
            outcome = error
        assert outcome.reason == reason
        (row,) = given.attempts()[before:]
        assert (row["outcome"], row["reason"], row["source"]) == ("refused", reason, "198.51.100.7")
        assert row["uri"] in (INCOME, CASTE) and ("subject" in row) == (reason != "unknown-token")


def test_a_token_that_has_expired_still_says_whose_it_was(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    world.clock.offset = HOUR
    with pytest.raises(InvalidCredential):
        world.tickets(world.university, consent.consent_id, INCOME)
    (row,) = world.attempts()
    assert without_place(row) == {
        **WHO, "operation": "resolve", "outcome": "refused", "reason": "expired", "uri": INCOME,
        "consent_id": consent.consent_id,
    }  # fmt: skip


def test_a_fault_found_before_is_told_only_to_who_may_ask_and_recorded_either_way(on_sqlite) -> None:
    world = on_sqlite
    bad, asked = BadRequest(), Asked(RESOLVE, "198.51.100.7", "request-1")
    wishes = [
        TicketRequest(digest_of(world.university), (), asked, fault=bad),
        TicketRequest(digest_of(world.resident_token(world.asha)), (INCOME,), asked, fault=bad),
        TicketRequest(digest_of("guess"), (INCOME,), asked, fault=bad),
        TicketRequest("", (INCOME,), asked, fault=MissingCredential()),
    ]
    answers = world.services.tickets.issue(wishes)
    assert [type(answer) for answer in answers] == [BadRequest, Forbidden, InvalidCredential, MissingCredential]
    rows = world.attempts()
    assert [row["reason"] for row in rows] == ["bad-request", "forbidden", "unknown-token", "missing-credential"]
    assert [row.get("role") for row in rows] == ["requester", "resident", None, None]
    assert [row.get("uri") for row in rows] == [None, INCOME, INCOME, INCOME]


def test_what_failed_after_a_ticket_is_recorded_with_the_ticket(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    (granted,) = world.tickets(world.university, consent.consent_id, INCOME, act="gateway")
    world.clock.offset = HOUR  # the token has expired meanwhile, which is not why it failed
    fault = NodeUnavailable(reason="connect")
    with pytest.raises(NodeUnavailable):
        world.tickets(
            world.university, consent.consent_id, INCOME, act="gateway", fault=fault, jti=granted.jti
        )  # fmt: skip
    allowed, failed = world.attempts(subject="university")
    assert (allowed["outcome"], allowed["operation"], allowed["jti"]) == ("allowed", "gateway", granted.jti)
    assert (failed["outcome"], failed["reason"], failed["jti"]) == ("failed", "connect", granted.jti)


def test_strangers_have_twenty_rows_a_minute_and_then_a_count(on_sqlite) -> None:
    world = on_sqlite
    world.clock.offset = MINUTE - world.clock() % MINUTE  # the minute has just begun
    answers = world.services.tickets.issue([world.wish("guess", uuid7(), INCOME) for _ in range(50)])
    assert [type(answer) for answer in answers] == [InvalidCredential] * 20 + [TooManyRequests] * 30
    assert int(answers[-1].headers["Retry-After"]) <= 61
    elsewhere = world.wish("guess", uuid7(), INCOME, asked=Asked(RESOLVE, "203.0.113.9"))
    assert isinstance(world.services.tickets.issue([elsewhere])[0], InvalidCredential)
    consent = world.consent(world.asha, INCOME)
    assert isinstance(world.tickets(world.university, consent.consent_id, INCOME)[0], Granted)
    world.services.attempts.write_floods(world.clock())
    assert world.attempts(reason="flood") == []
    world.services.attempts.write_floods(world.clock() + MINUTE)
    (flood,) = world.attempts(reason="flood")
    now = world.clock()
    assert (flood["count"], flood["source"], flood["at_us"]) == (30, "198.51.100.7", now - now % MINUTE)
    assert len(world.attempts(reason="unknown-token")) == 21


def test_nobody_hides_a_stolen_token_behind_a_flood_of_their_own(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    world.services.suspensions.requester("university")
    world.clock.offset = MINUTE - world.clock() % MINUTE
    flood = [world.wish("guess", uuid7(), INCOME) for _ in range(40)]
    stolen = [world.wish(world.university, consent.consent_id, INCOME) for _ in range(23)]
    answers = world.services.tickets.issue([*flood, *stolen])
    assert [type(answer) for answer in answers[40:]] == [InvalidCredential] * 20 + [TooManyRequests] * 3
    assert len(world.attempts(reason="suspended", subject="university")) == 20
    world.services.attempts.write_floods(world.clock() + MINUTE)
    counted = {row.get("subject", row.get("source")): row["count"] for row in world.attempts(reason="flood")}
    assert counted == {"198.51.100.7": 20, "university": 3}


def test_a_strangers_long_list_is_one_row(on_sqlite) -> None:
    with pytest.raises(InvalidCredential):
        on_sqlite.tickets("guess", uuid7(), *(f"{ISSUER}-INCOM-{number}" for number in range(100)))
    (row,) = on_sqlite.attempts()
    assert row["reason"] == "unknown-token" and "uri" not in row


def test_what_cannot_be_recorded_is_not_answered(on_sqlite) -> None:
    """Neither refusal nor ticket leaves when the row is not written."""
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    with world.database.write() as session:
        session.execute(text("ALTER TABLE attempt RENAME TO elsewhere"))
    wishes = [world.wish(world.university, consent.consent_id, uri) for uri in (INCOME, CASTE)]
    with pytest.raises(ServiceUnavailable):
        world.services.tickets.issue(wishes)
    asked = Asked(LOG_QUERY, "198.51.100.7", "request-1")
    assert isinstance(world.services.attempts.refused(asked, None, MissingCredential()), ServiceUnavailable)
    with pytest.raises(ServiceUnavailable):
        world.services.attempts.queried(asked, Principal(AUDITOR, "a"), {}, None)
    with world.database.write() as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO attempt"))
    assert world.attempts() == []


def test_the_row_is_committed_before_the_answer_is_given(given) -> None:
    consent, order = given.consent(given.asha, INCOME), []
    event.listen(given.database.engine, "commit", lambda _: order.append("committed"))
    given.tickets(given.university, consent.consent_id, CASTE)
    order.append("answered")
    assert order == ["committed", "answered"]


def test_floods_that_could_not_be_written_are_written_the_next_time(on_sqlite, monkeypatch) -> None:
    world, attempts = on_sqlite, on_sqlite.services.attempts
    world.clock.offset = MINUTE - world.clock() % MINUTE
    world.services.tickets.issue([world.wish("guess", uuid7(), INCOME) for _ in range(25)])

    def away(*_):
        raise OperationalError("", {}, Exception())

    with monkeypatch.context() as broken:
        broken.setattr(world.database, "write_connection", away)
        with pytest.raises(ServiceUnavailable):
            attempts.write_floods(world.clock() + MINUTE)
    attempts.write_floods(world.clock() + MINUTE)
    attempts.write_floods(world.clock() + 2 * MINUTE)
    assert [row["count"] for row in world.attempts(reason="flood")] == [5]


def test_two_that_write_floods_at_once_write_each_once(given) -> None:
    world, attempts = given, given.services.attempts
    world.clock.offset = MINUTE - world.clock() % MINUTE
    world.services.tickets.issue([world.wish("guess", uuid7(), INCOME) for _ in range(25)])
    over = world.clock() + MINUTE
    second = threading.Thread(target=attempts.write_floods, args=(over,))

    def before_commit(_) -> None:
        if second.ident is None:
            second.start()
            second.join(0.2)

    event.listen(world.database.engine, "commit", before_commit)
    attempts.write_floods(over)
    second.join()
    assert [row["count"] for row in world.attempts(reason="flood")] == [5]


def test_queries_are_recorded_with_who_and_which_filter(on_sqlite) -> None:
    world, auditor = on_sqlite, Principal(AUDITOR, "State audit office")
    asked = Asked(LOG_QUERY, "198.51.100.40", "request-9")
    world.services.attempts.queried(asked, auditor, {"uri": INCOME, "limit": "5"}, None)
    world.services.attempts.queried(asked, auditor, {"uri": "9876543210"}, BadRequest())
    world.services.attempts.queried(asked, auditor, {}, InternalError())
    answered, refused, failed = world.attempts(subject="State audit office")
    assert (answered["outcome"], answered["request_id"]) == ("complete", "request-9")
    assert json.loads(answered["query"]) == {"uri": INCOME, "limit": "5"}
    assert (refused["outcome"], refused["reason"], "query" in refused) == ("refused", "bad-request", False)
    assert failed["outcome"] == "failed"
    token = world.services.tokens.create("auditor", "gone", world.clock() - 1, world.clock()).token
    error = world.services.attempts.refused(asked, f"Bearer {token}", InvalidCredential(reason="expired"))
    assert isinstance(error, InvalidCredential) and world.attempts(subject="gone")[0]["role"] == "auditor"


def test_filters_choose_from_both_kinds(on_sqlite) -> None:
    world = on_sqlite
    consent, other = world.consent(world.asha, INCOME), world.consent(world.asha, CASTE)
    world.tickets(world.university, consent.consent_id, INCOME, CASTE)
    world.tickets(world.university, other.consent_id, INCOME, act="gateway")
    world.tickets(world.university, other.consent_id, CASTE, act="gateway")
    own = world.resident_token(world.asha)
    world.tickets(own, None, INCOME)
    world.tickets(own, None, f"{ISSUER}-INCOM-404", act="gateway")
    rows = world.attempts()
    assert [row["outcome"] for row in rows] == ["allowed", "refused", "refused", "allowed", "allowed", "refused"]

    def places(**wanted):
        return [rows.index(row) for row in world.attempts(**wanted)]

    assert places(operation="gateway") == [2, 3]
    assert places(operation="resolve") == [0, 1]
    assert places(operation="own") == [4, 5] == places(subject=world.asha)
    assert places(outcome="allowed") == [0, 3, 4]
    assert places(reason="not-covered") == [1, 2]
    assert places(consent_id=other.consent_id) == [2, 3]
    assert places(uri=CASTE.upper()) == [1, 3]
    assert places(subject="university", outcome="refused") == [1, 2]
    assert places(request_id="request-1") == [1, 2, 5]
    assert places(request_id="request-2") == [] == places(operation="log.query")


def test_pages_lose_nothing_while_others_write(given) -> None:
    """Positions come from the head row, so a follower that pages by them sees each row once, whoever commits first."""
    consent = given.consent(given.asha, INCOME)

    def ask() -> None:
        for _ in range(10):
            given.tickets(given.university, consent.consent_id, INCOME, CASTE)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    seen: list[int] = []
    while len(seen) < 60:
        running = any(thread.is_alive() for thread in threads)
        page, _ = given.services.records.attempts(Window(seen[-1] if seen else 0, limit=7), AttemptFilter())
        seen += [row["position"] for row in page]
        if not page and not running:
            break
    for thread in threads:
        thread.join()
    assert len(seen) == 60 == len(set(seen)) and seen == sorted(seen)
