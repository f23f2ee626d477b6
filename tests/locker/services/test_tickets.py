import threading
import time

import pytest
from sqlalchemy import select, update

from locker.db.models import Issuer, Link, Node, TicketRecord
from locker.services.records import AttemptFilter, Window
from locker.services.tickets import Granted
from node.contract.problems import ConsentRequired, DocumentNotFound, Forbidden, InvalidCredential, OutOfScope
from node.contract.revocation import verify_page
from node.contract.tickets import verify_ticket
from node.contract.times import DAY, HOUR, MINUTE, SECOND
from tests.locker.documents import CASTE, INCOME, ISSUER, MOBILE


def ticket_of(world, outcome):
    assert isinstance(outcome, Granted), outcome
    return verify_ticket(outcome.ticket, world.keys.public)


def voided(world) -> dict[str, int]:
    """What a node that has read every page holds void."""
    entries, number = {}, 1
    newest = verify_page(world.services.revocations.latest(), world.keys.public).sequence
    while number <= newest:
        page = verify_page(world.services.revocations.page(number), world.keys.public)
        for entry in page.entries:
            entries[entry.consent_id] = max(entries.get(entry.consent_id, 0), entry.void_before_us)
        number += 1
    return entries


def test_a_ticket_says_who_may_read_what_why_and_for_how_long(given) -> None:
    consent = given.consent(given.asha, INCOME, representations=("application/pdf",))
    (outcome,) = given.tickets(given.university, consent.consent_id, INCOME.upper())
    ticket = ticket_of(given, outcome)
    ticket.require_current(given.clock())
    assert (ticket.iss, ticket.aud, ticket.client_id, ticket.act) == (
        "http://locker.test",
        "node-ap",
        "university",
        None,
    )
    assert f"{ticket.issuer}-{ticket.doc_type}-{ticket.doc_id}" == INCOME == outcome.uri
    assert (ticket.basis, ticket.consent_id, ticket.purpose) == ("consent", consent.consent_id, "admission")
    assert ticket.representations == ("application/pdf",) and ticket.exp - ticket.iat == 600
    assert outcome.base_url == "https://node.test"
    with given.database.read() as session:
        (record,) = session.scalars(select(TicketRecord))
    assert (record.jti, record.issued_us, record.holder_ref) == (ticket.jti, ticket.issued_us, ticket.holder_ref)


def test_each_uri_has_its_own_outcome(given) -> None:
    consent = given.consent(given.asha, INCOME)
    outcomes = given.tickets(given.university, consent.consent_id, CASTE, INCOME, f"{ISSUER}-INCOM-404", "x" * 290)
    assert [type(outcome) for outcome in outcomes] == [ConsentRequired, Granted, ConsentRequired, ConsentRequired]


def test_another_requesters_consent_is_no_consent(on_sqlite) -> None:
    world = on_sqlite
    consent, bank = world.consent(world.asha, INCOME), world.requester("bank")
    (outcome,) = world.tickets(bank, consent.consent_id, INCOME)
    (unknown,) = world.tickets(bank, "019ab6ee-7d10-7f3a-8b4e-9c2d1e0f3a5b", INCOME)
    assert isinstance(outcome, ConsentRequired) and str(outcome) == str(unknown) and outcome.reason == unknown.reason
    with world.database.read() as session:
        assert session.scalars(select(TicketRecord)).all() == []


def test_a_consent_ends_and_no_ticket_outlives_it(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME, expires_us=world.clock() + 100 * SECOND)
    ticket = ticket_of(world, world.tickets(world.university, consent.consent_id, INCOME)[0])
    assert ticket.exp * SECOND <= consent.expires_us
    world.clock.offset = 101 * SECOND
    (outcome,) = world.tickets(world.university, consent.consent_id, INCOME)
    assert isinstance(outcome, ConsentRequired) and outcome.reason == "expired"


def test_a_ticket_is_refused_rather_than_ending_after_its_consent(on_sqlite, monkeypatch) -> None:
    world, start = on_sqlite, (on_sqlite.clock() // SECOND + 60) * SECOND
    consent = world.consent(world.asha, INCOME, expires_us=start + SECOND // 2)
    for moment, kind in ((start - 1, Granted), (start, ConsentRequired), (start + SECOND // 4, ConsentRequired)):
        monkeypatch.setattr(world.services.tickets, "_clock", lambda now_us=moment: now_us)
        (outcome,) = world.tickets(world.university, consent.consent_id, INCOME)
        assert isinstance(outcome, kind)
        if kind is Granted:
            assert ticket_of(world, outcome).exp * SECOND <= consent.expires_us
    assert outcome.reason == "expired"


def test_the_one_ticket_of_a_document_that_moved_spoils_no_other_request(on_sqlite) -> None:
    world = on_sqlite
    once, other = world.consent(world.asha, INCOME, once=True), world.consent(world.asha, INCOME)
    assert isinstance(world.tickets(world.university, once.consent_id, INCOME, act="gateway")[0], Granted)
    # The consent's tickets stay alive here: this move voids none, as one without a suspension would.
    with world.database.write() as session:
        session.add(Node(node_id="node-new", name="n", base_url="https://n.test", fingerprint="", state="approved",
                         approved_us=0))  # fmt: skip
        session.flush()
        session.execute(update(Issuer).values(node_id="node-new"))
        session.execute(update(Link).values(node_id="node-new"))
    wishes = [world.wish(world.university, consent.consent_id, INCOME, act="gateway") for consent in (once, other)]
    (spent,), (good,) = world.services.tickets.issue(wishes)
    assert isinstance(spent, ConsentRequired) and spent.reason == "spent"
    assert isinstance(good, Granted) and good.node_id == "node-new"


def test_a_node_behind_the_gateway_has_no_other_tickets_and_none_is_spent_on_asking(either_world) -> None:
    world = either_world
    asha, university = world.resident(), world.requester()
    world.push(world.department(exposure="gateway-only"), world.row(INCOME, MOBILE))
    consent = world.consent(asha, INCOME, once=True)
    (refused,) = world.tickets(university, consent.consent_id, INCOME)
    assert isinstance(refused, Forbidden) and refused.reason == "gateway-only"
    (own,) = world.tickets(world.resident_token(asha), None, INCOME)
    assert isinstance(own, Forbidden) and own.reason == "gateway-only"
    (granted,) = world.tickets(university, consent.consent_id, INCOME, act="gateway")
    assert ticket_of(world, granted).act == "gateway"
    rows, _ = world.services.records.attempts(Window(), AttemptFilter(reason="gateway-only"))
    assert [(row["operation"], row["outcome"], row["uri"]) for row in rows] == [
        ("resolve", "refused", INCOME),
        ("own", "refused", INCOME),
    ]


def test_a_consent_for_once_gives_one_ticket_for_each_document(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE, once=True)
    first = given.tickets(given.university, consent.consent_id, INCOME)
    second = given.tickets(given.university, consent.consent_id, INCOME, CASTE)
    assert [isinstance(o, Granted) for o in (*first, *second)] == [True, False, True]


def test_of_many_who_want_the_one_ticket_at_once_one_gets_it(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE, once=True)
    got: list[object] = []
    pairs = [(INCOME, CASTE), (CASTE, INCOME)] * 4
    threads = [
        threading.Thread(
            target=lambda uris=uris: got.extend(given.tickets(given.university, consent.consent_id, *uris))
        )
        for uris in pairs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 16
    assert sorted(outcome.uri for outcome in got if isinstance(outcome, Granted)) == [CASTE, INCOME]


def test_two_wishes_for_the_one_ticket_in_one_batch_get_one(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME, once=True)
    request = world.wish(world.university, consent.consent_id, INCOME, act="gateway")
    (first,), (second,) = world.services.tickets.issue([request, request])
    assert isinstance(first, Granted) and isinstance(second, ConsentRequired)


def test_the_gateway_goes_on_with_the_one_ticket_until_it_ends(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME, once=True)
    first, again = (world.tickets(world.university, consent.consent_id, INCOME, act="gateway")[0] for _ in range(2))
    assert first.ticket == again.ticket
    (direct,) = world.tickets(world.university, consent.consent_id, INCOME)
    assert isinstance(direct, ConsentRequired)
    world.clock.offset = HOUR
    (late,) = world.tickets(world.client_token("university"), consent.consent_id, INCOME, act="gateway")
    assert isinstance(late, ConsentRequired)


def test_a_representation_outside_the_consent_is_refused(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME, representations=("application/pdf",))
    (good,) = world.tickets(world.university, consent.consent_id, INCOME, representation="application/pdf")
    (bad,) = world.tickets(world.university, consent.consent_id, INCOME, representation="text/xml")
    assert ticket_of(world, good).representations == ("application/pdf",)
    assert isinstance(bad, ConsentRequired) and bad.reason == "representation"


def test_suspending_issuer_node_or_requester_acts_at_once(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    world.services.suspensions.issuer(ISSUER)
    assert isinstance(world.tickets(world.university, consent.consent_id, INCOME)[0], OutOfScope)
    world.approve(world.ap)
    assert isinstance(world.tickets(world.university, consent.consent_id, INCOME)[0], Granted)
    world.services.suspensions.node("node-ap")
    assert isinstance(world.tickets(world.university, consent.consent_id, INCOME)[0], OutOfScope)
    world.services.suspensions.requester("university")
    with pytest.raises(InvalidCredential):
        world.tickets(world.university, consent.consent_id, INCOME)


def test_a_type_that_is_approved_no_longer_gives_no_ticket(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME, CASTE)
    world.ap.doc_types = ("INCOM",)
    world.approve(world.ap)
    outcomes = world.tickets(world.university, consent.consent_id, INCOME, CASTE)
    assert [type(outcome) for outcome in outcomes] == [Granted, OutOfScope]


def test_a_withdrawn_document_and_one_that_became_anothers_give_no_ticket(on_sqlite) -> None:
    world = on_sqlite
    world.resident("9876500000")
    consent = world.consent(world.asha, INCOME, CASTE)
    world.push(world.ap, world.row(INCOME, kind="withdraw", revision=2, document=None))
    world.push(world.ap, world.row(CASTE, ("mobile", "9876500000"), revision=2))
    outcomes = world.tickets(world.university, consent.consent_id, INCOME, CASTE)
    assert [type(outcome) for outcome in outcomes] == [DocumentNotFound, ConsentRequired]


def test_a_resident_reads_own_documents_on_the_basis_of_being_the_holder(on_sqlite) -> None:
    world = on_sqlite
    token, other = world.resident_token(world.asha), world.resident_token(world.resident("9876500000"))
    ticket = ticket_of(world, world.tickets(token, None, INCOME, act="gateway")[0])
    assert (ticket.basis, ticket.consent_id, ticket.client_id) == ("holder", None, ticket.holder_ref)
    assert isinstance(world.tickets(other, None, INCOME)[0], DocumentNotFound)


def test_roles_do_not_mix(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    for token, consent_id in (
        (world.university, None),
        (world.resident_token(world.asha), consent.consent_id),
        (world.node_token(world.ap), None),
    ):
        with pytest.raises(Forbidden):
            world.tickets(token, consent_id, INCOME)


def test_a_bad_token_in_a_batch_spoils_no_other(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    good = world.wish(world.university, consent.consent_id, INCOME)
    bad = world.wish("nobody-has-this", consent.consent_id, INCOME)
    first, second, third = world.services.tickets.issue([good, bad, good])
    assert isinstance(first[0], Granted) and isinstance(third[0], Granted) and isinstance(second, InvalidCredential)


def test_revoking_voids_what_was_issued_and_nothing_is_issued_after(given) -> None:
    """FC-26: tickets from before are void, new ones refused, and a new consent does not revive them."""
    consent = given.consent(given.asha, INCOME, CASTE)
    before = [ticket_of(given, o) for o in given.tickets(given.university, consent.consent_id, INCOME, CASTE)]
    given.services.consents.revoke(given.asha, consent.consent_id)
    assert all(ticket.issued_us <= voided(given)[ticket.consent_id] for ticket in before)
    (refused,) = given.tickets(given.university, consent.consent_id, INCOME)
    assert isinstance(refused, ConsentRequired) and refused.reason == "revoked"
    renewed = given.consent(given.asha, INCOME)
    fresh = ticket_of(given, given.tickets(given.university, renewed.consent_id, INCOME)[0])
    assert renewed.consent_id not in voided(given) and fresh.issued_us > 0
    assert all(ticket.issued_us <= voided(given)[ticket.consent_id] for ticket in before)


def test_narrowing_voids_earlier_tickets_and_gives_good_new_ones_for_what_is_left(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE)
    before = [ticket_of(given, o) for o in given.tickets(given.university, consent.consent_id, INCOME, CASTE)]
    given.services.consents.narrow(given.asha, consent.consent_id, [INCOME], None)
    kept, gone = given.tickets(given.university, consent.consent_id, INCOME, CASTE)
    moment = voided(given)[consent.consent_id]
    assert all(ticket.issued_us <= moment for ticket in before)
    assert ticket_of(given, kept).issued_us > moment and isinstance(gone, ConsentRequired)


def test_a_clock_put_back_does_not_make_new_tickets_void_or_old_ones_good(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE)
    given.clock.offset = 9 * MINUTE
    old = ticket_of(given, given.tickets(given.university, consent.consent_id, INCOME)[0])
    given.clock.offset = 0
    given.services.consents.narrow(given.asha, consent.consent_id, [INCOME], None)
    moment = voided(given)[consent.consent_id]
    new = ticket_of(given, given.tickets(given.university, consent.consent_id, INCOME)[0])
    assert old.issued_us <= moment < new.issued_us


def test_a_revocation_waits_for_a_ticket_that_is_being_issued(given, monkeypatch) -> None:
    """The interleaving that loses a ticket: the revocation reads its clock, the ticket is dated, both commit."""
    consent = given.consent(given.asha, INCOME)
    reading, go_on, order = threading.Event(), threading.Event(), []
    clock = given.services.tickets._clock

    def slow_clock() -> int:
        if threading.current_thread().name == "issuing":
            reading.set()
            go_on.wait(5)
        return clock()

    monkeypatch.setattr(given.services.tickets, "_clock", slow_clock)
    outcomes: list[object] = []

    def issue() -> None:
        outcomes.extend(given.tickets(given.university, consent.consent_id, INCOME))
        order.append("issued")

    def revoke() -> None:
        given.services.consents.revoke(given.asha, consent.consent_id)
        order.append("revoked")

    issuing, revoking = threading.Thread(target=issue, name="issuing"), threading.Thread(target=revoke)
    issuing.start()
    assert reading.wait(5)
    revoking.start()
    revoking.join(0.4)
    assert revoking.is_alive(), "the revocation must wait for the consent's row"
    go_on.set()
    issuing.join()
    revoking.join()
    ticket = ticket_of(given, outcomes[0])
    assert ticket.issued_us <= voided(given)[consent.consent_id]


def test_a_ticket_waits_for_a_revocation_under_way(given, monkeypatch) -> None:
    """The other order: the row is locked, so the ticket sees the consent as revoked, or narrowed and is dated after it."""
    consent = given.consent(given.asha, INCOME, CASTE)
    holding, go_on = threading.Event(), threading.Event()
    publish = given.services.revocations.publish

    def slow_publish(*arguments):
        number = publish(*arguments)
        holding.set()
        go_on.wait(5)
        return number

    monkeypatch.setattr(type(given.services.revocations), "publish", lambda self, *arguments: slow_publish(*arguments))
    outcomes: list[object] = []
    narrowing = threading.Thread(
        target=given.services.consents.narrow, args=(given.asha, consent.consent_id, [INCOME], None)
    )
    issuing = threading.Thread(
        target=lambda: outcomes.extend(given.tickets(given.university, consent.consent_id, INCOME, CASTE))
    )
    narrowing.start()
    assert holding.wait(5)
    issuing.start()
    issuing.join(0.4)
    assert issuing.is_alive(), "the ticket must wait for the consent's row"
    go_on.set()
    narrowing.join()
    issuing.join()
    assert ticket_of(given, outcomes[0]).issued_us > voided(given)[consent.consent_id]
    assert isinstance(outcomes[1], ConsentRequired)


def test_under_load_no_good_ticket_predates_a_change_and_no_new_one_is_void(given, soak) -> None:
    consent = given.consent(given.asha, INCOME, CASTE, expires_us=given.clock() + DAY)
    stop, issued, changes = threading.Event(), [], []

    def read() -> None:
        while not stop.is_set():
            outcomes = given.tickets(given.university, consent.consent_id, INCOME)
            issued.extend(ticket_of(given, o).issued_us for o in outcomes if isinstance(o, Granted))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(soak.count(small=6, full=100)):
        started = time.time_ns() // 1000
        given.services.consents.narrow(given.asha, consent.consent_id, None, consent.expires_us - step * SECOND - 1)
        changes.append((started, voided(given)[consent.consent_id], time.time_ns() // 1000))
        time.sleep(0.02)
    stop.set()
    for reader in readers:
        reader.join()
    assert issued
    for started, moment, done in changes:
        assert started <= moment <= done
        assert not [at for at in issued if moment < at < started], "issued before the change, not void"


def test_a_ticket_is_durable_before_it_is_sent(on_sqlite, monkeypatch) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    seen: list[int] = []
    sign = type(world.services.tickets)._granted

    def watching(self, ticket, base_url):
        with world.database.read() as session:
            seen.append(len(session.scalars(select(TicketRecord).where(TicketRecord.jti == ticket.jti)).all()))
        return sign(self, ticket, base_url)

    monkeypatch.setattr(type(world.services.tickets), "_granted", watching)
    world.tickets(world.university, consent.consent_id, INCOME)
    assert seen == [1]
