"""Following a locker's revocation list and keys: every way of holding something back shows, and nothing known is forgotten."""

import pytest

from node.contract.problems import ProblemError
from node.contract.revocation import HORIZON_AGE
from node.contract.signing import REVOCATION, TICKET, SigningKey
from node.contract.times import HOUR, MINUTE, SECOND, now_us
from node.db.lockers import void_moments
from node.services.locker_client import LockerFault
from node.services.locker_lists import ListReport

NOW = now_us()


@pytest.fixture
def joined(side, locker):
    side.join(locker)
    return side


def known(side, locker):
    row = side.lockers.find(locker.iss)
    pairs = [(locker.iss, name) for name in ("a", "b", "c", "old")]
    with side.database.reading() as connection:
        moments = void_moments(connection, pairs)
    return row.list_sequence, {consent: moment for (_, consent), moment in moments.items()}


def test_before_the_first_page_there_is_nothing(joined, locker):
    assert joined.lists.follow(locker.iss) == ListReport()
    assert joined.lists.follow("https://unknown.example") == ListReport()
    assert known(joined, locker) == (0, {})


def test_pages_are_taken_one_after_the_other_and_moments_only_grow(joined, locker):
    locker.publish(("a", NOW - 5))
    assert joined.lists.follow(locker.iss) == ListReport(1)
    locker.publish(("a", NOW - 9), ("b", NOW - 3))
    locker.publish()
    locker.publish(("b", NOW - 1), ("c", NOW - 2), ("c", NOW - 8))
    assert joined.lists.follow(locker.iss) == ListReport(3)
    assert known(joined, locker) == (4, {"a": NOW - 5, "b": NOW - 1, "c": NOW - 2})
    row = joined.lockers.find(locker.iss)
    assert row.list_issued_us <= now_us() < row.list_next_update_us
    assert joined.lists.follow(locker.iss) == ListReport()


def test_the_first_look_begins_at_the_horizon(joined, locker):
    locker.publish(("old", NOW - HORIZON_AGE + HOUR))
    locker.publish(("a", NOW - 5))
    locker.horizon = 2
    locker.publish(("b", NOW - 4))
    locker.requests.clear()
    assert joined.lists.follow(locker.iss) == ListReport(2)
    assert known(joined, locker) == (3, {"a": NOW - 5, "b": NOW - 4})
    assert ("GET", "/v1/revocations/1") not in locker.requests


def test_entries_are_pruned_when_no_ticket_can_be_alive(joined, locker):
    locker.publish(("old", NOW - HORIZON_AGE + HOUR), ("a", NOW))
    joined.lists.follow(locker.iss)
    assert known(joined, locker)[1].keys() == {"old", "a"}
    joined.ahead_us = 2 * HOUR
    locker.publish()
    joined.lists.follow(locker.iss)
    assert known(joined, locker)[1].keys() == {"a"}


def refused(side, locker, reason, before):
    counted = side.lockers.find(locker.iss).list_refusals
    assert side.lists.follow(locker.iss).refused == reason
    row = side.lockers.find(locker.iss)
    assert (row.list_refusals, row.list_refused) == (counted + 1, reason)
    assert known(side, locker) == before


def test_an_older_page_replayed_as_the_newest_is_refused(joined, locker):
    for name in ("a", "b", "c"):
        locker.publish((name, NOW))
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    locker.latest = 2
    refused(joined, locker, "rollback", before)
    locker.latest = None
    locker.publish()
    assert joined.lists.follow(locker.iss) == ListReport(1)
    assert joined.lockers.find(locker.iss).list_refused is None


def test_an_older_page_in_the_place_of_a_newer_is_refused(joined, locker):
    locker.publish(("a", NOW))
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    locker.publish(("b", NOW))
    locker.publish(("c", NOW))
    locker.pages[1] = locker.pages[0]
    refused(joined, locker, "rollback", before)


def test_a_fork_is_refused_at_its_root_and_at_the_newest_page(joined, locker):
    locker.publish(("a", NOW))
    locker.publish(("b", NOW))
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    real = locker.pages.pop()
    locker.publish()  # another second page, signed and linked properly
    refused(joined, locker, "broken-link", before)
    locker.publish(("c", NOW))
    refused(joined, locker, "broken-link", before)
    locker.pages[1:] = [real]
    locker.publish(("c", NOW))
    assert joined.lists.follow(locker.iss) == ListReport(1)


def test_a_gap_is_refused(joined, locker):
    locker.publish(("a", NOW))
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    locker.publish(("b", NOW))
    locker.publish(("c", NOW))
    hidden = locker.pages[1]
    locker.pages[1] = locker.pages[2]
    refused(joined, locker, "gap", before)
    locker.pages[1] = hidden
    assert joined.lists.follow(locker.iss) == ListReport(2)


@pytest.mark.parametrize("kind", ["ticket-key", "stranger", "other-iss", "garbage", "dated-back"])
def test_a_page_that_is_not_the_locker_s_is_refused(joined, locker, kind):
    locker.publish(("a", NOW))
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    true_key = locker.signing[REVOCATION]
    changes = {}
    if kind == "ticket-key":
        key = locker.signing[TICKET]
        locker.signing[REVOCATION] = SigningKey(REVOCATION, key.key, key.kid)
    elif kind == "stranger":
        locker.signing[REVOCATION] = SigningKey.generate(REVOCATION)
    elif kind == "other-iss":
        changes["iss"] = "https://other.example"
    elif kind == "dated-back":
        changes["issued_us"] = NOW - HOUR
    locker.publish(("b", NOW), **changes)
    locker.signing[REVOCATION] = true_key
    if kind == "garbage":
        locker.pages[-1] = locker.pages[-1][:-8] + "AAAAAAAA"
    joined.ahead_us = 2 * MINUTE  # the keys may be fetched again, and have not changed
    report = joined.lists.follow(locker.iss)
    assert report.taken == 0
    assert report.refused in {"key-purpose", "unknown-key", "other-locker", "bad-signature", "rollback"}
    assert known(joined, locker) == before


def test_a_list_that_is_held_back_grows_old_and_is_kept(joined, locker):
    locker.publish(("a", NOW), next_update_us=now_us() + MINUTE)
    joined.lists.follow(locker.iss)
    before = known(joined, locker)
    locker.faults = [503]
    with pytest.raises((LockerFault, ProblemError)):
        joined.lists.follow(locker.iss)
    joined.ahead_us = 2 * MINUTE
    assert joined.lists.follow(locker.iss) == ListReport()  # the same page again and again
    assert joined.lockers.find(locker.iss).list_next_update_us < joined.clock()
    locker.pages.clear()
    refused(joined, locker, "rollback", before)


def test_a_new_key_is_fetched_for_a_page_and_floods_of_unknown_keys_are_not_followed(joined, locker):
    locker.publish(("a", NOW))
    joined.lists.follow(locker.iss)
    locker.signing[REVOCATION] = SigningKey.generate(REVOCATION)
    locker.publish(("b", NOW))
    assert joined.lists.follow(locker.iss).refused == "unknown-key"  # the keys were fetched less than a minute ago
    joined.ahead_us = MINUTE + 1
    assert joined.lists.follow(locker.iss) == ListReport(1)
    locker.requests.clear()
    assert [joined.lists.refresh_keys(locker.iss) for _ in range(5)] == [False] * 5
    assert locker.requests == []


def test_changed_keys_are_told_and_a_locker_that_is_away_changes_nothing(joined, locker, monkeypatch):
    joined.ahead_us = 2 * MINUTE
    assert joined.lists.refresh_keys(locker.iss) is False
    locker.signing[TICKET] = SigningKey.generate(TICKET)
    joined.ahead_us = 4 * MINUTE
    assert joined.lists.refresh_keys(locker.iss) is True
    stored = joined.lockers.find(locker.iss).jwks
    assert locker.signing[TICKET].kid in stored
    monkeypatch.setattr(locker, "_get_jwks", lambda *_: (200, {"keys": ["x" * 300_000]}))
    joined.ahead_us = 6 * MINUTE
    assert joined.lists.try_refresh_keys(locker.iss) is False
    assert joined.lockers.find(locker.iss).jwks == stored
    assert joined.lists.refresh_keys("https://unknown.example") is False


@pytest.mark.parametrize("seconds", [1, 59])
def test_a_clock_that_is_a_little_behind_another_process_s_gives_no_second_look(joined, locker, seconds):
    joined.ahead_us = 2 * MINUTE
    joined.lists.refresh_keys(locker.iss)
    assert locker.requests
    locker.requests.clear()
    joined.ahead_us -= seconds * SECOND
    joined.lists.refresh_keys(locker.iss)
    assert locker.requests == []


def test_a_clock_that_was_set_right_does_not_keep_from_looking(joined, locker):
    joined.ahead_us = 24 * HOUR
    joined.lists.refresh_keys(locker.iss)
    locker.requests.clear()
    joined.ahead_us = 0
    joined.lists.refresh_keys(locker.iss)
    assert locker.requests
