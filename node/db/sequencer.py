"""Gives each access event its place: position, number among its document's events, commitment and Merkle leaf.

The head row is advanced by compare-and-set in the transaction that fills the places, so two sequencers that run at once cannot
both win; the lease only keeps the second from trying. Events are found through a queue table and not by comparing
identifiers or times: a row with a lower identifier may commit later, and would be passed over for ever.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from node.contract.times import parse_time
from node.db.models import AccessEvent, AccessIndex, AccessPosition, AccessUnsequenced, LogHead, OpenRead
from node.db.prepared import PreparedDelete, PreparedInsert, PreparedSelect
from node.db.session import Database

BATCH = 500


_parse_time = lru_cache(maxsize=64)(parse_time)  # events of one admitted batch have one time

# Built once, and sent through the driver: this work is done for each row of the log, on the processors that serve reads.
_WAITING = (
    select(AccessEvent.event_id, AccessEvent.payload, AccessEvent.nonce)
    .join(AccessUnsequenced, AccessUnsequenced.event_id == AccessEvent.event_id)
    .order_by(AccessUnsequenced.event_id)
    .limit(bindparam("most"))
)
_COUNTERS = PreparedSelect(
    select(AccessPosition.doc_tag, func.max(AccessPosition.doc_n))
    .where(AccessPosition.doc_tag.in_(bindparam("tags", expanding=True)))
    .group_by(AccessPosition.doc_tag),
    "tags",
)
_INSERT_POSITION = PreparedInsert(
    insert(AccessPosition), ("position", "event_id", "doc_tag", "doc_n", "commitment", "leaf")
)
_INSERT_INDEX = PreparedInsert(
    insert(AccessIndex),
    (
        "position", "at_us", "action", "outcome", "uri_key", "issuer_key", "doc_type_key", "holder_ref", "client_id",
        "consent_id",
    ),
)  # fmt: skip
_DEQUEUE = PreparedDelete(
    delete(AccessUnsequenced).where(AccessUnsequenced.event_id.in_(bindparam("event_ids", expanding=True))), "event_ids"
)


@dataclass(frozen=True, slots=True)
class _Unplaced:
    event_id: str
    payload: bytes
    nonce: bytes
    event: dict[str, Any]
    doc_tag: str


def sequence_once(
    database: Database, tag_key: bytes, limit: int = BATCH, placed: Callable[[dict[str, Any]], None] | None = None
) -> int:
    """Place the events that wait, at most ``limit`` in one transaction, and return how many; 0 when another was faster.

    ``placed`` is told each event with its position once the places are durable; a crash in between loses what it was to be told.
    """
    with database.reading() as connection:
        # The size comes first: what another sequencer places after this line makes the update below miss.
        size = connection.execute(select(LogHead.size)).scalar_one()
        waiting = _waiting(connection, tag_key, limit)
        if not waiting:
            return 0
        counters = _counters(connection, {row.doc_tag for row in waiting})
    positions, index = _place(waiting, size, counters)
    with database.writing() as connection:
        advanced = connection.execute(
            update(LogHead).where(LogHead.head_id == 1, LogHead.size == size).values(size=size + len(waiting))
        )
        if advanced.rowcount != 1:
            return 0
        _INSERT_POSITION.run(connection, positions)
        _INSERT_INDEX.run(connection, index)
        _DEQUEUE.run(connection, [row.event_id for row in waiting])
        _follow_open_reads(connection, [row.event for row in waiting])
    if placed is not None:
        for position, row in enumerate(waiting, start=size):
            placed({**row.event, "position": position})
    return len(waiting)


def document_tag(tag_key: bytes, uri_key: str) -> str:
    """Return the keyed tag that stands for a document where its URI must not appear: HMAC-SHA-256, 32 hex digits."""
    return hmac.new(tag_key, uri_key.encode("utf-8"), hashlib.sha256).hexdigest()[:32]


def leaf_hash(position: int, doc_tag: str, doc_n: int, commitment: bytes) -> bytes:
    """Return the RFC 6962 section 2.1 leaf hash of a place; the entry holds no personal data."""
    # RFC 8785 by hand, members in order: one is written for each row of the log.
    entry = f'{{"commitment":"{commitment.hex()}","doc_n":{doc_n:d},"doc_tag":"{doc_tag}","position":{position:d}}}'
    return hashlib.sha256(b"\x00" + entry.encode("ascii")).digest()


def _waiting(connection: Connection, tag_key: bytes, limit: int) -> list[_Unplaced]:
    rows = []
    tags: dict[str, str] = {}
    for event_id, payload, nonce in connection.execute(_WAITING, {"most": limit}):
        event = json.loads(payload)
        uri_key = str(event.get("uri", "")).lower()
        tag = tags.get(uri_key) or tags.setdefault(uri_key, document_tag(tag_key, uri_key))
        rows.append(_Unplaced(event_id, bytes(payload), bytes(nonce), event, tag))
    return rows


def _counters(connection: Connection, tags: set[str]) -> Counter[str]:
    return Counter(dict(_COUNTERS.rows(connection, sorted(tags))))


def _place(
    waiting: Sequence[_Unplaced], size: int, counters: Counter[str]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Return the rows of the two tables, their values in the order of the INSERTs."""
    positions, index = [], []
    for position, row in enumerate(waiting, start=size):
        counters[row.doc_tag] += 1
        doc_n = counters[row.doc_tag]
        commitment = hashlib.sha256(row.nonce + row.payload).digest()
        leaf = leaf_hash(position, row.doc_tag, doc_n, commitment)
        positions.append((position, row.event_id, row.doc_tag, doc_n, commitment, leaf))
        index.append(_index_row(position, row.event))
    return positions, index


def _index_row(position: int, event: dict[str, Any]) -> tuple[Any, ...]:
    find = event.get
    return (
        position, _parse_time(event["at"]), event["action"], event["outcome"], _key(find("uri"), 290),
        _key(find("issuer"), 128), _key(find("doc_type"), 32), _cut(find("holder_ref"), 512),
        _cut(find("client_id"), 512), _cut(find("consent_id"), 512),
    )  # fmt: skip


def _key(text: str | None, length: int) -> str | None:
    return _cut(None if text is None else text.lower(), length)


def _cut(text: str | None, length: int) -> str | None:
    """Fit a value into its column: an index row that cannot be written would stop the log for all."""
    return None if text is None else text[:length]


def _follow_open_reads(connection: Connection, events: Sequence[dict[str, Any]]) -> None:
    """Keep the table of reads without an end; a read whose two rows come in one batch never enters it."""
    ended = {event["read_id"] for event in events if event.get("phase") == "end"}
    opened = {event["read_id"]: event for event in events if event.get("phase") == "attempt" and event.get("open")}
    begun = [event for read_id, event in opened.items() if read_id not in ended]
    if begun:
        connection.execute(
            insert(OpenRead),
            [
                {"read_id": event["read_id"], "process_id": event["process"], "event_id": event["event_id"]}
                for event in begun
            ],
        )
    closed = ended - opened.keys()
    if closed:
        connection.execute(delete(OpenRead).where(OpenRead.read_id.in_(closed)))
