"""From what a manifest or a folder says to a document that can be stored: every rule about one row, in plain words."""

import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from node.contract.holders import Holder, InvalidHolder
from node.contract.problems import ProblemError
from node.contract.times import parse_date
from node.contract.uri import DocumentURI
from node.services.cataloguing import Metadata
from node.services.errors import RowRefused
from node.services.manifest import Entry
from node.services.storing import EXTENSIONS, normal_language

MAX_TITLE = 300
MAX_OFFICE = 128
MAX_PARAMETER = 256
MAX_PARAMETERS = 20

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
# What a spreadsheet makes of a long number: digits are lost, so it cannot be turned back.
_SCIENTIFIC = re.compile(r"[0-9](?:[.,][0-9]+E[+-]?|E\+)[0-9]+\Z", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that may be stored, once its file has been read; the holder's ``repr`` hides the value."""

    place: str
    path: Path
    uri: DocumentURI
    media_type: str
    language: str | None
    metadata: Metadata
    holder: Holder | None


def read_candidate(entry: Entry, root: Path, *, map_ids: bool) -> Candidate:
    """Check one entry as far as that goes without its file's bytes and without the catalogue; raises RowRefused.

    Files lie beneath ``root``, which is a resolved path.
    """
    if entry.refusal:
        raise RowRefused(entry.refusal)
    missing = [name for name in ("file", "issuer", "doc_type", "doc_id") if not entry.cells.get(name)]
    if missing:
        raise RowRefused("; ".join(f"there is no {name.replace('_', ' ')}" for name in missing))
    # All faults of a row are told at once: whoever mends the table would otherwise meet them one run after the other.
    faults: list[str] = []
    named = _noting(faults, lambda: _named(entry.cells, map_ids))
    file = _noting(faults, lambda: _file(root, entry.cells["file"]))
    metadata = _noting(faults, lambda: _metadata(entry))
    holder = _noting(faults, lambda: _holder(entry.cells))
    if faults or named is None or file is None or metadata is None:
        raise RowRefused("; ".join(faults))
    (uri, language), (path, media_type) = named, file
    return Candidate(entry.place, path, uri, media_type, language, metadata, holder)


def _noting(faults: list[str], read: Callable[[], _Read]) -> _Read | None:
    """Return what is read, or note why it is refused."""
    try:
        return read()
    except RowRefused as refusal:
        faults.append(str(refusal))
        return None


def _named(cells: Mapping[str, str], map_ids: bool) -> tuple[DocumentURI, str | None]:
    try:
        uri = DocumentURI.build(cells["issuer"], cells["doc_type"], _doc_id(cells["doc_id"], map_ids))
        return uri, normal_language(cells.get("language"))
    except ProblemError as error:
        raise RowRefused(_lower_first(str(error))) from None


def _file(root: Path, name: str) -> tuple[Path, str]:
    path = find_file(root, name)
    media_type = EXTENSIONS.get(path.suffix.lower())
    if media_type is None:
        raise RowRefused(f"a document is one of {', '.join(sorted(EXTENSIONS))}")
    return path, media_type


def map_id(text: str) -> str:
    """Write an id with the letters that a document id may have: every other byte of its UTF-8 becomes ``~`` and two hex digits.

    The tilde itself is written ``~7E``, so what was written can always be read back (``unmap_id``).
    """
    return "".join(chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def unmap_id(mapped: str) -> str:
    """Return the id that ``map_id`` was given."""
    raw = re.sub(rb"~([0-9A-F]{2})", lambda found: bytes.fromhex(found[1].decode()), mapped.encode("ascii"))
    return raw.decode("utf-8", "surrogateescape")


def find_file(root: Path, name: str) -> Path:
    """Return a file's real path; raises RowRefused unless it is a plain file beneath ``root``, links followed."""
    try:
        path = (root / name).resolve(strict=True)
        kind = path.stat().st_mode
    except (OSError, ValueError, RuntimeError):
        raise RowRefused("there is no such file, or it cannot be read") from None
    if not path.is_relative_to(root):
        raise RowRefused("the file lies outside the folder, or is a link that leads out of it")
    if not stat.S_ISREG(kind):
        raise RowRefused("this is not a plain file")
    return path


def shown(text: str) -> str:
    """Return a text for a terminal or a log line: control characters, and what is no text at all, as escapes."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _doc_id(text: str, map_ids: bool) -> str:
    _require_not_scientific(text, "document id")
    if map_ids:
        mapped = map_id(text)
        if len(mapped) > 128:
            raise RowRefused(f"the mapped document id has {len(mapped)} characters; at most 128 are allowed")
        return mapped
    if set(text.encode("utf-8", "surrogateescape")) - _PLAIN - {0x7E}:
        raise RowRefused("a document id has letters, digits and . _ ~ - only; --map-id maps other characters")
    return text


def _require_not_scientific(text: str, what: str) -> None:
    if _SCIENTIFIC.match(text):
        raise RowRefused(f"the {what} was turned into a rounded number by a spreadsheet; format the column as text")


def _metadata(entry: Entry) -> Metadata:
    issued, expires = _date(entry.cells, "issued_on"), _date(entry.cells, "expires_on")
    if issued and expires and expires < issued:
        raise RowRefused("expires_on is before issued_on")
    if len(entry.parameters) > MAX_PARAMETERS:
        raise RowRefused(f"a document has at most {MAX_PARAMETERS} search parameters")
    for name, value in entry.parameters.items():
        _require_not_scientific(value, f"value of param.{name}")
    return Metadata(
        title=_line(entry.cells.get("title"), "title", MAX_TITLE),
        issued_on=issued,
        expires_on=expires,
        office=_line(entry.cells.get("office"), "office", MAX_OFFICE),
        parameters={
            name: text
            for name, value in entry.parameters.items()
            if (text := _line(value, f"value of param.{name}", MAX_PARAMETER))
        },
    )


def _line(text: str | None, what: str, most: int) -> str | None:
    """Return a text on one line: line breaks and runs of spaces become one space; raises RowRefused naming what is wrong."""
    if text is None:
        return None
    line = " ".join(text.split())
    if _CONTROL.search(line):
        raise RowRefused(f"the {what} holds control characters")
    if len(line) > most:
        raise RowRefused(f"the {what} has {len(line)} characters; at most {most} are allowed")
    return line or None


def _date(cells: Mapping[str, str], name: str) -> str | None:
    text = cells.get(name)
    if not text:
        return None
    try:
        return parse_date(text).isoformat()
    except ValueError:
        raise RowRefused(f"{name} is written YYYY-MM-DD") from None


def _holder(cells: Mapping[str, str]) -> Holder | None:
    scheme, value = cells.get("holder_scheme"), cells.get("holder_value")
    if not scheme and not value:
        return None
    if not scheme or not value:
        raise RowRefused("holder_scheme and holder_value are given together")
    _require_not_scientific(value, "holder value")
    try:
        return Holder.parse(scheme, value)
    except InvalidHolder as error:
        raise RowRefused(str(error)) from None


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
