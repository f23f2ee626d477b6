"""Following a locker: its public keys, and its revocation list page by page.

A page is taken only when it is the one right after the page known, so a gap, a fork and a replayed older page are refused and
counted, and what is known stays as it is. A list that is held back shows by its age. When the key that signed a page was revoked, the
list is begun anew at the horizon that the newest page names, as a node does that knows none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from node.contract.problems import ProblemError
from node.contract.revocation import HORIZON_AGE, PageRefused, RevocationEntry, RevocationPage, page_digest, verify_page
from node.contract.signing import MAX_REVOCATION_PAGE, KeySet, SignatureRefused, read_header
from node.contract.times import MINUTE
from node.services.locker_client import LockerClient, LockerEndpoints, LockerFault, endpoint_of
from node.services.locker_roots import NONE_SHOWN, LockerRoot, RootRefused, require_root
from node.services.registration import LockerDescription, describe_locker
from node.services.verifying import stored_keys

log = structlog.get_logger()

KEY_INTERVAL = MINUTE
"""Microseconds between two looks at a locker's keys, whatever asks for them."""
MOST_PAGES = 500
LONGEST_CONSENT_ID = 512

_Signed = tuple[RevocationPage, str, str]
"""A page whose signature holds, its digest, and the key that signed it."""


class FollowedLocker(LockerEndpoints, Protocol):
    """A locker as far as its keys and list go; times are microseconds UTC."""

    @property
    def base_url(self) -> str:
        """Its address."""

    @property
    def state(self) -> str:
        """``active`` when it is trusted."""

    @property
    def jwks(self) -> str:
        """Its public keys, as JSON text."""

    @property
    def revoked_keys(self) -> str:
        """Those that its root has revoked, a JSON list."""

    @property
    def list_kid(self) -> str | None:
        """The key that signed the newest page known."""

    @property
    def list_sequence(self) -> int:
        """The number of the newest page known, 0 before the first."""

    @property
    def list_digest(self) -> str | None:
        """That page's digest."""

    @property
    def list_issued_us(self) -> int:
        """When it was made."""


class ListRecords(Protocol):
    """Where keys and lists are kept; each call is one transaction."""

    def find(self, iss: str) -> FollowedLocker | None:
        """Return a locker."""

    def claim_key_fetch(self, iss: str, now_us: int, interval_us: int) -> bool:
        """Take the right to fetch a locker's keys, which is given once in an interval to all processes together."""

    def save(
        self, *, iss: str, base_url: str, jwks: str, encryption_key: str, endpoints: Mapping[str, str], now_us: int
    ) -> None:
        """Bring keys and addresses up to date."""

    def take_page(
        self, before: Any, *, sequence: int, digest: str, issued_us: int, next_update_us: int,
        entries: Sequence[RevocationEntry], prune_before_us: int, kid: str | None = None,
    ) -> bool:  # fmt: skip
        """Note a page; False when another process has taken one meanwhile."""

    def root(self, iss: str) -> LockerRoot | None:
        """Return what is known of a locker's root."""

    def note_root(self, iss: str, offered: str | None) -> None:
        """Note what a locker shows as its root when that is not the pinned one."""

    def refuse_page(self, iss: str, reason: str) -> None:
        """Count a page that could not be taken."""


@dataclass(frozen=True, slots=True)
class ListReport:
    """What following did: pages taken, and the reason when one was refused."""

    taken: int = 0
    refused: str | None = None


class LockerLists:
    """Keeps keys and revocation lists of lockers up to date."""

    def __init__(self, client: LockerClient, records: ListRecords, *, clock: Callable[[], int]) -> None:
        self._client = client
        self._records = records
        self._clock = clock

    def refresh_keys(self, iss: str) -> bool:
        """Fetch a locker's keys and addresses, at most once a minute, and tell whether its keys have changed.

        Raises RootRefused, LockerFault or the HTTP client's errors; what is known stays then.
        """
        locker = self._records.find(iss)
        now_us = self._clock()
        if locker is None or not self._records.claim_key_fetch(iss, now_us, KEY_INTERVAL):
            return False
        described = describe_locker(self._client, locker.base_url)
        self._look_at_root(iss, described)
        self._records.save(
            iss=iss, base_url=locker.base_url, jwks=described.jwks, encryption_key=described.encryption_key,
            endpoints=described.endpoints, now_us=now_us,
        )  # fmt: skip
        return described.jwks != locker.jwks

    def _look_at_root(self, iss: str, described: LockerDescription) -> None:
        """Note a root that is not the pinned one, and raise RootRefused for it; one is pinned only by registering."""
        known = self._records.root(iss) or LockerRoot()
        shown = described.root or NONE_SHOWN
        offered = None if shown == (known.pinned or NONE_SHOWN) else shown
        if offered != known.offered:
            self._records.note_root(iss, offered)
        require_root(iss, known, described.root)

    def try_refresh_keys(self, iss: str) -> bool:
        """Do as ``refresh_keys`` does, and take a locker that cannot be reached for one whose keys have not changed."""
        try:
            return self.refresh_keys(iss)
        except RootRefused:
            log.error("a locker shows another root than the pinned one", iss=iss)
        except (LockerFault, ProblemError) as error:
            log.warning("a locker's keys could not be fetched", iss=iss, error=type(error).__name__)
        return False

    def follow(self, iss: str) -> ListReport:
        """Take the pages that a locker has published since the one known.

        Raises LockerFault or the HTTP client's errors when the locker cannot be reached; a refused page is reported, not raised.
        """
        locker = self._records.find(iss)
        if locker is None:
            return ListReport()
        taken = 0
        try:
            latest = self._page(locker, "latest")
            if latest is None:
                _require_nothing_known(locker)
                return ListReport()
            anew = _begins_anew(locker, latest[0])
            for number in _numbers(locker, latest, anew):
                page = latest if number == latest[0].sequence else self._numbered(locker, number)
                if not self._take(locker, page, anew):
                    break
                taken, anew = taken + 1, False
                locker = self._records.find(iss) or locker
            _require_same_head(locker, latest)
        except (PageRefused, SignatureRefused) as refused:
            self._records.refuse_page(iss, refused.reason)
            return ListReport(taken, refused.reason)
        return ListReport(taken)

    def _take(self, locker: FollowedLocker, signed: _Signed, anew: bool) -> bool:
        page, digest, kid = signed
        if locker.list_digest is not None and not anew:
            page.require_follows(locker.list_sequence, locker.list_digest, locker.list_issued_us)
        # No ticket names a longer consent, so such an entry could not concern one.
        entries = [entry for entry in page.entries if len(entry.consent_id) <= LONGEST_CONSENT_ID]
        return self._records.take_page(
            locker, sequence=page.sequence, digest=digest, issued_us=page.issued_us,
            next_update_us=page.next_update_us, entries=entries, prune_before_us=self._clock() - HORIZON_AGE, kid=kid,
        )  # fmt: skip

    def _numbered(self, locker: FollowedLocker, number: int) -> _Signed:
        signed = self._page(locker, str(number))
        if signed is None or signed[0].sequence > number:
            raise PageRefused(reason="gap")
        if signed[0].sequence < number:
            raise PageRefused(reason="rollback")
        return signed

    def _page(self, locker: FollowedLocker, name: str) -> _Signed | None:
        """Return a page whose signature holds, its digest and its key; None when there is none under this name."""
        address = f"{endpoint_of(locker, 'revocations')}/{name}"
        content = self._client.fetch(address, accept="application/jwt", most_bytes=MAX_REVOCATION_PAGE)
        if content is None:
            return None
        try:
            token = content.decode("ascii").strip()
        except UnicodeDecodeError:
            raise PageRefused(reason="malformed-claims") from None
        page = self._verified(locker, token)
        if page.iss != locker.iss:
            raise PageRefused(reason="other-locker")
        return page, page_digest(token), str(read_header(token, max_size=MAX_REVOCATION_PAGE).get("kid"))

    def _verified(self, locker: FollowedLocker, token: str) -> RevocationPage:
        try:
            return verify_page(token, _keys(locker))
        except SignatureRefused as refused:
            if refused.reason != "unknown-key" or not self.try_refresh_keys(locker.iss):
                raise
        return verify_page(token, _keys(self._records.find(locker.iss) or locker))


def _keys(locker: FollowedLocker) -> KeySet:
    try:
        return stored_keys(locker.jwks, locker.revoked_keys)
    except ValueError as error:
        raise LockerFault("the locker's stored keys cannot be read") from error


def _begins_anew(locker: FollowedLocker, newest: RevocationPage) -> bool:
    """Tell whether to begin at the newest page's horizon, because a key that signed what is known, or what lies between, was revoked.

    What a thief of the key may have had this node take is left behind with it; entries before the horizon concern no living ticket.
    """
    revoked = json.loads(locker.revoked_keys)
    return locker.list_kid in revoked or (bool(revoked) and newest.horizon > locker.list_sequence + 1)


def _numbers(locker: FollowedLocker, latest: _Signed, anew: bool) -> range:
    """Return which pages to take: those after the one known, or from the horizon on when none is, or none that counts."""
    page = latest[0]
    known = locker.list_digest is not None and not anew
    if known and page.sequence < locker.list_sequence:
        raise PageRefused(reason="rollback")
    first = locker.list_sequence + 1 if known else page.horizon
    return range(first, min(page.sequence, first + MOST_PAGES - 1) + 1)


def _require_same_head(locker: FollowedLocker, latest: _Signed) -> None:
    """Raise PageRefused when the newest page known and the newest published have one number and are not the same."""
    page, digest, _ = latest
    if locker.list_sequence == page.sequence and locker.list_digest != digest:
        raise PageRefused(reason="broken-link")


def _require_nothing_known(locker: FollowedLocker) -> None:
    if locker.list_digest is not None:
        raise PageRefused(reason="rollback")
