"""Whether a locker can do its work, each thing with a name and a sentence for the operator."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from locker.config import Settings
from locker.db.migration import SchemaRefused, require_current
from locker.db.session import Database, NotDurable
from locker.keys import KeysRefused, load_keys, load_root
from locker.services.revocations import Revocations
from node.contract.key_revocation import root_fingerprint
from node.contract.times import SECOND

_EARLIEST_US = 1_767_225_600 * SECOND
"""2026-01-01: a clock before it was never set."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


class Readiness:
    """Looks at database, keys, clock and the age of the newest revocation page."""

    def __init__(
        self, settings: Settings, database: Database, revocations: Revocations, clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._database = database
        self._revocations = revocations
        self._clock = clock

    def checks(self) -> list[Check]:
        """Return every check; none raises."""
        return [self._database_durable(), self._schema(), self._keys(), self._root(), self._time(), self._page()]

    def _database_durable(self) -> Check:
        try:
            self._database.require_durable()
        except NotDurable as error:
            return Check("database", False, f"commits would not survive a crash: {error}")
        except SQLAlchemyError as error:
            return Check("database", False, f"the database cannot be reached ({type(error).__name__})")
        return Check("database", True, "commits are durable")

    def _schema(self) -> Check:
        try:
            require_current(self._database)
        except SchemaRefused as error:
            return Check("schema", False, str(error))
        except SQLAlchemyError as error:
            return Check("schema", False, f"the schema cannot be read ({type(error).__name__})")
        return Check("schema", True, "the schema is the newest")

    def _keys(self) -> Check:
        try:
            load_keys(self._settings.keys_path)
        except KeysRefused as error:
            return Check("keys", False, str(error)[:500])
        return Check("keys", True, "every key is there and readable by the service alone")

    def _root(self) -> Check:
        try:
            root = load_root(self._settings.keys_path)
        except KeysRefused as error:
            return Check("root", False, str(error)[:500])
        if root is None:
            return Check(
                "root", True, "there is none, so a stolen key cannot be revoked at the nodes: locker root create"
            )
        return Check(
            "root", True, f"{root_fingerprint(root.key)} is published, and has revoked {len(root.revoked)} keys"
        )

    def _time(self) -> Check:
        now_us = self._clock()
        try:
            page = self._revocations.newest()
        except SQLAlchemyError:
            page = None
        if now_us < _EARLIEST_US:
            return Check("clock", False, "the clock was never set")
        if page is not None and now_us < page.issued_us - 5 * SECOND:
            behind = (page.issued_us - now_us) // SECOND
            return Check("clock", False, f"the clock is {behind} s behind the newest revocation page: it was put back")
        return Check("clock", True, "the clock goes forward")

    def _page(self) -> Check:
        try:
            page = self._revocations.newest()
        except SQLAlchemyError as error:
            return Check("revocation-page", False, f"the pages cannot be read ({type(error).__name__})")
        if page is None:
            return Check(
                "revocation-page", False, "no page has been published; the job process publishes the first one"
            )
        age = (self._clock() - page.issued_us) // SECOND
        if self._clock() >= page.next_update_us:
            return Check(
                "revocation-page", False, f"the newest page is {age} s old and overdue: is the job process running?"
            )
        return Check("revocation-page", True, f"the newest page is {age} s old")
