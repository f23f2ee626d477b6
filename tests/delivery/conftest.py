"""A node with documents on a real file system, served by the real server on a socket."""

import hashlib
import io
import json
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import insert

from node.asgi import WebProcess, build_delivery
from node.config import SETTINGS_FILE
from node.contract.identifiers import new_secret
from node.contract.signing import TICKET, KeySet, SigningKey
from node.contract.tickets import Ticket, issue_ticket
from node.contract.times import DAY, SECOND, now_us
from node.contract.uri import DocumentURI
from node.db import catalogue, schema
from node.db.models import Locker
from node.db.sequencer import sequence_once
from node.db.tokens import add_token
from node.keys import create_keys
from node.services.access import TokenScope
from node.services.ports import Placement
from node.storage.keys import object_key
from node.web.middleware import WebSettings, web_stack
from node.web.processes import bind, url_of
from node.web.server import ServerSettings, build_server
from node.wiring import build_node

ISS = "https://locker.example"
ISSUER = "in.gov.example"


@dataclass
class ServedNode:
    """What a test needs of a running node; ``url`` is set while it is served."""

    folder: Path
    node: object
    key: SigningKey = field(default_factory=lambda: SigningKey.generate(TICKET))
    url: str = ""

    def add(
        self,
        doc_id: str,
        content: bytes,
        *,
        media_type: str = "application/pdf",
        version: int = 1,
        language=None,
        **columns,
    ) -> str:
        """Put a document, or one more representation of it, straight into store and catalogue."""
        uri = DocumentURI(ISSUER, "INCOM", doc_id)
        key = object_key(uri, version, hashlib.sha256(content).hexdigest(), media_type, language)
        stored = self.node.stores["main"].put(key, io.BytesIO(content), len(content))
        placement = Placement(version, media_type, language, stored.size, stored.sha256, "main", key)
        with self.node.database.writing() as connection:
            found = catalogue.find_document(connection, uri)
            document_id = (
                found.document_id if found else catalogue.add_document(connection, catalogue.NewDocument(uri), now_us())
            )
            catalogue.add_representation(connection, document_id, placement, now_us())
            if columns:
                catalogue.change_document(connection, document_id, now_us(), **columns)
        return str(uri)

    def token(self, role: str = "operator", scope: TokenScope | None = None, expires_us: int | None = None) -> str:
        token = new_secret()
        with self.node.database.writing() as connection:
            add_token(
                connection,
                token,
                name=role,
                role=role,
                scope=scope or TokenScope(),
                now_us=now_us(),
                expires_us=expires_us or now_us() + DAY,
            )
        return token

    def ticket(self, doc_id: str, key: SigningKey | None = None, **claims) -> str:
        """A ticket that this node accepts, but for the claims given."""
        now = now_us()
        issued = claims.pop("issued_us", now)
        good = dict(  # noqa: C408 - reads as the call that it is
            iss=ISS, aud="node-1", client_id="university", act=None, issuer=ISSUER, doc_type="INCOM", doc_id=doc_id,
            version=None, representations=None, holder_ref="h-1", basis="consent", consent_id="c-1", artefact="ab" * 32,
            purpose="admission", jti="t-1", iat=issued // SECOND, exp=issued // SECOND + 600, issued_us=issued,
        )  # fmt: skip
        return issue_ticket(Ticket(**{**good, **claims}), key or self.key)

    def trust(self, iss: str, key: SigningKey) -> None:
        """Register one more locker as active."""
        with self.node.database.writing() as connection:
            trust(connection, iss, key)

    def events(self, *, expected: int | None = None, timeout: float = 5.0) -> list[dict]:
        """Sequence and return all log rows, waiting until there are as many as expected."""
        from node.db.audit_log import LogFilter, read_log

        deadline = time.monotonic() + timeout
        while True:
            while sequence_once(self.node.database, self.node.keys.log_tag):
                pass
            with self.node.database.reading() as connection:
                rows = [row.event for row in read_log(connection, LogFilter(), 100_000)]
            if expected is None or len(rows) >= expected or time.monotonic() > deadline:
                return rows
            time.sleep(0.02)


def make_node(folder: Path, database_url: str, *, clock=now_us, **settings) -> ServedNode:
    """Make a node's folder with one issuer and one trusted locker; the node goes by ``clock``."""
    folder.mkdir(exist_ok=True)
    create_keys(folder)
    (folder / "spool").mkdir()
    (folder / "storage").mkdir()
    lines = {
        "node_id": "node-1",
        "name": "Test",
        "base_url": "http://127.0.0.1:1",
        "database_url": database_url,
        "environment": "demo",
        **settings,
    }
    text = "\n".join(f"{name} = {toml(value)}" for name, value in lines.items())
    (folder / SETTINGS_FILE).write_text(text + '\n[stores.main]\ndriver = "filesystem"\nroot = "storage"\n')
    node = replace(build_node(folder), clock=clock)
    if schema.current_revision(node.database) is None:
        schema.upgrade(node.database)
    served = ServedNode(folder, node)
    with node.database.writing() as connection:
        catalogue.add_issuer(connection, ISSUER, "Example", now_us())
        trust(connection, ISS, served.key)
    return served


def toml(value) -> str:
    """Write a setting's value; tables inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(item)}" for name, item in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


def trust(connection, iss: str, key: SigningKey) -> None:
    """Register a locker as active."""
    row = {"iss": iss, "base_url": iss, "state": "active", "jwks": json.dumps(KeySet([key.public]).jwks())}
    for column in Locker.__table__.columns:
        if column.name not in row and not column.nullable:
            row[column.name] = "{}" if column.type.python_type is str else 0
    connection.execute(insert(Locker).values(**row))


def serve(served: ServedNode, puts=None, drain_seconds=2.0):
    """Serve the data plane in a thread; returns what stops it."""
    process = WebProcess(served.node, "process-1", "tests")
    app = web_stack(
        build_delivery(served.node, process, puts or served.node.administration),
        WebSettings(body_limits={"/v1/documents/": 2**31}),
        CollectorRegistry(),
    )
    bound = bind("127.0.0.1", 0)
    server = build_server(app, ServerSettings(drain_seconds=drain_seconds))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    process.start()
    thread.start()
    served.url = url_of(bound)
    while not server.started:
        time.sleep(0.005)

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        process.stop()
        bound.close()

    return stop


@pytest.fixture
def served_with(tmp_path, node_database_url):
    """Make and serve a node with settings, or a ``clock``, of the test's own."""
    running = []

    def start(**settings) -> ServedNode:
        bounds = {"send_timeout_seconds": 1.0, "receive_timeout_seconds": 1.0}
        served = make_node(tmp_path / "node", node_database_url, **{**bounds, **settings})
        running.append((served, serve(served)))
        return served

    yield start
    for served, stop in running:
        stop()
        served.node.close()


@pytest.fixture
def served(served_with):
    return served_with()


@pytest.fixture
def served_within_a_minute(served_with):
    """A node whose clock stands still: floods are counted by the minute, and a busy machine takes long for a few requests."""
    now = now_us()
    return served_with(clock=lambda: now)
