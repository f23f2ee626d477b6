"""Pulls: a locker asks for the document that a resident described; the node answers with its URI, ``pending`` or ``no``.

``no`` for a wrong number and ``no`` for the wrong person are the same bytes after the same statements. Each try is counted in
the transaction that answers, so two processes cannot give more tries together than one.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from node.contract.holders import Holder, InvalidHolder
from node.contract.problems import Conflict, OutOfScope, TooManyRequests, UnacceptableContent
from node.contract.sealing import CannotOpen, OpeningKey
from node.contract.times import HOUR, SECOND
from node.services.access import LockerScope
from node.services.matching import Candidate, Described, MatchRule, Verdict, best, parameter_hash
from node.services.ports import DocTypeRecord

WINDOW = HOUR
"""Microseconds for which tries are counted together."""
KEPT = 24 * HOUR
"""Microseconds for which the same transaction gets the same answer."""


class PullTransaction(Protocol):
    """What one pull reads and writes; all of it in one transaction of the database."""

    def doc_type(self, issuer: str, doc_type: str) -> DocTypeRecord | None:
        """Return a document type hosted here, by names in any case."""

    def earlier(self, iss: str, txn: str) -> tuple[str, str] | None:
        """Return request hash and answer of a transaction that was answered before."""

    def count_try(self, subject: str, window_us: int, limit: int) -> bool:
        """Count a try unless ``limit`` are counted already; False then."""

    def candidates(self, record: DocTypeRecord, hashes: Mapping[str, str]) -> Sequence[Candidate]:
        """Return documents of a type, not revoked, that have all these parameter hashes: one statement, oldest first."""

    def keep(self, iss: str, txn: str, request_hash: str, answer: str, now_us: int) -> bool:
        """Store the answer; False when another process has answered the same transaction meanwhile."""

    def add_pending(self, document_id: str, iss: str, resident_ref: str, now_us: int) -> None:
        """Put a near match before an officer, once for each document and resident."""

    def link(self, iss: str, document_id: str, holder_ref: str) -> None:
        """Note the reference by which a locker names the holder, unless one of its own is known."""


class PullRecords(Protocol):
    """Where pulls are kept."""

    def transaction(self) -> AbstractContextManager[PullTransaction]:
        """Open a transaction; it commits when the block ends without an error."""


@dataclass(frozen=True, slots=True)
class PullLimits:
    """How many tries an hour one resident, and all residents together at one issuer, have."""

    per_resident: int
    per_issuer: int


class _AnsweredMeanwhile(Exception):
    """Another process has answered the same transaction; ours is undone."""


class PullService:
    """Answers pulls whose signature has been checked."""

    def __init__(
        self, records: PullRecords, *, hash_key: bytes, opening: OpeningKey, limits: PullLimits,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        """``hash_key`` is that of holders and parameters, ``opening`` the key published for sealed identifiers."""
        self._records = records
        self._hash_key = hash_key
        self._opening = opening
        self._limits = limits
        self._clock = clock

    def pull(self, locker: LockerScope, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``txn``, ``outcome`` and, when matched, ``uri`` for a request as the specification has it.

        Raises OutOfScope for an issuer or type that the locker does not serve here, UnacceptableContent for parameters or
        identifiers that cannot be used, Conflict for a ``txn`` used for another request, TooManyRequests.
        """
        _require_served(locker, request["issuer"], request["doc_type"])
        described, fingerprint = self._read(request)
        while True:
            try:
                with self._records.transaction() as records:
                    return self._answer(records, locker.iss, request, described, fingerprint)
            except _AnsweredMeanwhile:
                continue  # its answer is found now

    def _answer(
        self, records: PullTransaction, iss: str, request: Mapping[str, Any], described: Described, fingerprint: str
    ) -> dict[str, Any]:
        earlier = records.earlier(iss, request["txn"])
        if earlier is not None:
            return _repeat(earlier, fingerprint)
        record = records.doc_type(request["issuer"], request["doc_type"])
        if record is None:
            raise UnacceptableContent("no such document type can be searched here", reason="unknown-doc-type")
        hashes = self._hashes(record, request["parameters"])
        now_us = self._clock()
        self._count(records, iss, request, now_us)
        candidates = records.candidates(record, hashes)
        verdict, found = best(MatchRule.from_json(record.match_rule), candidates, described)
        answer = _outcome(request["txn"], verdict, found)
        resident_ref = request["resident"]["resident_ref"]
        if verdict is Verdict.MATCH:
            records.link(iss, found.document_id, resident_ref)
        elif verdict is Verdict.NEAR:
            records.add_pending(found.document_id, iss, resident_ref, now_us)
        if not records.keep(iss, request["txn"], fingerprint, json.dumps(answer, sort_keys=True), now_us):
            raise _AnsweredMeanwhile
        return answer

    def _read(self, request: Mapping[str, Any]) -> tuple[Described, str]:
        """Return what is said of the resident, and a keyed hash of the whole request; clear values go no further."""
        holders = [self._holder(row, request["txn"]) for row in request["holders"]]
        hashes = sorted(holder.keyed_hash(self._hash_key) for holder in holders)
        attributes = request["resident"]["attributes"]
        described = Described(
            frozenset(hashes), {name: (row["value"], row["source"]) for name, row in attributes.items()}
        )
        # Sealing twice gives two texts, so the opened values count, not what was sent.
        whole = [request["issuer"], request["doc_type"], request["parameters"], request["resident"], hashes]
        message = json.dumps(whole, sort_keys=True).encode("ascii")
        return described, hmac.new(self._hash_key, b"pull\x00" + message, hashlib.sha256).hexdigest()

    def _holder(self, row: Mapping[str, Any], txn: str) -> Holder:
        try:
            if row.get("sealed") is None:
                return Holder.parse(row["scheme"], row.get("value") or "")
            if row.get("key_id") != self._opening.kid:
                raise UnacceptableContent(
                    "an identifier is sealed to a key that is not this node's", reason="other-key"
                )
            return Holder.parse(row["scheme"], self._opening.open(row["sealed"], txn).decode("utf-8"))
        except (CannotOpen, InvalidHolder, UnicodeDecodeError):
            # The cause is cut off: a decoding error carries the bytes.
            raise UnacceptableContent("an identifier cannot be used", reason="bad-identifier") from None

    def _hashes(self, record: DocTypeRecord, given: Mapping[str, str]) -> dict[str, str]:
        declared = {row["name"]: bool(row.get("required")) for row in record.search_parameters}
        filled = {name: value for name, value in given.items() if value.strip()}
        missing = any(required and name not in filled for name, required in declared.items())
        if missing or not filled or not filled.keys() <= declared.keys():
            raise UnacceptableContent(
                "fill in the search parameters that the document type declares", reason="bad-parameters"
            )
        return {name: parameter_hash(self._hash_key, name, value) for name, value in filled.items()}

    def _count(self, records: PullTransaction, iss: str, request: Mapping[str, Any], now_us: int) -> None:
        window_us = now_us - now_us % WINDOW
        resident = _subject("resident", iss, request["resident"]["resident_ref"])
        issuer = _subject("issuer", iss, request["issuer"].lower())
        left = records.count_try(resident, window_us, self._limits.per_resident)
        if not (left and records.count_try(issuer, window_us, self._limits.per_issuer)):
            seconds = (window_us + WINDOW - now_us) // SECOND + 1
            raise TooManyRequests("too many searches; try again later", headers={"Retry-After": str(seconds)})


def _require_served(locker: LockerScope, issuer: str, doc_type: str) -> None:
    if locker.state != "active" or not locker.covers(issuer, doc_type):
        raise OutOfScope(reason="locker-out-of-scope")


def _repeat(earlier: tuple[str, str], fingerprint: str) -> dict[str, Any]:
    request_hash, answer = earlier
    if not hmac.compare_digest(request_hash, fingerprint):
        raise Conflict("this transaction was used for another request", reason="other-request")
    repeated: dict[str, Any] = json.loads(answer)
    return repeated


def _outcome(txn: str, verdict: Verdict, found: Candidate) -> dict[str, Any]:
    if verdict is Verdict.MATCH:
        return {"txn": txn, "outcome": "matched", "uri": found.uri}
    return {"txn": txn, "outcome": "pending" if verdict is Verdict.NEAR else "no"}


def _subject(kind: str, iss: str, name: str) -> str:
    digest = hashlib.sha256(f"{iss}\x00{name}".encode()).hexdigest()
    return f"{kind}:{digest}"
