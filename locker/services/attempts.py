"""Attempts that have no ticket record: refused and failed ones, and auditors' queries; each durable before it is answered.

They are numbered in the ledger with the ticket records, so an auditor reads both as one feed. A caller whose credential is valid
has a row for each document that was refused; one without a valid credential has a row for each attempt, and beyond some a minute
only a count (see ``node.web.floods``).
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert

from locker.db.models import LEDGER, Attempt
from locker.db.prepared import PreparedInsert
from locker.db.session import Database, advance, database_faults
from locker.services.principal import ROLES, Principal
from locker.services.tokens import APPLICANT, Caller, bearer_digest, callers_of
from node.contract.problems import InvalidCredential, MissingCredential, ProblemError, ServiceUnavailable
from node.web.floods import Flood, FloodGate
from node.web.problems import request_id_of

RESOLVE, GATEWAY, OWN, LOG_QUERY = "resolve", "gateway", "own", "log.query"
OPERATIONS = (RESOLVE, GATEWAY, OWN, LOG_QUERY)

ALLOWED, REFUSED, FAILED, COMPLETE = "allowed", "refused", "failed", "complete"
"""As a node's access log has them; a ticket that was issued is ``allowed``, a query that was answered ``complete``."""

AttemptRow = tuple[Any, ...]  # a row's values in the order of the columns, without its position


@dataclass(frozen=True, slots=True)
class Asked:
    """How an attempt came in: what it was for, from which address, under which request id."""

    operation: str
    source: str | None
    request_id: str | None = None

    @classmethod
    def by(cls, scope: Mapping[str, Any], operation: str) -> "Asked":
        """Return how a request came in, from its ASGI scope."""
        client = scope.get("client")
        return cls(operation, str(client[0])[:64] if client else "unknown", request_id_of(scope))


class Attempts:
    """Says what is written of an attempt, and writes what is not part of a batch of tickets."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock
        self._floods = FloodGate()
        self._unwritten: list[Flood] = []
        self._writing_floods = threading.Lock()

    def refuse(
        self,
        asked: Asked,
        caller: Caller | None,
        error: ProblemError,
        now_us: int,
        *,
        uris: Sequence[str] = (),
        **more: str | None,
    ) -> tuple[ProblemError, list[AttemptRow]]:
        """Return what to answer to an attempt, and the rows to write before that; ``caller`` is None for a stranger.

        A credential that was issued and is good no longer is counted by itself, not with the strangers of its address.
        """
        named = list(uris)
        if isinstance(error, MissingCredential | InvalidCredential):
            verdict = self._floods.admit(f"{caller.role} {caller.subject}" if caller else asked.source or "", now_us)
            if verdict.flooded:
                return verdict.problem(), []
            named = named if len(named) == 1 else []
        who = {} if caller is None else {"role": caller.role, "subject": caller.subject}
        outcome = _outcome_of(error)
        return error, [
            _row(asked, outcome, now_us, reason=error.reason, uri=uri, **who, **more) for uri in named or (None,)
        ]

    def refused(self, asked: Asked, authorization: str | None, error: ProblemError) -> ProblemError:
        """Record one refused attempt with the credential that came with it, and return what to answer.

        That is another error in a flood, and ServiceUnavailable when the row cannot be written.
        """
        now_us = self._clock()
        try:
            digest = bearer_digest(authorization)
        except ProblemError:
            digest = ""
        try:
            with database_faults(), self._database.write_connection() as connection:
                caller = callers_of(connection, [digest]).get(digest)
                answer, rows = self.refuse(asked, caller, error, now_us)
                write_attempts(connection, rows)
        except ServiceUnavailable as unwritten:
            return unwritten
        return answer

    def queried(self, asked: Asked, principal: Principal, query: Mapping[str, str], fault: ProblemError | None) -> None:
        """Record that somebody has queried the records, with the filter as asked; raises ServiceUnavailable.

        ``fault`` is why the query was not answered; such a one's filter may be anything and is not kept.
        """
        row = _row(
            asked, COMPLETE if fault is None else _outcome_of(fault), self._clock(),
            reason=None if fault is None else fault.reason, role=principal.role, subject=principal.subject,
            query=None if fault is not None else json.dumps(query, sort_keys=True),
        )  # fmt: skip
        with database_faults(), self._database.write_connection() as connection:
            write_attempts(connection, [row])

    def write_floods(self, now_us: int) -> None:
        """Write the counts of the minutes that are over; one that cannot be written, ServiceUnavailable, is for the next time."""
        with self._writing_floods:  # at the end of a process the last write may meet one that is on its way
            self._unwritten += self._floods.due(now_us)
            if self._unwritten:
                with database_faults(), self._database.write_connection() as connection:
                    write_attempts(connection, [_flood_row(flood) for flood in self._unwritten])
                self._unwritten = []


_INSERT = PreparedInsert(insert(Attempt), Attempt.__table__.columns.keys())


def write_attempts(connection: Connection, rows: Sequence[AttemptRow], first: int | None = None) -> None:
    """Write rows in the caller's transaction, at the next positions or at those that it took from ``first`` on."""
    if rows:
        first = advance(connection, LEDGER, len(rows)) if first is None else first
        _INSERT.run(connection, [(position, *row) for position, row in enumerate(rows, first)])


def _outcome_of(error: ProblemError) -> str:
    return FAILED if error.status >= 500 else REFUSED


def _row(
    asked: Asked,
    outcome: str,
    at_us: int,
    *,
    reason: str | None = None,
    role: str | None = None,
    subject: str | None = None,
    act: str | None = None,
    uri: str | None = None,
    consent_id: str | None = None,
    jti: str | None = None,
    query: str | None = None,
) -> AttemptRow:
    return (
        asked.operation, outcome, reason, role, subject, asked.source, act, uri, consent_id, jti, query, None,
        asked.request_id, at_us,
    )  # fmt: skip


def _flood_row(flood: Flood) -> AttemptRow:
    """Return the row of a count, dated at the minute; it names the credential, or the network that the strangers came from."""
    role, _, subject = flood.source.partition(" ")
    issued = role in (*ROLES, APPLICANT)
    who = (role, subject, None) if issued else (None, None, flood.source)
    return (None, REFUSED, "flood", *who, None, None, None, None, None, flood.count, None, flood.minute_us)
