import threading

import pytest
from sqlalchemy import text

from locker.db.models import Resident
from locker.db.session import Database, NotDurable, advance, head


def test_both_databases_are_durable_as_opened(database: Database) -> None:
    database.require_durable()


def test_a_postgres_that_commits_late_is_refused(postgres_url: str) -> None:
    database = Database(postgres_url)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ALTER DATABASE {database.engine.url.database} SET synchronous_commit = off"))
    database.dispose()
    with pytest.raises(NotDurable, match="synchronous_commit is off"):
        database.require_durable()
    database.dispose()


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(NotDurable, match="WAL"):
        Database("sqlite://").require_durable()


def test_other_databases_are_refused() -> None:
    with pytest.raises(ValueError, match="SQLite or PostgreSQL"):
        Database("mysql://localhost/x")


def test_a_block_that_raises_leaves_nothing(database: Database) -> None:
    with pytest.raises(RuntimeError), database.write() as session:
        session.add(Resident(resident_id="r", name="R", created_us=1))
        session.flush()
        raise RuntimeError
    with database.read() as session:
        assert session.get(Resident, "r") is None


def test_a_time_that_is_not_whole_microseconds_is_refused(database: Database) -> None:
    with pytest.raises(Exception, match="whole microseconds"), database.write() as session:
        session.add(Resident(resident_id="r", name="R", created_us=1.5))  # type: ignore[arg-type]  # on purpose


def test_positions_taken_by_many_threads_have_no_gap_and_no_double(database: Database) -> None:
    taken: list[int] = []

    def take() -> None:
        for _ in range(10):
            with database.write() as session:
                first = advance(session, "ledger", 3)
            taken.extend(range(first, first + 3))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 241))
    with database.read() as session:
        assert head(session, "ledger") == 240


def test_a_position_waits_for_the_transaction_before_it(postgres_url: str) -> None:
    """Positions become visible in order: the second cannot be taken, let alone seen, while the first is open."""
    from locker.db.migration import upgrade

    database = Database(postgres_url)
    upgrade(database)
    order: list[str] = []
    first_has_it, may_end = threading.Event(), threading.Event()

    def first() -> None:
        with database.write() as session:
            advance(session, "ledger")
            first_has_it.set()
            may_end.wait(5)
            order.append("first")

    def second() -> None:
        first_has_it.wait(5)
        with database.write() as session:
            advance(session, "ledger")
            order.append("second")

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    first_has_it.wait(5)
    threads[1].join(0.3)
    may_end.set()
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    database.dispose()
