"""Pushing: batches from the outbox to a locker, a result for each row, and the locker's later news of who a document belongs to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import urlencode

from node.contract.problems import ProblemError
from node.services.locker_client import LockerClient, LockerEndpoints, LockerFault, endpoint_of
from node.services.ports import CatalogueDocument

BATCH = 500
LINKS_PAGE = 500
OUTCOMES = ("linked", "pending", "withdrawn", "unchanged", "refused")
LONGEST_REF = 128
_GONE = {"title": "The document is no longer in the catalogue", "status": 404}


class SealedHolder(Protocol):
    """A holder's value on its way."""

    @property
    def scheme(self) -> str:
        """The holder's scheme."""

    @property
    def last4(self) -> str:
        """What may be shown."""

    @property
    def key_id(self) -> str:
        """The key that the value is sealed to."""

    @property
    def sealed(self) -> str:
        """The sealed value."""


class DueRow(Protocol):
    """An announcement whose time has come."""

    @property
    def row_id(self) -> str:
        """What makes sending it twice harmless."""

    @property
    def revision(self) -> int:
        """The document's revision that it announces."""

    @property
    def kind(self) -> str:
        """``add``, ``change`` or ``withdraw``."""

    @property
    def document(self) -> CatalogueDocument | None:
        """What the catalogue says now."""

    @property
    def seal(self) -> SealedHolder | None:
        """The holder, unless the locker has it already."""


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a locker said of a row; ``problem`` is its reason for refusing."""

    row_id: str
    outcome: str
    holder_ref: str | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A document came to be a resident's, or no longer is; ``position`` is that of the locker's feed."""

    position: int
    uri: str
    outcome: str
    holder_ref: str | None


class PushedLocker(LockerEndpoints, Protocol):
    """A locker as the outbox sees it; times are microseconds UTC."""

    @property
    def state(self) -> str:
        """``active`` when it may be pushed to."""

    @property
    def announced_after(self) -> str | None:
        """None once every document that was here before it has been queued."""

    @property
    def links_after(self) -> int:
        """How far its feed of links is known."""

    @property
    def push_failures(self) -> int:
        """Failures one after the other."""

    @property
    def push_next_us(self) -> int:
        """Until when it is left alone."""


class Outbox(Protocol):
    """Where announcements wait; each call is one transaction."""

    def locker(self, iss: str) -> PushedLocker | None:
        """Return a locker."""

    def announce_page(self, iss: str) -> bool:
        """Queue some of the documents that were here before a locker; False when none are left."""

    def due(self, iss: str, limit: int) -> Sequence[DueRow]:
        """Return rows that may be sent now, at most ``limit``."""

    def settle(self, iss: str, sent: Sequence[Any], results: Sequence[RowResult]) -> None:
        """Store what the locker said."""

    def postpone(self, iss: str) -> None:
        """Leave a locker alone for a while that grows with each failure."""

    def take_links(self, iss: str, changes: Sequence[LinkChange], after: int) -> None:
        """Store who documents belong to, and how far the feed is known."""


@dataclass(frozen=True, slots=True)
class PushReport:
    """What one push did; ``more`` says that further rows are due, ``failure`` why the locker could not be reached."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    more: bool = False
    failure: str | None = None


class Push:
    """Pushes to lockers."""

    def __init__(self, client: LockerClient, outbox: Outbox, *, clock: Callable[[], int], batch: int = BATCH) -> None:
        self._client = client
        self._outbox = outbox
        self._clock = clock
        self._batch = batch

    def push_once(self, iss: str) -> PushReport:
        """Send one batch to a locker if it is active, its time has come and something is due.

        A locker that cannot be reached, or answers with rubbish, is left alone for a while; its rows wait. Raises nothing of that.
        """
        locker = self._outbox.locker(iss)
        if locker is None or locker.state != "active" or locker.push_next_us > self._clock():
            return PushReport()
        more = locker.announced_after is not None and self._outbox.announce_page(iss)
        rows = self._outbox.due(iss, self._batch)
        if not rows:
            return PushReport(more=more)
        try:
            results = self._send(locker, rows)
        except (LockerFault, ProblemError) as error:
            self._outbox.postpone(iss)
            return PushReport(sent=len(rows), failure=_reason(error))
        self._outbox.settle(iss, rows, results)
        refused = sum(result.outcome == "refused" for result in results)
        # What was settled may have let a later row of the same document through.
        return PushReport(len(rows), len(results) - refused, refused, more or bool(results))

    def push_all(self, iss: str, on_batch: Callable[[PushReport], None] | None = None) -> PushReport:
        """Send batch after batch until nothing more is due or the locker fails, and return the sum."""
        total = PushReport(more=True)
        while total.more:
            report = self.push_once(iss)
            total = replace(
                report, sent=total.sent + report.sent, acknowledged=total.acknowledged + report.acknowledged,
                refused=total.refused + report.refused,
            )  # fmt: skip
            if on_batch:
                on_batch(total)
        return total

    def follow_links(self, iss: str) -> int:
        """Take one page of a locker's news of links, for a locker that has them, and return how many there were."""
        locker = self._outbox.locker(iss)
        if locker is None or locker.state != "active" or "links" not in locker.endpoints:
            return 0
        query = urlencode({"after": locker.links_after, "limit": LINKS_PAGE})
        answer = self._client.call(locker, "GET", f"{endpoint_of(locker, 'links')}?{query}")
        changes = _link_changes(answer, locker.links_after)
        if changes:
            self._outbox.take_links(iss, changes, changes[-1].position)
        return len(changes)

    def _send(self, locker: PushedLocker, rows: Sequence[DueRow]) -> list[RowResult]:
        """Send rows; a batch that is refused as a whole for its form or size is halved until the row at fault stands alone."""
        known = [row for row in rows if row.document is not None]
        if len(known) < len(rows):
            gone = [RowResult(row.row_id, "refused", problem=_GONE) for row in rows if row.document is None]
            return gone + (self._send(locker, known) if known else [])
        body = {"rows": [announcement(row) for row in rows]}
        try:
            answer = self._client.call(locker, "POST", endpoint_of(locker, "push"), body)
        except LockerFault as fault:
            if fault.status not in (400, 413, 422):
                raise
            if len(rows) == 1:
                return [RowResult(rows[0].row_id, "refused", problem={**fault.problem, "status": fault.status})]
            half = len(rows) // 2
            return self._send(locker, rows[:half]) + self._send(locker, rows[half:])
        return _results(answer, rows)


def announcement(row: DueRow) -> dict[str, Any]:
    """Return an outbox row as the locker's contract has it."""
    document = row.document
    if document is None:
        raise LookupError("an outbox row outlives its document")
    told: dict[str, Any] = {
        "row_id": row.row_id, "kind": row.kind, "uri": str(document.uri), "revision": row.revision,
    }  # fmt: skip
    if row.kind == "withdraw":
        return told
    holder = row.seal and {
        "scheme": row.seal.scheme, "sealed": row.seal.sealed, "key_id": row.seal.key_id, "last4": row.seal.last4,
    }  # fmt: skip
    return {**told, "document": _described(document), "holder": holder}


def _described(document: CatalogueDocument) -> dict[str, Any]:
    placements = document.of_version(document.current_version)
    languages = {placement.language for placement in placements}
    return {
        "title": document.title, "language": languages.pop() if len(languages) == 1 else None,
        "issued_on": document.issued_on, "expires_on": document.expires_on, "status": document.status,
        "version": document.current_version,
        "representations": [
            {
                "media_type": placement.media_type, "language": placement.language, "size": placement.size,
                "sha256": placement.sha256,
            }
            for placement in placements
        ],
    }  # fmt: skip


def _results(answer: Mapping[str, Any], rows: Sequence[DueRow]) -> list[RowResult]:
    """Read a batch's results; those of rows that were not sent, or of another form, are passed over and their rows wait."""
    listed = answer.get("results")
    if not isinstance(listed, list):
        raise LockerFault("the locker's answer to a push has no results")
    sent = {row.row_id for row in rows}
    return [result for item in listed if (result := _result(item)) is not None and result.row_id in sent]


def _result(item: Any) -> RowResult | None:
    if not isinstance(item, dict) or item.get("outcome") not in OUTCOMES or not isinstance(item.get("row_id"), str):
        return None
    problem = item.get("problem")
    return RowResult(
        item["row_id"], item["outcome"], _reference(item.get("holder_ref")),
        problem if isinstance(problem, dict) else None,
    )  # fmt: skip


def _reference(value: Any) -> str | None:
    good = isinstance(value, str) and 0 < len(value) <= LONGEST_REF and value.isascii() and value.isprintable()
    return value if good else None


def _link_changes(answer: Mapping[str, Any], after: int) -> list[LinkChange]:
    listed = answer.get("rows")
    if not isinstance(listed, list):
        raise LockerFault("the locker's answer has no link changes")
    changes: list[LinkChange] = []
    for item in listed:
        position, uri = (item.get("position"), item.get("uri")) if isinstance(item, dict) else (None, None)
        if type(position) is not int or position <= after or not isinstance(uri, str):
            raise LockerFault("the locker's links are not in order")
        after = position
        changes.append(LinkChange(position, uri, str(item.get("outcome")), _reference(item.get("holder_ref"))))
    return changes


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ProblemError) else str(error)
