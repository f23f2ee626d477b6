"""Looking for what must not be anywhere: a document's bytes and a person's identifiers, in every file, in every usual encoding.

Each file is read in the ways in which it could hold bytes: as it is, and with every run of hexadecimal and of base64 text decoded at
each of its alignments. So one search finds a raw copy, hex in either case, and base64 (either alphabet) at its three offsets.

For a document the search is for windows of 32 bytes, all of them: the document is cut into blocks of 16 bytes, and the file is looked at
in every place. Whatever holds 31 bytes of the document in a row, wherever they begin, holds one of the blocks whole. Sixteen random
bytes are nowhere by chance.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

BLOCK = 16
_HEX = re.compile(rb"[0-9A-Fa-f]{18,}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{12,}")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def readings(data: bytes) -> Iterator[bytes]:
    """Give the data as it is, then everything in it that can be read as hex or base64, decoded."""
    yield data
    for run in _HEX.findall(data):
        for start in (0, 1):
            part = run[start:]
            yield bytes.fromhex(part[: len(part) // 2 * 2].decode())
    for run in _BASE64.findall(data):
        text = run.translate(_TO_STANDARD)
        for start in range(4):
            part = text[start:]
            yield base64.b64decode(part + b"=" * (-len(part) % 4) if len(part) % 4 != 1 else part[:-1])


class DocumentSearch:
    """Looks for any part of a document."""

    def __init__(self, document: bytes) -> None:
        self._blocks = frozenset(document[at : at + BLOCK] for at in range(0, len(document) - BLOCK + 1, BLOCK))

    def is_in(self, data: bytes) -> bool:
        """Tell whether any 32 bytes of the document in a row are in the data, in one of its readings."""
        return any(self._is_plainly_in(reading) for reading in readings(data))

    def _is_plainly_in(self, data: bytes) -> bool:
        blocks = self._blocks
        return any(data[at : at + BLOCK] in blocks for at in range(len(data) - BLOCK + 1))


def forms_of(scheme: str, value: str) -> list[bytes]:
    """Return how a person's identifier might be written, and its hashes without a key, which give it away as well."""
    forms = [value]
    if scheme == "mobile":
        spaced = [f"{value[:5]} {value[5:]}", f"{value[:5]}-{value[5:]}", f"{value[:3]} {value[3:6]} {value[6:]}"]
        forms += [f"+91{value}", f"+91 {value}", f"0{value}", *spaced]
    elif scheme == "aadhaar":
        parts = [value[at : at + 4] for at in (0, 4, 8)]
        forms += [" ".join(parts), "-".join(parts)]
    elif scheme == "email":
        local = value.partition("@")[0]
        forms += [value.upper(), value.replace("@", "%40"), local]
    hashed = [hashlib.new(name, form.encode()).digest() for name in ("md5", "sha1", "sha256") for form in forms]
    return [*(form.encode() for form in forms), *hashed]


def found_forms(forms: Iterable[bytes], data: bytes) -> list[bytes]:
    """Return the forms that are in the data, in one of its readings."""
    wanted = list(forms)
    joined = b"\n".join(readings(data))
    return [form for form in wanted if form in joined]


def files_below(*places: Path) -> Iterator[tuple[str, bytes]]:
    """Read every file, also those that go while we look."""
    for place in places:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            try:
                if path.is_file():
                    yield str(path), path.read_bytes()
            except FileNotFoundError:
                continue


def open_files(processes: Iterable[psutil.Process]) -> Iterator[tuple[str, bytes]]:
    """Read the files that processes hold open though they have no name any more, as temporary files often have not."""
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = str(link.readlink())
                if target.endswith(" (deleted)") or target.startswith("/memfd:"):
                    yield f"{process.pid}: {target}", link.read_bytes()
            except OSError:
                continue
