"""Bringing the database to the schema that this release works with, and refusing to work with an older one."""

from collections.abc import Callable
from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from node.db.session import Database

VERSION_TABLE = "node_version"
_ADVISORY_LOCK = 0x6C6F636B6572


class SchemaOutdated(Exception):
    """The database has another schema than this release; the text says which command mends it."""


def upgrade(database: Database, revision: str = "head") -> None:
    """Run the migrations that are missing, under a lock, so that two that start at once do it once."""
    _under_lock(database, lambda config: command.upgrade(config, revision))


def downgrade(database: Database, revision: str) -> None:
    """Undo migrations down to a revision; a migration refuses to drop log rows."""
    _under_lock(database, lambda config: command.downgrade(config, revision))


def current_revision(database: Database) -> str | None:
    """Return the revision that the database is at, None for an empty one."""
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision()


def require_current(database: Database) -> None:
    """Raise SchemaOutdated unless the database is at this release's revision."""
    expected = ScriptDirectory.from_config(_config()).get_current_head()
    found = current_revision(database)
    if found != expected:
        raise SchemaOutdated(
            f"the database is at revision {found or 'none'}, this release needs {expected}: run locker-node db upgrade"
        )


def _under_lock(database: Database, run: Callable[[Config], None]) -> None:
    config = _config()
    with database.writing() as connection:
        _lock(connection, database)
        config.attributes["connection"] = connection
        run(config)


def _lock(connection: Connection, database: Database) -> None:
    # On SQLite the transaction itself, begun IMMEDIATE, is the lock.
    if not database.is_sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations") / "node"))
    return config
