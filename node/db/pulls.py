"""What pulls read and write: candidates by keyed hashes, counted tries, answers given, near matches for an officer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, and_, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from node.contract.identifiers import uuid7
from node.db.holder_references import note_references
from node.db.models import DocType, Document, Issuer, PendingMatch, PullTransaction, PullTry, SearchParameter
from node.db.session import Database
from node.services.matching import Candidate
from node.services.ports import DocTypeRecord

MOST_CANDIDATES = 20
PURGED_AT_ONCE = 500


class PullRecords:
    """Pulls in the node's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def transaction(self) -> Iterator["PullConnection"]:
        """Open a writing transaction; it commits when the block ends without an error."""
        with self._database.writing() as connection:
            yield PullConnection(connection)


class PullConnection:
    """One pull's reading and writing."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = sqlite if connection.dialect.name == "sqlite" else postgresql

    def doc_type(self, issuer: str, doc_type: str) -> DocTypeRecord | None:
        """Return a document type hosted here, by names in any case."""
        row = self._connection.execute(
            select(Issuer.issuer, DocType.doc_type, DocType.name, DocType.search_parameters, DocType.match_rule)
            .join(Issuer, Issuer.issuer_key == DocType.issuer_key)
            .where(DocType.issuer_key == issuer.lower(), DocType.doc_type_key == doc_type.lower())
        ).one_or_none()
        if row is None:
            return None
        return DocTypeRecord(
            row.issuer, row.doc_type, row.name, tuple(json.loads(row.search_parameters)), json.loads(row.match_rule)
        )

    def earlier(self, iss: str, txn: str) -> tuple[str, str] | None:
        """Return request hash and answer of a transaction that was answered before."""
        row = self._connection.execute(
            select(PullTransaction.request_hash, PullTransaction.answer).where(
                PullTransaction.locker == iss, PullTransaction.txn == txn
            )
        ).one_or_none()
        return None if row is None else (row.request_hash, row.answer)

    def count_try(self, subject: str, window_us: int, limit: int) -> bool:
        """Count a try unless ``limit`` are counted already: one conditional upsert, so processes cannot pass it together."""
        statement = self._dialect.insert(PullTry).values(subject=subject, window_us=window_us, tries=1)
        counted = self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["subject", "window_us"], set_={"tries": PullTry.tries + 1}, where=PullTry.tries < limit
            ).returning(PullTry.tries)
        )
        return counted.first() is not None

    def candidates(self, record: DocTypeRecord, hashes: Mapping[str, str]) -> Sequence[Candidate]:
        """Return documents of a type, not revoked, that have all these parameter hashes, oldest first."""
        asked = [
            and_(SearchParameter.name == name, SearchParameter.value_hash == value) for name, value in hashes.items()
        ]
        fitting = (
            select(SearchParameter.document_id)
            .where(or_(*asked))
            .group_by(SearchParameter.document_id)
            .having(func.count() == len(asked))
        )
        rows = self._connection.execute(
            select(
                Document.document_id, Document.issuer, Document.doc_type, Document.doc_id, Document.holder_hash,
                Document.parameters,
            )
            .where(
                Document.document_id.in_(fitting), Document.issuer_key == record.issuer.lower(),
                Document.doc_type_key == record.doc_type.lower(), Document.status != "revoked",
            )
            .order_by(Document.document_id.desc())
            .limit(MOST_CANDIDATES)
        ).all()  # fmt: skip
        return [
            Candidate(
                row.document_id, f"{row.issuer}-{row.doc_type}-{row.doc_id}", row.holder_hash,
                json.loads(row.parameters),
            )
            for row in reversed(rows)
        ]  # fmt: skip

    def keep(self, iss: str, txn: str, request_hash: str, answer: str, now_us: int) -> bool:
        """Store the answer; False when another process has answered the same transaction meanwhile."""
        statement = self._dialect.insert(PullTransaction).values(
            locker=iss, txn=txn, request_hash=request_hash, answer=answer, created_us=now_us
        )
        kept = statement.on_conflict_do_nothing(index_elements=["locker", "txn"]).returning(PullTransaction.txn)
        return self._connection.execute(kept).first() is not None

    def add_pending(self, document_id: str, iss: str, resident_ref: str, now_us: int) -> None:
        """Put a near match before an officer, once for each document and resident."""
        statement = self._dialect.insert(PendingMatch).values(
            match_id=uuid7(), document_id=document_id, locker=iss, resident_ref=resident_ref, reason="near",
            state="pending", created_us=now_us,
        )  # fmt: skip
        self._connection.execute(
            statement.on_conflict_do_nothing(index_elements=["document_id", "locker", "resident_ref"])
        )

    def link(self, iss: str, document_id: str, holder_ref: str) -> None:
        """Note the reference by which a locker names the holder, unless one of its own is known."""
        note_references(self._connection, iss, {document_id: holder_ref}, replace=False)


def purge_pulls(connection: Connection, tries_before_us: int, answers_before_us: int) -> int:
    """Delete tries and answers from before the given moments, at most 500 of each; returns how many."""
    old_tries = select(PullTry.subject, PullTry.window_us).where(PullTry.window_us < tries_before_us)
    subjects = connection.execute(old_tries.limit(PURGED_AT_ONCE)).all()
    old_answers = select(PullTransaction.locker, PullTransaction.txn).where(
        PullTransaction.created_us < answers_before_us
    )
    answers = connection.execute(old_answers.limit(PURGED_AT_ONCE)).all()
    for subject, window_us in subjects:
        connection.execute(delete(PullTry).where(PullTry.subject == subject, PullTry.window_us == window_us))
    for locker, txn in answers:
        connection.execute(delete(PullTransaction).where(PullTransaction.locker == locker, PullTransaction.txn == txn))
    return len(subjects) + len(answers)
