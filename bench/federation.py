"""A real locker with a node on each database, made with the operators' own commands, and tickets to pull with."""

import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import create_engine, text

from bench.postgresql import PostgreSQLServer
from bench.waiting import free_port
from examples.demo.processes import Server, command

MOBILE = "+919876543210"
REQUESTER = "bench-requester"


@dataclass
class BenchNode:
    """A node with a small and a large document; ``pulls`` are the addresses and tickets of both."""

    server: Server
    issuer: str
    database_url: str | None
    pulls: dict[str, tuple[str, str]] = field(default_factory=dict)

    def uri(self, size: str) -> str:
        return f"{self.issuer}-PAPER-{size}"


@dataclass
class Federation:
    """What runs."""

    locker: Server
    nodes: dict[str, BenchNode]
    papers: Path
    requester_token: str = ""
    resident_token: str = ""
    consent_id: str = ""

    @property
    def resolve_url(self) -> str:
        return f"{self.locker.url}/v1/resolve"

    @property
    def resolve_body(self) -> str:
        return json.dumps({"consent_id": self.consent_id, "uris": [self.nodes["sqlite"].uri("small")]})

    def web_process(self, name: str) -> psutil.Process:
        """Return a node's web process."""
        process = self.nodes[name].server.process
        assert process is not None
        return next(child for child in psutil.Process(process.pid).children() if "web" in child.cmdline())

    def durability(self) -> dict[str, Any]:
        """Return the settings under which the databases ran."""
        url = self.nodes["postgresql"].database_url or ""
        with create_engine(url).connect() as connection:
            settings = {
                name: connection.execute(text(f"SHOW {name}")).scalar_one()
                for name in ("fsync", "synchronous_commit", "full_page_writes", "server_version")
            }
        return {"sqlite": {"journal_mode": "wal", "synchronous": "FULL"}, "postgresql": settings}


@contextmanager
def federation(folder: Path, postgresql: PostgreSQLServer, small: int, large: int) -> Iterator[Federation]:
    """Set everything up and serve until the block ends."""
    papers = folder / "papers"
    papers.mkdir()
    for name, size in (("small", small), ("large", large)):
        (papers / f"{name}.pdf").write_bytes(b"%PDF-1.7\n" + os.urandom(size - 9))
    locker = _make_locker(folder)
    nodes = {
        name: _make_node(folder, name, papers, postgresql.create_database() if name == "postgresql" else None)
        for name in ("sqlite", "postgresql")
    }
    started = Federation(locker, nodes, papers)
    with ExitStack() as stack:
        for server in (locker, *(node.server for node in nodes.values())):
            stack.callback(server.stop)
            server.start()
        _federate(started)
        yield started


def _make_locker(folder: Path) -> Server:
    port = free_port()
    server = Server("locker", folder / "locker", f"http://127.0.0.1:{port}")
    command(
        "locker",
        "init",
        str(server.folder),
        "--port",
        str(port),
        "--base-url",
        server.url,
        "--allow-private",
        "127.0.0.0/8",
    )
    return server


def _make_node(folder: Path, name: str, papers: Path, database_url: str | None) -> BenchNode:
    port = free_port()
    node = BenchNode(Server("locker-node", folder / name, f"http://127.0.0.1:{port}"), f"in.gov.{name}", database_url)
    options = ["--database-url", database_url] if database_url else []
    command(
        "locker-node", "init", str(node.server.folder), "--name", name, "--base-url", node.server.url, "--port", str(port),
        "--allow-private", "127.0.0.0/8", "--environment", "demo", *options,
    )  # fmt: skip
    manifest = papers / f"{name}.csv"
    with manifest.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "issuer", "doc_type", "doc_id", "holder_scheme", "holder_value"])
        rows.writerows([f"{size}.pdf", node.issuer, "PAPER", size, "mobile", MOBILE] for size in ("small", "large"))
    command("locker-node", "ingest", str(manifest), "--folder", str(node.server.folder))
    return node


def _federate(started: Federation) -> None:
    """Register, approve, push, consent, resolve."""
    at_locker = ("--folder", str(started.locker.folder))
    for node in started.nodes.values():
        registered = command("locker-node", "register", started.locker.url, "--folder", str(node.server.folder))
        node_id = httpx.get(f"{node.server.url}/.well-known/federated-locker").json()["node_id"]
        command(
            "locker",
            "issuer",
            "approve",
            node.issuer,
            "--node",
            node_id,
            "--fingerprint",
            registered["fingerprint"],
            *at_locker,
        )
    started.resident_token = command("locker", "resident", "add", "Bench", "--holder", f"mobile:{MOBILE}", *at_locker)[
        "token"
    ]
    secret = command("locker", "requester", "add", REQUESTER, "--name", "Bench", *at_locker)["client_secret"]
    answer = httpx.post(
        f"{started.locker.url}/v1/oauth/token", data={"grant_type": "client_credentials"}, auth=(REQUESTER, secret)
    )
    started.requester_token = answer.json()["access_token"]
    uris = [node.uri(size) for node in started.nodes.values() for size in ("small", "large")]
    _wait_for_links(started, set(uris))
    body = {
        "requester": REQUESTER, "uris": uris, "purpose": {"code": "other", "text": "Measuring"}, "once": False,
        "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    }  # fmt: skip
    started.consent_id = _ask(started, "POST", "consents", started.resident_token, body)["consent_id"]
    resolved = _ask(
        started, "POST", "resolve", started.requester_token, {"consent_id": started.consent_id, "uris": uris}
    )["results"]
    by_uri = {row["uri"]: (row["url"], row["ticket"]) for row in resolved}
    for node in started.nodes.values():
        node.pulls = {size: by_uri[node.uri(size)] for size in ("small", "large")}


def _wait_for_links(started: Federation, uris: set[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = {
            row["uri"] for row in _ask(started, "GET", "residents/me/documents", started.resident_token)["documents"]
        }
        if listed >= uris:
            return
        time.sleep(0.3)
    raise TimeoutError("the nodes' documents did not reach the locker")


def _ask(started: Federation, method: str, path: str, token: str, body: Any = None) -> Any:
    answer = httpx.request(
        method, f"{started.locker.url}/v1/{path}", headers={"authorization": f"Bearer {token}"}, json=body, timeout=20
    )
    answer.raise_for_status()
    return answer.json()
