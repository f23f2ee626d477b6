"""Moving the schema: Alembic under a lock, with the locker's own version table."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from locker.db.session import Database

VERSION_TABLE = "locker_version"
_LOCK = 0x6C6F636B6572


class SchemaRefused(Exception):
    """The database's schema is not the one that this program needs; the text says what to run."""


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to a revision; a second process waits and then finds nothing to do."""
    with _locked(database) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema down; a revision refuses to drop tables that hold consents or ticket records."""
    with _locked(database) as connection:
        command.downgrade(_config(connection), revision)


def current_revision(database: Database) -> str | None:
    """Return the schema's revision, None for an empty database."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def newest_revision() -> str:
    """Return the revision that this program is written for."""
    return str(ScriptDirectory.from_config(_config(None)).get_current_head())


def require_current(database: Database) -> None:
    """Raise SchemaRefused unless the schema is the newest one."""
    current, newest = current_revision(database), newest_revision()
    if current != newest:
        raise SchemaRefused(
            f"the database is at revision {current or 'none'}, {newest} is needed: run `locker db upgrade`"
        )


@contextmanager
def _locked(database: Database) -> Iterator[Connection]:
    """One transaction that no other migration can run beside: BEGIN IMMEDIATE on SQLite, an advisory lock on PostgreSQL."""
    with database.engine.execution_options(immediate=True).begin() as connection:
        if not database.on_sqlite:
            connection.execute(text("SET LOCAL statement_timeout = '10min'"))
            connection.execute(text("SET LOCAL lock_timeout = '10min'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            # A table lock that is not had soon is given up: waiting for it would queue every request behind the migration.
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
        yield connection


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations").joinpath("locker")))
    config.attributes["connection"] = connection
    return config
