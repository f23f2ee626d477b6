"""A locker's services over a real database, with a clock that tests move and a node that signs for itself."""

import asyncio
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from locker.application import build_app
from locker.config import Settings, load_settings
from locker.db.session import Database
from locker.keys import LockerKeys, create_keys
from locker.services.assembly import Services, assemble
from locker.services.attempts import GATEWAY, OWN, RESOLVE, Asked
from locker.services.consents import ConsentView, NewConsent
from locker.services.links import NewIdentifier
from locker.services.records import AttemptFilter, Window
from locker.services.tickets import Granted, TicketRequest
from locker.services.tokens import bearer_digest
from locker.wiring import Locker, build_locker
from node.contract.holders import Holder
from node.contract.identifiers import uuid7
from node.contract.problems import ProblemError
from node.contract.records import ASSERTION_TYPE, client_assertion, sign_request
from node.contract.signing import CLIENT_ASSERTION, REGISTRATION, KeySet, SigningKey, fingerprint
from node.contract.tickets import verify_ticket
from node.contract.times import DAY, now_us
from node.web.processes import bind, url_of
from node.web.server import ServerSettings, build_server
from tests.databases import MigratedDatabases
from tests.locker.commands import run
from tests.locker.documents import CASTE, INCOME, ISSUER, MOBILE

ISS = "http://locker.test"


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
    exposure: str = "direct"
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
            "exposure": self.exposure,
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
    asha: str = ""
    ap: FakeNode = field(default_factory=FakeNode)
    university: str = ""

    def fill(self, **fields: Any) -> "World":
        """Have a resident with two documents of a department, whose node has these fields."""
        self.asha, self.ap = self.resident(), self.department(**fields)
        self.push(self.ap, self.row(INCOME, MOBILE), self.row(CASTE, MOBILE))
        return self

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

    def wish(self, token: str, consent_id: str | None, *uris: str, **changes: Any) -> TicketRequest:
        """A request as the data plane would hand it over."""
        operation = OWN if consent_id is None else GATEWAY if changes.get("act") else RESOLVE
        asked = changes.pop("asked", Asked(operation, "198.51.100.7", "request-1"))
        return TicketRequest(bearer_digest(f"Bearer {token}"), uris, asked, consent_id, **changes)

    def tickets(self, token: str, consent_id: str | None, *uris: str, **changes: Any) -> list[Granted | ProblemError]:
        request = self.wish(token, consent_id, *uris, **changes)
        outcomes = self.services.tickets.issue([request])[0]
        if isinstance(outcomes, BaseException):
            raise outcomes
        return outcomes

    def attempts(self, **wanted: Any) -> list[dict[str, Any]]:
        """Every attempt that is recorded, without the fields that it does not have."""
        rows, following = self.services.records.attempts(Window(limit=1000), AttemptFilter(**wanted))
        assert following is None
        return [{name: value for name, value in row.items() if value is not None} for row in rows]


def make_world(folder: Path, database: Database) -> World:
    keys = create_keys(folder / "keys")
    (folder / "locker.toml").write_text(f'base_url = "{ISS}"\n')
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
def folder(tmp_path: Path) -> Path:
    """A new locker's folder, as ``locker init`` leaves it."""
    run("init", str(tmp_path / "l"), "--base-url", ISS, "--port", "0")
    return tmp_path / "l"


@pytest.fixture
def empty_database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


@pytest.fixture
def database(locker_database_url: str) -> Iterator[Database]:
    database = Database(locker_database_url)
    yield database
    database.dispose()


@pytest.fixture
def sqlite_database(tmp_path: Path, migrated: MigratedDatabases) -> Iterator[Database]:
    database = Database(migrated.sqlite("locker", tmp_path / "locker.db"))
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


@dataclass
class StandInNode:
    """A small real node: checks the ticket by the contract, then does what the test tells it to."""

    body: bytes = bytes(range(256)) * 4096
    behaviour: str = "serve"
    keys: KeySet | None = None
    tickets: list[Any] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.requests.append((scope["method"], scope["path"], headers))
        if scope["path"] == "/healthz":
            return await self._send(send, 200, b"{}")
        ticket = verify_ticket(headers["authorization"].removeprefix("Bearer "), self.keys)
        ticket.require_current(now_us())
        assert ticket.aud == "node-ap"
        assert scope["path"].endswith(f"{ticket.issuer}-{ticket.doc_type}-{ticket.doc_id}")
        self.tickets.append(ticket)
        await getattr(self, self.behaviour.replace("-", "_"))(scope, headers, receive, send)

    async def _send(self, send: Any, status: int, body: bytes = b"", **headers: str) -> None:
        named = {"content-length": str(len(body)), "content-type": "application/pdf", **headers}
        raw = [(n.replace("_", "-").encode(), v.encode()) for n, v in named.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async def serve(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        etag = f'"{hashlib.sha256(self.body).hexdigest()}"'
        more = {"etag": etag, "x_internal": "secret", "set_cookie": "a=b", "vary": "Accept"}
        more["link"] = '</v1/documents/in.gov.meeseva.ap-INCOM-2>; rel="successor-version"'
        if headers.get("if-none-match") == etag:
            return await self._send(send, 304, etag=etag)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""), re.ASCII)  # other ranges may be ignored
        if wanted and headers.get("if-range", etag) == etag:
            first, last = (int(number) for number in wanted.groups())
            if first >= len(self.body) or last < first:
                return await self._send(send, 416, content_range=f"bytes */{len(self.body)}")
            part = self.body[first : last + 1]
            more["content_range"] = f"bytes {first}-{first + len(part) - 1}/{len(self.body)}"
            return await self._send(send, 206, part, **more)
        await self._send(send, 200, self.body, **more)

    async def endless(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        watcher = asyncio.ensure_future(self._watch(receive))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/pdf")]})
        while not watcher.done():
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            self.sent += 65536
            await asyncio.sleep(0.005)

    async def hang(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        await self._watch(receive)

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def short(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        length = str(len(self.body)).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": self.body[:500_000], "more_body": True})
        await asyncio.sleep(0.2)
        scope["extensions"]["federated_locker.connection"].abort()

    async def redirect(self, scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
        await self._send(send, 302, location="http://169.254.169.254/latest")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("status_"):
            raise AttributeError(name)

        async def answer(scope: Any, headers: dict[str, str], receive: Any, send: Any) -> None:
            await self._send(send, int(name.removeprefix("status_")), b"the node's own words", retry_after="7")

        return answer


Serve = Callable[[Any], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve applications on free ports, each in a thread, until the test ends; returns the URL."""
    running: list[tuple[Any, threading.Thread]] = []

    def start(app: Any) -> str:
        bound = bind("127.0.0.1", 0)
        server = build_server(app, ServerSettings(drain_seconds=0.2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        running.append((server, thread))
        return url_of(bound)

    yield start
    for server, thread in reversed(running):
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@dataclass
class Live:
    """A locker behind a real socket, with its services in reach, and a node stand-in behind another."""

    world: World
    locker: Locker
    url: str
    node: StandInNode
    node_url: str
    client: httpx.Client

    def send(self, method: str, path: str, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {}), **({"authorization": f"Bearer {token}"} if token else {})}
        return self.client.request(method, path, headers=headers, **more)


@pytest.fixture
def live(tmp_path: Path, sqlite_database: Database, serve: Serve, contract_read_once: None) -> Iterator[Live]:
    create_keys(tmp_path / "keys")
    (tmp_path / "locker.toml").write_text(
        f'base_url = "{ISS}"\ndatabase_url = "sqlite:///locker.db"\nallow_private = ["127.0.0.0/8"]\n'
        "node_connect_timeout_seconds = 1\nnode_first_byte_timeout_seconds = 3\nsend_timeout_seconds = 2\n"
    )
    clock = Clock()
    locker = build_locker(load_settings(tmp_path), clock=clock)
    node = StandInNode(keys=locker.keys.public)
    node_url, url = serve(node), serve(build_app(locker, validate_responses=True))
    world = World(locker.settings, locker.database, locker.keys, locker.services, clock, [], [])
    with httpx.Client(base_url=url, timeout=10) as client:
        wait_until_ready(client)
        yield Live(world, locker, url, node, node_url, client)
    locker.close()


def wait_until_ready(client: httpx.Client) -> None:
    for _ in range(200):
        try:
            if client.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            threading.Event().wait(0.02)
    raise AssertionError("the locker did not start")
