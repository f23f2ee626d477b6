"""What must be true of every access log, whatever was done to the processes that wrote it."""

import json
from collections import defaultdict
from typing import Any

from sqlalchemy import func, select

from node.db.models import AccessEvent, AccessIndex, AccessPosition, LogHead
from node.db.sequencer import leaf_hash
from node.db.session import Database


def placed_events(database: Database) -> list[dict[str, Any]]:
    """Return all events in their order."""
    statement = (
        select(AccessEvent.payload)
        .join(AccessPosition, AccessPosition.event_id == AccessEvent.event_id)
        .order_by(AccessPosition.position)
    )
    with database.reading() as connection:
        return [json.loads(payload) for payload in connection.execute(statement).scalars()]


def require_whole_log(database: Database) -> None:
    """Each event has one place; places and each document's numbers have no gap; leaves say what their rows say."""
    with database.reading() as connection:
        rows = connection.execute(select(AccessPosition).order_by(AccessPosition.position)).all()
        size = connection.execute(select(LogHead.size)).scalar_one()
        events = set(connection.execute(select(AccessEvent.event_id)).scalars())
        indexed = connection.execute(select(func.count()).select_from(AccessIndex)).scalar_one()
    assert [row.position for row in rows] == list(range(size))
    assert len(events) == size == indexed
    assert {row.event_id for row in rows} == events
    numbers: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        numbers[row.doc_tag].append(row.doc_n)
        assert row.leaf == leaf_hash(row.position, row.doc_tag, row.doc_n, row.commitment)
    for found in numbers.values():
        assert found == list(range(1, len(found) + 1))
