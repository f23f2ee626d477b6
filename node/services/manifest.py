"""Reading a manifest: a table of documents as spreadsheets and scripts write them.

Columns may come in any order, in capitals and with spaces. ``file``, ``issuer``, ``doc_type`` and ``doc_id`` must be there; a column
that is not known is named once and passed over. A row that cannot be used is reported with its line number and the rest goes
on. What makes the whole file unreadable (its encoding, a missing column) is found before the first row is handed out.
"""

import codecs
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from node.services.errors import ManifestRefused

MANDATORY = ("file", "issuer", "doc_type", "doc_id")
OPTIONAL = ("holder_scheme", "holder_value", "issued_on", "expires_on", "language", "title", "office")
PARAMETER = "param."

MAX_LINE = 1_000_000
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*\Z', re.IGNORECASE)
_PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_BY_SQUEEZED_NAME = {name.replace("_", ""): name for name in (*MANDATORY, *OPTIONAL)}
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One document as a manifest or a folder names it, unchecked; ``refusal`` says why a row cannot be read at all.

    ``place`` is what a person looks for: the line of the manifest, or the file.
    """

    place: str
    cells: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each column of a manifest is; ``unknown`` ones are passed over."""

    delimiter: str
    width: int
    known: Mapping[str, int]
    parameters: Mapping[str, int]
    unknown: tuple[str, ...]
    header_lines: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose encoding and columns are known to be good; iterating reads it from the start, row by row."""

    path: Path
    encoding: str
    columns: Columns
    lines: int

    def __iter__(self) -> Iterator[Entry]:
        """Yield the rows in order; blank lines are passed over."""
        with self.path.open(encoding=self.encoding, newline="") as file:
            lines = _lines(file)
            for _ in range(self.columns.header_lines):
                next(lines)
            yield from _rows(lines, self.columns)


def open_manifest(path: Path, encoding: str | None = None) -> Manifest:
    """Look through a whole manifest once; raises ManifestRefused when no row of it can be trusted.

    A byte-order mark decides the encoding, then ``encoding``, then UTF-8.
    """
    try:
        chosen = _encoding(path, encoding)
        lines = _require_decodable(path, chosen)
        with path.open(encoding=chosen, newline="") as file:
            columns = _read_header(_lines(file))
    except OSError as error:
        raise ManifestRefused(f"{path.name}: {error.strerror}") from error
    return Manifest(path, chosen, columns, max(0, lines - columns.header_lines))


def _encoding(path: Path, given: str | None) -> str:
    with path.open("rb") as file:
        beginning = file.read(4)
    for mark, name in _BOMS:
        if beginning.startswith(mark):
            return name
    try:
        return codecs.lookup(given or "utf-8").name
    except LookupError as error:
        raise ManifestRefused(f"there is no encoding called {given}; try windows-1252 or utf-8") from error


def _require_decodable(path: Path, encoding: str) -> int:
    """Decode the whole file once, line by line, and return how many lines it has."""
    count = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            for line in _lines(file):
                count += 1
                if "\x00" in line:
                    raise ManifestRefused(f"line {count} holds NUL characters; save the table as “CSV UTF-8”")
    except UnicodeDecodeError as error:
        line_number = count + bytes(error.object[: error.start]).count(b"\n") + 1
        # The decoding error carries the bytes, holders' values among them, so it is not kept as the cause.
        raise ManifestRefused(
            f"near line {line_number}: this is not {error.encoding}. Save the table as “CSV UTF-8”, or name its encoding, "
            "for example --encoding windows-1252"
        ) from None
    return count


def _lines(file: TextIO) -> Iterator[str]:
    """Yield lines, each of a bounded length, so that a file without line ends is not read into memory."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise ManifestRefused(f"a line is longer than {MAX_LINE} characters; is this a CSV file?")
        yield line


def _read_header(lines: Iterator[str]) -> Columns:
    first = next(lines, "")
    told = _SEPARATOR_LINE.match(first)
    header = next(lines, "") if told else first
    header_lines = 2 if told else 1
    if told:
        return _columns(header, told[1], header_lines)
    candidates = [_columns(header, delimiter, header_lines, check=False) for delimiter in _DELIMITERS]
    best = max(candidates, key=lambda columns: len(columns.known) + len(columns.parameters))
    return _columns(header, best.delimiter, header_lines)


def _columns(header: str, delimiter: str, header_lines: int, *, check: bool = True) -> Columns:
    names = next(csv.reader([header], delimiter=delimiter), [])
    while names and not names[-1].strip():
        names.pop()
    known: dict[str, int] = {}
    parameters: dict[str, int] = {}
    unknown: list[str] = []
    for place, name in enumerate(names):
        _sort_in(name, place, known, parameters, unknown, check=check)
    if check:
        missing = [name for name in MANDATORY if name not in known]
        if missing:
            raise ManifestRefused(f"the first line names no column {', '.join(missing)}; nothing was read")
    return Columns(
        delimiter, len(names), MappingProxyType(known), MappingProxyType(parameters), tuple(unknown), header_lines
    )


def _sort_in(
    name: str, place: int, known: dict[str, int], parameters: dict[str, int], unknown: list[str], *, check: bool
) -> None:
    folded = name.strip().casefold()
    if folded.startswith(PARAMETER):
        target, key = parameters, re.sub(r"[\s-]+", "_", folded.removeprefix(PARAMETER).strip())
        if check and not _PARAMETER_NAME.match(key):
            raise ManifestRefused(
                f"column {place + 1}: a parameter's name has letters, digits and _ and begins with a letter"
            )
    else:
        found = _BY_SQUEEZED_NAME.get(re.sub(r"[\s_-]+", "", folded))
        if found is None:
            unknown.append(name.strip() or f"column {place + 1}, which has no name")
            return
        target, key = known, found
    if check and key in target:
        raise ManifestRefused(f"column {place + 1}: there are two columns {name.strip()}")
    target[key] = place


def _rows(lines: Iterator[str], columns: Columns) -> Iterator[Entry]:
    reader = csv.reader(lines, delimiter=columns.delimiter, strict=True)
    while True:
        line = columns.header_lines + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error:
            yield _broken(line, columns.header_lines + reader.line_num)
            continue
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield _entry(f"line {line}", cells, columns)


def _broken(first: int, last: int) -> Entry:
    lost = f"; nothing was read from here to line {last}" if last > first else ""
    return Entry(f"line {first}", refusal=f"a quotation mark is in the wrong place or never closed{lost}")


def _entry(place: str, cells: Sequence[str], columns: Columns) -> Entry:
    if len(cells) < columns.width:
        return Entry(place, refusal=f"the row has {len(cells)} cells, the first line has {columns.width}")
    if any(cell.strip() for cell in cells[columns.width :]):
        return Entry(place, refusal=f"the row has more cells than the first line, which has {columns.width}")
    return Entry(
        place,
        {name: text for name, at in columns.known.items() if (text := cells[at].strip())},
        {name: text for name, at in columns.parameters.items() if (text := cells[at].strip())},
    )
