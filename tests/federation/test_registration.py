"""Registering with a locker that checks every signature."""

import json

import pytest

from node.contract.problems import NodeUnavailable
from node.contract.sealing import SealingKey
from node.contract.signing import TICKET, SigningKey, fingerprint
from node.contract.times import SECOND
from node.db.outbox import due_rows
from node.services.locker_client import LockerFault
from node.services.registration import NothingToOffer


def test_registration_waits_for_the_officer_and_then_the_locker_is_active(side, locker):
    side.offer_type()
    registered = side.registration.register(locker.iss + "/")
    assert registered.iss == locker.iss
    assert registered.state == "pending"
    assert registered.fingerprint == fingerprint(side.keys.public)
    assert (locker.claims["node_id"], locker.claims["exposure"]) == ("node-1", "gateway-only")
    assert locker.claims["issuers"] == [
        {
            "issuer": "in.x", "name": "X",
            "doc_types": [
                {
                    "doc_type": "INC", "name": "Income", "media_types": [],
                    "search_parameters": [{"name": "number", "label": "Number", "required": True}],
                }
            ],
        }
    ]  # fmt: skip
    assert side.registration.check(locker.iss) == "pending"
    assert side.lockers.find(locker.iss).state == "pending"
    locker.state = "approved"
    assert side.registration.check(locker.iss) == "approved"
    row = side.lockers.find(locker.iss)
    assert (row.state, row.announced_after) == ("active", "")
    assert SealingKey.from_jwk(json.loads(row.encryption_key)) == locker.opening.public


def test_registering_again_keeps_the_state_and_takes_new_keys(side, locker):
    side.join(locker)
    locker.signing[TICKET] = SigningKey.generate(TICKET)
    assert side.registration.register(locker.iss).state == "approved"
    row = side.lockers.find(locker.iss)
    assert row.state == "active"
    assert locker.signing[TICKET].kid in row.jwks


def test_a_token_is_kept_until_shortly_before_it_ends_and_renewed_when_it_is_refused(side, locker):
    side.join(locker)
    locker.requests.clear()
    for _ in range(3):
        side.registration.check(locker.iss)
    assert locker.requests.count(("POST", "/v1/oauth/token")) == 1
    side.ahead_us = 575 * SECOND
    with pytest.raises(LockerFault):
        side.registration.check(locker.iss)  # the token is not used any more, and the new assertion is from the future
    assert locker.requests[-1] == ("POST", "/v1/oauth/token")
    side.ahead_us = 0
    locker.tokens.clear()
    assert side.registration.check(locker.iss) == "approved"


def test_a_node_without_document_types_has_nothing_to_offer(side, locker):
    with pytest.raises(NothingToOffer):
        side.registration.register(locker.iss)
    assert locker.requests == []


@pytest.mark.parametrize("fault", ["iss", "keys", "no-ticket-key", "endpoint", "encryption", "fingerprint", "rubbish"])
def test_a_locker_that_is_not_what_it_says_is_refused_and_not_stored(side, locker, fault, monkeypatch):
    side.offer_type()
    descriptor = locker._get_descriptor()[1]
    if fault == "iss":
        descriptor["iss"] = "https://other.example"
    elif fault == "endpoint":
        del descriptor["endpoints"]["push"]
    elif fault == "encryption":
        descriptor["encryption_keys"] = [{"kty": "OKP", "crv": "X25519", "kid": "x", "x": "short"}]
    elif fault == "rubbish":
        descriptor = ["not", "an", "object"]
    monkeypatch.setattr(locker, "_get_descriptor", lambda *_: (200, descriptor))
    if fault == "keys":
        monkeypatch.setattr(locker, "_get_jwks", lambda *_: (200, {"keys": [{"kty": "OKP", "crv": "Ed25519"}]}))
    elif fault == "no-ticket-key":
        del locker.signing[TICKET]
    elif fault == "fingerprint":
        answer = (202, {"fingerprint": "0000-" * 7 + "0000", "state": "pending"})
        monkeypatch.setattr(locker, "_post_registrations", lambda *_: answer)
    with pytest.raises(LockerFault):
        side.registration.register(locker.iss)
    assert side.lockers.find(locker.iss) is None


def test_a_locker_that_is_away_is_told_apart_from_one_that_refuses(side, locker, free_port):
    side.offer_type()
    with pytest.raises(NodeUnavailable):
        side.registration.register(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(LockerFault, match="not registered"):
        side.registration.check(locker.iss)


@pytest.mark.parametrize("ask", ["register", "check_scope"])
def test_a_type_that_is_approved_later_is_announced_after_all(side, locker, ask):
    side.join(locker)
    document_id = side.add("1")
    locker.refused["in.x-INC-1"] = 403
    side.push.push_all(locker.iss)
    asked = len(locker.requests)

    def again():
        getattr(side.registration, ask)(locker.iss)
        with side.database.reading() as connection:
            return [row.document_id for row in due_rows(connection, locker.iss, side.clock())]

    locker.scope = [{"issuer": "in.x", "doc_types": ["OTHER"]}, {"issuer": 5}, "odd"]
    assert again() == []
    locker.scope = [{"issuer": "IN.X", "doc_types": ["inc"]}]
    assert again() == [document_id]
    locker.refused.clear()
    assert side.push.push_all(locker.iss).acknowledged == 1
    assert len(locker.requests) > asked


def test_nobody_asks_for_a_wider_scope_when_nothing_waits_for_it(side, locker):
    side.join(locker)
    locker.requests.clear()
    assert side.registration.check_scope(locker.iss) is False
    assert locker.requests == []
