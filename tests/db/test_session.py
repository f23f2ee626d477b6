"""A kept connection: asked of the pool once, given back after a pause or a failure, never used when it may be broken."""

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from node.db import session
from node.db.session import Database


@pytest.fixture
def database(database_url):
    opened = Database(database_url)
    with opened.writing() as connection:
        connection.execute(text("CREATE TABLE note (word VARCHAR(20))"))
    yield opened
    opened.close()


@pytest.fixture
def kept(database):
    kept = database.kept()
    yield kept
    kept.close()


@pytest.fixture
def checkouts(database):
    taken = []
    event.listen(database.engine, "checkout", lambda *_: taken.append(1))
    return taken


def write(database, kept, word):
    with database.writing(kept) as connection:
        connection.execute(text("INSERT INTO note VALUES (:word)"), {"word": word})


def words(database):
    with database.reading() as connection:
        return sorted(connection.execute(text("SELECT word FROM note")).scalars())


def test_one_connection_serves_many_transactions_each_committed_by_itself(database, kept, checkouts):
    for word in "abc":
        write(database, kept, word)
    assert len(checkouts) == 1
    assert words(database) == ["a", "b", "c"]


def test_a_transaction_that_failed_leaves_nothing_and_another_connection_follows(database, kept, checkouts):
    write(database, kept, "a")
    with pytest.raises(LookupError), database.writing(kept) as connection:
        connection.execute(text("INSERT INTO note VALUES ('lost')"))
        raise LookupError
    write(database, kept, "b")
    assert len(checkouts) == 2
    assert words(database) == ["a", "b"]


def test_after_a_pause_the_pool_tests_the_connection_again(database, kept, checkouts, monkeypatch):
    write(database, kept, "a")
    monkeypatch.setattr(session, "KEPT_SECONDS", 0.0)
    write(database, kept, "b")
    assert len(checkouts) == 2


def test_a_connection_of_a_pool_that_was_replaced_is_not_used_again(database, kept, checkouts):
    write(database, kept, "a")
    database.engine.dispose()
    write(database, kept, "b")
    assert len(checkouts) == 2
    assert words(database) == ["a", "b"]


def test_closing_gives_the_connection_back_and_may_be_done_again(database, kept):
    write(database, kept, "a")
    assert database.engine.pool.checkedout() == 1
    kept.close()
    kept.close()
    assert database.engine.pool.checkedout() == 0


def test_a_connection_that_the_server_ended_costs_one_transaction_at_most(database, kept, monkeypatch):
    if database.is_sqlite:
        return  # no server that could end a connection
    write(database, kept, "a")
    end_all = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with database.reading() as connection:
        connection.execute(end_all)
    with pytest.raises(DBAPIError):
        write(database, kept, "lost")
    write(database, kept, "b")
    with database.reading() as connection:
        connection.execute(end_all)
    monkeypatch.setattr(session, "KEPT_SECONDS", 0.0)
    write(database, kept, "c")  # had rested: the pool noticed
    assert words(database) == ["a", "b", "c"]
