"""The supervisor with real processes: replaced, drained, given up, and gone with their parent."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

CHILD = """
import asyncio, os, sys, time
from node.web.processes import child_sockets, end_with_parent
from node.web.server import ServerSettings, run_asgi
end_with_parent()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    if scope["path"] == "/stuck":
        await asyncio.sleep(60)
    body = str(os.getpid()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})

run_asgi(app, child_sockets(), ServerSettings(drain_seconds=float(sys.argv[1])))
"""

JOB = """
import time
from node.web.processes import end_with_parent
end_with_parent()
time.sleep(600)
"""

PARENT = """
import sys
import time
from node.web.processes import ChildSpec, Supervisor, bind

def on_exit(ended):
    print("exit", ended.name, ended.pid, ended.status, flush=True)
    time.sleep(float(sys.argv[4]))
    raise RuntimeError("must not matter")

web, drain = int(sys.argv[1]), sys.argv[2]
supervisor = Supervisor(
    [ChildSpec("web", "web_child", (drain,), count=web), ChildSpec("jobs", sys.argv[3], listens=False)],
    [bind("127.0.0.1", 0)],
    drain_seconds=float(drain),
    on_exit=on_exit,
    announce=lambda urls: print("at", *urls, flush=True),
)
sys.exit(supervisor.run())
"""


class Running:
    """A supervisor under test."""

    def __init__(self, process):
        self.process = process
        line = process.stdout.readline()
        while not line.startswith("at "):
            assert line, "the supervisor ended"
            line = process.stdout.readline()
        self.port = int(line.rsplit(":", 1)[1])

    def get(self, path="/"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        try:
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def family(self):
        return psutil.Process(self.process.pid).children()

    def exits(self):
        self.process.wait(15)
        return [line.split()[1:] for line in self.process.stdout if line.startswith("exit ")]


@pytest.fixture
def start(tmp_path):
    (tmp_path / "web_child.py").write_text(CHILD)
    (tmp_path / "job_child.py").write_text(JOB)
    (tmp_path / "bad_child.py").write_text("raise SystemExit(3)")
    (tmp_path / "parent.py").write_text(PARENT)
    started = []

    def run(web=1, drain=3, job="job_child", exit_takes=0.0):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(tmp_path / "parent.py"), str(web), str(drain), job, str(exit_takes)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return Running(process)

    yield run
    for process in started:
        family = psutil.Process(process.pid).children() if process.poll() is None else []
        for member in [*family, process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                member.kill()
        process.wait()
        process.stdout.close()


def runs(process):
    """Tell whether a process still does something: an orphan that has ended may wait a while for init to reap it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_children_serve_on_the_parent_s_socket_and_a_killed_one_is_replaced(start):
    running = start(web=2)
    until(lambda: len(running.family()) == 3)
    victim = running.get()
    before = {child.pid for child in running.family()}
    os.kill(victim, signal.SIGKILL)
    until(lambda: len({child.pid for child in running.family()} - before) == 1)
    assert running.get() != victim
    running.process.terminate()
    exits = running.exits()
    assert running.process.returncode == 0
    assert ["web", str(victim), "-9"] in exits
    assert len(exits) == 4


def test_what_is_done_after_a_child_s_end_holds_up_neither_its_successor_nor_the_stop(start):
    running = start(exit_takes=1.5)
    for _ in range(2):
        victim = running.get()
        os.kill(victim, signal.SIGKILL)
        until(lambda victim=victim: victim not in {child.pid for child in running.family()}, 1.0)
        assert running.get() != victim
    begun = time.monotonic()
    running.process.terminate()
    until(lambda: not running.family(), 2.0)
    assert len(running.exits()) == 4  # all the same
    assert time.monotonic() - begun < 15


def test_all_are_gone_soon_after_the_parent_was_killed(start):
    running = start(web=2)
    running.get()
    until(lambda: len(running.family()) == 3)
    until(lambda: all(child.num_threads() > 1 for child in running.family()), 20)  # all watch the parent
    family = running.family()
    running.process.kill()
    assert len(family) == 3
    until(lambda: not any(runs(child) for child in family), 2.0)


def test_a_stop_drains_the_request_under_way_and_takes_no_more(start):
    running = start()
    running.get()
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(running.get, "/slow")
        time.sleep(0.3)
        running.process.terminate()
        time.sleep(0.4)
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", running.port), timeout=1):
            pass
        assert under_way.result() > 0
    assert {tuple(exit[::2]) for exit in running.exits()} == {("web", "0"), ("jobs", "-15")}
    assert running.process.returncode == 0


def test_a_stop_ends_by_force_what_does_not_drain(start):
    running = start(drain=0.5)
    running.get()
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(running.get, "/stuck")
        time.sleep(0.3)
        running.process.terminate()
        with pytest.raises((OSError, http.client.HTTPException)):
            stuck.result(8)
    assert running.process.wait(8) == 0


def test_a_second_signal_kills_at_once(start):
    running = start(drain=30)
    running.get()
    with ThreadPoolExecutor() as pool:
        stuck = pool.submit(running.get, "/stuck")
        time.sleep(0.3)
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)
        running.process.wait(3)
        with pytest.raises((OSError, http.client.HTTPException)):
            stuck.result(3)


def test_it_does_not_give_up_on_a_child_that_is_killed_again_and_again(start):
    running = start()
    for _ in range(6):
        victim = running.get()
        os.kill(victim, signal.SIGKILL)
        until(
            lambda victim=victim: len(running.family()) == 2 and victim not in {c.pid for c in running.family()}, 10.0
        )
    assert running.get()
    running.process.terminate()
    assert len(running.exits()) == 8
    assert running.process.returncode == 0


def test_it_gives_up_on_a_child_that_always_dies_at_once(start):
    running = start(job="bad_child")
    exits = running.exits()
    assert running.process.returncode == 1
    assert [exit[::2] for exit in exits].count(["jobs", "3"]) == 5
    assert [exit[0] for exit in exits].count("web") == 1
