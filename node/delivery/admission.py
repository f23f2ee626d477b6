"""Admission: every read waits here for its log row.

One thread takes all that is waiting: a look-up for all documents, the pure decision for each, one insert of all rows, one
commit, one wake-up of the loop. Refused requests go the same way, so nothing that was attempted is missing from the log.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from node.contract.identifiers import uuid7
from node.contract.problems import DocumentNotFound, InvalidCredential, LogUnavailable, ProblemError, as_problem
from node.contract.signing import looks_like_jws
from node.contract.tickets import Ticket
from node.contract.uri import DocumentURI, IssuerDirectory, could_be_uri
from node.db.audit_log import append_events, written_events
from node.db.catalogue import find_documents, issuer_directory
from node.db.lockers import LockerRow, locker_rows, void_moments
from node.db.processes import declared_dead
from node.db.session import Database
from node.db.tokens import find_tokens, token_hash
from node.delivery.answers import AnswerPlan, plan_answer
from node.delivery.small_reads import SMALL, SmallRead
from node.services import access
from node.services.access import LockerScope, NodeRules, Principal, TokenGrant
from node.services.audit import PHASE_END, Action, encode_event
from node.services.events import Caller, attempt, given, refusal
from node.services.floods import counted_as
from node.services.ports import CatalogueDocument
from node.services.verifying import PublishedKeys, TicketVerifier, bearer_credential
from node.web.floods import FloodGate

log = structlog.get_logger()

MOST_KEPT = 10_000
"""Ends of reads that are kept while the database is away."""


@dataclass(frozen=True, slots=True)
class ReadWork:
    """A GET or HEAD that asks to be admitted; header names are lower-case."""

    uri_text: str
    method: str
    headers: Mapping[str, str]
    caller: Caller


@dataclass(frozen=True, slots=True)
class PutWork:
    """A PUT that asks who it is; only its refusal is logged here, its success with the document's own transaction."""

    uri_text: str
    headers: Mapping[str, str]
    caller: Caller


@dataclass(frozen=True, slots=True)
class EventWork:
    """An event to be written with the next batch; without fields it only has written what is kept."""

    fields: Mapping[str, Any]


Work = ReadWork | PutWork | EventWork


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted read: what to answer, and the durable row's fields, to which the second row refers.

    ``small`` is the reading of a small body, which has begun already.
    """

    document: CatalogueDocument
    plan: AnswerPlan
    begun: Mapping[str, Any]
    small: SmallRead | None = None


@dataclass(frozen=True, slots=True)
class PutAllowed:
    """A PUT whose caller may write this URI."""

    uri: DocumentURI
    principal: Principal
    attempt: Mapping[str, Any]


Result = Admitted | PutAllowed | None


@dataclass(slots=True)
class _Facts:
    """What one batch needs to know, read in its transaction."""

    documents: dict[str, CatalogueDocument]
    tokens: dict[str, TokenGrant]
    lockers: dict[str, LockerRow]
    void: dict[tuple[str, str], int]
    directory: IssuerDirectory | None = None


@dataclass(slots=True)
class _Credential:
    """A request's credential as far as it could be read before the database was asked."""

    token_hash: str | None = None
    jws: str | None = None
    iss: str | None = None
    ticket: Ticket | None = None
    error: ProblemError | None = None


class Admission:
    """Decides and logs batches of work on one database connection; ``process`` runs in the admission thread alone."""

    def __init__(
        self,
        database: Database,
        rules: NodeRules,
        limits: Mapping[str, LockerScope],
        floods: FloodGate,
        clock: Callable[[], int],
        read_small: Callable[[Sequence[SmallRead]], None],
        on_unknown_key: Callable[[str], None] = lambda _iss: None,
        register: Callable[[Connection], None] = lambda _connection: None,
    ) -> None:
        """``limits`` are the settings' limits by locker; none at all leave a registered locker to its registration.

        ``read_small`` begins to read small bodies, whose rows are not durable yet; it must return at once.
        ``on_unknown_key`` is told of a registered locker whose token names a key that is not known; it must return at once.
        ``register`` notes the process whose reads these are, in the transaction of the first rows that are written: there is no
        read of an unknown process, and a process that starts while the database is away need not end for it.
        """
        self._database = database
        self._kept_connection = database.kept()
        self._rules = rules
        self._limits = limits
        self._floods = floods
        self._clock = clock
        self._read_small = read_small
        self._on_unknown_key = on_unknown_key
        self._register = register
        self._registered = False
        self._verifier = TicketVerifier()
        self._kept: list[Mapping[str, Any]] = []
        self.failing = False

    def process(self, batch: Sequence[Work]) -> list[Result | BaseException]:
        """Return a result or a problem for each piece of work, once all their rows are durable."""
        try:
            results = self._process_together(batch)
        except OperationalError as error:
            self._keep_ends(batch)
            raise self._unavailable(error) from error
        except Exception as error:
            if len(batch) == 1:
                raise self._unavailable(error) from error
            # One piece of work that cannot be written must not take the others with it.
            log.error("batch_taken_apart", error=type(error).__name__, size=len(batch))
            return [self._process_alone(work) for work in batch]
        self.failing = False
        return results

    def close(self) -> None:
        """Give the database connection back."""
        self._kept_connection.close()

    def _process_together(self, batch: Sequence[Work]) -> list[Result | BaseException]:
        now_us = self._clock()
        small: list[SmallRead] = []
        try:
            with self._database.writing(self._kept_connection) as connection:
                if not self._registered:
                    self._register(connection)
                results, events = self._decide_all(connection, batch, now_us)
                small = [row.small for row in results if isinstance(row, Admitted) and row.small]
                # Read while the rows are written: nothing is sent before this transaction has committed.
                self._read_small(small)
                kept = _not_written(connection, self._kept)
                events = _without_ends_of_the_dead(connection, [*kept, *events])
                append_events(connection, [encode_event(fields, now_us) for fields in events])
        except BaseException:
            for read in small:
                read.content.cancel()
            raise
        self._kept.clear()
        self._registered = True
        return results

    def _keep_ends(self, batch: Sequence[Work]) -> None:
        """Keep how reads ended while the database is away, so that they are not taken for interrupted later."""
        ends = [work.fields for work in batch if isinstance(work, EventWork) and work.fields.get("phase") == PHASE_END]
        self._kept.extend(ends[: MOST_KEPT - len(self._kept)])

    def _process_alone(self, work: Work) -> Result | BaseException:
        try:
            return self.process([work])[0]
        except LogUnavailable as error:
            return error

    def _unavailable(self, error: Exception) -> LogUnavailable:
        self.failing = True
        log.error("log_unavailable", error=type(error).__name__)
        return LogUnavailable(headers={"Retry-After": "5"})

    def _decide_all(
        self, connection: Connection, batch: Sequence[Work], now_us: int
    ) -> tuple[list[Result | BaseException], list[Mapping[str, Any]]]:
        results: list[Result | BaseException] = []
        events: list[Mapping[str, Any]] = []
        credentials = [None if isinstance(work, EventWork) else self._read_credential(work) for work in batch]
        facts = self._look_up(connection, batch, [item for item in credentials if item is not None])
        for work, credential in zip(batch, credentials, strict=True):
            if isinstance(work, EventWork):
                results.append(None)
                if work.fields:
                    events.append(work.fields)
            elif credential is not None:
                result, fields = self._decide(connection, work, credential, facts, now_us)
                results.append(result)
                if fields is not None:
                    events.append(fields)
        return results, events

    def _read_credential(self, work: ReadWork | PutWork) -> _Credential:
        found = _Credential()
        try:
            credential = bearer_credential(work.headers.get("authorization"))
            if credential is None:
                return found
            if looks_like_jws(credential):
                found.jws, found.iss = credential, self._verifier.claimed_issuer(credential)
            else:
                found.token_hash = token_hash(credential)
        except ProblemError as error:
            found.error = error
        return found

    def _look_up(self, connection: Connection, batch: Sequence[Work], credentials: Sequence[_Credential]) -> _Facts:
        texts = {work.uri_text for work in batch if isinstance(work, ReadWork | PutWork)}
        keys = {text.lower() for text in texts if could_be_uri(text)}
        facts = _Facts(
            documents=find_documents(connection, keys),
            tokens=find_tokens(connection, {item.token_hash for item in credentials if item.token_hash}),
            lockers=locker_rows(connection, {item.iss for item in credentials if item.iss}),
            void={},
        )
        for item in credentials:
            if item.jws is not None and item.iss is not None:
                self._verify(item, facts.lockers.get(item.iss))
        tickets = [item.ticket for item in credentials if item.ticket]
        facts.void = void_moments(connection, {(row.iss, row.consent_id) for row in tickets if row.consent_id})
        return facts

    def _verify(self, credential: _Credential, locker: LockerRow | None) -> None:
        published = PublishedKeys(locker.iss, locker.jwks, locker.revoked_keys) if locker else None
        try:
            credential.ticket = self._verifier.verify(credential.jws or "", published)
        except ProblemError as error:
            credential.error = error
            if locker is not None and error.reason == "unknown-key":
                self._on_unknown_key(locker.iss)

    def _decide(
        self, connection: Connection, work: ReadWork | PutWork, credential: _Credential, facts: _Facts, now_us: int
    ) -> tuple[Result | BaseException, Mapping[str, Any] | None]:
        principal = _principal(credential, facts)
        document = facts.documents.get(work.uri_text.lower())
        fields = attempt(
            _action(work), work.caller, read_id=uuid7(), uri_text=work.uri_text,
            uri=document.uri if document else None, principal=principal, document=document,
        )  # fmt: skip
        try:
            uri = self._require_allowed(connection, work, credential, principal, document, facts, now_us)
            if isinstance(work, PutWork):
                return PutAllowed(uri, principal, fields), None
            return self._answer(work, principal, document, fields, now_us)
        except ProblemError as error:
            return self._refuse(error, fields, now_us)
        except Exception as error:
            log.error("admission_fault", error=type(error).__name__, request_id=work.caller.request_id)
            return self._refuse(as_problem(error), fields, now_us)

    def _require_allowed(
        self, connection: Connection, work: ReadWork | PutWork, credential: _Credential, principal: Principal,
        document: CatalogueDocument | None, facts: _Facts, now_us: int,
    ) -> DocumentURI:  # fmt: skip
        """Judge the credential before the document, so that nobody learns which URIs exist without one."""
        if credential.error is not None:
            raise credential.error
        if credential.token_hash is not None and principal.token is None:
            raise InvalidCredential(reason="unknown-token")
        ticket = principal.ticket
        locker = self._scope(facts.lockers.get(ticket.iss)) if ticket else None
        void = facts.void.get((ticket.iss, ticket.consent_id)) if ticket and ticket.consent_id else None
        access.require_valid(principal, self._rules, locker, void, now_us)
        roles = (access.OPERATOR,) if isinstance(work, PutWork) else (access.TICKET_ROLE, access.OPERATOR)
        access.require_role(principal, *roles)
        if document is None and facts.directory is None:
            facts.directory = issuer_directory(connection)
        uri = document.uri if document else DocumentURI.parse(work.uri_text, facts.directory or IssuerDirectory())
        office = document.office if document else None
        access.require_in_scope(principal, self._rules, locker, uri, office)
        return uri

    def _answer(
        self,
        work: ReadWork,
        principal: Principal,
        document: CatalogueDocument | None,
        fields: dict[str, Any],
        now_us: int,
    ) -> tuple[Result | BaseException, Mapping[str, Any]]:
        if document is None:
            raise DocumentNotFound()
        access.require_served(document, principal)
        plan = plan_answer(work.method, work.headers, document, access.allowed_placements(document, principal), now_us)
        fields.update(
            given(plan.placement, status=plan.status, opened=plan.has_body, offset=plan.offset, length=plan.length)
        )
        small = plan.has_body and plan.is_whole and plan.length <= SMALL
        return Admitted(document, plan, fields, SmallRead(plan.placement) if small else None), fields

    def _refuse(
        self, error: ProblemError, fields: dict[str, Any], now_us: int
    ) -> tuple[ProblemError, Mapping[str, Any] | None]:
        fields.update(refusal(error))
        if access.credential_refused(error):
            verdict = self._floods.admit(counted_as(fields), now_us)
            if verdict.flooded:
                return verdict.problem(), None
        return error, fields

    def _scope(self, row: LockerRow | None) -> LockerScope | None:
        """Return what a registered locker may do; settings that list lockers shut out those they do not list."""
        if row is None:
            return None
        if not self._limits:
            return LockerScope(row.iss, row.state)
        limit = self._limits.get(row.iss)
        return LockerScope(row.iss, row.state, limit.issuers, limit.doc_types) if limit else None


def _without_ends_of_the_dead(connection: Connection, events: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out the ends of reads that others close as interrupted, because they hold their process for dead.

    That happens to a living process when database or machine stood still for a minute; a second end would follow the first.
    """
    processes = {str(fields["process"]) for fields in events if fields.get("phase") == PHASE_END}
    dead = declared_dead(connection, processes) if processes else set()
    return [fields for fields in events if not (fields.get("phase") == PHASE_END and fields["process"] in dead)]


def _not_written(connection: Connection, kept: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the kept events that are not in the log: a commit may have succeeded although its answer was lost."""
    if not kept:
        return []
    written = written_events(connection, [str(fields["event_id"]) for fields in kept])
    return [fields for fields in kept if fields["event_id"] not in written]


def _principal(credential: _Credential, facts: _Facts) -> Principal:
    token = facts.tokens.get(credential.token_hash) if credential.token_hash else None
    return Principal(ticket=credential.ticket, token=token)


def _action(work: ReadWork | PutWork) -> Action:
    if isinstance(work, PutWork):
        return Action.PUT
    return Action.HEAD if work.method == "HEAD" else Action.READ
