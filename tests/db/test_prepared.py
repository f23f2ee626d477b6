"""Prepared statements say the same as SQLAlchemy's, on both databases, and fail with the same errors."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from node.db.lockers import save_locker
from node.db.models import AccessEvent, AccessUnsequenced, RevocationEntryRow
from node.db.prepared import MOST_VALUES, PreparedDelete, PreparedInsert, PreparedSelect, run_driver_sql
from node.db.session import Database

QUEUED = PreparedSelect(
    select(AccessUnsequenced.event_id).where(AccessUnsequenced.event_id.in_(bindparam("ids", expanding=True))), "ids"
)
VOID = PreparedSelect(
    select(RevocationEntryRow.iss, RevocationEntryRow.consent_id).where(
        tuple_(RevocationEntryRow.iss, RevocationEntryRow.consent_id).in_(bindparam("pairs", expanding=True))
    ),
    "pairs",
    width=2,
)
DEQUEUE = PreparedDelete(
    delete(AccessUnsequenced).where(AccessUnsequenced.event_id.in_(bindparam("ids", expanding=True))), "ids"
)
QUEUE = PreparedInsert(insert(AccessUnsequenced), ("event_id",))
EVENTS = PreparedInsert(insert(AccessEvent), ("event_id", "payload", "nonce"))


@pytest.fixture
def database(node_database_url: str) -> Iterator[Database]:
    opened = Database(node_database_url)
    yield opened
    opened.close()


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.writing() as opened:
        yield opened


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 22, 64, 150])
def test_every_row_is_inserted_whole_whatever_their_number(connection: Connection, count: int) -> None:
    rows = [(f"e{number}", b"\x00\xff" + str(number).encode(), bytes(16)) for number in range(count)]
    EVENTS.run(connection, rows)
    found = connection.execute(select(AccessEvent.event_id, AccessEvent.payload, AccessEvent.nonce)).all()
    assert sorted((event_id, bytes(payload), bytes(nonce)) for event_id, payload, nonce in found) == sorted(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 7, MOST_VALUES + 3])
def test_those_asked_for_are_found_once(connection: Connection, count: int) -> None:
    names = [f"e'%s?:{number}" for number in range(count)]
    QUEUE.run(connection, [(name,) for name in [*names, "other"]])
    assert sorted(QUEUED.rows(connection, [*names, "missing"])) == sorted((name,) for name in names)
    assert QUEUED.rows(connection, []) == []
    DEQUEUE.run(connection, [*names, "missing"])
    assert QUEUED.rows(connection, [*names, "other"]) == [("other",)]


def test_pairs_are_compared_as_pairs(connection: Connection) -> None:
    rows = [{"iss": iss, "consent_id": consent, "void_before_us": 1} for iss in "ab" for consent in "xy"]
    for iss in "ab":
        save_locker(connection, iss=iss, base_url=iss, jwks="{}", encryption_key="{}", endpoints={}, now_us=1)
    connection.execute(insert(RevocationEntryRow), rows)
    assert sorted(VOID.rows(connection, [("a", "x"), ("b", "y"), ("c", "x")])) == [("a", "x"), ("b", "y")]


def test_errors_are_sqlalchemys_and_tell_no_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as caught, database.writing() as connection:
        QUEUE.run(connection, [("secret",), ("secret",)])
    assert "secret" not in str(caught.value.statement) + str(caught.value.params)
    with pytest.raises(DBAPIError), database.writing() as connection:
        run_driver_sql(connection, "SELECT nothing FROM nowhere")
    with database.reading() as connection:
        assert QUEUED.rows(connection, ["secret"]) == []


def test_a_connection_that_broke_is_not_used_again(database: Database) -> None:
    if database.is_sqlite:
        return  # no server that could end a connection
    with pytest.raises(OperationalError) as caught, database.writing() as connection:
        run_driver_sql(connection, "SELECT pg_terminate_backend(pg_backend_pid())", fetch=True)
    assert caught.value.connection_invalidated
    with database.reading() as connection:
        assert QUEUED.rows(connection, ["missing"]) == []
