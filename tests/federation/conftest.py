"""A stand-in for a locker, on a real socket: it checks all that a node sends by the contract, and fails when it is told to."""

import functools
import importlib.resources
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from connexion.json_schema import Draft4RequestValidator
from sqlalchemy import insert

from node.contract.holders import Holder
from node.contract.identifiers import new_secret, uuid7
from node.contract.key_revocation import KeyRevocationList, RevokedKey, issue_key_list
from node.contract.problems import PROBLEM_BASE
from node.contract.records import ASSERTION_TYPE, verify_request
from node.contract.revocation import RevocationEntry, RevocationPage, issue_page, page_digest
from node.contract.sealing import OpeningKey
from node.contract.signing import (
    CLIENT_ASSERTION,
    LOCKER_PURPOSES,
    REGISTRATION,
    REVOCATION,
    REVOKED_KEYS,
    KeySet,
    SigningKey,
    fingerprint,
    read_claims_unverified,
)
from node.contract.times import HOUR, now_us
from node.contract.uri import DocumentURI
from node.db import catalogue, schema
from node.db.holder_seals import seal_holder
from node.db.lockers import LockerRecords
from node.db.models import Representation
from node.db.offer import Offer
from node.db.outbox import OutboxRecords, announce
from node.db.session import Database
from node.keys import NodeKeys, create_keys
from node.services.locker_client import LockerClient
from node.services.locker_lists import LockerLists
from node.services.locker_roots import LockerRoots
from node.services.ports import DocTypeRecord
from node.services.push import Push
from node.services.registration import Registration
from node.web.circuits import Circuits
from node.web.outbound import OutboundClient, OutboundLimits
from node.web.specification import load_specification
from tests.federation.running import Federation, running_federation

NODE_ID = "node-1"
INTRODUCTION = SimpleNamespace(node_id=NODE_ID, name="Node", base_url="http://127.0.0.1:1", exposure="gateway-only")


@functools.cache
def push_validator() -> Draft4RequestValidator:
    """Return what checks a push by the locker's contract."""
    specification = load_specification(importlib.resources.files("openapi"), "locker.yaml")
    content = specification["paths"]["/v1/push"]["post"]["requestBody"]["content"]
    return Draft4RequestValidator({**content["application/json"]["schema"], "components": specification["components"]})


class Cut(Exception):
    """The connection breaks without an answer."""


@dataclass
class StandInLocker:
    """What a locker knows, and the faults that it shows next: a status, or "cut" after its work was done."""

    signing: dict[str, SigningKey] = field(
        default_factory=lambda: {purpose: SigningKey.generate(purpose) for purpose in LOCKER_PURPOSES}
    )
    opening: OpeningKey = field(default_factory=OpeningKey.generate)
    root: SigningKey | None = field(default_factory=lambda: SigningKey.generate(REVOKED_KEYS))
    key_list: str | None = None
    state: str = "pending"
    claims: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    residents: dict[Holder, str] = field(default_factory=dict)
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    pushes: list[list[dict[str, Any]]] = field(default_factory=list)
    applied: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    scope: list[dict[str, Any]] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    latest: int | None = None
    horizon: int = 1
    faults: list[Any] = field(default_factory=list)
    most_rows: int = 500
    requests: list[tuple[str, str]] = field(default_factory=list)
    iss: str = ""
    down: bool = False

    def __post_init__(self) -> None:
        self._push = push_validator()
        self._lock = threading.Lock()

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> tuple[int, str, bytes]:
        """Return status, media type and content of one request."""
        if self.down:
            raise Cut
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        with self._lock:
            self.requests.append((method, path))
            for pattern, name in _ROUTES:
                found = re.fullmatch(pattern, path)
                if found and name.startswith(method.lower()):
                    return self._whole(getattr(self, f"_{name}")(headers, body, query, *found.groups()))
        return 404, "application/problem+json", b"{}"

    @staticmethod
    def _whole(answer: Any) -> tuple[int, str, bytes]:
        status, content = answer
        if isinstance(content, str):
            return status, "application/jwt", content.encode()
        media_type = "application/json" if status < 400 else "application/problem+json"
        return status, media_type, json.dumps(content).encode()

    def _fault(self) -> Any:
        return self.faults.pop(0) if self.faults else None

    def _get_descriptor(self, *_: Any) -> Any:
        names = ("push", "registrations", "revocations", "links")
        endpoints = {"token": f"{self.iss}/v1/oauth/token", **{name: f"{self.iss}/v1/{name}" for name in names}}
        return 200, {
            "iss": self.iss, "name": "Stand-in", "jwks_uri": f"{self.iss}/.well-known/jwks.json",
            "encryption_keys": [self.opening.public.jwk()], "endpoints": endpoints, "versions": ["v1"],
            **({"root_key": self.root.public.jwk()} if self.root else {}),
        }  # fmt: skip

    def _get_jwks(self, *_: Any) -> Any:
        return 200, KeySet(key.public for key in self.signing.values()).jwks()

    def _get_revoked_keys(self, *_: Any) -> Any:
        return (404, {}) if self.key_list is None else (200, self.key_list)

    def _post_registrations(self, _headers: Any, body: bytes, _query: Any) -> Any:
        token = json.loads(body)["registration"]
        keys = KeySet.from_jwks(read_claims_unverified(token, max_size=1 << 18)["jwks"])
        self.claims = verify_request(
            token, REGISTRATION, keys, audience=self.iss, now_us=now_us(), max_size=1 << 18
        )  # fmt: skip
        return 202, {
            "registration_id": uuid7(), "node_id": self.claims["node_id"], "fingerprint": fingerprint(keys),
            "state": self.state, "scope": self.scope,
        }  # fmt: skip

    def _get_registration(self, headers: Any, _body: bytes, _query: Any, node_id: str) -> Any:
        if self._role(headers) is None or node_id != self.claims["node_id"]:
            return 401, {"title": "no"}
        return 200, {"node_id": node_id, "state": self.state, "scope": self.scope}

    def _post_token(self, _headers: Any, body: bytes, _query: Any) -> Any:
        form = {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}
        assert form["grant_type"] == "client_credentials"
        assert form["client_assertion_type"] == ASSERTION_TYPE
        keys = KeySet.from_jwks(self.claims["jwks"])
        claims = verify_request(
            form["client_assertion"], CLIENT_ASSERTION, keys, audience=f"{self.iss}/v1/oauth/token", now_us=now_us()
        )
        assert claims["iss"] == claims["sub"] == self.claims["node_id"]
        assert claims["jti"] not in self.used
        self.used.add(claims["jti"])
        token = new_secret()
        self.tokens[token] = self.state
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 600}

    def _role(self, headers: Any) -> str | None:
        return self.tokens.get(str(headers.get("authorization", "")).removeprefix("Bearer "))

    def _post_push(self, headers: Any, body: bytes, _query: Any) -> Any:
        role = self._role(headers)
        if role != "approved":
            return (401, {}) if role is None else (403, {"title": "not approved"})
        fault = self._fault()
        if isinstance(fault, int):
            return fault, {"title": "told to fail", "status": fault}
        batch = json.loads(body)
        rows = batch["rows"]
        if len(rows) > self.most_rows:
            return 413, {"title": "too large", "status": 413}
        if any(row["uri"].endswith("-unsendable") for row in rows):
            return 400, {"title": "malformed", "status": 400}
        self._push.validate(batch)
        self.pushes.append(rows)
        results = [self.results.setdefault(row["row_id"], self._result(row)) for row in rows]
        if fault == "cut":
            raise Cut
        return 200, {"results": results if fault != "short" else results[:-1]}

    def _result(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["row_id"] in self.results:
            return self.results[row["row_id"]]
        self.applied.append(row["row_id"])
        if (status := self.refused.get(row["uri"])) is not None:
            problem = {"type": PROBLEM_BASE + "out-of-scope", "title": "no", "status": status}
            if status >= 500:
                self.applied.pop()
            return {"row_id": row["row_id"], "outcome": "refused", "problem": problem}
        link = self.links.get(row["uri"])
        if link is not None and link["revision"] >= row["revision"]:
            return {"row_id": row["row_id"], "outcome": "unchanged", "holder_ref": link["holder_ref"]}
        holder = row.get("holder")
        known = None if link is None else link["holder"]
        if holder is not None:
            assert holder["key_id"] == self.opening.kid
            value = self.opening.open(holder["sealed"], row["uri"].lower()).decode()
            known = Holder.parse(holder["scheme"], value)
        ref = self.residents.get(known) if known else None
        self.links[row["uri"]] = {**row, "holder": known, "holder_ref": ref}
        outcome = "withdrawn" if row["kind"] == "withdraw" else "linked" if ref else "pending"
        return {"row_id": row["row_id"], "outcome": outcome, "holder_ref": ref}

    def _get_links(self, headers: Any, _body: bytes, query: Any) -> Any:
        if self._role(headers) != "approved":
            return 401, {}
        after, limit = int(query["after"][0]), int(query["limit"][0])
        rows = [row for row in self.changes if row["position"] > after]
        return 200, {"rows": rows[:limit], "next_after": None}

    def _get_revocation(self, _headers: Any, _body: bytes, _query: Any, name: str) -> Any:
        fault = self._fault()
        if isinstance(fault, int):
            return fault, {}
        newest = len(self.pages) if self.latest is None else self.latest
        number = newest if name == "latest" else int(name)
        return (200, self.pages[number - 1]) if 1 <= number <= len(self.pages) else (404, {})

    def publish(self, *entries: tuple[str, int], **changes: Any) -> str:
        """Add a revocation page, well linked unless ``changes`` say otherwise."""
        values: dict[str, Any] = {
            "iss": self.iss, "sequence": len(self.pages) + 1, "horizon": self.horizon, "issued_us": now_us(),
            "previous": page_digest(self.pages[-1]) if self.pages else None, "next_update_us": now_us() + HOUR,
            "entries": tuple(RevocationEntry(*entry) for entry in entries), **changes,
        }  # fmt: skip
        self.pages.append(issue_page(RevocationPage(**values), self.signing[REVOCATION]))
        return self.pages[-1]

    def revoke_keys(self, sequence: int, *kids: str, root: SigningKey | None = None, iss: str | None = None) -> str:
        """Publish a list of revoked keys, signed by the root unless another key is given."""
        rows = tuple(RevokedKey(kid, now_us(), "compromised") for kid in kids)
        signing = root or self.root
        assert signing is not None
        self.key_list = issue_key_list(KeyRevocationList(iss or self.iss, sequence, now_us(), rows), signing)
        return self.key_list


_ROUTES = (
    (r"/\.well-known/federated-locker", "get_descriptor"),
    (r"/\.well-known/jwks\.json", "get_jwks"),
    (r"/\.well-known/revoked-keys", "get_revoked_keys"),
    (r"/v1/registrations", "post_registrations"),
    (r"/v1/registrations/([^/]+)", "get_registration"),
    (r"/v1/oauth/token", "post_token"),
    (r"/v1/push", "post_push"),
    (r"/v1/links", "get_links"),
    (r"/v1/revocations/([^/]+)", "get_revocation"),
)


class _Handler(BaseHTTPRequestHandler):
    locker: StandInLocker
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            status, media_type, content = self.locker.answer(self.command, self.path, self.headers, body)
        except Cut:
            self.close_connection = True
            return
        except Exception as error:
            status, media_type, content = 500, "text/plain", repr(error).encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _serve

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def locker() -> Iterator[StandInLocker]:
    stand_in = StandInLocker()
    handler = type("Handler", (_Handler,), {"locker": stand_in})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    stand_in.iss = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand_in
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class NodeSide:
    """A node's services on a real database, with a clock that tests can put forward."""

    database: Database
    keys: NodeKeys
    http: OutboundClient
    ahead_us: int = 0

    def __post_init__(self) -> None:
        self.lockers = LockerRecords(self.database)
        self.client = LockerClient(self.http, node_id=NODE_ID, key=self.keys.client, clock=self.clock)
        self.outbox = OutboxRecords(self.database, self.keys.waiting_holders, self.clock)
        self.push = Push(self.client, self.outbox, clock=self.clock)
        self.lists = LockerLists(self.client, self.lockers, clock=self.clock)
        self.roots = LockerRoots(self.client, self.lockers)
        self.registration = Registration(
            self.client, self.lockers, introduction=INTRODUCTION,
            key=self.keys.registration, public=self.keys.public, offer=Offer(self.database), clock=self.clock,
            refused=self.outbox,
        )  # fmt: skip

    def clock(self) -> int:
        return now_us() + self.ahead_us

    def offer_type(self) -> None:
        with self.database.writing() as connection:
            catalogue.add_issuer(connection, "in.x", "X", 1)
            parameters = {"name": "number", "label": "Number", "required": True, "note": "ours"}
            catalogue.add_doc_type(connection, DocTypeRecord("in.x", "INC", "Income", (parameters,)), 1)

    def add(self, doc_id: str, mobile: str | None = "9876543210", *, told: bool = True) -> str:
        """Add a document with one representation and announce it, as an ingest does."""
        uri = DocumentURI("in.x", "INC", doc_id)
        holder = Holder.parse("mobile", mobile) if mobile else None
        fields = {"holder_scheme": holder.scheme, "holder_last4": holder.last_four} if holder else {}
        with self.database.writing() as connection:
            document_id = catalogue.add_document(connection, catalogue.NewDocument(uri, title="Income", **fields), 1)
            connection.execute(
                insert(Representation).values(
                    representation_id=uuid7(), document_id=document_id, version=1, media_type="application/pdf",
                    language="te", size=3, sha256="0" * 64, store="main", object_key=doc_id, created_us=1,
                )
            )  # fmt: skip
            if holder:
                seal_holder(connection, document_id, uri, holder, self.keys.waiting_holders.public)
            if told:
                announce(connection, document_id, "add", self.clock())
        return document_id

    def change(self, document_id: str, kind: str = "change", **columns: Any) -> None:
        with self.database.writing() as connection:
            catalogue.change_document(connection, document_id, 2, **columns)
            announce(connection, document_id, kind, self.clock())

    def join(self, locker: StandInLocker) -> None:
        """Register and be approved."""
        self.offer_type()
        self.registration.register(locker.iss)
        locker.state = "approved"
        assert self.registration.check(locker.iss) == "approved"


@pytest.fixture
def make_side(tmp_path: Any) -> Iterator[Callable[[str], NodeSide]]:
    made: list[NodeSide] = []

    def make(url: str) -> NodeSide:
        database = Database(url)
        if schema.current_revision(database) is None:
            schema.upgrade(database)
        # Failures that tests ask for must not open the circuit, which is tested for itself.
        http = OutboundClient(
            allow_private=("127.0.0.0/8",), limits=OutboundLimits(first_byte=5), circuits=Circuits(failures=10_000)
        )
        made.append(NodeSide(database, create_keys(tmp_path / f"node{len(made)}"), http))
        return made[-1]

    yield make
    for side in made:
        side.http.close()
        side.database.close()


@pytest.fixture
def side(make_side: Callable[[str], NodeSide], node_database_url: str) -> NodeSide:
    return make_side(node_database_url)


_RUNNING: list[Federation] = []


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A locker and two nodes that run as long as tests of this folder do; tests leave them as they found them."""
    with running_federation(tmp_path_factory.mktemp("federation")) as made:
        _RUNNING.append(made)
        yield made


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the federation after the folder's last test and not at the end of the run: its jobs take a tenth of a processor."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        while _RUNNING:
            made = _RUNNING.pop()
            for server in (made.locker, *(node.server for node in made.nodes.values())):
                server.stop()
