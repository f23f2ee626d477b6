"""Administering documents: storing bytes under a URI, metadata, revoking and putting back in force. Reading is the data plane's."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from node.contract.holders import Holder, InvalidHolder
from node.contract.problems import Conflict, DocumentNotFound, PreconditionFailed, UnacceptableContent
from node.contract.times import parse_date
from node.contract.uri import DocumentURI
from node.services.audit import PHASE_ATTEMPT, Action, Outcome, encode_event
from node.services.cataloguing import CatalogueReader, CatalogueStore, CatalogueWriter, HolderColumns
from node.services.errors import Contended
from node.services.pending_objects import PendingObjects
from node.services.ports import CatalogueDocument, Placement
from node.services.storing import (
    EXTENSIONS,
    HEAD,
    Content,
    Fate,
    Intention,
    Put,
    enter,
    intend,
    measure,
    new_doc_type,
    normal_language,
    place,
    put_event,
    require_kind,
    store_object,
)
from node.storage.guard import GuardedDriver

ACTIVE = "active"
REVOKED = "revoked"

ATTEMPTS = 5
MAX_TITLE = 300
MAX_REASON = 300
MAX_PARAMETERS = 20
MAX_PARAMETER = 256

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")
_ETAG = re.compile(r'(W/)?"([^"]*)"')
_MEMBERS = frozenset({"holder", "title", "language", "issued_on", "expires_on", "parameters"})

_Result = TypeVar("_Result")


class Body(Protocol):
    """A received document: its file, size in bytes and SHA-256 in hex."""

    @property
    def file(self) -> Put:
        """The open file."""

    @property
    def size(self) -> int:
        """Its size in bytes."""

    @property
    def sha256(self) -> str:
        """Its SHA-256 in hex."""


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of bytes, and where they lie."""

    fate: Fate
    placement: Placement

    @property
    def created(self) -> bool:
        """Tell whether the URI is new."""
        return self.fate is Fate.CREATED

    @property
    def changed(self) -> bool:
        """Tell whether anything was stored; False when these very bytes were there already."""
        return self.fate is not Fate.UNCHANGED


@dataclass(frozen=True, slots=True)
class _Measured:
    file: Put
    size: int
    sha256: str


class DocumentAdministration:
    """Changes documents; every change, its log row and its announcements are one transaction."""

    def __init__(
        self, catalogue: CatalogueStore, stores: Mapping[str, GuardedDriver], default_store: str,
        pending: PendingObjects, *, hash_key: bytes, max_document_bytes: int, clock: Callable[[], int],
    ) -> None:  # fmt: skip
        """``hash_key`` is that of holders; new objects go to the default store."""
        self._catalogue = catalogue
        self._driver = stores[default_store]
        self._store_name = default_store
        self._pending = pending
        self._hash_key = hash_key
        self._max_document_bytes = max_document_bytes
        self._clock = clock

    def parse(self, uri_text: str) -> DocumentURI:
        """Return a URI of an issuer hosted here; raises MalformedURI or UnknownIssuer."""
        with self._catalogue.reading() as reader:
            return DocumentURI.parse(uri_text, reader.issuers())

    def find(self, uri: DocumentURI) -> CatalogueDocument:
        """Return what the catalogue says of a document; raises DocumentNotFound."""
        with self._catalogue.reading() as reader:
            return _require_found(reader, uri)

    def page(
        self, *, issuers: Sequence[str] = (), doc_types: Sequence[str] = (), status: str | None = None,
        after: str = "", limit: int = 100,
    ) -> list[CatalogueDocument]:  # fmt: skip
        """Return documents in the order of their lower-case URIs, those after the key ``after``; ``status`` as stored."""
        with self._catalogue.reading() as reader:
            return reader.page(issuers=issuers, doc_types=doc_types, status=status, after=after, limit=limit)

    def require_room(self) -> None:
        """Raise StorageFull when only the reserve for the access log is left."""
        self._pending.require_room()

    def store(
        self, uri: DocumentURI, body: Body, *, media_type: str, language: str | None, if_match: str | None,
        if_none_match: str | None, attempt: Mapping[str, Any],
    ) -> StoreResult:  # fmt: skip
        """Store a body as a new document, a further representation, or the next version, with its log row.

        The object is durable before the catalogue knows of it, and goes again if the catalogue refuses. Raises Conflict for other
        bytes without ``If-Match``, PreconditionFailed, UnacceptableContent, StorageFull and StorageError.
        """
        body.file.seek(0)
        require_kind(media_type, body.file.read(HEAD))
        content = Content(media_type, normal_language(language), body.size, body.sha256)
        return self._trying(lambda: self._store_once(uri, content, body.file, if_match, if_none_match, attempt))

    def supersede(
        self, uri: DocumentURI, path: Path, *, language: str | None, attempt: Mapping[str, Any]
    ) -> StoreResult:
        """Make a file the next version of a document; raises as ``store`` does, and DocumentNotFound."""
        media_type = EXTENSIONS.get(path.suffix.lower())
        if media_type is None:
            raise UnacceptableContent("A document here is PDF, XML, JSON, PNG or JPEG", reason="media-type")
        self.find(uri)
        with path.open("rb") as file:
            size, sha256, _ = measure(file, self._max_document_bytes)
            if size > self._max_document_bytes:
                raise UnacceptableContent(f"A document has at most {self._max_document_bytes} bytes here")
            return self.store(
                uri, _Measured(file, size, sha256), media_type=media_type, language=language, if_match="*",
                if_none_match=None, attempt=attempt,
            )  # fmt: skip

    def set_status(
        self, uri: DocumentURI, status: str, reason: str | None, attempt: Mapping[str, Any]
    ) -> CatalogueDocument:
        """Revoke a document or put it back in force; the status that it has already changes nothing but is logged.

        Raises DocumentNotFound and UnacceptableContent.
        """
        if status not in (ACTIVE, REVOKED):
            raise UnacceptableContent("A status that can be set is active or revoked", reason="status")
        if status == REVOKED and not (reason and len(reason) <= MAX_REASON and not _CONTROL.search(reason)):
            raise UnacceptableContent(f"A revocation has a reason of 1 to {MAX_REASON} characters", reason="reason")

        def change(writer: CatalogueWriter, document: CatalogueDocument, now_us: int) -> None:
            if document.status == status:
                return
            columns = {"status": status, "status_reason": reason if status == REVOKED else None}
            writer.change_document(document.document_id, now_us, columns)
            writer.announce(document.document_id, "withdraw" if status == REVOKED else "add", now_us)

        return self._change(uri, change, {**attempt, "change": status})

    def change_metadata(
        self, uri: DocumentURI, members: Mapping[str, Any], attempt: Mapping[str, Any]
    ) -> CatalogueDocument:
        """Change the given members (holder, title, language, issued_on, expires_on, parameters) and leave the rest.

        None clears a member; ``parameters`` are replaced as a whole. Raises DocumentNotFound, Conflict, UnacceptableContent.
        """
        _require_members(members)
        holder = _holder(members["holder"]) if members.get("holder") else None

        def change(writer: CatalogueWriter, document: CatalogueDocument, now_us: int) -> None:
            _require_dates_in_order(members, document)
            columns = {name: members[name] for name in ("issued_on", "expires_on") if name in members}
            if "title" in members:
                columns["title"] = members["title"] or ""
            if holder is not None:
                columns.update(HolderColumns.of(holder, self._hash_key).as_changes())
            if "parameters" in members:
                writer.set_parameters(document.document_id, members["parameters"] or {})
            if "language" in members:
                _set_language(writer, document, normal_language(members["language"]))
            writer.change_document(document.document_id, now_us, columns)
            if holder is not None:
                writer.seal_holder(document.document_id, document.uri, holder)
            writer.announce(document.document_id, "change", now_us)

        return self._change(uri, change, attempt)

    def _change(
        self, uri: DocumentURI, change: Callable[[CatalogueWriter, CatalogueDocument, int], None],
        attempt: Mapping[str, Any],
    ) -> CatalogueDocument:  # fmt: skip
        def once() -> CatalogueDocument:
            now_us = self._clock()
            with self._catalogue.writing() as writer:
                writer.lock([uri.key])
                document = _require_found(writer, uri)
                change(writer, document, now_us)
                writer.append_events([encode_event(_about(attempt, document.uri), now_us)])
                return _require_found(writer, uri)

        return self._trying(once)

    def _store_once(
        self, uri: DocumentURI, content: Content, source: Put, if_match: str | None, if_none_match: str | None,
        attempt: Mapping[str, Any],
    ) -> StoreResult:  # fmt: skip
        def intention_for(document: CatalogueDocument | None) -> Intention:
            replace = _require_preconditions(document, content, if_match, if_none_match)
            return intend(document, content, replace=replace)

        with self._catalogue.reading() as reader:
            document = reader.documents([uri.key]).get(uri.key)
        intention = intention_for(document)
        if intention.fate is Fate.UNCHANGED:
            assert document is not None  # nothing is unchanged of what is not there
            return self._log_unchanged(document, intention, content, attempt)
        uri = document.uri if document else uri
        placement = place(uri, intention, content, self._store_name)
        with self._pending.holding(self._store_name, [placement.object_key]):
            store_object(self._driver, placement, source)
            self._enter(uri, content, placement, intention_for, intention, attempt)
        return StoreResult(intention.fate, placement)

    def _enter(
        self, uri: DocumentURI, content: Content, placement: Placement,
        intention_for: Callable[[CatalogueDocument | None], Intention], expected: Intention, attempt: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Write the rows, if the document is still as it was when the object was put."""
        now_us = self._clock()
        with self._catalogue.writing() as writer:
            writer.lock([uri.key])
            document = writer.documents([uri.key]).get(uri.key)
            if intention_for(document) != expected:
                raise Contended
            if document is None:
                _ensure_doc_type(writer, uri, now_us)
            enter(writer, uri, document, expected.version, [placement], now_us)
            status = 201 if expected.fate is Fate.CREATED else 200
            event = put_event(attempt, uri, expected.version, content, status)
            writer.append_events([encode_event(event, now_us)])

    def _log_unchanged(
        self, document: CatalogueDocument, intention: Intention, content: Content, attempt: Mapping[str, Any]
    ) -> StoreResult:
        with self._catalogue.writing() as writer:
            event = put_event(attempt, document.uri, intention.version, content, 200)
            writer.append_events([encode_event(event, self._clock())])
        present = document.of_version(intention.version)
        return StoreResult(Fate.UNCHANGED, next(placement for placement in present if content.same_form(placement)))

    def _trying(self, once: Callable[[], _Result]) -> _Result:
        """Do a step again when another writer was in the way; raises Conflict when one always is."""
        for _ in range(ATTEMPTS):
            try:
                return once()
            except Contended:
                continue
        raise Conflict("The document is being changed by others; try again", reason="contended")


def command_attempt(action: Action, command: str, uri: DocumentURI) -> dict[str, Any]:
    """Return the access event's fields for a change made by a command at the node itself."""
    return _about(
        {"phase": PHASE_ATTEMPT, "action": action, "principal": {"kind": "command", "name": command}},
        uri,
    )  # fmt: skip


def _about(attempt: Mapping[str, Any], uri: DocumentURI) -> dict[str, Any]:
    fields = {"uri": str(uri), "issuer": uri.issuer, "doc_type": uri.doc_type, "outcome": Outcome.COMPLETE}
    return {**attempt, **fields}


def _require_found(reader: CatalogueReader, uri: DocumentURI) -> CatalogueDocument:
    document = reader.documents([uri.key]).get(uri.key)
    if document is None:
        raise DocumentNotFound()
    return document


def _require_preconditions(
    document: CatalogueDocument | None, content: Content, if_match: str | None, if_none_match: str | None
) -> bool:
    """Judge If-Match and If-None-Match (RFC 9110 section 13.1) and tell whether the next version is asked for.

    If-Match that no longer holds, with the very bytes that are there, is a repeated request that has been done already.
    """
    present = document.of_version(document.current_version) if document else ()
    if if_none_match is not None and _names(if_none_match, present):
        raise PreconditionFailed(reason="if-none-match")
    if if_match is None:
        return False
    done = any(content.same_form(placement) and placement.sha256 == content.sha256 for placement in present)
    if not done and not _names(if_match, present):
        raise PreconditionFailed(reason="if-match")
    return True


def _names(header: str, placements: Sequence[Placement]) -> bool:
    """Tell whether a list of ETags, or ``*``, names one of the present representations; weak ones name none."""
    if header.strip() == "*":
        return bool(placements)
    listed = {tag for weak, tag in _ETAG.findall(header) if not weak}
    return any(placement.sha256 in listed for placement in placements)


def _ensure_doc_type(writer: CatalogueWriter, uri: DocumentURI, now_us: int) -> None:
    known = {(row.issuer.lower(), row.doc_type.lower()) for row in writer.doc_types()}
    if (uri.issuer.lower(), uri.doc_type.lower()) not in known:
        writer.put_doc_type(new_doc_type(uri.issuer, uri.doc_type, ()), now_us)


def _require_members(members: Mapping[str, Any]) -> None:
    unknown = members.keys() - _MEMBERS
    if unknown or not members:
        raise UnacceptableContent(f"What can be changed is: {', '.join(sorted(_MEMBERS))}", reason="members")
    if "holder" in members and members["holder"] is None:
        raise UnacceptableContent("A holder can be replaced but not taken away", reason="holder")
    title = members.get("title")
    if title is not None and (len(title) > MAX_TITLE or _CONTROL.search(title)):
        raise UnacceptableContent(f"A title has at most {MAX_TITLE} characters on one line", reason="title")
    for name in ("issued_on", "expires_on"):
        if members.get(name) is not None:
            _require_date(members[name])
    _require_parameters(members.get("parameters") or {})


def _require_date(text: str) -> None:
    try:
        parse_date(text)
    except ValueError:
        raise UnacceptableContent("A date is written YYYY-MM-DD", reason="date") from None


def _require_parameters(parameters: Mapping[str, str]) -> None:
    if len(parameters) > MAX_PARAMETERS:
        raise UnacceptableContent(f"A document has at most {MAX_PARAMETERS} search parameters", reason="parameters")
    for name, value in parameters.items():
        if not _PARAMETER_NAME.match(name) or len(value) > MAX_PARAMETER or _CONTROL.search(value):
            raise UnacceptableContent("A search parameter's name or value cannot be taken", reason="parameters")


def _require_dates_in_order(members: Mapping[str, Any], document: CatalogueDocument) -> None:
    issued, expires = members.get("issued_on", document.issued_on), members.get("expires_on", document.expires_on)
    if issued and expires and expires < issued:
        raise UnacceptableContent("The document would expire before it was issued", reason="date")


def _holder(members: Mapping[str, Any]) -> Holder:
    try:
        return Holder.parse(members["scheme"], members["value"])
    except InvalidHolder as error:
        raise UnacceptableContent(str(error), reason="holder") from None


def _set_language(writer: CatalogueWriter, document: CatalogueDocument, language: str | None) -> None:
    if len(document.of_version(document.current_version)) != 1:
        raise Conflict("The document has several representations, each with its own language", reason="language")
    writer.set_language(document.document_id, document.current_version, language)
