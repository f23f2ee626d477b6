"""A locker's services over a real database, with a clock that tests move and a node that signs for itself."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from locker.config import Settings, load_settings
from locker.db.migration import upgrade
from locker.db.session import Database
from locker.keys import LockerKeys, create_keys
from locker.services.assembly import Services, assemble
from locker.services.consents import ConsentView, NewConsent
from locker.services.links import NewIdentifier
from locker.services.tickets import Granted, TicketRequest
from locker.services.tokens import bearer_digest
from node.contract.holders import Holder
from node.contract.identifiers import uuid7
from node.contract.problems import ProblemError
from node.contract.records import ASSERTION_TYPE, client_assertion, sign_request
from node.contract.signing import CLIENT_ASSERTION, REGISTRATION, KeySet, SigningKey, fingerprint
from node.contract.times import DAY, now_us

ISS = "http://locker.test"
ISSUER = "in.gov.meeseva.ap"
INCOME = f"{ISSUER}-INCOM-9606884969"


class Clock:
    def __init__(self) -> None:
        self.offset = 0

    def __call__(self) -> int:
        return now_us() + self.offset


@dataclass
class FakeNode:
    """A department's node as far as a locker sees it: keys, a registration, pushes."""

    node_id: str = "node-ap"
    base_url: str = "https://node.test"
    issuers: tuple[str, ...] = (ISSUER,)
    doc_types: tuple[str, ...] = ("INCOM", "CASTE")
    registration_key: SigningKey = field(default_factory=lambda: SigningKey.generate(REGISTRATION))
    client_key: SigningKey = field(default_factory=lambda: SigningKey.generate(CLIENT_ASSERTION))

    @property
    def keys(self) -> KeySet:
        return KeySet([self.registration_key.public, self.client_key.public])

    def claims(self) -> dict[str, Any]:
        parameters = [{"name": "number", "label": "Certificate number", "required": True}]
        doc_types = [
            {"doc_type": t, "name": t.title(), "search_parameters": parameters, "media_types": ["application/pdf"]}
            for t in self.doc_types
        ]
        return {
            "node_id": self.node_id,
            "name": "A department",
            "base_url": self.base_url,
            "jwks": self.keys.jwks(),
            "issuers": [{"issuer": issuer, "name": "An issuer", "doc_types": doc_types} for issuer in self.issuers],
        }

    def registration(self, **changes: Any) -> str:
        return sign_request({**self.claims(), **changes}, self.registration_key, audience=ISS, now_us=now_us())


@dataclass
class World:
    settings: Settings
    database: Database
    keys: LockerKeys
    services: Services
    clock: Clock
    asked: list[tuple[str, str, Any]]
    answers: list[Any]
    secrets: dict[str, str] = field(default_factory=dict)

    def node(self, **fields: Any) -> FakeNode:
        return FakeNode(**fields)

    def department(self, **fields: Any) -> FakeNode:
        """A node that an officer has approved."""
        return self.approve(FakeNode(**fields))

    def approve(self, node: FakeNode) -> FakeNode:
        self.services.directory.register(node.registration(), now_us())
        for issuer in node.issuers:
            self.services.directory.approve(issuer, node.node_id, fingerprint(node.keys), now_us())
        return node

    def seal(self, scheme: str, value: str, uri: str) -> dict[str, str]:
        holder = Holder.parse(scheme, value)
        public = self.keys.opening.public
        sealed = public.seal(holder.value.encode(), uri.lower())
        return {"scheme": scheme, "sealed": sealed, "key_id": public.kid, "last4": holder.last_four}

    def row(self, uri: str, holder: tuple[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        document = {"title": "Income", "status": "active", "version": 1, "representations": []}
        sealed = None if holder is None else self.seal(*holder, uri)
        row = {"row_id": uuid7(), "kind": "add", "uri": uri, "revision": 1, "document": document, "holder": sealed}
        return {**row, **changes}

    def push(self, node: FakeNode, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        return self.services.links.push(node.node_id, rows, self.clock())

    def resident(self, mobile: str = "9876543210", source: str = "mobile-verified") -> str:
        identifier = NewIdentifier(Holder.parse("mobile", mobile), source)
        return self.services.links.add_resident("Asha", [identifier], {}, self.clock())[0]

    def resident_token(self, resident_id: str) -> str:
        now = self.clock()
        return self.services.tokens.create("resident", resident_id, now + 30 * DAY, now).token

    def requester(self, client_id: str = "university") -> str:
        """Register a requester and return an access token of its own."""
        secret = self.services.tokens.add_requester(client_id, client_id.title(), None, self.clock())
        self.secrets[client_id] = str(secret)
        return self.client_token(client_id)

    def client_token(self, client_id: str) -> str:
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": self.secrets[client_id]}
        return self.services.tokens.grant(form, None, self.clock()).token

    def node_token(self, node: FakeNode) -> str:
        assertion = client_assertion(node.node_id, node.client_key, audience=ISS, now_us=now_us())
        form = {
            "grant_type": "client_credentials",
            "client_assertion": assertion,
            "client_assertion_type": ASSERTION_TYPE,
        }
        return self.services.tokens.grant(form, None, self.clock()).token

    def consent(self, resident_id: str, *uris: str, client_id: str = "university", **changes: Any) -> ConsentView:
        new = {
            "client_id": client_id,
            "uris": uris,
            "purpose": "admission",
            "purpose_text": "Admission",
            "expires_us": self.clock() + DAY,
            **changes,
        }
        return self.services.consents.give(resident_id, NewConsent(**new))

    def tickets(self, token: str, consent_id: str | None, *uris: str, **changes: Any) -> list[Granted | ProblemError]:
        request = TicketRequest(bearer_digest(f"Bearer {token}"), uris, consent_id, **changes)
        outcomes = self.services.tickets.issue([request])[0]
        if isinstance(outcomes, BaseException):
            raise outcomes
        return outcomes


def make_world(folder: Path, database: Database) -> World:
    keys = create_keys(folder / "keys")
    (folder / "locker.toml").write_text(f'public_url = "{ISS}"\n')
    settings = load_settings(folder)
    clock, asked, answers = Clock(), [], []

    def ask(node_id: str, url: str, bearer: str | None, body: Any) -> Any:
        asked.append((url, bearer, body))
        return answers.pop(0)

    def check_address(url: str) -> None:
        if "169.254" in url:
            raise ProblemError("no such address")

    services = assemble(settings, database, keys, check_address=check_address, ask=ask, clock=clock)
    return World(settings, database, keys, services, clock, asked, answers)


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def database(empty_database: Database) -> Database:
    upgrade(empty_database)
    return empty_database


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/locker.db")
    upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def world(tmp_path: Path, sqlite_database: Database) -> World:
    """On SQLite: for rules that hold whatever the database."""
    return make_world(tmp_path, sqlite_database)


@pytest.fixture
def either_world(tmp_path: Path, database: Database) -> World:
    """On SQLite and on PostgreSQL: for rules that rest on locks and transactions."""
    return make_world(tmp_path, database)
