"""The offline root: made once, kept elsewhere, and what it revokes stays revoked."""

import json
import stat

import pytest

from locker.keys import KeysRefused, create_keys, load_keys, load_root, save_root
from locker.roots import RootUnusable, create_root, is_encrypted, open_root, publish, revoke
from locker.rotation import list_keys, rotate
from node.contract.key_revocation import (
    KeyListRefused,
    KeyRevocationList,
    RevokedKey,
    issue_key_list,
    verify_key_list,
)
from node.contract.signing import CONSENT, REVOKED_KEYS, TICKET, SignatureRefused, SigningKey
from node.contract.times import DAY, SECOND, now_us

ISS = "https://locker.example"
NOW = now_us()


@pytest.fixture
def folder(tmp_path):
    create_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def file(folder, tmp_path):
    create_root(folder, tmp_path / "root.pem", None, iss=ISS, now_us=NOW)
    return tmp_path / "root.pem"


def stop(folder, file, *kids, now=NOW, **more):
    return revoke(folder, open_root(file, None), kids, "compromised", iss=ISS, now_us=now, **more)


def test_the_private_half_is_in_the_file_alone(folder, file):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    root = open_root(file, None)
    assert load_keys(folder).root.key.kid == root.kid
    secret = root.key.private_bytes_raw()
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix == ".json":
            assert secret.hex() not in path.read_bytes().hex() and b"PRIVATE" not in path.read_bytes()
    assert load_keys(folder).public.get(root.kid) is None, "the root is in no key set"


def test_a_passphrase_protects_it(folder, tmp_path):
    create_root(folder, tmp_path / "root.pem", b"correct horse", iss=ISS, now_us=NOW)
    assert is_encrypted(tmp_path / "root.pem") and not is_encrypted(tmp_path / "none.pem")
    assert open_root(tmp_path / "root.pem", b"correct horse").kid == load_root(folder).key.kid
    for wrong in (b"battery staple", None):
        with pytest.raises(RootUnusable, match="passphrase"):
            open_root(tmp_path / "root.pem", wrong)


def test_what_is_no_root_is_not_taken_for_one(folder, file, tmp_path):
    (tmp_path / "text.pem").write_text("no key")
    (tmp_path / "text.pem").chmod(0o600)
    with pytest.raises(RootUnusable, match="no root"):
        open_root(tmp_path / "text.pem", None)
    with pytest.raises(RootUnusable, match="not an Ed25519"):
        open_root(folder / "holder-opening.pem", None)
    with pytest.raises(RootUnusable, match="No such file"):
        open_root(tmp_path / "none.pem", None)
    file.chmod(0o644)
    with pytest.raises(RootUnusable, match="others can read it"):
        open_root(file, None)
    with pytest.raises(RootUnusable, match="there is a root already"):
        create_root(folder, tmp_path / "second.pem", None, iss=ISS, now_us=NOW)
    with pytest.raises(RootUnusable, match="is there already"):
        create_root(folder, file, None, iss=ISS, now_us=NOW, replace_present=True)
    with pytest.raises(RootUnusable, match="removable"):
        create_root(folder, folder / "root.pem", None, iss=ISS, now_us=NOW, replace_present=True)
    assert load_root(folder).key.kid == SigningKey.from_pem(REVOKED_KEYS, file.read_bytes()).kid


def test_a_revoked_key_is_listed_replaced_and_published_no_more(folder, file):
    before = load_keys(folder)
    stolen = before.signing[TICKET].kid
    done = stop(folder, file, stolen)
    keys = load_keys(folder)
    assert keys.signing[TICKET].kid == done.replaced[0].kid != stolen
    assert keys.public.get(stolen) is None and keys.revoked == {stolen}
    assert keys.signing[CONSENT].kid == before.signing[CONSENT].kid
    listed = verify_key_list(load_root(folder).token, open_root(file, None).public, ISS)
    assert [(key.kid, key.revoked_us, key.reason) for key in listed.keys] == [(stolen, NOW, "compromised")]
    assert {row.kid: row.state for row in list_keys(folder, NOW)}[stolen] == "revoked"


def test_a_key_that_was_published_next_takes_the_place_unless_it_is_revoked_too(folder, file):
    stolen = load_keys(folder).signing[TICKET].kid
    coming = rotate(folder, "ticket", NOW).kid
    assert stop(folder, file, stolen).replaced[0].kid == coming
    another = rotate(folder, "ticket", NOW).kid
    assert stop(folder, file, coming, another, now=NOW + SECOND).replaced[0].kid not in (coming, another, stolen)
    assert load_keys(folder).revoked == {stolen, coming, another}


def test_lists_only_grow_and_their_numbers_go_on_after_a_restore(folder, file):
    keys = load_keys(folder)
    first = stop(folder, file, keys.signing[TICKET].kid)
    restored = (folder / "root.json").read_bytes()
    second = stop(folder, file, keys.signing[CONSENT].kid, now=NOW + SECOND)
    assert second.listed.sequence > first.listed.sequence and second.listed.kids > first.listed.kids
    again = stop(folder, file, keys.signing[CONSENT].kid, now=NOW - DAY)
    assert again.listed.sequence == second.listed.sequence + 1, "a clock that was put back does not put the list back"
    assert [key.revoked_us for key in again.listed.keys] == [NOW, NOW + SECOND]
    (folder / "root.json").write_bytes(restored)
    later = stop(folder, file, keys.signing[CONSENT].kid, now=NOW + DAY)
    assert later.listed.sequence > again.listed.sequence


def test_only_keys_of_this_locker_are_revoked_by_its_own_root(folder, file, tmp_path):
    with pytest.raises(RootUnusable, match="no key of this locker"):
        stop(folder, file, "x" * 43)
    with pytest.raises(RootUnusable, match="signs nothing"):
        stop(folder, file, load_keys(folder).opening.kid)
    assert load_root(folder).listed is None
    assert stop(folder, file, "x" * 43, unknown=True).listed.kids == {"x" * 43}
    stranger = SigningKey.generate(REVOKED_KEYS)
    with pytest.raises(RootUnusable, match="another root"):
        revoke(folder, stranger, ["x"], "lost", iss=ISS, now_us=NOW)
    with pytest.raises(RootUnusable, match="reason"):
        revoke(folder, open_root(file, None), ["x"], "whim", iss=ISS, now_us=NOW)
    with pytest.raises(RootUnusable, match="no root yet"):
        create_keys(tmp_path / "other")
        publish(tmp_path / "other", "x", iss=ISS, now_us=NOW)


def test_a_key_whose_file_was_lost_is_revoked(folder, file):
    lost = load_keys(folder).signing[TICKET].kid
    (folder / "ticket.pem").unlink()
    assert stop(folder, file, lost, unknown=True).listed.kids == {lost}
    rotate(folder, "ticket", NOW, at_once=True)
    assert load_keys(folder).revoked == {lost}


def test_a_list_that_was_signed_elsewhere_is_published_and_ends_what_was_left_undone(folder, file):
    root, stolen = open_root(file, None), load_keys(folder).signing[TICKET].kid

    def signed(sequence, *kids, iss=ISS, key=root):
        rows = tuple(RevokedKey(kid, NOW, "lost") for kid in kids)
        return issue_key_list(KeyRevocationList(iss, sequence, NOW, rows), key)

    with pytest.raises(KeyListRefused, match="not accepted"):
        publish(folder, signed(5, stolen, iss="https://other.example"), iss=ISS, now_us=NOW)
    with pytest.raises(SignatureRefused):
        publish(folder, signed(5, stolen, key=SigningKey.generate(REVOKED_KEYS)), iss=ISS, now_us=NOW)
    save_root(folder, root.public, signed(5, stolen))  # as a command does that is killed half way
    with pytest.raises(KeysRefused, match="locker keys rotate ticket --now"):
        load_keys(folder)
    assert publish(folder, signed(5, stolen), iss=ISS, now_us=NOW).replaced[0].purpose == "ticket"
    assert load_keys(folder).revoked == {stolen}
    for refused, kids in ((5, ()), (4, (stolen, "b"))):
        with pytest.raises(KeyListRefused):
            publish(folder, signed(refused, *kids), iss=ISS, now_us=NOW)
    with pytest.raises(RootUnusable, match="leaves out"):
        publish(folder, signed(6, "b"), iss=ISS, now_us=NOW)
    assert load_root(folder).listed.sequence == 5


def test_another_root_takes_over_what_was_revoked(folder, file, tmp_path):
    stolen = load_keys(folder).signing[TICKET].kid
    first = stop(folder, file, stolen)
    create_root(folder, tmp_path / "second.pem", b"pass", iss=ISS, now_us=NOW + SECOND, replace_present=True)
    root = load_root(folder)
    assert root.key.kid == open_root(tmp_path / "second.pem", b"pass").kid
    assert root.revoked == {stolen} and root.listed.sequence > first.listed.sequence


def test_a_root_or_list_that_was_meddled_with_stops_the_start(folder, file):
    stop(folder, file, load_keys(folder).signing[TICKET].kid)
    path = folder / "root.json"
    document = json.loads(path.read_text())
    for broken in (
        {**document, "root": SigningKey.generate(REVOKED_KEYS).public.jwk()},
        {**document, "root": SigningKey.generate(TICKET).public.jwk()},
        {**document, "revoked_keys": document["revoked_keys"][:-6] + "AAAAAA"},
        {"root": document["root"]},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(KeysRefused, match=r"root\.json"):
            load_keys(folder)
