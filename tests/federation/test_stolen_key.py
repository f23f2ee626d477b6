"""A thief has the locker's keys: what a node makes of it, from the theft to the first ticket under the new key."""

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from locker.application import build_app
from locker.config import load_settings
from locker.db.migration import upgrade
from locker.key_publication import EVERY
from locker.keys import create_keys
from locker.roots import create_root, open_root, revoke
from locker.wiring import Locker, build_locker
from node.contract.identifiers import uuid7
from node.contract.records import sign_request
from node.contract.revocation import RevocationEntry, RevocationPage, issue_page
from node.contract.signing import LOG_GRANT, PULL, REVOCATION, TICKET, SignatureRefused, SigningKey, fingerprint
from node.contract.tickets import Ticket, issue_ticket
from node.contract.times import HOUR, MINUTE, SECOND, now_us
from node.db.control_records import ControlRecords
from node.http.credentials import Credentials
from node.services.access import NodeRules
from node.services.verifying import PublishedKeys, TicketVerifier
from node.web.processes import bind, url_of
from node.web.server import ServerSettings, build_server
from tests.federation.conftest import NODE_ID


@contextlib.contextmanager
def served(locker: Locker, bound):
    server = build_server(build_app(locker), ServerSettings(drain_seconds=0.2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        locker.close()


@dataclass
class Place:
    """A locker's folder and the address at which one process after the other serves it."""

    folder: Path
    url: str
    bound: object

    ahead_us: int = 0

    def process(self) -> Locker:
        return build_locker(load_settings(self.folder), clock=lambda: now_us() + self.ahead_us)


@pytest.fixture
def place(tmp_path):
    bound = bind("127.0.0.1", 0)
    folder, url = tmp_path / "locker", url_of(bound)
    create_keys(folder / "keys")
    (folder / "locker.toml").write_text(
        f'base_url = "{url}"\ndatabase_url = "sqlite:///locker.db"\nallow_private = ["127.0.0.0/8"]\n'
    )
    made = Place(folder, url, bound)
    create_root(folder / "keys", tmp_path / "root.pem", None, iss=url, now_us=now_us())
    locker = made.process()
    upgrade(locker.database)
    locker.services.revocations.keep_fresh(now_us())
    locker.close()
    yield made
    bound.close()


@pytest.fixture
def side(make_side, tmp_path):
    return make_side(f"sqlite:///{tmp_path}/node.db")


def join(side, locker, url):
    side.offer_type()
    registered = side.registration.register(url)
    locker.services.directory.approve("in.x", NODE_ID, fingerprint(side.keys.public), now_us())
    assert side.registration.check(url) == "approved"
    return registered


def ticket(url: str, key: SigningKey) -> str:
    now = now_us()
    made = Ticket(
        iss=url, aud=NODE_ID, client_id="thief", act=None, issuer="in.x", doc_type="INC", doc_id="1", version=None,
        representations=None, holder_ref="h", consent_id=uuid7(), artefact="0" * 64, basis="consent",
        purpose="any", jti=uuid7(), iat=now // SECOND, exp=now // SECOND + 600, issued_us=now,
    )  # fmt: skip
    return issue_ticket(made, key)


class Door:
    """The data plane's verifier and the control plane's, over what the node has stored."""

    def __init__(self, side, url: str) -> None:
        self.side, self.url, self.verifier = side, url, TicketVerifier()
        rules = NodeRules(NODE_ID, False)
        records = ControlRecords(side.database)
        self.control = Credentials(records, rules, {}, side.lists.try_refresh_keys, side.clock)

    def opens(self, token: str) -> str:
        row = self.side.lockers.find(self.url)
        try:
            self.verifier.verify(token, PublishedKeys(row.iss, row.jwks, row.revoked_keys))
        except SignatureRefused as refused:
            return refused.reason
        return "open"

    def identifies(self, token: str) -> str:
        try:
            self.control.identify(f"Bearer {token}")
        except SignatureRefused as refused:
            return refused.reason
        return "open"


def requests(url: str, keys) -> dict[str, str]:
    claims = {"iss": url, "sub": "h", "resident_ref": "h", "txn": "t", "issuer": "in.x", "doc_type": "INC"}
    grant = {"iss": url, "scope": "client", "client_id": "thief"}
    return {
        "pull": sign_request(claims, keys[PULL], audience=NODE_ID, now_us=now_us()),
        "log-grant": sign_request(grant, keys[LOG_GRANT], audience=NODE_ID, now_us=now_us()),
        "ticket": ticket(url, keys[TICKET]),
    }


def test_a_thief_of_all_keys_is_shut_out_and_the_locker_goes_on(place, side, tmp_path):
    running = place.process()
    stolen = dict(running.keys.signing)
    with served(running, place.bound.dup()):
        registered = join(side, running, place.url)
        assert registered.root_fingerprint != "none"
        door = Door(side, place.url)
        side.lists.follow(place.url)
        theirs = requests(place.url, stolen)
        assert {name: door.identifies(token) for name, token in theirs.items()} == dict.fromkeys(theirs, "open")
        assert door.opens(theirs["ticket"]) == "open"
        # The officer revokes every key of the folder; the process that was running still answers for a moment.
        root = open_root(tmp_path / "root.pem", None)
        kids = [key.kid for key in stolen.values()]
        done = revoke(place.folder / "keys", root, kids, "compromised", iss=place.url, now_us=now_us())
        assert len(done.replaced) == 5
        place.ahead_us = EVERY  # the files are read again every few seconds
        assert side.roots.follow(place.url).revoked == set(kids)
        row = side.lockers.find(place.url)
        assert all(kid in row.jwks for kid in kids), "the node's copy of the key set still lists them"
        assert door.opens(theirs["ticket"]) == "key-revoked", "although it was checked a moment ago"
        assert {door.identifies(token) for token in requests(place.url, stolen).values()} == {"key-revoked"}
        # A page that the thief signs to void nothing, or something else, is not taken either.
        known = side.lockers.find(place.url)
        forged = RevocationPage(
            place.url, known.list_sequence + 1, known.list_digest, 1, now_us(), now_us() + HOUR,
            (RevocationEntry("x", 1),),
        )  # fmt: skip
        with pytest.raises(SignatureRefused, match="revoked"):
            side.lists._verified(known, issue_page(forged, stolen[REVOCATION]))
    renewed = place.process()
    assert not set(kids) & {key.kid for key in renewed.keys.signing.values()}
    renewed.services.revocations.keep_fresh(now_us())
    with served(renewed, place.bound.dup()):
        ours = requests(place.url, renewed.keys.signing)
        assert door.opens(ours["ticket"]) == "unknown-key"
        side.ahead_us = MINUTE + SECOND
        assert side.lists.refresh_keys(place.url)
        side.ahead_us = 0
        assert door.opens(ours["ticket"]) == "open"
        assert {door.identifies(token) for token in ours.values()} == {"open"}
        report = side.lists.follow(place.url)
        assert (report.refused, report.taken) == (None, 1)
        assert side.lists.follow(place.url).taken == 0
