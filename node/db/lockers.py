"""The lockers that this node is registered with: their keys, and what their revocation lists say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, tuple_, update

from node.db.models import Locker, RevocationEntryRow

PENDING = "pending"
ACTIVE = "active"


@dataclass(frozen=True, slots=True)
class LockerRow:
    """A locker as stored; ``jwks`` and ``encryption_key`` are JSON text, times are microseconds UTC."""

    iss: str
    base_url: str
    state: str
    jwks: str
    jwks_fetched_us: int
    encryption_key: str | None
    list_sequence: int
    list_digest: str | None
    list_issued_us: int
    list_next_update_us: int
    links_after: int


_COLUMNS = (
    Locker.iss, Locker.base_url, Locker.state, Locker.jwks, Locker.jwks_fetched_us, Locker.encryption_key,
    Locker.list_sequence, Locker.list_digest, Locker.list_issued_us, Locker.list_next_update_us, Locker.links_after,
)  # fmt: skip


def locker_rows(connection: Connection, isses: Iterable[str]) -> dict[str, LockerRow]:
    """Return the lockers with these issuer names, by name: one statement for all."""
    wanted = sorted(set(isses))
    if not wanted:
        return {}
    return {row.iss: _locker(row) for row in connection.execute(select(*_COLUMNS).where(Locker.iss.in_(wanted)))}


def all_lockers(connection: Connection) -> list[LockerRow]:
    """Return every locker, by name."""
    return [_locker(row) for row in connection.execute(select(*_COLUMNS).order_by(Locker.iss))]


def add_locker(
    connection: Connection, *, iss: str, base_url: str, jwks: str, encryption_key: str | None, now_us: int
) -> None:
    """Insert a locker that waits for its officer's approval."""
    connection.execute(
        insert(Locker).values(
            iss=iss, base_url=base_url, state=PENDING, jwks=jwks, jwks_fetched_us=now_us,
            encryption_key=encryption_key, list_sequence=0, list_digest=None, list_issued_us=0, list_next_update_us=0,
            links_after=0, registered_us=now_us,
        )
    )  # fmt: skip


def change_locker(connection: Connection, iss: str, **columns: Any) -> None:
    """Set columns of a locker."""
    connection.execute(update(Locker).where(Locker.iss == iss).values(**columns))


def void_moments(connection: Connection, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return, for those of the pairs (locker, consent) that have one, the moment up to which tickets are void.

    Microseconds UTC; a ticket issued at that moment is void too.
    """
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    row = RevocationEntryRow
    statement = select(row.iss, row.consent_id, row.void_before_us).where(tuple_(row.iss, row.consent_id).in_(wanted))
    return {(found.iss, found.consent_id): found.void_before_us for found in connection.execute(statement)}


def _locker(row: tuple[Any, ...]) -> LockerRow:
    return LockerRow(*row)
