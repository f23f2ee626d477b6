"""A locker's root: pinned by registering, believed against the locker itself, and the only key that revokes the locker's keys."""

import json

import pytest

from node.cli.checks import _check_root
from node.contract.key_revocation import root_fingerprint
from node.contract.revocation import RevocationEntry
from node.contract.signing import REVOCATION, REVOKED_KEYS, TICKET, KeySet, SigningKey, VerifyingKey, sign
from node.contract.times import MINUTE, now_us
from node.db.lockers import void_moments
from node.services.locker_client import LockerFault
from node.services.locker_lists import ListReport
from node.services.locker_roots import KeyListReport, RootRefused
from node.services.verifying import stored_keys

NOW = now_us()


@pytest.fixture
def joined(side, locker):
    side.join(locker)
    return side


def found(side, locker):
    (finding, *more) = _check_root(locker.iss, side.lockers.root(locker.iss))
    return [(row.ok, row.text) for row in (finding, *more)]


def name(root):
    return root_fingerprint(root.public)


def test_registering_pins_the_root_and_says_its_fingerprint(side, locker):
    side.offer_type()
    registered = side.registration.register(locker.iss)
    assert registered.root_fingerprint == name(locker.root)
    assert json.loads(side.lockers.root(locker.iss).pinned) == locker.root.public.jwk()
    assert found(side, locker) == [(True, f"{name(locker.root)} is pinned; it has revoked 0 keys")]


def test_an_operator_who_knows_the_fingerprint_takes_no_other(side, locker):
    side.offer_type()
    with pytest.raises(RootRefused, match="does not show"):
        side.registration.register(locker.iss, name(SigningKey.generate(REVOKED_KEYS)))
    assert side.lockers.find(locker.iss) is None and not locker.claims
    assert side.registration.register(locker.iss, name(locker.root).upper()).state == "pending"


@pytest.mark.parametrize("shown", ["another", "none"])
def test_a_locker_that_shows_another_root_is_believed_in_nothing_new(joined, locker, shown):
    first, before = locker.root, joined.lockers.find(locker.iss).jwks
    locker.root = SigningKey.generate(REVOKED_KEYS) if shown == "another" else None
    locker.signing[TICKET] = SigningKey.generate(TICKET)
    joined.ahead_us = 2 * MINUTE
    with pytest.raises(RootRefused):
        joined.lists.refresh_keys(locker.iss)
    assert joined.lockers.find(locker.iss).jwks == before
    joined.ahead_us = 4 * MINUTE
    assert joined.lists.try_refresh_keys(locker.iss) is False
    with pytest.raises(RootRefused, match="--accept-root"):
        joined.registration.register(locker.iss)
    ((ok, text),) = found(joined, locker)
    assert ok is False and name(first) in text and (shown == "none" or name(locker.root) in text)
    locker.root = first
    joined.ahead_us = 6 * MINUTE
    assert joined.lists.refresh_keys(locker.iss) is True
    assert found(joined, locker)[0][0] is True


def test_a_new_root_is_accepted_by_its_fingerprint_and_frees_no_key(joined, locker):
    stolen = locker.signing[TICKET].kid
    locker.revoke_keys(5, stolen)
    assert joined.roots.follow(locker.iss) == KeyListReport(frozenset({stolen}))
    locker.root = SigningKey.generate(REVOKED_KEYS)
    locker.revoke_keys(1)
    assert joined.roots.follow(locker.iss).refused == "unknown-key"
    assert joined.registration.register(locker.iss, name(locker.root)).root_fingerprint == name(locker.root)
    assert joined.roots.follow(locker.iss) == KeyListReport()
    root = joined.lockers.root(locker.iss)
    assert (root.list_sequence, root.revoked, root.list_refused) == (1, {stolen}, None)


def test_a_locker_that_had_no_root_when_it_registered_is_asked_about(side, locker):
    root, locker.root = locker.root, None
    side.join(locker)
    assert found(side, locker)[0] == (
        None,
        "none is pinned, so a stolen key of this locker cannot be revoked here.",
    )
    locker.root = root
    locker.revoke_keys(1, "x")
    side.ahead_us = 2 * MINUTE
    assert side.lists.refresh_keys(locker.iss) is False
    assert side.lockers.root(locker.iss).pinned is None, "only an operator who registers pins"
    assert side.roots.follow(locker.iss) == KeyListReport()
    with pytest.raises(LockerFault, match="no root"):
        side.roots.take(locker.iss, locker.key_list.encode())
    ((ok, text),) = found(side, locker)
    assert ok is None and name(root) in text
    side.ahead_us = 0
    side.registration.register(locker.iss)
    assert side.roots.follow(locker.iss).revoked == {"x"}


def test_lists_are_taken_once_and_only_grow(joined, locker):
    assert joined.roots.follow(locker.iss) == KeyListReport()
    locker.revoke_keys(1, "a")
    assert joined.roots.follow(locker.iss) == KeyListReport(frozenset({"a"}))
    assert joined.roots.follow(locker.iss) == KeyListReport()
    locker.revoke_keys(9, "b")
    assert joined.roots.follow(locker.iss) == KeyListReport(frozenset({"b"}))
    assert joined.lockers.root(locker.iss).revoked == {"a", "b"}
    assert joined.roots.follow("https://unknown.example") == KeyListReport()


@pytest.mark.parametrize("kind", ["rollback", "fork", "gone", "stranger", "ticket-key", "other-iss", "garbage", "typ"])
def test_a_list_that_is_not_the_next_one_of_the_root_is_refused(joined, locker, kind):
    locker.revoke_keys(3, "a")
    joined.roots.follow(locker.iss)
    known, reason = locker.key_list, kind
    if kind == "rollback":
        locker.revoke_keys(2, "a", "b")
    elif kind == "fork":
        locker.revoke_keys(3, "a", "b")
    elif kind == "gone":
        locker.key_list, reason = None, "rollback"
    elif kind == "stranger":
        locker.revoke_keys(4, root=SigningKey.generate(REVOKED_KEYS))
        reason = "unknown-key"
    elif kind == "ticket-key":
        key = locker.signing[TICKET]
        locker.revoke_keys(4, root=SigningKey(REVOKED_KEYS, key.key, key.kid))
        reason = "unknown-key"
    elif kind == "other-iss":
        locker.revoke_keys(4, iss="https://other.example")
        reason = "other-locker"
    elif kind == "garbage":
        locker.key_list, reason = "é", "malformed"
    elif kind == "typ":
        locker.key_list = sign({"iss": locker.iss}, SigningKey(REVOCATION, locker.root.key, locker.root.kid))
        reason = "wrong-typ"
    assert joined.roots.follow(locker.iss) == KeyListReport(refused=reason)
    root = joined.lockers.root(locker.iss)
    assert (root.list_sequence, root.revoked, root.list_refused) == (3, {"a"}, reason)
    assert found(joined, locker)[-1][0] is False
    locker.key_list = known
    assert joined.roots.follow(locker.iss) == KeyListReport()
    assert joined.lockers.root(locker.iss).list_refused is None, "the locker publishes again what is known"
    locker.key_list = None
    joined.roots.follow(locker.iss)
    locker.revoke_keys(4, "a")
    joined.roots.follow(locker.iss)
    assert joined.lockers.root(locker.iss).list_refused is None


def test_another_process_that_was_faster_is_not_undone(joined, locker):
    locker.revoke_keys(1, "a")
    before = joined.lockers.root(locker.iss)
    joined.roots.follow(locker.iss)
    assert joined.lockers.take_key_list(locker.iss, before, sequence=2, digest="0" * 64, kids=["b"]) is False
    assert joined.lockers.root(locker.iss).revoked == {"a"}


def test_a_published_set_of_an_attacker_without_the_root_frees_no_revoked_key(joined, locker):
    stolen = locker.signing[TICKET]
    locker.revoke_keys(1, stolen.kid)
    joined.roots.follow(locker.iss)
    # The attacker publishes the stolen key again, under another name too, a list that revokes nothing, and a root of his own.
    locker.signing = {
        "again": stolen,
        "renamed": SigningKey(TICKET, stolen.key, "fresh-and-clean"),
        REVOCATION: locker.signing[REVOCATION],
    }
    joined.ahead_us = 2 * MINUTE
    joined.lists.refresh_keys(locker.iss)
    locker.revoke_keys(2, root=SigningKey.generate(REVOKED_KEYS))
    assert joined.roots.follow(locker.iss).refused == "unknown-key"
    row = joined.lockers.find(locker.iss)
    keys = stored_keys(row.jwks, row.revoked_keys)
    assert keys.get("fresh-and-clean") is not None
    assert keys.is_revoked(stolen.kid) and keys.is_revoked("fresh-and-clean")


def known(side, locker, *consents):
    row = side.lockers.find(locker.iss)
    with side.database.reading() as connection:
        moments = void_moments(connection, [(locker.iss, consent) for consent in consents])
    return row.list_sequence, {consent for _, consent in moments}


def test_pages_under_a_revoked_key_are_refused_and_the_list_is_begun_anew_behind_them(joined, locker):
    locker.publish(("a", NOW))
    joined.lists.follow(locker.iss)
    stolen = locker.signing[REVOCATION]
    locker.publish(("forged", NOW))
    locker.revoke_keys(1, stolen.kid)
    joined.roots.follow(locker.iss)
    assert joined.lists.follow(locker.iss) == ListReport(refused="key-revoked")
    # The locker goes on with a new key, says all that is alive once more, and lets readers begin there.
    locker.signing[REVOCATION] = SigningKey.generate(REVOCATION)
    locker.horizon = 3
    locker.publish(("a", NOW), ("b", NOW))
    joined.ahead_us = 2 * MINUTE
    assert joined.lists.follow(locker.iss) == ListReport(1)
    assert known(joined, locker, "a", "b", "forged") == (3, {"a", "b"})
    locker.publish(("c", NOW))
    assert joined.lists.follow(locker.iss) == ListReport(1)
    assert joined.lists.follow(locker.iss) == ListReport()


def test_a_node_that_took_a_thief_s_page_comes_back(joined, locker):
    locker.publish(("a", NOW))
    stolen = locker.signing[REVOCATION]
    # The thief had this node take a page of his own, with a number that the locker will not reach.
    joined.lockers.take_page(
        joined.lockers.find(locker.iss), sequence=10**6, digest="f" * 64, issued_us=NOW, next_update_us=NOW,
        entries=[RevocationEntry("x", NOW)], prune_before_us=0, kid=stolen.kid,
    )  # fmt: skip
    assert joined.lists.follow(locker.iss).refused == "rollback"
    locker.revoke_keys(1, stolen.kid)
    joined.roots.follow(locker.iss)
    locker.signing[REVOCATION] = SigningKey.generate(REVOCATION)
    locker.horizon = 2
    locker.publish(("a", NOW))
    joined.ahead_us = 2 * MINUTE
    assert joined.lists.follow(locker.iss) == ListReport(1)
    assert known(joined, locker, "a") == (2, {"a"})


def test_a_key_set_knows_revoked_keys_by_thumbprint():
    key = SigningKey.generate(TICKET)
    renamed = VerifyingKey("other", TICKET, key.public.key)
    assert not KeySet([key.public]).is_revoked(key.kid)
    assert KeySet([renamed], [key.kid]).is_revoked("other")
    assert KeySet([], [key.kid]).is_revoked(key.kid)
