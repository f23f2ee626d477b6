"""Large bodies: clients that leave or stall, stores that fail half-way, and a row that tells each truthfully."""

import contextlib
import os
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from node.contract.problems import StoreFault
from node.storage.errors import ObjectDamaged, StoreUnreachable

BIG = 24 * 1024 * 1024


def connect(served, uri, token, receive_buffer=None):
    """Ask for a document over a bare socket and return it, nothing read yet."""
    address = urlsplit(served.url)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((address.hostname, address.port))
    connection.sendall(f"GET /v1/documents/{uri} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return connection


def read_to_the_end(connection):
    received = b""
    with connection, contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.fixture
def big(served):
    return served.add("big", os.urandom(BIG))


def end_of(served, count=2, **wanted):
    rows = served.events(expected=count)
    return next(row for row in rows if row["phase"] == "end")


def test_a_large_document_arrives_whole(served, big):
    answer = httpx.get(f"{served.url}/v1/documents/{big}", headers={"authorization": f"Bearer {served.token()}"})
    assert len(answer.content) == BIG
    row = end_of(served)
    assert (row["outcome"], row["bytes"]) == ("complete", BIG)


def test_a_client_that_leaves_ends_its_read_within_a_second(served, big):
    connection = connect(served, big, served.ticket("big"))
    connection.recv(65536)
    connection.close()
    left = time.monotonic()
    row = end_of(served)
    assert time.monotonic() - left < 1.5
    assert (row["outcome"], row["reason"]) == ("aborted", "client-left")
    assert 65536 <= row["bytes"] < BIG


def test_a_client_that_takes_nothing_is_ended(served, big):
    connection = connect(served, big, served.token(), receive_buffer=4096)
    row = end_of(served)
    assert (row["outcome"], row["reason"]) == ("aborted", "client-stalled")
    assert row["bytes"] < BIG
    assert len(read_to_the_end(connection)) < BIG


def test_ten_stalled_downloads_do_not_hold_up_a_small_one(served, big, soak):
    small = served.add("small", b"x" * 1000)
    token = served.token()
    stalled = [connect(served, big, token, receive_buffer=4096) for _ in range(soak.count(small=10, full=100))]
    time.sleep(0.3)
    answer = httpx.get(f"{served.url}/v1/documents/{small}", headers={"authorization": f"Bearer {token}"}, timeout=1)
    assert answer.content == b"x" * 1000
    for connection in stalled:
        connection.close()


class Failing:
    """A stream that gives some bytes and then its error."""

    def __init__(self, given: bytes, error: Exception | None, wait: float = 0):
        self._given, self._error, self._wait = given, error, wait
        self.closed = threading.Event()

    def read(self, size):
        if self._given:
            piece, self._given = self._given[:size], self._given[size:]
            return piece
        time.sleep(self._wait)
        if self._error:
            raise self._error
        return b""

    def close(self):
        self.closed.set()


def replace_stream(served, monkeypatch, stream):
    """Put a stream of the test's own below the guard, which checks it as it would any driver's."""
    driver = served.node.stores["main"]._driver
    monkeypatch.setattr(type(driver), "open", lambda self, key, offset=0, length=None: stream)


@pytest.mark.parametrize(
    ("given", "error", "reason"),
    [
        (400_000, None, "object-damaged"),
        (400_000, StoreUnreachable(), "store-unreachable"),
        (BIG, None, "object-damaged"),
        (BIG - 1, None, "object-damaged"),
        (BIG + 1, None, "object-damaged"),
        (700_000, RuntimeError("boom"), None),
    ],
)
def test_a_store_that_fails_half_way_breaks_the_connection(served, big, monkeypatch, given, error, reason):
    stream = Failing(b"\0" * given, error)
    replace_stream(served, monkeypatch, stream)
    received = read_to_the_end(connect(served, big, served.token()))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200") and len(body) < BIG
    row = end_of(served)
    assert row["outcome"] == "failed" and row["bytes"] < BIG and (reason is None or row["reason"] == reason)
    assert stream.closed.wait(2)


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (StoreUnreachable(), 503, "store-unavailable"),
        (ObjectDamaged(), 502, "store-fault"),
        (StoreFault(), 502, "store-fault"),
    ],
)
def test_a_store_that_fails_at_once_is_told_as_a_problem(served, big, monkeypatch, error, status, slug):
    replace_stream(served, monkeypatch, Failing(b"", error))
    answer = httpx.get(f"{served.url}/v1/documents/{big}", headers={"authorization": f"Bearer {served.token()}"})
    assert (answer.status_code, answer.json()["type"].rsplit("/", 1)[1]) == (status, slug)
    assert end_of(served)["outcome"] == "failed"


def test_a_lost_object_is_the_stores_fault_and_not_a_404(served):
    uri = served.add("lost", b"here")
    for file in (served.folder / "storage").rglob("*.pdf"):
        file.unlink()
    answer = httpx.get(f"{served.url}/v1/documents/{uri}", headers={"authorization": f"Bearer {served.token()}"})
    assert answer.status_code == 502 and str(served.folder) not in answer.text
    assert [row["outcome"] for row in served.events(expected=2)] == ["allowed", "failed"]


def test_a_store_that_hangs_does_not_keep_a_leaving_client_out_of_the_log(served, big, monkeypatch):
    stream = Failing(b"\0" * 300_000, None, wait=3)
    replace_stream(served, monkeypatch, stream)
    connection = connect(served, big, served.token())
    connection.recv(65536)
    time.sleep(0.4)
    connection.close()
    left = time.monotonic()
    row = end_of(served)
    assert (row["outcome"], row["reason"]) == ("aborted", "client-left")
    assert time.monotonic() - left < 1.5
    assert stream.closed.wait(5)


def test_many_that_leave_give_everything_back(served, big, soak):
    token = served.token()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(soak.count(small=12, full=50)):
        connection = connect(served, big, token)
        connection.recv(1000)
        connection.close()
    rows = served.events(expected=2 * soak.count(small=12, full=50))
    assert {row["outcome"] for row in rows if row["phase"] == "end"} == {"aborted"}
    deadline = time.monotonic() + 3
    while len(os.listdir("/proc/self/fd")) > before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    answer = httpx.get(
        f"{served.url}/v1/documents/{big}", headers={"authorization": f"Bearer {token}", "range": "bytes=0-9"}
    )
    assert answer.status_code == 206


def test_a_small_document_that_nobody_takes_is_not_logged_as_complete(served):
    """A certificate of usual size fits into the kernel's buffers; that is not the client's having it."""
    uri = served.add("certificate", os.urandom(250_000))
    connection = connect(served, uri, served.token(), receive_buffer=2048)
    row = end_of(served)
    assert (row["outcome"], row["reason"]) == ("aborted", "client-stalled")
    assert row["bytes"] < 250_000 and len(read_to_the_end(connection)) < 250_000


def test_a_client_that_leaves_a_small_document_unread_is_logged_as_gone(served):
    uri = served.add("certificate", os.urandom(250_000))
    connection = connect(served, uri, served.token(), receive_buffer=2048)
    time.sleep(0.3)
    connection.close()
    assert (end_of(served)["outcome"], end_of(served)["reason"]) == ("aborted", "client-left")


def test_a_slow_client_of_a_small_document_gets_it_whole(served):
    uri = served.add("certificate", os.urandom(120_000))
    received = b""
    with connect(served, uri, served.token(), receive_buffer=2048) as connection:
        while len(received.partition(b"\r\n\r\n")[2]) < 120_000:
            received += connection.recv(4000)
            time.sleep(0.02)
        row = end_of(served)
    assert (row["outcome"], row["bytes"]) == ("complete", 120_000)
