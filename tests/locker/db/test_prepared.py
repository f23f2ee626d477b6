"""Prepared statements say the same as SQLAlchemy's, on both databases, and fail with the same errors."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, bindparam, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError

from locker.db.models import Client
from locker.db.prepared import PreparedInsert, PreparedSelect, PreparedStatement
from locker.db.session import Database

CLIENTS = PreparedInsert(insert(Client), ("client_id", "kind", "name", "state", "created_us"))
_AMONG = (
    select(Client.client_id)
    .where(Client.client_id.in_(bindparam("ids", expanding=True)))
    .where(Client.state.in_(bindparam("states", expanding=True)))
    .order_by(Client.client_id)
)
AMONG = PreparedSelect(_AMONG, "ids", "states")
_RENAME = (
    update(Client)
    .where(Client.client_id == bindparam("of_client"))
    .values(name=bindparam("other"))
    .returning(Client.client_id, Client.name)
)
RENAME = PreparedStatement(_RENAME, "other", "of_client")
TERMINATE = PreparedStatement(select(text("pg_terminate_backend(pg_backend_pid())")))


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.write_connection() as opened:
        yield opened


def client(client_id: str, state: str = "active") -> tuple[str, str, str, str, int]:
    return (client_id, "requester", "C'%s?:", state, 1)


@pytest.mark.parametrize("count", [0, 1, 3, 22, 64, 150])
def test_every_row_is_inserted_whole_whatever_their_number(connection: Connection, count: int) -> None:
    rows = [client(f"c{number}") for number in range(count)]
    CLIENTS.run(connection, rows)
    columns = (Client.client_id, Client.kind, Client.name, Client.state, Client.created_us)
    assert sorted(map(tuple, connection.execute(select(*columns)))) == sorted(rows)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 600])
def test_several_lists_are_compared_each_with_its_own_column(connection: Connection, count: int) -> None:
    names = [f"c'%s?:{number:04}" for number in range(count)]
    CLIENTS.run(connection, [client(name, "active" if at % 2 == 0 else "suspended") for at, name in enumerate(names)])
    assert AMONG.rows(connection, [*reversed(names), "missing"], ["active", "neither"]) == [(n,) for n in names[::2]]
    assert AMONG.rows(connection, names, ["suspended"]) == [(name,) for name in names[1::2]]


def test_single_values_are_bound_in_their_places(connection: Connection) -> None:
    CLIENTS.run(connection, [client("a"), client("b")])
    assert RENAME.rows(connection, "new", "b") == [("b", "new")]


@pytest.mark.parametrize(
    ("prepared", "arguments"),
    [
        (PreparedSelect(_AMONG, "states", "ids"), (["active"], ["a", "b"])),
        (PreparedStatement(_RENAME, "of_client", "other"), ("a", "new")),
    ],
    ids=["lists", "values"],
)
def test_parameters_out_of_their_order_are_refused(connection: Connection, prepared, arguments) -> None:
    with pytest.raises(ValueError, match="order of their places"):
        prepared.rows(connection, *arguments)


def test_columns_out_of_the_tables_order_are_refused(connection: Connection) -> None:
    columns = ("kind", "client_id", "name", "state", "created_us")
    with pytest.raises(ValueError, match="table's order"):
        PreparedInsert(insert(Client), columns).run(connection, [client("a")])


def test_errors_are_sqlalchemys_and_tell_no_values(database: Database) -> None:
    with pytest.raises(IntegrityError) as caught, database.write_connection() as connection:
        CLIENTS.run(connection, [client("secret"), client("secret")])
    assert "secret" not in str(caught.value.statement) + str(caught.value.params)


def test_a_connection_that_broke_is_not_used_again(database: Database) -> None:
    if database.on_sqlite:
        return  # no server that could end a connection
    with pytest.raises(OperationalError) as caught, database.write_connection() as connection:
        TERMINATE.rows(connection)
    assert caught.value.connection_invalidated
    with database.write_connection() as connection:
        assert AMONG.rows(connection, ["missing"], ["active"]) == []
