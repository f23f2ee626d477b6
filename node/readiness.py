"""Whether a node can do its work now: each dependency looked at, one plain sentence each."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from node.contract.times import MINUTE, SECOND
from node.db import schema
from node.db.audit_log import log_size
from node.db.control_records import ControlRecords
from node.db.session import NotDurable
from node.http.ports import ReadinessCheck
from node.wiring import Node

MOST_OUTBOX_AGE = 15 * MINUTE


def look(node: Node, log_failing: Callable[[], bool]) -> list[ReadinessCheck]:
    """Look at database, log, stores, free space, lockers' lists and the outbox; raises nothing."""
    return [check for part in (_database, _stores, _lockers) for check in _safely(part, node)] + [
        _log(log_failing()), _space(node.settings.folder, node.settings.reserve_bytes),
    ]  # fmt: skip


def _safely(part: Callable[[Node], Iterator[ReadinessCheck]], node: Node) -> list[ReadinessCheck]:
    try:
        return list(part(node))
    except SQLAlchemyError:
        return [ReadinessCheck(part.__name__.strip("_"), False, "The database does not answer")]


def _database(node: Node) -> Iterator[ReadinessCheck]:
    try:
        node.database.require_durable()
        schema.require_current(node.database)
    except (NotDurable, schema.SchemaOutdated) as error:
        yield ReadinessCheck("database", False, str(error))
        return
    with node.database.reading() as connection:
        size = log_size(connection)
    yield ReadinessCheck("database", True, f"The database waits for the disk; the log has {size} places")


def _stores(node: Node) -> Iterator[ReadinessCheck]:
    for name, store in node.stores.items():
        findings = store.health().findings
        wrong = [finding.sentence for finding in findings.values() if finding.ok is False]
        yield ReadinessCheck(f"store {name}", not wrong, "; ".join(wrong) or findings["read"].sentence)


def _lockers(node: Node) -> Iterator[ReadinessCheck]:
    now_us = node.clock()
    for locker in node.lockers.all("active"):
        fresh = locker.list_next_update_us >= now_us
        detail = "The revocation list is fresh" if fresh else "The revocation list is older than its locker promised"
        yield ReadinessCheck(f"locker {locker.iss}", fresh, detail)
    counts = ControlRecords(node.database).counts(now_us)
    late = counts.oldest_us is not None and now_us - counts.oldest_us > MOST_OUTBOX_AGE
    waiting = f"{counts.waiting} announcements wait"
    if late and counts.oldest_us is not None:
        waiting += f", the oldest for {(now_us - counts.oldest_us) // SECOND} seconds"
    yield ReadinessCheck("outbox", not late, waiting)


def _log(failing: bool) -> ReadinessCheck:
    return ReadinessCheck("access log", not failing, "Rows cannot be written" if failing else "Rows are written")


def _space(folder: Path, reserve: int) -> ReadinessCheck:
    free = shutil.disk_usage(folder).free
    return ReadinessCheck(
        "free space", free >= reserve, f"{free // 2**20} MiB are free, {reserve // 2**20} MiB are the reserve"
    )
