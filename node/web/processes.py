"""The parent of ``serve``: binds the addresses, keeps the child processes running, and stops them in order."""

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger("node.web.processes")

SOCKETS_VARIABLE = "FEDERATED_LOCKER_SOCKETS"
PARENT_VARIABLE = "FEDERATED_LOCKER_PARENT"

ABORTING_SECONDS = 5.0
"""What a child has after draining to break off what is left and to write down that it did, as ``server.ABORT_SECONDS``."""

_ORPHAN_SECONDS = 1.0


@dataclass(frozen=True)
class ChildSpec:
    """A kind of child: a module run by a fresh interpreter, ``count`` of them; ``listens`` gives it the sockets."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    count: int = 1
    listens: bool = True


@dataclass(frozen=True)
class ChildExit:
    """A child that has ended: its kind, process id, and exit status (negative: the signal that killed it)."""

    name: str
    pid: int
    status: int


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, port 0 for a free one; raises OSError when the address is taken or not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError:
        bound.close()
        raise
    return bound


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """Return the URL under which a bound socket is reached."""
    host, port = bound.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def child_sockets() -> list[socket.socket]:
    """Return, in a child, the sockets that the parent bound."""
    numbers = os.environ.get(SOCKETS_VARIABLE, "")
    return [socket.socket(fileno=int(number)) for number in numbers.split(",") if number]


def end_with_parent() -> None:
    """Have this process end when its parent does, however that happened; call it first thing in a child.

    The child holds one end of a pipe whose other end only the parent has. When that closes, the child stops as on SIGTERM, and
    is gone for certain a second later.
    """
    if PARENT_VARIABLE in os.environ:
        pipe = int(os.environ[PARENT_VARIABLE])
        threading.Thread(target=_wait_for_parent, args=(pipe,), name="parent-watch", daemon=True).start()


def _wait_for_parent(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def stopped_by_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set, for a child that waits for nothing else. Main thread only."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@dataclass
class _Slot:
    """One place for a child: the process in it, and how the ones before it fared."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    early_deaths: int = 0
    early_faults: int = 0
    start_at: float = 0.0


@dataclass
class Supervisor:
    """Starts the children and replaces those that die, until SIGTERM or SIGINT.

    A child that dies within ``early_seconds`` of its start is replaced after a growing pause, and after ``most_early_deaths`` of
    them in a row the supervisor gives up and stops. One that was killed (SIGKILL) did not end by its own fault and counts for the
    pause alone: nobody who kills processes, a kernel out of memory included, is to stop the service as a whole.

    ``on_exit`` is called in this process for each child that has ended, in a thread of its own, since it may have to wait and a
    child's successor must not; what it raises is logged. ``announce`` gets the real URLs once.

    The children share a folder for their metrics (see ``metrics.render_metrics``), which is removed at the end.
    """

    children: Sequence[ChildSpec]
    sockets: Sequence[socket.socket]
    drain_seconds: float = 30.0
    scheme: str = "http"
    environment: Mapping[str, str] = field(default_factory=dict)
    on_exit: Callable[[ChildExit], None] | None = None
    announce: Callable[[list[str]], None] | None = None
    early_seconds: float = 5.0
    most_early_deaths: int = 5

    def run(self) -> int:
        """Run until told to stop; returns the exit status, 0 for an orderly stop and 1 after giving up. Main thread only."""
        self._slots = [_Slot(spec) for spec in self.children for _ in range(spec.count)]
        self._stop_signals = 0
        self._parent_end = os.pipe()
        self._metrics_folder = Path(tempfile.mkdtemp(prefix="federated-locker-metrics-"))
        self._telling = ThreadPoolExecutor(1, thread_name_prefix="child-ends")
        try:
            with self._signals() as wake:
                if self.announce:
                    self.announce([url_of(bound, self.scheme) for bound in self.sockets])
                gave_up = self._keep_running(wake)
                self._stop(wake)
                return 1 if gave_up else 0
        finally:
            self._telling.shutdown()
            for end in self._parent_end:
                os.close(end)
            shutil.rmtree(self._metrics_folder, ignore_errors=True)

    def _keep_running(self, wake: "_Wake") -> bool:
        """Start what is due until a stop is asked for; returns True for giving up."""
        while not self._stop_signals:
            now = time.monotonic()
            due = [slot for slot in self._slots if slot.process is None]
            for slot in due:
                if slot.early_faults >= self.most_early_deaths:
                    log.error(
                        "giving up: a child process ends each time as soon as it has started",
                        child=slot.spec.name,
                        times=slot.early_faults,
                    )
                    return True
                if slot.start_at <= now:
                    self._start(slot)
            waiting = [slot.start_at - now for slot in self._slots if slot.process is None]
            wake.wait(max(min(waiting, default=60.0), 0.0))
            self._reap()
        return False

    def _start(self, slot: _Slot) -> None:
        numbers = [bound.fileno() for bound in self.sockets] if slot.spec.listens else []
        environment = {
            **os.environ,
            **self.environment,
            SOCKETS_VARIABLE: ",".join(map(str, numbers)),
            PARENT_VARIABLE: str(self._parent_end[0]),
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_folder),
        }
        slot.process = subprocess.Popen(
            [sys.executable, "-m", slot.spec.module, *slot.spec.arguments],
            pass_fds=[*numbers, self._parent_end[0]],
            env=environment,
        )
        slot.started = time.monotonic()
        log.info("child started", child=slot.spec.name, pid=slot.process.pid)

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.process is None or (status := slot.process.poll()) is None:
                continue
            ended = ChildExit(slot.spec.name, slot.process.pid, status)
            slot.process = None
            early = time.monotonic() - slot.started < self.early_seconds
            slot.early_deaths = slot.early_deaths + 1 if early else 0
            slot.early_faults = slot.early_faults + (status != -signal.SIGKILL) if early else 0
            slot.start_at = time.monotonic() + (min(0.1 * 2**slot.early_deaths, 5.0) if early else 0.0)
            self._tell(ended)

    def _tell(self, ended: ChildExit) -> None:
        level = log.info if self._stop_signals else log.warning
        level("child ended", child=ended.name, pid=ended.pid, status=ended.status)
        if not self._stop_signals:
            self._forget_metrics(ended.pid)
        if self.on_exit:
            self._telling.submit(self._call_on_exit, self.on_exit, ended)

    def _call_on_exit(self, on_exit: Callable[[ChildExit], None], ended: ChildExit) -> None:
        try:
            on_exit(ended)
        except Exception as error:
            log.error("after a child's end", child=ended.name, error=type(error).__name__)

    def _forget_metrics(self, pid: int) -> None:
        from prometheus_client.multiprocess import mark_process_dead  # the parent needs it only when a child has died

        mark_process_dead(pid, str(self._metrics_folder))  # type: ignore[no-untyped-call]  # prometheus_client annotates it nowhere

    def _stop(self, wake: "_Wake") -> None:
        """Stop accepting, let the children drain, kill what is left; a second signal kills at once."""
        self._stop_signals = max(self._stop_signals, 1)
        for bound in self.sockets:
            bound.close()
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self.drain_seconds + ABORTING_SECONDS
        while self._alive() and self._stop_signals < 2 and (left := deadline - time.monotonic()) > 0:
            wake.wait(left)
            self._reap()
        self._signal_all(signal.SIGKILL)
        for slot in self._alive():
            assert slot.process is not None
            slot.process.wait()
        self._reap()

    def _alive(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.process is not None]

    def _signal_all(self, number: signal.Signals) -> None:
        for slot in self._alive():
            assert slot.process is not None
            slot.process.send_signal(number)

    @contextmanager
    def _signals(self) -> Iterator["_Wake"]:
        wake = _Wake()
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}
        signal.set_wakeup_fd(wake.write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()

    def _on_stop(self, *_: object) -> None:
        self._stop_signals += 1


class _Wake:
    """A pipe that signals write to, so that waiting ends at once."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        for end in (self._read_end, self.write_end):
            os.set_blocking(end, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._read_end, selectors.EVENT_READ)

    def wait(self, seconds: float) -> None:
        if self._selector.select(seconds):
            os.read(self._read_end, 4096)

    def close(self) -> None:
        self._selector.close()
        os.close(self._read_end)
        os.close(self.write_end)
