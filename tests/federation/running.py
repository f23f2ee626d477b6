"""A running federation: a locker and its nodes, made with the operators' own commands, over real sockets.

Nodes reach the locker through ``Between``, which passes everything on unless a test tells it to meddle; the locker's public address is
its. Requesters and residents go to the locker straight.
"""

import csv
import os
import random
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import psutil

from examples.demo.processes import Server, command, free_port
from node.contract.identifiers import uuid7
from tests.federation.between import Between

REVOCATION_POLL_SECONDS = 2.0
FRESHNESS_SECONDS = 10
"""After so long without a new page a revocation list is stale."""
STALL_SECONDS = 3
"""After so long the node behind nginx ends a client that takes nothing."""
NODES = {"alpha": "in.gov.alpha", "beta": "in.ac.beta"}
HOLDERS = {
    "anita": ("mobile:9812345670", "email:anita.rao@mail.example"),
    "bina": ("mobile:9898765431", "aadhaar:234123412346"),
}
REQUESTERS = ("bank-of-example", "college-of-example")
CANARY_BYTES = 1024 * 1024
LARGE_COPIES = 24

T = TypeVar("T")


def eventually(what: Callable[[], T], seconds: float = 30.0) -> T:
    """Ask until the answer is true, and return it; fails with the last answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {found!r} after {seconds} s")
        time.sleep(0.05)
    return found


@dataclass
class Node:
    """One department's node; ``documents`` are the contents by URI."""

    server: Server
    issuer: str
    operator: str = ""
    auditor: str = ""
    documents: dict[str, bytes] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def node_id(self) -> str:
        return str(httpx.get(f"{self.url}/.well-known/federated-locker", timeout=20).json()["node_id"])

    def command(self, *arguments: str) -> Any:
        return command("locker-node", *arguments, "--folder", str(self.server.folder))

    def database(self) -> sqlite3.Connection:
        """Open the node's database as an operator with a shell would, to read only."""
        return sqlite3.connect(f"file:{self.server.folder}/node.db?mode=ro", uri=True, timeout=30)

    def select(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(self.database()) as connection:
            return connection.execute(statement, values).fetchall()

    def log(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the rows that an auditor gets, all pages of them."""
        rows: list[dict[str, Any]] = []
        after = filters.pop("after", 0)
        while after is not None:
            answer = httpx.get(
                f"{self.url}/v1/access-log", params={"limit": 500, "after": after, **filters},
                headers={"authorization": f"Bearer {self.auditor}"}, timeout=30,
            )  # fmt: skip
            assert answer.status_code == 200, answer.text
            rows += answer.json()["rows"]
            after = answer.json()["next_after"]
        return rows

    def log_of(self, request_id: str, ends: bool = False) -> list[dict[str, Any]]:
        """Wait for the rows of a request, with the one of its end if asked for, and return them."""

        def found() -> list[dict[str, Any]]:
            rows = [row for row in self.log(after=self._before) if row.get("request_id") == request_id]
            return rows if len(rows) > ends else []

        return eventually(found)

    _before: int = 0

    def place(self) -> int:
        """Return the newest position of the log, once every row so far has one; ``log_of`` looks behind it from now on."""
        marker = uuid7()
        # With a credential: attempts without one are counted together once there are many.
        headers = {"x-request-id": marker, "authorization": f"Bearer {self.operator}"}
        httpx.get(f"{self.url}/v1/documents/{self.issuer}-NONE-{marker}", headers=headers, timeout=20)
        (row,) = self.log_of(marker)
        self._before = int(row["position"])
        return self._before

    def ingest(self, folder: Path, rows: list[tuple[str, str, str, str]], contents: list[bytes]) -> Any:
        """Take in documents: (document type, id, scheme, value) and what each holds."""
        folder.mkdir(exist_ok=True)
        manifest = folder / f"{uuid7()}.csv"
        with manifest.open("w", newline="") as file:
            lines = csv.writer(file)
            lines.writerow(["file", "issuer", "doc_type", "doc_id", "holder_scheme", "holder_value"])
            for (doc_type, doc_id, scheme, value), content in zip(rows, contents, strict=True):
                (folder / f"{doc_type}-{doc_id}.pdf").write_bytes(content)
                lines.writerow([f"{doc_type}-{doc_id}.pdf", self.issuer, doc_type, doc_id, scheme, value])
                self.documents[f"{self.issuer}-{doc_type}-{doc_id}"] = content
        return self.command("ingest", str(manifest))


@dataclass
class Federation:
    """What runs. People and requesters by their names; ``client`` keeps connections."""

    folder: Path
    locker: Server
    between: Between
    nodes: dict[str, Node] = field(default_factory=dict)
    residents: dict[str, str] = field(default_factory=dict)
    requesters: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    auditor: str = ""
    errors: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.client = httpx.Client(timeout=60, event_hooks={"response": [self._collect]})

    def _collect(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            self.errors.append(answer.read())

    @property
    def alpha(self) -> Node:
        return self.nodes["alpha"]

    @property
    def beta(self) -> Node:
        return self.nodes["beta"]

    def locker_command(self, *arguments: str) -> Any:
        return command("locker", *arguments, "--folder", str(self.locker.folder))

    def at_locker(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the locker's database, which is SQLite."""
        address = f"file:{self.locker.folder}/locker.db?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
            return connection.execute(statement, values).fetchall()

    def processes(self, server: Server) -> list[psutil.Process]:
        """Return a server's processes, its parent first."""
        assert server.process is not None
        parent = psutil.Process(server.process.pid)
        return [parent, *parent.children(recursive=True)]

    def children(self, server: Server, word: str) -> list[psutil.Process]:
        """Return the children of a server that have a word in their command line."""
        found = []
        for process in self.processes(server)[1:]:
            try:
                if word in process.cmdline():
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def call(self, method: str, url: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {**({"authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
        return self.client.request(method, url, headers=headers, **options)

    def as_resident(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        return self.call(method, f"{self.locker.url}/v1/{path}", self.residents[name], **options)

    def as_requester(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        return self.call(method, f"{self.locker.url}/v1/{path}", self.requesters[name], **options)

    def consent(self, resident: str, requester: str, *uris: str) -> str:
        """Have a resident consent for an hour and return the consent's id."""
        body = {
            "requester": requester, "uris": list(uris), "purpose": {"code": "admission", "text": "Admission 2027"},
            "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(), "once": False,
        }  # fmt: skip
        answer = self.as_resident(resident, "POST", "consents", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["consent_id"])

    def narrow(self, resident: str, consent_id: str, *uris: str) -> None:
        answer = self.as_resident(resident, "POST", f"consents/{consent_id}/narrow", json={"uris": list(uris)})
        assert answer.status_code == 200, answer.text

    def revoke(self, resident: str, consent_id: str) -> None:
        answer = self.as_resident(resident, "POST", f"consents/{consent_id}/revoke", json={"reason": "enough"})
        assert answer.status_code == 200, answer.text

    def resolve(self, requester: str, consent_id: str, *uris: str) -> list[dict[str, Any]]:
        """Return a result for each URI, each with ``url`` and ``ticket`` or with ``problem``."""
        body = {"consent_id": consent_id, "uris": list(uris)}
        answer = self.as_requester(requester, "POST", "resolve", json=body)
        if answer.status_code != 200:
            return [{"outcome": "refused", "problem": answer.json()} for _ in uris]
        results: list[dict[str, Any]] = answer.json()["results"]
        return results

    def pull(self, result: dict[str, Any], **options: Any) -> httpx.Response:
        return self.call("GET", result["url"], result["ticket"], **options)

    def gateway(
        self, requester: str, consent_id: str | None, uri: str, method: str = "GET", **options: Any
    ) -> httpx.Response:
        headers = {**({"consent-id": consent_id} if consent_id else {}), **options.pop("headers", {})}
        return self.as_requester(requester, method, f"gateway/documents/{uri}", headers=headers, **options)

    def own(self, resident: str, uri: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self.as_resident(resident, method, f"residents/me/documents/{uri}", **options)

    def attempts(self, **filters: Any) -> list[dict[str, Any]]:
        """Return the attempts at the locker that its auditor gets, all pages of them."""
        rows: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            parameters = {"limit": 500, "after": after, **filters}
            answer = self.call("GET", f"{self.locker.url}/v1/attempts", self.auditor, params=parameters)
            assert answer.status_code == 200, answer.text
            rows += answer.json()["rows"]
            after = answer.json()["next_after"]
        return rows

    def attempt_of(self, refused: httpx.Response) -> dict[str, Any]:
        """Return the one row that a refused request has left at the locker; it is there as soon as the answer is."""
        (row,) = self.attempts(request_id=refused.headers["x-request-id"])
        return row

    def own_documents(self, resident: str) -> list[dict[str, Any]]:
        """Return a resident's whole list."""
        rows: list[dict[str, Any]] = []
        cursor = None
        while True:
            parameters = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            answer = self.as_resident(resident, "GET", "residents/me/documents", params=parameters)
            assert answer.status_code == 200, answer.text
            rows += answer.json()["documents"]
            cursor = answer.json().get("next_cursor")
            if cursor is None:
                return rows


def holder_of(name: str) -> tuple[str, str]:
    """Return scheme and value of a person's first identifier."""
    scheme, _, value = HOLDERS[name][0].partition(":")
    return scheme, value


def canary() -> bytes:
    """Return the random megabyte that must not be found at the locker; it is the same in every call of a run."""
    return random.Random(f"canary {os.getpid()}").randbytes(CANARY_BYTES)


@contextmanager
def running_federation(
    folder: Path, *, nodes: tuple[str, ...] = tuple(NODES), locker_options: tuple[str, ...] = (), workers: int = 1
) -> Iterator[Federation]:
    """Set everything up and serve until the block ends."""
    with ExitStack() as stack:
        between = stack.enter_context(Between.running())
        made = Federation(folder, _make_locker(folder, between, locker_options, workers), between)
        stack.callback(made.client.close)
        with ThreadPoolExecutor(len(nodes) + 1) as hands:
            building = {name: hands.submit(_make_node, made, name, NODES[name]) for name in nodes}
            made.nodes = {name: future.result() for name, future in building.items()}
            servers = (made.locker, *(node.server for node in made.nodes.values()))
            for server in servers:
                stack.callback(server.stop)
            list(hands.map(Server.start, servers))
            list(hands.map(lambda node: approve(made, node), made.nodes.values()))
        for name, identifiers in HOLDERS.items():
            admit(made, name, *identifiers)
        for name in REQUESTERS:
            add_requester(made, name)
        made.auditor = made.locker_command("token", "create", "Audit office", "--role", "auditor")["token"]
        announced = {uri for node in made.nodes.values() for uri in node.documents}
        eventually(
            lambda: {row["uri"] for name in HOLDERS for row in made.own_documents(name)} == announced, seconds=60
        )
        yield made


def _make_locker(folder: Path, between: Between, options: tuple[str, ...], workers: int) -> Server:
    port = free_port()
    between.target = port
    temporary = folder / "locker-tmp"
    temporary.mkdir(parents=True)
    environment = {
        "TMPDIR": str(temporary), "LOCKER_ACCESS_TOKEN_LIFETIME_SECONDS": "3600", "LOCKER_WEB_PROCESSES": str(workers),
        "LOCKER_REVOCATION_FRESHNESS_SECONDS": str(FRESHNESS_SECONDS),
    }  # fmt: skip
    server = Server("locker", folder / "locker", f"http://127.0.0.1:{port}", environment=environment)
    command(
        "locker", "init", str(server.folder), "--port", str(port), "--base-url", between.url,
        "--allow-private", "127.0.0.0/8", *options,
    )  # fmt: skip
    return server


def _make_node(made: Federation, name: str, issuer: str) -> Node:
    port = free_port()
    environment = {
        "LOCKER_NODE_REVOCATION_POLL_SECONDS": str(REVOCATION_POLL_SECONDS), "LOCKER_NODE_PUSH_POLL_SECONDS": "0.5",
    }  # fmt: skip
    if name == "beta":
        environment["LOCKER_NODE_TRUSTED_PROXIES"] = '["127.0.0.1/32"]'
        environment["LOCKER_NODE_SEND_TIMEOUT_SECONDS"] = str(STALL_SECONDS)
    server = Server("locker-node", made.folder / name, f"http://127.0.0.1:{port}", environment=environment)
    created = command(
        "locker-node", "init", str(server.folder), "--name", name, "--base-url", server.url, "--port", str(port),
        "--allow-private", "127.0.0.0/8", "--environment", "demo",
    )  # fmt: skip
    node = Node(server, issuer, operator=created["token"])
    node.auditor = node.command("token", "create", "--role", "auditor", "--name", "auditor")["token"]
    anita, bina = holder_of("anita"), holder_of("bina")
    rows = [
        ("CERT", "anita", *anita), ("CERT", "anita2", *anita), ("CERT", "canary", *anita), ("CERT", "large", *anita),
        ("CERT", "bina", *bina),
    ]  # fmt: skip
    head = b"%PDF-1.7\n"
    contents = [head + os.urandom(size) for size in (20_000, 30_000)]
    contents += [head + canary(), head + canary() * LARGE_COPIES, head + os.urandom(5_000)]
    taken = node.ingest(made.folder / f"papers-{name}", rows, contents)
    assert taken["created"] == len(rows), taken
    return node


def approve(made: Federation, node: Node) -> None:
    """Register a node and approve it by its fingerprint."""
    registered = node.command("register", made.between.url)
    made.locker_command(
        "issuer", "approve", node.issuer, "--node", node.node_id, "--fingerprint", registered["fingerprint"]
    )


def admit(made: Federation, name: str, *identifiers: str) -> None:
    """Open a resident's account."""
    holders = [word for identifier in identifiers for word in ("--holder", identifier)]
    made.residents[name] = made.locker_command("resident", "add", name.title(), *holders)["token"]


def add_requester(made: Federation, name: str) -> None:
    """Take in a requester and get its access token."""
    made.secrets[name] = made.locker_command("requester", "add", name, "--name", name)["client_secret"]
    answer = made.client.post(
        f"{made.locker.url}/v1/oauth/token", data={"grant_type": "client_credentials"},
        auth=(name, made.secrets[name]),
    )  # fmt: skip
    made.requesters[name] = answer.json()["access_token"]


class PartialRead:
    """A client that takes a part of an answer and then holds the connection, taking nothing more, until it leaves."""

    def __init__(
        self, url: str, headers: dict[str, str], take: int, *, tls: ssl.SSLContext | None = None, source: str = ""
    ) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        self._socket.settimeout(30)
        # Small, so that what is not taken stays with the server.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        if source:
            self._socket.bind((source, 0))
        self._socket.connect((parts.hostname, parts.port))
        if tls is not None:
            self._socket = tls.wrap_socket(self._socket, server_hostname=parts.hostname)
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": parts.netloc, **headers}.items())
        self._socket.sendall(f"GET {parts.path} HTTP/1.1\r\n{lines}\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        while len(self.body) < take:
            self.body += self._receive()

    def _receive(self) -> bytes:
        piece = self._socket.recv(65536)
        assert piece, "the server ended the answer"
        return piece

    def rest(self) -> bytes:
        """Take what comes until the server ends the connection, and return all of the body."""
        self._socket.settimeout(60)
        try:
            while piece := self._socket.recv(1 << 20):
                self.body += piece
        except OSError:
            pass
        self.leave()
        return self.body

    def leave(self) -> None:
        """Close the connection, whatever was not taken."""
        self._socket.close()
