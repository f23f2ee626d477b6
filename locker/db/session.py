"""Sessions on SQLite or PostgreSQL whose commits are durable, and the head rows that give feeds their positions."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, bindparam, create_engine, event, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from locker.db.models import FeedHead
from locker.db.prepared import PreparedStatement
from node.contract.problems import ServiceUnavailable

log = structlog.get_logger("locker.db")

BUSY_TIMEOUT_MS = 10_000
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 10_000


class NotDurable(Exception):
    """The database would lose commits in a crash; the text names the setting."""


class Database:
    """One engine with two ways in: ``read`` sees one snapshot, ``write`` holds the write lock from its first statement."""

    def __init__(self, url: str) -> None:
        """Open lazily; raises ValueError for anything but SQLite and PostgreSQL."""
        dialect = make_url(url).get_backend_name()
        if dialect not in ("sqlite", "postgresql"):
            raise ValueError("the locker's database is SQLite or PostgreSQL")
        self.on_sqlite = dialect == "sqlite"
        self.engine = _sqlite_engine(url) if self.on_sqlite else _postgres_engine(url)
        self._writing = self.engine.execution_options(immediate=True)
        # Waiting on a lock of our own is fair and cheap; SQLite's busy handler polls and can starve a thread.
        self._turn = threading.Lock() if self.on_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; nothing done in it is kept."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session committed at the end of the block, rolled back when the block raises."""
        with self._turn_to_write(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write_connection(self) -> Iterator[Connection]:
        """As ``write`` without the object layer, for the path that every read takes."""
        with self._turn_to_write(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        if self._turn is None:
            yield
        else:
            with self._turn:
                yield

    def require_durable(self) -> None:
        """Raise NotDurable unless a commit survives a crash of the machine."""
        with self.engine.connect() as connection:
            wrong = _sqlite_faults(connection) if self.on_sqlite else _postgres_faults(connection)
        if wrong:
            raise NotDurable("; ".join(wrong))

    def dispose(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn a fault of the database within the block into what is answered then; raises ServiceUnavailable."""
    try:
        yield
    except SQLAlchemyError as error:
        log.error("database fault", error=type(error).__name__)
        raise ServiceUnavailable(reason="database", headers={"Retry-After": "5"}) from error


_ADVANCE = (
    update(FeedHead)
    .where(FeedHead.feed == bindparam("of_feed"))
    .values(position=FeedHead.position + bindparam("count"))
    .returning(FeedHead.position)
    .execution_options(synchronize_session=False)
)
_PREPARED_ADVANCE = PreparedStatement(_ADVANCE, "count", "of_feed")


_ISSUING = 0x69737375696E67
_ISSUING_SHARED = text("SELECT pg_advisory_xact_lock_shared(:lock)")
_ISSUING_ALONE = text("SELECT pg_advisory_xact_lock(:lock)")


def advance(session: Session | Connection, feed: str, count: int = 1) -> int:
    """Lock a feed's head row, move it by ``count`` in this transaction and return the first of the positions given."""
    if isinstance(session, Connection):
        ((position,),) = _PREPARED_ADVANCE.rows(session, count, feed)
    else:
        position = session.execute(_ADVANCE, {"of_feed": feed, "count": count}).scalar_one()
    return int(position) - count + 1


def lock_issuing(session: Session | Connection, *, alone: bool) -> None:
    """Hold the lock of issuing tickets until the transaction ends, shared or alone; on SQLite a writer is alone anyway."""
    bind = session.get_bind() if isinstance(session, Session) else session
    if bind.dialect.name == "postgresql":
        session.execute(_ISSUING_ALONE if alone else _ISSUING_SHARED, {"lock": _ISSUING})


def head(session: Session, feed: str) -> int:
    """Return the last position given in a feed, as this transaction sees it."""
    return int(session.execute(select(FeedHead.position).where(FeedHead.feed == feed)).scalar_one())


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        # The driver's own transaction handling begins late and deferred; BEGIN is said by us, below.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _postgres_engine(url: str) -> Engine:
    options = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=60000"
    return create_engine(
        url, pool_size=10, max_overflow=10, pool_pre_ping=True, connect_args={"options": options, "connect_timeout": 10}
    )


def _sqlite_faults(connection: Connection) -> list[str]:
    wrong = []
    if str(connection.execute(text("PRAGMA journal_mode")).scalar_one()).lower() != "wal":
        wrong.append("journal_mode is not WAL: the file is in memory or on a file system without shared memory")
    if int(connection.execute(text("PRAGMA synchronous")).scalar_one()) < 2:
        wrong.append("synchronous is below FULL")
    return wrong


def _postgres_faults(connection: Connection) -> list[str]:
    safe = {
        "fsync": ("on",),
        "full_page_writes": ("on",),
        "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
    }
    values = {name: str(connection.execute(text(f"SHOW {name}")).scalar_one()) for name in safe}
    return [f"{name} is {values[name]}" for name, good in safe.items() if values[name] not in good]
