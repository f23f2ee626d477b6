"""``locker keys`` and ``locker root``, as an operator types them."""

import json
from pathlib import Path

import pytest

from locker import roots
from locker.config import load_settings
from locker.wiring import Locker, build_locker
from node.contract.key_revocation import root_fingerprint
from node.contract.revocation import RevocationEntry, verify_page
from node.contract.signing import REVOCATION, TICKET
from node.contract.times import now_us
from tests.locker.commands import asked, run


def reopened_under_a_new_page_key(locker: Locker, folder: Path, root: Path, reason: str) -> Locker:
    """Have a new root revoke the key of the revocation pages, and open the locker again."""
    stolen = locker.keys.signing[REVOCATION].kid
    locker.close()
    run("root", "create", str(root), "--no-passphrase", "--folder", str(folder))
    run("root", "revoke", stolen, "--root", str(root), "--reason", reason, "--folder", str(folder))
    return build_locker(load_settings(folder))


def in_use(folder: Path, purpose: str) -> str:
    (kid,) = [
        row["kid"]
        for row in asked(folder, "keys", "list")["keys"]
        if row["purpose"] == purpose and row["state"] == "in use"
    ]
    return kid


def test_keys_are_listed_rotated_and_dropped(folder: Path) -> None:
    first = in_use(folder, "ticket")
    listed = run("keys", "list", "--folder", str(folder))
    assert listed.count("in use, since 2") == 6 and first in listed
    step = asked(folder, "keys", "rotate", "ticket")
    assert step["state"] == "published next" and step["ready_at"].endswith("Z")
    assert "not every node need know it yet" in run("keys", "rotate", "ticket", "--folder", str(folder), code=1)
    said = run("keys", "rotate", "ticket", "--now", "--folder", str(folder))
    assert f"{step['kid']} is in use" in said and "Restart locker serve" in said
    assert in_use(folder, "ticket") == step["kid"]
    assert "is dropped" in run("keys", "drop", first, "--now", "--folder", str(folder))
    assert "no such key" in run("keys", "drop", first, "--folder", str(folder), code=1)
    assert "Restart locker serve" in run("keys", "rotate", "holder-opening", "--folder", str(folder))
    said = run("keys", "rotate", "pull", "--folder", str(folder))
    assert "nothing has to be restarted yet" in said and "5 minutes from now" in said
    assert "never be found again" in run("keys", "rotate", "holder-reference", "--folder", str(folder), code=1)
    run("keys", "rotate", "nonsense", "--folder", str(folder), code=2)
    assert asked(folder, "check")["ok"]


def test_a_root_is_made_shown_and_used(folder: Path, tmp_path: Path) -> None:
    medium = tmp_path / "medium.pem"
    assert "there is no root yet" in run("root", "show", "--folder", str(folder), code=1)
    said = run("root", "create", str(medium), "--folder", str(folder), given="horse\nhorse\n")
    shown = asked(folder, "root", "show")
    assert shown["revoked"] == [] and shown["fingerprint"] in said
    assert shown["fingerprint"] == root_fingerprint(build_locker(load_settings(folder)).keys.root.key)
    (row,) = [row for row in asked(folder, "check")["checks"] if row["name"] == "root"]
    assert row["ok"] and shown["fingerprint"] in row["detail"]
    secret = tmp_path / "pass"
    secret.write_text("horse\n")
    stolen = in_use(folder, "ticket")
    revoke = ("root", "revoke", stolen, "--root", str(medium), "--reason", "compromised", "--folder", str(folder))
    assert "passphrase is another" in run(*revoke, given="cow\n", code=1)
    said = run(*revoke, "--passphrase-file", str(secret))
    assert "1 keys are revoked" in said and "A new ticket key is in use" in said
    assert in_use(folder, "ticket") != stolen
    assert f"revoked  {stolen}  compromised" in run("root", "show", "--folder", str(folder))
    assert build_locker(load_settings(folder)).keys.signing[TICKET].kid == in_use(folder, "ticket")
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert "it is empty" in run(*revoke, "--passphrase-file", str(empty), code=1)


def test_a_root_is_not_left_unprotected_beside_a_passphrase(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("horse\n")
    both = ("--no-passphrase", "--passphrase-file", str(tmp_path / "pass"), "--folder", str(folder))
    assert "not both" in run("root", "create", str(tmp_path / "r.pem"), *both, code=1)
    assert not (tmp_path / "r.pem").exists()


def test_a_list_that_is_not_published_says_why(folder: Path, tmp_path: Path) -> None:
    run("root", "create", str(tmp_path / "r.pem"), "--no-passphrase", "--folder", str(folder))
    revoke = ("--unknown", "--root", str(tmp_path / "r.pem"), "--reason", "lost")
    asked(folder, "root", "revoke", "x" * 43, *revoke)
    token = json.loads((folder / "keys" / "root.json").read_text())["revoked_keys"]
    asked(folder, "root", "revoke", "y" * 43, *revoke)
    (tmp_path / "list.jwt").write_text(token)
    assert "(rollback)" in run("root", "publish", str(tmp_path / "list.jwt"), "--folder", str(folder), code=1)
    (tmp_path / "list.jwt").write_text("no list")
    assert "(malformed)" in run("root", "publish", str(tmp_path / "list.jwt"), "--folder", str(folder), code=1)


def test_a_revocation_that_another_has_overtaken_says_so(folder: Path, tmp_path: Path, monkeypatch) -> None:
    run("root", "create", str(tmp_path / "r.pem"), "--no-passphrase", "--folder", str(folder))
    more = ("--unknown", "--root", str(tmp_path / "r.pem"), "--reason", "lost", "--folder", str(folder))
    sign = roots._sign

    def overtaken(*arguments: object) -> str:
        monkeypatch.setattr(roots, "_sign", sign)
        run("root", "revoke", "x" * 43, *more)
        return sign(*arguments)

    monkeypatch.setattr(roots, "_sign", overtaken)
    said = run("root", "revoke", "y" * 43, *more, code=1)
    assert "the list is not to be published (fork)" in said or "(rollback)" in said
    run("root", "revoke", "y" * 43, *more)
    assert {"x" * 43, "y" * 43} <= {row["kid"] for row in asked(folder, "root", "show")["revoked"]}


def test_a_list_from_another_machine_is_published(folder: Path, tmp_path: Path) -> None:
    run("root", "create", str(tmp_path / "r.pem"), "--no-passphrase", "--folder", str(folder))
    before = (folder / "keys" / "root.json").read_bytes()
    done = asked(folder, "root", "revoke", "x" * 43, "--unknown", "--root", str(tmp_path / "r.pem"), "--reason", "lost")
    assert done["replaced"] == []
    token = json.loads((folder / "keys" / "root.json").read_text())["revoked_keys"]
    (folder / "keys" / "root.json").write_bytes(before)
    (tmp_path / "list.jwt").write_text(token + "\n")
    published = asked(folder, "root", "publish", str(tmp_path / "list.jwt"))
    assert published == {**done, "address": "http://locker.test/.well-known/revoked-keys"}


def test_a_second_root_asks_to_be_wanted(folder: Path, tmp_path: Path) -> None:
    run("root", "create", str(tmp_path / "1.pem"), "--no-passphrase", "--folder", str(folder))
    first = asked(folder, "root", "show")["fingerprint"]
    again = ("root", "create", str(tmp_path / "2.pem"), "--no-passphrase", "--folder", str(folder))
    assert "--replace" in run(*again, code=1)
    run(*again, "--replace")
    assert asked(folder, "root", "show")["fingerprint"] != first


def test_pages_begin_anew_under_a_new_key_with_all_that_still_matters(folder: Path, tmp_path: Path) -> None:
    locker = build_locker(load_settings(folder))
    revocations = locker.services.revocations
    with locker.database.write() as session:
        revocations.publish(session, [RevocationEntry("a", 5), RevocationEntry("b", 6)], now_us())
        revocations.publish(session, [RevocationEntry("a", 9)], now_us())
    locker = reopened_under_a_new_page_key(locker, folder, tmp_path / "r.pem", "compromised")
    revocations = locker.services.revocations
    assert revocations.keep_fresh(now_us()), "at once, though the newest page is fresh"
    page = verify_page(revocations.latest(), locker.keys.public)
    assert (page.sequence, page.horizon) == (4, 4)
    assert {(entry.consent_id, entry.void_before_us) for entry in page.entries} == {("a", 9), ("b", 6)}
    assert not revocations.keep_fresh(now_us())
    with locker.database.write() as session:
        revocations.publish(session, [RevocationEntry("c", 7)], now_us())
    page = verify_page(revocations.latest(), locker.keys.public)
    assert (page.sequence, page.horizon, len(page.entries)) == (5, 4, 1)
    locker.close()


def test_pages_begin_anew_when_the_key_of_earlier_ones_is_revoked_after_its_time(folder: Path, tmp_path: Path) -> None:
    """Whoever changes a stolen key first and revokes it later leaves no page that a reader must take and cannot check."""
    locker = build_locker(load_settings(folder))
    stolen, now = locker.keys.signing[REVOCATION].kid, now_us()
    with locker.database.write() as session:
        locker.services.revocations.publish(session, [RevocationEntry("a", 5)], now)
    locker.close()
    run("keys", "rotate", "revocation", "--now", "--folder", str(folder))
    locker = build_locker(load_settings(folder))
    with locker.database.write() as session:
        locker.services.revocations.publish(session, [RevocationEntry("b", 6)], now)
    locker.close()
    run("root", "create", str(tmp_path / "r.pem"), "--no-passphrase", "--folder", str(folder))
    run("root", "revoke", stolen, "--root", str(tmp_path / "r.pem"), "--reason", "compromised", "--folder", str(folder))
    locker = build_locker(load_settings(folder))
    revocations = locker.services.revocations
    assert revocations.keep_fresh(now), "at once, though the newest page is fresh and under a good key"
    assert not revocations.keep_fresh(now)
    with locker.database.write() as session:
        revocations.publish(session, [RevocationEntry("c", 7)], now)
    newest = verify_page(revocations.latest(), locker.keys.public)
    pages = [verify_page(revocations.page(n), locker.keys.public) for n in range(newest.horizon, newest.sequence + 1)]
    assert [[entry.consent_id for entry in page.entries] for page in pages] == [["a", "b"], ["c"]]
    locker.close()


def test_a_new_beginning_takes_as_many_pages_as_it_needs(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("locker.services.revocations.MAX_ENTRIES", 2)
    locker = build_locker(load_settings(folder))
    with locker.database.write() as session:
        for number in range(5):
            locker.services.revocations.publish(session, [RevocationEntry(f"c{number}", number)], now_us())
    locker = reopened_under_a_new_page_key(locker, folder, tmp_path / "r.pem", "lost")
    revocations = locker.services.revocations
    revocations.keep_fresh(now_us())
    pages = [verify_page(revocations.page(number), locker.keys.public) for number in (7, 8, 9)]
    assert [page.horizon for page in pages] == [7, 7, 7]
    assert [len(page.entries) for page in pages] == [2, 2, 1]
    assert verify_page(revocations.latest(), locker.keys.public).sequence == 9
    locker.close()


@pytest.mark.parametrize("kid", ["-ryHjJsv4zfDApYyVDHqPFqf7iIfxya6IC0vDY9Ca_8", "--abc"])
def test_a_key_id_may_begin_with_a_hyphen(folder: Path, tmp_path: Path, kid: str) -> None:
    assert "No such option" not in run("keys", "drop", kid, "--folder", str(folder), code=1)
    medium = tmp_path / "medium.pem"
    run("root", "create", str(medium), "--folder", str(folder), given="horse\nhorse\n")
    revoke = ("root", "revoke", kid, "--root", str(medium), "--reason", "lost", "--folder", str(folder))
    assert "No such option" not in run(*revoke, given="horse\n", code=1)
