"""``locker-node keys``: what can be changed is changed whole, what cannot says why."""

import json
import os
import stat

import pytest

from node.contract.holders import Holder
from node.contract.key_revocation import KeyRevocationList, RevokedKey, issue_key_list
from node.contract.sealing import OpeningKey
from node.contract.signing import REVOKED_KEYS, TICKET, KeySet, SigningKey, fingerprint
from node.contract.times import now_us
from node.contract.uri import DocumentURI
from node.db import catalogue
from node.db.holder_seals import seal_holder
from node.db.lockers import LockerRecords, activate, save_locker
from node.db.session import Database
from node.keys import load_keys, replace_key

LOCKER = "https://locker.example"


@pytest.fixture
def database(node_folder):
    database = Database(f"sqlite:///{node_folder}/node.db")
    yield database
    database.close()


def know(database, *, active=True):
    with database.writing() as connection:
        save_locker(
            connection, iss=LOCKER, base_url=LOCKER, jwks=json.dumps(KeySet([SigningKey.generate(TICKET).public]).jwks()),
            encryption_key=json.dumps(OpeningKey.generate().public.jwk()), endpoints={}, now_us=now_us(),
        )  # fmt: skip
        if active:
            activate(connection, LOCKER)


def test_keys_are_listed_without_what_is_secret(command, node_folder):
    keys = load_keys(node_folder)
    listed = command("keys", "list", "--json").json
    kids = {row["name"]: row["kid"] for row in listed}
    assert kids == {
        "registration": keys.registration.kid, "client": keys.client.kid, "waiting-holders": keys.waiting_holders.kid,
        "holder-hash": None, "log-tag": None,
    }  # fmt: skip
    shown = command("keys", "list").out
    assert "(secret)" in shown and keys.holder_hash.hex() not in shown and keys.log_tag.hex() not in shown


@pytest.mark.parametrize("name", ["registration", "client"])
def test_a_key_of_the_registration_is_replaced_and_told_to_the_officer(command, node_folder, database, name):
    know(database)
    before = load_keys(node_folder)
    said = command("keys", "rotate", name)
    after = load_keys(node_folder)
    changed = {each for each in ("registration", "client") if getattr(before, each).kid != getattr(after, each).kid}
    assert said.status == 0 and changed == {name}
    assert fingerprint(after.public) in said.out and f"register {LOCKER}" in said.out and "--replace-keys" in said.out
    assert stat.S_IMODE((node_folder / "keys" / f"{name}.pem").stat().st_mode) == 0o600
    assert len(list((node_folder / "keys").iterdir())) == 5


def test_the_key_of_waiting_values_is_replaced_only_when_nothing_can_be_lost(command, node_folder, database):
    before = load_keys(node_folder).waiting_holders
    assert "no locker is active" in command("keys", "rotate", "waiting-holders").err
    uri = DocumentURI("in.gov.x", "INCOM", "1")
    with database.writing() as connection:
        document_id = catalogue.add_document(connection, catalogue.NewDocument(uri, title="Income"), 1)
        seal_holder(connection, document_id, uri, Holder.parse("mobile", "9876543210"), before.public)
    know(database)
    refused = command("keys", "rotate", "waiting-holders")
    assert refused.status == 1 and "1 holders' values wait" in refused.err
    assert load_keys(node_folder).waiting_holders.kid == before.kid
    with database.writing() as connection:
        catalogue.change_document(connection, document_id, 2)
        seal_holder(connection, document_id, uri, Holder.parse("mobile", "9876543210"), before.public)
    assert command("keys", "rotate", "waiting-holders", "--json").json["rotated"] == "waiting-holders"
    assert load_keys(node_folder).waiting_holders.kid != before.kid


@pytest.mark.parametrize(("name", "why"), [("holder-hash", "ingested again"), ("log-tag", "leaves")])
def test_keys_that_stay_say_why(command, node_folder, name, why):
    before = load_keys(node_folder)
    refused = command("keys", "rotate", name)
    assert refused.status == 1 and why in refused.err
    after = load_keys(node_folder)
    assert (after.holder_hash, after.log_tag) == (before.holder_hash, before.log_tag)
    assert command("keys", "rotate", "nonsense").status == 2


class Killed(BaseException):
    pass


def test_a_replacement_that_is_killed_leaves_the_old_key_or_the_new_one(node_folder, monkeypatch):
    before = load_keys(node_folder)

    def killed(*_):
        raise Killed

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, killed)
            with pytest.raises(Killed):
                replace_key(node_folder, "client")
        assert load_keys(node_folder).client.kid == before.client.kid
    assert replace_key(node_folder, "client").client.kid != before.client.kid
    assert len(list((node_folder / "keys").iterdir())) == 5


def test_a_list_of_revoked_keys_comes_by_hand_too(command, node_folder, database, tmp_path):
    know(database)
    file = tmp_path / "revoked-keys"
    root = SigningKey.generate(REVOKED_KEYS)

    def signed(key, sequence, *kids):
        rows = tuple(RevokedKey(kid, now_us(), "compromised") for kid in kids)
        file.write_text(issue_key_list(KeyRevocationList(LOCKER, sequence, now_us(), rows), key) + "\n")

    signed(root, 1, "stolen")
    assert "no root of this locker is pinned" in command("keys", "take-list", LOCKER, file).err
    LockerRecords(database).pin_root(LOCKER, json.dumps(root.public.jwk(), sort_keys=True))
    assert command("keys", "take-list", f"{LOCKER}/", file, "--json").json == {
        "newly_revoked": ["stolen"], "revoked": ["stolen"],
    }  # fmt: skip
    signed(SigningKey.generate(REVOKED_KEYS), 2)
    refused = command("keys", "take-list", LOCKER, file)
    assert refused.status == 1 and "unknown-key" in refused.err
    assert LockerRecords(database).root(LOCKER).revoked == {"stolen"}
