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
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from node.contract.canonical import canonical_json
from node.contract.times import parse_time
from node.db.models import AccessEvent, AccessIndex, AccessPosition, AccessUnsequenced, LogHead, OpenRead
from node.db.session import Database

BATCH = 500


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
        connection.execute(insert(AccessPosition), positions)
        connection.execute(insert(AccessIndex), index)
        connection.execute(
            delete(AccessUnsequenced).where(AccessUnsequenced.event_id.in_([row.event_id for row in waiting]))
        )
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
    entry = canonical_json({"commitment": commitment.hex(), "doc_n": doc_n, "doc_tag": doc_tag, "position": position})
    return hashlib.sha256(b"\x00" + entry).digest()


def _waiting(connection: Connection, tag_key: bytes, limit: int) -> list[_Unplaced]:
    statement = (
        select(AccessEvent.event_id, AccessEvent.payload, AccessEvent.nonce)
        .join(AccessUnsequenced, AccessUnsequenced.event_id == AccessEvent.event_id)
        .order_by(AccessUnsequenced.event_id)
        .limit(limit)
    )
    rows = []
    for event_id, payload, nonce in connection.execute(statement):
        event = json.loads(payload)
        tag = document_tag(tag_key, str(event.get("uri", "")).lower())
        rows.append(_Unplaced(event_id, bytes(payload), bytes(nonce), event, tag))
    return rows


def _counters(connection: Connection, tags: set[str]) -> Counter[str]:
    statement = (
        select(AccessPosition.doc_tag, func.max(AccessPosition.doc_n).label("highest"))
        .where(AccessPosition.doc_tag.in_(tags))
        .group_by(AccessPosition.doc_tag)
    )
    return Counter({row.doc_tag: row.highest for row in connection.execute(statement)})


def _place(
    waiting: Sequence[_Unplaced], size: int, counters: Counter[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    positions, index = [], []
    for position, row in enumerate(waiting, start=size):
        counters[row.doc_tag] += 1
        doc_n = counters[row.doc_tag]
        commitment = hashlib.sha256(row.nonce + row.payload).digest()
        positions.append(
            {
                "position": position,
                "event_id": row.event_id,
                "doc_tag": row.doc_tag,
                "doc_n": doc_n,
                "commitment": commitment,
                "leaf": leaf_hash(position, row.doc_tag, doc_n, commitment),
            }
        )
        index.append(_index_row(position, row.event))
    return positions, index


def _index_row(position: int, event: dict[str, Any]) -> dict[str, Any]:
    return {
        "position": position,
        "at_us": parse_time(event["at"]),
        "action": event["action"],
        "outcome": event["outcome"],
        "uri_key": _key(event.get("uri"), 290),
        "issuer_key": _key(event.get("issuer"), 128),
        "doc_type_key": _key(event.get("doc_type"), 32),
        "holder_ref": _cut(event.get("holder_ref"), 64),
        "client_id": _cut(event.get("client_id"), 128),
        "consent_id": _cut(event.get("consent_id"), 64),
    }


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
