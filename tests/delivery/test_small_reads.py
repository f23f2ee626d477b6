"""Small documents are read in threads while their rows are made durable: how many at a time, and what becomes of each."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from drivers.memory import MemoryDriver
from node.contract.problems import LogUnavailable, ServiceUnavailable, StoreFault
from node.contract.uri import DocumentURI
from node.db.audit_log import append_events
from node.delivery.admission import Admission, ReadWork
from node.delivery.small_reads import TOGETHER, SmallRead, SmallReads
from node.services.events import Caller
from node.services.ports import Placement
from node.storage.errors import ObjectMissing
from node.storage.guard import GuardedDriver
from node.storage.keys import object_key
from node.web.floods import FloodGate

CONTENT = b"%PDF-1.7\n small and secret"


class RemoteDriver(MemoryDriver):
    """A store whose objects are on another machine, as far as it says."""

    capabilities = replace(MemoryDriver.capabilities, local=False)


class HeldDriver(MemoryDriver):
    """A store whose objects are opened only when the test lets them, once it holds; it counts how many were begun."""

    def __init__(self):
        super().__init__()
        self.begun = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def hold(self):
        self.begun = 0
        self.entered.clear()
        self.gate.clear()

    def open(self, key, offset=0, length=None):
        self.begun += 1
        self.entered.set()
        assert self.gate.wait(5)
        return super().open(key, offset, length)


class CountingPool(ThreadPoolExecutor):
    """Counts how often it is given something to do."""

    handed_over = 0

    def submit(self, *arguments, **options):
        self.handed_over += 1
        return super().submit(*arguments, **options)


@pytest.fixture
def pool():
    with CountingPool(1) as pool:
        yield pool


def stored(store, count, name="main"):
    """Put documents into a store; return a reading of each."""
    reads = []
    for number in range(count):
        content = b"document %d" % number
        uri = DocumentURI("in.x", "INC", str(number))
        put = store.put(object_key(uri, 1, "0" * 64, "application/pdf", None), io.BytesIO(content), len(content))
        reads.append(SmallRead(Placement(1, "application/pdf", None, put.size, put.sha256, name, put.key)))
    return reads


@pytest.mark.parametrize(
    ("driver", "count", "hand_overs"),
    [(MemoryDriver, TOGETHER, 1), (MemoryDriver, 2 * TOGETHER + 1, 3), (RemoteDriver, 5, 5)],
)
def test_a_local_store_is_read_many_at_a_time_and_a_remote_one_by_one(pool, driver, count, hand_overs):
    store = GuardedDriver(driver())
    reads = stored(store, count)
    SmallReads({"main": store}, pool).begin(reads)
    assert [read.content.result(5) for read in reads] == [b"document %d" % number for number in range(count)]
    assert pool.handed_over == hand_overs


def test_a_document_that_cannot_be_read_leaves_the_others_alone(pool):
    store = GuardedDriver(MemoryDriver())
    reads = stored(store, 4)
    store.delete(reads[1].placement.object_key)
    SmallReads({"main": store}, pool).begin(reads)
    with pytest.raises(ObjectMissing):
        reads[1].content.result(5)
    assert [reads[number].content.result(5) for number in (0, 2, 3)] == [b"document 0", b"document 2", b"document 3"]
    assert pool.handed_over == 1, "in one go, or nothing was shown"


def test_a_store_that_is_not_configured_fails_its_own_documents_alone(pool):
    store = GuardedDriver(MemoryDriver())
    (here,) = stored(store, 1)
    elsewhere = SmallRead(replace(here.placement, store="gone"))
    SmallReads({"main": store}, pool).begin([elsewhere, here])
    with pytest.raises(StoreFault) as refused:
        elsewhere.content.result(5)
    assert refused.value.reason == "store-not-configured"
    assert here.content.result(5) == b"document 0"


def test_a_pool_that_was_shut_down_leaves_nobody_waiting(pool):
    store = GuardedDriver(MemoryDriver())
    reads = stored(store, 2)
    pool.shutdown()
    SmallReads({"main": store}, pool).begin(reads)
    for read in reads:
        with pytest.raises(ServiceUnavailable) as refused:
            read.content.result(5)
        assert refused.value.reason == "stopping"


def test_what_stands_in_line_when_the_process_stops_leaves_nobody_waiting(pool):
    driver = HeldDriver()
    store = GuardedDriver(driver)
    small = SmallReads({"main": store}, pool)
    under_way, in_line = stored(store, 2)
    driver.hold()
    small.begin([under_way])
    assert driver.entered.wait(5)
    small.begin([in_line])
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(ServiceUnavailable) as refused:
        in_line.content.result(5)
    assert refused.value.reason == "stopping"
    driver.gate.set()
    assert under_way.content.result(5) == b"document 0"
    assert driver.begun == 1


def test_a_reading_that_was_cancelled_is_spared_and_those_beside_it_are_not(pool):
    driver = HeldDriver()
    store = GuardedDriver(driver)
    reads = stored(store, 4)
    driver.hold()
    SmallReads({"main": store}, pool).begin(reads)
    assert driver.entered.wait(5)
    assert not reads[0].content.cancel(), "it is under way"
    assert reads[2].content.cancel()
    driver.gate.set()
    assert [reads[number].content.result(5) for number in (0, 1, 3)] == [b"document 0", b"document 1", b"document 3"]
    assert driver.begun == 3


@contextmanager
def failing_commits(served, error, wait=lambda: None):
    """Have the database take rows and then fail to make them durable, as with a full disk."""

    def fail(connection):
        wait()
        connection.connection.dbapi_connection.rollback()  # as databases do when they cannot commit
        raise error

    engine = served.node.database.engine
    event.listen(engine, "commit", fail)
    try:
        yield
    finally:
        event.remove(engine, "commit", fail)


def test_nothing_is_sent_of_a_document_that_was_read_when_its_row_cannot_be_written(served, monkeypatch):
    uri, token = served.add("1", CONTENT), served.token()
    was_read = threading.Event()
    original = GuardedDriver.read_whole

    def read_whole(self, *arguments):
        content = original(self, *arguments)
        was_read.set()
        return content

    monkeypatch.setattr(GuardedDriver, "read_whole", read_whole)
    headers = {"authorization": f"Bearer {token}"}
    with failing_commits(served, OperationalError("COMMIT", {}, Exception()), lambda: was_read.wait(5)):
        answer = httpx.get(f"{served.url}/v1/documents/{uri}", headers=headers)
    assert was_read.is_set()
    assert (answer.status_code, answer.json()["type"].rpartition("/")[2]) == (503, "log-unavailable")
    assert CONTENT not in answer.content
    assert httpx.get(f"{served.url}/v1/documents/{uri}", headers=headers).content == CONTENT
    assert [row["outcome"] for row in served.events(expected=2)] == ["allowed", "complete"]


def works(served, *doc_ids):
    caller = Caller("r-1", "127.0.0.1", "process-1")
    return [
        ReadWork(served.add(doc_id, CONTENT), "GET", {"authorization": f"Bearer {served.ticket(doc_id)}"}, caller)
        for doc_id in doc_ids
    ]


def test_readings_of_a_batch_that_failed_are_given_up(served):
    """Else they would stand in line behind one another as long as the database takes no rows."""
    asked = []
    node = served.node
    admission = Admission(node.database, node.rules, {}, FloodGate(), node.clock, asked.extend)
    batch = works(served, "1", "2")
    with failing_commits(served, OperationalError("COMMIT", {}, Exception())), pytest.raises(LogUnavailable):
        admission.process(batch)
    assert len(asked) == 2 and all(read.content.cancelled() for read in asked)
    admission.process(batch)
    assert len(asked) == 4 and not any(read.content.cancelled() for read in asked[2:])
    admission.close()


def test_a_batch_that_is_taken_apart_has_its_documents_read_anew(served, monkeypatch):
    asked = []
    node = served.node
    admission = Admission(node.database, node.rules, {}, FloodGate(), node.clock, asked.extend)
    original = append_events
    monkeypatch.setattr(
        "node.delivery.admission.append_events",
        lambda connection, events: original(connection, events) if len(events) == 1 else 1 / 0,
    )
    results = admission.process(works(served, "1", "2"))
    assert [read.content.cancelled() for read in asked] == [True, True, False, False]
    assert [result.small for result in results] == asked[2:]
    admission.close()
