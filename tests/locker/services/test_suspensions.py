import threading

import pytest
from sqlalchemy import event, text

from locker.db.models import Base
from locker.services import suspensions
from locker.services.tickets import Granted
from node.contract.problems import InvalidCredential, ProblemError
from node.contract.revocation import verify_page
from node.contract.tickets import verify_ticket
from node.contract.times import MINUTE

ISSUER, OTHER = "in.gov.meeseva.ap", "in.gov.meeseva.ts"
INCOME, ELSEWHERE = f"{ISSUER}-INCOM-1", f"{OTHER}-INCOM-1"
MOBILE = ("mobile", "9876543210")


@pytest.fixture
def given(either_world):
    world = either_world
    world.asha, world.ap = world.resident(), world.department()
    world.ts = world.department(node_id="node-ts", issuers=(OTHER,))
    world.push(world.ap, world.row(INCOME, MOBILE))
    world.push(world.ts, world.row(ELSEWHERE, MOBILE))
    world.university = world.requester()
    return world


def voided(world) -> dict[str, int]:
    newest = verify_page(world.services.revocations.latest(), world.keys.public).sequence
    pages = [verify_page(world.services.revocations.page(n), world.keys.public) for n in range(1, newest + 1)]
    return {entry.consent_id: entry.void_before_us for page in pages for entry in page.entries}


def ticket(world, consent, uri):
    (outcome,) = world.tickets(world.university, consent.consent_id, uri)
    assert isinstance(outcome, Granted), outcome
    return verify_ticket(outcome.ticket, world.keys.public)


@pytest.mark.parametrize("what", ["issuer", "node", "requester"])
def test_a_suspension_voids_the_tickets_that_are_out_and_no_others(given, what: str) -> None:
    here, elsewhere, unused = (given.consent(given.asha, uri) for uri in (INCOME, ELSEWHERE, INCOME))
    given.clock.offset = 5 * MINUTE  # another machine's clock, which is ahead
    out, other = ticket(given, here, INCOME), ticket(given, elsewhere, ELSEWHERE)
    given.clock.offset = 0
    name = {"issuer": ISSUER, "node": "node-ap", "requester": "university"}[what]
    count = getattr(given.services.suspensions, what)(name)
    moments = voided(given)
    assert out.issued_us <= moments[out.consent_id] and unused.consent_id not in moments
    assert (other.consent_id in moments) == (what == "requester") and count == len(moments)


def test_tickets_after_the_issuer_is_approved_again_are_good(given) -> None:
    consent = given.consent(given.asha, INCOME)
    given.clock.offset = 5 * MINUTE
    ticket(given, consent, INCOME)
    given.clock.offset = 0
    given.services.suspensions.issuer(ISSUER)
    given.approve(given.ap)
    assert ticket(given, consent, INCOME).issued_us > voided(given)[consent.consent_id]


def test_tickets_that_have_ended_are_not_listed(given) -> None:
    ticket(given, given.consent(given.asha, INCOME), INCOME)
    given.clock.offset = 11 * MINUTE
    assert given.services.suspensions.issuer(ISSUER) == 0


def test_many_tickets_are_all_found(given, monkeypatch) -> None:
    monkeypatch.setattr(suspensions, "_PAGE", 3)
    consents = [given.consent(given.asha, INCOME) for _ in range(7)]
    for consent in consents:
        ticket(given, consent, INCOME)
    assert given.services.suspensions.node("node-ap") == 7
    assert set(voided(given)) == {consent.consent_id for consent in consents}


def test_no_statement_grows_with_the_tickets_that_are_out(given, monkeypatch) -> None:
    """Databases take a bounded number of parameters; PostgreSQL 65535, which is a minute of a busy issuer."""
    monkeypatch.setattr(suspensions, "_PAGE", 3)
    consents = [given.consent(given.asha, INCOME) for _ in range(12)]
    for consent in consents:
        ticket(given, consent, INCOME)
    longest = [0]

    def count(connection, cursor, statement, parameters, context, executemany) -> None:
        longest[0] = max(longest[0], len(parameters))

    event.listen(given.database.engine, "before_cursor_execute", count)
    assert given.services.suspensions.issuer(ISSUER) == len(voided(given)) == 12
    assert 3 <= longest[0] < 12


def copy_rows(session, table: str, many: int, **changed: str) -> None:
    """Make many rows out of each that a table has, with these columns changed, as SQL of ``g``, which counts."""
    values = ", ".join(changed.get(column.name, column.name) for column in Base.metadata.tables[table].columns)
    session.execute(text(f"INSERT INTO {table} SELECT {values} FROM {table}, generate_series(1, {many}) g"))


@pytest.mark.parametrize("locker_database_url", ["postgresql"], indirect=True)
def test_an_issuer_with_very_many_documents_is_stopped_at_once(given) -> None:
    """Tickets wait for a suspension, so it must not take longer the more documents an issuer has."""
    ticket(given, given.consent(given.asha, INCOME), INCOME)
    with given.database.write() as session:
        copy_rows(session, "link", 30_000, uri_key="uri_key || g")
        copy_rows(session, "ticket_record", 1000, position="position + g", jti="'jti' || g", uri="'in.other-DOC-' || g")
        session.execute(text("ANALYZE"))
    with given.database.write() as session:
        # As with the default memory and a hundred times the documents.
        session.execute(text("SET work_mem = '64kB'"))
        session.execute(text("SET statement_timeout = '1s'"))
    assert given.services.suspensions.issuer(ISSUER) == 1


@pytest.mark.parametrize("what", ["issuer", "requester"])
def test_a_suspension_waits_for_a_ticket_that_is_being_issued(given, monkeypatch, what: str) -> None:
    consent = given.consent(given.asha, INCOME)
    reading, go_on, clock, out = threading.Event(), threading.Event(), given.services.tickets._clock, []

    def slow_clock() -> int:
        reading.set()
        go_on.wait(5)
        return clock()

    monkeypatch.setattr(given.services.tickets, "_clock", slow_clock)
    issuing = threading.Thread(target=lambda: out.append(ticket(given, consent, INCOME)))
    name = {"issuer": ISSUER, "requester": "university"}[what]
    suspending = threading.Thread(target=getattr(given.services.suspensions, what), args=(name,))
    issuing.start()
    assert reading.wait(5)
    suspending.start()
    suspending.join(0.3)
    assert suspending.is_alive()
    go_on.set()
    issuing.join()
    suspending.join()
    assert out[0].issued_us <= voided(given)[consent.consent_id]
    try:
        (after,) = given.tickets(given.university, consent.consent_id, INCOME)
    except InvalidCredential as refused:
        after = refused
    assert isinstance(after, ProblemError)
