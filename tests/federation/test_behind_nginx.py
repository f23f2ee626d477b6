"""A node behind a real nginx that ends TLS, with the configuration that docs/nginx.md gives."""

import datetime
import ipaddress
import re
import ssl
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from examples.demo.processes import free_port
from node.contract.identifiers import uuid7
from tests.federation.running import STALL_SECONDS, PartialRead, eventually

BANK = "bank-of-example"
ANITA, LARGE = "in.ac.beta-CERT-anita", "in.ac.beta-CERT-large"
DOC = Path(__file__).resolve().parents[2] / "docs" / "nginx.md"
AROUND = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 128; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def documented_server(folder, port, node_port):
    """Return the documented server with this run's ports and files in the place of the example's."""
    (block,) = re.findall(r"```nginx\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    for example, here in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("http://127.0.0.1:8080;", f"http://127.0.0.1:{node_port};"),
        ("/etc/nginx/node/", f"{folder}/"),
        ("/var/log/nginx/node.error.log", f"{folder}/server.log"),
    ):
        assert block.count(example) >= 1, example
        block = block.replace(example, here)
    return block


def certificate(subject, issuer, key, signer, authority):
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    )
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_certificates(folder):
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificate("Test authority", "Test authority", authority_key, authority_key, True)
    server = certificate("node", "Test authority", key, authority_key, False)
    (folder / "authority.pem").write_bytes(authority)
    (folder / "fullchain.pem").write_bytes(server + authority)
    (folder / "private.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Front:
    """nginx in front of the beta node."""

    def __init__(self, url, tls):
        self.url, self.tls = url, tls

    def get(self, path, *, source="127.0.0.1", **headers):
        transport = httpx.HTTPTransport(verify=self.tls, local_address=source)
        with httpx.Client(transport=transport, timeout=60) as client:
            return client.get(f"{self.url}{path}", headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.fixture(scope="module")
def front(federation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    make_certificates(folder)
    port = free_port()
    server = documented_server(folder, port, httpx.URL(federation.beta.url).port)
    configuration = folder / "nginx.conf"
    configuration.write_text(AROUND.format(folder=folder, server=server))
    with (folder / "out.log").open("wb") as out:
        process = subprocess.Popen(["nginx", "-c", str(configuration), "-p", str(folder)], stdout=out, stderr=out)
    front = Front(f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=folder / "authority.pem"))

    def answers():
        assert process.poll() is None, (folder / "out.log").read_text()
        try:
            return front.get("/healthz").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        eventually(answers)
        yield front
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def ticket(federation):
    consent = federation.consent("anita", BANK, ANITA, LARGE)
    federation.beta.place()
    return {row["uri"]: f"Bearer {row['ticket']}" for row in federation.resolve(BANK, consent, ANITA, LARGE)}


def test_documents_and_ranges_come_through(front, federation, ticket):
    content = federation.beta.documents[ANITA]
    whole = front.get(f"/v1/documents/{ANITA}", authorization=ticket[ANITA])
    assert (whole.status_code, whole.content) == (200, content)
    part = front.get(f"/v1/documents/{ANITA}", authorization=ticket[ANITA], range="bytes=-50")
    assert (part.status_code, part.content) == (206, content[-50:])
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{front.url}/healthz")


def test_the_row_has_the_client_s_address_and_not_a_forged_one(front, federation, ticket):
    node, path = federation.beta, f"/v1/documents/{ANITA}"

    def source_of(get, **headers):
        asked = uuid7()
        assert get(authorization=ticket[ANITA], x_request_id=asked, **headers).status_code == 200
        return {row["source"] for row in node.log_of(asked, ends=True)}

    def through(**headers):
        return front.get(path, source="127.0.0.3", **headers)

    def past(source, **headers):
        with httpx.Client(transport=httpx.HTTPTransport(local_address=source), timeout=60) as client:
            return client.get(f"{node.url}{path}", headers={name.replace("_", "-"): v for name, v in headers.items()})

    assert source_of(through) == {"127.0.0.3"}
    # What a client writes there itself does not get past nginx,
    assert source_of(through, x_forwarded_for="203.0.113.9", forwarded="for=203.0.113.9") == {"127.0.0.3"}
    # the trusted proxy is believed,
    assert source_of(lambda **h: past("127.0.0.1", **h), x_forwarded_for="203.0.113.9") == {"203.0.113.9"}
    # and a peer that is not trusted is not.
    for name in ("x_forwarded_for", "x_real_ip"):
        assert source_of(lambda **h: past("127.0.0.2", **h), **{name: "203.0.113.9"}) == {"127.0.0.2"}
    assert source_of(lambda **h: past("127.0.0.2", **h), forwarded="for=203.0.113.9") == {"127.0.0.2"}


def begin(front, ticket, asked):
    headers = {"authorization": ticket[LARGE], "x-request-id": asked}
    reading = PartialRead(f"{front.url}/v1/documents/{LARGE}", headers, 1_000_000, tls=front.tls)
    assert reading.status == 200
    return reading


def test_a_client_that_leaves_ends_the_read_at_the_node(front, federation, ticket):
    asked = uuid7()
    reading = begin(front, ticket, asked)
    reading.leave()
    left = time.time()
    _, ended = federation.beta.log_of(asked, ends=True)
    assert (ended["outcome"], ended["reason"]) == ("aborted", "client-left")
    assert 1_000_000 <= ended["bytes_sent"] < len(federation.beta.documents[LARGE])
    assert datetime.datetime.fromisoformat(ended["recorded_at"]).timestamp() - left < 1.5


def test_a_client_that_takes_nothing_is_ended_and_others_go_on(front, federation, ticket):
    asked = uuid7()
    started = time.time()
    stalled = [begin(front, ticket, asked if number == 0 else uuid7()) for number in range(3)]
    quick = front.get(f"/v1/documents/{ANITA}", authorization=ticket[ANITA])
    assert quick.content == federation.beta.documents[ANITA]
    _, ended = federation.beta.log_of(asked, ends=True)
    assert (ended["outcome"], ended["reason"]) == ("aborted", "client-stalled")
    assert datetime.datetime.fromisoformat(ended["recorded_at"]).timestamp() - started < STALL_SECONDS + 10
    # What was under way still comes; the part is never taken for the whole.
    assert 1_000_000 <= len(stalled[0].rest()) < len(federation.beta.documents[LARGE])
    for reading in stalled:
        reading.leave()
