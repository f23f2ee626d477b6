"""Databases that tests begin with: migrated once in a run, and copied for each test, which takes a tenth of the time."""

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.postgresql import PostgreSQLServer


def migrate_node(url: str) -> None:
    from node.db.schema import upgrade
    from node.db.session import Database

    database = Database(url)
    upgrade(database)
    database.close()


def migrate_locker(url: str) -> None:
    from locker.db.migration import upgrade
    from locker.db.session import Database

    database = Database(url)
    upgrade(database)
    database.dispose()


MIGRATE: dict[str, Callable[[str], None]] = {"node": migrate_node, "locker": migrate_locker}


@dataclass
class MigratedDatabases:
    """Makes databases with the newest schema and nothing else in them; ``owner`` is ``node`` or ``locker``."""

    folder: Path
    _templates: dict[str, str] = field(default_factory=dict)

    def sqlite(self, owner: str, file: Path) -> str:
        """Make an SQLite database and return its URL."""
        template = self.folder / f"{owner}.db"
        if not template.exists():
            MIGRATE[owner](f"sqlite:///{template}")
        shutil.copy(template, file)
        return f"sqlite:///{file}"

    def postgresql(self, owner: str, server: PostgreSQLServer) -> str:
        """Make a PostgreSQL database and return its URL."""
        if owner not in self._templates:
            name = f"template_{owner}_{secrets.token_hex(4)}"
            MIGRATE[owner](server.create_database(name))
            self._templates[owner] = name
        return server.create_database(template=self._templates[owner])
