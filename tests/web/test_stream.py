"""Transfers over a real server and real sockets: whole, left, stalled, failed; and how much memory they take."""

import asyncio
import http.client
import os
import queue
import socket
import time

import psutil
import pytest

from node.contract.problems import StoreFault
from node.web.middleware import UnhandledErrors
from node.web.stream import CHUNK_BYTES, StreamEnd, connection_of, send_stream

BLOCK = os.urandom(CHUNK_BYTES)


class Source:
    """Serves one path: a body of blocks, as the test wants it."""

    def __init__(self, blocks=1, *, length=None, announce=True, delay=0.0, fail_at=None, timeout=5.0, last=b""):
        self.blocks, self.delay, self.fail_at, self.timeout, self.last = blocks, delay, fail_at, timeout, last
        self.length = blocks * CHUNK_BYTES + len(last) if length is None else length
        self.announce = announce
        self.given = 0
        self.ends = queue.Queue()
        self.ended = 0
        self.end_delay = 0.0
        self.use_connection = True

    async def next_chunk(self):
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.given == self.fail_at:
            raise OSError("the disk says 999941057058")
        self.given += 1
        return BLOCK if self.given <= self.blocks else self.last if self.given == self.blocks + 1 else b""

    async def on_end(self, end):
        await asyncio.sleep(self.end_delay)
        self.ended += 1
        self.ends.put((end, time.monotonic()))

    async def __call__(self, scope, receive, send):
        self.given = 0
        assert scope["type"] == "http"  # to uvicorn that says: no lifespan here
        headers = [(b"content-length", str(self.length).encode())] if self.announce else []
        await send_stream(
            receive,
            send,
            {"type": "http.response.start", "status": 200, "headers": headers},
            self.next_chunk,
            send_timeout=self.timeout,
            on_end=self.on_end,
            connection=connection_of(scope) if self.use_connection else None,
        )

    def end(self, timeout=5):
        return self.ends.get(timeout=timeout)[0]


@pytest.fixture
def get(serve, closing):
    def run(source):
        port = serve(UnhandledErrors(source))
        connection = closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10))
        connection.request("GET", "/")
        return closing(connection.getresponse())

    return run


def stalled_client(port, receive_buffer=4096):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", port))
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize(("blocks", "last"), [(0, b"small"), (0, b""), (1, b""), (3, b"tail")])
def test_complete(get, blocks, last, announce):
    source = Source(blocks, last=last, announce=announce)
    response = get(source)
    assert response.read() == BLOCK * blocks + last
    assert source.end() == StreamEnd("complete", blocks * CHUNK_BYTES + len(last))


def test_the_connection_serves_the_next_request_afterwards(serve, closing):
    port = serve(UnhandledErrors(Source(2)))
    connection = closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10))
    connection.request("GET", "/")
    assert len(connection.getresponse().read()) == 2 * CHUNK_BYTES
    connection.request("GET", "/")
    assert closing(connection.getresponse()).status == 200


@pytest.mark.parametrize("delay", [0.0, 60.0])
def test_a_client_that_leaves_is_noticed_within_a_second(serve, delay, closing):
    """Both while the server is sending as fast as it can, and while it waits for a slow source."""
    source = Source(4000, delay=delay)
    client = closing(stalled_client(serve(UnhandledErrors(source))))
    time.sleep(0.4)
    left = time.monotonic()
    client.close()
    end, noticed = source.ends.get(timeout=3)
    assert noticed - left < 1.0
    assert end.outcome == "aborted"
    given = source.given
    assert end.sent <= given * CHUNK_BYTES
    assert given < 200  # the source was not read to its end
    time.sleep(0.1)
    assert source.given == given


def test_what_is_dropped_after_a_quick_leave_is_not_counted(serve, closing):
    source = Source(40_000)
    client = closing(stalled_client(serve(UnhandledErrors(source)), receive_buffer=1 << 20))
    client.recv(1)
    client.close()
    assert source.end().outcome == "aborted"
    assert source.given < 400


@pytest.mark.parametrize("use_connection", [True, False])
def test_a_client_that_takes_nothing_is_ended(serve, use_connection, closing):
    source = Source(4000, timeout=0.6)
    source.use_connection = use_connection
    client = closing(stalled_client(serve(UnhandledErrors(source))))
    began = time.monotonic()
    end, noticed = source.ends.get(timeout=5)
    assert end.outcome == "stalled"
    assert 0.4 < noticed - began < 2.5
    assert 0 < end.sent < 200 * CHUNK_BYTES
    with pytest.raises(ConnectionResetError):
        while client.recv(65536):
            pass


def test_a_slow_client_that_takes_something_is_not_ended(serve, closing):
    """It takes far less than a chunk in the time that would end one that takes nothing."""
    source = Source(30, timeout=0.5)
    client = closing(stalled_client(serve(UnhandledErrors(source)), receive_buffer=16384))
    until = time.monotonic() + 1.7
    while time.monotonic() < until:
        client.recv(8192)
        time.sleep(0.02)
    assert source.ends.empty()
    while not source.ends.qsize() and client.recv(1 << 20):
        pass
    assert source.end().outcome == "complete"


@pytest.mark.parametrize("announce", [True, False])
def test_a_source_that_fails_midway_is_a_short_read(get, announce):
    source = Source(40, fail_at=3, announce=announce)
    response = get(source)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    end = source.end()
    assert (end.outcome, end.sent) == ("failed", 3 * CHUNK_BYTES)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_body_of_another_length_than_announced_is_broken(get, wrong):
    source = Source(3, length=3 * CHUNK_BYTES + wrong)
    response = get(source)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        response.read()
    assert source.end().outcome == "failed"


def test_a_source_that_fails_at_once_can_still_be_answered(get):
    source = Source(3, fail_at=0)
    response = get(source)
    assert response.status == 500 and b"999941057058" not in response.read()
    assert source.end() == StreamEnd("failed", 0)


async def test_a_wrong_first_chunk_is_a_store_fault():
    async def chunk():
        return b"too long"

    start = {"type": "http.response.start", "status": 200, "headers": [(b"Content-Length", b"3")]}
    with pytest.raises(StoreFault):
        await send_stream(None, None, start, chunk, send_timeout=1)


def test_a_stopping_server_ends_transfers_as_aborted_before_its_lifespan_ends(serve, closing):
    source = Source(4000)
    source.end_delay = 0.2
    order = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            return await source(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        order.append(source.ended)
        await send({"type": "lifespan.shutdown.complete"})

    client = closing(stalled_client(serve(app, drain_seconds=0.2)))
    time.sleep(0.2)
    serve.servers[0].should_exit = True
    assert source.end().outcome == "aborted"
    time.sleep(0.3)
    assert order == [1]
    client.close()


def test_memory_is_flat_however_long_the_body(serve, soak):
    blocks = soak.count(small=800, full=8000)  # 200 MB, 2 GB
    source = Source(blocks)
    port = serve(UnhandledErrors(source))
    process = psutil.Process()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        buffer = bytearray(1 << 20)
        before = process.memory_info().rss
        peak = taken = 0
        while count := client.recv_into(buffer):
            taken += count
            peak = max(peak, process.memory_info().rss)
    assert taken > blocks * CHUNK_BYTES
    assert source.end().outcome == "complete"
    assert peak - before < 24 * 1024 * 1024
