"""Moving the schema: Alembic under a lock, with the locker's own version table."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING

from sqlalchemy import Connection, String, column, inspect, select, table, text

from locker.db.session import Database

if TYPE_CHECKING:
    # It takes longer to import than most commands to run, so it is imported where something is migrated.
    from alembic.config import Config

VERSION_TABLE = "locker_version"
_VERSION = select(column("version_num", String)).select_from(table(VERSION_TABLE))
_LOCK = 0x6C6F636B6572
_NAMED = re.compile(r"""^(revision|down_revision) = ["'](\w+)["']$""", re.MULTILINE)


class SchemaRefused(Exception):
    """The database's schema is not the one that this program needs; the text says what to run."""


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the schema up to a revision; a second process waits and then finds nothing to do."""
    from alembic import command

    with _locked(database) as connection:
        command.upgrade(_config(connection), revision)


def downgrade(database: Database, revision: str) -> None:
    """Bring the schema down; a revision refuses to drop tables that hold consents or ticket records."""
    from alembic import command

    with _locked(database) as connection:
        command.downgrade(_config(connection), revision)


def current_revision(database: Database) -> str | None:
    """Return the schema's revision, None for an empty database."""
    with database.engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        return connection.execute(_VERSION).scalar()


def newest_revision() -> str:
    """Return the revision that this program is written for: the one that no other follows, read from the migrations' text."""
    found = files("migrations").joinpath("locker", "versions").iterdir()
    named: set[tuple[str, str]] = {
        pair for file in found if file.name.endswith(".py") for pair in _NAMED.findall(file.read_text("utf-8"))
    }
    followed = {revision for what, revision in named if what == "down_revision"}
    (newest,) = {revision for what, revision in named if what == "revision"} - followed
    return newest


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


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("migrations").joinpath("locker")))
    config.attributes["connection"] = connection
    return config
