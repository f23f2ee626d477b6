"""The database connection: SQLite or PostgreSQL, opened so that a commit that returned has reached the disk."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from node.db.prepared import run_driver_sql

BUSY_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 10_000
KEPT_SECONDS = 1.0
"""How long a kept connection may rest before the pool is to test it again."""
KEPT_STATEMENTS = 512
"""How many statements a SQLite connection keeps prepared."""


class NotDurable(Exception):
    """The database's settings let a commit return before its data is on the disk."""


class Database:
    """One engine and the two ways to use it: ``reading`` and ``writing``, each one transaction."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        """Take an SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg://…``; nothing is opened yet."""
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url, pool_size)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads; on SQLite it takes no write lock."""
        with self.engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self, kept: "KeptConnection | None" = None) -> Iterator[Connection]:
        """Open a transaction that may write; SQLite begins it IMMEDIATE, so that waiting replaces failing half-way.

        A thread that writes in quick succession does it on a connection that it keeps.
        """
        with kept.transaction() if kept else self.engine.begin() as connection:
            yield connection

    def kept(self) -> "KeptConnection":
        """Return a connection for one thread to keep; nothing is opened yet."""
        return KeptConnection(self.engine)

    def require_durable(self) -> None:
        """Raise NotDurable, in plain words, when a commit would not survive a crash."""
        with self.reading() as connection:
            complaint = _sqlite_complaint(connection) if self.is_sqlite else _postgresql_complaint(connection)
        if complaint:
            raise NotDurable(complaint)

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


class KeptConnection:
    """A connection that one thread keeps from one transaction to the next, instead of asking the pool each time.

    After a pause, a failure, or when the engine was given a new pool, it goes back and another is taken, which the pool has tested.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None
        self._pool = engine.pool
        self._used = 0.0

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction on the connection."""
        connection = self._ready()
        try:
            with connection.begin():
                yield connection
        except BaseException:
            self.close()
            raise
        self._used = time.monotonic()

    def close(self) -> None:
        """Give the connection back; closing again does nothing, and the next transaction takes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._pool is not self._engine.pool:
                connection.invalidate()  # a pool that was replaced would keep it open until the collector comes by
            connection.close()

    def _ready(self) -> Connection:
        rested = time.monotonic() - self._used > KEPT_SECONDS
        if rested or self._pool is not self._engine.pool:
            self.close()
        if self._connection is None:
            self._pool = self._engine.pool
            self._connection = self._engine.connect()
        return self._connection


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(
        url,
        # Every use ends its own transaction, so nothing is left to roll back.
        pool_reset_on_return=None,
        connect_args={
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "check_same_thread": False,
            "cached_statements": KEPT_STATEMENTS,
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transaction handling begins too late; the "begin" listener below does it instead.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reads_only = connection.get_execution_options().get("reads_only", False)
        run_driver_sql(connection, "BEGIN" if reads_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str, pool_size: int) -> Engine:
    options = (
        f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} "
        f"-c idle_in_transaction_session_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC"
    )
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 10, "options": options, "application_name": "locker-node"},
    )


def _sqlite_complaint(connection: Connection) -> str | None:
    if connection.exec_driver_sql("PRAGMA synchronous").scalar_one() < 2:
        return "SQLite's synchronous setting is below FULL, so a power cut could lose log rows"
    if connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() != "wal":
        return "SQLite could not switch to its write-ahead log; is the folder on a network drive?"
    return None


def _postgresql_complaint(connection: Connection) -> str | None:
    for setting, good in (("fsync", {"on"}), ("synchronous_commit", {"on", "remote_write", "remote_apply"})):
        try:
            with connection.begin_nested():
                value = connection.execute(text(f"SHOW {setting}")).scalar_one()
        except DBAPIError:
            continue  # a distributed database that speaks the protocol has no such switch
        if value not in good:
            return f"PostgreSQL runs with {setting}={value}, so a crash could lose log rows that were already relied on"
    return None
