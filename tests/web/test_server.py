"""One web process: heads, limits, rubbish, TLS."""

import asyncio
import errno
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from node.web.middleware import UnhandledErrors
from node.web.server import _Connection
from node.web.stream import connection_of


async def hello(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def talk(port, data, timeout=5):
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(data)
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        return answer


def test_an_answer_has_a_date_and_no_server_name(serve):
    answer = talk(serve(hello), b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"hello")
    assert b"\r\ndate: " in answer and b"server" not in answer.lower()


@pytest.mark.parametrize(
    "data", [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\x16\x03\x01\x02\x00"]
)
def test_what_is_no_http_gets_a_problem_document(serve, data):
    head, _, body = talk(serve(hello), data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head
    assert json.loads(body)["status"] == 400


def test_an_endless_head_is_refused_and_holds_no_memory(serve):
    port = serve(hello)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        with pytest.raises(OSError):
            while sent < 50_000_000:
                client.sendall(b"a" * 10_000)
                sent += 10_000
        assert sent < 50_000_000


def test_a_head_that_does_not_come_is_not_waited_for(serve):
    port = serve(hello, head_seconds=0.3)
    for start in (b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT"):
        began = time.monotonic()
        answer = talk(port, start)
        assert 0.2 < time.monotonic() - began < 2
        assert answer.count(b"hello") == start.count(b"\r\n\r\n")


def test_keep_alive_outlives_the_time_for_a_head(serve, closing):
    connection = closing(http.client.HTTPConnection("127.0.0.1", serve(hello, head_seconds=0.2), timeout=5))
    for _ in range(2):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        time.sleep(0.4)


def test_requests_beyond_the_most_at_once_get_503(serve):
    release = threading.Event()

    async def slow(scope, receive, send):
        assert scope["type"] == "http"
        while scope["path"] == "/slow" and not release.is_set():
            await asyncio.sleep(0.01)
        await hello(scope, receive, send)

    port = serve(slow, most_requests=1)
    request = b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request % b"slow")
        time.sleep(0.1)
        refused = talk(port, request % b"")
        release.set()
        assert b"hello" in client.recv(65536)
    assert refused.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in refused
    assert talk(port, request % b"").endswith(b"hello")


def test_what_a_client_has_yet_to_take_is_counted_in_the_kernel_too(serve):
    body, found = b"x" * 300_000, []
    looked, emptied = threading.Event(), threading.Event()

    async def looking(scope, receive, send):
        assert scope["type"] == "http"
        connection = connection_of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"300000")]})
        sending = asyncio.create_task(send({"type": "http.response.body", "body": body}))
        await asyncio.sleep(0.3)  # until the client's side is full
        found.append((connection.unsent(), connection.taken()))
        looked.set()
        await sending
        while connection.unsent():
            await asyncio.sleep(0.01)
        emptied.set()

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", serve(looking)))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert looked.wait(10)
        answer = bytearray()
        while answer.count(b"x") < len(body):
            answer += client.recv(1 << 20)
        assert emptied.wait(10)
    ((unsent, taken),) = found
    assert 0 < taken < len(answer)
    assert unsent == len(answer) - taken, "by the kernel's own count of acknowledged bytes"


def test_a_count_that_the_kernel_refuses_is_an_error(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        transport = SimpleNamespace(get_extra_info=lambda _: file, is_closing=lambda: False)
        with pytest.raises(OSError) as refused:
            _Connection(transport).unsent()
    assert refused.value.errno == errno.ENOTTY


def test_an_error_in_the_middle_resets_the_connection_and_logs_no_text(serve, caplog):
    async def failing(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("999941057058")

    with pytest.raises((OSError, AssertionError)):
        answer = talk(serve(UnhandledErrors(failing)), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(b"0\r\n\r\n")
    assert not re.search("999941057058", caplog.text)


def test_tls(serve, tmp_path, closing):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    schemes = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            schemes.append(scope["scheme"])
        await hello(scope, receive, send)

    port = serve(app, certificate=certificate, private_key=key)
    context = ssl.create_default_context(cafile=certificate)
    connection = closing(http.client.HTTPSConnection("localhost", port, context=context, timeout=5))
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"
    assert schemes == ["https"]
