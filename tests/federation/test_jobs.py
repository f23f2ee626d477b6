"""The job process with a locker: approval, push, links, revocations and the log, all without anybody asking."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import pytest
from sqlalchemy import select

from node.contract.holders import Holder
from node.contract.identifiers import uuid7
from node.contract.times import now_us
from node.db.audit_log import LogFilter, append_events, read_log
from node.db.lockers import void_moments
from node.db.models import HolderReference, OutboxRow
from node.db.processes import mark_ended, register_process
from node.services.audit import encode_event

POLL_SECONDS = 0.2
SITA = Holder.parse("mobile", "9876543210")

JOBS = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from types import SimpleNamespace
    from node.config import Settings
    from node.contract.times import now_us
    from node.db.session import Database
    from node.jobs.process import run_jobs
    from node.keys import load_keys
    url, folder, _ = sys.argv[1:]
    settings = Settings(
        folder=Path(folder), node_id="node-1", name="Node", base_url="http://127.0.0.1:1", database_url=url,
        allow_private=("127.0.0.0/8",), push_poll_seconds=0.2, revocation_poll_seconds=float(sys.argv[3]),
    )
    keys = load_keys(Path(folder))
    run_jobs(SimpleNamespace(settings=settings, keys=keys, database=Database(url), clock=now_us))
    print("stopped", flush=True)
    """
)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.05)


@contextmanager
def running_jobs(side, folder):
    """Run a node's job process; it is asked to stop at the end, and waited for."""
    url = side.database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", JOBS, url, str(folder / "node0"), str(POLL_SECONDS)]
    jobs = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield jobs
    finally:
        os.kill(jobs.pid, signal.SIGTERM)
        jobs.communicate(timeout=30)


def test_the_job_process_does_the_whole_round(side, locker, tmp_path):
    side.offer_type()
    side.registration.register(locker.iss)
    side.add("1")
    locker.residents[SITA] = "ref-1"
    with side.database.writing() as connection:
        register_process(connection, "web", "run", 1, now_us())
        begun = {"phase": "attempt", "action": "read", "outcome": "allowed", "open": True, "uri": "in.x-INC-1"}
        append_events(connection, [encode_event({**begun, "read_id": uuid7(), "process": "web"}, now_us())])
    with running_jobs(side, tmp_path) as jobs:
        locker.state = "approved"

        def holder_ref():
            with side.database.reading() as connection:
                return connection.execute(select(HolderReference.holder_ref)).scalar()

        wait_for(lambda: holder_ref() == "ref-1")
        locker.publish(("c1", 5_000_000_000_000_000))
        locker.changes.append({"position": 3, "uri": "in.x-INC-1", "outcome": "linked", "holder_ref": "ref-2"})
        wait_for(lambda: holder_ref() == "ref-2")

        def void():
            with side.database.reading() as connection:
                return void_moments(connection, [(locker.iss, "c1")])

        wait_for(lambda: void() == {(locker.iss, "c1"): 5_000_000_000_000_000})
        with side.database.writing() as connection:
            mark_ended(connection, "web", now_us())

        def outcomes():
            with side.database.reading() as connection:
                return [json.loads(row.payload)["outcome"] for row in read_log(connection, LogFilter(), 10)]

        wait_for(lambda: outcomes() == ["allowed", "interrupted"])
    assert jobs.communicate()[0].splitlines()[-1] == "stopped"
    with side.database.reading() as connection:
        assert connection.execute(select(OutboxRow.row_id)).all() == []


def test_after_an_outage_of_the_locker_revocations_come_at_the_next_look(side, locker, tmp_path, record_property):
    """Also when so many requests have failed that a circuit would be open for half a minute."""
    side.join(locker)
    locker.publish()

    def known():
        return side.lockers.find(locker.iss).list_sequence

    with running_jobs(side, tmp_path):
        wait_for(lambda: known() == 1)
        locker.down = True
        time.sleep(POLL_SECONDS * 20)
        locker.publish(("c1", 5_000_000_000_000_000))
        locker.down = False
        up = time.monotonic()
        wait_for(lambda: known() == 2)
        seconds = time.monotonic() - up
    record_property("seconds_after_an_outage", round(seconds, 2))
    assert seconds < POLL_SECONDS + 1


@pytest.mark.soak
def test_a_locker_that_answers_nothing_holds_up_anothers_revocations_by_ten_seconds_at_most(
    side, locker, tmp_path, record_property
):
    """Lists are asked for one after the other, so the bound on one request is the bound on what another locker waits for."""
    side.join(locker)
    locker.publish()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        endpoints = {name: f"{address}/{name}" for name in ("token", "registrations", "push", "revocations")}
        side.lockers.save(
            iss=address,
            base_url=address,
            jwks='{"keys": []}',
            encryption_key="{}",
            endpoints=endpoints,
            now_us=now_us(),
        )
        side.lockers.activate(address)
        with running_jobs(side, tmp_path):
            wait_for(lambda: side.lockers.find(locker.iss).list_sequence == 1)
            delays = []
            for number in (2, 3):
                locker.publish((f"c{number}", 5_000_000_000_000_000))
                published = time.monotonic()
                wait_for(lambda number=number: side.lockers.find(locker.iss).list_sequence == number)
                delays.append(round(time.monotonic() - published, 2))
    record_property("seconds_beside_a_silent_locker", delays)
    assert max(delays) < POLL_SECONDS + 10 + 1
    assert max(delays) > 1, "the other locker was not asked at all"
