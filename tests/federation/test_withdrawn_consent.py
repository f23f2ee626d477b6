"""A consent is withdrawn while tickets under it are out (field case FC-26), also with two locker processes on PostgreSQL."""

import httpx
import pytest

from tests.federation.running import PartialRead, running_federation
from tests.federation.test_revocation import until_refused

BANK = "bank-of-example"
ANITA, ANITA2, LARGE = (f"in.gov.alpha-CERT-{name}" for name in ("anita", "anita2", "large"))
TRIES = 8
"""Each on a connection of its own, so that either of two processes may have it."""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, postgresql_server):
    options = ("--database-url", postgresql_server.create_database())
    folder = tmp_path_factory.mktemp("two-processes")
    with running_federation(folder, nodes=("alpha",), locker_options=options, workers=2) as made:
        assert len(made.children(made.locker, "locker.asgi")) == 2
        yield made


@pytest.fixture(params=["federation", "two_processes"])
def running(request):
    return request.getfixturevalue(request.param)


def fresh(running, method, path, **options):
    headers = {"authorization": f"Bearer {running.requesters[BANK]}", **options.pop("headers", {})}
    return httpx.request(method, f"{running.locker.url}/v1/{path}", headers=headers, timeout=60, **options)


def refused_everywhere(running, consent, uri, reason):
    """Every new request of the requester under the consent is refused at once, whichever process has it, and recorded."""
    before = len(running.attempts(consent_id=consent, uri=uri, reason=reason))
    for _ in range(TRIES):
        resolved = fresh(running, "POST", "resolve", json={"consent_id": consent, "uris": [uri]})
        outcomes = [row["outcome"] for row in resolved.json().get("results", [])]
        assert resolved.status_code == 403 or outcomes == ["refused"]
        for method in ("GET", "HEAD"):
            read = fresh(running, method, f"gateway/documents/{uri}", headers={"consent-id": consent})
            assert read.status_code == 403
            assert running.attempt_of(read)["reason"] == reason
    rows = running.attempts(consent_id=consent, uri=uri, reason=reason)[before:]
    assert [row["operation"] for row in rows] == ["resolve", "gateway", "gateway"] * TRIES
    assert {(row["outcome"], row["role"], row["subject"]) for row in rows} == {("refused", "requester", BANK)}


def test_withdrawing_acts_at_once_and_granting_again_revives_nothing(running):
    consent = running.consent("anita", BANK, ANITA, ANITA2, LARGE)
    before = running.resolve(BANK, consent, ANITA, ANITA2, LARGE)
    assert running.pull(before[0]).status_code == 200
    assert running.gateway(BANK, consent, ANITA).status_code == 200
    begun = PartialRead(
        f"{running.locker.url}/v1/gateway/documents/{LARGE}",
        {"authorization": f"Bearer {running.requesters[BANK]}", "consent-id": consent, "connection": "close"},
        100_000,
    )

    running.revoke("anita", consent)
    for uri in (ANITA, ANITA2):
        refused_everywhere(running, consent, uri, "revoked")
    assert running.own("anita", ANITA).status_code == 200  # it was never the requester's to lose
    # The stated rule: a download that had begun is not cut off.
    assert begun.rest() == running.alpha.documents[LARGE]
    running.alpha.place()
    _, asked = until_refused(running, before[0])
    assert [running.pull(granted).status_code for granted in before] == [401, 401, 401]

    again = running.consent("anita", BANK, ANITA, ANITA2, LARGE)
    (new,) = running.resolve(BANK, again, ANITA)
    assert running.pull(new).status_code == 200
    assert running.gateway(BANK, again, ANITA2).status_code == 200
    assert [running.pull(granted).status_code for granted in before] == [401, 401, 401]
    refused_everywhere(running, consent, ANITA, "revoked")

    (row,) = running.alpha.log_of(asked)
    assert (row["reason"], row["consent_id"], row["jti"]) == ("consent-revoked", consent, row["jti"])
    events = running.as_resident("anita", "GET", f"consents/{consent}/events").json()["events"]
    assert [event["kind"] for event in events][-1] == "revoked"


def test_narrowing_acts_in_the_same_way_on_what_is_left_out(running):
    consent = running.consent("anita", BANK, ANITA, ANITA2)
    first, second = running.resolve(BANK, consent, ANITA, ANITA2)
    running.narrow("anita", consent, ANITA2)
    refused_everywhere(running, consent, ANITA, "not-covered")
    for _ in range(TRIES):
        kept = fresh(running, "GET", f"gateway/documents/{ANITA2}", headers={"consent-id": consent})
        assert kept.content == running.alpha.documents[ANITA2]
    until_refused(running, first)
    (new,) = running.resolve(BANK, consent, ANITA2)
    assert running.pull(new).status_code == 200
    assert running.pull(first).status_code == 401
    # Tickets from before the change are void as a whole; the requester resolves again.
    assert running.pull(second).status_code == 401
