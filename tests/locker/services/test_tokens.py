import base64
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import select, update

from locker.db.models import AccessToken, Client, UsedAssertion
from locker.services import tokens as tokens_module
from locker.services.tokens import TokenRefused
from node.contract.problems import InvalidCredential, MissingCredential
from node.contract.records import ASSERTION_TYPE, client_assertion, sign_request
from node.contract.signing import CLIENT_ASSERTION, REGISTRATION, KeySet, SigningKey, encode_base64url, fingerprint
from node.contract.times import SECOND, now_us

ISS = "http://locker.test"


def assertion_form(token: str, **changes: str) -> dict[str, str]:
    form = {"grant_type": "client_credentials", "client_assertion": token, "client_assertion_type": ASSERTION_TYPE}
    return {**form, **changes}


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


@pytest.fixture
def key_requester(world):
    key = SigningKey.generate(CLIENT_ASSERTION)
    world.services.tokens.add_requester("bank", "Bank", KeySet([key.public]).jwks(), now_us())
    return key


def test_a_client_secret_works_in_the_header_and_in_the_form(world) -> None:
    secret = world.services.tokens.add_requester("uni", "Uni", None, now_us())
    form = {"grant_type": "client_credentials"}
    for issued in (
        world.services.tokens.grant(form, basic("uni", secret), now_us()),
        world.services.tokens.grant({**form, "client_id": "uni", "client_secret": secret}, None, now_us()),
    ):
        principal = world.services.tokens.authenticate(f"Bearer {issued.token}", now_us())
        assert (principal.role, principal.subject) == ("requester", "uni")


def test_neither_secret_nor_token_is_stored(world) -> None:
    secret = world.services.tokens.add_requester("uni", "Uni", None, now_us())
    issued = world.services.tokens.grant({"grant_type": "client_credentials"}, basic("uni", secret), now_us())
    with world.database.read() as session:
        stored = [*session.scalars(select(Client.secret_hash)), *session.scalars(select(AccessToken.token_hash))]
    assert len(stored) == 2 and secret not in stored and issued.token not in stored


@pytest.mark.parametrize("audience", [ISS, f"{ISS}/v1/oauth/token"])
def test_an_assertion_for_the_endpoint_or_the_issuer_is_taken(world, key_requester, audience: str) -> None:
    token = client_assertion("bank", key_requester, audience=audience, now_us=now_us())
    issued = world.services.tokens.grant(assertion_form(token), None, now_us())
    assert world.services.tokens.authenticate(f"Bearer {issued.token}", now_us()).subject == "bank"


def test_an_assertion_is_taken_once(world, key_requester) -> None:
    token = client_assertion("bank", key_requester, audience=ISS, now_us=now_us())
    world.services.tokens.grant(assertion_form(token), None, now_us())
    with pytest.raises(TokenRefused) as refused:
        world.services.tokens.grant(assertion_form(token), None, now_us())
    assert (refused.value.error, refused.value.status, refused.value.reason) == ("invalid_client", 401, "replayed")


def during_the_check(world, monkeypatch, act) -> None:
    """Do something after the keys were read and before the token is written."""
    check = world.services.tokens._verify

    def verify(*arguments) -> None:
        check(*arguments)
        act()

    monkeypatch.setattr(world.services.tokens, "_verify", verify)


def test_a_signature_is_checked_in_no_write_transaction(either_world, monkeypatch) -> None:
    """Whoever floods the endpoint with bad assertions, or good ones, does not hold up who writes."""
    world, key = either_world, SigningKey.generate(CLIENT_ASSERTION)
    world.services.tokens.add_requester("bank", "Bank", KeySet([key.public]).jwks(), now_us())
    wrote = []

    def write() -> None:
        wrote.append(world.resident())

    during_the_check(world, monkeypatch, lambda: in_a_thread(write))
    token = client_assertion("bank", key, audience=ISS, now_us=now_us())
    world.services.tokens.grant(assertion_form(token), None, now_us())
    assert len(wrote) == 1


def in_a_thread(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize(("change", "reason"), [("suspend", "suspended"), ("other keys", "unknown-key")])
def test_what_changes_while_a_signature_is_checked_counts(world, key_requester, monkeypatch, change, reason) -> None:
    other = json.dumps(KeySet([SigningKey.generate(CLIENT_ASSERTION).public]).jwks())

    def act() -> None:
        if change == "suspend":
            return world.services.suspensions.requester("bank")
        with world.database.write() as session:
            session.execute(update(Client).where(Client.client_id == "bank").values(jwks=other))

    during_the_check(world, monkeypatch, act)
    token = client_assertion("bank", key_requester, audience=ISS, now_us=now_us())
    with pytest.raises(TokenRefused) as refused:
        world.services.tokens.grant(assertion_form(token), None, now_us())
    assert refused.value.reason == reason
    with world.database.read() as session:
        assert session.scalars(select(AccessToken)).all() == session.scalars(select(UsedAssertion)).all() == []


def test_an_applicant_rejected_while_its_signature_is_checked_gets_no_token(world, monkeypatch) -> None:
    node = world.node()
    world.services.directory.register(node.registration(), now_us())
    during_the_check(world, monkeypatch, lambda: world.services.directory.reject(node.node_id))
    with pytest.raises(TokenRefused):
        world.node_token(node)


def test_of_two_who_replace_keys_and_ask_for_a_token_neither_leaves_an_old_one(either_world, monkeypatch) -> None:
    """The token is given just when an officer replaces the node's keys: it is found and ended, or refused."""
    world = either_world
    honest, heir = world.department(), world.node()
    world.services.directory.register(heir.registration(), now_us())
    replaced = []

    def replace_keys() -> None:
        world.services.directory.approve(
            honest.issuers[0], heir.node_id, fingerprint(heir.keys), now_us(), replace_keys=True
        )
        replaced.append(True)

    officer = threading.Thread(target=replace_keys)
    issue = tokens_module._issue

    def issuing(session, *arguments):
        issued = issue(session, *arguments)
        session.flush()
        officer.start()
        officer.join(0.5)
        assert officer.is_alive(), "the officer waits for the token that is being given"
        return issued

    monkeypatch.setattr(tokens_module, "_issue", issuing)
    token = world.node_token(honest)
    officer.join(10)
    assert replaced
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(f"Bearer {token}", now_us())


def test_of_many_who_replay_at_once_one_is_served(either_world) -> None:
    world, key = either_world, SigningKey.generate(CLIENT_ASSERTION)
    world.services.tokens.add_requester("bank", "Bank", KeySet([key.public]).jwks(), now_us())
    token = client_assertion("bank", key, audience=ISS, now_us=now_us())
    outcomes: list[str] = []

    def ask() -> None:
        try:
            world.services.tokens.grant(assertion_form(token), None, now_us())
            outcomes.append("granted")
        except TokenRefused as error:
            outcomes.append(error.reason)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["granted"] + ["replayed"] * 5


def forged(key: SigningKey, kind: str) -> str:
    now = now_us()
    claims = {"iss": "bank", "sub": "bank"}
    if kind == "another key":
        return client_assertion("bank", SigningKey.generate(CLIENT_ASSERTION), audience=ISS, now_us=now)
    if kind == "another purpose":
        return sign_request(claims, SigningKey.of(REGISTRATION, key.key), audience=ISS, now_us=now)
    if kind == "another audience":
        return client_assertion("bank", key, audience="http://other.test", now_us=now)
    if kind == "expired":
        return client_assertion("bank", key, audience=ISS, now_us=now - 3600 * SECOND)
    if kind == "another subject":
        return sign_request({**claims, "sub": "uni"}, key, audience=ISS, now_us=now)
    if kind == "too long":
        return sign_request(claims, key, audience=ISS, now_us=now, lifetime=3600)
    return "a.b.c"


@pytest.mark.parametrize(
    "kind",
    ["another key", "another purpose", "another audience", "expired", "another subject", "too long", "no JWS"],
)
def test_a_bad_assertion_is_refused_like_any_other(world, key_requester, kind: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        world.services.tokens.grant(assertion_form(forged(key_requester, kind)), None, now_us())
    assert (refused.value.error, refused.value.status) == ("invalid_client", 401)
    with world.database.read() as session:
        assert session.scalars(select(AccessToken)).all() == session.scalars(select(UsedAssertion)).all() == []


@pytest.mark.parametrize("client_id", ["\ud800", "a\x00b", "", "x" * 129, "\u0b85", "a b"])
def test_a_client_id_that_cannot_be_one_does_not_reach_the_database(either_world, client_id: str) -> None:
    """A lone surrogate cannot be encoded, and PostgreSQL takes no NUL: both came before any signature was looked at."""
    tokens = either_world.services.tokens
    secret_form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": "x"}
    parts = ({"alg": "EdDSA", "typ": CLIENT_ASSERTION, "kid": "k"}, {"iss": client_id, "sub": client_id, "aud": ISS})
    assertion = assertion_form(".".join([*(encode_base64url(json.dumps(part).encode()) for part in parts), "AAAA"]))
    for form in (assertion, secret_form, {**secret_form, "client_id": "uni", "client_secret": client_id or "\x00"}):
        with pytest.raises(TokenRefused) as refused:
            tokens.grant(form, None, now_us())
        assert (refused.value.error, refused.value.status) == ("invalid_client", 401)


@pytest.mark.parametrize(
    ("form", "authorization", "error"),
    [
        ({}, None, "unsupported_grant_type"),
        ({"grant_type": "password"}, None, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, None, "invalid_client"),
        ({"grant_type": "client_credentials", "scope": "all"}, basic("uni", "x"), "invalid_scope"),
        ({"grant_type": "client_credentials"}, basic("uni", "wrong"), "invalid_client"),
        ({"grant_type": "client_credentials"}, basic("nobody", "x"), "invalid_client"),
        ({"grant_type": "client_credentials"}, basic("bank", "x"), "invalid_client"),
        ({"grant_type": "client_credentials"}, "Basic %%%", "invalid_client"),
        ({"grant_type": "client_credentials"}, "Basic \u00e9\u00e9\u00e9\u00e9", "invalid_client"),
        ({"grant_type": "client_credentials"}, "Bearer x", "invalid_client"),
        ({"grant_type": "client_credentials", "client_secret": "x"}, basic("uni", "x"), "invalid_request"),
        ({"grant_type": "client_credentials", "client_assertion": "a.b.c"}, None, "invalid_request"),
    ],
)
def test_errors_are_those_of_the_rfc(world, key_requester, form, authorization, error: str) -> None:
    world.services.tokens.add_requester("uni", "Uni", None, now_us())
    with pytest.raises(TokenRefused) as refused:
        world.services.tokens.grant(form, authorization, now_us())
    assert refused.value.error == error


def test_a_token_ends_to_the_microsecond(world) -> None:
    secret = world.services.tokens.add_requester("uni", "Uni", None, now_us())
    issued = world.services.tokens.grant({"grant_type": "client_credentials"}, basic("uni", secret), now_us())
    world.services.tokens.authenticate(f"Bearer {issued.token}", issued.expires_us - 1)
    with pytest.raises(InvalidCredential) as refused:
        world.services.tokens.authenticate(f"Bearer {issued.token}", issued.expires_us)
    assert refused.value.reason == "expired"


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York"])
def test_a_token_lives_as_long_in_every_time_zone(either_world, zone: str) -> None:
    """FC-19: a process in another zone, after a restart, agrees to the second."""
    world, now = either_world, now_us()
    alive = world.services.tokens.create("auditor", "a", now + 60 * SECOND, now).token
    over = world.services.tokens.create("auditor", "a", now - SECOND, now).token
    program = (
        "import sys\n"
        "from locker.db.session import Database\n"
        "from locker.services.tokens import Tokens\n"
        "from node.contract.problems import InvalidCredential\n"
        "from node.contract.times import now_us\n"
        "tokens = Tokens(Database(sys.argv[1]), iss='i', token_endpoint='e', lifetime=60)\n"
        "for text in sys.argv[2:]:\n"
        "    try:\n"
        "        print(tokens.authenticate('Bearer ' + text, now_us()).role)\n"
        "    except InvalidCredential as error:\n"
        "        print(error.reason)\n"
    )
    url = world.database.engine.url.render_as_string(hide_password=False)
    environment = {**os.environ, "TZ": zone, "PGTZ": "Pacific/Auckland"}
    command = [sys.executable, "-c", program, url, alive, over]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert shown == ["auditor", "expired"]
    assert time.time() < now / SECOND + 55


@pytest.mark.parametrize("header", [None, ""])
def test_without_a_token_one_is_asked_for(world, header) -> None:
    with pytest.raises(MissingCredential):
        world.services.tokens.authenticate(header, now_us())


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Basic x", "Bearer nobody-has-this", "Bearer " + "x" * 5000])
def test_other_credentials_are_refused(world, header: str) -> None:
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(header, now_us())


def test_suspending_a_requester_ends_its_tokens_at_once(world) -> None:
    token = world.requester()
    world.services.suspensions.requester("university")
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(f"Bearer {token}", now_us())


def test_a_requester_needs_a_key_of_the_right_kind(world) -> None:
    other = SigningKey.generate(REGISTRATION)
    with pytest.raises(ValueError, match="client-authentication"):
        world.services.tokens.add_requester("bank", "Bank", KeySet([other.public]).jwks(), now_us())


def test_what_has_expired_is_purged(world, key_requester) -> None:
    token = client_assertion("bank", key_requester, audience=ISS, now_us=now_us())
    issued = world.services.tokens.grant(assertion_form(token), None, now_us())
    assert world.services.tokens.purge(now_us()) == 0
    assert world.services.tokens.purge(issued.expires_us) == 2
