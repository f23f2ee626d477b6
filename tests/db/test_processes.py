"""Reads that dead processes leave open get their end row once, and never beside the end that the process wrote itself."""

import pytest
from sqlalchemy import select

from node.contract.identifiers import uuid7
from node.db.audit_log import LogFilter, append_events, read_log
from node.db.fencing import FencedDatabase
from node.db.leases import LeaseLost, take_lease
from node.db.models import AccessUnsequenced, OpenRead, ServingProcess
from node.db.processes import (
    KEPT,
    STALE_AFTER,
    close_interrupted,
    heartbeat,
    mark_ended,
    mark_run_ended,
    purge_processes,
    register_process,
)
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.services.audit import encode_event
from node.services.events import end_of_read

NOW = 1_800_000_000_000_000
BEGUN = {
    "phase": "attempt", "action": "read", "outcome": "allowed", "open": True, "uri": "in.x-INC-1", "issuer": "in.x",
    "doc_type": "INC", "holder_ref": "ref", "client_id": "bank", "consent_id": "c1", "source": "192.0.2.1",
    "request_id": "r1", "version": 1, "media_type": "application/pdf", "sha256": "0" * 64, "offset": 0, "length": 3,
}  # fmt: skip


@pytest.fixture
def database(node_database_url):
    database = Database(node_database_url)
    yield database
    database.close()


def start(database, process_id="p1", now_us=NOW, run="run", pid=1):
    with database.writing() as connection:
        register_process(connection, process_id, run, pid, now_us)
    return process_id


def write(database, *events):
    with database.writing() as connection:
        append_events(connection, [encode_event(event, NOW) for event in events])


def sequence(database):
    while sequence_once(database, b"key"):
        pass


def begin(process_id):
    return {**BEGUN, "process": process_id, "read_id": uuid7()}


def end(database, process_id="p1"):
    with database.writing() as connection:
        mark_ended(connection, process_id, NOW)


def rows(database):
    sequence(database)
    with database.reading() as connection:
        return [row.event for row in read_log(connection, LogFilter(), 1000)]


def test_a_process_that_is_not_registered_yet_is_not_dead(database):
    with database.writing() as connection:
        assert heartbeat(connection, "p1", NOW)
    start(database)
    end(database)
    start(database)  # again: the first try was committed though its answer was lost
    with database.writing() as connection:
        assert not heartbeat(connection, "p1", NOW + 1)


def test_an_open_read_of_a_dead_process_is_ended_as_interrupted(database):
    begun = begin(start(database))
    write(database, begun)
    sequence(database)
    assert close_interrupted(database, NOW) == 0
    end(database)
    assert close_interrupted(database, NOW + 7) == 1
    attempt, closed = rows(database)
    kept = (
        "read_id",
        "action",
        "uri",
        "issuer",
        "doc_type",
        "holder_ref",
        "client_id",
        "consent_id",
        "process",
        "sha256",
    )
    assert {name: closed[name] for name in kept} == {name: attempt[name] for name in kept}
    assert (closed["phase"], closed["outcome"], closed["reason"]) == ("end", "interrupted", "process-ended")
    assert "bytes" not in closed
    assert close_interrupted(database, NOW) == 0
    assert len(rows(database)) == 2
    with database.reading() as connection:
        assert connection.execute(select(OpenRead.read_id)).all() == []


def test_a_process_without_a_heartbeat_is_dead_and_learns_it(database):
    silent, alive = start(database, "silent"), start(database, "alive")
    write(database, begin(silent), begin(alive))
    sequence(database)
    later = NOW + STALE_AFTER + 1
    with database.writing() as connection:
        assert heartbeat(connection, alive, later)
    assert close_interrupted(database, later - 1) == 0
    assert close_interrupted(database, later) == 1
    with database.writing() as connection:
        assert not heartbeat(connection, silent, later)
        assert heartbeat(connection, alive, later)
    (closed,) = [event for event in rows(database) if event["phase"] == "end"]
    assert closed["process"] == silent


def living(database):
    with database.reading() as connection:
        return set(
            connection.execute(select(ServingProcess.process_id).where(ServingProcess.ended_us.is_(None))).scalars()
        )


def test_a_run_ends_its_own_processes_and_nobody_elses(database):
    for process_id, run, pid in [("a1", "run_1", 1), ("a11", "run_1", 11), ("b", "run_11", 1), ("c", "runx1", 1)]:
        start(database, process_id, run=run, pid=pid)
    with database.writing() as connection:
        mark_run_ended(connection, "run_1", NOW, 1)
    assert living(database) == {"a11", "b", "c"}
    with database.writing() as connection:
        mark_run_ended(connection, "run_1", NOW)
    assert living(database) == {"b", "c"}


def test_nothing_is_closed_before_all_that_the_process_wrote_has_its_place(database):
    begun, left = begin(start(database)), begin("p1")
    write(database, begun, left)
    sequence(database)
    write(database, end_of_read(begun, "complete", 3))
    end(database)
    assert close_interrupted(database, NOW) == 0
    sequence(database)
    assert close_interrupted(database, NOW) == 1
    ends = [(event["read_id"], event["outcome"]) for event in rows(database) if event["phase"] == "end"]
    assert sorted(ends) == sorted([(begun["read_id"], "complete"), (left["read_id"], "interrupted")])


def test_many_reads_are_closed_in_batches_each_once(database):
    process_id = start(database)
    write(database, *[begin(process_id) for _ in range(250)])
    sequence(database)
    end(database)
    closed = []
    while count := close_interrupted(database, NOW):
        closed.append(count)
        sequence(database)
    assert closed == [200, 50]
    ends = [event["read_id"] for event in rows(database) if event["phase"] == "end"]
    assert len(ends) == len(set(ends)) == 250


def test_a_job_that_lost_its_lease_closes_nothing(database):
    write(database, begin(start(database)))
    sequence(database)
    end(database)
    fenced = FencedDatabase(database, take_lease(database, "interrupted-reads", "one", NOW, 1))
    take_lease(database, "interrupted-reads", "two", NOW + 2, 1)
    with pytest.raises(LeaseLost):
        close_interrupted(fenced, NOW)
    with database.reading() as connection:
        assert len(connection.execute(select(OpenRead.read_id)).all()) == 1
        assert connection.execute(select(AccessUnsequenced.event_id)).all() == []


def test_processes_are_forgotten_when_nothing_of_them_is_open(database):
    for process_id in ("tidy", "untidy", "alive"):
        start(database, process_id)
    write(database, begin("untidy"))
    sequence(database)
    end(database, "tidy")
    end(database, "untidy")
    with database.writing() as connection:
        assert purge_processes(connection, NOW + KEPT) == 0
        assert purge_processes(connection, NOW + KEPT + 1) == 1
        left = connection.execute(select(ServingProcess.process_id)).scalars()
        assert set(left) == {"untidy", "alive"}


def test_a_row_that_no_column_was_made_for_does_not_stop_the_sequencer(database):
    """What a caller or a locker sent goes into the filters as it is, however long."""
    write(
        database,
        {
            **BEGUN,
            "process": "p",
            "read_id": uuid7(),
            "uri": "x" * 300 + "\0",
            "client_id": "c" * 512,
            "consent_id": "d" * 512,
            "holder_ref": "e" * 512,
        },
    )
    sequence(database)
    assert len(rows(database)) == 1
