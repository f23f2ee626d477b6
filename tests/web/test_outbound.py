"""The outbound client against hostile servers on loopback."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
import time

import psutil
import pytest

from node.web.circuits import Circuits
from node.web.outbound import (
    AnswerTooLarge,
    AnswerUnusable,
    AsyncOutboundClient,
    CircuitOpen,
    DestinationRefused,
    DestinationTimeout,
    DestinationUnreachable,
    OutboundClient,
    OutboundLimits,
)

FAST = OutboundLimits(connect=0.5, first_byte=0.5, idle=0.5, total=1.5, most_bytes=1000)


@contextlib.contextmanager
def peer(behave, context=None):
    """Listen on loopback and have each connection treated by `behave(socket)`; gives the port and the requests seen."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = []

    def one(client):
        with contextlib.suppress(OSError), contextlib.closing(client):
            client.settimeout(10)
            if context:
                with contextlib.closing(context.wrap_socket(client, server_side=True)) as secured:
                    treat(secured)
            else:
                treat(client)

    def treat(client):
        request = b""
        while b"\r\n\r\n" not in request:
            data = client.recv(65536)
            if not data:
                return
            request += data
        seen.append(request)
        behave(client)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def says(*parts, pause=0.0):
    def behave(client):
        for part in parts:
            client.sendall(part)
            time.sleep(pause)

    return behave


OK = says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: 1\r\n\r\nok")


def ask(behave, *, method="GET", path="/", limits=FAST, **options):
    with peer(behave) as (port, seen):
        client = OutboundClient(allow_private=["127.0.0.0/8"], limits=limits, **options)
        try:
            return client.request(method, f"http://127.0.0.1:{port}{path}"), seen
        finally:
            client.close()


def test_an_answer():
    answer, seen = ask(OK, path="/jwks?x=1")
    assert (answer.status, answer.content, answer.headers["x-one"]) == (200, b"ok", "1")
    assert seen[0].startswith(b"GET /jwks?x=1 HTTP/1.1\r\n")
    assert b"accept-encoding: identity\r\n" in seen[0].lower()


def test_a_body_and_headers_go_out_and_an_error_status_is_an_answer(closing):
    with peer(says(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n")) as (port, seen):
        client = closing(OutboundClient(allow_private=["127.0.0.0/8"], limits=FAST))
        answer = client.request("POST", f"http://127.0.0.1:{port}/", headers={"X-A": "b"}, content=b"{}")
    assert answer.status == 422
    assert b"x-a: b" in seen[0].lower() and b"content-length: 2" in seen[0].lower()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.1/",
        "https://localhost/",
        "ftp://node.example/",
        "file:///etc/passwd",
        "https://user:secret@node.example/",
        "//node.example/",
        "nonsense",
        "",
    ],
)
def test_refused_without_a_connection(url, closing):
    with pytest.raises(DestinationRefused):
        closing(OutboundClient(limits=FAST)).request("GET", url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_not_followed(status):
    head = f"HTTP/1.1 {status} Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(AnswerUnusable):
        ask(says(head.encode()))


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(closing):
    """Rebinding: the second look-up would say loopback, and so is never made."""
    answers = [["203.0.113.7"], ["127.0.0.1"]]
    asked = []

    def resolver(host, port):
        asked.append(host)
        return answers[len(asked) - 1]

    with peer(OK) as (port, seen):
        client = closing(OutboundClient(allow_private=["203.0.113.0/24"], limits=FAST, resolver=resolver))
        with pytest.raises((DestinationUnreachable, DestinationTimeout)):
            client.request("GET", f"http://node.example:{port}/")
    assert (asked, seen) == (["node.example"], [])


def test_the_host_header_keeps_the_name(closing):
    with peer(OK) as (port, seen):
        client = closing(OutboundClient(allow_private=["127.0.0.0/8"], limits=FAST, resolver=lambda *_: ["127.0.0.1"]))
        client.request("GET", f"http://node.example:{port}/")
    assert f"host: node.example:{port}".encode() in seen[0].lower()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    names = ["-addext", "subjectAltName=DNS:node.example", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return key, certificate


def test_tls_checks_the_name_though_the_address_was_fixed(certificate, closing):
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate[1], certificate[0])
    trusting = ssl.create_default_context(cafile=certificate[1])
    options = {"allow_private": ["127.0.0.0/8"], "limits": FAST, "resolver": lambda *_: ["127.0.0.1"]}
    with peer(OK, server) as (port, _):
        client = closing(OutboundClient(tls=trusting, **options))
        assert client.request("GET", f"https://node.example:{port}/").content == b"ok"
        with pytest.raises(DestinationUnreachable):
            client.request("GET", f"https://other.example:{port}/")
        with pytest.raises(DestinationUnreachable):
            closing(OutboundClient(**options)).request("GET", f"https://node.example:{port}/")


def endless(client):
    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    block = bytes(1 << 20)
    while True:
        client.sendall(block)


def test_an_answer_announced_too_large_is_not_read():
    with pytest.raises(AnswerTooLarge):
        ask(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n", b"x" * 100))


def test_an_endless_answer_is_cut_off_with_flat_memory():
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.monotonic()
    with pytest.raises(AnswerTooLarge):
        ask(endless)
    assert time.monotonic() - began < 1.5
    assert process.memory_info().rss - before < 20_000_000


def test_a_gzip_bomb_is_not_unpacked():
    bomb = gzip.compress(bytes(50_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with pytest.raises(AnswerUnusable):
        ask(says(head + bomb))


@pytest.mark.parametrize(
    "behave",
    [
        says(b"", pause=5),
        says(b"HTTP/1.1 200 OK\r\n", *[b"X-%d: 1\r\n" % n for n in range(100)], pause=0.1),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"x", b"", pause=3),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", *[b"x"] * 100, pause=0.1),
    ],
    ids=["nothing", "trickled head", "stalled body", "trickled body"],
)
def test_a_peer_that_is_slow_in_any_way_is_left_in_time(behave):
    began = time.monotonic()
    with pytest.raises(DestinationTimeout):
        ask(behave)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), DestinationUnreachable),
        (says(b"rubbish\r\n\r\n"), DestinationUnreachable),
        (says(b""), DestinationUnreachable),
    ],
)
def test_a_peer_that_breaks_off_or_talks_rubbish(behave, error):
    with pytest.raises(error):
        ask(behave)


def test_nobody_listens(closing):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = closing(OutboundClient(allow_private=["127.0.0.0/8"], limits=FAST, circuits=Circuits(failures=2)))
    for _ in range(2):
        with pytest.raises(DestinationUnreachable):
            client.request("GET", f"http://127.0.0.1:{port}/")
    with pytest.raises(CircuitOpen):
        client.request("GET", f"http://127.0.0.1:{port}/")


def test_a_circuit_closes_again_when_the_peer_is_back(closing):
    now = [0]
    mood = [says(b""), says(b""), OK]
    with peer(lambda client: mood.pop(0)(client)) as (port, _):
        circuits = Circuits(failures=2, pause_us=1000, clock=lambda: now[0])
        client = closing(OutboundClient(allow_private=["127.0.0.0/8"], limits=FAST, circuits=circuits))
        for _ in range(2):
            with pytest.raises(DestinationUnreachable):
                client.request("GET", f"http://127.0.0.1:{port}/")
        now[0] = 2000
        assert client.request("GET", f"http://127.0.0.1:{port}/").content == b"ok"


# ---------------------------------------------------------------- streams


async def test_a_stream_gives_the_head_and_then_chunks():
    with peer(says(b'HTTP/1.1 206 Part\r\nContent-Length: 300000\r\nETag: "a"\r\n\r\n', bytes(300_000))) as (port, _):
        client = AsyncOutboundClient(allow_private=["127.0.0.0/8"], limits=FAST)
        async with client.stream("GET", f"http://127.0.0.1:{port}/", headers={"Range": "bytes=0-"}) as answer:
            assert (answer.status, answer.headers["etag"]) == (206, '"a"')
            body = b""
            while chunk := await answer.next_chunk():
                body += chunk
        assert body == bytes(300_000)
        await client.close()


async def test_back_pressure_and_the_peer_sees_at_once_that_nobody_reads_on():
    sent, ended = [0], []

    def behave(client):
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                client.sendall(bytes(100_000))
                sent[0] += 100_000
        ended.append(time.monotonic())

    with peer(behave) as (port, _):
        client = AsyncOutboundClient(allow_private=["127.0.0.0/8"], limits=FAST)
        async with client.stream("GET", f"http://127.0.0.1:{port}/") as answer:
            await answer.next_chunk()
            await asyncio.sleep(0.5)
            held = sent[0]
            await asyncio.sleep(0.3)
            assert sent[0] == held < 20_000_000
        left = time.monotonic()
        while not ended:
            assert time.monotonic() - left < 1
            await asyncio.sleep(0.01)


async def test_the_kernel_takes_little_ahead_of_what_is_read_however_fast_that_was():
    sent = [0]

    def in_bursts(client):
        """Send as much as goes, again and again: the pauses let a kernel left to itself hold ever more for its reader."""
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        client.setblocking(False)
        while True:
            time.sleep(0.1)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent[0] += client.send(bytes(1024 * 1024))

    with peer(in_bursts) as (port, _):
        client = AsyncOutboundClient(allow_private=["127.0.0.0/8"])
        async with client.stream("GET", f"http://127.0.0.1:{port}/") as answer:
            read = 0
            while read < 60_000_000:
                read += len(await answer.next_chunk())
            await asyncio.sleep(1)
            # What the sender's own side holds, by default 4 MB, is a part of it.
            assert sent[0] - read < 10_000_000
        await client.close()


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (says(b"", pause=5), DestinationTimeout),
        (says(b"HTTP/1.1 200 OK\r\n", *[b"X-%d: 1\r\n" % n for n in range(100)], pause=0.1), DestinationTimeout),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"x", b"", pause=3), DestinationTimeout),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), DestinationUnreachable),
        (says(b"HTTP/1.1 302 Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"), AnswerUnusable),
        (says(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"), AnswerUnusable),
    ],
)
async def test_a_stream_from_a_bad_peer(behave, error):
    began = time.monotonic()
    with peer(behave) as (port, _):
        client = AsyncOutboundClient(allow_private=["127.0.0.0/8"], limits=FAST)
        with pytest.raises(error):
            async with client.stream("GET", f"http://127.0.0.1:{port}/") as answer:
                while await answer.next_chunk():
                    pass
    assert time.monotonic() - began < 2.5


async def test_a_stream_to_a_refused_address():
    client = AsyncOutboundClient(limits=FAST)
    for url in ("https://127.0.0.1/", "https://169.254.169.254/", "https://2130706433/", "file:///etc/passwd"):
        with pytest.raises(DestinationRefused):
            async with client.stream("GET", url):
                pass


async def test_a_stream_resolves_once():
    asked = []

    def resolver(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.9.9.9"]

    with peer(OK) as (port, seen):
        client = AsyncOutboundClient(allow_private=["127.0.0.0/8"], limits=FAST, resolver=resolver)
        async with client.stream("GET", f"http://node.example:{port}/") as answer:
            assert await answer.next_chunk() == b"ok"
    assert asked == ["node.example"] and f"host: node.example:{port}".encode() in seen[0].lower()
