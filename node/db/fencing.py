"""A database that a job may write to only while it holds its lease."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, update

from node.db.leases import HeldLease
from node.db.models import Lease
from node.db.session import Database, KeptConnection


class FencedDatabase(Database):
    """The same database; every writing transaction first locks the lease's row and raises LeaseLost when it changed hands."""

    def __init__(self, database: Database, lease: HeldLease) -> None:
        self.url = database.url
        self.is_sqlite = database.is_sqlite
        self.engine = database.engine
        self._lease = lease

    @contextmanager
    def writing(self, kept: KeptConnection | None = None) -> Iterator[Connection]:
        """Open a writing transaction under the lease."""
        with super().writing(kept) as connection:
            self._lease.require(connection)
            yield connection


def give_up_leases(database: Database, owner: str) -> None:
    """End the leases of a process that stops, so that another takes over without waiting."""
    with database.writing() as connection:
        connection.execute(update(Lease).where(Lease.owner == owner).values(expires_us=0))
