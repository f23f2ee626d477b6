"""One job, many processes (FC-21): each task runs on one host, another takes over, and nothing ends the scheduler."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import structlog
from sqlalchemy import select

from node.contract.times import now_us
from node.db.leases import take_lease
from node.db.lockers import save_locker
from node.db.models import Lease
from node.db.session import Database
from node.jobs.scheduler import JobScheduler, LeasedTask
from node.jobs.tasks import JobContext, Task

CONTEXT = JobContext(settings=None, keys=None, client=None, lists=None, clock=now_us, sweep=lambda: None)

HOST = textwrap.dedent(
    """
    import os, sys, threading, time
    from node.contract.times import now_us
    from node.db.session import Database
    from node.jobs.scheduler import JobScheduler
    from node.jobs.tasks import JobContext, Task

    url, lines, every, lease = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])

    def note(context, database):
        with database.writing():
            with open(lines, "a") as file:
                file.write(f"{os.getpid()} {time.time()}\\n")
        return False

    context = JobContext(None, None, None, None, now_us, lambda: None)
    scheduler = JobScheduler(context, Database(url), str(os.getpid()), [Task("note", every, lease, note)])
    scheduler.start()
    print("up", flush=True)
    threading.Event().wait()
    """
)


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    yield database
    database.close()


def lines_of(path):
    return [(int(pid), float(at)) for pid, at in (line.split() for line in path.read_text().splitlines())]


def test_a_job_runs_on_one_host_and_another_takes_over(database, tmp_path, soak):
    every, lease, run = 0.2, 2.5, soak.count(small=1, full=30)
    path = tmp_path / "lines"
    path.touch()
    command = [
        sys.executable, "-c", HOST, database.url.render_as_string(hide_password=False), str(path), str(every),
        str(lease),
    ]  # fmt: skip
    hosts = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(soak.count(small=3, full=8))
    ]  # fmt: skip
    try:
        for host in hosts:
            assert host.stdout.readline() == "up\n"
        deadline = time.monotonic() + 20
        while len(lines_of(path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(run)
        holder, died = lines_of(path)[-1][0], time.time()
        os.kill(holder, signal.SIGKILL)
        time.sleep(run + lease + 1)
    finally:
        for host in hosts:
            host.kill()
            host.wait()
            host.stdout.close()
    lines = lines_of(path)
    owners = [pid for pid, _ in lines]
    blocks = [pid for index, pid in enumerate(owners) if index == 0 or owners[index - 1] != pid]
    assert blocks[0] == holder
    assert len(blocks) == 2  # the lease changed hands once, and nobody ran beside its holder
    taken_over = next(at for pid, at in lines if pid != holder)
    assert taken_over - died < lease + 2 * every + 2  # two seconds for a machine with other things to do
    gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(lines)]
    assert sum(gap < every / 2 for gap in gaps) <= len(gaps) // 4  # late runs are not made up for


def run_once(database, task, owner="one", stop=None):
    LeasedTask(task, CONTEXT, database, owner, stop or threading.Event())()


def test_a_task_goes_on_while_there_is_more_and_stops_when_told(database):
    stop, pieces = threading.Event(), []

    def work(_context, _database):
        pieces.append(1)
        if len(pieces) == 5:
            stop.set()
        return len(pieces) != 3

    task = LeasedTask(Task("t", 1, 10, work), CONTEXT, database, "one", stop)
    task()
    assert len(pieces) == 3
    task()
    assert len(pieces) == 5
    task()
    assert len(pieces) == 5


def test_another_holder_s_task_is_left_alone(database):
    take_lease(database, "t", "other", now_us(), 60_000_000)
    ran = []
    run_once(database, Task("t", 1, 10, lambda *_: bool(ran.append(1))))
    assert ran == []


def test_an_overtaken_task_writes_nothing_and_asks_for_its_lease_anew(database):
    runs = []

    def slow(_context, fenced):
        runs.append(1)
        if len(runs) == 1:
            take_lease(database, "t", "other", now_us() + 60_000_000, 1)
        with fenced.writing() as connection:
            save_locker(
                connection, iss=f"https://{len(runs)}", base_url="x", jwks="{}", encryption_key="{}", endpoints={},
                now_us=1,
            )  # fmt: skip
        return False

    task = LeasedTask(Task("t", 1, 10, slow), CONTEXT, database, "one", threading.Event())
    with structlog.testing.capture_logs() as logs:
        task()
    assert [row["event"] for row in logs] == ["another process has taken over a job"]
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM locker").scalar_one() == 0
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE lease SET expires_us = 0")
    task()
    with database.reading() as connection:
        assert connection.exec_driver_sql("SELECT iss FROM locker").scalars().all() == ["https://2"]


def test_a_failing_task_is_logged_by_its_type_alone_and_runs_again(database):
    failed = threading.Semaphore(0)
    other = threading.Semaphore(0)

    def fail(_context, _database):
        failed.release()
        raise RuntimeError("value of a person: 9876543210")

    tasks = [Task("fails", 0.05, 5, fail), Task("works", 0.05, 5, lambda *_: bool(other.release()))]
    scheduler = JobScheduler(CONTEXT, database, "one", tasks)
    with structlog.testing.capture_logs() as logs:
        scheduler.start()
        assert all(failed.acquire(timeout=20) for _ in range(3))
        assert all(other.acquire(timeout=20) for _ in range(3))
        scheduler.stop()
    errors = [row for row in logs if row["event"] == "a job failed"]
    assert len(errors) >= 3
    assert {(row["job"], row["error"]) for row in errors} == {("fails", "RuntimeError")}
    assert "9876543210" not in repr(logs)


def test_a_job_that_overruns_its_interval_does_not_pile_up(database):
    running, most, runs = [], [], []

    def slow(_context, _database):
        running.append(1)
        most.append(len(running))
        time.sleep(0.2)
        running.pop()
        runs.append(1)
        return False

    scheduler = JobScheduler(CONTEXT, database, "one", [Task("slow", 0.02, 5, slow)])
    scheduler.start()
    time.sleep(0.9)
    scheduler.stop()
    assert max(most) == 1
    assert 1 <= len(runs) <= 5


def test_a_scheduler_that_stops_gives_its_leases_up(database):
    ran = threading.Event()
    scheduler = JobScheduler(CONTEXT, database, "one", [Task("t", 0.02, 600, lambda *_: bool(ran.set()))])
    scheduler.start()
    assert ran.wait(20)
    scheduler.stop()
    assert take_lease(database, "t", "two", now_us(), 1) is not None
    with database.reading() as connection:
        assert connection.execute(select(Lease.owner)).scalars().all() == ["two"]
