"""What the control plane reads: credentials, catalogue, log and counts, each in a short transaction of its own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from node.contract.problems import ServiceUnavailable
from node.contract.times import DAY
from node.contract.uri import IssuerDirectory
from node.db import catalogue, outbox
from node.db.audit_log import LogFilter, LogRow, read_log
from node.db.lockers import LockerRow, locker_rows, void_moments
from node.db.models import AccessIndex
from node.db.session import Database
from node.db.tokens import find_tokens
from node.services.access import TokenGrant
from node.services.ports import CatalogueDocument, DocTypeRecord

COUNTED_DAYS = 7
MOST_READ_COUNTS = 10_000


@dataclass(frozen=True, slots=True)
class ReadCount:
    """How many reads of a type's documents ended in one way on one day; ``day_us`` is its first microsecond UTC."""

    day_us: int
    issuer_key: str
    doc_type_key: str
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents by issuer and type, reads of the last days, and what waits to be pushed."""

    documents: Mapping[tuple[str, str], int]
    reads: Sequence[ReadCount]
    waiting: int
    oldest_us: int | None


class ControlRecords:
    """The database as the control plane reads it; a database that does not answer is ServiceUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def token(self, token_hash: str) -> TokenGrant | None:
        """Return what a role token grants, by its SHA-256; revoked and expired ones too."""
        with self._reading() as connection:
            return find_tokens(connection, [token_hash]).get(token_hash)

    def locker(self, iss: str) -> LockerRow | None:
        """Return a registered locker."""
        with self._reading() as connection:
            return locker_rows(connection, [iss]).get(iss)

    def void_before_us(self, iss: str, consent_id: str) -> int | None:
        """Return the moment up to which a consent's tickets are void."""
        with self._reading() as connection:
            return void_moments(connection, [(iss, consent_id)]).get((iss, consent_id))

    def document(self, uri_key: str) -> CatalogueDocument | None:
        """Return a document by its lower-case URI."""
        return self.documents([uri_key]).get(uri_key)

    def documents(self, uri_keys: Iterable[str]) -> dict[str, CatalogueDocument]:
        """Return documents by their lower-case URIs."""
        with self._reading() as connection:
            return catalogue.find_documents(connection, uri_keys)

    def directory(self) -> IssuerDirectory:
        """Return the issuers hosted here."""
        with self._reading() as connection:
            return catalogue.issuer_directory(connection)

    def issuer_names(self) -> Mapping[str, str]:
        """Return the name of each issuer hosted here."""
        with self._reading() as connection:
            return catalogue.issuer_names(connection)

    def doc_types(self) -> Sequence[DocTypeRecord]:
        """Return the document types hosted here."""
        with self._reading() as connection:
            return catalogue.doc_types(connection)

    def page(
        self, *, issuers: Sequence[str], doc_types: Sequence[str], status: str | None, after: str, limit: int
    ) -> Sequence[CatalogueDocument]:
        """Return documents in order of their lower-case URIs, those after ``after``."""
        with self._reading() as connection:
            return catalogue.list_documents(
                connection, issuers=issuers, doc_types=doc_types, status=status, after=after, limit=limit
            )

    def of_holder(self, scheme: str, holder_hash: str) -> Sequence[CatalogueDocument]:
        """Return the documents whose holder has this keyed hash, in order of their URIs."""
        with self._reading() as connection:
            return catalogue.documents_of_holder(connection, scheme, holder_hash)

    def log_rows(self, wanted: LogFilter, limit: int) -> Sequence[LogRow]:
        """Return rows of the access log in order of position."""
        with self._reading() as connection:
            return read_log(connection, wanted, limit)

    def counts(self, now_us: int) -> Counts:
        """Count documents, the reads of the last seven days, and what waits to be pushed."""
        with self._reading() as connection:
            documents: dict[tuple[str, str], int] = {}
            for issuer, doc_type, _, number in catalogue.counts(connection):
                documents[issuer, doc_type] = documents.get((issuer, doc_type), 0) + number
            backlog = outbox.backlog(connection)
            return Counts(documents, _reads(connection, now_us), backlog.waiting, backlog.oldest_us)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._database.reading() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise ServiceUnavailable(reason="database", headers={"Retry-After": "5"}) from error


def _reads(connection: Connection, now_us: int) -> list[ReadCount]:
    """Count how reads ended; a read that was allowed is counted by its end, not by its beginning."""
    day = (AccessIndex.at_us // DAY).label("day")
    group = (day, AccessIndex.issuer_key, AccessIndex.doc_type_key, AccessIndex.outcome)
    statement = (
        select(*group, func.count())
        .where(
            AccessIndex.at_us >= now_us - now_us % DAY - (COUNTED_DAYS - 1) * DAY,
            AccessIndex.action == "read",
            AccessIndex.outcome != "allowed",
            AccessIndex.issuer_key.is_not(None),
            AccessIndex.doc_type_key.is_not(None),
        )
        .group_by(*group)
        .order_by(day.desc(), *group[1:])
        .limit(MOST_READ_COUNTS)
    )
    return [ReadCount(row[0] * DAY, str(row[1]), str(row[2]), row[3], row[4]) for row in connection.execute(statement)]
