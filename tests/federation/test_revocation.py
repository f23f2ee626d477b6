"""Revoking and narrowing, from the resident to the node that refuses; and a man in the middle who holds the list back or replaces it."""

import re
import time
from dataclasses import replace

import pytest

from node.contract.identifiers import uuid7
from node.contract.revocation import RevocationEntry, RevocationPage, issue_page, page_digest
from node.contract.signing import REVOCATION, SigningKey, read_claims_unverified
from node.contract.times import HOUR, now_us
from tests.federation.between import Answer
from tests.federation.running import FRESHNESS_SECONDS, REVOCATION_POLL_SECONDS, eventually

BANK = "bank-of-example"
ANITA, ANITA2 = "in.gov.alpha-CERT-anita", "in.gov.alpha-CERT-anita2"
BOUND_SECONDS = REVOCATION_POLL_SECONDS + 2
MOST_PAGE = 1 << 20


def until_refused(federation, granted):
    """Pull until the node refuses; return the seconds that took and the request's id."""
    started = time.monotonic()
    while True:
        asked = uuid7()
        if federation.pull(granted, headers={"x-request-id": asked}).status_code == 401:
            return time.monotonic() - started, asked
        assert time.monotonic() - started < 30
        time.sleep(0.05)


def list_state(node):
    ((sequence, refusals, reason),) = node.select("SELECT list_sequence, list_refusals, list_refused FROM locker")
    return sequence, refusals, reason


def list_check(federation):
    checks = federation.client.get(f"{federation.alpha.url}/readyz").json()["checks"]
    (found,) = [row for row in checks if row["name"].startswith("locker ")]
    return found["result"]


def newest_page(federation):
    return federation.client.get(f"{federation.locker.url}/v1/revocations/latest").text


def page_answer(text):
    return Answer(200, {"Content-Type": "application/jwt"}, text.encode())


@pytest.fixture(autouse=True)
def list_is_followed_again(federation):
    yield
    federation.between.meddle = None
    eventually(lambda: list_check(federation) == "ok")


def test_narrowing_and_revoking_reach_the_node_within_the_bound(federation, record_property):
    consent = federation.consent("anita", BANK, ANITA, ANITA2)
    first, second = federation.resolve(BANK, consent, ANITA, ANITA2)
    assert [federation.pull(granted).status_code for granted in (first, second)] == [200, 200]
    federation.alpha.place()

    federation.narrow("anita", consent, ANITA2)
    seconds, asked = until_refused(federation, first)
    record_property("narrowed_seconds", round(seconds, 2))
    assert seconds <= BOUND_SECONDS
    (row,) = federation.alpha.log_of(asked)
    assert (row["outcome"], row["reason"], row["uri"]) == ("refused", "consent-revoked", ANITA)

    (again,) = federation.resolve(BANK, consent, ANITA2)
    assert federation.pull(again).status_code == 200
    federation.revoke("anita", consent)
    seconds, asked = until_refused(federation, again)
    record_property("revoked_seconds", round(seconds, 2))
    assert seconds <= BOUND_SECONDS
    (row,) = federation.alpha.log_of(asked)
    assert (row["outcome"], row["reason"], row["consent_id"]) == ("refused", "consent-revoked", consent)


def refused_page(federation, meddle, reason):
    """Let pages be meddled with until the node has refused one for a reason; what it knew stays."""
    sequence, before, _ = list_state(federation.alpha)
    with federation.between.meddling(meddle):
        eventually(lambda: list_state(federation.alpha)[1] > before)
        assert list_state(federation.alpha)[0] == sequence
        assert list_state(federation.alpha)[2] == reason


def test_an_older_page_replayed_as_the_newest_is_refused(federation):
    consent = federation.consent("anita", BANK, ANITA)
    (granted,) = federation.resolve(BANK, consent, ANITA)
    older = newest_page(federation)
    federation.revoke("anita", consent)
    until_refused(federation, granted)
    # The page is this locker's and well signed; only its place in the list is wrong.
    refused_page(
        federation,
        lambda request, forward: page_answer(older) if "/revocations/" in request.path else forward(),
        "rollback",
    )
    assert federation.pull(granted).status_code == 401


def test_a_page_left_out_is_refused_and_made_up_for(federation):
    consent = federation.consent("anita", BANK, ANITA)
    (granted,) = federation.resolve(BANK, consent, ANITA)
    sequence, before, _ = list_state(federation.alpha)
    known = federation.client.get(f"{federation.locker.url}/v1/revocations/{sequence}").text

    def leave_out(request, forward):
        """Show what the node knows until there are two newer pages, then the newest of them without the one between."""
        if not request.path.endswith("/latest"):
            return Answer(404) if "/revocations/" in request.path else forward()
        newest = forward()
        ahead = read_claims_unverified(newest.content.decode(), max_size=MOST_PAGE)["seq"] - sequence
        return newest if ahead >= 2 else page_answer(known)

    with federation.between.meddling(leave_out):
        federation.revoke("anita", consent)
        eventually(lambda: list_state(federation.alpha)[1] > before)
        assert list_state(federation.alpha)[2] == "gap"
        assert list_state(federation.alpha)[0] == sequence
        assert federation.pull(granted).status_code == 200
    assert until_refused(federation, granted)[0] <= BOUND_SECONDS
    assert list_state(federation.alpha)[0] > sequence


def forged(federation, **changes):
    """Make a page that would follow the node's, signed with a key that is not the locker's."""
    last = RevocationPage.from_claims(read_claims_unverified(newest_page(federation), max_size=MOST_PAGE))
    page = replace(
        last, sequence=last.sequence + 1, previous=page_digest(newest_page(federation)), issued_us=now_us(),
        next_update_us=now_us() + HOUR, **changes,
    )  # fmt: skip
    return issue_page(page, SigningKey.generate(REVOCATION))


def test_a_forged_page_is_refused_and_voids_nothing(federation):
    consent = federation.consent("anita", BANK, ANITA)
    (granted,) = federation.resolve(BANK, consent, ANITA)
    page = forged(federation, entries=(RevocationEntry(consent, now_us() + HOUR),))
    refused_page(
        federation,
        lambda request, forward: page_answer(page) if "/revocations/" in request.path else forward(),
        "unknown-key",
    )
    assert federation.pull(granted).status_code == 200


def test_a_list_that_is_held_back_shows_as_stale(federation):
    sequence, _, _ = list_state(federation.alpha)
    blocked = re.compile(r"/v1/revocations/")

    def block(request, forward):
        return Answer(503) if blocked.match(request.path) else forward()

    assert list_check(federation) == "ok"
    with federation.between.meddling(block):
        eventually(lambda: list_check(federation) == "failed", FRESHNESS_SECONDS + 15)
        assert federation.client.get(f"{federation.alpha.url}/readyz").status_code == 503
        assert list_state(federation.alpha)[0] >= sequence
    eventually(lambda: list_check(federation) == "ok")
