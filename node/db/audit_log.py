"""The access log's writing and reading side; places are given by the sequencer."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DBAPIError

from node.contract.problems import LogUnavailable
from node.contract.times import now_us
from node.db.holder_references import related_references
from node.db.models import AccessEvent, AccessIndex, AccessPosition, AccessUnsequenced, LogHead
from node.db.prepared import PreparedInsert
from node.db.session import Database
from node.services.audit import encode_event
from node.services.ports import EncodedEvent

_INSERT_EVENT = PreparedInsert(insert(AccessEvent), ("event_id", "payload", "nonce"))
_INSERT_UNSEQUENCED = PreparedInsert(insert(AccessUnsequenced), ("event_id",))

PAGE = 500


def append_events(connection: Connection, events: Sequence[EncodedEvent]) -> None:
    """Insert events in the caller's transaction; they are durable when it commits."""
    _INSERT_EVENT.run(connection, [(event.event_id, event.payload, event.nonce) for event in events])
    _INSERT_UNSEQUENCED.run(connection, [(event.event_id,) for event in events])


def written_events(connection: Connection, event_ids: Sequence[str]) -> set[str]:
    """Return those of the identifiers whose events are in the log."""
    statement = select(AccessEvent.event_id).where(AccessEvent.event_id.in_(event_ids))
    return set(connection.execute(statement).scalars())


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which rows a reader may and wants to see; empty tuples and None do not restrict.

    ``issuers`` and ``doc_types`` hold lower-case keys, times are microseconds UTC, ``after`` is a position.
    ``holder_ref`` finds the rows under a locker's reference and the node's own to the same holder, or under the node's own and each
    locker's; two lockers' references are not joined. With ``holder_iss`` it is that locker's reference.
    """

    uri_key: str | None = None
    holder_ref: str | None = None
    holder_iss: str | None = None
    client_id: str | None = None
    consent_id: str | None = None
    action: str | None = None
    outcome: str | None = None
    from_us: int | None = None
    until_us: int | None = None
    issuers: tuple[str, ...] = ()
    doc_types: tuple[str, ...] = ()
    after: int = -1


@dataclass(frozen=True, slots=True)
class LogRow:
    """A sequenced event: its place and its payload as written."""

    position: int
    doc_n: int
    payload: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The payload, read back."""
        value: dict[str, Any] = json.loads(self.payload)
        return value


def read_log(connection: Connection, wanted: LogFilter, limit: int) -> list[LogRow]:
    """Return rows in order of position, at most ``limit``."""
    holders = related_references(connection, wanted.holder_ref, wanted.holder_iss) if wanted.holder_ref else ()
    statement = (
        select(AccessPosition.position, AccessPosition.doc_n, AccessEvent.payload)
        .join(AccessIndex, AccessIndex.position == AccessPosition.position)
        .join(AccessEvent, AccessEvent.event_id == AccessPosition.event_id)
        .where(AccessIndex.position > wanted.after, *_conditions(wanted, holders))
        .order_by(AccessIndex.position)
        .limit(limit)
    )
    return [LogRow(position, doc_n, bytes(payload)) for position, doc_n, payload in connection.execute(statement)]


def _conditions(wanted: LogFilter, holders: Sequence[str]) -> Iterator[Any]:
    equal = {
        AccessIndex.uri_key: wanted.uri_key,
        AccessIndex.client_id: wanted.client_id,
        AccessIndex.consent_id: wanted.consent_id,
        AccessIndex.action: wanted.action,
        AccessIndex.outcome: wanted.outcome,
    }
    yield from (column == value for column, value in equal.items() if value is not None)
    if holders:
        yield AccessIndex.holder_ref.in_(holders)
    if wanted.issuers:
        yield AccessIndex.issuer_key.in_(wanted.issuers)
    if wanted.doc_types:
        yield AccessIndex.doc_type_key.in_(wanted.doc_types)
    if wanted.from_us is not None:
        yield AccessIndex.at_us >= wanted.from_us
    if wanted.until_us is not None:
        yield AccessIndex.at_us < wanted.until_us


def log_size(connection: Connection) -> int:
    """Return how many events have a place."""
    return connection.execute(select(LogHead.size)).scalar_one()


class DirectRecorder:
    """Writes each event in a transaction of its own: for commands, which have no admission thread."""

    def __init__(self, database: Database, clock: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock = clock

    def record(self, event: Mapping[str, Any]) -> None:
        """Write one event durably; raises LogUnavailable when the database cannot."""
        try:
            with self._database.writing() as connection:
                append_events(connection, [encode_event(event, self._clock())])
        except DBAPIError as error:
            raise LogUnavailable() from error
