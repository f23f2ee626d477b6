"""SIGTERM: reads under way are given time to end, and what does not end is broken off with its row saying so."""

import signal
import socket
import time
from urllib.parse import urlsplit

from node.services.audit import Outcome
from tests.durability.log_checks import require_whole_log

SIZE = 24_000_000
DRAIN_SECONDS = 2.0


class SlowClient:
    """A client on a bare socket, whose kernel holds little for it."""

    def __init__(self, url: str, uri: str, authorization: str, request_id: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._socket.settimeout(20)
        self._socket.connect((parts.hostname, parts.port))
        head = f"GET /v1/documents/{uri} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {authorization}\r\n"
        self._socket.sendall(f"{head}X-Request-Id: {request_id}\r\nConnection: close\r\n\r\n".encode())
        self._received = b""
        while b"\r\n\r\n" not in self._received:
            self._received += self._socket.recv(4096)

    @property
    def body(self) -> bytes:
        return self._received.partition(b"\r\n\r\n")[2]

    def take(self) -> bool:
        """Take what is left; False when the connection broke."""
        pieces = [self._received]
        try:
            while piece := self._socket.recv(262144):
                pieces.append(piece)
            return True
        except ConnectionResetError:
            return False
        finally:
            self._received = b"".join(pieces)
            self._socket.close()


def test_sigterm_drains_and_then_breaks_off(new_node, run, tmp_path):
    served = new_node(f"sqlite:///{tmp_path}/node.db", drain_seconds=DRAIN_SECONDS)
    content = bytes(range(256)) * (SIZE // 256)
    uri, token = served.add("large", content), served.token()
    node = run("serve", str(served.folder))
    steady = SlowClient(node.url, uri, token, "steady")
    asleep = SlowClient(node.url, uri, token, "asleep")

    begun = time.monotonic()
    node.signal(signal.SIGTERM)
    time.sleep(0.5)
    assert steady.take() and steady.body == content
    assert node.wait() == 0
    assert DRAIN_SECONDS * 0.9 < time.monotonic() - begun < DRAIN_SECONDS + 8
    assert not asleep.take()
    assert len(asleep.body) < len(content)

    ends = {event["request_id"]: event for event in served.events() if event["phase"] == "end"}
    assert ends["steady"]["outcome"] == Outcome.COMPLETE and ends["steady"]["bytes"] == len(content)
    assert ends["asleep"]["outcome"] == Outcome.ABORTED and ends["asleep"]["reason"] == "server-stopping"
    assert len(asleep.body) <= ends["asleep"]["bytes"] < len(content)
    require_whole_log(served.node.database)
