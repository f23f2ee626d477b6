"""A man in the middle between nodes and locker: passes everything on, unless a test tells him to meddle."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass(frozen=True)
class Request:
    """What a node sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What the node gets."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""


Meddle = Callable[[Request, Callable[[], Answer]], Answer | None]
"""Gets a request and a way to pass it on; returns the answer, None to break the connection off."""


class Between:
    """Listens on a port of its own; ``target`` is the locker's."""

    def __init__(self) -> None:
        handler = type("Handler", (_Handler,), {"between": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.target = 0
        self.meddle: Meddle | None = None

    @classmethod
    @contextmanager
    def running(cls) -> "Iterator[Between]":
        """Stand in the middle until the block ends."""
        between = cls()
        thread = threading.Thread(target=between._server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield between
        finally:
            between._server.shutdown()
            between._server.server_close()
            thread.join()

    @contextmanager
    def meddling(self, meddle: Meddle) -> Iterator[None]:
        """Have requests answered by ``meddle`` for as long as the block runs."""
        self.meddle = meddle
        try:
            yield
        finally:
            self.meddle = None

    def pass_on(self, request: Request) -> Answer:
        """Ask the locker; one that is away shows as 502, as behind any proxy."""
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=60)
        try:
            connection.request(request.method, request.path, request.body or None, request.headers)
            response = connection.getresponse()
            headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
            return Answer(response.status, headers, response.read())
        except (OSError, http.client.HTTPException):
            return Answer(502)
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    between: Between
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        request = Request(self.command, self.path, headers, body)
        meddle = self.between.meddle
        answer = meddle(request, lambda: self.between.pass_on(request)) if meddle else self.between.pass_on(request)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = _serve

    def log_message(self, *_: object) -> None:
        pass
