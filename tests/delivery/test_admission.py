"""Admission while the database is away: nothing is served, and no end of a read is lost or written twice."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from node.contract.identifiers import uuid7
from node.contract.problems import LogUnavailable
from node.contract.signing import TICKET, SigningKey
from node.db.models import ServingProcess
from node.db.processes import register_process
from node.delivery.admission import Admission, EventWork, ReadWork
from node.delivery.small_reads import SmallReads
from node.services.audit import Outcome
from node.services.events import Caller, end_of_read
from node.web.floods import FloodGate

CALLER = Caller("r-1", "127.0.0.1", "process-1")


@pytest.fixture
def read_small(served):
    with ThreadPoolExecutor(2) as pool:
        yield SmallReads(served.node.stores, pool).begin


@pytest.fixture
def make_admission(served, read_small):
    """Make admissions to the served node's database; each gives its connection back."""
    node, made = served.node, []

    def make(**hooks):
        made.append(Admission(node.database, node.rules, {}, FloodGate(), node.clock, read_small, **hooks))
        return made[-1]

    yield make
    for admission in made:
        admission.close()


@pytest.fixture
def admission(make_admission):
    return make_admission()


def read(served, ticket=None):
    return ReadWork(
        "in.gov.example-INCOM-1", "GET", {"authorization": f"Bearer {ticket or served.ticket('1')}"}, CALLER
    )


def end(admitted):
    fields = end_of_read(admitted.begun, Outcome.COMPLETE, 4)
    return EventWork({**fields, "event_id": uuid7()})


def away(*_, **__):
    raise OperationalError("", {}, Exception())


def test_ends_wait_for_the_database(served, admission, monkeypatch):
    served.add("1", b"%PDF")
    (admitted,) = admission.process([read(served)])
    with monkeypatch.context() as broken:
        broken.setattr(served.node.database, "writing", away)
        with pytest.raises(LogUnavailable):
            admission.process([end(admitted), read(served)])
        assert admission.failing
    admission.process([EventWork({})])
    assert [row["outcome"] for row in served.events(expected=2)] == ["allowed", "complete"]
    assert not admission.failing


def test_a_commit_whose_answer_was_lost_is_not_done_twice(served, admission):
    served.add("1", b"%PDF")
    (admitted,) = admission.process([read(served)])
    ended = end(admitted)
    admission.process([ended])
    admission._keep_ends([ended])  # as after a commit that succeeded and whose answer never came
    admission.process([EventWork({})])
    assert [row["outcome"] for row in served.events(expected=2)] == ["allowed", "complete"]


def test_a_process_is_registered_with_the_first_rows_that_are_written(served, make_admission, monkeypatch):
    database, registered = served.node.database, []
    served.add("1", b"%PDF")

    def register(connection):
        registered.append(None)
        register_process(connection, "process-2", "run", 1, served.node.clock())

    def processes():
        with database.reading() as connection:
            return (
                connection.execute(select(ServingProcess.process_id).order_by(ServingProcess.process_id))
                .scalars()
                .all()
            )

    before = processes()
    admission = make_admission(register=register)
    with monkeypatch.context() as broken:
        broken.setattr("node.delivery.admission.append_events", away)
        with pytest.raises(LogUnavailable):
            admission.process([read(served)])
        assert registered and processes() == before
    admission.process([read(served)])
    assert processes() == [*before, "process-2"]
    done = len(registered)
    admission.process([read(served)])
    assert len(registered) == done
    make_admission(register=register).process(
        [EventWork({})]
    )  # as after a commit that succeeded and whose answer never came
    assert processes() == [*before, "process-2"]


def test_what_is_kept_is_bounded(admission, monkeypatch):
    monkeypatch.setattr("node.delivery.admission.MOST_KEPT", 3)
    admission._keep_ends([EventWork({"phase": "end", "event_id": str(number)}) for number in range(5)])
    admission._keep_ends([EventWork({"phase": "end", "event_id": "6"}), EventWork({"phase": "attempt"})])
    assert len(admission._kept) == 3


def test_an_unknown_key_has_its_lockers_keys_fetched(served, make_admission):
    asked = []
    admission = make_admission(on_unknown_key=asked.append)
    stranger = SigningKey.generate(TICKET)
    (refused,) = admission.process([read(served, served.ticket("1", stranger))])
    assert refused.reason == "unknown-key" and asked == ["https://locker.example"]
    admission.process([read(served, served.ticket("1", stranger, iss="https://nobody.example"))])
    assert len(asked) == 1
