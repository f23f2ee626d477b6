import json
from pathlib import Path

import pytest

from locker.config import load_settings
from locker.db.migration import newest_revision
from locker.wiring import build_locker
from node.contract.revocation import verify_page
from node.contract.signing import CLIENT_ASSERTION, KeySet, SigningKey, fingerprint
from node.contract.times import DAY, now_us
from tests.locker.commands import asked, run


def test_init_makes_a_locker_that_passes_its_own_check(folder: Path) -> None:
    answer = asked(folder, "check")
    assert answer["ok"] and {row["name"] for row in answer["checks"]} >= {"database", "keys", "clock", "schema"}
    assert (folder / "locker.toml").stat().st_mode & 0o777 == 0o600
    assert "is there already" in run("init", str(folder), code=1)


def test_check_says_in_plain_words_what_is_wrong(folder: Path) -> None:
    (folder / "keys" / "ticket.pem").chmod(0o644)
    assert "ticket.pem: others can read it; run chmod 600 on it" in run("check", "--folder", str(folder), code=1)
    (folder / "locker.toml").write_text("prot = 1\n")
    assert "prot: not a setting" in run("check", "--folder", str(folder), code=1)


def test_production_is_refused_by_serve_in_the_words_of_check(tmp_path: Path) -> None:
    folder = tmp_path / "l"
    run("init", str(folder), "--base-url", "https://locker.example")
    settings = folder / "locker.toml"
    assert load_settings(folder).environment == "production"
    settings.write_text(settings.read_text().replace("https://", "http://"))
    checked = json.loads(run("check", "--folder", str(folder), "--json", code=1))
    found = {row["name"]: row["detail"] for row in checked["checks"] if not row["ok"]}
    assert {"base_url", "tls_certificate"} == set(found)
    refused = run("serve", "--folder", str(folder), code=1)
    assert all(f"{settings}: {key}: {text}" in refused for key, text in found.items())


def test_a_locker_made_for_a_demonstration_does_not_become_a_real_one(folder: Path) -> None:
    settings = folder / "locker.toml"
    settings.write_text(settings.read_text().replace('environment = "demo"', 'environment = "production"'))
    assert "environment: this was made for a demonstration" in run("serve", "--folder", str(folder), code=1)


def test_the_first_operator_token_works(tmp_path: Path) -> None:
    made = json.loads(run("init", str(tmp_path / "l"), "--json"))
    locker = build_locker(load_settings(tmp_path / "l"))
    principal = locker.services.tokens.authenticate(f"Bearer {made['operator_token']}", now_us())
    assert principal.role == "operator"
    locker.close()


def test_an_older_schema_is_not_worked_on(tmp_path: Path, folder: Path) -> None:
    (folder / "locker.db").unlink()
    for leftover in folder.glob("locker.db-*"):
        leftover.unlink()
    for command in (("issuer", "list"), ("serve",)):
        assert "locker db upgrade" in run(*command, "--folder", str(folder), code=1)
    assert asked(folder, "db", "upgrade")["revision"] == newest_revision()
    assert asked(folder, "issuer", "list")["issuers"] == []


def test_an_officer_approves_and_suspends(folder: Path, world) -> None:
    node = world.node(base_url="http://127.0.0.1:9")
    (folder / "locker.toml").write_text(
        (folder / "locker.toml").read_text().replace("allow_private = []", 'allow_private = ["127.0.0.0/8"]')
    )
    locker = build_locker(load_settings(folder))
    locker.services.directory.register(node.registration(), now_us())
    (waiting,) = asked(folder, "issuer", "list")["registrations"]
    assert waiting["fingerprint"] == fingerprint(node.keys) and waiting["received_at"].endswith("Z")
    issuer = node.issuers[0]
    assert f"asks for {issuer} (INCOM, CASTE)" in run("issuer", "list", "--folder", str(folder))
    approve = ("issuer", "approve", issuer, "--node", node.node_id, "--fingerprint")
    assert "fingerprint is not that" in run(*approve, "0000-0000", "--folder", str(folder), code=1)
    assert asked(folder, *approve, waiting["fingerprint"])["state"] == "approved"
    assert asked(folder, "issuer", "list")["issuers"][0]["state"] == "approved"
    listed = run("issuer", "list", "--folder", str(folder))
    assert "approved for CASTE, INCOM" in listed and "asks for" not in listed
    node.doc_types = ("INCOM", "CASTE", "BIRTH")
    locker.services.directory.register(node.registration(), now_us())
    listed = run("issuer", "list", "--folder", str(folder))
    assert "approved for CASTE, INCOM\n" in listed and f"asks for {issuer} (INCOM, CASTE, BIRTH)" in listed
    renewed = world.node(base_url="http://127.0.0.1:9")
    locker.services.directory.register(renewed.registration(), now_us())
    assert "--replace-keys" in run(*approve, fingerprint(renewed.keys), "--folder", str(folder), code=1)
    said = run(*approve, fingerprint(renewed.keys), "--replace-keys", "--folder", str(folder))
    assert f"{issuer} is reached with the node's new keys" in said
    locker.services.directory.register(world.node(base_url="http://127.0.0.1:9").registration(), now_us())
    assert asked(folder, "issuer", "reject", node.node_id)["rejected"] == 2, (
        "the newest, and the keys that were replaced"
    )
    assert "no registration waits" in run("issuer", "reject", node.node_id, "--folder", str(folder), code=1)
    run("issuer", "suspend", issuer, "--folder", str(folder))
    run("issuer", "suspend", "--node", node.node_id, "--folder", str(folder))
    run("issuer", "suspend", code=2)
    (row,) = asked(folder, "issuer", "list")["issuers"]
    assert (row["state"], row["node_state"]) == ("suspended", "suspended")
    locker.close()


def test_an_expected_issuer_is_in_the_directory(folder: Path) -> None:
    assert asked(folder, "issuer", "add", "in.gov.x", "--name", "X")["state"] == "expected"
    assert "hyphen" in run("issuer", "add", "in.gov.x-y", "--name", "Y", "--folder", str(folder), code=1)


def test_requesters_by_secret_and_by_keys(folder: Path, tmp_path: Path) -> None:
    assert len(asked(folder, "requester", "add", "uni", "--name", "University")["client_secret"]) >= 40
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(KeySet([SigningKey.generate(CLIENT_ASSERTION).public]).jwks()))
    assert asked(folder, "requester", "add", "bank", "--name", "Bank", "--jwks", str(keys))["client_secret"] is None
    rows = asked(folder, "requester", "list")["requesters"]
    assert [(row["client_id"], row["authentication"]) for row in rows] == [
        ("bank", "private_key_jwt"),
        ("uni", "client_secret"),
    ]
    assert "is taken" in run("requester", "add", "uni", "--name", "U", "--folder", str(folder), code=1)
    keys.write_text('{"keys": []}')
    assert "no Ed25519 key" in run(
        "requester", "add", "x", "--name", "X", "--jwks", str(keys), "--folder", str(folder), code=1
    )
    run("requester", "suspend", "uni", "--folder", str(folder))
    assert asked(folder, "requester", "list")["requesters"][1]["state"] == "suspended"


def test_a_resident_is_added_and_no_identifier_is_shown(folder: Path) -> None:
    arguments = (
        "--holder",
        "mobile:9876543210",
        "--attribute",
        "full_name=Asha@issuer-confirmed",
        "--attribute",
        "x=a@b",
    )
    text = run("resident", "add", "Asha", *arguments, "--folder", str(folder))
    assert "9876543210" not in text and "shown this once" in text
    wrong = run("resident", "add", "B", "--holder", "aadhaar:123412341234", "--folder", str(folder), code=1)
    assert "123412341234" not in wrong and "check digit" in wrong
    asked_for = run("resident", "add", "C", "--holder", "mobile:-", "--folder", str(folder), given="9876500000\n")
    assert "9876500000" not in asked_for


def test_consents_are_listed_shown_and_revoked(folder: Path, world) -> None:
    locker = build_locker(load_settings(folder))
    other = type(world)(locker.settings, locker.database, locker.keys, locker.services, world.clock, [], [])
    resident, node = other.resident(), world.node()
    other.services.directory._check_address = lambda url: None
    other.approve(node)
    uri = f"{node.issuers[0]}-INCOM-1"
    other.push(node, other.row(uri, ("mobile", "9876543210")))
    other.requester()
    consent = other.consent(resident, uri)
    assert [row["consent_id"] for row in asked(folder, "consent", "list")["consents"]] == [consent.consent_id]
    assert uri in run("consent", "show", consent.consent_id, "--folder", str(folder))
    assert asked(folder, "consent", "revoke", consent.consent_id)["state"] == "revoked"
    events = asked(folder, "consent", "show", consent.consent_id)["events"]
    assert [event["kind"] for event in events] == ["given", "revoked"]
    page = verify_page(locker.services.revocations.latest(), locker.keys.public)
    assert page.entries[0].consent_id == consent.consent_id
    assert "no such consent" in run("consent", "show", "x", "--folder", str(folder), code=1)
    locker.close()


def test_tokens_are_made_and_ended(folder: Path) -> None:
    made = asked(folder, "token", "create", "auditor-1", "--role", "auditor", "--days", "1")
    locker = build_locker(load_settings(folder))
    tokens = locker.services.tokens
    assert tokens.authenticate(f"Bearer {made['token']}", now_us()).role == "auditor"
    assert asked(folder, "token", "revoke", "auditor-1")["ended"] == 1
    with pytest.raises(Exception, match="not accepted"):
        tokens.authenticate(f"Bearer {made['token']}", now_us() + DAY)
    locker.close()
