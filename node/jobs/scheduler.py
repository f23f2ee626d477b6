"""The job process's scheduler: APScheduler with tasks defined in code, kept in memory, each run under its lease.

Every host's job process runs one of these. A task is run by the process that holds its lease; the others ask in vain, and the first
to ask after the lease has run out takes over. A run that takes longer than its interval delays the next and does not pile up.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import DBAPIError

from node.contract.times import SECOND
from node.db.fencing import FencedDatabase, give_up_leases
from node.db.leases import HeldLease, LeaseLost, take_lease
from node.db.session import Database
from node.jobs.tasks import JobContext, Task

log = structlog.get_logger()

PAUSE_SECONDS = 0.01
"""Between pieces, so that on SQLite the log's writer comes in between."""


class LeasedTask:
    """One task of this process; called by the scheduler, never twice at once."""

    def __init__(self, task: Task, context: JobContext, database: Database, owner: str, stop: threading.Event) -> None:
        """``owner`` names this process among all that share the database."""
        self._task = task
        self._context = context
        self._database = database
        self._owner = owner
        self._stop = stop
        self._lease: HeldLease | None = None
        self._until_us = 0

    def __call__(self) -> None:
        """Do piece after piece while there are more and the lease is ours; nothing that goes wrong ends the scheduler."""
        try:
            more = True
            while more and not self._stop.is_set() and (lease := self._held()):
                more = self._task.run(self._context, FencedDatabase(self._database, lease))
                self._stop.wait(PAUSE_SECONDS if more else 0)
        except LeaseLost:
            self._lease = None
            log.info("another process has taken over a job", job=self._task.name)
        except Exception as error:
            # Only the type: a database's or server's own words may repeat values of a row.
            log.error("a job failed", job=self._task.name, error=type(error).__name__)

    def _held(self) -> HeldLease | None:
        """Return the lease, renewed when half of its time is over; None while another process has it."""
        now_us, duration_us = self._context.clock(), int(self._task.lease * SECOND)
        if self._lease is None or self._until_us - now_us < duration_us // 2:
            self._lease = take_lease(self._database, self._task.name, self._owner, now_us, duration_us)
            self._until_us = now_us + duration_us
        return self._lease


class JobScheduler:
    """Runs tasks at their intervals until it is stopped."""

    def __init__(self, context: JobContext, database: Database, owner: str, tasks: Sequence[Task]) -> None:
        self._database = database
        self._owner = owner
        self._stop = threading.Event()
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            executors={"default": ThreadPoolExecutor(max(1, len(tasks)))},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        for task in tasks:
            run = LeasedTask(task, context, database, owner, self._stop)
            self._scheduler.add_job(run, "interval", seconds=task.every, id=task.name, name=task.name)

    def start(self) -> None:
        """Begin; each task runs for the first time after its first interval."""
        self._scheduler.start()

    def stop(self) -> None:
        """Let pieces under way finish, begin no others, and give the leases up."""
        self._stop.set()
        self._scheduler.shutdown(wait=True)
        with suppress(DBAPIError):  # without a database the leases run out by themselves
            give_up_leases(self._database, self._owner)
