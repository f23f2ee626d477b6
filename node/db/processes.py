"""The processes that serve, and the reads that dead ones have left open."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, exists, insert, select, update

from node.contract.times import DAY, SECOND
from node.db.audit_log import append_events
from node.db.models import AccessEvent, AccessUnsequenced, OpenRead, ServingProcess
from node.db.prepared import PreparedSelect
from node.db.session import Database
from node.services.audit import Outcome, encode_event
from node.services.events import end_of_read

STALE_AFTER = 60 * SECOND
"""Microseconds without a heartbeat after which a process counts as dead."""
MOST_READS = 200
MOST_UNSEQUENCED = 2000
KEPT = 7 * DAY

_ENDED = PreparedSelect(
    select(ServingProcess.process_id, ServingProcess.ended_us)
    .where(ServingProcess.process_id.in_(bindparam("process_ids", expanding=True)))
    .with_for_update(read=True),
    "process_ids",
)


def register_process(connection: Connection, process_id: str, run: str, pid: int, now_us: int) -> None:
    """Note a process before it admits its first read; ``run`` is the start of ``serve`` that it belongs to.

    May be repeated by a process that did not learn whether its first attempt was committed.
    """
    known = connection.execute(select(ServingProcess.process_id).where(ServingProcess.process_id == process_id))
    if known.first() is None:
        connection.execute(
            insert(ServingProcess).values(
                process_id=process_id,
                instance=_instance(run, pid),
                started_us=now_us,
                heartbeat_us=now_us,
                ended_us=None,
            )
        )


def heartbeat(connection: Connection, process_id: str, now_us: int) -> bool:
    """Say that a process is alive; False when it was declared dead meanwhile, and must not admit reads any more.

    A process that is not registered yet is not dead.
    """
    connection.execute(
        update(ServingProcess)
        .where(ServingProcess.process_id == process_id, ServingProcess.ended_us.is_(None))
        .values(heartbeat_us=now_us)
    )
    return not declared_dead(connection, [process_id])


def mark_ended(connection: Connection, process_id: str, now_us: int) -> None:
    """Note that a process writes nothing any more; for itself as its last act, or for a child that was seen to die."""
    connection.execute(
        update(ServingProcess)
        .where(ServingProcess.process_id == process_id, ServingProcess.ended_us.is_(None))
        .values(ended_us=now_us)
    )


def declared_dead(connection: Connection, process_ids: Collection[str]) -> set[str]:
    """Return which of these processes were declared dead; the others cannot be until the caller's transaction ends.

    The end of a read is written only by a process that is alive: those of a dead one have been closed as interrupted, or will be.
    """
    rows = _ENDED.rows(connection, sorted(process_ids))
    return {process_id for process_id, ended_us in rows if ended_us is not None}


def close_interrupted(database: Database, now_us: int, *, stale_after: int = STALE_AFTER) -> int:
    """Write the end rows of reads that dead processes have left open, at most 200, and return how many.

    A process is dead when it ended or gave no heartbeat for ``stale_after`` microseconds. Its reads are closed once everything
    that it wrote has a place in the log: an end row that is still queued would make a second end. An end row and the deletion of
    the open read are one transaction, so a killed job neither forgets a read nor ends it twice.
    """
    with database.writing() as connection:
        connection.execute(
            update(ServingProcess)
            .where(ServingProcess.ended_us.is_(None), ServingProcess.heartbeat_us < now_us - stale_after)
            .values(ended_us=now_us)
        )
    with database.writing() as connection:
        left = _left_open(connection)
        events = [
            encode_event(end_of_read(begun, Outcome.INTERRUPTED, None, "process-ended"), now_us) for begun in left
        ]
        append_events(connection, events)
        closed = OpenRead.read_id.in_([begun["read_id"] for begun in left])
        connection.execute(delete(OpenRead).where(closed))
    return len(left)


def purge_processes(connection: Connection, now_us: int) -> int:
    """Forget processes that ended a week ago and left nothing open; returns how many."""
    open_read = exists().where(OpenRead.process_id == ServingProcess.process_id)
    old = ServingProcess.ended_us < now_us - KEPT
    return connection.execute(delete(ServingProcess).where(old, ~open_read)).rowcount


def _left_open(connection: Connection) -> Sequence[dict[str, Any]]:
    """Return the first rows of reads that are to be closed.

    The queue is looked at before the open reads are: the sequencer may work between the two, and an end row that it has taken
    from the queue by then has closed its read.
    """
    ended = ServingProcess.ended_us.is_not(None)
    dead = set(
        connection.execute(
            select(OpenRead.process_id)
            .join(ServingProcess, ServingProcess.process_id == OpenRead.process_id)
            .where(ended)
            .distinct()
        ).scalars()
    )
    if not dead:
        return []
    writing = _processes_with_queued_events(connection)
    if writing is None:
        return []
    rows = connection.execute(
        select(AccessEvent.payload)
        .join(OpenRead, OpenRead.event_id == AccessEvent.event_id)
        .where(OpenRead.process_id.in_(sorted(dead - writing)))
        .order_by(OpenRead.read_id)
        .limit(MOST_READS)
    )
    return [json.loads(payload) for (payload,) in rows]


def _processes_with_queued_events(connection: Connection) -> set[str] | None:
    """Return the processes of events without a place, None when the queue is too long to look through."""
    rows = connection.execute(
        select(AccessEvent.payload)
        .join(AccessUnsequenced, AccessUnsequenced.event_id == AccessEvent.event_id)
        .limit(MOST_UNSEQUENCED)
    ).all()
    if len(rows) == MOST_UNSEQUENCED:
        return None
    return {str(json.loads(payload).get("process")) for (payload,) in rows}


def mark_run_ended(connection: Connection, run: str, now_us: int, pid: int | None = None) -> None:
    """Note that all processes of a run, or its one process with a pid, write nothing any more: their supervisor has seen to it."""
    instance = ServingProcess.instance
    which = instance.startswith(_instance(run, ""), autoescape=True) if pid is None else instance == _instance(run, pid)
    connection.execute(update(ServingProcess).where(which, ServingProcess.ended_us.is_(None)).values(ended_us=now_us))


def _instance(run: str, pid: int | str) -> str:
    return f"{run}#{pid}"
