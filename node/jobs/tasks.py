"""What the job process does: each task one function over a service, run under a lease of its own.

A task gets a database that it can write to only while it holds the lease, does one bounded piece of work and says whether there is
more. Every piece may be done twice without harm, because a process may lose its lease, or die, in the middle of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from node.config import Settings
from node.contract.problems import ProblemError
from node.db.lockers import ACTIVE, PENDING, LockerRecords, LockerRow
from node.db.outbox import OutboxRecords
from node.db.processes import close_interrupted, purge_processes
from node.db.pulls import purge_pulls
from node.db.sequencer import BATCH, sequence_once
from node.db.session import Database
from node.keys import NodeKeys
from node.services.access import locker_scopes
from node.services.locker_client import LockerClient, LockerFault
from node.services.locker_lists import LockerLists
from node.services.locker_roots import LockerRoots
from node.services.pulls import KEPT, WINDOW
from node.services.push import BATCH as PUSH_BATCH
from node.services.push import Push
from node.services.registration import Registration

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class JobContext:
    """What tasks stand on; ``sweep`` removes stored objects that no document came to need, ``emit`` tells the audit sinks.

    ``lists`` asks for revocations: pushes that fail must not keep it from asking.
    """

    settings: Settings
    keys: NodeKeys
    client: LockerClient
    lists: LockerClient
    clock: Callable[[], int]
    sweep: Callable[[], object]
    emit: Callable[[Mapping[str, object]], None] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task: ``run`` does one piece and returns whether there is more. Times are seconds.

    Another host takes over ``lease`` seconds after the last sign of life of the one that had the task.
    """

    name: str
    every: float
    lease: float
    run: Callable[[JobContext, Database], bool]


def sequence(context: JobContext, database: Database) -> bool:
    """Give waiting access events their places."""
    return sequence_once(database, context.keys.log_tag, placed=context.emit) == BATCH


def push(context: JobContext, database: Database) -> bool:
    """Send each active locker one batch of announcements."""
    service = Push(context.client, _outbox(context, database), clock=context.clock, batch=PUSH_BATCH)
    more = False
    for locker in LockerRecords(database).all(ACTIVE):
        report = service.push_once(locker.iss)
        if report.failure or report.refused:
            log.warning("push", iss=locker.iss, refused=report.refused, failure=report.failure)
        more = more or report.more
    return more


def follow_links(context: JobContext, database: Database) -> bool:
    """Take each active locker's news of whose a document is."""
    service = Push(context.client, _outbox(context, database), clock=context.clock)
    return _for_each(database, ACTIVE, "links", lambda locker: service.follow_links(locker.iss) > 0)


def check_registrations(context: JobContext, database: Database) -> bool:
    """Ask the lockers that this node waits for whether an officer has approved."""
    service = _registration(context, database)
    _for_each(database, PENDING, "registration", lambda locker: bool(service.check(locker.iss)))
    return False


def check_scopes(context: JobContext, database: Database) -> bool:
    """Ask active lockers that refused a document type whether an officer has approved it meanwhile."""
    service = _registration(context, database)
    return _for_each(database, ACTIVE, "scope", lambda locker: service.check_scope(locker.iss))


def follow_revocations(context: JobContext, database: Database) -> bool:
    """Take the revocation pages that active lockers have published."""
    service = LockerLists(context.lists, LockerRecords(database), clock=context.clock)

    def follow(locker: LockerRow) -> bool:
        report = service.follow(locker.iss)
        if report.refused:
            log.error("a revocation page was refused", iss=locker.iss, reason=report.refused)
        return report.taken > 1 and report.refused is None

    return _for_each(database, ACTIVE, "revocations", follow)


def follow_revoked_keys(context: JobContext, database: Database) -> bool:
    """Take the lists of keys that active lockers' roots have revoked."""
    service = LockerRoots(context.lists, LockerRecords(database))

    def follow(locker: LockerRow) -> bool:
        report = service.follow(locker.iss)
        if report.refused:
            log.error("a list of revoked keys was refused", iss=locker.iss, reason=report.refused)
        if report.revoked:
            log.warning("a locker has revoked keys", iss=locker.iss, keys=sorted(report.revoked))
        return False

    return _for_each(database, ACTIVE, "revoked keys", follow)


def refresh_keys(context: JobContext, database: Database) -> bool:
    """Fetch the keys of lockers again."""
    service = LockerLists(context.client, LockerRecords(database), clock=context.clock)

    def refresh(locker: LockerRow) -> bool:
        if service.refresh_keys(locker.iss):
            log.info("a locker's keys have changed", iss=locker.iss)
        return False

    return _for_each(database, ACTIVE, "keys", refresh)


def close_reads(context: JobContext, database: Database) -> bool:
    """Write the ends of reads that dead processes have left open."""
    return close_interrupted(database, context.clock()) > 0


def expire(context: JobContext, database: Database) -> bool:
    """Forget counted tries, answers given and processes that nobody will ask for any more."""
    now_us = context.clock()
    with database.writing() as connection:
        more = purge_pulls(connection, now_us - 2 * WINDOW, now_us - KEPT) > 0
    with database.writing() as connection:
        purge_processes(connection, now_us)
    return more


def sweep(context: JobContext, database: Database) -> bool:
    """Remove stored objects that no document came to need."""
    del database  # the folder's own lock keeps sweepers apart; the lease only saves work
    context.sweep()
    return False


def tasks(settings: Settings) -> tuple[Task, ...]:
    """Return all tasks of a node, those that the log waits for first."""
    return (
        Task("sequencer", 0.5, 10, sequence),
        Task("interrupted-reads", 5, 30, close_reads),
        Task("push", settings.push_poll_seconds, 30, push),
        Task("links", settings.push_poll_seconds, 30, follow_links),
        Task("registrations", settings.push_poll_seconds, 30, check_registrations),
        Task("scopes", 30, 60, check_scopes),
        Task("revocations", settings.revocation_poll_seconds, 30, follow_revocations),
        Task("revoked-keys", settings.revocation_poll_seconds, 30, follow_revoked_keys),
        Task("locker-keys", 60, 120, refresh_keys),
        Task("expiry", 60, 120, expire),
        Task("leftovers", 3600, 600, sweep),
    )


def _registration(context: JobContext, database: Database) -> Registration:
    return Registration(
        context.client, LockerRecords(database), introduction=context.settings, key=context.keys.registration,
        public=context.keys.public, offer=list, clock=context.clock, refused=_outbox(context, database),
    )  # fmt: skip


def _outbox(context: JobContext, database: Database) -> OutboxRecords:
    limits = locker_scopes(context.settings.lockers)
    return OutboxRecords(database, context.keys.waiting_holders, context.clock, limits)


def _for_each(database: Database, state: str, what: str, work: Callable[[LockerRow], bool]) -> bool:
    """Do work for each locker in a state; one that cannot be reached does not keep the others waiting for long."""
    more = False
    for locker in LockerRecords(database).all(state):
        try:
            more = work(locker) or more
        except (LockerFault, ProblemError) as error:
            log.warning("a locker did not answer", iss=locker.iss, asked_for=what, error=type(error).__name__)
    return more
