import threading
from functools import partial

import pytest
from sqlalchemy import select

from locker.db.models import Node, Registration
from locker.services.directory import MAX_PENDING
from node.contract.identifiers import uuid7
from node.contract.problems import Conflict, Forbidden, InvalidCredential, NotFound, ProblemError, TooManyRequests
from node.contract.records import sign_request
from node.contract.signing import CLIENT_ASSERTION, REGISTRATION, SigningKey, fingerprint, sign
from node.contract.times import SECOND, now_us
from tests.locker.conftest import ISS

ISSUER = "in.gov.meeseva.ap"


def test_a_registration_waits_and_counts_for_nothing(world) -> None:
    node = world.node()
    received = world.services.directory.register(node.registration(), now_us())
    assert (received.state, received.fingerprint, received.scope) == ("pending", fingerprint(node.keys), ())
    assert world.services.directory.public_issuers() == []
    with pytest.raises(Forbidden):
        world.push(node, world.row(f"{ISSUER}-INCOM-1"))


def test_the_officer_binds_keys_issuer_and_types(either_world) -> None:
    world = either_world
    node = world.department()
    received = world.services.directory.registration(node_id=node.node_id)
    assert (received.state, received.scope) == ("approved", ((ISSUER, ("CASTE", "INCOM")),))
    (issuer,) = world.services.directory.public_issuers()
    assert issuer["issuer"] == ISSUER and [t["doc_type"] for t in issuer["doc_types"]] == ["CASTE", "INCOM"]


def test_a_node_that_says_nothing_of_its_exposure_answers_requesters_itself(world) -> None:
    for node, claimed, kept in (
        (world.node(), {}, "direct"),
        (world.node(), {"exposure": "gateway-only"}, "gateway-only"),
    ):
        claims = {name: value for name, value in node.claims().items() if name != "exposure"}
        token = sign_request({**claims, **claimed}, node.registration_key, audience=ISS, now_us=now_us())
        world.services.directory.register(token, now_us())
        world.services.directory.approve(ISSUER, node.node_id, fingerprint(node.keys), now_us(), replace_keys=True)
        with world.database.read() as session:
            assert session.get(Node, node.node_id).exposure == kept


def test_another_fingerprint_approves_nothing(world) -> None:
    node = world.node()
    world.services.directory.register(node.registration(), now_us())
    with pytest.raises(Conflict, match="fingerprint"):
        world.services.directory.approve(ISSUER, node.node_id, "0000-" * 7 + "0000", now_us())
    assert world.services.directory.public_issuers() == []


def test_a_stranger_who_registers_under_the_same_node_id_gains_nothing(world) -> None:
    honest, stranger = world.node(), world.node()
    world.services.directory.register(honest.registration(), now_us())
    world.services.directory.register(stranger.registration(), now_us() + SECOND)
    world.services.directory.approve(ISSUER, honest.node_id, fingerprint(honest.keys), now_us())
    token = world.node_token(stranger)
    principal = world.services.tokens.authenticate(f"Bearer {token}", now_us())
    assert principal.role == "applicant"
    assert world.services.directory.registration(registration_id=principal.subject).state == "pending"


def test_an_applicant_who_takes_an_approved_nodes_id_does_not_replace_its_keys(either_world) -> None:
    world, issuer = either_world, "in.gov.birth"
    honest = world.department()
    held, stranger = world.node_token(honest), world.node(base_url="https://other.test", issuers=(issuer,))
    world.services.directory.register(stranger.registration(), now_us())
    approve = partial(world.services.directory.approve, issuer, stranger.node_id, fingerprint(stranger.keys), now_us())
    with pytest.raises(Conflict, match=f"answers for {ISSUER}; say --replace-keys"):
        approve()
    (before,) = world.services.directory.issuers()
    assert (before["fingerprint"], before["base_url"]) == (fingerprint(honest.keys), "https://node.test")
    assert world.services.tokens.authenticate(f"Bearer {held}", now_us()).role == "node"
    assert approve(replace_keys=True).rekeyed == (ISSUER,)
    assert {row["fingerprint"] for row in world.services.directory.issuers()} == {fingerprint(stranger.keys)}
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(f"Bearer {held}", now_us())


@pytest.mark.parametrize("other_keys", [False, True])
def test_approving_an_issuer_does_not_lift_the_suspension_of_its_node(world, other_keys: bool) -> None:
    node = world.department()
    world.services.suspensions.node(node.node_id)
    if other_keys:
        node = world.node()
    world.services.directory.register(node.registration(), now_us())
    approve = partial(
        world.services.directory.approve, ISSUER, node.node_id, fingerprint(node.keys), now_us(), replace_keys=True
    )
    with pytest.raises(Conflict, match="--resume-node"):
        approve()
    assert world.services.directory.public_issuers() == []
    approve(resume_node=True)
    assert len(world.services.directory.public_issuers()) == 1 and world.node_token(node)


def test_an_approved_issuer_is_not_given_to_another_node(world) -> None:
    world.department()
    other = world.node(node_id="node-other")
    world.services.directory.register(other.registration(), now_us())
    with pytest.raises(Conflict, match="another node"):
        world.services.directory.approve(ISSUER, other.node_id, fingerprint(other.keys), now_us())


@pytest.mark.parametrize("colliding", [f"{ISSUER}-north", "in.gov.meeseva.ap-INCOM", "IN.GOV.MEESEVA.AP-x"])
def test_an_issuer_that_extends_a_registered_one_at_a_hyphen_is_refused(world, colliding: str) -> None:
    world.department()
    with pytest.raises(Conflict, match="hyphen"):
        world.services.directory.register(world.node(node_id="n2", issuers=(colliding,)).registration(), now_us())
    with pytest.raises(Conflict, match="hyphen"):
        world.services.directory.add_issuer(colliding, "x", now_us())


def test_an_issuer_that_is_extended_by_a_registered_one_is_refused(world) -> None:
    world.department()
    world.services.directory.add_issuer("in.gov-north", "x", now_us())
    with pytest.raises(Conflict):
        world.services.directory.register(world.node(node_id="n2", issuers=("in.gov",)).registration(), now_us())


def test_two_issuers_of_one_registration_may_not_collide(world) -> None:
    with pytest.raises(Conflict):
        world.services.directory.register(world.node(issuers=("a", "a-b")).registration(), now_us())


def test_a_registration_signed_by_a_key_it_does_not_bring_is_refused(world) -> None:
    node = world.node()
    honest = node.claims()
    node.registration_key = SigningKey.generate(REGISTRATION)
    with pytest.raises(InvalidCredential):
        world.services.directory.register(node.registration(jwks=honest["jwks"]), now_us())


def test_a_client_assertion_key_cannot_sign_a_registration(world) -> None:
    node = world.node()
    node.registration_key = SigningKey.of(CLIENT_ASSERTION, node.registration_key.key)
    with pytest.raises(InvalidCredential) as refused:
        world.services.directory.register(node.registration(), now_us())
    assert refused.value.reason == "wrong-typ"


def test_a_registration_for_another_locker_or_too_old_is_refused(world) -> None:
    token = world.node().registration()
    with pytest.raises(InvalidCredential) as refused:
        world.services.directory.register(token, now_us() + 3600 * SECOND)
    assert refused.value.reason == "expired"


def test_the_same_registration_again_gives_the_same_answer(world) -> None:
    token = world.node().registration()
    first = world.services.directory.register(token, now_us())
    assert world.services.directory.register(token, now_us()) == first
    assert len(world.services.directory.registrations()) == 1


def test_an_address_that_the_policy_refuses_is_not_stored(world) -> None:
    with pytest.raises(ProblemError):
        world.services.directory.register(world.node(base_url="http://169.254.169.254").registration(), now_us())
    assert world.services.directory.registrations() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": "a b"},
        {"node_id": 7},
        {"name": ""},
        {"exposure": "open"},
        {"exposure": ["direct"]},
        {"issuers": []},
        {"issuers": [{"issuer": ISSUER}]},
        {"issuers": [{"issuer": "bad id", "name": "x", "doc_types": [{"doc_type": "A", "name": "a"}]}]},
        {"issuers": [{"issuer": ISSUER, "name": "x", "doc_types": [{"doc_type": "A-B", "name": "a"}]}]},
        {"issuers": [{"issuer": ISSUER, "name": "x", "doc_types": [{"doc_type": "A", "name": "a"}] * 2}]},
        {"jwks": {"keys": []}},
        {"jwks": None},
    ],
)
def test_malformed_claims_are_refused(world, changes) -> None:
    with pytest.raises(ProblemError) as refused:
        world.services.directory.register(world.node().registration(**changes), now_us())
    assert 400 <= refused.value.status < 500
    assert world.services.directory.registrations() == []


def test_one_nodes_registrations_lock_nobody_else_out_and_can_be_rejected(either_world) -> None:
    world, directory = either_world, either_world.services.directory
    approved = world.department()
    strangers = [world.node() for _ in range(5)]
    for stranger in strangers:
        directory.register(stranger.registration(), now_us())
    with pytest.raises(TooManyRequests):
        directory.register(world.node().registration(), now_us())
    directory.register(world.node(node_id="node-other", issuers=("in.gov.other",)).registration(), now_us())
    token = world.node_token(strangers[0])
    assert directory.reject("node-ap", fingerprint(strangers[0].keys).upper()) == 1
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(f"Bearer {token}", now_us())
    assert directory.reject("node-ap") == 4
    with pytest.raises(NotFound):
        directory.reject("node-ap")
    assert directory.registration(node_id="node-ap").fingerprint == fingerprint(approved.keys)
    assert {row["node_id"] for row in directory.registrations()} == {"node-ap", "node-other"}


def fill(world, count: int, network) -> None:
    """Registrations of invented nodes, as a flood would leave them; ``network`` gives that of each by its number."""
    with world.database.write() as session:
        session.add_all(
            Registration(
                registration_id=uuid7(), node_id=f"invented-{number}", fingerprint="0", jti="j", claims='{"issuers": []}',
                network=network(number), received_us=now_us() + number,
            )
            for number in range(count)
        )  # fmt: skip


def invented(world) -> list[int]:
    with world.database.read() as session:
        ids = session.scalars(select(Registration.node_id).where(Registration.node_id.startswith("invented-")))
        return sorted(int(node_id.removeprefix("invented-")) for node_id in ids)


def test_a_flood_from_some_networks_keeps_no_real_node_out(either_world) -> None:
    world, directory = either_world, either_world.services.directory
    fill(world, MAX_PENDING, lambda number: f"10.0.{number % 20}.0/24")
    node = world.node()
    assert directory.register(node.registration(), now_us(), "198.51.100.7").state == "pending"
    assert invented(world) == list(range(1, MAX_PENDING)), "the oldest of the largest went"
    for address in ("10.0.3.1", "10.0.3.255"):
        with pytest.raises(TooManyRequests, match="this network"):
            directory.register(world.node(node_id="n2", issuers=("in.gov.x",)).registration(), now_us(), address)
    assert directory.approve(ISSUER, node.node_id, fingerprint(node.keys), now_us()).doc_types


def test_a_flood_from_as_many_networks_as_there_are_places_gives_up_its_own_oldest(world) -> None:
    fill(world, MAX_PENDING, lambda number: f"10.{number // 256}.{number % 256}.0/24")
    node = world.node()
    world.services.directory.register(node.registration(), now_us(), "198.51.100.7")
    assert invented(world) == list(range(1, MAX_PENDING))
    with pytest.raises(TooManyRequests, match="too many registrations wait"):
        stranger = world.node(node_id="n2", issuers=("in.gov.x",))
        world.services.directory.register(stranger.registration(), now_us(), "198.51.100.8")
    again = world.services.directory.register(node.registration(), now_us(), "198.51.100.7")
    assert again.node_id == node.node_id, "the same node again takes its own place"


def test_ipv6_is_counted_by_what_one_subscriber_has(world) -> None:
    fill(world, 50, lambda number: "2001:db8:7::/48")
    with pytest.raises(TooManyRequests):
        world.services.directory.register(world.node().registration(), now_us(), "2001:db8:7:ffff::1")
    assert world.services.directory.register(world.node().registration(), now_us(), "2001:db8:8::1")


def test_a_registration_that_is_given_up_takes_its_tokens_along(world) -> None:
    first = world.node(node_id="n1", issuers=("in.gov.n1",))
    world.services.directory.register(first.registration(), now_us(), "10.1.1.1")
    token = world.node_token(first)
    fill(world, MAX_PENDING - 1, lambda number: f"10.{number // 256 + 2}.{number % 256}.0/24")
    world.services.directory.register(world.node().registration(), now_us(), "198.51.100.7")
    with pytest.raises(InvalidCredential):
        world.services.tokens.authenticate(f"Bearer {token}", now_us())


@pytest.mark.parametrize("jti", ["a\x00b", "", "x" * 129, "\u0b85"])
def test_a_registration_whose_jti_a_database_cannot_hold_is_refused(either_world, jti: str) -> None:
    node, now = either_world.node(), now_us() // SECOND
    claims = {**node.claims(), "aud": "http://locker.test", "jti": jti, "iat": now, "exp": now + 60}
    with pytest.raises(InvalidCredential):
        either_world.services.directory.register(sign(claims, node.registration_key), now_us())


def test_suspending_an_issuer_acts_at_once(world) -> None:
    node = world.department()
    world.services.suspensions.issuer(ISSUER)
    (result,) = world.push(node, world.row(f"{ISSUER}-INCOM-1"))
    assert result["outcome"] == "refused" and result["problem"]["type"].endswith("/out-of-scope")
    assert world.services.directory.public_issuers() == []


def test_suspending_a_node_ends_its_tokens(world) -> None:
    node = world.department()
    token = world.node_token(node)
    world.services.suspensions.node(node.node_id)
    with pytest.raises(InvalidCredential) as refused:
        world.services.tokens.authenticate(f"Bearer {token}", now_us())
    assert refused.value.reason == "suspended"
    with pytest.raises(Exception, match="not accepted"):
        world.node_token(node)


def test_unknown_names_are_said_to_be_unknown(world) -> None:
    for call in (
        lambda: world.services.suspensions.issuer("nobody"),
        lambda: world.services.suspensions.node("nobody"),
        lambda: world.services.directory.approve("nobody", "n", "f", now_us()),
        lambda: world.services.directory.registration(node_id="nobody"),
    ):
        with pytest.raises(NotFound):
            call()


def test_registrations_at_once_are_all_kept(either_world) -> None:
    world = either_world
    errors: list[BaseException] = []

    def register(number: int) -> None:
        try:
            node = world.node(node_id=f"node-{number}", issuers=(f"in.gov.{number}",))
            world.services.directory.register(node.registration(), now_us())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=register, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(world.services.directory.registrations()) == 8
