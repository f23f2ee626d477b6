"""Publishing revocation pages: each signed, numbered by a head row, and linked to the one before."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from locker.db.models import RevocationPageRow
from locker.db.session import Database, advance
from node.contract.problems import NotFound
from node.contract.revocation import HORIZON_AGE, RevocationEntry, RevocationPage, issue_page, page_digest
from node.contract.signing import SigningKey
from node.contract.times import SECOND


class Revocations:
    """The list of revocation pages."""

    def __init__(self, database: Database, *, iss: str, key: SigningKey, freshness: int) -> None:
        """``freshness`` is the seconds until a page is due to be followed by the next."""
        self._database = database
        self._iss = iss
        self._key = key
        self._freshness = freshness * SECOND

    def publish(self, session: Session, entries: Sequence[RevocationEntry], now_us: int) -> int:
        """Add a page in the caller's transaction and return its number.

        The head row is held until the transaction ends, so the next page sees this one whole or not at all. A clock that
        was put back does not date a page before its predecessor.
        """
        sequence = advance(session, "revocations")
        before = session.get(RevocationPageRow, sequence - 1) if sequence > 1 else None
        issued_us = max(now_us, before.issued_us if before else 0)
        alive = select(func.min(RevocationPageRow.sequence)).where(
            RevocationPageRow.issued_us >= issued_us - HORIZON_AGE
        )
        page = RevocationPage(
            iss=self._iss, sequence=sequence, previous=page_digest(before.token) if before else None,
            horizon=session.scalar(alive) or sequence, issued_us=issued_us,
            next_update_us=issued_us + self._freshness, entries=tuple(entries),
        )  # fmt: skip
        session.add(
            RevocationPageRow(
                sequence=sequence, token=issue_page(page, self._key), issued_us=issued_us,
                next_update_us=page.next_update_us,
            )
        )  # fmt: skip
        session.flush()
        return sequence

    def keep_fresh(self, now_us: int) -> bool:
        """Publish an empty page when half of the newest one's time is over; tells whether it did."""
        newest = self.newest()
        if newest is not None and now_us < newest.issued_us + self._freshness // 2:
            return False
        with self._database.write() as session:
            self.publish(session, (), now_us)
        return True

    def newest(self) -> RevocationPageRow | None:
        """Return the newest page, None before the first."""
        with self._database.read() as session:
            return session.scalars(
                select(RevocationPageRow).order_by(RevocationPageRow.sequence.desc()).limit(1)
            ).first()

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
