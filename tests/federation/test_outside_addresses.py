"""Addresses and answers from outside that mean harm: metadata addresses, redirects, endless key sets, floods of unknown keys."""

import json
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import psutil
import pytest

from examples.demo.processes import BIN, Server, command, free_port
from node.contract.identifiers import uuid7
from node.contract.records import ASSERTION_TYPE, client_assertion, sign_request
from node.contract.sealing import SealingKey
from node.contract.signing import CLIENT_ASSERTION, NODE_PURPOSES, REGISTRATION, TICKET, KeySet, SigningKey
from node.contract.tickets import Ticket, issue_ticket
from node.contract.times import SECOND, now_us
from tests.federation.running import HOLDERS

ENDLESS = 5 * 1024**3
MOST_TAKEN = 16 * 1024 * 1024
"""What a server can have sent before it sees that nobody reads on: socket buffers."""
MOST_GROWTH = 40 * 1024 * 1024


class CountingServer:
    """Answers every GET with what it is told to, and counts what was asked for and how much was sent."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent = 0
        self.redirect = ""
        self.endless: tuple[str, ...] = ()
        self.documents: dict[str, dict] = {}
        handler = type("Handler", (_Handler,), {"counting": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @classmethod
    @contextmanager
    def running(cls) -> "Iterator[CountingServer]":
        counting = cls()
        thread = threading.Thread(target=counting._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield counting
        finally:
            counting._server.shutdown()
            counting._server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    counting: CountingServer

    def do_GET(self) -> None:
        self.counting.asked.append(self.path)
        if self.path in self.counting.endless:
            self._pour()
        elif self.counting.redirect:
            self.send_response(302)
            self.send_header("Location", self.counting.redirect)
            self.end_headers()
        else:
            content = json.dumps(self.counting.documents.get(self.path, {})).encode()
            self.send_response(200 if self.path in self.counting.documents else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def _pour(self) -> None:
        """Send five gigabytes of something that begins like a key set, without saying beforehand how much it is."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'{"keys":["')
        piece = b"x" * 65536
        try:
            while self.counting.sent < ENDLESS:
                self.wfile.write(piece)
                self.counting.sent += len(piece)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[CountingServer]:
    with CountingServer.running() as counting:
        yield counting


@pytest.fixture
def metadata() -> Iterator[CountingServer]:
    """Stands where a redirect leads; nothing of it may ever be asked for."""
    with CountingServer.running() as counting:
        yield counting


class StrangeNode:
    """A node of the test's own making: it signs what it likes."""

    def __init__(self, iss: str, issuer: str) -> None:
        self.iss, self.issuer = iss, issuer
        self.node_id = f"node-{issuer}"
        self.keys = {purpose: SigningKey.generate(purpose) for purpose in NODE_PURPOSES}

    def register(self, locker_url: str, base_url: str) -> httpx.Response:
        types = [{"doc_type": "CERT", "name": "Certificate", "search_parameters": [], "media_types": []}]
        claims = {
            "node_id": self.node_id, "name": "Strange", "base_url": base_url,
            "jwks": KeySet(key.public for key in self.keys.values()).jwks(),
            "issuers": [{"issuer": self.issuer, "name": "Strange", "doc_types": types}],
        }  # fmt: skip
        token = sign_request(claims, self.keys[REGISTRATION], audience=self.iss, now_us=now_us())
        return httpx.post(f"{locker_url}/v1/registrations", json={"registration": token}, timeout=30)

    def push(self, locker_url: str, uri: str, holder: str) -> httpx.Response:
        """Announce a document for a person."""
        audience = f"{self.iss}/v1/oauth/token"
        form = {
            "grant_type": "client_credentials", "client_id": self.node_id, "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": client_assertion(
                self.node_id, self.keys[CLIENT_ASSERTION], audience=audience, now_us=now_us()
            ),
        }  # fmt: skip
        token = httpx.post(f"{locker_url}/v1/oauth/token", data=form, timeout=30).json()["access_token"]
        descriptor = httpx.get(f"{locker_url}/.well-known/federated-locker", timeout=30).json()
        key = SealingKey.from_jwk(descriptor["encryption_keys"][0])
        scheme, _, value = holder.partition(":")
        sealed = {"scheme": scheme, "sealed": key.seal(value.encode(), uri.lower()), "key_id": key.kid, "last4": ""}
        row = {
            "row_id": uuid7(), "kind": "add", "uri": uri, "revision": 1, "holder": sealed,
            "document": {"status": "active", "version": 1, "representations": []},
        }  # fmt: skip
        headers = {"authorization": f"Bearer {token}"}
        return httpx.post(f"{locker_url}/v1/push", json={"rows": [row]}, headers=headers, timeout=30)


@pytest.mark.parametrize("base_url", [
    "http://169.254.169.254", "https://169.254.169.254", "https://[::ffff:169.254.169.254]", "https://[::ffff:a9fe:a9fe]",
    "https://[64:ff9b::a9fe:a9fe]", "https://[fd00:ec2::254]", "https://168.63.129.16", "https://100.100.100.200",
    "https://[::1]", "https://[::]", "https://0.0.0.0", "https://10.0.0.8", "https://192.168.1.1", "https://172.16.0.1",
    "https://[fe80::1]", "https://[fe80::1%25eth0]", "https://2852039166", "https://0xa9fea9fe", "https://0251.0376.0251.0376",
    "http://8.8.8.8", "https://user@8.8.8.8", "https://8.8.8.8/inner", "https://8.8.8.8?x=1", "ftp://8.8.8.8",
    "file:///etc/passwd", "https://nobody.invalid", "https://",
])  # fmt: skip
def test_a_node_cannot_have_the_locker_connect_to_an_inner_address(federation, base_url):
    strange = StrangeNode(federation.between.url, "in.strange.inner")
    refused = strange.register(federation.locker.url, base_url)
    assert refused.status_code in (400, 422), refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert federation.at_locker("SELECT node_id FROM registration WHERE node_id = ?", strange.node_id) == []


@pytest.fixture(scope="module")
def strict_locker(tmp_path_factory):
    """A locker whose operator has listed no private network."""
    folder = tmp_path_factory.mktemp("strict")
    port = free_port()
    strict = Server("locker", folder / "locker", f"http://127.0.0.1:{port}")
    command("locker", "init", str(strict.folder), "--port", str(port), "--base-url", strict.url)
    strict.start()
    yield strict
    strict.stop()


def test_what_resolves_to_loopback_is_refused_unless_it_was_listed(strict_locker, server):
    port = server.url.rpartition(":")[2]
    strange = StrangeNode(strict_locker.url, "in.strange.loop")
    for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "127.1", "2130706433"):
        for scheme in ("http", "https"):
            refused = strange.register(strict_locker.url, f"{scheme}://{host}:{port}")
            assert refused.status_code == 422, (host, refused.text)
    assert server.asked == []


def test_a_node_that_redirects_is_not_followed(federation, server, metadata):
    server.redirect = f"{metadata.url}/latest/meta-data/iam"
    strange = StrangeNode(federation.between.url, "in.strange.away")
    registered = strange.register(federation.locker.url, server.url)
    assert registered.status_code == 202, registered.text
    federation.locker_command(
        "issuer", "approve", strange.issuer, "--node", strange.node_id, "--fingerprint", registered.json()["fingerprint"]
    )  # fmt: skip
    try:
        uri = f"{strange.issuer}-CERT-1"
        pushed = strange.push(federation.locker.url, uri, HOLDERS["bina"][0])
        assert pushed.json()["results"][0]["outcome"] == "linked", pushed.text
        for method in ("GET", "HEAD"):
            assert federation.own("bina", uri, method).status_code == 502
        consent = federation.consent("bina", "bank-of-example", uri)
        assert federation.gateway("bank-of-example", consent, uri).status_code == 502
        assert len(server.asked) >= 2
        assert metadata.asked == []
    finally:
        federation.locker_command("issuer", "suspend", "--node", strange.node_id)


def peak_memory(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process and return the most memory that it was seen with."""
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    process.wait()
    return peak


def run_register(folder, url, log):
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / "locker-node"), "register", url, "--folder", str(folder)], stdout=out, stderr=out
        )
    return peak_memory(process), process.returncode


@pytest.fixture(scope="module")
def lone_node(tmp_path_factory):
    """A node with one document and no locker; it serves."""
    folder = tmp_path_factory.mktemp("lone")
    port = free_port()
    lone = Server("locker-node", folder / "node", f"http://127.0.0.1:{port}")
    command(
        "locker-node", "init", str(lone.folder), "--name", "lone", "--base-url", lone.url, "--port", str(port),
        "--allow-private", "127.0.0.0/8", "--environment", "demo",
    )  # fmt: skip
    paper = folder / "papers" / "in.lone" / "CERT" / "1.pdf"
    paper.parent.mkdir(parents=True)
    paper.write_bytes(b"%PDF-1.7\n1")
    command("locker-node", "ingest", str(folder / "papers"), "--folder", str(lone.folder))
    lone.start()
    yield lone
    lone.stop()


def test_an_endless_descriptor_or_key_set_is_cut_off_and_takes_no_memory(lone_node, server, metadata, tmp_path):
    descriptor, keys = "/.well-known/federated-locker", "/keys"
    names = ("token", "registrations", "push", "revocations")
    server.documents[descriptor] = {
        "iss": server.url, "name": "Endless", "jwks_uri": server.url + keys, "encryption_keys": [],
        "endpoints": {name: f"{server.url}/{name}" for name in names},
    }  # fmt: skip
    ordinary, status = run_register(lone_node.folder, server.url, tmp_path / "0.log")
    assert status != 0  # there is no key set
    for endless in (descriptor, keys):
        server.endless, server.sent = (endless,), 0
        peak, status = run_register(lone_node.folder, server.url, tmp_path / "1.log")
        assert status != 0
        assert b"Traceback" not in (tmp_path / "1.log").read_bytes()
        assert 0 < server.sent < MOST_TAKEN
        assert peak < ordinary + MOST_GROWTH
    server.endless, server.redirect = (), f"{metadata.url}/latest/meta-data"
    _, status = run_register(lone_node.folder, server.url, tmp_path / "2.log")
    assert status != 0
    assert metadata.asked == []


def stranger_s_ticket(iss: str, node_id: str, key: SigningKey) -> str:
    now = now_us()
    return issue_ticket(
        Ticket(
            iss=iss, aud=node_id, client_id="bank", act=None, issuer="in.lone", doc_type="CERT", doc_id="1", version=None,
            representations=None, holder_ref=None, basis="holder", consent_id=None, artefact=None, purpose="own",
            jti=uuid7(), iat=now // SECOND, exp=now // SECOND + 600, issued_us=now,
        ),
        key,
    )  # fmt: skip


def test_a_flood_of_unknown_keys_asks_the_locker_once_and_an_endless_answer_takes_no_memory(lone_node, locker, server):
    locker.state = "approved"
    command("locker-node", "register", locker.iss, "--folder", str(lone_node.folder))
    node_id = httpx.get(f"{lone_node.url}/.well-known/federated-locker", timeout=20).json()["node_id"]
    # From now on the locker's keys are at the other server, which never comes to an end with them. The node reads that from its
    # descriptor when it looks at the keys again, and the last look is to be longer ago than a minute.
    server.endless = ("/keys",)
    true_descriptor = locker._get_descriptor
    locker._get_descriptor = lambda *_: (200, {**true_descriptor()[1], "jwks_uri": f"{server.url}/keys"})
    with closing(sqlite3.connect(lone_node.folder / "node.db", timeout=30)) as connection, connection:
        connection.execute("UPDATE locker SET jwks_fetched_us = 1")
    assert lone_node.process is not None
    web = next(p for p in psutil.Process(lone_node.process.pid).children() if "web" in p.cmdline())
    before, started = web.memory_info().rss, time.monotonic()

    def ask(number: int) -> int:
        ticket = stranger_s_ticket(locker.iss, node_id, SigningKey.generate(TICKET))
        path = ("metadata", "status")[number % 2]
        address = f"{lone_node.url}/v1/documents/in.lone-CERT-1" + ("" if number % 3 == 0 else f"/{path}")
        return httpx.get(address, headers={"authorization": f"Bearer {ticket}"}, timeout=60).status_code

    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(ask, range(200)))
    assert statuses <= {401, 429}
    minutes = 1 + int((time.monotonic() - started) // 60)
    assert 1 <= server.asked.count("/keys") <= minutes
    assert 0 < server.sent < MOST_TAKEN * minutes
    assert web.memory_info().rss < before + MOST_GROWTH
    assert httpx.get(f"{lone_node.url}/healthz", timeout=20).status_code == 200
