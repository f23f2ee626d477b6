"""One job, many processes: of two hosts' job processes on one database one works, and the other takes over when it is killed."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.durability.processes import ROOT, wait_for
from tests.durability.runner import PROBE_EVERY, PROBE_LEASE, PROBE_LONG, PROBE_LONG_EACH

SLACK = 2.5
"""Seconds that a loaded machine may be late."""


@dataclass(frozen=True)
class Run:
    pid: int
    begun: float
    done: float


def runs(file: Path) -> list[Run]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [Run(int(pid), float(begun), float(done)) for pid, begun, done in map(str.split, lines)]


def require_no_more_than_planned(done: list[Run]) -> None:
    """Require at most one run for each planned time; the first may have begun late."""
    assert len(done) <= (done[-1].begun - done[0].begun) / PROBE_EVERY + 2


def test_each_run_is_done_once_and_a_killed_leader_is_replaced(new_node, run, tmp_path, postgres_url, soak):
    served = new_node(postgres_url)
    file = tmp_path / "runs"
    folders = [served.folder]
    for number in range(soak.count(small=1, full=3)):
        folders.append(tmp_path / f"host-{number}")
        shutil.copytree(served.folder, folders[-1])
    hosts = {(host := run("jobs", str(folder), str(file))).pid: host for folder in folders}
    wait_for(lambda: len(runs(file)) >= soak.count(small=6, full=40), 60)

    leader = runs(file)[0].pid
    hosts[leader].signal(signal.SIGKILL)
    hosts[leader].wait()
    killed = time.time()
    wait_for(lambda: runs(file)[-1].pid != leader, 30)
    wait_for(lambda: len([one for one in runs(file) if one.pid != leader]) >= soak.count(small=4, full=40), 60)

    done = runs(file)
    pids = [one.pid for one in done]
    successor = done[-1].pid
    assert pids == [leader] * pids.index(successor) + [successor] * pids.count(successor)
    taken_over = next(one.begun for one in done if one.pid == successor)
    assert taken_over - killed < PROBE_LEASE + PROBE_EVERY + SLACK
    assert all(later.begun >= earlier.done for earlier, later in itertools.pairwise(done))
    for pid in (leader, successor):
        require_no_more_than_planned([one for one in done if one.pid == pid])


def test_a_run_that_takes_long_does_not_pile_up(new_node, run, tmp_path):
    served = new_node(f"sqlite:///{tmp_path}/node.db")
    file = tmp_path / "runs"
    run("jobs", str(served.folder), str(file))
    wait_for(lambda: len(runs(file)) > PROBE_LONG_EACH + 3, 60)
    done = runs(file)
    assert any(one.done - one.begun >= PROBE_LONG for one in done)
    assert all(later.begun >= earlier.done for earlier, later in itertools.pairwise(done))
    # The long run let planned times go by; had they been made up for, there would be a run for each of them.
    assert len(done) <= (done[-1].begun - done[0].begun) / PROBE_EVERY


def test_web_processes_have_no_scheduler():
    code = "import sys, node.asgi; sys.exit(any(name.startswith('apscheduler') for name in sys.modules))"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0
