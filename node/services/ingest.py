"""Taking in many documents from a folder or a manifest; killed at any moment, the same command goes on from there.

Files are hashed and copied outside the database's transactions. A batch's objects are durable before its rows are written, and
its rows, log rows and announcements are one short transaction with a pause after it, so that the access log never waits long.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self

from node.contract.problems import ProblemError, ServiceUnavailable, StorageFull, UnacceptableContent
from node.contract.uri import DocumentURI, IssuerDirectory
from node.services.audit import Action, encode_event
from node.services.candidates import Candidate, read_candidate
from node.services.cataloguing import CatalogueStore, CatalogueWriter
from node.services.documents import command_attempt
from node.services.errors import Contended, IngestStopped, RowRefused
from node.services.manifest import Entry
from node.services.pending_objects import PendingObjects
from node.services.planning import Form, Known, Plan, PlanRules, Row, plan_group
from node.services.ports import DocTypeRecord
from node.services.sources import Source
from node.services.storing import Content, Fate, enter, measure, new_doc_type, put_event, require_kind, store_object
from node.storage.errors import ObjectTooLarge, SizeMismatch, StorageError
from node.storage.guard import GuardedDriver

BATCH = 10
"""Documents a transaction: under 500 rows even when each has all the search parameters that it may have, and short enough that a
log row does not wait long: measured, 4 ms of processor time, 14 with holders to seal for one locker."""
PAUSE_SECONDS = 0.01
ATTEMPTS = 10
MAX_PARAMETERS = 20

OnRefused = Callable[[str, str], None]
"""Told the place of a refused row and the reason."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What an ingest may do: take over changed content and metadata, map other characters in ids, or only look."""

    replace: bool = False
    map_ids: bool = False
    dry_run: bool = False


@dataclass(slots=True)
class IngestReport:
    """How many rows met which fate, in a dry run: would have met. ``changed`` ones brought other metadata only."""

    created: int = 0
    added: int = 0
    replaced: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0

    @property
    def done(self) -> int:
        """The number of rows that were looked at."""
        return self.created + self.added + self.replaced + self.changed + self.unchanged + self.refused

    def count(self, fate: str) -> None:
        """Count one more row."""
        setattr(self, str(fate), getattr(self, str(fate)) + 1)


class Ingest:
    """Takes documents in."""

    def __init__(
        self, catalogue: CatalogueStore, driver: GuardedDriver, store: str, pending: PendingObjects, *,
        hash_key: bytes, max_document_bytes: int, clock: Callable[[], int], pause: float = PAUSE_SECONDS,
    ) -> None:  # fmt: skip
        """``store`` is the driver's name in the settings; ``pause`` seconds are left to other writers after a transaction."""
        self.catalogue = catalogue
        self.driver = driver
        self.store = store
        self.pending = pending
        self.hash_key = hash_key
        self.max_document_bytes = max_document_bytes
        self.clock = clock
        self.pause = pause

    def run(
        self, source: Source, options: IngestOptions, on_refused: OnRefused,
        on_progress: Callable[[IngestReport], None] = lambda report: None,
    ) -> IngestReport:  # fmt: skip
        """Take in every entry that can be taken and report the others.

        Raises IngestStopped when there is no room, or the store or the database is away; what was stored before is whole.
        """
        with _Seen() as seen:
            try:
                if not options.dry_run:
                    self.pending.sweep()
                    self.driver.sweep()
                run = _Run(self, options, seen, on_refused)
                for batch in _batched(source.entries()):
                    run.take(batch, source.root)
                    on_progress(run.report)
            except (StorageFull, StorageError, ServiceUnavailable) as error:
                raise IngestStopped(_stopped(error)) from error
            finally:
                if not options.dry_run:
                    with suppress(ProblemError, Contended):
                        self.pending.sweep(patience=0)
        return run.report


class _RowFailed(Exception):
    """One row's file could not be stored; the batch is to be done again without it."""

    def __init__(self, row: Row, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


class _Run:
    """One run over one source."""

    def __init__(self, ingest: Ingest, options: IngestOptions, seen: "_Seen", on_refused: OnRefused) -> None:
        self.report = IngestReport()
        self._ingest = ingest
        self._options = options
        self._seen = seen
        self._on_refused = on_refused
        self._rules = PlanRules(
            ingest.store, ingest.hash_key, options.replace, compares_settled=not options.dry_run
        )  # fmt: skip
        self._hosted = _Hosted()
        with ingest.catalogue.reading() as reader:
            self._hosted.learn(reader.issuers(), reader.doc_types())

    def take(self, batch: Sequence[Entry], root: Path) -> None:
        """Take one batch of entries, as often as other writers come in between."""
        rows = [row for entry in batch if (row := self._read(entry, root)) is not None]
        contended = 0
        while rows:
            try:
                plans = self._plan(rows)
                self._carry_out(plans)
                return self._settle(plans)
            except _RowFailed as failed:
                rows.remove(failed.row)
                self._refuse(failed.row.candidate.place, failed.reason)
            except Contended:
                contended += 1
                if contended == ATTEMPTS:
                    raise IngestStopped(
                        "others change the catalogue all the time; run the same command later"
                    ) from None
                time.sleep(self._ingest.pause)

    def _read(self, entry: Entry, root: Path) -> Row | None:
        """Check and measure one entry; a refused one is reported and gives None."""
        try:
            candidate = read_candidate(entry, root, map_ids=self._options.map_ids)
            candidate = replace(candidate, uri=self._hosted.spell(candidate.uri))
            earlier = self._seen.note(candidate)
            if earlier is not None:
                raise RowRefused(f"this document is on {earlier} already")
            return Row(candidate, _measure(candidate, self._ingest.max_document_bytes))
        except RowRefused as refusal:
            self._refuse(entry.place, str(refusal))
            return None

    def _plan(self, rows: Sequence[Row]) -> list[Plan]:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.candidate.uri.key, []).append(row)
        with self._ingest.catalogue.reading() as reader:
            documents = reader.documents(groups)
            document_ids = [document.document_id for document in documents.values()]
            hashes, unsealed = reader.holder_hashes(document_ids), reader.unsealed(document_ids)
        plans = []
        for key, group in groups.items():
            document = documents.get(key)
            known = Known(document, settled=self._seen.settled(key))
            if document is not None:
                document_id = document.document_id
                known = replace(known, holder_hash=hashes.get(document_id), unsealed=document_id in unsealed)
            plans.append(plan_group(group[0].candidate.uri, group, known, self._rules))
        return plans

    def _carry_out(self, plans: Sequence[Plan]) -> None:
        """Store the objects, then write the rows, unless nothing changes or this is a dry run."""
        writing = [plan for plan in plans if plan.writes]
        if not writing or self._options.dry_run:
            return
        objects = [(placement.object_key, placement, row) for plan in writing for placement, row in plan.objects]
        with self._ingest.pending.holding(self._ingest.store, [key for key, _, _ in objects]):
            for _, placement, row in objects:
                try:
                    with row.candidate.path.open("rb") as file:
                        store_object(self._ingest.driver, placement, file)
                except (UnacceptableContent, SizeMismatch, ObjectTooLarge, OSError) as error:
                    raise _RowFailed(row, _why(error)) from None
            self._write(writing)
        time.sleep(self._ingest.pause)

    def _write(self, plans: Sequence[Plan]) -> None:
        """Write a batch in one transaction; raises Contended unless its documents are still as they were planned from."""
        now_us = self._ingest.clock()
        keys = sorted(plan.uri.key for plan in plans)
        events = [encode_event(fields, now_us) for plan in plans for fields in _events(plan)]
        with self._ingest.catalogue.writing() as writer:
            writer.lock(keys)
            documents = writer.documents(keys)
            if any(_revision(documents.get(plan.uri.key)) != _revision(plan.document) for plan in plans):
                raise Contended
            added = self._hosted.add_missing(writer, plans, now_us)
            for plan in plans:
                _enter(writer, plan, now_us)
            writer.append_events(events)
        self._hosted.learn(IssuerDirectory(record.issuer for record in added), added)

    def _settle(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            for row, fate in plan.fates:
                self.report.count(fate)
                self._seen.settle(row)
            for row, reason in plan.refused:
                self._refuse(row.candidate.place, reason)

    def _refuse(self, place: str, reason: str) -> None:
        self.report.count("refused")
        self._on_refused(place, reason)


class _Hosted:
    """The issuers and document types that the catalogue has, and those that this run brings."""

    def __init__(self) -> None:
        self._issuers = IssuerDirectory()
        self._types: dict[tuple[str, str], DocTypeRecord] = {}
        self._spelling: dict[str, str] = {}

    def learn(self, issuers: Iterable[str], types: Iterable[DocTypeRecord]) -> None:
        """Take in what is in the catalogue by now."""
        for issuer in issuers:
            self._add(issuer)
        self._types.update({_type_key(record.issuer, record.doc_type): record for record in types})

    def spell(self, uri: DocumentURI) -> DocumentURI:
        """Return a URI in the spelling that issuer and type have here; raises RowRefused for an issuer that would be ambiguous."""
        if uri.issuer not in self._issuers:
            conflict = self._issuers.conflict(uri.issuer)
            if conflict:
                raise RowRefused(f"the issuer would be mistaken for {conflict}, which is here already")
            self._add(uri.issuer)
        record = self._types.get(_type_key(uri.issuer, uri.doc_type))
        doc_type = record.doc_type if record else uri.doc_type
        return DocumentURI(self._spelling[uri.issuer.lower()], doc_type, uri.doc_id)

    def add_missing(self, writer: CatalogueWriter, plans: Sequence[Plan], now_us: int) -> list[DocTypeRecord]:
        """Write the issuers, types and search parameters that plans need and the catalogue lacks; return what was written."""
        wanted = [plan for plan in plans if self._lacks(plan)]
        if not wanted:
            return []
        issuers = {issuer.lower() for issuer in writer.issuers()}
        types = {_type_key(record.issuer, record.doc_type): record for record in writer.doc_types()}
        written: dict[tuple[str, str], DocTypeRecord] = {}
        for plan in wanted:
            key = _type_key(plan.uri.issuer, plan.uri.doc_type)
            if plan.uri.issuer.lower() not in issuers:
                writer.add_issuer(plan.uri.issuer, now_us)
                issuers.add(plan.uri.issuer.lower())
            record = _with_parameters(types.get(key), plan)
            if record != types.get(key):
                writer.put_doc_type(record, now_us)
            types[key] = written[key] = record
        return list(written.values())

    def _lacks(self, plan: Plan) -> bool:
        record = self._types.get(_type_key(plan.uri.issuer, plan.uri.doc_type))
        return record is None or not set(_parameter_names(plan)) <= _declared(record)

    def _add(self, issuer: str) -> None:
        if issuer not in self._issuers:
            self._issuers = IssuerDirectory([*self._issuers, issuer])
        self._spelling.setdefault(issuer.lower(), issuer)


class _Seen:
    """Which representations this run has come across, in a temporary file of SQLite's, so that memory stays flat."""

    def __enter__(self) -> Self:
        # An empty name is a database on disk that nobody else can open and that goes when it is closed.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute(
            "CREATE TABLE seen (uri_key TEXT, form TEXT, place TEXT, settled INTEGER DEFAULT 0, PRIMARY KEY (uri_key, form))"
            " WITHOUT ROWID"
        )
        self._db.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def note(self, candidate: Candidate) -> str | None:
        """Note a candidate; returns the place of an earlier one that is the same representation of the same document."""
        key = (candidate.uri.key, _form_text(candidate.media_type, candidate.language))
        earlier = self._db.execute("SELECT place FROM seen WHERE uri_key = ? AND form = ?", key).fetchone()
        if earlier is not None:
            return str(earlier[0])
        self._db.execute("INSERT INTO seen (uri_key, form, place) VALUES (?, ?, ?)", (*key, _text(candidate.place)))
        return None

    def settle(self, row: Row) -> None:
        """Note that a row is in the catalogue as it stands."""
        key = (row.candidate.uri.key, _form_text(*row.form))
        self._db.execute("UPDATE seen SET settled = 1 WHERE uri_key = ? AND form = ?", key)

    def settled(self, uri_key: str) -> frozenset[Form]:
        """Return the forms of a document that are in the catalogue as this run's rows say."""
        rows = self._db.execute("SELECT form FROM seen WHERE uri_key = ? AND settled = 1", (uri_key,))
        return frozenset(
            (media_type, language or None) for media_type, _, language in (row[0].partition(" ") for row in rows)
        )


def _batched(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _measure(candidate: Candidate, limit: int) -> Content:
    try:
        with candidate.path.open("rb") as file:
            size, sha256, head = measure(file, limit)
        if size > limit:
            raise RowRefused(f"the file is larger than the {limit} bytes that a document may have")
        require_kind(candidate.media_type, head)
    except UnacceptableContent as error:
        raise RowRefused(_KINDS.get(error.reason, str(error))) from None
    except OSError as error:
        raise RowRefused(_why(error)) from None
    return Content(candidate.media_type, candidate.language, size, sha256)


_KINDS = {
    "empty": "the file is empty",
    "kind-mismatch": "the file's content is not what its extension says",
}


def _enter(writer: CatalogueWriter, plan: Plan, now_us: int) -> None:
    metadata = plan.first.candidate.metadata if plan.first else None
    document_id = enter(
        writer, plan.uri, plan.document, plan.intention.version, plan.placements, now_us, metadata=metadata,
        holder=plan.holder, changes=plan.changes,
    )  # fmt: skip
    if plan.parameters is not None:
        writer.set_parameters(document_id, plan.parameters)


def _events(plan: Plan) -> Iterator[Mapping[str, object]]:
    """Yield the access event of each row that was put."""
    attempt = command_attempt(Action.PUT, "ingest", plan.uri)
    for row, fate in plan.fates:
        if fate != Fate.UNCHANGED:
            yield put_event(attempt, plan.uri, plan.intention.version, row.content)


def _revision(document: object) -> int | None:
    return getattr(document, "revision", None)


def _parameter_names(plan: Plan) -> Sequence[str]:
    return tuple(plan.first.candidate.metadata.parameters) if plan.first else ()


def _declared(record: DocTypeRecord) -> set[str]:
    return {str(row["name"]) for row in record.search_parameters}


def _with_parameters(record: DocTypeRecord | None, plan: Plan) -> DocTypeRecord:
    """Return a type with a plan's search parameters declared; those that come later are not required, as others lack them."""
    names = _parameter_names(plan)
    if record is None:
        return new_doc_type(plan.uri.issuer, plan.uri.doc_type, names)
    fresh = new_doc_type(record.issuer, record.doc_type, [name for name in names if name not in _declared(record)])
    more = [{**row, "required": False} for row in fresh.search_parameters]
    return replace(record, search_parameters=(*record.search_parameters, *more)[:MAX_PARAMETERS])


def _type_key(issuer: str, doc_type: str) -> tuple[str, str]:
    return issuer.lower(), doc_type.lower()


def _form_text(media_type: str, language: str | None) -> str:
    return f"{media_type} {language or ''}"


def _text(place: str) -> str:
    """Return a place as text that SQLite can hold: a file's name need not be UTF-8."""
    return place.encode("utf-8", "replace").decode()


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"the file cannot be read: {error.strerror}"
    if isinstance(error, ObjectTooLarge):
        return "the file is larger than the store takes"
    return "the file changed while it was read; run the command again"


def _stopped(error: ProblemError) -> str:
    if isinstance(error, StorageFull):
        return f"no room: {error}. Make room and run the same command again, it goes on from here"
    return f"{error}. Run the same command again when that is mended, it goes on from here"
