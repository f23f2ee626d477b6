"""Leases: one process runs a job, and what an overtaken one still writes is refused by its fencing number."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from node.db.models import Lease
from node.db.session import Database


class LeaseLost(Exception):
    """Another process has taken over the job."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as it was taken; ``fence`` is one higher than any holder's before."""

    name: str
    owner: str
    fence: int

    def require(self, connection: Connection) -> None:
        """Lock the lease's row in a writing transaction; raises LeaseLost unless it is still this one."""
        statement = select(Lease.fence).where(Lease.name == self.name).with_for_update()
        if connection.execute(statement).scalar_one_or_none() != self.fence:
            raise LeaseLost(self.name)


def take_lease(database: Database, name: str, owner: str, now_us: int, duration_us: int) -> HeldLease | None:
    """Take or renew a lease; None while another owner's runs."""
    try:
        with database.writing() as connection:
            return _take(connection, name, owner, now_us, now_us + duration_us)
    except IntegrityError:
        return None  # two processes made the first row at once; the other one has it


def _take(connection: Connection, name: str, owner: str, now_us: int, expires_us: int) -> HeldLease | None:
    row = connection.execute(
        select(Lease.owner, Lease.fence, Lease.expires_us).where(Lease.name == name).with_for_update()
    ).one_or_none()
    if row is None:
        connection.execute(insert(Lease).values(name=name, owner=owner, fence=1, expires_us=expires_us))
        return HeldLease(name, owner, 1)
    if row.owner != owner and row.expires_us > now_us:
        return None
    fence = row.fence if row.owner == owner else row.fence + 1
    connection.execute(update(Lease).where(Lease.name == name).values(owner=owner, fence=fence, expires_us=expires_us))
    return HeldLease(name, owner, fence)
