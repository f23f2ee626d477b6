"""A node's real processes as a test sees them: started, asked, traced, killed."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import psutil

from bench.postgresql import PostgreSQLServer

ROOT = Path(__file__).resolve().parents[2]
RUNNER = Path(__file__).with_name("runner.py")
ATTACH_SECONDS = 15.0

T = TypeVar("T")


def wait_for(what: Callable[[], T], timeout: float = 15.0) -> T:
    """Ask until the answer is true, and return it; fails after ``timeout`` seconds with the last answer."""
    deadline = time.monotonic() + timeout
    while not (found := what()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still {found!r} after {timeout} s")
        time.sleep(0.05)
    return found


class NodeProcess:
    """``runner.py`` in some mode; ``url`` is its first line."""

    def __init__(self, *arguments: str, log: Path) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(RUNNER), *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.log = log
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self.url = self._output.readline().decode().strip()
        assert self.url, f"did not start: {log.read_text()}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def build_in(self, fault: str) -> None:
        """Give a web process one of the runner's faults, in place of the one it had."""
        self._input.write(f"{fault}\n".encode())
        self._input.flush()
        assert self._output.readline().decode().strip() == fault

    def child(self, kind: str) -> psutil.Process | None:
        """Return the child of a kind, None while there is none."""
        for process in psutil.Process(self.pid).children():
            try:
                if kind in process.cmdline():
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        return self._process.wait(timeout)

    def stop(self) -> None:
        """End it and its children, however they are."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                for process in psutil.Process(self.pid).children(recursive=True):
                    process.kill()
                self._process.kill()
                self._process.wait()
        self._input.close()
        self._output.close()


@dataclass
class Answer:
    """What a client got: status 0 when there was no answer, ``body`` what came of it, ``whole`` unless it broke off."""

    request_id: str
    uri: str
    status: int = 0
    body: bytes = b""
    whole: bool = False


def read(
    url: str, uri: str, authorization: str, request_id: str, timeout: float = 30.0, most: int | None = None
) -> Answer:
    """Read a document on a connection of its own and keep every byte that came, also of an answer that broke off.

    The client leaves after about ``most`` bytes.
    """
    answer = Answer(request_id, uri)
    connection = HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    pieces: list[bytes] = []
    try:
        headers = {"Authorization": f"Bearer {authorization}", "X-Request-Id": request_id}
        connection.request("GET", f"/v1/documents/{uri}", headers=headers)
        response = connection.getresponse()
        answer.status = response.status
        length = int(response.headers.get("Content-Length", -1))
        while piece := response.read1(65536):
            pieces.append(piece)
            if most is not None and sum(map(len, pieces)) >= most:
                break
        answer.whole = length == sum(map(len, pieces))
    except (OSError, HTTPException):
        pass
    finally:
        connection.close()
    answer.body = b"".join(pieces)
    return answer


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


def postmaster(server: PostgreSQLServer) -> int:
    """Return the process id of a PostgreSQL server."""
    return int((server.folder / "data" / "postmaster.pid").read_text().split()[0])


@contextmanager
def away(server: PostgreSQLServer) -> Iterator[None]:
    """Have no database: PostgreSQL is killed as a whole, and started again afterwards."""
    main = psutil.Process(postmaster(server))
    everything = [main, *main.children()]
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(everything, 10)
    yield

    def started() -> bool:
        with suppress(subprocess.CalledProcessError):
            server.start()
            return True
        return False

    wait_for(started, 30)


def status_of(url: str) -> int:
    """Return the status of an answer, 0 when there is none."""
    try:
        return httpx.get(url, timeout=10).status_code
    except httpx.HTTPError:
        return 0


def with_children(pid: int) -> list[int]:
    """Return a process and all below it."""
    return [pid, *(process.pid for process in psutil.Process(pid).children(recursive=True))]


@contextmanager
def strace(pids: Sequence[int], *arguments: str) -> Iterator[None]:
    """Trace running processes, with all their threads and new children, for as long as the block runs."""
    command = ["strace", "-f", *arguments, *(word for pid in pids for word in ("-p", str(pid)))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    attached: set[int] = set()
    said: list[str] = []

    def follow() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            words = line.split()
            if "attached" in words:
                attached.add(int(words[words.index("Process") + 1]))

    # Read for as long as strace runs: a full pipe would halt it, and all that it traces.
    reader = threading.Thread(target=follow)
    reader.start()
    try:
        wait_for(lambda: attached.issuperset(pids) or process.poll() is not None, ATTACH_SECONDS)
        assert process.poll() is None, "".join(said)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(15)
        reader.join()
        process.stderr.close()
