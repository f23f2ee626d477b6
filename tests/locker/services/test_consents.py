import threading

import pytest
from sqlalchemy import select

from locker.db.models import ConsentEvent
from locker.services.principal import Principal
from node.contract.consents import artefact_digest, verify_artefact
from node.contract.problems import BadRequest, Conflict, DocumentNotFound, NotFound, UnacceptableContent
from node.contract.revocation import verify_page
from node.contract.times import DAY, HOUR, SECOND
from tests.locker.documents import CASTE, INCOME, ISSUER


def test_every_change_has_a_signed_artefact_that_names_the_one_before(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE)
    given.services.consents.narrow(given.asha, consent.consent_id, [INCOME], None)
    given.services.consents.revoke(given.asha, consent.consent_id)
    with given.database.read() as session:
        tokens = session.scalars(select(ConsentEvent.artefact).order_by(ConsentEvent.position)).all()
    artefacts = [verify_artefact(token, given.keys.public) for token in tokens]
    assert [a.revision for a in artefacts] == [1, 2, 3]
    assert [a.state for a in artefacts] == ["active", "active", "revoked"]
    assert [a.previous for a in artefacts] == [None, artefact_digest(tokens[0]), artefact_digest(tokens[1])]
    assert [len(a.items) for a in artefacts] == [2, 1, 1]
    assert artefacts[0].resident != given.asha
    events = given.services.consents.events(Principal("resident", given.asha), consent.consent_id)
    assert [event["kind"] for event in events] == ["given", "narrowed", "revoked"]
    assert given.services.consents.artefact(Principal("auditor", "x"), consent.consent_id) == tokens[-1]


def test_only_own_documents_can_be_consented_to(on_sqlite) -> None:
    world = on_sqlite
    other = world.resident("9876500000")
    for uris in ([INCOME], [INCOME, f"{ISSUER}-INCOM-404"]):
        with pytest.raises(DocumentNotFound):
            world.consent(other, *uris)


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "curiosity"},
        {"expires_us": 5},
        {"expires_us": 2**52},
        {"uris": ()},
        {"uris": (INCOME, INCOME.upper())},
        {"uris": tuple(f"{ISSUER}-INCOM-{n}" for n in range(101))},
    ],
)
def test_unacceptable_consents_are_refused(on_sqlite, changes) -> None:
    with pytest.raises(UnacceptableContent):
        on_sqlite.consent(on_sqlite.asha, INCOME, **changes) if "uris" not in changes else on_sqlite.consent(
            on_sqlite.asha, *changes["uris"]
        )


def test_a_consent_for_nobody_is_refused(on_sqlite) -> None:
    with pytest.raises(NotFound):
        on_sqlite.consent(on_sqlite.asha, INCOME, client_id="nobody")
    with pytest.raises(NotFound):
        on_sqlite.consent(on_sqlite.asha, INCOME, client_id="node-ap")


def test_a_consent_is_only_ever_narrowed(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    consents = world.services.consents
    for uris, end in (([CASTE], None), ([], None), (None, consent.expires_us + 1), (None, 5)):
        with pytest.raises(UnacceptableContent):
            consents.narrow(world.asha, consent.consent_id, uris, end)
    narrowed = consents.narrow(world.asha, consent.consent_id, None, consent.expires_us - HOUR)
    assert (narrowed.revision, narrowed.expires_us) == (2, consent.expires_us - HOUR)


def test_another_resident_can_neither_see_nor_change_a_consent(on_sqlite) -> None:
    world = on_sqlite
    consent, other = world.consent(world.asha, INCOME), world.resident("9876500000")
    for call in (
        lambda: world.services.consents.narrow(other, consent.consent_id, None, consent.expires_us - 1),
        lambda: world.services.consents.revoke(other, consent.consent_id),
        lambda: world.services.consents.read(Principal("resident", other), consent.consent_id),
        lambda: world.services.consents.read(Principal("requester", "bank"), consent.consent_id),
        lambda: world.services.consents.read(Principal("node", "node-ap"), consent.consent_id),
        lambda: world.services.consents.artefact(Principal("requester", "bank"), consent.consent_id),
    ):
        with pytest.raises(NotFound):
            call()
    assert world.services.consents.read(Principal("requester", "university"), consent.consent_id).state == "active"


def test_revoking_twice_changes_nothing_and_a_revoked_consent_stays_so(on_sqlite) -> None:
    world = on_sqlite
    consent = world.consent(world.asha, INCOME)
    world.services.consents.revoke(world.asha, consent.consent_id)
    page = world.services.revocations.latest()
    again = world.services.consents.revoke(world.asha, consent.consent_id)
    assert (again.state, again.revision) == ("revoked", 2) and world.services.revocations.latest() == page
    with pytest.raises(Conflict):
        world.services.consents.narrow(world.asha, consent.consent_id, None, consent.expires_us - 1)


def test_a_change_is_published_in_the_same_transaction(given) -> None:
    consent = given.consent(given.asha, INCOME, CASTE)
    with pytest.raises(NotFound):
        given.services.revocations.latest()
    given.services.consents.narrow(given.asha, consent.consent_id, [INCOME], None)
    page = verify_page(given.services.revocations.latest(), given.keys.public)
    (entry,) = page.entries
    assert (page.sequence, entry.consent_id) == (1, consent.consent_id)


def test_states_are_told_as_they_are_and_can_be_filtered(on_sqlite) -> None:
    world = on_sqlite
    auditor = Principal("auditor", "a")
    revoked, expired, active = (world.consent(world.asha, INCOME) for _ in range(3))
    spent = world.consent(world.asha, INCOME, once=True, expires_us=world.clock() + DAY)
    world.services.consents.revoke(world.asha, revoked.consent_id)
    world.tickets(world.university, spent.consent_id, INCOME)
    world.services.consents.narrow(world.asha, expired.consent_id, None, world.clock() + SECOND)
    world.clock.offset = 2 * SECOND
    for state, consent in (("revoked", revoked), ("expired", expired), ("active", active), ("spent", spent)):
        rows, cursor = world.services.consents.list(auditor, state=state)
        assert ([row.consent_id for row in rows], cursor) == ([consent.consent_id], None), state
        assert rows[0].state == state


def test_lists_are_newest_first_by_pages_and_show_each_caller_the_own(on_sqlite) -> None:
    world = on_sqlite
    world.requester("bank")
    mine = [world.consent(world.asha, uri).consent_id for uri in (INCOME, CASTE, INCOME)]
    other = world.consent(world.asha, INCOME, client_id="bank").consent_id
    consents = world.services.consents
    seen, cursor = [], None
    while True:
        page, cursor = consents.list(Principal("auditor", "a"), cursor=cursor, limit=3)
        seen += [row.consent_id for row in page]
        if cursor is None:
            break
    assert seen == [other, *reversed(mine)]
    assert [c.consent_id for c in consents.list(Principal("requester", "bank"))[0]] == [other]
    assert [c.consent_id for c in consents.list(Principal("resident", world.asha), uri=CASTE.upper())[0]] == [mine[1]]
    assert consents.list(Principal("node", "node-ap"))[0] == []
    with pytest.raises(BadRequest):
        consents.list(Principal("auditor", "a"), cursor="x")


def test_twenty_threads_giving_consents_lose_none(on_sqlite, soak) -> None:
    """FC-18: no refusal for a locked database, and as many events as consents."""
    world, each = on_sqlite, soak.count(small=5, full=50)
    errors: list[BaseException] = []

    def give() -> None:
        try:
            for _ in range(each):
                world.consent(world.asha, INCOME)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=give) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with world.database.read() as session:
        positions = session.scalars(select(ConsentEvent.position).order_by(ConsentEvent.position)).all()
    assert len(positions) == 20 * each == len(set(positions))
