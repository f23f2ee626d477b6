"""Node and locker as they are joined: both planes inside the middleware, with data, on a socket, and a credential of each role."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import update

from locker.application import build_app
from locker.config import load_settings
from locker.keys import create_keys
from locker.roots import create_root, open_root, revoke
from locker.wiring import build_locker
from node.asgi import build_web
from node.contract.times import DAY, MINUTE, format_time, now_us
from node.db import catalogue
from node.db.models import Locker as LockerRow
from node.db.tokens import list_tokens, revoke_token
from node.services.ports import DocTypeRecord
from node.web.processes import bind, url_of
from node.web.server import ServerSettings, build_server
from tests.delivery.conftest import ISS, ISSUER, ServedNode, make_node
from tests.http.plane import Locker, pull_body
from tests.locker.conftest import Clock, FakeNode, StandInNode, World

LOCKER_ISS = "http://locker.test"
DOCUMENT = f"{ISSUER}-INCOM-1"
PULL = pull_body()
NODE_ROLES = ("operator", "auditor", "monitor", "ticket", "locker", "log-grant")
LOCKER_ROLES = ("operator", "auditor", "node", "requester", "resident")
JSON = "application/json"
MOBILE = ("mobile", "9876543210")
INCOME, CASTE = "in.gov.meeseva.ap-INCOM-1", "in.gov.meeseva.ap-CASTE-1"

NODE_BODIES = {
    "put_document": ("application/pdf", b"%PDF-1.7 new"),
    "change_document_metadata": (JSON, {"title": "Income certificate"}),
    "set_document_status": (JSON, {"status": "active"}),
    "pull_document": (JSON, PULL),
    "lookup_holder": (JSON, {"scheme": "mobile", "value": "9876543210"}),
}


@contextlib.contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an application on a free port in a thread; gives its URL."""
    bound = bind("127.0.0.1", 0)
    server = build_server(app, ServerSettings(drain_seconds=0.5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        threading.Event().wait(0.01)
    try:
        yield url_of(bound)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class JoinedNode:
    """A served node; ``bearers`` makes the credential of a role for a request with the given JSON body."""

    served: ServedNode
    locker: Locker
    url: str
    http: httpx.Client
    bearers: dict[str, Callable[[Any], str]] = field(default_factory=dict)

    def bearer(self, role: str, body: Any = None) -> str:
        return self.bearers[role](body)

    def revoked_token(self) -> str:
        token = self.served.token("operator")
        with self.served.node.database.writing() as connection:
            assert revoke_token(connection, list_tokens(connection)[-1].token_id, now_us())
        return token

    def events(self) -> list[dict[str, Any]]:
        return self.served.events()


@contextlib.contextmanager
def joined_node(folder: Path, database_url: str, **settings: Any) -> Iterator[JoinedNode]:
    """A node with a document, a document type and a trusted locker, both planes served."""
    served = make_node(folder, database_url, **settings)
    locker = Locker(ISS)
    with served.node.database.writing() as connection:
        parameters = ({"name": "number", "label": "Number", "required": True},)
        catalogue.add_doc_type(connection, DocTypeRecord(ISSUER, "INCOM", "Income", parameters), now_us())
        connection.execute(update(LockerRow).values(jwks=locker.jwks()))
    served.add("1", b"%PDF-1.7 one")
    served.add("changed", b"%PDF-1.7 changed")
    tokens = {role: served.token(role) for role in ("operator", "auditor", "monitor")}
    with serving(build_web(served.node, "process-1", "tests")) as url, httpx.Client(base_url=url, timeout=20) as http:
        joined = JoinedNode(served, locker, url, http)
        joined.bearers = {role: lambda _, token=token: token for role, token in tokens.items()}
        joined.bearers["ticket"] = lambda _: locker.ticket("1")
        joined.bearers["locker"] = lambda body: locker.pull(body if _is_pull(body) else PULL)
        joined.bearers["log-grant"] = lambda _: locker.log_grant(scope="holder", holder_ref="h-1")
        yield joined
    served.node.close()


def _is_pull(body: Any) -> bool:
    try:
        return all(isinstance(body[name], str) for name in ("txn", "issuer", "doc_type")) and isinstance(
            body["resident"]["resident_ref"], str
        )
    except (TypeError, KeyError):
        return False


class SearchedNode(StandInNode):
    """A node stand-in that also answers searches: an officer looks at each."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/.well-known/federated-locker":
            return await self._send(send, 200, b'{"encryption_keys": []}', content_type="application/json")
        if scope["type"] == "http" and scope["path"] == "/v1/pulls":
            while (await receive()).get("more_body"):
                pass
            return await self._send(send, 200, b'{"outcome": "pending"}', content_type="application/json")
        await super().__call__(scope, receive, send)


@dataclass
class JoinedLocker:
    """A served locker with a resident, two linked documents, a consent, and an access token for each role."""

    world: World
    url: str
    http: httpx.Client
    stand_in: StandInNode
    tokens: dict[str, str]
    consent_id: str
    resident_id: str
    node: Any

    def bearer(self, role: str, body: Any = None) -> str:
        return self.tokens[role]

    def fresh_consent_id(self) -> str:
        """For what ends or narrows a consent, so that no other test misses it."""
        return self.world.consent(self.resident_id, INCOME).consent_id

    def expired_token(self) -> str:
        return self.world.services.tokens.create("operator", "late", now_us() - 1, now_us() - 2).token

    def revoked_token(self) -> str:
        token = self.world.services.tokens.create("operator", "gone", now_us() + DAY, now_us()).token
        assert self.world.services.tokens.revoke("gone") == 1
        return token


@contextlib.contextmanager
def joined_locker(folder: Path) -> Iterator[JoinedLocker]:
    """A locker on SQLite with a node stand-in behind a socket of its own."""
    from locker.db.migration import upgrade

    create_keys(folder / "keys")
    create_root(folder / "keys", folder / "root.pem", None, iss=LOCKER_ISS, now_us=now_us())
    revoke(
        folder / "keys",
        open_root(folder / "root.pem", None),
        ["old"],
        "lost",
        iss=LOCKER_ISS,
        now_us=now_us(),
        unknown=True,
    )
    (folder / "locker.toml").write_text(
        f'base_url = "{LOCKER_ISS}"\ndatabase_url = "sqlite:///locker.db"\nallow_private = ["127.0.0.0/8"]\n'
        "node_connect_timeout_seconds = 1\nnode_first_byte_timeout_seconds = 3\nsend_timeout_seconds = 2\n"
        'trusted_proxies = ["127.0.0.1/32"]\n'
    )
    clock = Clock()
    locker = build_locker(load_settings(folder), clock=clock)
    upgrade(locker.database)
    world = World(locker.settings, locker.database, locker.keys, locker.services, clock, [], [])
    stand_in = SearchedNode(body=bytes(range(256)) * 4, keys=locker.keys.public)
    with contextlib.ExitStack() as stack:
        node_url = stack.enter_context(serving(stand_in))
        resident, node = world.resident(), world.department(base_url=node_url)
        world.push(node, world.row(INCOME, MOBILE), world.row(CASTE, MOBILE))
        tokens = {
            "requester": world.requester(), "resident": world.resident_token(resident), "node": world.node_token(node),
        }  # fmt: skip
        for role in ("auditor", "operator"):
            tokens[role] = world.services.tokens.create(role, role, now_us() + DAY, now_us()).token
        consent, gone = world.consent(resident, INCOME), world.consent(resident, INCOME)
        world.services.consents.revoke(resident, gone.consent_id)
        url = stack.enter_context(serving(build_app(locker)))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=20))
        yield JoinedLocker(world, url, http, stand_in, tokens, consent.consent_id, resident, node)
    locker.close()


def locker_bodies(locker: JoinedLocker) -> dict[str, tuple[str, Any]]:
    """A body for each operation that takes one, which does what the operation is for."""
    world = locker.world
    consent = {
        "requester": "university",
        "uris": [INCOME],
        "purpose": {"code": "admission", "text": "Admission"},
        "expires_at": format_time(now_us() + DAY),
    }
    form = {
        "grant_type": "client_credentials",
        "client_id": "university",
        "client_secret": world.secrets["university"],
    }
    registration = FakeNode("node-new", locker.node.base_url, issuers=("in.gov.new",)).registration()
    search = {"issuer": INCOME.partition("-")[0], "doc_type": "INCOM", "parameters": {"number": "1"}}
    return {
        "issue_token": ("application/x-www-form-urlencoded", form),
        "register_node": (JSON, {"registration": registration}),
        "push_documents": (JSON, {"rows": [world.row(INCOME, ("mobile", "9876543210"))]}),
        "resolve_documents": (JSON, {"consent_id": locker.consent_id, "uris": [INCOME, CASTE]}),
        "issue_own_ticket": (JSON, {"uri": INCOME}),
        "pull_own_document": (JSON, search),
        "give_consent": (JSON, consent),
        "narrow_consent": (JSON, {"expires_at": format_time(now_us() + DAY - MINUTE)}),
        "revoke_consent": (JSON, {"reason": "done"}),
        "issue_log_grant": (JSON, {"node_id": "node-ap"}),
    }
