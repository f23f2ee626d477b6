"""Publishing revocation pages: each signed, numbered by a head row, and linked to the one before.

When the root has revoked the key of a page that readers may still begin with or come by, the next pages say all that still matters once
more under the key in use, and name the first of them as their horizon: readers begin there, because pages under the revoked key count
no more.
"""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from locker.db.models import RevocationPageRow
from locker.db.session import Database, advance
from node.contract.problems import NotFound
from node.contract.revocation import (
    HORIZON_AGE,
    MAX_ENTRIES,
    RevocationEntry,
    RevocationPage,
    issue_page,
    page_digest,
)
from node.contract.signing import MAX_REVOCATION_PAGE, SigningKey, read_claims_unverified, read_header
from node.contract.times import SECOND


class Revocations:
    """The list of revocation pages."""

    def __init__(
        self, database: Database, *, iss: str, key: SigningKey, freshness: int, revoked: Collection[str] = ()
    ) -> None:
        """``freshness`` is the seconds until a page is due to be followed by the next; ``revoked`` are keys that count no more."""
        self._database = database
        self._iss = iss
        self._key = key
        self._freshness = freshness * SECOND
        self._revoked = frozenset(revoked)
        self._sound_until = 0

    def publish(self, session: Session, entries: Sequence[RevocationEntry], now_us: int) -> int:
        """Add a page in the caller's transaction, or several to begin anew, and return the last one's number.

        The head row is held until the transaction ends, so the next page sees this one whole or not at all. A clock that
        was put back does not date a page before its predecessor.
        """
        sequence = advance(session, "revocations")
        before = session.get(RevocationPageRow, sequence - 1) if sequence > 1 else None
        issued_us = max(now_us, before.issued_us if before else 0)
        if before is not None and self._is_broken(session, before):
            return self._begin_anew(session, before, sequence, issued_us, entries)
        alive = select(func.min(RevocationPageRow.sequence)).where(
            RevocationPageRow.issued_us >= issued_us - HORIZON_AGE
        )
        horizon = max(session.scalar(alive) or sequence, _page(before).horizon if before else sequence)
        self._add(session, sequence, before, horizon, issued_us, entries)
        return sequence

    def _begin_anew(
        self,
        session: Session,
        before: RevocationPageRow,
        first: int,
        issued_us: int,
        entries: Sequence[RevocationEntry],
    ) -> int:
        everything = _latest([*_alive_entries(session, issued_us), *entries])
        sequence = first
        for start in range(0, max(len(everything), 1), MAX_ENTRIES):
            sequence = first if start == 0 else advance(session, "revocations")
            part = everything[start : start + MAX_ENTRIES]
            before = self._add(session, sequence, before, first, issued_us, part)
        return sequence

    def _add(
        self, session: Session, sequence: int, before: RevocationPageRow | None, horizon: int, issued_us: int,
        entries: Sequence[RevocationEntry],
    ) -> RevocationPageRow:  # fmt: skip
        page = RevocationPage(
            iss=self._iss, sequence=sequence, previous=page_digest(before.token) if before else None,
            horizon=horizon, issued_us=issued_us, next_update_us=issued_us + self._freshness, entries=tuple(entries),
        )  # fmt: skip
        row = RevocationPageRow(
            sequence=sequence,
            token=issue_page(page, self._key),
            issued_us=issued_us,
            next_update_us=page.next_update_us,
        )
        session.add(row)
        session.flush()
        return row

    def keep_fresh(self, now_us: int) -> bool:
        """Publish a page when half of the newest one's time is over or the list is to begin anew; tells whether it did."""
        with self._database.read() as session:
            newest = _newest(session)
            fresh = newest is not None and now_us < newest.issued_us + self._freshness // 2
            if newest is not None and fresh and not self._is_broken(session, newest):
                return False
        with self._database.write() as session:
            self.publish(session, (), now_us)
        return True

    def _is_broken(self, session: Session, newest: RevocationPageRow) -> bool:
        """Tell whether a revoked key signed a page from the newest one's horizon on; what was found sound is not read again."""
        if not self._revoked:
            return False
        first = min(max(_page(newest).horizon, self._sound_until + 1), newest.sequence)
        tokens = select(RevocationPageRow.token).where(RevocationPageRow.sequence.between(first, newest.sequence))
        void = sum(map(self._is_void, session.scalars(tokens.execution_options(yield_per=100))))
        if not void:
            self._sound_until = newest.sequence
        return void > 0

    def _is_void(self, token: str) -> bool:
        return read_header(token, max_size=MAX_REVOCATION_PAGE).get("kid") in self._revoked

    def newest(self) -> RevocationPageRow | None:
        """Return the newest page, None before the first."""
        with self._database.read() as session:
            return _newest(session)

    def latest(self) -> str:
        """Return the newest page as signed; raises NotFound before the first."""
        page = self.newest()
        if page is None:
            raise NotFound("no revocation page has been published yet")
        return page.token

    def page(self, sequence: int) -> str:
        """Return one page as signed; raises NotFound."""
        with self._database.read() as session:
            row = session.get(RevocationPageRow, sequence)
        if row is None:
            raise NotFound("there is no revocation page with this number")
        return row.token


def _newest(session: Session) -> RevocationPageRow | None:
    return session.scalars(select(RevocationPageRow).order_by(RevocationPageRow.sequence.desc()).limit(1)).first()


def _page(row: RevocationPageRow) -> RevocationPage:
    """Read a page of our own, whatever key signed it: what is in the database was put there by us."""
    return RevocationPage.from_claims(read_claims_unverified(row.token, max_size=MAX_REVOCATION_PAGE))


def _alive_entries(session: Session, now_us: int) -> Iterator[RevocationEntry]:
    """Return the entries of pages that can still concern a ticket that is alive."""
    recent = select(RevocationPageRow).where(RevocationPageRow.issued_us >= now_us - HORIZON_AGE)
    for row in session.scalars(recent.order_by(RevocationPageRow.sequence)):
        yield from _page(row).entries


def _latest(entries: Sequence[RevocationEntry]) -> list[RevocationEntry]:
    moments: dict[str, int] = {}
    for entry in entries:
        moments[entry.consent_id] = max(entry.void_before_us, moments.get(entry.consent_id, 0))
    return [RevocationEntry(consent_id, moment) for consent_id, moment in moments.items()]
