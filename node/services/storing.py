"""Putting bytes under a URI: what will become of them, their object, and the rows that make it so. Shared by PUT and ingest."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, BinaryIO, Protocol

from node.contract.holders import Holder
from node.contract.problems import Conflict, UnacceptableContent
from node.contract.uri import DocumentURI
from node.services.cataloguing import CatalogueWriter, HolderColumns, Metadata
from node.services.ports import CatalogueDocument, DocTypeRecord, Placement
from node.storage.errors import ObjectExists
from node.storage.guard import GuardedDriver
from node.storage.keys import object_key

BLOCK = 256 * 1024
HEAD = 1024
"""Bytes of a content's beginning that tell its kind."""

EXTENSIONS = {
    ".pdf": "application/pdf",
    ".xml": "application/xml",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}
MEDIA_TYPES = (*sorted(set(EXTENSIONS.values())), "text/xml")

_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*\Z")
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")


class Fate(StrEnum):
    """What becomes of bytes that are put under a URI."""

    CREATED = "created"
    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes as they were measured, and in which form and language they say what they say; SHA-256 in hex."""

    media_type: str
    language: str | None
    size: int
    sha256: str

    def same_form(self, placement: Placement) -> bool:
        """Tell whether a placement is the same representation, whatever its bytes."""
        return (placement.media_type, placement.language) == (self.media_type, self.language)


@dataclass(frozen=True, slots=True)
class Intention:
    """What storing a content will do: the fate, and the version that the bytes belong to."""

    fate: Fate
    version: int


class Put(Protocol):
    """An open file to store from; it is read from its beginning."""

    def seek(self, offset: int, /) -> int:
        """Go to a place."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""


def intend(document: CatalogueDocument | None, content: Content, *, replace: bool) -> Intention:
    """Decide what a content does to a document.

    A form or language that the present version lacks is added to it. Other bytes for one that it has are the next version if
    ``replace`` says so; else Conflict is raised, as it is for a revoked document.
    """
    if document is None:
        return Intention(Fate.CREATED, 1)
    if document.status == "revoked":
        raise Conflict("The document is revoked; put it back in force first", reason="revoked")
    present = document.of_version(document.current_version)
    same_form = [placement for placement in present if content.same_form(placement)]
    if not same_form:
        return Intention(Fate.ADDED if present else Fate.CREATED, document.current_version)
    if same_form[0].sha256 == content.sha256:
        return Intention(Fate.UNCHANGED, document.current_version)
    if not replace:
        raise Conflict("The document has other content already", reason="other-content")
    return Intention(Fate.REPLACED, document.current_version + 1)


def place(uri: DocumentURI, intention: Intention, content: Content, store: str) -> Placement:
    """Return where a content will lie."""
    key = object_key(uri, intention.version, content.sha256, content.media_type, content.language)
    return Placement(
        intention.version, content.media_type, content.language, content.size, content.sha256, store, key
    )  # fmt: skip


def store_object(driver: GuardedDriver, placement: Placement, source: BinaryIO | Put) -> None:
    """Store an object durably, or take one over that an earlier, interrupted try has left whole.

    Raises UnacceptableContent when the source no longer is what was measured, and StorageError.
    """
    source.seek(0)
    try:
        stored = driver.put(placement.object_key, source, placement.size)
    except ObjectExists:
        driver.verify(placement.object_key, placement.size, placement.sha256)
        return
    if stored.sha256 != placement.sha256:
        driver.delete(placement.object_key)
        raise UnacceptableContent("The content changed while it was read", reason="content-changed")


def enter(
    writer: CatalogueWriter, uri: DocumentURI, document: CatalogueDocument | None, version: int,
    placements: Sequence[Placement], now_us: int, *, metadata: Metadata | None = None,
    holder: tuple[Holder, HolderColumns] | None = None, changes: Mapping[str, Any] | None = None,
) -> str:  # fmt: skip
    """Write the rows for stored objects in the caller's transaction, announcement included; returns the document's identifier.

    ``version`` is the present one from now on. ``metadata`` counts for a new document, ``changes`` (columns) for a known one; a
    ``holder`` is new in both cases.
    """
    if document is None:
        document_id = writer.add_document(uri, metadata or Metadata(), holder[1] if holder else None, now_us)
    else:
        document_id = document.document_id
        writer.change_document(document_id, now_us, {"current_version": version, **(changes or {})})
    if holder:
        writer.seal_holder(document_id, uri, holder[0])
    for placement in placements:
        writer.add_placement(document_id, placement, now_us)
    writer.announce(document_id, "add" if document is None else "change", now_us)
    return document_id


def measure(source: BinaryIO | Put, limit: int) -> tuple[int, str, bytes]:
    """Return size, SHA-256 in hex and the first bytes of a file, read once; stops past ``limit`` bytes."""
    digest, size, head = hashlib.sha256(), 0, b""
    source.seek(0)
    while block := source.read(BLOCK):
        head = head or block[:HEAD]
        digest.update(block)
        size += len(block)
        if size > limit:
            break
    return size, digest.hexdigest(), head


def require_kind(media_type: str, head: bytes) -> None:
    """Raise UnacceptableContent unless a content begins as its media type does; ``head`` is its first 1024 bytes."""
    if not head:
        raise UnacceptableContent("A document cannot be empty", reason="empty")
    begins = _BEGINNINGS.get(media_type)
    if begins is None:
        raise UnacceptableContent("A document here is PDF, XML, JSON, PNG or JPEG", reason="media-type")
    if not begins(head):
        raise UnacceptableContent("The content is not of the kind that it is said to be", reason="kind-mismatch")


def normal_language(text: str | None) -> str | None:
    """Return a language tag in the usual capitals (RFC 5646 section 2.1.1), None for nothing; raises UnacceptableContent."""
    if text is None or not text.strip():
        return None
    text = text.strip()
    if len(text) > 35 or not _LANGUAGE.match(text):
        raise UnacceptableContent("A language is written as a tag, such as en or te", reason="language")
    first, *rest = text.lower().split("-")
    return "-".join(
        [first, *(part.upper() if len(part) == 2 else part.title() if len(part) == 4 else part for part in rest)]
    )


def new_doc_type(issuer: str, doc_type: str, parameters: Sequence[str]) -> DocTypeRecord:
    """Return a document type that has only just appeared, searched by the parameters that its documents carry."""
    rows = tuple({"name": name, "label": name.replace("_", " ").capitalize(), "required": True} for name in parameters)
    return DocTypeRecord(issuer, doc_type, doc_type, rows)


def put_event(
    attempt: Mapping[str, Any], uri: DocumentURI, version: int, content: Content, status: int | None = None
) -> dict[str, Any]:
    """Return the access event of content that was stored, or was there already."""
    return {
        **attempt, "uri": str(uri), "issuer": uri.issuer, "doc_type": uri.doc_type, "outcome": "complete",
        "version": version, "media_type": content.media_type, "sha256": content.sha256, "status": status,
    }  # fmt: skip


def _text(head: bytes) -> bytes:
    """Return a text's beginning without byte-order mark, the zero bytes of UTF-16, and white space."""
    for mark in _BOMS:
        if head.startswith(mark):
            head = head[len(mark) :].replace(b"\x00", b"")
    return head.lstrip()


_BEGINNINGS: dict[str, Callable[[bytes], bool]] = {
    # PDF readers look for the mark anywhere in the first 1024 bytes (ISO 32000-1, annex H, implementation note 13).
    "application/pdf": lambda head: b"%PDF-" in head,
    "application/xml": lambda head: _text(head).startswith(b"<"),
    "text/xml": lambda head: _text(head).startswith(b"<"),
    "application/json": lambda head: _text(head).startswith((b"{", b"[")),
    "image/png": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda head: head.startswith(b"\xff\xd8\xff"),
}
