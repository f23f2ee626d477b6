"""``serve`` as an operator starts it: TLS, and every reason not to start, said in one line."""

import datetime
import ipaddress
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sqlalchemy import NullPool, create_engine, text

PROGRAM = Path(sys.executable).parent / "locker-node"


@pytest.fixture
def made(tmp_path, free_port):
    """A node as ``init`` makes it, and its port."""
    port = free_port()
    subprocess.run([PROGRAM, "init", tmp_path / "node", "--port", str(port)], check=True, capture_output=True)
    return tmp_path / "node", port


RUNNING = []


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    for process in RUNNING:
        if process.poll() is None:
            process.kill()
            process.communicate()
    RUNNING.clear()


def serve(folder):
    process = subprocess.Popen(
        [PROGRAM, "serve", "--folder", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    RUNNING.append(process)
    return process


def stop(process):
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def wait_for(url, process, **options):
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        try:
            return httpx.get(url, timeout=2, **options)
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("the node did not answer")


def refused(folder, words):
    process = serve(folder)
    output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert words in errors and "Traceback" not in errors + output
    return errors


def make_certificate(folder):
    """Write a certificate of one's own for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def set_setting(folder, line):
    file = folder / "node.toml"
    file.write_text(f"{line}\n{file.read_text()}")


def test_a_node_serves_over_tls_with_its_own_certificate(made):
    folder, port = made
    make_certificate(folder)
    set_setting(folder, 'tls_certificate = "certificate.pem"\ntls_key = "key.pem"')
    process = serve(folder)
    try:
        context = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        answer = wait_for(f"https://127.0.0.1:{port}/healthz", process, verify=context)
        assert answer.status_code == 200 and "max-age" in answer.headers["strict-transport-security"]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2)
    finally:
        stop(process)


def test_what_keeps_a_node_from_starting_is_said_in_a_line(made):
    folder, port = made
    process = serve(folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        refused(folder, "another locker-node serve runs on this folder")
    finally:
        stop(process)
    (folder / "keys" / "client.pem").chmod(0o644)
    assert "client.pem" in refused(folder, "other users can read this key")
    (folder / "keys" / "client.pem").chmod(0o600)
    with create_engine(f"sqlite:///{folder}/node.db").begin() as connection:
        connection.execute(text("UPDATE node_version SET version_num = 'n0000'"))
    refused(folder, "locker-node db upgrade")


def test_a_taken_address_is_named(made, free_port):
    folder, port = made
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused(folder, str(port))


def test_a_missing_certificate_is_named(made):
    folder, _ = made
    set_setting(folder, 'tls_certificate = "nowhere.pem"\ntls_key = "nowhere.pem"')
    refused(folder, "nowhere.pem")


def web_processes(database_url, expected):
    """Wait for as many web processes to be noted, and return them by run and whether each counts as living."""
    deadline, found = time.monotonic() + 20, {}
    while len(found) < expected and time.monotonic() < deadline:
        time.sleep(0.05)
        with create_engine(database_url, poolclass=NullPool).begin() as connection:
            rows = connection.execute(text("SELECT instance, ended_us FROM serving_process"))
            found = {instance.partition("#")[0]: ended_us is None for instance, ended_us in rows}
    assert len(found) == expected
    return found


def test_two_containers_that_look_alike_let_each_other_live(tmp_path, free_port, postgres_url):
    """The same host name, the same path, a copy of the same folder, one database."""
    folder, ports = tmp_path / "node", (free_port(), free_port())
    command = [PROGRAM, "init", folder, "--port", str(ports[0]), "--database-url", postgres_url]
    subprocess.run(command, check=True, capture_output=True)
    one = serve(folder)
    try:
        wait_for(f"http://127.0.0.1:{ports[0]}/healthz", one)
        folder.rename(tmp_path / "other-container")
        shutil.copytree(tmp_path / "other-container", folder)
        text_of_settings = (folder / "node.toml").read_text()
        (folder / "node.toml").write_text(text_of_settings.replace(f"port = {ports[0]}", f"port = {ports[1]}"))
        two = serve(folder)
        try:
            wait_for(f"http://127.0.0.1:{ports[1]}/healthz", two)
            assert list(web_processes(postgres_url, 2).values()) == [True, True]
        finally:
            stop(two)
        assert sorted(web_processes(postgres_url, 2).values()) == [False, True]
    finally:
        stop(one)


def test_the_run_before_is_known_to_be_over_as_soon_as_the_next_one_serves(made):
    folder, port = made
    database_url = f"sqlite:///{folder}/node.db"
    killed = serve(folder)
    wait_for(f"http://127.0.0.1:{port}/healthz", killed)
    (run,) = web_processes(database_url, 1)
    killed.kill()
    killed.communicate()
    time.sleep(1.5)  # its children end with it, and free the port
    again = serve(folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", again)
        found = web_processes(database_url, 2)
        assert found.pop(run) is False and list(found.values()) == [True]
    finally:
        stop(again)
