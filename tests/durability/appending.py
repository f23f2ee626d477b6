"""What the processes of the sequencing tests do: append events, and give them places."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import ForkServerProcess

from sqlalchemy.exc import OperationalError

from node.contract.times import now_us
from node.db.audit_log import append_events
from node.db.sequencer import sequence_once
from node.db.session import Database
from node.services.audit import encode_event

TAG_KEY = b"k" * 32
DOCUMENTS = 5
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [__name__, "sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"]
)


def event(writer: int, number: int) -> dict[str, object]:
    """Return an event; writers share documents, so that a document's numbers are fought for."""
    uri = f"in.gov.example-INCOM-{number % DOCUMENTS}"
    return {
        "phase": "attempt", "action": "head", "outcome": "complete", "read_id": f"{writer}-{number}", "uri": uri
    }  # fmt: skip


def append(url: str, writer: int, count: int) -> None:
    """Append events, each in a transaction of its own."""
    database = Database(url)

    def append_one(number: int) -> int:
        with database.writing() as connection:
            append_events(connection, [encode_event(event(writer, number), now_us())])
        return number

    for number in range(count):
        _when_not_locked(partial(append_one, number))
    database.close()


def sequence(url: str, stop: "multiprocessing.synchronize.Event") -> None:
    """Place events, a few at a time, until told to stop and nothing is left."""
    database = Database(url)
    while True:
        last = stop.is_set()
        if _when_not_locked(partial(sequence_once, database, TAG_KEY, limit=7)) == 0:
            if last:
                break
            time.sleep(0.001)
    database.close()


def _when_not_locked(work: Callable[[], int]) -> int:
    """Do one transaction, again when SQLite let others go before for ten seconds: among many, its lock is not given in turn."""
    while True:
        try:
            return work()
        except OperationalError as error:
            if "locked" not in str(error.orig):
                raise


def run_together(url: str, writers: int, count: int, sequencers: int) -> Sequence[int | None]:
    """Run writers and sequencers at once, each a process; returns all exit statuses."""
    stop = _CONTEXT.Event()
    writing = [_CONTEXT.Process(target=append, args=(url, writer, count)) for writer in range(writers)]
    placing = [_CONTEXT.Process(target=sequence, args=(url, stop)) for _ in range(sequencers)]
    _start(placing + writing)
    _join(writing)
    stop.set()
    _join(placing)
    return [process.exitcode for process in writing + placing]


def _start(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        process.start()


def _join(processes: Sequence[ForkServerProcess]) -> None:
    for process in processes:
        process.join()
