"""Runs the real processes of a node, as they are or with faults built in: what a check of durability has to notice.

``python runner.py serve FOLDER``, ``web FOLDER``, ``jobs FOLDER PROBE_FILE``. The first line on standard output is the URL. A web process
takes the names of faults on standard input, one a line, and answers each with a line when it has that fault and no other.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy import event

from node import serving
from node.contract.identifiers import uuid7
from node.db.audit_log import append_events
from node.db.session import Database
from node.delivery.admission import Admission, Admitted
from node.jobs import process as job_process
from node.jobs.tasks import Task
from node.services.audit import encode_event
from node.web.processes import SOCKETS_VARIABLE, bind, url_of

DATABASES: list[Database] = []
UNDO: list[Callable[[], object]] = []
PROBE_EVERY = 0.3
PROBE_LEASE = 3.0
PROBE_LONG = 0.8
PROBE_LONG_EACH = 4
LATE_SECONDS = 0.05


def on_each_connection(statement: str) -> None:
    """Have every database connection from now on begin with a statement, behind the back of ``require_durable``."""

    def prepare(connection, _record) -> None:
        connection.execute(statement)
        connection.commit()

    for database in DATABASES:
        event.listen(database.engine, "connect", prepare)
        database.engine.dispose()
        UNDO.append(partial(event.remove, database.engine, "connect", prepare))
        UNDO.append(database.engine.dispose)


def log_after_send() -> None:
    """Answer first and write the row a moment later."""

    def decide_only(self: Admission, batch):
        now_us = self._clock()
        with self._database.reading() as connection:
            results, events = self._decide_all(connection, batch, now_us)
        self._read_small([row.small for row in results if isinstance(row, Admitted) and row.small])

        def write() -> None:
            with self._database.writing() as connection:
                append_events(connection, [encode_event(fields, now_us) for fields in events])

        threading.Timer(LATE_SECONDS, write).start()
        return results

    UNDO.append(partial(setattr, Admission, "_process_together", Admission._process_together))
    Admission._process_together = decide_only


FAULTS = {
    "none": lambda: None,
    "sqlite-normal": lambda: on_each_connection("PRAGMA synchronous=NORMAL"),
    "sqlite-off": lambda: on_each_connection("PRAGMA synchronous=OFF"),
    "postgresql-off": lambda: on_each_connection("SET synchronous_commit TO off"),
    "log-after-send": log_after_send,
}


def run_serve(folder: str) -> int:
    return serving.serve(Path(folder), announce=lambda urls: print(urls[0], flush=True))


def run_web(folder: str) -> None:
    """One web process without a parent."""
    make = Database.__init__

    def make_and_note(self: Database, *arguments, **options) -> None:
        make(self, *arguments, **options)
        DATABASES.append(self)

    Database.__init__ = make_and_note
    bound = bind("127.0.0.1", 0)
    os.environ[SOCKETS_VARIABLE] = str(bound.fileno())
    print(url_of(bound), flush=True)
    bound.detach()
    threading.Thread(target=take_faults, daemon=True).start()
    serving.main(["web", folder, uuid7()])


def take_faults() -> None:
    for line in sys.stdin:
        for undo in UNDO:
            undo()
        UNDO.clear()
        FAULTS[line.strip()]()
        print(line.strip(), flush=True)


def run_jobs(folder: str, probe_file: str) -> None:
    """One job process whose only task leaves a line each time that it is done: who, when begun, when done.

    Every ``PROBE_LONG_EACH``-th run takes longer than the interval.
    """
    numbers = itertools.count(1)

    def probe(_context, _database) -> bool:
        begun = time.time()
        if next(numbers) % PROBE_LONG_EACH == 0:
            time.sleep(PROBE_LONG)
        with open(probe_file, "a") as file:
            file.write(f"{os.getpid()} {begun:.6f} {time.time():.6f}\n")
        return False

    job_process.tasks = lambda _settings: (Task("probe", PROBE_EVERY, PROBE_LEASE, probe),)
    print("jobs", flush=True)
    serving.main(["jobs", folder, uuid7()])


if __name__ == "__main__":
    sys.exit({"serve": run_serve, "web": run_web, "jobs": run_jobs}[sys.argv[1]](*sys.argv[2:]))
