"""Bringing the database to the schema that this release works with, and refusing to work with an older one."""

import re
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING

from sqlalchemy import Connection, String, column, inspect, select, table, text

from node.db.session import Database

if TYPE_CHECKING:
    # It takes longer to import than most commands to run, so it is imported where something is migrated.
    from alembic.config import Config

VERSION_TABLE = "node_version"
_VERSION = select(column("version_num", String)).select_from(table(VERSION_TABLE))
_NAMED = re.compile(r"""^(revision|down_revision) = ["'](\w+)["']$""", re.MULTILINE)
_ADVISORY_LOCK = 0x6C6F636B6572


class SchemaOutdated(Exception):
    """The database has another schema than this release; the text says which command mends it."""


def upgrade(database: Database, revision: str = "head") -> None:
    """Run the migrations that are missing, under a lock, so that two that start at once do it once."""
    from alembic import command

    _under_lock(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Undo migrations down to a revision; a migration refuses to drop log rows."""
    from alembic import command

    _under_lock(database, lambda config: command.downgrade(config, revision))


def current_revision(database: Database) -> str | None:
    """Return the revision that the database is at, None for an empty one."""
    with database.reading() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        return connection.execute(_VERSION).scalar()


def newest_revision() -> str:
    """Return the revision that this release works with: the one that no other follows, read from the text of the migrations."""
    files = (resources.files("migrations") / "node" / "versions").iterdir()
    named: set[tuple[str, str]] = {
        found for file in files if file.name.endswith(".py") for found in _NAMED.findall(file.read_text("utf-8"))
    }
    followed = {revision for what, revision in named if what == "down_revision"}
    (newest,) = {revision for what, revision in named if what == "revision"} - followed
    return newest


def require_current(database: Database) -> None:
    """Raise SchemaOutdated unless the database is at this release's revision."""
    expected = newest_revision()
    found = current_revision(database)
    if found != expected:
        raise SchemaOutdated(
            f"the database is at revision {found or 'none'}, this release needs {expected}: run locker-node db upgrade"
        )


def _under_lock(database: Database, run: "Callable[[Config], None]") -> None:
    config = _config()
    with database.writing() as connection:
        _lock(connection, database)
        config.attributes["connection"] = connection
        run(config)


def _lock(connection: Connection, database: Database) -> None:
    # On SQLite the transaction itself, begun IMMEDIATE, is the lock.
    if not database.is_sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations") / "node"))
    return config
