"""Changing keys: published before use, kept while needed, and whole whatever moment a command is killed at."""

import json
import os
import stat

import pytest

from locker import rotation
from locker.keys import KeyMoments, KeysRefused, create_keys, load_keys, load_moments, save_moments
from locker.rotation import CannotRotate, drop, list_keys, rotate
from node.contract.sealing import CannotOpen
from node.contract.signing import CONSENT, LOG_GRANT, PULL, REVOCATION, TICKET, KeySet, SigningKey
from node.contract.times import DAY, HOUR, MINUTE, now_us

NOW = now_us()
SIGNING = {"ticket": TICKET, "consent": CONSENT, "revocation": REVOCATION, "pull": PULL, "log-grant": LOG_GRANT}


@pytest.fixture
def folder(tmp_path):
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


def states(folder, purpose, now):
    return {row.kid: row.state for row in list_keys(folder, now) if row.purpose == purpose}


@pytest.mark.parametrize("purpose", SIGNING)
def test_a_new_key_is_published_first_and_used_after_the_wait(folder, purpose):
    typ = SIGNING[purpose]
    before = load_keys(folder)
    old = before.signing[typ].kid
    assert states(folder, purpose, NOW) == {old: "in use"}
    step = rotate(folder, purpose, NOW)
    assert (step.state, step.ready_us) == ("published next", NOW + 5 * MINUTE)
    keys = load_keys(folder)
    assert keys.signing[typ].kid == old
    assert keys.published(NOW).get(step.kid).typ == typ
    with pytest.raises(CannotRotate, match="4 minutes ago"):
        rotate(folder, purpose, NOW + 5 * MINUTE - 1)
    assert load_keys(folder).signing[typ].kid == old
    used = rotate(folder, purpose, NOW + 5 * MINUTE)
    assert (used.state, used.kid) == ("in use", step.kid)
    keys = load_keys(folder)
    assert keys.signing[typ].kid == step.kid
    assert states(folder, purpose, NOW + 6 * MINUTE) == {step.kid: "in use", old: "old, still published"}
    assert keys.published(NOW + HOUR + 5 * MINUTE - 1).get(old) is not None
    kept = keys.published(NOW + 400 * DAY).get(old) is not None
    assert kept == (purpose in ("consent", "revocation"))
    assert len(keys.published(NOW).jwks()["keys"]) == 6
    others = {typ: key.kid for typ, key in before.signing.items()} | {typ: step.kid}
    assert {typ: key.kid for typ, key in keys.signing.items()} == others


def test_with_now_the_new_key_signs_at_once_and_a_published_one_is_taken(folder):
    step = rotate(folder, "ticket", NOW)
    assert rotate(folder, "ticket", NOW + 1, at_once=True).kid == step.kid
    another = rotate(folder, "ticket", NOW + 2, at_once=True)
    assert another.kid not in (step.kid, None) and load_keys(folder).signing[TICKET].kid == another.kid
    assert states(folder, "ticket", NOW + 3)[step.kid] == "old, still published"


def test_keys_whose_tokens_have_ended_are_forgotten_at_the_next_change(folder):
    first = load_keys(folder).signing[TICKET].kid
    rotate(folder, "ticket", NOW, at_once=True)
    assert states(folder, "ticket", NOW + HOUR)[first] == "ended"
    rotate(folder, "ticket", NOW + HOUR, at_once=True)
    assert first not in load_moments(folder)


def test_every_file_is_private_and_nothing_is_left_over(folder):
    for purpose in rotation.PURPOSES:
        rotate(folder, purpose, NOW, at_once=True)
        rotate(folder, purpose, NOW)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 6 * 2 + 1 + 1 + 1
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((folder / "holder-opening.old").stat().st_mode) == 0o700
    assert not [path for path in files if path.name.endswith(".new")]
    secrets = [path for path in files if b"PRIVATE" in path.read_bytes()]
    assert folder / "rotation.json" not in secrets


def test_an_opening_key_is_understood_before_values_are_sealed_to_it_and_long_after(folder):
    before = load_keys(folder)
    sealed = before.opening.public.seal(b"value", "x")
    step = rotate(folder, "holder-opening", NOW)
    keys = load_keys(folder)
    assert [row["kid"] for row in keys.encryption_keys] == [before.opening.kid, step.kid]
    assert keys.opening_key(step.kid).kid == step.kid
    rotate(folder, "holder-opening", NOW + 5 * MINUTE)
    keys = load_keys(folder)
    assert [row["kid"] for row in keys.encryption_keys] == [step.kid]
    assert keys.opening_key(before.opening.kid).open(sealed, "x") == keys.open_own(sealed, "x") == b"value"
    assert keys.opening_key("unknown") is None
    assert states(folder, "holder-opening", NOW + DAY)[before.opening.kid] == "old, still published"
    with pytest.raises(CannotRotate, match="nodes may still hold"):
        drop(folder, before.opening.kid, NOW + 29 * DAY)
    drop(folder, before.opening.kid, NOW + 31 * DAY)
    keys = load_keys(folder)
    assert keys.opening_key(before.opening.kid) is None
    with pytest.raises(CannotOpen):
        keys.open_own(sealed, "x")


def test_what_is_not_to_be_dropped_is_not(folder):
    keys = load_keys(folder)
    for purpose, typ in SIGNING.items():
        with pytest.raises(CannotRotate, match="in use"):
            drop(folder, keys.signing[typ].kid, NOW, early=True)
        rotate(folder, purpose, NOW, at_once=True)
        with pytest.raises(CannotRotate, match="--now"):
            drop(folder, keys.signing[typ].kid, NOW + MINUTE)
        assert load_keys(folder).public.get(keys.signing[typ].kid) is not None
        drop(folder, keys.signing[typ].kid, NOW + MINUTE, early=True)
        assert load_keys(folder).public.get(keys.signing[typ].kid) is None
    with pytest.raises(CannotRotate, match="no such key"):
        drop(folder, keys.signing[TICKET].kid, NOW)


def test_old_keys_may_be_dropped_once_nothing_needs_them(folder):
    keys = load_keys(folder)
    for purpose in ("ticket", "revocation"):
        rotate(folder, purpose, NOW, at_once=True)
        drop(folder, keys.signing[SIGNING[purpose]].kid, NOW + 26 * HOUR)
    rotate(folder, "consent", NOW, at_once=True)
    with pytest.raises(CannotRotate, match="artefacts"):
        drop(folder, keys.signing[CONSENT].kid, NOW + 4000 * DAY)


def test_a_begun_change_can_be_given_up(folder):
    step = rotate(folder, "pull", NOW)
    drop(folder, step.kid, NOW + MINUTE)
    assert load_keys(folder).published(NOW).get(step.kid) is None
    assert rotate(folder, "pull", NOW + 2 * MINUTE).kid != step.kid


def test_the_reference_key_stays_and_says_why(folder):
    with pytest.raises(CannotRotate, match="never be found again"):
        rotate(folder, "holder-reference", NOW)


@pytest.mark.parametrize("purpose", rotation.PURPOSES)
@pytest.mark.parametrize("known", [False, True])
def test_another_key_takes_the_place_of_one_whose_file_was_lost(folder, purpose, known):
    if known:
        rotate(folder, purpose, NOW, at_once=True)
    keys = load_keys(folder)
    lost = (keys.signing[SIGNING[purpose]] if purpose in SIGNING else keys.opening).kid
    (folder / f"{purpose}.pem").unlink()
    with pytest.raises(KeysRefused, match=f"{purpose}.pem is not there.*locker keys rotate {purpose} --now"):
        load_keys(folder)
    shown = {kid for kid, state in states(folder, purpose, NOW).items() if state == "lost"}
    assert shown == {lost if known else "unknown"}
    with pytest.raises(CannotRotate):
        drop(folder, *shown, NOW, early=True)
    made = rotate(folder, purpose, NOW + MINUTE, at_once=True)
    keys = load_keys(folder)
    assert (keys.signing[SIGNING[purpose]] if purpose in SIGNING else keys.opening).kid == made.kid
    assert states(folder, purpose, NOW + MINUTE)[made.kid] == "in use"
    # What is known of a lost key's public half goes on: what it signed is still about.
    assert (keys.published(NOW + MINUTE).get(lost) is not None) == (known and purpose in SIGNING)


def test_no_more_keys_are_published_than_a_node_reads(folder):
    """Nodes refuse a JWKS of more than 100 keys as a whole, and would learn of no new ticket key any more."""
    old = [SigningKey.generate(CONSENT).public for _ in range(84)]
    save_moments(folder, {key.kid: KeyMoments(key.kid, "consent", key.jwk(), 1, 1, 2) for key in old})
    rotate(folder, "ticket", NOW)
    with pytest.raises(CannotRotate, match="90 keys are published"):
        rotate(folder, "pull", NOW)
    assert rotate(folder, "ticket", NOW + 5 * MINUTE).state == "in use", "what was begun is ended"
    assert rotate(folder, "pull", NOW, at_once=True).state == "in use", "a theft does not wait"
    assert len(KeySet.from_jwks(load_keys(folder).published(NOW).jwks())) == 91
    drop(folder, old[0].kid, NOW, early=True)
    drop(folder, old[1].kid, NOW, early=True)
    rotate(folder, "pull", NOW)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("purpose", ["ticket", "holder-opening"])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_command_that_is_killed_anywhere_leaves_keys_that_work_and_can_be_run_again(
    folder, monkeypatch, purpose, at_once
):
    """Each durable step is the last one once: the keys load, the key in use is known, and the same command ends the change."""
    for cut in range(1, 40):
        steps = 0

        def counted(number, real=os.fsync, cut=cut):
            nonlocal steps
            steps += 1
            if steps == cut:
                raise Killed
            real(number)

        before = load_keys(folder)
        sealed = before.opening.public.seal(b"value", "x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", counted)
            try:
                rotate(folder, purpose, NOW + cut * DAY, at_once=at_once)
                break
            except Killed:
                pass
        between = load_keys(folder)
        assert between.open_own(sealed, "x") == b"value"
        published = between.published(NOW + cut * DAY)
        assert published.get(before.signing[TICKET].kid) and published.get(between.signing[TICKET].kid)
        list_keys(folder, NOW + cut * DAY)
        again = rotate(folder, purpose, NOW + cut * DAY, at_once=True)
        after = load_keys(folder)
        assert again.kid in (after.signing[TICKET].kid, after.opening.kid)
        assert after.published(NOW + cut * DAY).get(before.signing[TICKET].kid)
        assert after.open_own(sealed, "x") == b"value"
    assert cut > 4, "the steps were cut"


def test_a_damaged_record_of_changes_stops_the_start(folder):
    rotate(folder, "ticket", NOW, at_once=True)
    path = folder / "rotation.json"
    document = json.loads(path.read_text())
    good = path.read_text()
    rows = [row for row in document["keys"] if row["retired_us"]]
    rows[0]["jwk"]["kid"] = "another"
    path.write_text(json.dumps(document))
    with pytest.raises(KeysRefused, match=r"rotation\.json"):
        load_keys(folder)
    path.write_text(good.replace('"purpose"', '"use"'))
    with pytest.raises(KeysRefused, match=r"rotation\.json"):
        load_keys(folder)
