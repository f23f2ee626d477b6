"""The lockers that this node is registered with: their keys, and what their revocation lists say."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, text, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from node.contract.revocation import RevocationEntry
from node.db import locker_roots
from node.db.models import Locker, RevocationEntryRow
from node.db.prepared import PreparedSelect
from node.db.session import Database
from node.services.locker_roots import LockerRoot

PENDING = "pending"
ACTIVE = "active"
BLOCKED = "blocked"

ANNOUNCE_ALL = ""
"""What ``announced_after`` is before the first document was announced; document ids sort after it."""


@dataclass(frozen=True, slots=True)
class LockerRow:
    """A locker as stored; ``jwks``, ``encryption_key`` and ``revoked_keys`` are JSON text, times are microseconds UTC.

    ``state`` is ``pending`` until the locker's officer has approved, ``active`` from then on, ``blocked`` when this node's
    operator has turned away from it. ``list_kid`` names the key that signed the newest revocation page known.
    """

    iss: str
    base_url: str
    state: str
    jwks: str
    jwks_fetched_us: int
    encryption_key: str | None
    endpoints: Mapping[str, str]
    list_sequence: int
    list_digest: str | None
    list_issued_us: int
    list_next_update_us: int
    list_refusals: int
    list_refused: str | None
    links_after: int
    announced_after: str | None
    push_failures: int
    push_next_us: int
    list_kid: str | None
    revoked_keys: str


_COLUMNS = (
    Locker.iss, Locker.base_url, Locker.state, Locker.jwks, Locker.jwks_fetched_us, Locker.encryption_key,
    Locker.endpoints, Locker.list_sequence, Locker.list_digest, Locker.list_issued_us, Locker.list_next_update_us,
    Locker.list_refusals, Locker.list_refused, Locker.links_after, Locker.announced_after, Locker.push_failures,
    Locker.push_next_us, Locker.list_kid, Locker.revoked_keys,
)  # fmt: skip
_NAMES = tuple(column.key for column in _COLUMNS)

_ALL = select(*_COLUMNS).order_by(Locker.iss)
_IN_STATE = _ALL.where(Locker.state == bindparam("state"))
_FIND = PreparedSelect(select(*_COLUMNS).where(Locker.iss.in_(bindparam("isses", expanding=True))), "isses")
_VOID_MOMENTS = PreparedSelect(
    select(RevocationEntryRow.iss, RevocationEntryRow.consent_id, RevocationEntryRow.void_before_us).where(
        tuple_(RevocationEntryRow.iss, RevocationEntryRow.consent_id).in_(bindparam("pairs", expanding=True))
    ),
    "pairs",
    width=2,
)


def locker_rows(connection: Connection, isses: Iterable[str]) -> dict[str, LockerRow]:
    """Return the lockers with these issuer names, by name: one statement for all."""
    wanted = sorted(set(isses))
    if not wanted:
        return {}
    return {row[0]: _locker(row) for row in _FIND.rows(connection, wanted)}


def all_lockers(connection: Connection, state: str | None = None) -> list[LockerRow]:
    """Return every locker, or those in one state, by name."""
    rows = connection.execute(_ALL) if state is None else connection.execute(_IN_STATE, {"state": state})
    return [_locker(row) for row in rows]


def save_locker(
    connection: Connection, *, iss: str, base_url: str, jwks: str, encryption_key: str, endpoints: Mapping[str, str],
    now_us: int,
) -> None:  # fmt: skip
    """Insert a locker that waits for its officer's approval, or bring keys and addresses of a known one up to date."""
    values = {
        "base_url": base_url, "jwks": jwks, "jwks_fetched_us": now_us, "encryption_key": encryption_key,
        "endpoints": json.dumps(dict(endpoints), sort_keys=True),
    }  # fmt: skip
    if connection.execute(update(Locker).where(Locker.iss == iss).values(**values)).rowcount == 0:
        connection.execute(
            insert(Locker).values(
                iss=iss, **values, state=PENDING, list_sequence=0, list_digest=None, list_issued_us=0,
                list_next_update_us=0, list_refusals=0, list_refused=None, links_after=0, announced_after=None,
                push_failures=0, push_next_us=0, registered_us=now_us,
            )
        )  # fmt: skip


def change_locker(connection: Connection, iss: str, **columns: Any) -> None:
    """Set columns of a locker."""
    connection.execute(update(Locker).where(Locker.iss == iss).values(**columns))


def activate(connection: Connection, iss: str) -> bool:
    """Begin to trust and serve a locker; every document is to be announced to it. False when it is active already.

    From this commit on a document is announced by the transaction that adds it, so those added by transactions still open
    must not be missed: PostgreSQL's table lock waits for each transaction that has read this table and not seen the locker.
    SQLite has one writer at a time. A database without table locks that is serialisable keeps the order by itself.
    """
    if connection.dialect.name == "postgresql":
        # Readers queue behind the lock's request, so it gives up soon; whoever called tries again.
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        connection.execute(text("LOCK TABLE locker IN ACCESS EXCLUSIVE MODE"))
    changed = connection.execute(
        update(Locker)
        .where(Locker.iss == iss, Locker.state != ACTIVE)
        .values(state=ACTIVE, announced_after=ANNOUNCE_ALL, push_failures=0, push_next_us=0)
    )
    return changed.rowcount == 1


def void_moments(connection: Connection, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return, for those of the pairs (locker, consent) that have one, the moment up to which tickets are void.

    Microseconds UTC; a ticket issued at that moment is void too.
    """
    wanted = sorted(set(pairs))
    if not wanted:
        return {}
    return {(iss, consent): moment for iss, consent, moment in _VOID_MOMENTS.rows(connection, wanted)}


def add_revocations(connection: Connection, iss: str, entries: Sequence[RevocationEntry]) -> None:
    """Note which tickets are void; an entry never moves a consent's moment back."""
    latest: dict[str, int] = {}
    for entry in entries:
        latest[entry.consent_id] = max(entry.void_before_us, latest.get(entry.consent_id, 0))
    if not latest:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(RevocationEntryRow)
    later = statement.excluded.void_before_us
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["iss", "consent_id"],
            set_={"void_before_us": later},
            where=RevocationEntryRow.void_before_us < later,
        ),
        [{"iss": iss, "consent_id": consent, "void_before_us": moment} for consent, moment in sorted(latest.items())],
    )


def prune_revocations(connection: Connection, iss: str, before_us: int) -> int:
    """Delete entries that can no longer concern a ticket that is alive, and return how many."""
    row = RevocationEntryRow
    return connection.execute(delete(row).where(row.iss == iss, row.void_before_us < before_us)).rowcount


class LockerRecords:
    """The lockers, as the services see them: each call one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, iss: str) -> LockerRow | None:
        """Return one locker or None."""
        with self._database.reading() as connection:
            return locker_rows(connection, [iss]).get(iss)

    def all(self, state: str | None = None) -> list[LockerRow]:
        """Return every locker, or those in one state."""
        with self._database.reading() as connection:
            return all_lockers(connection, state)

    def save(
        self, *, iss: str, base_url: str, jwks: str, encryption_key: str, endpoints: Mapping[str, str], now_us: int
    ) -> None:
        """Insert or refresh a locker."""
        with self._database.writing() as connection:
            save_locker(
                connection, iss=iss, base_url=base_url, jwks=jwks, encryption_key=encryption_key, endpoints=endpoints,
                now_us=now_us,
            )  # fmt: skip

    def change(self, iss: str, **columns: Any) -> None:
        """Set columns of a locker."""
        with self._database.writing() as connection:
            change_locker(connection, iss, **columns)

    def activate(self, iss: str) -> bool:
        """Begin to trust and serve a locker; False when it is active already."""
        with self._database.writing() as connection:
            return activate(connection, iss)

    def claim_key_fetch(self, iss: str, now_us: int, interval_us: int) -> bool:
        """Take the right to fetch a locker's keys, which is given once in an interval to all processes together."""
        last = Locker.jwks_fetched_us
        # A moment that lies ahead is another process's, whose clock was read a little later; far ahead, the clock was wrong.
        from_a_wrong_clock = last > now_us + interval_us
        with self._database.writing() as connection:
            claimed = connection.execute(
                update(Locker)
                .where(Locker.iss == iss, (last <= now_us - interval_us) | from_a_wrong_clock)
                .values(jwks_fetched_us=now_us)
            )
            return claimed.rowcount == 1

    def take_page(
        self, before: LockerRow, *, sequence: int, digest: str, issued_us: int, next_update_us: int,
        entries: Sequence[RevocationEntry], prune_before_us: int, kid: str | None = None,
    ) -> bool:  # fmt: skip
        """Note a page of a locker's revocation list, head and entries in one transaction; ``kid`` names the key that signed it.

        False when the head is no longer what ``before`` says, because another process has taken a page meanwhile.
        """
        with self._database.writing() as connection:
            advanced = connection.execute(
                update(Locker)
                .where(Locker.iss == before.iss, Locker.list_sequence == before.list_sequence)
                .values(
                    list_sequence=sequence, list_digest=digest, list_issued_us=issued_us,
                    list_next_update_us=next_update_us, list_refused=None, list_kid=kid,
                )
            )  # fmt: skip
            if advanced.rowcount != 1:
                return False
            add_revocations(connection, before.iss, entries)
            prune_revocations(connection, before.iss, prune_before_us)
            return True

    def refuse_page(self, iss: str, reason: str) -> None:
        """Count a page that could not be taken, and say why; the list stays as it is."""
        with self._database.writing() as connection:
            connection.execute(
                update(Locker)
                .where(Locker.iss == iss)
                .values(list_refusals=Locker.list_refusals + 1, list_refused=reason[:32])
            )

    def root(self, iss: str) -> LockerRoot | None:
        """Return what is known of a locker's root."""
        with self._database.reading() as connection:
            return locker_roots.locker_root(connection, iss)

    def pin_root(self, iss: str, root: str | None) -> None:
        """Trust a root from now on."""
        with self._database.writing() as connection:
            locker_roots.pin_root(connection, iss, root)

    def note_root(self, iss: str, offered: str | None) -> None:
        """Note what a locker shows as its root when that is not the pinned one; None when it is."""
        with self._database.writing() as connection:
            locker_roots.note_root(connection, iss, offered)

    def take_key_list(self, iss: str, before: LockerRoot, *, sequence: int, digest: str, kids: Collection[str]) -> bool:
        """Note the keys that a newer list names; False when another process was faster."""
        with self._database.writing() as connection:
            return locker_roots.take_key_list(connection, iss, before, sequence=sequence, digest=digest, kids=kids)

    def refuse_key_list(self, iss: str, reason: str | None) -> None:
        """Note why a list was not taken, None when the locker publishes again the one that is known."""
        with self._database.writing() as connection:
            locker_roots.refuse_key_list(connection, iss, reason)


def _locker(row: Sequence[Any]) -> LockerRow:
    values = dict(zip(_NAMES, row, strict=True))
    return LockerRow(**{**values, "endpoints": json.loads(values["endpoints"])})
